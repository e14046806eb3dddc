//! Why a request got no response from the upstream.
//!
//! `connect`, `tls`, `request_limit` and the `http1` codec create the errors. `upstream` and `endpoint` decide by
//! [`Error::may_try_another_endpoint`] whether another endpoint is tried; `rejection` maps an error to a response.

use std::io;
use std::time::Duration;

use super::tls::HandshakeError;
use crate::body;

/// The reason why there is no response, or why the response body ends early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection was refused, or the host name has no address. Nothing was sent.
    #[error("cannot connect to the upstream")]
    Connect(#[source] io::Error),
    /// The process or the system has no file descriptor for another connection (EMFILE, ENFILE). Nothing was sent.
    #[error("no file descriptor is free for a connection to the upstream")]
    Exhausted(#[source] io::Error),
    /// No connection was established within `connect_timeout`. Nothing was sent.
    #[error("no connection to the upstream was established within {0:?}")]
    ConnectTimeout(Duration),
    /// The TLS handshake failed, in most cases because the certificate cannot be verified. Nothing was sent.
    #[error("the TLS handshake with the upstream failed")]
    Tls(#[source] HandshakeError),
    /// All connections are in use, and the queue is full or the request was queued for too long. Nothing was sent.
    ///
    /// The same error ends a request whose connection was closed because its client did not send the body while other
    /// requests were queued.
    #[error("all connections to the upstream are in use")]
    Busy,
    /// For `read_timeout`, the upstream neither sent a byte nor read one.
    #[error("the upstream was silent for {0:?}")]
    Silent(Duration),
    /// The connection ended before the response head or the response body was complete.
    #[error("the upstream closed the connection before the end of the response")]
    Closed(#[source] io::Error),
    /// The response violates HTTP. As a last line of defence, also a request that the proxy would send malformed.
    #[error("malformed HTTP: {0}")]
    Malformed(&'static str),
    /// The request body could not be read from the client. The upstream sees an incomplete request, never a shorter one.
    #[error("the request body ended early: {0}")]
    Body(#[source] body::Error),
    /// The upstream stopped reading the request and sent no response.
    #[error("the upstream stopped reading the request")]
    Write(#[source] io::Error),
}

impl Error {
    /// Whether the endpoint is the reason that there was no connection.
    ///
    /// Nothing was sent then, so that a request of any method may go to another endpoint. The result is false where the
    /// proxy itself lacks a resource (`connect` marks this with `ResourceBusy`): another endpoint would not help, and the
    /// failure says nothing about the health of this one.
    pub(crate) fn may_try_another_endpoint(&self) -> bool {
        match self {
            Self::Connect(cause) => cause.kind() != io::ErrorKind::ResourceBusy,
            Self::ConnectTimeout(_) | Self::Tls(_) => true,
            _ => false,
        }
    }

    /// Whether the error is typical of an upstream that is restarting: a connect that was refused or timed out.
    pub(crate) fn is_transient(&self) -> bool {
        self.may_try_another_endpoint()
            && matches!(self, Self::Connect(_) | Self::ConnectTimeout(_))
    }

    /// The text of the error and of its source.
    pub(crate) fn with_source(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}
