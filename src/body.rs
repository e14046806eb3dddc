//! The one body type that moves through the gate, in both directions.
//!
//! `service` and `refusal` make small ones, `upstream` makes streamed ones out of a socket, and
//! `inbound` makes them out of what a client sends, `held` counts what of that is still unread, `pace` what of it comes
//! in a time. A body carries data frames only:
//! trailers are dropped where a body is made, so nothing behind this type has to think of them.
//! Nothing here collects or spools: a frame is handed on before the next one is read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

mod held;
mod inbound;
mod observed;
mod pace;
mod received;

pub use held::{ConnectionShare, MIN_UNTHROTTLED, RecvBudget};
pub use inbound::RequestBody;
pub use observed::{BodyEnd, Observer};
pub use pace::{MinRate, RateMonitor};
pub use received::{AbortReason, UploadState};

/// A body of bytes: empty, whole, or streamed.
pub struct Body {
    kind: Kind,
}

enum Kind {
    Empty,
    Full(Bytes),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = Error> + Send>>),
}

/// Why a body ended before its end. The head may be out by then, so this breaks the transfer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client went away, or its framing was wrong.
    #[error("the client's transfer broke off")]
    Client(#[source] hyper::Error),
    /// The client reset its HTTP/2 stream before the end of the body.
    #[error("the client reset the stream before the end of the body")]
    Reset,
    /// The client sent more than the route's `max_body`.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The route's limit in bytes.
        limit: u64,
    },
    /// The client sent nothing for `limits.body_idle`.
    #[error("nothing came from the client for {0:?}")]
    Idle(Duration),
    /// The client sent less than `limits.min_rate` over a minute of waiting for it.
    #[error("less than {0} bytes a second came from the client")]
    Slow(u64),
    /// The upstream fell silent within its answer.
    #[error("nothing came from the upstream for {0:?}")]
    Silent(Duration),
    /// The client took too little of the answer for too long while others waited for its upstream connection.
    #[error("the client did not read while others waited for its upstream connection")]
    Displaced,
    /// The upstream broke off its answer.
    #[error("the upstream's answer broke off")]
    Upstream(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// True when there is nobody left to answer. Wrong framing of a client that is still there is told.
    pub fn is_client_gone(&self) -> bool {
        let error = match self {
            Self::Client(error) => error,
            Self::Reset => return true,
            _ => return false,
        };
        let source = std::error::Error::source(error);
        let io = source.and_then(|source| source.downcast_ref::<io::Error>());
        // On HTTP/2 a stream whose body breaks off is reset, whichever side does it.
        io.is_none_or(|io| {
            !matches!(
                io.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
            )
        })
    }
}

impl Body {
    /// No bytes at all.
    pub const fn empty() -> Self {
        Self { kind: Kind::Empty }
    }

    /// These bytes and no more.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Full(bytes.into()),
        }
    }

    /// A stream of frames; its size hint decides the framing on the other side.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        Self {
            kind: Kind::Stream(Box::pin(body)),
        }
    }

    /// The same body, whose end, whole or broken, is told to `observer` exactly once.
    pub fn observed(self, observer: Box<dyn Observer>) -> Self {
        Self::stream(observed::ObservedBody::new(self, observer))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready(if bytes.is_empty() {
                    None
                } else {
                    Some(Ok(Frame::data(bytes)))
                })
            }
            Kind::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(stream) => stream.size_hint(),
        }
    }
}
