//! `listen` in all its shapes.
//!
//! Called by `translate` and `site`. No name is looked up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::import::nginx::scope::Scope;
use crate::import::nginx::tree::{Directive, SourcePos};

/// One address of a server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listen {
    pub(super) at: SourcePos,
    pub(super) address: Address,
    pub(super) is_tls: bool,
    pub(super) is_default: bool,
    pub(super) has_proxy_protocol: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Socket(SocketAddr),
    /// `[::]` that takes IPv4 too.
    Both(u16),
    /// A Unix socket, or a name that would have to be looked up.
    Other(String),
}

/// The addresses of a server block; without any, port 80.
pub(super) fn of(server: &Directive, scope: &Scope<'_>) -> Vec<Listen> {
    // `ssl on` made all of them TLS until nginx 1.25.
    let all_tls = scope.one("ssl").is_some_and(|ssl| ssl.first() == "on");
    let written: Vec<_> = server
        .all("listen")
        // HTTP/3 is UDP; the line beside it has the same port over TCP.
        .filter(|listen| !listen.args.iter().any(|word| word == "quic"))
        .map(|listen| parse(listen, all_tls))
        .collect();
    if written.is_empty() {
        return vec![Listen {
            at: server.at,
            address: Address::Socket(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)),
            is_tls: all_tls,
            is_default: false,
            has_proxy_protocol: false,
        }];
    }
    written
}

fn parse(listen: &Directive, all_tls: bool) -> Listen {
    let has = |word: &str| listen.args.iter().skip(1).any(|arg| arg == word);
    let address = match address(listen.first()) {
        Some(SocketAddr::V6(v6)) if has("ipv6only=off") && v6.ip().is_unspecified() => {
            Address::Both(v6.port())
        }
        Some(address) => Address::Socket(address),
        None => Address::Other(listen.first().to_owned()),
    };
    Listen {
        at: listen.at,
        address,
        is_tls: all_tls || has("ssl"),
        is_default: has("default_server") || has("default"),
        has_proxy_protocol: has("proxy_protocol"),
    }
}

fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(port) = text.parse::<u16>() {
        return Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (text, 80),
    };
    let ip: IpAddr = match host {
        "*" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        _ => host.trim_matches(['[', ']']).parse().ok()?,
    };
    Some(SocketAddr::new(ip, port))
}

/// As `listen.https` has them: each once, in order, and a pair for all of IPv4 and IPv6 as one.
pub(super) fn written<'l>(listens: impl IntoIterator<Item = &'l Listen>) -> Vec<String> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for listen in listens {
        let addresses = match listen.address {
            Address::Socket(address) => vec![address],
            Address::Both(port) => vec![any_v4(port), any_v6(port)],
            Address::Other(_) => continue,
        };
        for address in addresses {
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    let both = |port| found.contains(&any_v4(port)) && found.contains(&any_v6(port));
    // What [::] alone takes, unless an IPv4 address with its port stands beside it.
    let others = |port| {
        let mut v4 = found
            .iter()
            .filter(|address| address.is_ipv4() && address.port() == port);
        v4.any(|address| *address != any_v4(port))
    };
    let is_shown = |address: &&SocketAddr| {
        let port = address.port();
        **address != any_v4(port) || !both(port) || others(port)
    };
    found
        .iter()
        .filter(is_shown)
        .map(ToString::to_string)
        .collect()
}

fn any_v4(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

fn any_v6(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
}
