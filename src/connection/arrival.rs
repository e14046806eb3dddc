//! A connection that was accepted, and who is behind it.
//!
//! Made by `server` on the worker that will serve it. A balancer that is to say who the client is does so here, before
//! TLS, and under the deadline of the handshake.

use std::io;
use std::net::TcpStream as StdStream;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::ShutdownSignal;
use super::closing::GRACE;
use crate::net::addr::{ClientAddr, PeerAddr};
use crate::net::proxy_protocol;
use crate::net::proxy_protocol::Error;

/// A socket that nothing was read from, or a PROXY header and nothing else.
#[derive(Debug)]
pub struct AcceptedConnection {
    pub(super) stream: TcpStream,
    pub(super) peer: PeerAddr,
    pub(super) client: ClientAddr,
    /// False when a PROXY header came that names no client.
    pub(super) is_client_named: bool,
    /// The end of the time for all that comes before HTTP.
    pub(super) until: Instant,
}

impl AcceptedConnection {
    /// Ties an accepted socket to this thread's runtime.
    ///
    /// # Errors
    /// When the system cannot watch it.
    pub fn new(stream: StdStream, peer: PeerAddr, handshake: Duration) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream)?,
            peer,
            client: peer.client(),
            is_client_named: true,
            until: Instant::now() + handshake,
        })
    }

    /// Reads the PROXY header that must come first; says who the client is. Nothing when the connection is to be closed.
    pub async fn read_proxy_header(&mut self, drain: ShutdownSignal) -> Option<ClientAddr> {
        let header = timeout_at(self.until, proxy_protocol::read(&mut self.stream));
        let header = tokio::select! {
            header = header => header,
            () = drain.elapsed_since_start(GRACE) => return None,
        };
        let peer = self.peer;
        match header {
            Ok(Ok(client)) => {
                self.is_client_named = client.is_some();
                self.client = client.map_or(self.client, ClientAddr::new);
                return Some(self.client);
            }
            Err(_elapsed) => tracing::debug!(%peer, "closed: no PROXY header in time"),
            Ok(Err(error @ (Error::Closed | Error::Io(_)))) => {
                tracing::debug!(%peer, %error, "closed")
            }
            // The operator named this peer, so one of the two is set up wrong.
            Ok(Err(error)) => tracing::warn!(%peer, %error, "closed"),
        }
        None
    }
}
