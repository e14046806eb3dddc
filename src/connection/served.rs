//! An answer's body on its way out, with the guard that ends its request.
//!
//! Made by `serve` around what the service answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};

use super::streams::SendProgress;
use super::watch::ConnectionState;
use crate::body::{self, AbortReason, Body, UploadState};

/// One request in flight; over when dropped.
pub(super) struct RequestGuard {
    watch: Arc<ConnectionState>,
    received: Arc<UploadState>,
}

impl RequestGuard {
    pub(super) fn begin(watch: &Arc<ConnectionState>, received: &Arc<UploadState>) -> Self {
        watch.begin_request();
        Self {
            watch: Arc::clone(watch),
            received: Arc::clone(received),
        }
    }

    /// Notes why the request is dropped before its end, when it was the gate's decision.
    pub(super) fn note_cut(&self) {
        if let Some(why) = self.watch.abort_reason() {
            self.received.record_abort(why);
        }
    }

    /// True while some of the request's body has not come.
    pub(super) fn is_unread(&self) -> bool {
        !self.received.is_ended()
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // Of a body that was refused unread nobody else says so.
        self.received.close();
        self.watch.end_request(self.is_unread());
    }
}

/// An answer's body with the guard of its request.
pub(super) struct ResponseBody {
    body: Body,
    /// On HTTP/2, the stream's task.
    stream: Option<Arc<SendProgress>>,
    /// The same where there is something that the client is waited for.
    taken: Option<Arc<SendProgress>>,
    /// The end of the last frame, on HTTP/2.
    tail: Bytes,
    failure: Option<body::Error>,
    running: Option<RequestGuard>,
}

impl ResponseBody {
    pub(super) fn new(body: Body, running: Option<RequestGuard>) -> Self {
        let stream = SendProgress::current();
        let taken = stream.clone().filter(|_| !body.is_end_stream());
        if let Some(taken) = &taken {
            taken.begin();
        }
        let mut served = Self {
            body,
            stream,
            taken,
            tail: Bytes::new(),
            failure: None,
            running,
        };
        if served.is_end_stream() {
            served.complete();
        }
        served
    }

    /// On HTTP/2 the last byte was handed over: the request is over, though the stream may be kept for a while.
    fn complete(&mut self) {
        let Some(stream) = &self.stream else {
            return;
        };
        if self.running.as_ref().is_some_and(RequestGuard::is_unread) {
            stream.note_early_response();
        }
        self.note_cut();
        // The body first, whose drop writes the log.
        self.body = Body::empty();
        self.running = None;
    }

    fn note_cut(&self) {
        if let Some(running) = &self.running {
            if self.taken.as_ref().is_some_and(|taken| taken.is_late()) {
                running.received.record_abort(AbortReason::Timeout);
            }
            running.note_cut();
        }
    }

    /// What goes out next of `data`. On HTTP/2 nobody waits for the client any more once the last piece was handed
    /// over, so that one is small, and asked for when what is before it fits into the window.
    fn piece(&mut self, mut data: Bytes) -> TrackedChunk {
        if let Some(taken) = &self.taken {
            taken.begin();
            if data.len() > TAIL && self.body.is_end_stream() {
                self.tail = data.split_off(data.len() - TAIL);
            }
        }
        TrackedChunk {
            data,
            taken: self.taken.clone(),
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = TrackedChunk;
    type Error = body::Error;

    /// Asked for only when the client can take a frame.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<TrackedChunk>, body::Error>>> {
        if let Some(taken) = &self.taken {
            taken.end();
        }
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            let piece = self.piece(tail);
            if self.is_end_stream() {
                self.complete();
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        // On HTTP/1 what drives the connection asks again once it is written.
        let running = self.running.as_ref().filter(|_| self.taken.is_none());
        if running.is_some_and(|running| running.watch.apply_backpressure()) {
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Err(failure)) = frame {
            // At an error hyper drops what it has not written yet, the head among it: it gets one turn
            // to write, so that the client has all that came, and sees that it broke off.
            self.failure = Some(failure);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let frame = frame.map(|frame| frame.map(|frame| frame.map_data(|data| self.piece(data))));
        if frame.is_none() || self.is_end_stream() {
            self.complete();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_empty() && self.body.is_end_stream()
    }

    /// Asked for before the first frame only, when no tail is left.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer, which tell on HTTP/2 how many of them have gone out: h2 keeps what the window does not let
/// through, and a client may open it by a little at a time.
pub(super) struct TrackedChunk {
    data: Bytes,
    taken: Option<Arc<SendProgress>>,
}

impl Buf for TrackedChunk {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        if let Some(taken) = &self.taken {
            taken.moved(count);
        }
    }
}

impl Drop for ResponseBody {
    /// Before the body, whose drop writes the log.
    fn drop(&mut self) {
        self.note_cut();
    }
}

/// What a client at the floor of 1 KiB a second takes within half a minute.
const TAIL: usize = 32 * 1024;
