//! What the handler of a request gets, and what it returns.
//!
//! `server` implements [`Handler`] with `service`, and `serve` calls it for each request of a connection.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;

use crate::body::{Body, UploadState};
use crate::net::addr::{ClientAddr, PeerAddr};
use crate::net::cidr::Networks;
use crate::net::listener::ListenAddr;
use crate::tls;

/// What is known of the connection over which a request came.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The address of the configuration that the connection was made to.
    pub listener: Arc<ListenAddr>,
    /// The other end of the socket.
    pub peer: PeerAddr,
    /// The client: the peer, or the address in the PROXY header of the peer.
    pub client: ClientAddr,
    /// False if the PROXY header of the peer names no client (`UNKNOWN`, LOCAL). The sender of the requests is unknown then, so
    /// the forwarding header fields of the requests are not believed, whatever the address of the peer is.
    pub is_client_named: bool,
    /// The address of the client as the value of a header field, formatted once for all requests of the connection.
    pub client_field: HeaderValue,
    /// The result of the TLS handshake; `None` on a plain HTTP listener.
    pub tls: Option<tls::TlsInfo>,
}

impl ConnectionInfo {
    /// Creates the description of a connection from `peer` to `listener` that carries the requests of `client`.
    pub fn new(
        listener: Arc<ListenAddr>,
        peer: PeerAddr,
        client: ClientAddr,
        tls: Option<tls::TlsInfo>,
    ) -> Self {
        Self {
            listener,
            peer,
            client,
            is_client_named: true,
            client_field: client.header_value(),
            tls,
        }
    }

    /// Whether the forwarding header fields of the requests are believed: the client of the connection is in `trusted`, or the
    /// connection came over a Unix socket, whose file permissions decide who may connect.
    pub fn is_trusted(&self, trusted: &Networks) -> bool {
        let is_unix = matches!(*self.listener, ListenAddr::Unix(_));
        self.is_client_named && (is_unix || trusted.contains(self.client.ip()))
    }
}

/// A request as the handler gets it.
pub struct IncomingRequest {
    /// The request; nothing of its body has been read.
    pub request: Request<Incoming>,
    /// The connection over which the request came.
    pub connection: Arc<ConnectionInfo>,
    /// The progress of the request body. The reader of the body updates it, see `RequestBody::new`.
    pub upload: Arc<UploadState>,
}

/// The future of one response. It is boxed, so that an idle connection does not keep memory for it.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Responds to the requests of a connection.
pub trait Handler: Clone + Unpin + 'static {
    /// Responds to one request. A rejection is a response, too.
    fn handle(&self, request: IncomingRequest) -> ResponseFuture;
}

impl<F> Handler for F
where
    F: Fn(IncomingRequest) -> ResponseFuture + Clone + Unpin + 'static,
{
    fn handle(&self, request: IncomingRequest) -> ResponseFuture {
        self(request)
    }
}
