//! Where connections come in, as the configuration says it: an address to bind, or a socket that systemd holds.

use std::fmt;
use std::net::SocketAddr;

/// One entry of `listen.https` or `listen.http`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// To be bound.
    Address(SocketAddr),
    /// All sockets that systemd passes by this name (`FileDescriptorName=`).
    Named(String),
}

impl ListenAddr {
    /// The port, where the configuration says it.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Address(address) => Some(address.port()),
            Self::Named(_) => None,
        }
    }

    /// Whether it is an IPv4 address.
    pub fn is_ipv4(&self) -> bool {
        matches!(self, Self::Address(address) if address.is_ipv4())
    }
}

/// As it is written in the configuration.
impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Named(name) => write!(f, "{SYSTEMD}{name}"),
        }
    }
}

/// What stands before the name of a socket of systemd's.
pub const SYSTEMD: &str = "systemd:";
