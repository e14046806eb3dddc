//! A model of tidegate with the configuration that the importer wrote: whether it forwards a request.
//!
//! The model reads the settings that `config` builds from the text, not the importer's own data. It decides as `service` does: site,
//! route, client networks, credentials, and in front of a registry the operation and the grants.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::access::Principal;
use crate::config::{Auth, Config, Route, Site};
use crate::net::addr::PeerAddr;
use crate::net::listener::ListenAddr;
use crate::net::network_policy::Decision;
use crate::registry::{Operation, Parsed, is_registry_path};
use crate::tls::ClientAuthMode;

use crate::import::nginx::request::Request;

/// A request that tidegate forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The index of the site.
    pub site: usize,
    /// The pattern of `site.hosts` that matches.
    pub host: String,
    /// The path of the route.
    pub route: String,
    /// The URLs of the upstream, without a path.
    pub urls: Vec<String>,
    /// The path that the upstream receives.
    pub path: String,
    /// Whether the upstream receives the client's `Authorization`.
    pub sends_authorization: bool,
}

/// The site of a host.
#[derive(Clone, Copy)]
pub(crate) struct SiteMatch<'c> {
    /// The index of the site.
    pub(crate) index: usize,
    pub(crate) site: &'c Site,
    /// The pattern of `site.hosts` that matches the host.
    pub(crate) pattern: &'c str,
}

impl<'c> SiteMatch<'c> {
    /// The routes and responses of the site by their paths.
    pub(crate) fn routes(&self) -> Routes<'c> {
        let responses = self.site.responses.iter();
        let responses = responses.map(|response| (response.path.as_str(), None));
        let routes = self.site.routes.iter();
        let routes = routes.map(|route| (route.path.as_str(), Some(route)));
        let by_path = routes.chain(responses);
        Routes {
            by_path: by_path
                .map(|(path, route)| (path.trim_end_matches('/'), route))
                .collect(),
        }
    }

    /// Whether the site requires a client certificate.
    pub(crate) fn requires_certificate(&self) -> bool {
        let client_auth = self.site.client_auth.as_ref();
        client_auth.is_some_and(|client_auth| client_auth.mode == ClientAuthMode::Required)
    }

    /// Whether tidegate forwards a request that has this route.
    pub(crate) fn is_forwarded(&self, route: &Route, request: &Request) -> bool {
        (request.has_certificate || !self.requires_certificate()) && is_authorized(route, request)
    }

    /// What tidegate forwards if it forwards a request that has this route.
    pub(crate) fn forwarded(&self, route: &Route, request: &Request) -> Forwarded {
        let endpoints = route.upstream.settings.endpoints.iter();
        let path = match &route.upstream.path {
            Some(path) => {
                let rest = request.path.strip_prefix(route.path.trim_end_matches('/'));
                let mapped = format!("{}{}", path.trim_end_matches('/'), rest.unwrap_or_default());
                if mapped.is_empty() {
                    "/".to_owned()
                } else {
                    mapped
                }
            }
            None => request.path.clone(),
        };
        Forwarded {
            site: self.index,
            host: self.pattern.to_owned(),
            route: route.path.clone(),
            urls: endpoints.map(ToString::to_string).collect(),
            path,
            sends_authorization: matches!(route.auth, Auth::LeftToUpstream),
        }
    }
}

/// The routes of a site by their paths without a slash at the end; `None` for a path to which tidegate responds itself.
pub(crate) struct Routes<'c> {
    by_path: HashMap<&'c str, Option<&'c Route>>,
}

impl<'c> Routes<'c> {
    /// The route of a path: the longest prefix, unless tidegate responds itself.
    pub(crate) fn find(&self, path: &str) -> Option<&'c Route> {
        let mut prefix = path.trim_end_matches('/');
        loop {
            if let Some(route) = self.by_path.get(prefix) {
                return *route;
            }
            prefix = prefix.rsplit_once('/')?.0;
        }
    }
}

/// The sites of a configuration by their addresses and hosts.
pub(crate) struct Sites<'c> {
    config: &'c Config,
    by_host: HashMap<(&'c ListenAddr, &'c str), SiteMatch<'c>>,
}

impl<'c> Sites<'c> {
    /// Creates the index of a configuration.
    pub(crate) fn new(config: &'c Config) -> Self {
        let listen = &config.listen;
        let mut by_host = HashMap::new();
        for address in listen.https.iter().chain(&listen.behind_proxy) {
            let sites = config.sites.iter().enumerate();
            for (index, site) in sites.filter(|(_, site)| site.is_on(address)) {
                for pattern in &site.hosts {
                    let found = SiteMatch {
                        index,
                        site,
                        pattern,
                    };
                    by_host.entry((address, pattern.as_str())).or_insert(found);
                }
            }
        }
        Self { config, by_host }
    }

    /// Returns what tidegate forwards of a request that arrives at an address; `None` if it responds itself.
    pub(crate) fn forward(&self, address: SocketAddr, request: &Request) -> Option<Forwarded> {
        let site = self.find(address, &request.host)?;
        let route = site.routes().find(&request.path)?;
        let is_forwarded = site.is_forwarded(route, request);
        is_forwarded.then(|| site.forwarded(route, request))
    }

    /// The site whose pattern matches a host at a local address: an exact name, `*.x` for one label, or `*`.
    pub(crate) fn find(&self, address: SocketAddr, host: &str) -> Option<SiteMatch<'c>> {
        let listener = self.listener(address)?;
        let find = |pattern: &str| self.by_host.get(&(listener, pattern)).copied();
        let parent = host.split_once('.').map(|(_, parent)| parent);
        find(host)
            .or_else(|| find(&format!("*.{}", parent?)))
            .or_else(|| find("*"))
    }

    /// The address of `[listen]` at which connections to a local address arrive.
    fn listener(&self, address: SocketAddr) -> Option<&'c ListenAddr> {
        let listen = &self.config.listen;
        let find = |ip: IpAddr| {
            let wanted = ListenAddr::Address(SocketAddr::new(ip, address.port()));
            let mut all = listen.https.iter().chain(&listen.behind_proxy);
            all.find(|known| **known == wanted)
        };
        let any_v4 = IpAddr::from([0_u8; 4]);
        let any_v6 = IpAddr::from([0_u16; 8]);
        let own = find(address.ip());
        let own = own.or_else(|| find(any_v4).filter(|_| address.is_ipv4()));
        own.or_else(|| find(any_v6))
    }
}

/// Whether tidegate forwards a request of an authorized client.
pub(crate) fn is_parsed(route: &Route, request: &Request) -> bool {
    is_forwardable(route, request).is_some()
}

/// What the networks of a route say about a client: `None` if it is denied, else whether it needs no credentials.
pub(crate) fn network(route: &Route, client: IpAddr) -> Option<bool> {
    let client = PeerAddr::new(SocketAddr::new(client, 0)).client();
    match route.network_policy.evaluate(client) {
        Decision::Denied => None,
        Decision::NeedsCredentials => Some(false),
        Decision::Sufficient => Some(true),
    }
}

fn is_authorized(route: &Route, request: &Request) -> bool {
    let Some(network) = network(route, request.client) else {
        return false;
    };
    let user = match &route.auth {
        Auth::LeftToUpstream | Auth::Open => return is_forwardable(route, request).is_some(),
        Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. } => {
            let file = htpasswd.value.to_str();
            (file.is_some() && file == request.valid_in.as_deref()).then_some("user")
        }
    };
    let principal = Principal { user, network };
    match (&route.grants, is_forwardable(route, request)) {
        (_, None) => false,
        (None, Some(_)) => principal.is_known(),
        (Some(_), Some(Forwardable::OtherPath)) => false,
        (Some(granted), Some(Forwardable::Operation(operation))) => {
            granted
                .grants
                .allows(principal, operation.action(), operation.repository())
        }
    }
}

/// A request that tidegate forwards if the client is authorized.
enum Forwardable {
    Operation(Operation),
    /// A path outside of the registry API.
    OtherPath,
}

/// Parses a request in front of a registry; `None` if tidegate rejects or redirects it.
fn is_forwardable(route: &Route, request: &Request) -> Option<Forwardable> {
    if !(route.is_registry && is_registry_path(&request.path)) {
        return Some(Forwardable::OtherPath);
    }
    match Operation::parse(&request.method, &request.path, None) {
        Ok(Parsed::Operation(operation)) => Some(Forwardable::Operation(operation)),
        Ok(Parsed::Redirect { .. } | Parsed::Missing { .. }) | Err(_) => None,
    }
}
