//! Addresses of clients as types of their own, so that a log line or a limit cannot use the wrong one.
//!
//! `net::listener` creates a [`PeerAddr`] from a socket. `connection` takes the [`ClientAddr`] from the PROXY header, and
//! `forwarded` from `X-Forwarded-For`, where the sender of these is trusted; else the peer is the client.
//!
//! All addresses are canonical: an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), as a socket of both IP versions
//! reports an IPv4 peer, is stored as the IPv4 address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use http::HeaderValue;

use super::cidr::Cidr;

/// The address and port of the other end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(SocketAddr);

/// The address of the party that the proxy takes to be the sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

/// The unit by which the proxy counts clients: an IPv4 address, or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(IpAddr);

/// The client networks that share one turn where clients wait: an IPv4 address, or an IPv6 /48.
///
/// Providers assign a whole /48 or /56 to one subscriber (RFC 6177), who then has 256 to 65,536 [`ClientNetwork`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetworkGroup(IpAddr);

impl PeerAddr {
    /// Creates the peer address that a socket reports.
    pub fn new(address: SocketAddr) -> Self {
        Self(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The peer of a Unix socket, which has no address. It is a program on this machine, so it counts as the loopback address.
    pub const UNIX_SOCKET: Self = Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));

    /// The IP address without the port.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// The client address of a connection or request for which no trusted proxy names another client.
    pub fn client(self) -> ClientAddr {
        ClientAddr(self.0.ip())
    }
}

impl ClientAddr {
    /// Creates the client address that a trusted proxy reports, in a PROXY header or in `X-Forwarded-For`.
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The IP address.
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// The address as the value of a header field such as `X-Real-IP`.
    pub fn header_value(self) -> HeaderValue {
        // The text of an address has only characters that a field value may have.
        HeaderValue::try_from(self.to_string()).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }

    /// The client network of the address. A client that has one address of an IPv6 /64 can use all of them.
    pub fn network(self) -> ClientNetwork {
        ClientNetwork(match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                IpAddr::V6(network.into())
            }
        })
    }
}

impl ClientNetwork {
    /// Whether `network` contains the client network, or is a part of it.
    pub(crate) fn overlaps(self, network: Cidr) -> bool {
        let prefix = if self.0.is_ipv4() { 32 } else { 64 };
        network.overlaps(self.0, prefix)
    }

    /// Whether the network is all of its group: an IPv4 address.
    pub(crate) fn is_whole_group(self) -> bool {
        self.0.is_ipv4()
    }

    /// The group to which the network belongs.
    pub fn group(self) -> ClientNetworkGroup {
        ClientNetworkGroup(match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => {
                let group = u128::from(address) >> 80 << 80;
                IpAddr::V6(group.into())
            }
        })
    }
}

impl ClientNetworkGroup {
    /// Whether `network` contains the group, or is a part of it.
    pub(crate) fn overlaps(self, network: Cidr) -> bool {
        let prefix = if self.0.is_ipv4() { 32 } else { 48 };
        network.overlaps(self.0, prefix)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

impl fmt::Display for ClientNetworkGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/48"),
        }
    }
}

/// The address at which a program on this machine reaches a listener on `address`: loopback for a listener on all addresses.
///
/// A listener on `[::]` accepts IPv4 as well. Containers are often without IPv6, and then only 127.0.0.1 leads to the listener.
pub(crate) fn local_address(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() && has_ipv6_loopback() => Ipv6Addr::LOCALHOST.into(),
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether this network namespace has `[::1]`: without it, bind() fails with EADDRNOTAVAIL or EAFNOSUPPORT.
fn has_ipv6_loopback() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}
