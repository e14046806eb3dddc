//! Warnings about what a configuration opens to every client, and about what cannot work with its listeners.
//!
//! Called by `build`, because each warning needs the listeners and the sites together. No name is resolved here, and no address
//! is looked up in the system.

use std::net::{IpAddr, SocketAddr};

use super::auth::Auth;
use super::listen::Listen;
use super::problem::Problem;
use super::routes::Route;
use super::sites::{Certificate, Site};
use super::table::Table;
use crate::net::listener::ListenAddr;
use crate::tls::ClientAuthMode;
use crate::upstream::Endpoint;

/// Reports all warnings.
pub(crate) fn check(root: &Table<'_>, listen: &Listen, sites: &[Site]) {
    check_acme(root, listen, sites);
    let mut warned = Vec::new();
    for site in sites {
        for route in &site.routes {
            // One warning for all routes that have the auth of their site.
            if !warned.contains(&route.auth_place) && check_open(root, listen, site, route) {
                warned.push(route.auth_place);
            }
            check_loop(root, listen, sites, route);
        }
    }
}

/// Warns of `tls = "acme"` if the authority cannot reach the proxy. The authority connects to port 443 for tls-alpn-01 (RFC 8737
/// section 3) and to port 80 for http-01 (RFC 8555 section 8.3). A socket of systemd may be on any port.
fn check_acme(root: &Table<'_>, listen: &Listen, sites: &[Site]) {
    let place = sites.iter().find_map(|site| match site.certificate {
        Some(Certificate::Acme(place)) => Some(place),
        Some(Certificate::Files { .. } | Certificate::SelfSigned(_)) | None => None,
    });
    let is_reachable = |address: &ListenAddr| address.port().is_none_or(|port| port == 443);
    let Some(place) = place.filter(|_| !listen.https.iter().any(is_reachable)) else {
        return;
    };
    if listen.http.is_empty() {
        root.report(
            Problem::warning(place, "tls = \"acme\" without port 443 and without listen.http")
                .because(
                    "the authority connects to port 443 (tls-alpn-01) or to port 80 (http-01), and issues no certificate \
                     if the proxy does not respond there",
                )
                .fix("add http = [\"[::]:80\"] to [listen], or forward one of these ports to the proxy"),
        );
    }
}

/// Warns of a route with `mode = "none"` that clients of other machines can reach. There is no warning if the route has an
/// `allow`, which says for which networks it is open, if it has grants, which are an error of its own, or if the site requires
/// client certificates. Returns whether it warned.
fn check_open(root: &Table<'_>, listen: &Listen, site: &Site, route: &Route) -> bool {
    let requires_certificate = site
        .client_auth
        .as_ref()
        .is_some_and(|client_auth| client_auth.mode == ClientAuthMode::Required);
    if !matches!(route.auth, Auth::Open)
        || requires_certificate
        || !route.network_policy.allow.is_empty()
        || route.has_grants()
    {
        return false;
    }
    let is_public = |address: &&ListenAddr| match address {
        ListenAddr::Address(address) => !address.ip().is_loopback(),
        ListenAddr::Named(_) | ListenAddr::Unix(_) => true,
    };
    let is_on = |address: &&ListenAddr| site.is_on(address);
    let public = listen.https.iter().filter(is_on).find(is_public);
    let reached = match (public, listen.behind_proxy.iter().find(is_on)) {
        (Some(public), _) => format!("{public} is not on loopback"),
        (None, Some(address)) => format!("{address} serves the clients of another proxy"),
        (None, None) => return false,
    };
    let what = format!("{} has mode = \"none\", and {reached}", route.path);
    let why = if route.is_registry {
        "every client that reaches the address may pull, push and delete without a password"
    } else {
        "every client that reaches the address may use it without a password"
    };
    root.report(Problem::warning(route.auth_place, what).because(why).fix(
        "write mode = \"basic\" with a password file, or add allow = [\"all\"] to the route if every client is meant",
    ));
    true
}

/// Warns of an upstream that is one of the proxy's own addresses: the proxy would send each request to itself.
fn check_loop(root: &Table<'_>, listen: &Listen, sites: &[Site], route: &Route) {
    for endpoint in &route.upstream.settings.endpoints {
        let (host, port) = match endpoint {
            Endpoint::Tcp { host, port } | Endpoint::Tls { host, port } => (host, port),
            Endpoint::Unix(path) => {
                if listen
                    .of_sites()
                    .any(|own| matches!(own, ListenAddr::Unix(own) if own == path))
                {
                    report_loop(root, route, endpoint, "is an address of this proxy");
                }
                continue;
            }
        };
        let own = listen.of_sites();
        let same_port = own.filter_map(|address| match address {
            ListenAddr::Address(address) if address.port() == *port => Some(*address),
            ListenAddr::Address(_) | ListenAddr::Named(_) | ListenAddr::Unix(_) => None,
        });
        let same_port: Vec<_> = same_port.collect();
        let is_served = || sites.iter().any(|site| site.hosts.contains(host));
        let destination = match host.parse::<IpAddr>() {
            Ok(address) => accepting_listener(&same_port, address)
                .map(|own| format!("is {own}, an address of this proxy")),
            Err(_) if host == "localhost" => {
                accepting_listener(&same_port, IpAddr::from([127, 0, 0, 1]))
                    .or_else(|| {
                        accepting_listener(&same_port, IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))
                    })
                    .map(|own| format!("is {own}, an address of this proxy"))
            }
            Err(_) => same_port
                .first()
                .filter(|_| is_served())
                .map(|own| format!("is a host of this proxy, which listens on {own}")),
        };
        if let Some(destination) = destination {
            report_loop(root, route, endpoint, &destination);
        }
    }
}

fn report_loop(root: &Table<'_>, route: &Route, endpoint: &Endpoint, destination: &str) {
    let what = format!("the upstream {endpoint} {destination}");
    root.report(
        Problem::warning(route.upstream.place, what)
            .because(
                "each request would come back to the proxy as a new one, until a limit ends it",
            )
            .fix("name the address at which the registry itself listens"),
    );
}

/// Returns the listener that a connection to `address` would reach. A connection to an unspecified address is one to this machine.
/// An IPv6 listener on all addresses accepts IPv4 connections, too, unless an IPv4 listener has the same port.
fn accepting_listener(listeners: &[SocketAddr], address: IpAddr) -> Option<SocketAddr> {
    let is_this_machine = address.is_loopback() || address.is_unspecified();
    let has_ipv4 = listeners.iter().any(SocketAddr::is_ipv4);
    let mut listeners = listeners.iter();
    listeners
        .find(|listener| {
            let same_family = listener.is_ipv4() == address.is_ipv4();
            let accepts_ipv4 = listener.is_ipv6() && address.is_ipv4() && !has_ipv4;
            listener.ip() == address
                || listener.ip().is_unspecified()
                    && is_this_machine
                    && (same_family || accepts_ipv4)
                || listener.ip().is_loopback() && address.is_unspecified() && same_family
        })
        .copied()
}
