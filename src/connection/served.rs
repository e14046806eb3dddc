//! An answer's body on its way out, with the guard that ends its request.
//!
//! Made by `serve` around what the service answered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::streams::Taken;
use super::watch::Watch;
use crate::body::{self, Body, Cut, Received};

/// One request in flight; over when dropped.
pub(super) struct Running {
    watch: Arc<Watch>,
    received: Arc<Received>,
}

impl Running {
    pub(super) fn begin(watch: &Arc<Watch>, received: &Arc<Received>) -> Self {
        watch.begin_request();
        Self {
            watch: Arc::clone(watch),
            received: Arc::clone(received),
        }
    }

    /// Notes why the request is dropped before its end, when it was the gate's decision.
    pub(super) fn note_cut(&self) {
        if let Some(why) = self.watch.cut() {
            self.received.note_cut(why);
        }
    }

    /// True while some of the request's body has not come.
    pub(super) fn is_unread(&self) -> bool {
        !self.received.is_ended()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a body that was refused unread nobody else says so.
        self.received.close();
        self.watch.end_request(self.is_unread());
    }
}

/// An answer's body with the guard of its request.
pub(super) struct Served {
    body: Body,
    taken: Option<Arc<Taken>>,
    /// What does not go out yet, on HTTP/2.
    rest: Bytes,
    failure: Option<body::Error>,
    running: Option<Running>,
}

impl Served {
    pub(super) fn new(body: Body, running: Option<Running>) -> Self {
        let taken = Taken::current().filter(|_| !body.is_end_stream());
        if let Some(taken) = &taken {
            taken.offer(0);
        }
        Self {
            body,
            taken,
            rest: Bytes::new(),
            failure: None,
            running,
        }
    }

    /// On HTTP/2 the next piece of `data`: a client that opens its window by a little at a time takes a small piece
    /// before it is too late, and never a large one.
    fn piece(&mut self, mut data: Bytes) -> Bytes {
        let Some(taken) = &self.taken else {
            return data;
        };
        if data.len() > PIECE {
            self.rest = data.split_off(PIECE);
        }
        taken.offer(data.len());
        data
    }
}

impl http_body::Body for Served {
    type Data = Bytes;
    type Error = body::Error;

    /// Asked for only when the client can take a frame.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        if let Some(taken) = &self.taken {
            taken.take();
        }
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(Some(Ok(Frame::data(self.piece(rest)))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Err(failure)) = frame {
            // At an error hyper drops what it has not written yet, the head among it: it gets one turn
            // to write, so that the client has all that came, and sees that it broke off.
            self.failure = Some(failure);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| self.piece(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// Asked for before the first frame only, when nothing is left over.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Served {
    /// Before the body, whose drop writes the log.
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            if self.taken.as_ref().is_some_and(|taken| taken.is_late()) {
                running.received.note_cut(Cut::Timeout);
            }
            running.note_cut();
        }
    }
}

/// At 1 KiB a second half a minute, and two of the frames in which HTTP/2 sends it.
const PIECE: usize = 32 * 1024;
