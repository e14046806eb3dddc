//! One client connection, from the first byte to the close.
//!
//! `server` hands over an accepted socket and a service; this module sees to TLS, to the choice of
//! HTTP version, to every deadline of an idle or slow connection, to draining, and to a close that does
//! not lose the last answer. It knows nothing of sites, passwords or registries.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::time::{timeout, timeout_at};

use crate::body::{Body, MinRate, RecvBudget, UploadState};
use crate::metrics::{Connections, Protocol};
use crate::net::addr::{ClientAddr, PeerAddr};
use crate::tls::{self, HandshakeError, Tls};

mod arrival;
mod closing;
mod drain;
mod drive;
mod early_response;
mod frames;
mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handshake_log;
mod heard;
mod linger;
mod plain;
mod serve;
mod served;
mod stream;
mod streams;
mod watch;

pub use arrival::AcceptedConnection;
pub use drain::{ShutdownSignal, ShutdownTrigger};
pub use early_response::EarlyResponses;
use stream::MonitoredSocket;
use watch::ConnectionState;

/// What bounds a connection; every wait in it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From the accepted connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a head to its end, HTTP/1 and HTTP/2.
    pub head: Duration,
    /// Size of a head in bytes, HTTP/1 and HTTP/2.
    pub head_size: usize,
    /// A connection without a request, HTTP/1 and HTTP/2.
    pub idle: Duration,
    /// A write that makes no progress.
    pub write_idle: Duration,
    /// The least a client that is waited for takes of an answer.
    pub floor: MinRate,
    /// Streams at once on one HTTP/2 connection.
    pub h2_streams: u32,
    /// Streams of one HTTP/2 connection that may be reset, by either side, before it is to end.
    pub h2_resets: usize,
    /// Receive window of one HTTP/2 stream, in bytes: the upload speed is this over the round trip.
    pub h2_window: u32,
    /// Receive window of one HTTP/2 connection, in bytes.
    pub h2_connection_window: u32,
}

/// What a connection is held to.
#[derive(Clone, Debug)]
pub struct ConnectionContext<'a> {
    /// Its bounds.
    pub settings: &'a Settings,
    /// The cap on what unread request bodies of HTTP/2 hold, all connections together.
    pub budget: &'a Arc<RecvBudget>,
    /// The streams that are kept after an early response, of all connections.
    pub early_responses: &'a Arc<EarlyResponses>,
    /// How it learns that the gate drains.
    pub drain: ShutdownSignal,
    /// Where it counts.
    pub counts: &'a Connections,
}

/// What a request should know of the connection it came over.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The other end of the socket.
    pub peer: PeerAddr,
    /// Who is there: the peer, or whom its PROXY header names.
    pub client: ClientAddr,
    /// False when the peer's PROXY header names no client (`UNKNOWN`, LOCAL). The sender of the requests is unknown
    /// then, so what the requests say about forwarding is not believed, whatever the peer's address is.
    pub is_client_named: bool,
    /// The same as a field's value, written once for all requests.
    pub client_field: HeaderValue,
    /// The handshake's result; `None` on a plain HTTP listener.
    pub tls: Option<tls::TlsInfo>,
}

impl ConnectionInfo {
    /// The facts of a connection from `peer`, on which `client` is.
    pub fn new(peer: PeerAddr, client: ClientAddr, tls: Option<tls::TlsInfo>) -> Self {
        Self {
            peer,
            client,
            is_client_named: true,
            client_field: client.header_value(),
            tls,
        }
    }

    /// The facts of a connection that has arrived.
    fn of(arrival: &AcceptedConnection, tls: Option<tls::TlsInfo>) -> Self {
        let mut info = Self::new(arrival.peer, arrival.client, tls);
        info.is_client_named = arrival.is_client_named;
        info
    }
}

/// A request as the service gets it: hyper's, the connection's facts, and where to count its body.
pub struct IncomingRequest {
    /// The request; its body has not been read.
    pub request: Request<Incoming>,
    /// The connection's facts.
    pub connection: Arc<ConnectionInfo>,
    /// Counts what comes of the request's body.
    pub received: Arc<UploadState>,
}

/// The future of one answer. Boxed, so that an idle connection does not keep the space for it.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// What answers the requests of a connection.
pub trait Handler: Clone + Send + Unpin + 'static {
    /// Answers one request; a refusal is an answer too.
    fn answer(&self, exchange: IncomingRequest) -> ResponseFuture;
}

impl<F> Handler for F
where
    F: Fn(IncomingRequest) -> ResponseFuture + Clone + Send + Unpin + 'static,
{
    fn answer(&self, exchange: IncomingRequest) -> ResponseFuture {
        self(exchange)
    }
}

/// Serves a connection to an HTTPS listener until it is closed.
pub async fn serve_tls(
    arrival: AcceptedConnection,
    terms: ConnectionContext<'_>,
    tls: Arc<Tls>,
    service: impl Handler,
) {
    // The room for the handshake goes with the handshake: what an idle connection keeps is what serves it.
    let opened = Box::pin(open(arrival, terms, tls, service)).await;
    if let Some(serving) = opened {
        serving.await;
    }
}

/// What serves a connection until it is closed.
type Handlers<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The handshake; `None` where nothing comes of it.
async fn open<S: Handler>(
    arrival: AcceptedConnection,
    terms: ConnectionContext<'_>,
    tls: Arc<Tls>,
    service: S,
) -> Option<Handlers<'_>> {
    let watch = Arc::new(ConnectionState::new(terms.settings, terms.drain.clone()));
    let client = arrival.client;
    let mut facts = ConnectionInfo::of(&arrival, None);
    let stream = MonitoredSocket::new(arrival.stream, &watch);
    let counts = terms.counts;
    let open = counts.open(Protocol::Handshake);
    let handshake = timeout_at(arrival.until, tls::accept(stream, &tls));
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        () = terms.drain.clone().elapsed_since_start(closing::GRACE) => return None,
    };
    // After a reload the old certificates and keys go with the last handshake, not with the last connection.
    drop(tls);
    match handshake {
        Err(_elapsed) => handshake_log::late(counts, client),
        Ok(Err(error)) => {
            handshake_log::failed(counts, client, &error);
            if let HandshakeError::PlainHttp(stream) = error {
                // The client may be gone already.
                let _ = timeout(terms.settings.handshake, plain::refuse(stream)).await;
            }
        }
        Ok(Ok(tls::Accepted { stream, info })) => {
            drop(open);
            let http2 = info.http2;
            facts.tls = Some(info);
            let connection = serve::Connection::new(facts, terms, watch, service);
            return Some(if http2 {
                Box::pin(connection.http2(stream))
            } else {
                Box::pin(connection.http1(stream))
            });
        }
    }
    None
}

/// Serves a connection to a plain HTTP listener until it is closed.
pub async fn serve_plain(
    arrival: AcceptedConnection,
    terms: ConnectionContext<'_>,
    service: impl Handler,
) {
    let info = ConnectionInfo::of(&arrival, None);
    let watch = Arc::new(ConnectionState::new(terms.settings, terms.drain.clone()));
    let stream = MonitoredSocket::new(arrival.stream, &watch);
    serve::Connection::new(info, terms, watch, service)
        .http1(stream)
        .await;
}
