//! A model of tidegate with the configuration that the importer wrote: whether it forwards a request.
//!
//! The model reads the settings that `config` builds from the text, not the importer's own data. It decides as `service` does: site,
//! route, client networks, credentials, and in front of a registry the operation and the grants.

use std::net::SocketAddr;

use crate::access::Principal;
use crate::config::{Auth, Config, Route, Site};
use crate::net::addr::PeerAddr;
use crate::net::network_policy::Decision;
use crate::registry::{Operation, Parsed, is_registry_path};
use crate::tls::ClientAuthMode;

use crate::import::nginx::request::Request;

/// A request that tidegate forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// The index of the site.
    pub(crate) site: usize,
    /// The pattern of `site.hosts` that matches.
    pub(crate) host: String,
    /// The path of the route.
    pub(crate) route: String,
    /// The URLs of the upstream.
    pub(crate) urls: Vec<String>,
    /// Whether the upstream receives the client's `Authorization`.
    pub(crate) sends_authorization: bool,
}

/// Returns where tidegate forwards a request; `None` if it responds itself.
pub(crate) fn forward(config: &Config, request: &Request) -> Option<Forwarded> {
    let (index, host) = find_site(config, &request.host)?;
    let site = config.sites.get(index)?;
    let requires_certificate = site
        .clients
        .as_ref()
        .is_some_and(|clients| clients.demand == ClientAuthMode::Required);
    if requires_certificate && !request.has_certificate {
        return None;
    }
    let route = find_route(site, &request.path)?;
    is_authorized(route, request).then(|| Forwarded {
        site: index,
        host: host.to_owned(),
        route: route.path.clone(),
        urls: route
            .upstream
            .settings
            .endpoints
            .iter()
            .map(ToString::to_string)
            .collect(),
        sends_authorization: matches!(route.auth, Auth::LeftToUpstream),
    })
}

/// The site of a host, with the pattern that matches: an exact name, `*.x` for one label, or `*`.
fn find_site<'c>(config: &'c Config, host: &str) -> Option<(usize, &'c str)> {
    let find = |is_match: &dyn Fn(&str) -> bool| {
        let mut sites = config.sites.iter().enumerate();
        sites.find_map(|(index, site)| {
            let found = site.hosts.iter().find(|pattern| is_match(pattern))?;
            Some((index, found.as_str()))
        })
    };
    let parent = host.split_once('.').map(|(_, parent)| parent);
    find(&|pattern| pattern == host)
        .or_else(|| find(&|pattern| parent.is_some() && pattern.strip_prefix("*.") == parent))
        .or_else(|| find(&|pattern| pattern == "*"))
}

/// The route with the longest prefix, unless a longer prefix has a response.
fn find_route<'c>(site: &'c Site, path: &str) -> Option<&'c Route> {
    let length = |prefix: &str| {
        let prefix = prefix.trim_end_matches('/');
        let rest = path.strip_prefix(prefix)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
    };
    let routes = site.routes.iter();
    let (longest, route) = routes
        .filter_map(|route| Some((length(&route.path)?, route)))
        .max_by_key(|(length, _)| *length)?;
    let mut responses = site.responses.iter();
    let is_hidden = responses.any(|response| length(&response.path) > Some(longest));
    (!is_hidden).then_some(route)
}

fn is_authorized(route: &Route, request: &Request) -> bool {
    let client = PeerAddr::new(SocketAddr::new(request.client, 0)).client();
    let network = match route.admission.evaluate(client) {
        Decision::Denied => return false,
        Decision::NeedsCredentials => false,
        Decision::Sufficient => true,
    };
    let user = match &route.auth {
        Auth::LeftToUpstream | Auth::Open => return is_forwardable(route, request).is_some(),
        Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. } => {
            let file = htpasswd.value.to_str();
            (file.is_some() && file == request.valid_in.as_deref()).then_some("user")
        }
    };
    let principal = Principal { user, network };
    match (&route.granted, is_forwardable(route, request)) {
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
    if !(route.registry && is_registry_path(&request.path)) {
        return Some(Forwardable::OtherPath);
    }
    match Operation::parse(&request.method, &request.path, None) {
        Ok(Parsed::Operation(operation)) => Some(Forwardable::Operation(operation)),
        Ok(Parsed::Redirect { .. } | Parsed::Missing { .. }) | Err(_) => None,
    }
}
