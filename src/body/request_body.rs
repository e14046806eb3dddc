//! The body of a client's request: counted, bounded in size, and subject to an idle timeout and a minimum rate.
//!
//! `connection` creates an [`UploadState`] for each request, `service` creates the [`RequestBody`] from hyper's body, `upstream`
//! reads it, and the access log reads the state. The body never reads ahead by more than one frame, so a slow upstream slows
//! the client down.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::Error;
use super::min_rate::{MinRate, RateMonitor};
use super::recv_budget::{ConnectionShare, StreamShare};

/// The body of a client's request on its way to the upstream.
pub struct RequestBody {
    incoming: Incoming,
    upload: Arc<UploadState>,
    max_size: Option<u64>,
    idle_timeout: Duration,
    rate: RateMonitor,
    /// Fires when the client may be too slow: reset by [`Self::start_wait`].
    timer: Pin<Box<Sleep>>,
    /// The time since which hyper has no data, if it has none.
    waiting_since: Option<Instant>,
    /// The pauses of the connection that were known when the timer was set, see [`ConnectionShare::paused_since`].
    seen_pauses: u64,
    /// The waker of the reading task and the waker that hyper got in its place. HTTP/2 only.
    waker: Option<(Waker, Waker)>,
}

impl RequestBody {
    /// Wraps hyper's body.
    ///
    /// The body ends with an error after more than `max_size` bytes, after `idle_timeout` without data, or if the client
    /// sends less than `min_rate`.
    pub fn new(
        incoming: Incoming,
        upload: Arc<UploadState>,
        max_size: Option<u64>,
        idle_timeout: Duration,
        min_rate: MinRate,
    ) -> Self {
        Self {
            incoming,
            upload,
            max_size,
            idle_timeout,
            rate: RateMonitor::new(min_rate),
            timer: Box::pin(tokio::time::sleep(idle_timeout)),
            waiting_since: None,
            seen_pauses: 0,
            waker: None,
        }
    }

    /// Polls hyper's body, and reports the result to the share of the receive budget.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(share) = self.upload.share() else {
            return Pin::new(&mut self.incoming).poll_frame(cx);
        };
        let (_, waker) = match self.waker.take() {
            Some(known) if known.0.will_wake(cx.waker()) => self.waker.insert(known),
            _ => self
                .waker
                .insert((cx.waker().clone(), share.waker(cx.waker()))),
        };
        let frame = Pin::new(&mut self.incoming).poll_frame(&mut Context::from_waker(waker));
        match &frame {
            Poll::Pending => share.record_waiting(),
            Poll::Ready(Some(Ok(frame))) => {
                share.record_taken(frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(None | Some(Err(_))) => share.close(),
        }
        frame
    }

    /// Ready with an error when the client is too slow. Called when hyper has no data.
    ///
    /// The time counts from the first such call, and again from the end of a pause in which the proxy did not read from the
    /// connection.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.waiting_since.is_none() {
            self.start_wait();
        }
        ready!(self.timer.as_mut().poll(cx));
        while self.take_paused() {
            self.start_wait();
            ready!(self.timer.as_mut().poll(cx));
        }
        let is_idle = self
            .waiting_since
            .is_some_and(|since| since.elapsed() >= self.idle_timeout);
        Poll::Ready(if is_idle {
            Error::Idle(self.idle_timeout)
        } else {
            Error::Slow(self.rate.min_rate())
        })
    }

    fn start_wait(&mut self) {
        let now = Instant::now();
        self.waiting_since = Some(now);
        let _ = self.take_paused();
        let limit = self.idle_timeout.min(self.rate.time_left());
        self.timer.as_mut().reset(now + limit);
    }

    /// Records that `bytes` arrived. A wait during which the proxy did not read from the connection does not count against the
    /// rate of the client.
    fn end_wait(&mut self, bytes: usize) {
        let waited = match self.waiting_since.take() {
            Some(since) if !self.take_paused() => since.elapsed(),
            _ => Duration::ZERO,
        };
        self.rate.record(bytes, waited);
    }

    /// Whether the proxy paused reading from the connection since the last call.
    fn take_paused(&mut self) -> bool {
        let share = self.upload.share();
        share.is_some_and(|share| share.connection().paused_since(&mut self.seen_pauses))
    }

    /// Whether the request came over HTTP/2: only there a body has a share of the receive budget.
    fn is_http2(&self) -> bool {
        self.upload.share().is_some()
    }

    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        let sum = self.upload.add_bytes(bytes);
        match self.max_size {
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
                return self.poll_timeout(cx).map(|error| Some(Err(error)));
            };
            match frame {
                // hyper takes RST_STREAM with NO_ERROR for the end of the body. Only END_STREAM is the end: a truncated body
                // must not look complete to the upstream.
                None if self.is_http2() && !self.incoming.is_end_stream() => {
                    return Poll::Ready(Some(Err(Error::Reset)));
                }
                None => {
                    self.upload.end();
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(Error::Client(error)))),
                Some(Ok(frame)) => {
                    // A frame without data has trailers: a registry does not use them, and they must not become header
                    // fields (RFC 9110 section 6.5.1).
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    self.end_wait(data.len());
                    let counted = self.count(data.len());
                    // A body of known length is not polled after its last byte, so its end is recorded here.
                    if self.incoming.is_end_stream() {
                        self.upload.end();
                    }
                    return Poll::Ready(Some(counted.map(|()| Frame::data(data))));
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
        self.upload.close();
    }
}

/// The progress of a request body, and the reason for which the proxy aborted the request.
///
/// The fields are atomics because the future of a request is `Send`; all accesses come from one thread.
#[derive(Debug, Default)]
pub struct UploadState {
    bytes: AtomicU64,
    is_ended: AtomicBool,
    abort_reason: OnceLock<AbortReason>,
    /// The share of the body in the receive budget. HTTP/2 only: on HTTP/1 no received bytes wait in memory.
    share: Option<Arc<StreamShare>>,
}

/// Why the proxy aborted a request before its response was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// The graceful shutdown reached `limits.drain`.
    Drain,
    /// The client read nothing, or too little, for too long.
    Timeout,
}

impl UploadState {
    /// Creates the state of an HTTP/2 body. Its bytes count in the connection's share of `limits.h2_memory` until the upstream
    /// takes them; over its share, the connection is not read.
    pub fn with_share(connection: &Arc<ConnectionShare>) -> Self {
        Self {
            share: Some(StreamShare::new(connection)),
            ..Self::default()
        }
    }

    /// The number of bytes that have arrived.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adds `more` bytes that have arrived and returns the sum.
    pub fn add_bytes(&self, more: usize) -> u64 {
        self.bytes.fetch_add(more as u64, Ordering::Relaxed) + more as u64
    }

    /// Whether the body is complete.
    pub fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Relaxed)
    }

    /// Records that the body is complete, or that the request has none.
    pub fn end(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
        self.close();
    }

    /// Records that no more of the body will be read.
    pub fn close(&self) {
        if let Some(share) = &self.share {
            share.close();
        }
    }

    /// Records why the proxy aborts the request. The first reason stays.
    pub fn record_abort(&self, reason: AbortReason) {
        let _ = self.abort_reason.set(reason);
    }

    /// Why the proxy aborted the request, if it did.
    pub fn abort_reason(&self) -> Option<AbortReason> {
        self.abort_reason.get().copied()
    }

    fn share(&self) -> Option<&Arc<StreamShare>> {
        self.share.as_ref()
    }
}
