//! Why there is no answer, and whether the request may still go elsewhere.
//!
//! Told by `node` and the codec below it; `upstream` decides by it whether another endpoint is asked.

use std::io;
use std::time::Duration;

use super::HandshakeError;
use crate::body;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens there, or its name has no address. Nothing was sent.
    #[error("cannot connect to the upstream")]
    Connect(#[source] io::Error),
    /// The process has no descriptor for one more connection. Nothing was sent.
    #[error("no connection to the upstream can be opened")]
    Exhausted(#[source] io::Error),
    /// No address took the connection in time. Nothing was sent.
    #[error("the upstream took no connection for {0:?}")]
    ConnectTimeout(Duration),
    /// What listens there could not be verified. Nothing was sent.
    #[error("cannot trust the upstream")]
    Tls(#[source] HandshakeError),
    /// All connections are in use, and the queue is full or the wait in it was too long. Nothing was sent.
    #[error("all connections to the upstream are in use")]
    Busy,
    /// The upstream neither sent nor took a byte for `read_timeout`.
    #[error("the upstream was silent for {0:?}")]
    Silent(Duration),
    /// The connection ended before a complete head, or before the end of the body.
    #[error("the upstream broke off")]
    Closed(#[source] io::Error),
    /// The upstream's framing breaks HTTP (or, as a last line of defence, the request's would).
    #[error("malformed HTTP: {0}")]
    Malformed(&'static str),
    /// The client's body broke off; the upstream sees a cut request, never a shorter one.
    #[error("the request's body broke off: {0}")]
    Body(#[source] body::Error),
    /// The upstream stopped reading the request and left no answer behind.
    #[error("the upstream stopped reading the request")]
    Write(#[source] io::Error),
}

impl Error {
    /// True when there was no connection, so that the request may go elsewhere, whatever it is; and when the endpoint is to
    /// blame for that, not what the gate itself lacks.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::Connect(cause) => cause.kind() != io::ErrorKind::ResourceBusy,
            Self::ConnectTimeout(_) | Self::Tls(_) => true,
            _ => false,
        }
    }

    /// True for what a restart looks like.
    pub(super) fn is_transient(&self) -> bool {
        self.is_unsent() && matches!(self, Self::Connect(_) | Self::ConnectTimeout(_))
    }

    /// With its cause.
    pub(super) fn with_source(&self) -> String {
        match std::error::Error::source(self) {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }
}

/// Why one endpoint gave no answer.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Another one may be asked: nothing was sent, or what was sent may be sent once more.
    pub(super) may_go_on: bool,
}

impl Failure {
    /// Of a request that may be sent once more.
    pub(super) fn to_be_repeated(error: Error) -> Self {
        Self {
            error,
            may_go_on: true,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            may_go_on: error.is_unsent(),
            error,
        }
    }
}
