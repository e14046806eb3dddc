//! The `listen` directive: the addresses of a server block.
//!
//! Host names are not resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::scope::Scope;

/// An address of a server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) at: SourcePos,
    pub(crate) address: Address,
    pub(crate) is_tls: bool,
    /// Whether the server block is the default of this address by `default_server`.
    pub(crate) is_default: bool,
    /// Whether each connection begins with a PROXY header.
    pub(crate) has_proxy_protocol: bool,
}

impl Listen {
    /// The address of a Unix socket without TLS and without PROXY headers, as `listen.behind_proxy` has it.
    pub(crate) fn socket(&self) -> Option<&str> {
        let is_plain = !self.is_tls && !self.has_proxy_protocol;
        match &self.address {
            Address::Other(text) if is_plain && text.starts_with("unix:/") => Some(text),
            Address::Other(_) | Address::Socket(_) | Address::Both(_) => None,
        }
    }
}

/// Where a server block listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Socket(SocketAddr),
    /// `[::]` with `ipv6only=off`, which also accepts IPv4.
    Both(u16),
    /// A Unix socket, or a host name.
    Other(String),
}

impl Address {
    /// The port.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Socket(address) => Some(address.port()),
            Self::Both(port) => Some(*port),
            Self::Other(_) => None,
        }
    }

    /// Changes the port.
    pub(crate) fn set_port(&mut self, port: u16) {
        match self {
            Self::Socket(address) => address.set_port(port),
            Self::Both(own) => *own = port,
            Self::Other(_) => {}
        }
    }

    /// Whether two addresses are the same for a site: all addresses of IPv4 and all addresses of IPv6 count as one.
    pub(crate) fn is_same_site(&self, other: &Self) -> bool {
        let wildcard_port = |address: &Self| match address {
            Self::Socket(address) if address.ip().is_unspecified() => Some(address.port()),
            Self::Both(port) => Some(*port),
            Self::Socket(_) | Self::Other(_) => None,
        };
        let port = wildcard_port(self);
        self == other || (port.is_some() && port == wildcard_port(other))
    }

    /// Whether this is the address itself, not only a wildcard that includes it.
    pub(crate) fn is_exactly(&self, address: SocketAddr) -> bool {
        match self {
            Self::Socket(own) => *own == address,
            Self::Both(port) => address.port() == *port && address.ip().is_unspecified(),
            Self::Other(_) => false,
        }
    }

    /// Whether a connection to this local address arrives here.
    pub(crate) fn accepts(&self, address: SocketAddr) -> bool {
        match self {
            Self::Socket(own) => {
                let is_wildcard = own.ip().is_unspecified() && own.is_ipv4() == address.is_ipv4();
                own.port() == address.port() && (is_wildcard || *own == address)
            }
            Self::Both(port) => address.port() == *port,
            Self::Other(_) => false,
        }
    }

    /// The local addresses that stand for all connections that arrive here.
    pub(crate) fn probes(&self) -> Vec<SocketAddr> {
        match self {
            Self::Socket(address) => vec![*address],
            Self::Both(port) => vec![any_v4(*port), any_v6(*port)],
            Self::Other(_) => Vec::new(),
        }
    }
}

/// The addresses of `[listen]` that stand for those of a site. `written` are all addresses of `[listen]`.
pub(crate) fn of_site(listens: &[Listen], written: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    // A socket that another site has is not compared.
    let has_address = listens.iter().any(|listen| listen.socket().is_none());
    let sockets = listens.iter().filter_map(Listen::socket);
    let sockets = sockets.filter(|_| !has_address).map(str::to_owned);
    for address in format(listens).into_iter().chain(sockets) {
        // One IPv6 address may stand for all IPv4 addresses as well.
        let both = address.replace("0.0.0.0:", "[::]:");
        let known = [address, both]
            .into_iter()
            .find(|known| written.contains(known));
        found.extend(known.filter(|known| !found.contains(known)));
    }
    found
}

/// Reads the addresses of a server block. Without a `listen`, nginx listens on port 80.
pub(crate) fn read(server: &Directive, scope: &Scope<'_>) -> Vec<Listen> {
    // Until nginx 1.25, `ssl on` made all addresses of the server block TLS addresses.
    let all_tls = scope.get("ssl").is_some_and(|ssl| ssl.first() == "on");
    let written: Vec<_> = server
        .all("listen")
        // HTTP/3 uses UDP; another `listen` has the same port over TCP.
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

/// Formats addresses for `listen.https`: each once, in order, and the pair of all IPv4 and all IPv6 addresses as `[::]`.
pub(crate) fn format<'l>(listens: impl IntoIterator<Item = &'l Listen>) -> Vec<String> {
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
    // With a further IPv4 address of the same port, both wildcards are needed.
    let has_other_v4 = |port| {
        let mut v4 = found
            .iter()
            .filter(|address| address.is_ipv4() && address.port() == port);
        v4.any(|address| *address != any_v4(port))
    };
    let is_needed = |address: &&SocketAddr| {
        let port = address.port();
        **address != any_v4(port) || !both(port) || has_other_v4(port)
    };
    found
        .iter()
        .filter(is_needed)
        .map(ToString::to_string)
        .collect()
}

fn any_v4(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

fn any_v6(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
}
