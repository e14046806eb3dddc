//! Sites and routes: which site serves a host, and which route of the site matches a path.
//!
//! `snapshot` builds them, and `service` looks up each request. A host is looked up in a map, a path in a short list
//! of prefixes.

use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;

use crate::access::Access;
use crate::auth::Authenticator;
use crate::forward::{Forward, Origin};
use crate::metrics::SiteCounts;
use crate::net::by_listener::ByListener;
use crate::net::host_map::HostMap;
use crate::net::listener::ListenAddr;
use crate::registry::is_name;
use crate::template::Template;
use crate::tls::ClientCa;

mod cors;

pub use cors::{Cors, CorsResponse};

/// All sites of a configuration.
#[derive(Debug, Default)]
pub struct Sites {
    tables: ByListener<HostMap<Arc<Site>>>,
    /// Whether some site asks for client certificates.
    any_client_ca: bool,
}

/// A set of host names with its routes.
#[derive(Debug)]
pub struct Site {
    /// The first host, for logs and metrics; with an address if another site has the same first host.
    pub name: String,
    /// The hosts in lower case; `*.x` matches exactly one label before `x`, and `*` matches every other host.
    pub hosts: Vec<String>,
    /// The addresses on which the site is served; `None` for all.
    pub listen: Option<Vec<ListenAddr>>,
    /// The port to which plain HTTP requests are redirected.
    pub https_port: u16,
    /// The authorities whose client certificates the site requires or accepts; `None` does not ask for client
    /// certificates.
    pub client_ca: Option<ClientCa>,
    /// The origin in every URL that clients receive, in place of the one that they addressed.
    pub external_url: Option<Origin>,
    /// The counters of the site.
    pub counts: Arc<SiteCounts>,
    /// The routes that lead to an upstream, in any order. The longest matching path of routes and responses wins.
    pub routes: Vec<Route>,
    /// The routes that lead to a response of the proxy.
    pub responses: Vec<StaticResponse>,
}

/// A path prefix with a response of the proxy that is the same for every client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticResponse {
    /// The prefix, which ends on a segment boundary.
    pub path: String,
    /// The status of the response.
    pub status: StatusCode,
    /// What the response has besides its status.
    pub content: StaticContent,
}

/// What a response of the proxy has besides its status. Placeholders are filled in from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaticContent {
    /// The usual body of an error, or no body.
    Usual,
    /// The destination of a redirect. The configuration makes sure that no part of the request path can become its host.
    Location(Template),
    /// A body of plain text.
    Text(Template),
    /// The file of an ACME client below this directory, over plain HTTP only.
    Webroot(PathBuf),
}

/// The result of matching a path against the routes of a site.
#[derive(Clone, Copy, Debug)]
pub enum RouteMatch<'a> {
    /// The path leads to an upstream.
    Route(&'a Route),
    /// The path leads to a response of the proxy.
    Response(&'a StaticResponse),
}

/// A path prefix that leads to an upstream.
#[derive(Debug)]
pub struct Route {
    /// The prefix, which ends on a segment boundary.
    pub path: String,
    /// Whether `/v2/` under the prefix is a registry API.
    pub is_registry: bool,
    /// Whether clients may open WebSockets.
    pub allows_websocket: bool,
    /// Authenticates the client.
    pub authenticator: Authenticator,
    /// Decides what the client may do.
    pub access: Access,
    /// Forwards to the upstream.
    pub forward: Forward,
    /// The origins whose pages may use the route from within a browser.
    pub cors: Cors,
    /// The maximum size of a request body in bytes; `None` is unlimited.
    pub max_body: Option<u64>,
}

impl Sites {
    /// Creates the lookup tables. If two sites of one address name the same host, the first one serves it.
    pub fn new(sites: impl IntoIterator<Item = Site>) -> Self {
        let sites: Vec<_> = sites.into_iter().map(Arc::new).collect();
        let named = sites.iter().filter_map(|site| site.listen.as_ref());
        let mut tables = ByListener::<HostMap<_>>::new(named.flatten());
        for site in &sites {
            let served_on = tables.served_on(site.listen.as_deref());
            served_on.for_each(|table| table.add(&site.hosts, site));
        }
        Self {
            tables,
            any_client_ca: sites.iter().any(|site| site.client_ca.is_some()),
        }
    }

    /// The sites that are served on this address.
    pub fn on(&self, listener: &ListenAddr) -> &HostMap<Arc<Site>> {
        self.tables.get(listener)
    }

    /// A site that serves a host on some address, for a check of the configuration. A request is looked up with [`Self::on`].
    pub fn find(&self, host: &str) -> Option<&Site> {
        let mut tables = self.tables.values();
        tables.find_map(|table| table.find(host)).map(Arc::as_ref)
    }

    /// Whether some site asks for client certificates.
    pub fn any_client_ca(&self) -> bool {
        self.any_client_ca
    }

    /// Every site. A site with several hosts or addresses appears several times.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.tables.values().flat_map(HostMap::values)
    }

    /// Closes the connections to upstreams that have been idle for too long.
    pub fn close_idle(&self) {
        let now = tokio::time::Instant::now();
        for route in self.routes() {
            route.forward.upstream().close_idle(now);
        }
    }

    /// Every route of every site. The routes of a site with several hosts or addresses appear several times.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.all().flat_map(|site| &site.routes)
    }
}

impl Site {
    /// The route or response with the longest prefix of a canonical path.
    pub fn match_route(&self, path: &str) -> Option<RouteMatch<'_>> {
        let routes = self.routes.iter().map(RouteMatch::Route);
        let all = routes.chain(self.responses.iter().map(RouteMatch::Response));
        let matching = all.filter(|candidate| is_path_prefix(path, candidate.path()));
        matching.max_by_key(|candidate| candidate.path().trim_end_matches('/').len())
    }

    /// The route that matches a path, if the path leads to an upstream.
    pub fn route(&self, path: &str) -> Option<&Route> {
        match self.match_route(path)? {
            RouteMatch::Route(route) => Some(route),
            RouteMatch::Response(_) => None,
        }
    }

    /// Whether requests for this repository match this route.
    pub fn can_contain_repository(&self, route: &Route, repository: &str) -> bool {
        self.is_matched_by(route, &format!("/v2/{repository}/"))
    }

    /// Whether requests for this blob match this route. A route with a longer path may match the blobs of a
    /// repository alone.
    pub fn can_contain_blob(&self, route: &Route, repository: &str, digest: &str) -> bool {
        self.is_matched_by(route, &format!("/v2/{repository}/blobs/{digest}"))
    }

    fn is_matched_by(&self, route: &Route, path: &str) -> bool {
        self.route(path)
            .is_some_and(|found| std::ptr::eq(found, route))
    }

    /// Whether the catalog of this route may name this repository: the repositories of the route itself, and every
    /// repository if the route can have none of its own, as `/v2/_catalog`. Such a route exists to serve the catalog.
    pub fn may_list(&self, route: &Route, repository: &str) -> bool {
        RouteScope::of(&route.path).is_none() || self.can_contain_repository(route, repository)
    }

    /// Whether the catalog of this route may name every repository of the registry: all repositories can be under the
    /// path of the route, and no other route can have one.
    pub fn may_list_all(&self, route: &Route) -> bool {
        match RouteScope::of(&route.path) {
            None => true,
            Some(RouteScope::Some) => false,
            Some(RouteScope::All) => {
                let routes = self.routes.iter().map(RouteMatch::Route);
                let mut others = routes.chain(self.responses.iter().map(RouteMatch::Response));
                // A shorter path that covers all repositories gets none, since the longest path wins.
                others.all(|other| match RouteScope::of(other.path()) {
                    None => true,
                    Some(RouteScope::All) => is_path_prefix(&route.path, other.path()),
                    Some(RouteScope::Some) => false,
                })
            }
        }
    }

    /// Whether the host is one of the names that the site lists.
    pub fn is_named(&self, host: &str) -> bool {
        self.hosts
            .iter()
            .any(|pattern| match pattern.strip_prefix("*.") {
                Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
                // `*` matches every other name, so it does not list a name.
                None => pattern == host && pattern != "*",
            })
    }
}

/// Which repositories can be under a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RouteScope {
    All,
    Some,
}

impl RouteScope {
    /// Returns `None` for a path under which there can be no repository.
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

/// Whether `prefix` is a prefix of `path` that ends on a segment boundary: `/v2/` is one of `/v2` and of `/v2/a`, but
/// not of `/v20`.
pub(crate) fn is_path_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix.trim_end_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_on_a_segment_boundary() {
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
            listen: None,
            https_port: 443,
            client_ca: None,
            external_url: None,
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
            content: StaticContent::Usual,
        };
        let mut site = site(&["a"]);
        site.responses = vec![
            response("/api/", 404),
            response("/", 410),
            response("/api/internal", 403),
        ];
        let status = |path| match site.match_route(path) {
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
