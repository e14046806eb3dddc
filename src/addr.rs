//! Addresses as types, so that a log line or a limit cannot take the wrong one.
//!
//! `listen` makes a [`PeerAddr`] from a socket; `connection` decides which [`ClientAddr`] it stands for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The other end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(SocketAddr);

/// Who we believe is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(IpAddr);

impl PeerAddr {
    /// From the socket; an IPv4 peer on an IPv6 socket is an IPv4 peer.
    pub fn new(address: SocketAddr) -> Self {
        Self(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// The peer is the client, when nobody we trust says otherwise.
    pub fn client(self) -> ClientAddr {
        ClientAddr(self.0.ip())
    }
}

impl ClientAddr {
    /// The address alone.
    pub fn ip(self) -> IpAddr {
        self.0
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
