//! Sites and routes: which host is meant, and where a path of it leads.
//!
//! Built by `snapshot`, asked by `service`. A host is looked up in a map, a path among a few prefixes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::access::Access;
use crate::auth::Authenticator;
use crate::forward::{Forward, Origin};
use crate::tls::trust::Trust;

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
    pub trust: Option<Trust>,
    /// What clients are to be told instead of what they addressed.
    pub external: Option<Origin>,
    /// In any order; the longest matching path wins.
    pub routes: Vec<Route>,
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

    /// The site whose certificate a client of this name is shown, as [`crate::tls::Tls::choose`] has it.
    pub fn greeting(&self, sni: Option<&str>) -> Option<&Site> {
        let asked = sni.and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            self.find(&name.to_ascii_lowercase())
        });
        asked.or(self.first.as_deref())
    }

    /// True where sites differ in whose client certificates they take.
    pub fn are_divided(&self) -> bool {
        self.divided
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
        let sites = self
            .exact
            .values()
            .chain(self.wildcard.values())
            .chain(&self.any);
        sites.flat_map(|site| &site.routes)
    }
}

impl Site {
    /// The route with the longest prefix of a canonical path.
    pub fn route(&self, path: &str) -> Option<&Route> {
        let matching = self
            .routes
            .iter()
            .filter(|route| is_below(path, &route.path));
        matching.max_by_key(|route| route.path.trim_end_matches('/').len())
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

/// `/v2/` holds `/v2` and all below it, but not `/v20`.
fn is_below(path: &str, prefix: &str) -> bool {
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
            assert_eq!(is_below(path, prefix), below, "{path} below {prefix}");
        }
    }

    fn site(hosts: &[&str]) -> Site {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        Site {
            name: hosts[0].clone(),
            hosts,
            trust: None,
            external: None,
            routes: Vec::new(),
        }
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
