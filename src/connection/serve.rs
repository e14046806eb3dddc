//! Serves HTTP/1 or HTTP/2 on an open stream: hyper's connection, wired to the watch and the service.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::closing::{CLOSE, close};
use super::drive::{CloseReason, ConnectionDriver, GracefulConnection};
use super::early_response::EarlyStreams;
use super::heard::{Http1Inspector, Http2Inspector, InspectedStream};
use super::served::{RequestGuard, ResponseBody};
use super::streams::StreamExecutor;
use super::watch::{ConnectionState, TimeoutKind};
use super::{
    ConnectionContext, ConnectionInfo, Handler, IncomingRequest, ResponseFuture, ShutdownSignal,
};
use crate::body::{ConnectionShare, UploadState};
use crate::metrics::{Connections, Protocol};

/// A connection whose stream is open and whose HTTP version is known.
pub(super) struct Connection<'a, S> {
    info: Arc<ConnectionInfo>,
    terms: ConnectionContext<'a>,
    watch: Arc<ConnectionState>,
    service: S,
}

impl<'a, S: Handler> Connection<'a, S> {
    pub(super) fn new(
        info: ConnectionInfo,
        terms: ConnectionContext<'a>,
        watch: Arc<ConnectionState>,
        service: S,
    ) -> Self {
        Self {
            info: Arc::new(info),
            terms,
            watch,
            service,
        }
    }

    /// Serves HTTP/1.0 and 1.1.
    ///
    /// Not `async` as a whole, here as below: its future would keep room for what the stream is moved out of, and there
    /// may be thousands of idle ones.
    pub(super) fn http1<IO>(self, stream: IO) -> impl Future<Output = ()> + Send + use<'a, IO, S>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let watch = Arc::clone(&self.watch);
        watch.set_protocol(false);
        let counts = self.terms.counts;
        let protocol = match self.info.tls {
            Some(_) => Protocol::Http1,
            None => Protocol::Plain,
        };
        let open = counts.open(protocol);
        let stream = InspectedStream::new(stream, Http1Inspector::new(&watch));
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            // The watch has this deadline, and more exactly: hyper's would count idle time as head.
            .header_read_timeout(None)
            .max_header_size(self.terms.settings.head_size)
            // hyper's 408 KiB would hold three frames of an upload, or of a download, that the other side does not take.
            .max_buf_size(self.terms.settings.head_size.max(BUFFERED))
            .serve_connection(TokioIo::new(stream), service_fn(self.requests(None)));
        let Self { info, terms, .. } = self;
        async move {
            let _open = open;
            let drain = terms.drain.clone();
            let end = ConnectionDriver::new(&mut http, &watch, terms.drain).await;
            note_end(&info, &watch, &end, counts);
            let stream = http.into_parts().io.into_inner().into_inner();
            Box::pin(close(stream, end, &watch, drain)).await;
        }
    }

    /// Serves HTTP/2.
    pub(super) fn http2<IO>(self, stream: IO) -> impl Future<Output = ()> + Send + use<'a, IO, S>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let watch = Arc::clone(&self.watch);
        watch.set_protocol(true);
        let counts = self.terms.counts;
        let open = counts.open(Protocol::Http2);
        let group = self.info.client.network().group();
        let holding = ConnectionShare::new(self.terms.budget, group);
        let stream = InspectedStream::new(stream, Http2Inspector::new(&watch, &holding));
        let requests = service_fn(self.requests(Some(Arc::clone(&holding))));
        let settings = self.terms.settings;
        let head_size = u32::try_from(settings.head_size).unwrap_or(u32::MAX);
        let early = EarlyStreams::new(&self.info, &self.terms, &watch);
        let streams = StreamExecutor::new(settings.write_idle, settings.floor, &holding, early);
        let connection = http2::Builder::new(streams)
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.h2_streams)
            .max_pending_accept_reset_streams(settings.h2_resets.min(UNSEEN_RESETS))
            .max_local_error_reset_streams(settings.h2_resets)
            .initial_stream_window_size(settings.h2_window)
            .initial_connection_window_size(settings.h2_connection_window)
            .max_header_list_size(head_size)
            .serve_connection(TokioIo::new(stream), requests);
        let mut http = Http2 {
            connection,
            holding,
        };
        let Self { info, terms, .. } = self;
        async move {
            let _open = open;
            let end = ConnectionDriver::new(&mut http, &watch, terms.drain).await;
            // Nothing is heard of the client any more.
            watch.set_open_requests(0);
            note_end(&info, &watch, &end, counts);
            if let CloseReason::Late(TimeoutKind::Idle | TimeoutKind::Head) = end {
                // A goodbye (GOAWAY) and a bounded time to send it.
                http.shut_down();
                let _ = timeout(CLOSE, &mut http.connection).await;
            }
        }
    }

    /// hyper's view of the service: counts requests in and answers out. With `holding`, what comes of a body is held.
    fn requests(
        &self,
        holding: Option<Arc<ConnectionShare>>,
    ) -> impl Fn(Request<Incoming>) -> GuardedResponseFuture + use<S> {
        let service = self.service.clone();
        let info = Arc::clone(&self.info);
        let drain = self.terms.drain.clone();
        let watch = Arc::clone(&self.watch);
        move |request| {
            let received = Arc::new(received(&request, holding.as_ref()));
            let running = RequestGuard::begin(&watch, &received);
            let http1 = request.version() < Version::HTTP_2;
            let exchange = IncomingRequest {
                request,
                connection: Arc::clone(&info),
                received,
            };
            let drain = http1.then(|| drain.clone());
            GuardedResponseFuture {
                answer: service.answer(exchange),
                running: Some(running),
                drain,
            }
        }
    }
}

/// Who asks for a tunnel may take whatever follows for its contents: it is left unread, and the connection closed.
fn received(request: &Request<Incoming>, holding: Option<&Arc<ConnectionShare>>) -> UploadState {
    if request.body().is_end_stream() && request.method() != Method::CONNECT {
        let received = UploadState::default();
        received.end();
        return received;
    }
    holding.map_or_else(UploadState::default, UploadState::with_share)
}

/// The future of an answer that carries its request's guard on into the body.
struct GuardedResponseFuture {
    answer: ResponseFuture,
    running: Option<RequestGuard>,
    /// On HTTP/1, where an answer says whether the connection goes on.
    drain: Option<ShutdownSignal>,
}

impl Future for GuardedResponseFuture {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(Ok(mut response)) = self.answer.as_mut().poll(cx) else {
            return Poll::Pending;
        };
        // The stream may be kept after its response, and what made the response is not to be kept with it.
        self.answer = Box::pin(std::future::pending());
        let running = self.running.take();
        if let Some(drain) = &self.drain {
            let unread = running.as_ref().is_some_and(RequestGuard::is_unread);
            if unread || drain.has_begun() {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, CLOSE_VALUE);
            }
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, running))))
    }
}

impl Drop for GuardedResponseFuture {
    /// Before the answer, whose drop writes the log.
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.note_cut();
        }
    }
}

impl<I, S> GracefulConnection for http1::Connection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = ResponseBody> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Unpin,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.poll_without_shutdown(cx)
    }

    fn shut_down(&mut self) {
        Pin::new(self).graceful_shutdown();
    }

    fn close_when_idle(&self) -> bool {
        true
    }

    /// hyper closes an idle connection at once, and a request that is on the wire would be lost.
    fn drain_timeout(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// hyper's connection, and what its requests hold.
struct Http2<C> {
    connection: C,
    holding: Arc<ConnectionShare>,
}

impl<I, S> GracefulConnection for Http2<http2::Connection<I, S, StreamExecutor>>
where
    S: hyper::service::HttpService<Incoming, ResBody = ResponseBody> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.holding.begin_poll();
        Pin::new(&mut self.connection).poll(cx)
    }

    fn shut_down(&mut self) {
        Pin::new(&mut self.connection).graceful_shutdown();
    }

    /// The goodbye is a conversation.
    fn close_when_idle(&self) -> bool {
        false
    }

    /// GOAWAY comes in two steps by itself (RFC 9113 section 6.8).
    fn drain_timeout(&self) -> Duration {
        Duration::ZERO
    }
}

fn note_end(
    info: &ConnectionInfo,
    watch: &ConnectionState,
    end: &CloseReason,
    counts: &Connections,
) {
    let counter = match end {
        CloseReason::Done => &counts.done,
        CloseReason::Broken(_) => &counts.error,
        CloseReason::Late(TimeoutKind::Head) => &counts.head_timeout,
        CloseReason::Late(TimeoutKind::Idle) => &counts.idle_timeout,
        CloseReason::Late(TimeoutKind::Write) => &counts.write_timeout,
        CloseReason::Abused => &counts.http2_abuse,
    };
    counter.count();
    let client = info.client;
    if let CloseReason::Late(late) = end {
        watch.record_timeout(*late);
    }
    match end {
        CloseReason::Done => tracing::trace!(%client, "connection closed"),
        CloseReason::Broken(error) => tracing::debug!(%client, %error, "connection broken"),
        CloseReason::Late(late) => {
            let reason = match late {
                TimeoutKind::Head => "the head of a request did not end in time",
                TimeoutKind::Idle => "no request came",
                TimeoutKind::Write => "the client took nothing, or too little",
            };
            tracing::debug!(%client, "connection closed: {reason}");
        }
        CloseReason::Abused => {
            tracing::debug!(%client, "connection closed: too many resets or idle frames")
        }
    }
}

/// Streams that a client may reset before the gate has looked at them; as h2 has it.
const UNSEEN_RESETS: usize = 20;
/// Bytes of an answer that may wait for the client when another frame of it is asked for.
const BUFFERED: usize = 16 * 1024;
const CLOSE_VALUE: HeaderValue = HeaderValue::from_static("close");

#[cfg(test)]
mod tests;
