//! The admin listener: whether the gate is well, its numbers, and a page for people, for whoever watches over it.
//!
//! `server` hands over what it has accepted at `listen.admin`, and is asked for all that is shown. There is no TLS and no
//! password here: the address, the networks of `listen.admin_allow`, or the rights of the socket's file say who may ask.
//! Each connection is for one request and has few seconds; their slots are their own, so that a flood of the gate leaves
//! room to look at it, and a flood here costs the gate nothing.

use std::convert::Infallible;
use std::fmt;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::net::addr::PeerAddr;
use crate::net::conn_limit::{Capacity, ConnectionLimit, ConnectionPermit};

mod answer;
mod host;
mod numbers;
mod page;
mod ready;

use crate::state::ServerState;

/// What answers on the admin listener, whatever its address; a copy is the same one.
#[derive(Clone, Debug)]
pub struct Admin {
    gate: Arc<ServerState>,
    slots: ConnectionLimit,
    strangers: Arc<Semaphore>,
}

/// Who is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AdminPeer {
    /// Who may open the socket's file.
    Local,
    Peer(PeerAddr),
}

impl fmt::Display for AdminPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("unix"),
            Self::Peer(peer) => peer.ip().fmt(f),
        }
    }
}

impl Admin {
    /// Shows this gate.
    pub fn new(gate: Arc<ServerState>) -> Self {
        Self {
            gate,
            slots: ConnectionLimit::new(CONNECTIONS, OF_ONE_CLIENT),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
        }
    }

    /// The slots of its connections.
    pub fn slots(&self) -> ConnectionLimit {
        self.slots.clone()
    }

    /// Serves a connection on a task of its own; needs a runtime.
    pub fn serve_tcp(&self, stream: StdStream, peer: PeerAddr, slot: ConnectionPermit) {
        let stranger = if self.is_authorized(AdminPeer::Peer(peer)) {
            None
        } else {
            // He is told why, unless there are many of him.
            match Arc::clone(&self.strangers).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return,
            }
        };
        let admin = self.clone();
        tokio::spawn(async move {
            // What the system does not let this runtime watch is closed.
            if let Ok(stream) = TcpStream::from_std(stream) {
                admin.serve(stream, AdminPeer::Peer(peer)).await;
            }
            drop((slot, stranger));
        });
    }

    /// The same for one that came over a socket in the file system.
    pub fn serve_unix(&self, stream: UnixStream, room: Capacity) {
        let admin = self.clone();
        tokio::spawn(async move {
            admin.serve(stream, AdminPeer::Local).await;
            drop(room);
        });
    }

    async fn serve<IO>(self, stream: IO, asker: AdminPeer)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(move |request| {
            let admin = self.clone();
            async move { Ok::<_, Infallible>(admin.answer(asker, &request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_header_size(HEAD_SIZE)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer);
        match timeout(WHOLE, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%asker, %error, "admin connection broken"),
            Err(_elapsed) => tracing::debug!(%asker, "admin connection closed: too slow"),
        }
    }

    fn is_authorized(&self, asker: AdminPeer) -> bool {
        match asker {
            AdminPeer::Local => true,
            AdminPeer::Peer(peer) => {
                let address = peer.ip().to_canonical();
                address.is_loopback() || self.gate.snapshot().admin.allow.contains(address)
            }
        }
    }
}

/// Some that scrape, some that look, and those who were slow.
const CONNECTIONS: usize = 64;
/// Behind one address there may be several who watch.
const OF_ONE_CLIENT: usize = 16;
/// Of those who may not ask.
const STRANGERS: usize = 8;
/// A request without a body.
const HEAD: Duration = Duration::from_secs(5);
const HEAD_SIZE: usize = 16 * 1024;
/// A connection from its first byte to its last.
const WHOLE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
