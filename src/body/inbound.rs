//! What a client sends: counted, limited in size, and under an idle deadline.
//!
//! Made by `service` from hyper's body, read by `upstream`. It never waits for more than one frame,
//! so the upstream's pace is the client's pace.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::Error;

/// A client's body on its way to the upstream.
pub struct Inbound {
    incoming: Incoming,
    received: Arc<Received>,
    limit: Option<u64>,
    idle: Duration,
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

/// How much of a client's body has come, and whether all of it has; shared with the access log.
#[derive(Debug, Default)]
pub struct Received {
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl Received {
    /// Bytes that have come so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// True once the client has sent its last byte.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Notes that there is nothing to come, as for a request without a body.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Inbound {
    /// Wraps `incoming`; more than `limit` bytes, or silence for `idle`, end it with an error.
    pub fn new(
        incoming: Incoming,
        received: Arc<Received>,
        limit: Option<u64>,
        idle: Duration,
    ) -> Self {
        Self {
            incoming,
            received,
            limit,
            idle,
            deadline: Box::pin(tokio::time::sleep(idle)),
            waiting: false,
        }
    }

    /// Called when hyper has nothing: the clock runs from the first such moment on.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + self.idle);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Error::Idle(self.idle))
    }

    /// A body with a length is not polled past its last byte: hyper knows by then that it ended.
    fn note_end(&self) {
        if self.incoming.is_end_stream() {
            self.received.end();
        }
    }

    fn count(&mut self, more: usize) -> Result<(), Error> {
        let sum = self
            .received
            .bytes
            .fetch_add(more as u64, Ordering::Relaxed)
            + more as u64;
        match self.limit {
            Some(limit) if sum > limit => Err(Error::TooLarge { limit }),
            _ => Ok(()),
        }
    }
}

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
                return self.poll_idle(cx).map(|error| Some(Err(error)));
            };
            self.waiting = false;
            match frame {
                None => {
                    self.received.end();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(Error::Client(error)))),
                // Trailers say nothing to a registry, and must never become headers (RFC 9110 6.5.1).
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        let counted = self.count(data.len());
                        self.note_end();
                        return Poll::Ready(Some(counted.map(|()| Frame::data(data))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
