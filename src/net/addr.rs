//! Addresses as types, so that a log line or a limit cannot take the wrong one.
//!
//! `listen` makes a [`PeerAddr`] from a socket; `connection` decides which [`ClientAddr`] it stands for, and `service`
//! for which one a proxy asks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;

/// The other end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(SocketAddr);

/// Who we believe is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

/// What one client may be taken to have to itself: an IPv4 address, or 64 bits of an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetwork(IpAddr);

/// The client networks that share one turn where clients wait: an IPv4 address, or an IPv6 /48.
///
/// Providers assign a whole /48 or /56 to one subscriber (RFC 6177), who then has 256 to 65,536 [`ClientNetwork`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNetworkGroup(IpAddr);

impl PeerAddr {
    /// From the socket; an IPv4 peer on an IPv6 socket is an IPv4 peer.
    pub fn new(address: SocketAddr) -> Self {
        Self(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The address alone.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// The peer is the client, when nobody we trust says otherwise.
    pub fn client(self) -> ClientAddr {
        ClientAddr(self.0.ip())
    }
}

impl ClientAddr {
    /// As somebody says whom we trust; an IPv4 address is one however IPv6 writes it.
    pub fn vouched(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address alone.
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// As the value of a header field.
    pub fn field(self) -> HeaderValue {
        // An address is always a legal value.
        HeaderValue::try_from(self.to_string()).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }

    /// The network it counts for: whoever has one address of an IPv6 network has all of them.
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
    /// The group that the network shares its turns with.
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

impl fmt::Display for ClientNetworkGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/48"),
        }
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
