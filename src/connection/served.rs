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
use crate::body::{self, Body, Received};

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
    failure: Option<body::Error>,
    _running: Option<Running>,
}

impl Served {
    pub(super) fn new(body: Body, running: Option<Running>) -> Self {
        let taken = Taken::current().filter(|_| !body.is_end_stream());
        if let Some(taken) = &taken {
            taken.offer();
        }
        Self {
            body,
            taken,
            failure: None,
            _running: running,
        }
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
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Err(failure)) = frame {
            // At an error hyper drops what it has not written yet, the head among it: it gets one turn
            // to write, so that the client has all that came, and sees that it broke off.
            self.failure = Some(failure);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let (Some(taken), Some(Ok(_))) = (&self.taken, &frame) {
            taken.offer();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
