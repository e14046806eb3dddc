//! The admin listener: liveness, readiness, metrics and the status page, for operators and their monitoring.
//!
//! `server` accepts the connections at `listen.admin` and passes them here; everything that the responses show comes from the
//! [`ServerState`]. The listener has neither TLS nor passwords: the address that it is bound to, the networks in
//! `listen.admin_allow`, or the file mode of the socket decide which clients may use it. A connection carries one request and
//! has a deadline. Admin connections have a limit of their own, so that a flood of client connections leaves room for
//! monitoring, and a flood of admin connections takes nothing from the clients.

use std::convert::Infallible;
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
use crate::state::ServerState;

mod interventions;
mod metrics;
mod peer;
mod ready;
mod response;
mod routes;
pub(crate) mod status_page;

use peer::AdminPeer;

/// The server of all admin listeners. Clones share their limits.
#[derive(Clone, Debug)]
pub struct Admin {
    state: Arc<ServerState>,
    connection_limit: ConnectionLimit,
    /// Limits the connections of peers that get nothing but the 403.
    unauthorized: Arc<Semaphore>,
}

impl Admin {
    /// Creates the server that shows this state.
    pub fn new(state: Arc<ServerState>) -> Self {
        Self {
            state,
            connection_limit: ConnectionLimit::new(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_CLIENT),
            unauthorized: Arc::new(Semaphore::new(MAX_UNAUTHORIZED)),
        }
    }

    /// The limit that the accept loop applies to the admin connections.
    pub fn connection_limit(&self) -> ConnectionLimit {
        self.connection_limit.clone()
    }

    /// Waits until every accepted connection has its response, for at most [`FINISH_TIMEOUT`].
    pub async fn finish(&self) {
        let unused = self.connection_limit.wait_until_unused();
        if timeout(FINISH_TIMEOUT, unused).await.is_err() {
            tracing::debug!("admin connections without a response are closed");
        }
    }

    /// Serves a TCP connection in a task of its own. The caller must be in a tokio runtime.
    pub fn serve_tcp(&self, stream: StdStream, peer: PeerAddr, permit: ConnectionPermit) {
        let peer = AdminPeer::Tcp(peer);
        let unauthorized = if peer.is_authorized(&self.state) {
            None
        } else {
            // The response tells the peer which setting would admit it. Beyond the limit, the connection is just closed.
            match Arc::clone(&self.unauthorized).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return,
            }
        };
        let admin = self.clone();
        tokio::spawn(async move {
            // If the runtime cannot register the socket (epoll_ctl), the connection is closed.
            if let Ok(stream) = TcpStream::from_std(stream) {
                admin.serve(stream, peer).await;
            }
            drop((permit, unauthorized));
        });
    }

    /// Serves a connection to a Unix socket in a task of its own. The caller must be in a tokio runtime.
    pub fn serve_unix(&self, stream: UnixStream, capacity: Capacity) {
        let admin = self.clone();
        tokio::spawn(async move {
            admin.serve(stream, AdminPeer::Unix).await;
            drop(capacity);
        });
    }

    async fn serve<IO>(self, stream: IO, peer: AdminPeer)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handler = service_fn(move |request| {
            let state = Arc::clone(&self.state);
            async move { Ok::<_, Infallible>(routes::respond(&state, peer, &request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_header_size(MAX_HEAD_SIZE)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), handler);
        match timeout(CONNECTION_TIMEOUT, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, %error, "an admin connection failed"),
            Err(_elapsed) => tracing::debug!(%peer, "an admin connection timed out"),
        }
    }
}

/// Enough for several scrapers, several open status pages, and some connections that wait for their timeout.
const MAX_CONNECTIONS: usize = 64;
/// Several monitoring systems may share one address (NAT).
const MAX_CONNECTIONS_PER_CLIENT: usize = 16;
/// Connections of peers that may not use the listener.
const MAX_UNAUTHORIZED: usize = 8;
/// For the head of the request; a request here has no body.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEAD_SIZE: usize = 16 * 1024;
/// For a connection from its first byte to its last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// For the responses that are in progress when the process ends. A connection without a request is not worth a longer wait.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
