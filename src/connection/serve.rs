//! Serves HTTP/1 or HTTP/2 on an open stream: configures hyper's connection, and connects it to the connection state and the
//! handler.
//!
//! `connection` calls it once the HTTP version is known. `driver` then polls the connection to its end, and `close` closes it.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::close::{CLOSE_TIMEOUT, close, linger};
use super::driver::{CloseReason, ConnectionDriver, GracefulConnection};
use super::early_response::{EarlyResponses, EarlyStreams};
use super::h2_executor::StreamExecutor;
use super::inspect::{Http1Inspector, Http2Inspector, InspectedStream};
use super::request::{ConnectionInfo, Handler, IncomingRequest};
use super::request_guard::RequestGuard;
use super::response::{GuardedResponseFuture, ResponseBody};
use super::settings::Settings;
use super::shared_stream::SharedStream;
use super::shutdown::ShutdownSignal;
use super::state::{ConnectionState, TimeoutKind};
use super::tunnel::TunnelSlot;
use crate::body::{ConnectionShare, RecvBudget, UploadState};
use crate::metrics::{Connections, Protocol};
use crate::net::addr::ClientAddr;
use crate::tls::SendHold;

/// What a connection shares with the rest of the process.
#[derive(Clone, Debug)]
pub struct ConnectionContext<'a> {
    /// The limits of the connection.
    pub settings: &'a Settings,
    /// The memory for unread HTTP/2 request bodies of all connections.
    pub recv_budget: &'a Arc<RecvBudget>,
    /// The HTTP/2 streams of all connections that are kept after an early response.
    pub early_responses: &'a EarlyResponses,
    /// Reports the graceful shutdown.
    pub shutdown: ShutdownSignal,
    /// Counts connections and how they end.
    pub metrics: &'a Connections,
}

/// A connection whose stream is open and whose HTTP version is known.
pub(crate) struct HttpConnection<'a, H> {
    info: Arc<ConnectionInfo>,
    context: ConnectionContext<'a>,
    state: Rc<ConnectionState>,
    handler: H,
}

impl<'a, H: Handler> HttpConnection<'a, H> {
    pub(crate) fn new(
        info: ConnectionInfo,
        context: ConnectionContext<'a>,
        state: Rc<ConnectionState>,
        handler: H,
    ) -> Self {
        Self {
            info: Arc::new(info),
            context,
            state,
            handler,
        }
    }

    /// Serves HTTP/1.0 and HTTP/1.1 until the connection is closed.
    ///
    /// Neither this function nor [`Self::http2`] is an `async fn`: the future of an `async fn` would keep room for the stream
    /// in addition to hyper's connection, into which the stream is moved, and there may be thousands of idle connections.
    pub(crate) fn http1<IO>(self, stream: IO) -> impl Future<Output = ()> + use<'a, IO, H>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let state = Rc::clone(&self.state);
        state.set_protocol(false);
        let metrics = self.context.metrics;
        let protocol = match self.info.tls {
            Some(_) => Protocol::Http1,
            None => Protocol::Plain,
        };
        let open_connection = metrics.open(protocol);
        let head_size = self.context.settings.head_size;
        let stream = InspectedStream::new(stream, Http1Inspector::new(&state));
        let tunnels = TunnelSlot::default();
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            // `ConnectionState` has this deadline, and is more exact: hyper would count idle time as a part of the head.
            .header_read_timeout(None)
            .max_header_size(head_size)
            // With hyper's default of 408 KiB, three frames of an upload or a download that the other side does not take would
            // be in memory.
            .max_buf_size(head_size.max(WRITE_BUFFER_SIZE))
            .serve_connection(
                TokioIo::new(stream),
                service_fn(self.service(None, Some(&tunnels))),
            );
        let Self { info, context, .. } = self;
        async move {
            let _open_connection = open_connection;
            let shutdown = context.shutdown.clone();
            let reason = ConnectionDriver::new(&mut http, &state, context.shutdown).await;
            let tunnel = tunnels.take();
            if tunnel.is_none() {
                // Before hyper drops the response body, which is logged with the timeout that is recorded here.
                record_close(&info, &state, &reason, metrics);
            }
            let http1::Parts { io, read_buf, .. } = http.into_parts();
            let (stream, early) = io.into_inner().into_parts();
            if let Some(tunnel) = tunnel {
                let is_response_sent =
                    matches!(reason, CloseReason::Done) && !state.is_write_blocked();
                // Otherwise the client could take bytes of the tunnel for the rest of the response, or hyper has bytes of it.
                if is_response_sent && read_buf.is_empty() {
                    let reason = Box::pin(tunnel.run(stream, early, &state)).await;
                    return record_close(&info, &state, &reason, metrics);
                }
                record_close(&info, &state, &reason, metrics);
            }
            Box::pin(close(stream, reason, &state, shutdown)).await;
        }
    }

    /// Serves HTTP/2 until the connection is closed. `hold` is the one of the TLS stream.
    pub(crate) fn http2<IO>(
        self,
        stream: IO,
        hold: SendHold,
    ) -> impl Future<Output = ()> + use<'a, IO, H>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let state = Rc::clone(&self.state);
        state.set_protocol(true);
        let metrics = self.context.metrics;
        let open_connection = metrics.open(Protocol::Http2);
        let settings = self.context.settings;
        let network = self.info.client.network();
        let share = ConnectionShare::new(self.context.recv_budget, network.group());
        let inspector = Http2Inspector::new(&state, &share);
        let stream = SharedStream::new(InspectedStream::new(stream, inspector));
        let service = service_fn(self.service(Some(Arc::clone(&share)), None));
        let early = EarlyStreams::new(
            self.context.early_responses,
            network,
            settings.h2_streams,
            &state,
            self.context.shutdown.clone(),
        );
        let executor = StreamExecutor::new(settings.write_idle, settings.min_rate, &share, early);
        let head_size = u32::try_from(settings.head_size).unwrap_or(u32::MAX);
        let connection = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.h2_streams)
            .max_pending_accept_reset_streams(settings.h2_resets.min(MAX_PENDING_RESETS))
            .max_local_error_reset_streams(settings.h2_resets)
            .initial_stream_window_size(settings.h2_window)
            .initial_connection_window_size(settings.h2_connection_window)
            .max_header_list_size(head_size)
            .serve_connection(TokioIo::new(stream.clone()), service);
        let mut http = Http2Connection {
            connection,
            share,
            stream,
            hold,
        };
        let Self { info, context, .. } = self;
        async move {
            let _open_connection = open_connection;
            let reason = ConnectionDriver::new(&mut http, &state, context.shutdown).await;
            // No frame of the client is read any more, so its requests count as ended and kept streams are dropped.
            state.set_open_requests(0);
            record_close(&info, &state, &reason, metrics);
            let is_shut_down = match reason {
                CloseReason::Done => true,
                CloseReason::TimedOut(TimeoutKind::Idle | TimeoutKind::Head) => {
                    // Send GOAWAY, within a bounded time.
                    http.shut_down();
                    let closed = timeout(CLOSE_TIMEOUT, &mut http.connection).await;
                    matches!(closed, Ok(Ok(())))
                }
                _ => false,
            };
            let Http2Connection {
                connection, stream, ..
            } = http;
            drop(connection);
            if is_shut_down && let Some(stream) = stream.into_inner() {
                // The client may still be reading the last response, and sends WINDOW_UPDATE frames meanwhile. The box takes
                // the stream, so that an idle connection has no room for it.
                let (mut stream, _) = stream.into_parts();
                Box::pin(async move { linger(&mut stream).await }).await;
            }
        }
    }

    /// Returns hyper's service, which passes each request to the handler. On HTTP/2, request bodies have a part in `share`; on
    /// HTTP/1, a tunnel that a response begins is put into `tunnels`.
    fn service(
        &self,
        share: Option<Arc<ConnectionShare>>,
        tunnels: Option<&TunnelSlot>,
    ) -> impl Fn(Request<Incoming>) -> GuardedResponseFuture + use<H> {
        let handler = self.handler.clone();
        let info = Arc::clone(&self.info);
        let state = Rc::clone(&self.state);
        let tunnels = tunnels.cloned();
        move |request| {
            let upload = Arc::new(upload_state(&request, share.as_ref()));
            let guard = RequestGuard::new(&state, &upload);
            let is_http_10 = request.version() == Version::HTTP_10;
            state.set_end_marked_by_close(is_http_10 && info.tls.is_none());
            let may_switch =
                request.headers().contains_key(header::UPGRADE) && request.body().is_end_stream();
            let future = handler.handle(IncomingRequest {
                request,
                connection: Arc::clone(&info),
                upload,
            });
            GuardedResponseFuture::new(future, tunnels.clone(), may_switch, guard)
        }
    }
}

/// The state of the request body before any of it is read.
///
/// A client that sends CONNECT may send the bytes of the tunnel next. The body of such a request counts as unread even if it is
/// empty, so that the connection is closed after the response.
fn upload_state(request: &Request<Incoming>, share: Option<&Arc<ConnectionShare>>) -> UploadState {
    if request.body().is_end_stream() && request.method() != Method::CONNECT {
        let upload = UploadState::default();
        upload.end();
        return upload;
    }
    share.map_or_else(UploadState::default, UploadState::with_share)
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

    /// hyper closes an idle connection immediately, which would lose a request that the client has already sent.
    fn drain_timeout(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// hyper's HTTP/2 connection, with the share of the receive budget that must be updated before each poll, and with the stream
/// that is flushed after each poll.
struct Http2Connection<C, IO> {
    connection: C,
    share: Arc<ConnectionShare>,
    stream: SharedStream<IO>,
    hold: SendHold,
}

impl<I, S, IO> GracefulConnection for Http2Connection<http2::Connection<I, S, StreamExecutor>, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = ResponseBody> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Unpin + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.share.begin_poll();
        self.hold.begin();
        let result = Pin::new(&mut self.connection).poll(cx);
        if self.hold.release() && self.stream.flush(cx).is_err() && result.is_pending() {
            // The stream returns the error to hyper.
            return Pin::new(&mut self.connection).poll(cx);
        }
        result
    }

    fn shut_down(&mut self) {
        Pin::new(&mut self.connection).graceful_shutdown();
    }

    /// The two GOAWAY frames need a round trip in between.
    fn close_when_idle(&self) -> bool {
        false
    }

    /// h2 sends GOAWAY in two steps itself (RFC 9113 section 6.8), and serves the requests that arrive in between.
    fn drain_timeout(&self) -> Duration {
        Duration::ZERO
    }
}

/// Counts and logs why the connection is closed, and records a timeout for the requests that are dropped with it.
fn record_close(
    info: &ConnectionInfo,
    state: &ConnectionState,
    reason: &CloseReason,
    metrics: &Connections,
) {
    let client = info.client;
    match reason {
        CloseReason::Done => {
            metrics.done.count();
            tracing::trace!(%client, "connection closed");
        }
        CloseReason::Broken(error) => {
            metrics.error.count();
            tracing::debug!(%client, %error, "connection broken");
        }
        CloseReason::TimedOut(kind) => {
            state.record_timeout(*kind);
            record_timeout(*kind, client, metrics);
        }
        CloseReason::Abuse => {
            metrics.http2_abuse.count();
            tracing::debug!(
                %client,
                "connection closed: more stream resets than limits.h2_resets allows, or a flood of control frames"
            );
        }
    }
}

/// Counts and logs a connection that is closed because a wait took too long.
pub(crate) fn record_timeout(kind: TimeoutKind, client: ClientAddr, metrics: &Connections) {
    let (counter, cause) = match kind {
        TimeoutKind::Head => (
            &metrics.head_timeout,
            "the head of a request was not complete within limits.head",
        ),
        TimeoutKind::Idle => (&metrics.idle_timeout, "no request within limits.idle"),
        TimeoutKind::Write => (
            &metrics.write_timeout,
            "the client read nothing within limits.write_idle, or less than limits.min_rate",
        ),
    };
    counter.count();
    tracing::debug!(%client, "connection closed: {cause}");
}

/// The number of streams that a client may reset before the proxy has accepted them; the same as h2's default.
const MAX_PENDING_RESETS: usize = 20;
/// The number of bytes of a response that may wait for the client when hyper polls the body for another frame.
const WRITE_BUFFER_SIZE: usize = 16 * 1024;

#[cfg(test)]
mod tests;
