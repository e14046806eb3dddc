//! One client connection, from the accepted socket to its close.
//!
//! `server` passes an accepted socket and a [`Handler`] to [`serve_tls`], [`serve_behind_proxy`] or [`serve_plain`]. This module
//! reads the PROXY header, performs the TLS handshake, selects the HTTP version, enforces every deadline of an idle or slow
//! connection, takes part in the graceful shutdown, and closes the connection such that the client can read the last response.
//! It knows nothing of sites, passwords or registries.
//!
//! The layers of a connection, from the socket up:
//!
//! ```text
//! TcpStream or UnixStream
//! socket       MonitoredSocket    reads in large pieces; reports writes and progress; detects a closed peer
//! tls          TlsStream          absent without TLS, where `preface` selects the HTTP version
//! inspect      InspectedStream    checks the framing of HTTP/1 requests (h1_framing), counts HTTP/2 frames (h2_frames)
//! hyper        Connection         polled by driver::ConnectionDriver, which enforces the deadlines of state::ConnectionState
//! request      Handler            gets an IncomingRequest for each request
//! response     ResponseBody       returns the response to hyper, and ends the request when it is dropped
//! tunnel       PendingTunnel      takes the place of hyper after a 101 response: copies bytes in both directions
//! ```
//!
//! A connection is served on one thread, whose runtime must be a `LocalRuntime` of tokio: the parts of a connection share its
//! state without atomics, and the tasks of its streams are spawned with `spawn_local`.
//!
//! On HTTP/2, hyper and the driver share the stream (shared_stream): what h2 writes during one poll of the connection is flushed at
//! the end of the poll. `h2_executor` runs the task of each stream, and `early_response` decides how long a stream is kept whose
//! response is complete before its request is.

use std::future::Future;
use std::io;
use std::net::TcpStream as StdStream;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::Protocol;
use crate::net::addr::{ClientAddr, PeerAddr};
use crate::net::listener::ListenAddr;
use crate::net::proxy_protocol;
use crate::net::proxy_protocol::Error as ProxyHeaderError;
use crate::tls::{self, HandshakeError, TlsConfigs};

mod close;
mod driver;
mod early_response;
mod h1_framing;
mod h2_executor;
mod h2_frames;
mod handshake_log;
mod http_on_https_port;
mod inspect;
mod preface;
mod request;
mod request_guard;
mod response;
mod serve;
mod settings;
mod shared_stream;
mod shutdown;
mod socket;
mod state;
mod tunnel;

pub use early_response::EarlyResponses;
use preface::Preface;
pub use request::{ConnectionInfo, Handler, IncomingRequest, ResponseFuture};
pub use serve::ConnectionContext;
use serve::HttpConnection;
pub use settings::Settings;
pub use shutdown::{ShutdownSignal, ShutdownTrigger};
use socket::MonitoredSocket;
pub use socket::Socket;
use state::ConnectionState;

/// An accepted socket from which nothing was read, except possibly a PROXY header.
#[derive(Debug)]
pub struct AcceptedConnection<S = TcpStream> {
    stream: S,
    listener: Arc<ListenAddr>,
    peer: PeerAddr,
    client: ClientAddr,
    /// See [`ConnectionInfo::is_client_named`].
    is_client_named: bool,
    /// The end of `limits.handshake`, which bounds the PROXY header and the TLS handshake together.
    handshake_deadline: Instant,
}

impl AcceptedConnection {
    /// Registers an accepted socket with the runtime of this thread, which will serve it.
    ///
    /// # Errors
    /// Fails if the socket cannot be made nonblocking or cannot be registered with epoll.
    pub fn new(
        stream: StdStream,
        peer: PeerAddr,
        listener: Arc<ListenAddr>,
        handshake_timeout: Duration,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream)?,
            listener,
            peer,
            client: peer.client(),
            is_client_named: true,
            handshake_deadline: Instant::now() + handshake_timeout,
        })
    }

    /// Reads the PROXY header with which the connection of a balancer must begin, and returns the client that it names.
    ///
    /// Returns `None` if the connection is to be closed.
    pub async fn read_proxy_header(&mut self, shutdown: ShutdownSignal) -> Option<ClientAddr> {
        let header = timeout_at(
            self.handshake_deadline,
            proxy_protocol::read(&mut self.stream),
        );
        let header = tokio::select! {
            header = header => header,
            () = shutdown.grace_elapsed() => return None,
        };
        let peer = self.peer;
        match header {
            Ok(Ok(client)) => {
                self.is_client_named = client.is_some();
                self.client = client.map_or(self.client, ClientAddr::new);
                return Some(self.client);
            }
            Err(_elapsed) => {
                tracing::debug!(%peer, "connection closed: no PROXY header within limits.handshake");
            }
            Ok(Err(error @ (ProxyHeaderError::Closed | ProxyHeaderError::Io(_)))) => {
                tracing::debug!(%peer, %error, "connection closed before the end of the PROXY header");
            }
            // The configuration says that this peer sends a PROXY header, so the peer or the configuration is wrong.
            Ok(Err(error)) => {
                tracing::warn!(%peer, %error, "connection closed: invalid PROXY header");
            }
        }
        None
    }
}

impl AcceptedConnection<UnixStream> {
    /// As [`AcceptedConnection::new`], for a connection to a Unix socket.
    ///
    /// # Errors
    /// Fails if the socket cannot be made nonblocking or cannot be registered with epoll.
    pub fn from_unix(
        stream: StdUnixStream,
        listener: Arc<ListenAddr>,
        handshake_timeout: Duration,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let peer = PeerAddr::UNIX_SOCKET;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            listener,
            peer,
            client: peer.client(),
            is_client_named: true,
            handshake_deadline: Instant::now() + handshake_timeout,
        })
    }
}

impl<S> AcceptedConnection<S> {
    fn info(&self, tls: Option<tls::TlsInfo>) -> ConnectionInfo {
        let listener = Arc::clone(&self.listener);
        let mut info = ConnectionInfo::new(listener, self.peer, self.client, tls);
        info.is_client_named = self.is_client_named;
        info
    }
}

/// Serves a connection to an HTTPS listener until it is closed.
///
/// The handshake has a future of its own, so that its memory is freed with it: an idle connection keeps only what serves HTTP. This is
/// no `async fn`, whose future would keep room for the arguments.
pub fn serve_tls<'a, H: Handler>(
    accepted: AcceptedConnection,
    context: ConnectionContext<'a>,
    tls: Arc<TlsConfigs>,
    handler: H,
) -> impl Future<Output = ()> + use<'a, H> {
    let handshake = Box::pin(perform_handshake(accepted, context, tls, handler));
    async move {
        let http = handshake.await;
        if let Some(http) = http {
            http.await;
        }
    }
}

/// The future that serves HTTP on a connection until it is closed.
type HttpFuture<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Performs the TLS handshake. Returns `None` if it failed; the connection is closed then.
async fn perform_handshake<H: Handler>(
    accepted: AcceptedConnection,
    context: ConnectionContext<'_>,
    tls: Arc<TlsConfigs>,
    handler: H,
) -> Option<HttpFuture<'_>> {
    let state = Rc::new(ConnectionState::new(
        context.settings,
        context.shutdown.clone(),
    ));
    let client = accepted.client;
    let mut info = accepted.info(None);
    let stream = MonitoredSocket::new(accepted.stream, &state);
    let metrics = context.metrics;
    let open_handshake = metrics.open(Protocol::Handshake);
    let handshake = timeout_at(
        accepted.handshake_deadline,
        tls::accept(stream, &tls, &info.listener),
    );
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        () = context.shutdown.clone().grace_elapsed() => return None,
    };
    // After a reload the old certificates and keys are freed with the last handshake, not with the last connection.
    drop(tls);
    match handshake {
        Err(_elapsed) => handshake_log::timed_out(metrics, client),
        Ok(Err(error)) => {
            handshake_log::failed(metrics, client, &error);
            if let HandshakeError::PlainHttp(stream) = error {
                // An error means that the client has closed the connection; there is nothing left to do.
                let respond = http_on_https_port::respond(stream);
                let _ = timeout(context.settings.handshake, respond).await;
            }
        }
        Ok(Ok(tls::Accepted { stream, info: tls })) => {
            drop(open_handshake);
            let is_http2 = tls.http2;
            info.tls = Some(tls);
            let connection = HttpConnection::new(info, context, state, handler);
            return Some(if is_http2 {
                let hold = stream.send_hold();
                Box::pin(connection.http2(stream, hold))
            } else {
                Box::pin(connection.http1(stream))
            });
        }
    }
    None
}

/// Serves a connection to a plain HTTP listener until it is closed.
pub async fn serve_plain(
    accepted: AcceptedConnection,
    context: ConnectionContext<'_>,
    handler: impl Handler,
) {
    let info = accepted.info(None);
    let state = Rc::new(ConnectionState::new(
        context.settings,
        context.shutdown.clone(),
    ));
    let stream = MonitoredSocket::new(accepted.stream, &state);
    HttpConnection::new(info, context, state, handler)
        .http1(stream)
        .await;
}

/// Serves a connection to an address of `listen.behind_proxy` until it is closed. The first bytes decide between HTTP/1 and HTTP/2
/// with prior knowledge (RFC 9113 section 3.3). Whether the peer is a trusted proxy is checked by the handler, for each request.
pub async fn serve_behind_proxy<S: Socket + 'static>(
    mut accepted: AcceptedConnection<S>,
    context: ConnectionContext<'_>,
    handler: impl Handler,
) {
    let Some(preface) = read_preface(&mut accepted, &context).await else {
        return;
    };
    let info = accepted.info(None);
    let state = Rc::new(ConnectionState::new(
        context.settings,
        context.shutdown.clone(),
    ));
    let stream = MonitoredSocket::with_read_ahead(accepted.stream, &state, preface.read);
    let http = HttpConnection::new(info, context, state, handler);
    if preface.is_http2 {
        // Without TLS nothing is held back.
        Box::pin(http.http2(stream, tls::SendHold::default())).await;
    } else {
        Box::pin(http.http1(stream)).await;
    }
}

/// Reads the first bytes of a connection without TLS. Returns `None` if the connection is to be closed; the reason is counted then.
async fn read_preface<S: Socket>(
    accepted: &mut AcceptedConnection<S>,
    context: &ConnectionContext<'_>,
) -> Option<Preface> {
    let (settings, metrics) = (context.settings, context.metrics);
    let _open_connection = metrics.open(Protocol::Plain);
    let read = preface::read(&mut accepted.stream, settings.idle, settings.head);
    let error = tokio::select! {
        read = read => match read {
            Ok(preface) => return Some(preface),
            Err(error) => error,
        },
        () = context.shutdown.clone().grace_elapsed() => preface::Error::Closed,
    };
    match error {
        preface::Error::Closed => metrics.done.count(),
        preface::Error::Io(error) => {
            metrics.error.count();
            tracing::debug!(client = %accepted.client, %error, "connection broken");
        }
        preface::Error::TimedOut(kind) => serve::record_timeout(kind, accepted.client, metrics),
    }
    None
}

/// Serves a stream in memory as the plaintext of a connection, until the stream ends. This is the entry of the fuzz targets: it
/// does everything that follows the PROXY header and the TLS handshake.
#[cfg(any(test, fuzzing))]
pub(crate) async fn serve_stream<IO>(
    info: ConnectionInfo,
    context: ConnectionContext<'_>,
    is_http2: bool,
    stream: IO,
    handler: impl Handler,
) where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let state = ConnectionState::new(context.settings, context.shutdown.clone());
    let http = HttpConnection::new(info, context, Rc::new(state), handler);
    if is_http2 {
        http.http2(stream, tls::SendHold::default()).await;
    } else {
        http.http1(stream).await;
    }
}
