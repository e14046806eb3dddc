//! The peer of a connection to the admin listener, and whether it may use the listener.

use std::fmt;

use crate::net::addr::PeerAddr;
use crate::state::ServerState;

/// The peer of an admin connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminPeer {
    /// A process that may open the file of the Unix socket.
    Unix,
    Tcp(PeerAddr),
}

impl AdminPeer {
    /// Whether the peer may use the listener: over the Unix socket, from a loopback address, or from a network of
    /// `listen.admin_allow`.
    pub(crate) fn is_authorized(self, state: &ServerState) -> bool {
        match self {
            Self::Unix => true,
            Self::Tcp(peer) => {
                let address = peer.ip().to_canonical();
                address.is_loopback() || state.snapshot().admin.allow.contains(address)
            }
        }
    }
}

impl fmt::Display for AdminPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Tcp(peer) => peer.ip().fmt(f),
        }
    }
}
