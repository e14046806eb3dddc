//! The one body type for requests and responses.
//!
//! `service`, `rejection` and `admin` create small bodies with [`full_response`], `upstream` creates streamed bodies from the
//! socket of an upstream, and [`RequestBody`] turns what a client sends into a body. A body carries data frames only: trailers
//! are dropped where a body is created, so no user of this type has to consider them. Nothing here collects a body or writes it to disk: each frame is
//! passed on before the next one is read.
//!
//! The submodules bound what a client can do with a body: [`MinRate`] is the slowest rate that is tolerated, and
//! [`RecvBudget`] bounds the memory of unread HTTP/2 request bodies.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

mod min_rate;
mod recv_budget;
mod request_body;
mod response;
mod tunnel;

pub use min_rate::{MinRate, RateMonitor};
pub use recv_budget::{ConnectionShare, MIN_UNTHROTTLED, RecvBudget};
pub use request_body::{AbortReason, RequestBody, UploadState};
pub use response::{JSON, TEXT, empty_response, full_response};
pub use tunnel::{OpenTunnel, Tunnel, TunnelEnd};

/// A body of bytes: empty, complete in memory, or streamed.
pub struct Body {
    kind: Kind,
    /// `None` without an observer, and after [`Observer::on_end`].
    observer: Option<Box<dyn Observer>>,
    /// The number of bytes in all calls of [`Observer::on_data`].
    observed_bytes: u64,
}

enum Kind {
    Empty,
    Full(Bytes),
    Stream(Pin<Box<dyn http_body::Body<Data = Bytes, Error = Error> + Send>>),
    Tunnel(Box<Tunnel>),
}

/// Why a body ended before it was complete.
///
/// The header section may have been sent by then, so the error aborts the transfer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client closed or broke the connection, or the framing of the request is malformed.
    #[error("the client's transfer broke off")]
    Client(#[source] hyper::Error),
    /// The client sent RST_STREAM before the end of the body.
    #[error("the client reset the stream before the end of the body")]
    Reset,
    /// The client sent more than the `max_body` of the route.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The limit of the route in bytes.
        limit: u64,
    },
    /// The client sent nothing for `limits.body_idle`.
    #[error("nothing came from the client for {0:?}")]
    Idle(Duration),
    /// The client sent less than `limits.min_rate` over a minute in which the proxy waited for it.
    #[error("less than {0} bytes a second came from the client")]
    Slow(u64),
    /// The upstream sent nothing for `read_timeout` within a response.
    #[error("nothing came from the upstream for {0:?}")]
    Silent(Duration),
    /// The client read the response too slowly for too long while other requests waited for its upstream connection.
    #[error("the client did not read while others waited for its upstream connection")]
    Displaced,
    /// An operator has ended the transfer.
    #[error("an operator has ended the transfer")]
    Cut,
    /// The upstream broke off its response.
    #[error("the upstream's response broke off")]
    Upstream(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether no client is left that could read a response.
    ///
    /// A client that sent malformed framing is still there, and gets a response that reports it.
    pub fn is_client_gone(&self) -> bool {
        let error = match self {
            Self::Client(error) => error,
            Self::Reset => return true,
            _ => return false,
        };
        let source = std::error::Error::source(error);
        let io = source.and_then(|source| source.downcast_ref::<io::Error>());
        // An HTTP/2 stream whose request body breaks off is reset, by whichever side, and then carries no response.
        io.is_none_or(|io| {
            !matches!(
                io.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
            )
        })
    }
}

impl Body {
    /// Creates a body without bytes.
    pub const fn empty() -> Self {
        Self::new(Kind::Empty)
    }

    /// Creates a body that consists of `bytes`.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::new(Kind::Full(bytes.into()))
    }

    /// Creates a body from a stream of frames. The size hint of the stream decides the framing of the message.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        Self::new(Kind::Stream(Box::pin(body)))
    }

    /// Creates the body of a 101 response. It has no bytes; the tunnel begins after the response.
    pub fn tunnel(tunnel: Tunnel) -> Self {
        Self::new(Kind::Tunnel(Box::new(tunnel)))
    }

    /// Takes the tunnel out of the body of a 101 response, together with the observer. Returns the body unchanged if it is no
    /// such body.
    pub fn into_tunnel(mut self) -> Result<OpenTunnel, Self> {
        match std::mem::replace(&mut self.kind, Kind::Empty) {
            Kind::Tunnel(tunnel) => Ok(OpenTunnel {
                tunnel: *tunnel,
                observer: self.observer.take(),
            }),
            kind => {
                self.kind = kind;
                Err(self)
            }
        }
    }

    const fn new(kind: Kind) -> Self {
        Self {
            kind,
            observer: None,
            observed_bytes: 0,
        }
    }

    /// Returns this body with an observer, which is called for each data frame, and exactly once for the end of the body. A
    /// body has at most one observer. It is part of the body, so that it costs no further allocation and no second layer of
    /// polling.
    pub fn observed(mut self, observer: Box<dyn Observer>) -> Self {
        debug_assert!(self.observer.is_none(), "a body has at most one observer");
        self.observer = Some(observer);
        self
    }

    fn report_data(&mut self, bytes: usize) {
        self.observed_bytes += bytes as u64;
        if let Some(observer) = &mut self.observer {
            observer.on_data(bytes);
        }
    }

    fn report_end(&mut self, end: BodyEnd<'_>) {
        if let Some(observer) = self.observer.take() {
            observer.on_end(self.observed_bytes, end);
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl Drop for Body {
    /// Reports the end of a body that was not polled to its end.
    ///
    /// hyper drops a body of known length after its last byte, without the poll that would return `None`.
    fn drop(&mut self) {
        if self.observer.is_some() {
            let end = if self.is_end_stream() {
                BodyEnd::Whole
            } else {
                BodyEnd::Dropped
            };
            self.report_end(end);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(observer) = &mut self.observer
            && observer.poll_cut(cx).is_ready()
        {
            // The source of the body is dropped, which closes the connection to the upstream.
            self.kind = Kind::Empty;
            self.report_end(BodyEnd::Broken(&Error::Cut));
            return Poll::Ready(Some(Err(Error::Cut)));
        }
        let frame = ready!(self.kind.poll_frame(cx));
        match &frame {
            None => self.report_end(BodyEnd::Whole),
            Some(Err(error)) => self.report_end(BodyEnd::Broken(error)),
            Some(Ok(frame)) => self.report_data(frame.data_ref().map_or(0, Bytes::len)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty | Kind::Tunnel(_) => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty | Kind::Tunnel(_) => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(stream) => stream.size_hint(),
        }
    }
}

impl Kind {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(if bytes.is_empty() {
                    None
                } else {
                    Some(Ok(Frame::data(bytes)))
                })
            }
            Self::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }
}

/// Receives the progress and the end of a body, for the access log and the metrics.
pub trait Observer: Send {
    /// Called after `bytes` more bytes were passed on.
    fn on_data(&mut self, bytes: usize);
    /// Called after `bytes` more bytes arrived from the client through a tunnel.
    fn on_received(&mut self, _bytes: usize) {}
    /// Ready once the body must end before it is complete, because an operator has ended the transfer.
    fn poll_cut(&mut self, _cx: &Context<'_>) -> Poll<()> {
        Poll::Pending
    }
    /// Called once, when the body ended after `bytes` bytes.
    fn on_end(self: Box<Self>, bytes: u64, end: BodyEnd<'_>);
}

/// How a body ended.
#[derive(Debug)]
pub enum BodyEnd<'a> {
    /// Every byte was passed on.
    Whole,
    /// The source of the body failed.
    Broken(&'a Error),
    /// The reader dropped the body before its end.
    Dropped,
}
