//! The response of a request on its way to hyper, and the guard that ends the request.
//!
//! `serve` wraps the handler's future in a [`GuardedResponseFuture`], which wraps the body of the response in a [`ResponseBody`].
//! Both carry the [`RequestGuard`] of the request, because a request ends in either: when the response is complete, or when
//! hyper drops what is left of it, as it does when the client leaves, on a timeout, and in a forced shutdown.
//!
//! The end of a request consists of three steps, in this order:
//!
//! 1. The reason for which the proxy aborts the request, if it does, is recorded in the `UploadState`: by the `Drop` impls of
//!    this file, which run before the fields are dropped.
//! 2. The handler's future or body is dropped. The drop of the access log record in it reads the reason, writes the log line,
//!    and updates the metrics and the list of active transfers.
//! 3. The guard is dropped: the connection state counts one request less.
//!
//! Steps 2 and 3 follow from the order of the fields, so the guard is declared after the handler's future and after the body.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};

use super::h2_executor::SendProgress;
use super::request::ResponseFuture;
use super::request_guard::RequestGuard;
use super::tunnel::{PendingTunnel, TunnelSlot};
use crate::body::{self, AbortReason, Body};

/// The future of a response, which passes the guard of its request to the body.
pub(crate) struct GuardedResponseFuture {
    future: ResponseFuture,
    /// Where the tunnel goes that begins after the response. HTTP/1 only, where the response also says whether the connection is
    /// closed after it.
    tunnels: Option<TunnelSlot>,
    /// Whether the inspector waits for this response, because the request has `Upgrade` and no body. On a connection with pipelined
    /// requests, it waits for one response and not for those before it.
    may_switch: bool,
    /// `None` once the response is ready. Declared after the future: see the module documentation.
    guard: Option<RequestGuard>,
}

impl GuardedResponseFuture {
    pub(crate) fn new(
        future: ResponseFuture,
        tunnels: Option<TunnelSlot>,
        may_switch: bool,
        guard: RequestGuard,
    ) -> Self {
        Self {
            future,
            tunnels,
            may_switch,
            guard: Some(guard),
        }
    }
}

impl Future for GuardedResponseFuture {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(Ok(mut response)) = self.future.as_mut().poll(cx) else {
            return Poll::Pending;
        };
        // Free the handler's future: an HTTP/2 stream, and with it this value, may be kept for a while after its response.
        self.future = Box::pin(std::future::pending());
        let mut guard = self.guard.take();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (parts, body) = response.into_parts();
            let body = self.begin_tunnel(body, &mut guard);
            return Poll::Ready(Ok(Response::from_parts(
                parts,
                ResponseBody::new(body, guard),
            )));
        }
        if self.may_switch
            && guard
                .as_ref()
                .is_some_and(|guard| guard.connection().end_upgrade())
        {
            // hyper may have found no bytes to read while they were kept.
            cx.waker().wake_by_ref();
        }
        let closes = guard
            .as_ref()
            .is_some_and(|guard| guard.has_unread_body() || guard.connection().is_shutting_down());
        if self.tunnels.is_some() && closes {
            response
                .headers_mut()
                .insert(header::CONNECTION, CONNECTION_CLOSE);
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, guard))))
    }
}

impl GuardedResponseFuture {
    /// Moves the tunnel from the body of a 101 response to its slot, together with the guard: the request lasts as long as the
    /// tunnel. Returns the rest of the body, which is empty.
    fn begin_tunnel(&self, body: Body, guard: &mut Option<RequestGuard>) -> Body {
        let open = match body.into_tunnel() {
            Ok(open) => open,
            Err(body) => return body,
        };
        if let (Some(slot), Some(guard)) = (&self.tunnels, guard.take()) {
            *slot.borrow_mut() = Some(PendingTunnel::new(open, guard));
        }
        Body::empty()
    }
}

impl Drop for GuardedResponseFuture {
    fn drop(&mut self) {
        if let Some(guard) = &self.guard {
            guard.record_abort_reason();
        }
    }
}

const CONNECTION_CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The body of a response, with the guard of its request.
pub(crate) struct ResponseBody {
    body: Body,
    /// The progress of the stream; HTTP/2 only.
    stream: Option<Rc<SendProgress>>,
    /// The stream has data for the client, whose progress is therefore watched.
    is_watched: bool,
    /// The end of the last data frame, which is sent separately; HTTP/2 only.
    tail: Bytes,
    /// An error of the body, which the next poll returns.
    failure: Option<body::Error>,
    /// `None` once the response is complete on HTTP/2. Declared after the body: see the module documentation.
    guard: Option<RequestGuard>,
}

impl ResponseBody {
    fn new(body: Body, guard: Option<RequestGuard>) -> Self {
        let stream = SendProgress::current();
        let is_watched = stream.is_some() && !body.is_end_stream();
        let mut response = Self {
            body,
            stream,
            is_watched,
            tail: Bytes::new(),
            failure: None,
            guard,
        };
        if let Some(progress) = response.watched() {
            progress.start_wait();
        }
        if response.is_end_stream() {
            response.complete();
        }
        response
    }

    /// The progress of the stream, if it is watched.
    fn watched(&self) -> Option<&Rc<SendProgress>> {
        self.stream.as_ref().filter(|_| self.is_watched)
    }

    /// Ends the request on HTTP/2, where hyper may keep the stream, and with it this value, after the last byte.
    fn complete(&mut self) {
        let Some(stream) = &self.stream else {
            return;
        };
        if self
            .guard
            .as_ref()
            .is_some_and(RequestGuard::has_unread_body)
        {
            stream.record_early_response();
        }
        self.record_abort_reason();
        // In the order of the module documentation.
        self.body = Body::empty();
        self.guard = None;
    }

    fn record_abort_reason(&self) {
        if let Some(guard) = &self.guard {
            if self
                .watched()
                .is_some_and(|progress| progress.is_timed_out())
            {
                guard.record_abort(AbortReason::Timeout);
            }
            guard.record_abort_reason();
        }
    }

    /// Turns data into the next chunk.
    ///
    /// On HTTP/2, the task of the stream ends when hyper has passed the last chunk to h2, so no timeout watches how the client
    /// takes that chunk. The last chunk is therefore small; hyper asks for it once the chunk before it fits into the flow-control
    /// window.
    fn chunk(&mut self, mut data: Bytes) -> TrackedChunk {
        let progress = self.watched().cloned();
        if let Some(progress) = &progress {
            progress.start_wait();
            if data.len() > TAIL_SIZE && self.body.is_end_stream() {
                self.tail = data.split_off(data.len() - TAIL_SIZE);
            }
        }
        TrackedChunk { data, progress }
    }
}

impl http_body::Body for ResponseBody {
    type Data = TrackedChunk;
    type Error = body::Error;

    /// hyper calls this only when the client can take a frame.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<TrackedChunk>, body::Error>>> {
        if let Some(progress) = self.watched() {
            progress.end_wait();
        }
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            let chunk = self.chunk(tail);
            if self.is_end_stream() {
                self.complete();
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        // On HTTP/1, a client that does not read gets no second frame into memory. `ConnectionDriver` polls the connection again
        // once the frame before this one is written.
        if !self.is_watched
            && let Some(guard) = &self.guard
            && guard.connection().withhold_frame()
        {
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Err(failure)) = frame {
            // On an error, hyper drops what it has not written yet, including the header section. It gets one poll to write, so
            // that the client receives all bytes that arrived, and sees that the response is truncated.
            self.failure = Some(failure);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let frame = frame.map(|frame| frame.map(|frame| frame.map_data(|data| self.chunk(data))));
        if frame.is_none() || self.is_end_stream() {
            self.complete();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_empty() && self.body.is_end_stream()
    }

    /// hyper calls this only before the first frame, when there is no tail.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.record_abort_reason();
    }
}

/// Data of a response. On HTTP/2 it reports how much of it h2 has sent: h2 buffers what the flow-control window does not allow,
/// and a client may open the window by a few bytes at a time.
pub(crate) struct TrackedChunk {
    data: Bytes,
    progress: Option<Rc<SendProgress>>,
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
        if let Some(progress) = &self.progress {
            progress.record_sent(count);
        }
    }
}

/// What a client at a minimum rate of 1 KiB/s takes within half a minute.
const TAIL_SIZE: usize = 32 * 1024;
