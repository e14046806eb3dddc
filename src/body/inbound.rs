//! What a client sends: counted, limited in size, and held to a pace.
//!
//! Made by `service` from hyper's body, read by `upstream`. It never waits for more than one frame,
//! so the upstream's pace is the client's pace.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{Error, MinRate, RateMonitor, UploadState};

/// A client's body on its way to the upstream.
pub struct RequestBody {
    incoming: Incoming,
    received: Arc<UploadState>,
    limit: Option<u64>,
    idle: Duration,
    pace: RateMonitor,
    deadline: Pin<Box<Sleep>>,
    /// Since when hyper has had nothing.
    waiting: Option<Instant>,
    /// How far the connection's pauses were known when the deadline was set.
    pauses: u64,
    /// The task that reads, and the waker it leaves with hyper; on HTTP/2.
    waker: Option<(Waker, Waker)>,
}

impl RequestBody {
    /// Wraps `incoming`; more than `limit` bytes, silence for `idle`, or less than `floor`, end it with an error.
    pub fn new(
        incoming: Incoming,
        received: Arc<UploadState>,
        limit: Option<u64>,
        idle: Duration,
        floor: MinRate,
    ) -> Self {
        Self {
            incoming,
            received,
            limit,
            idle,
            pace: RateMonitor::new(floor),
            deadline: Box::pin(tokio::time::sleep(idle)),
            waiting: None,
            pauses: 0,
            waker: None,
        }
    }

    /// hyper's next frame, asked for so that the holding learns whether there was one.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(part) = self.received.part() else {
            return Pin::new(&mut self.incoming).poll_frame(cx);
        };
        let (_, waker) = match self.waker.take() {
            Some(kept) if kept.0.will_wake(cx.waker()) => self.waker.insert(kept),
            _ => self
                .waker
                .insert((cx.waker().clone(), part.waker(cx.waker()))),
        };
        let frame = Pin::new(&mut self.incoming).poll_frame(&mut Context::from_waker(waker));
        match &frame {
            Poll::Pending => part.wait(),
            Poll::Ready(Some(Ok(frame))) => part.take(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(None | Some(Err(_))) => part.close(),
        }
        frame
    }

    /// Called when hyper has nothing: the clock runs from the first such moment on, and anew after a time in which
    /// the client was not read from.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.waiting.is_none() {
            self.begin_wait();
        }
        ready!(self.deadline.as_mut().poll(cx));
        while self.has_paused() {
            self.begin_wait();
            ready!(self.deadline.as_mut().poll(cx));
        }
        let is_idle = self
            .waiting
            .is_some_and(|since| since.elapsed() >= self.idle);
        Poll::Ready(if is_idle {
            Error::Idle(self.idle)
        } else {
            Error::Slow(self.pace.rate())
        })
    }

    fn begin_wait(&mut self) {
        let now = Instant::now();
        self.waiting = Some(now);
        let _ = self.has_paused();
        let limit = self.idle.min(self.pace.time_left());
        self.deadline.as_mut().reset(now + limit);
    }

    /// `bytes` came; a client that could not be heard was not slow.
    fn end_wait(&mut self, bytes: usize) {
        let waited = match self.waiting.take() {
            Some(since) if !self.has_paused() => since.elapsed(),
            _ => Duration::ZERO,
        };
        self.pace.moved(bytes, waited);
    }

    fn has_paused(&mut self) -> bool {
        let part = self.received.part();
        part.is_some_and(|part| part.holding().has_paused(&mut self.pauses))
    }

    /// Only on HTTP/2 does a body count for what its connection holds.
    fn is_http2(&self) -> bool {
        self.received.part().is_some()
    }

    /// A body with a length is not polled past its last byte: hyper knows by then that it ended.
    fn note_end(&self) {
        if self.incoming.is_end_stream() {
            self.received.end();
        }
    }

    fn count(&mut self, more: usize) -> Result<(), Error> {
        let sum = self.received.count(more);
        match self.limit {
            Some(limit) if sum > limit => Err(Error::TooLarge { limit }),
            _ => Ok(()),
        }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let Poll::Ready(frame) = self.poll_incoming(cx) else {
                return self.poll_late(cx).map(|error| Some(Err(error)));
            };
            match frame {
                // hyper takes a client's RST_STREAM with NO_ERROR for the end of the body. Only END_STREAM is the end: a
                // body that is cut must not look whole to the upstream.
                None if self.is_http2() && !self.incoming.is_end_stream() => {
                    return Poll::Ready(Some(Err(Error::Reset)));
                }
                None => {
                    self.received.end();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(Error::Client(error)))),
                // Trailers say nothing to a registry, and must never become headers (RFC 9110 6.5.1).
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.end_wait(data.len());
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

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.received.close();
    }
}
