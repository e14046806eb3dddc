//! Sites and routes: which host is meant, and where a path of it leads.
//!
//! Built by `snapshot`, asked by `service`. A host is looked up in a map, a path among a few prefixes.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;

use crate::access::Access;
use crate::auth::Authenticator;
use crate::forward::{Forward, Origin};
use crate::metrics::SiteCounts;
use crate::registry::is_name;
use crate::tls::ClientCa;

mod cors;

pub use cors::{Cors, CorsResponse};

/// All sites of a config.
#[derive(Debug, Default)]
pub struct Sites {
    exact: HashMap<String, Arc<Site>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Arc<Site>>,
    any: Option<Arc<Site>>,
    /// Whose certificate is shown to clients that ask for no name, or for one that no site has.
    first: Option<Arc<Site>>,
    /// Some site asks for client certificates.
    divided: bool,
}

/// A set of host names with its routes.
#[derive(Debug)]
pub struct Site {
    /// Its first host, for the log.
    pub name: String,
    /// Lower-case names, `*.x` for exactly one label, `*` for every other name.
    pub hosts: Vec<String>,
    /// Whose certificates clients must show; `None` asks for none.
    pub trust: Option<ClientCa>,
    /// What clients are to be told instead of what they addressed.
    pub external: Option<Origin>,
    /// What is counted of it.
    pub counts: Arc<SiteCounts>,
    /// In any order; the longest matching path wins.
    pub routes: Vec<Route>,
    /// Paths that lead nowhere, among which the longest wins as well.
    pub responses: Vec<StaticResponse>,
}

/// A path prefix that the gate answers itself, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticResponse {
    /// The prefix, on a segment boundary.
    pub path: String,
    /// What it says.
    pub status: StatusCode,
}

/// What a path comes to.
#[derive(Clone, Copy, Debug)]
pub enum RouteMatch<'a> {
    /// To an upstream.
    Route(&'a Route),
    /// To an answer of the gate's own.
    Response(&'a StaticResponse),
}

/// A path prefix and what happens below it.
#[derive(Debug)]
pub struct Route {
    /// The prefix, on a segment boundary.
    pub path: String,
    /// Whether `/v2/` below it is a registry's.
    pub registry: bool,
    /// Who asks.
    pub authenticator: Authenticator,
    /// What they may do.
    pub access: Access,
    /// Where it leads.
    pub forward: Forward,
    /// Pages of which origins may use it from within a browser.
    pub cors: Cors,
    /// Largest request body in bytes; `None` is no limit.
    pub max_body: Option<u64>,
}

impl Sites {
    /// Makes the lookup tables; of two sites that name the same host, the earlier one has it.
    pub fn new(sites: impl IntoIterator<Item = Site>) -> Self {
        let mut all = Self::default();
        for site in sites {
            let site = Arc::new(site);
            all.divided |= site.trust.is_some();
            all.first.get_or_insert_with(|| Arc::clone(&site));
            for host in &site.hosts {
                let site = Arc::clone(&site);
                if host == "*" {
                    all.any.get_or_insert(site);
                } else if let Some(parent) = host.strip_prefix("*.") {
                    all.wildcard.entry(parent.to_owned()).or_insert(site);
                } else {
                    all.exact.entry(host.clone()).or_insert(site);
                }
            }
        }
        all
    }

    /// The site of a host: lower case, no port.
    pub fn find(&self, host: &str) -> Option<&Site> {
        let below = || {
            host.split_once('.')
                .and_then(|(_, parent)| self.wildcard.get(parent))
        };
        self.exact
            .get(host)
            .or_else(below)
            .or(self.any.as_ref())
            .map(Arc::as_ref)
    }

    /// The site whose certificate a client of this name is shown, as [`crate::tls::TlsConfigs::choose`] has it.
    pub fn site_for_sni(&self, sni: Option<&str>) -> Option<&Site> {
        let asked = sni.and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            self.find(&name.to_ascii_lowercase())
        });
        asked.or(self.first.as_deref())
    }

    /// True where sites differ in whose client certificates they take.
    pub fn requires_trust_check(&self) -> bool {
        self.divided
    }

    /// Every site, once or more.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Site>> {
        let sites = self.exact.values().chain(self.wildcard.values());
        sites.chain(&self.any)
    }

    /// Closes connections to upstreams that have been idle for long.
    pub fn close_idle(&self) {
        let now = tokio::time::Instant::now();
        for route in self.routes() {
            route.forward.upstream().close_idle(now);
        }
    }

    /// Every route of every site, for the next snapshot.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.all().flat_map(|site| &site.routes)
    }
}

impl Site {
    /// What has the longest prefix of a canonical path.
    pub fn lead(&self, path: &str) -> Option<RouteMatch<'_>> {
        let routes = self.routes.iter().map(RouteMatch::Route);
        let leads = routes.chain(self.responses.iter().map(RouteMatch::Response));
        let matching = leads.filter(|lead| is_path_prefix(path, lead.path()));
        matching.max_by_key(|lead| lead.path().trim_end_matches('/').len())
    }

    /// The route of a path, if it leads to an upstream.
    pub fn route(&self, path: &str) -> Option<&Route> {
        match self.lead(path)? {
            RouteMatch::Route(route) => Some(route),
            RouteMatch::Response(_) => None,
        }
    }

    /// Whether requests for this repository take this route.
    pub fn can_contain_repository(&self, route: &Route, repository: &str) -> bool {
        self.matches(route, &format!("/v2/{repository}/"))
    }

    /// Whether this blob is read by way of this route: a longer one may take the blobs of a repository alone.
    pub fn can_contain_blob(&self, route: &Route, repository: &str, digest: &str) -> bool {
        self.matches(route, &format!("/v2/{repository}/blobs/{digest}"))
    }

    fn matches(&self, route: &Route, path: &str) -> bool {
        self.route(path)
            .is_some_and(|found| std::ptr::eq(found, route))
    }

    /// Whether this route's list may name this repository: its own, and any where it can hold none itself, as at
    /// `/v2/_catalog`. Such a route is there to give the list.
    pub fn may_list(&self, route: &Route, repository: &str) -> bool {
        RouteScope::of(&route.path).is_none() || self.can_contain_repository(route, repository)
    }

    /// Whether this route's list may name all that the registry has: every repository can lie below it, and no other
    /// route can hold one.
    pub fn lists_all(&self, route: &Route) -> bool {
        match RouteScope::of(&route.path) {
            None => true,
            Some(RouteScope::Some) => false,
            Some(RouteScope::All) => {
                let routes = self.routes.iter().map(RouteMatch::Route);
                let mut others = routes.chain(self.responses.iter().map(RouteMatch::Response));
                // What holds all of them leaves nothing to a shorter path.
                others.all(|other| match RouteScope::of(other.path()) {
                    None => true,
                    Some(RouteScope::All) => is_path_prefix(&route.path, other.path()),
                    Some(RouteScope::Some) => false,
                })
            }
        }
    }

    /// True for one of the site's names.
    pub fn is_named(&self, host: &str) -> bool {
        self.hosts
            .iter()
            .any(|pattern| match pattern.strip_prefix("*.") {
                Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
                // `*` is "any other name": it says nothing about which names are ours.
                None => pattern == host && pattern != "*",
            })
    }
}

/// Which repositories can lie below a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RouteScope {
    All,
    Some,
}

impl RouteScope {
    /// Nothing for a path below which there can be none.
    fn of(path: &str) -> Option<Self> {
        match path.trim_end_matches('/') {
            "" | "/v2" => Some(Self::All),
            path => {
                let name = path.strip_prefix("/v2/")?;
                is_name(name).then_some(Self::Some)
            }
        }
    }
}

impl RouteMatch<'_> {
    fn path(&self) -> &str {
        match self {
            Self::Route(route) => &route.path,
            Self::Response(response) => &response.path,
        }
    }
}

/// `/v2/` holds `/v2` and all below it, but not `/v20`.
fn is_path_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_on_a_segment() {
        for (path, prefix, below) in [
            ("/v2/", "/v2/", true),
            ("/v2", "/v2/", true),
            ("/v2/a/b", "/v2/", true),
            ("/v2/a/b", "/v2", true),
            ("/v20/", "/v2/", false),
            ("/v2../", "/v2/", false),
            ("/anything", "/", true),
            ("/V2/", "/v2/", false),
        ] {
            assert_eq!(is_path_prefix(path, prefix), below, "{path} below {prefix}");
        }
    }

    fn site(hosts: &[&str]) -> Site {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        Site {
            name: hosts[0].clone(),
            hosts,
            trust: None,
            external: None,
            counts: Arc::new(SiteCounts::new("a")),
            routes: Vec::new(),
            responses: Vec::new(),
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let response = |path: &str, status| StaticResponse {
            path: path.to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
        };
        let mut site = site(&["a"]);
        site.responses = vec![
            response("/api/", 404),
            response("/", 410),
            response("/api/internal", 403),
        ];
        let status = |path| match site.lead(path) {
            Some(RouteMatch::Response(response)) => response.status.as_u16(),
            other => panic!("{other:?}"),
        };
        for (path, expected) in [
            ("/", 410),
            ("/api", 404),
            ("/api/x", 404),
            ("/api/internal", 403),
            ("/api/internal/x", 403),
            ("/api/internals", 404),
            ("/apis", 410),
        ] {
            assert_eq!(status(path), expected, "{path}");
        }
        assert!(site.route("/api/x").is_none());
    }

    #[test]
    fn hosts_are_found_exactly_then_by_wildcard_then_any() {
        let sites = Sites::new([
            site(&["a.example", "*.example"]),
            site(&["b.example"]),
            site(&["*"]),
        ]);
        let name = |host| sites.find(host).map(|site| site.name.as_str());
        assert_eq!(name("a.example"), Some("a.example"));
        assert_eq!(name("b.example"), Some("b.example"));
        assert_eq!(name("c.example"), Some("a.example"));
        assert_eq!(name("x.c.example"), Some("*"));
        assert_eq!(
            Sites::new([site(&["a"])])
                .find("b")
                .map(|s| s.name.as_str()),
            None
        );
    }
}
