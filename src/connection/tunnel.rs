//! A tunnel between a client and an upstream, after a WebSocket handshake (RFC 6455) has taken the connection out of HTTP/1.1.
//!
//! `response` finds the tunnel in the body of the 101 response and leaves it in the [`TunnelSlot`] of the connection. When hyper
//! has written the response, `serve` takes the tunnel and the socket, and [`PendingTunnel::run`] copies bytes in both directions
//! until both sides have ended, one side has broken the connection, nothing has passed for a while, or the tunnel is ended from
//! outside. The content is not inspected.
//!
//! Each direction holds at most one buffer here, from the read to the complete write, so the slower side slows the faster one down,
//! and a tunnel without traffic holds no buffer. The client is subject to `limits.write_idle` and `limits.min_rate` as in a
//! download.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::close::CLOSE_TIMEOUT;
use super::driver::CloseReason;
use super::request_guard::RequestGuard;
use super::state::{ConnectionState, TimeoutKind};
use crate::body::{self, BodyEnd, Observer, OpenTunnel, Tunnel};
use crate::buffer_pool::Buffer;

/// Where the tunnel of a connection waits until hyper has written the 101 response.
///
/// It is not a part of [`ConnectionState`], which the guard of the request refers to: the two would keep each other alive.
pub(crate) type TunnelSlot = Rc<RefCell<Option<PendingTunnel>>>;

/// A tunnel that is about to begin, with the guard of its request.
pub(crate) struct PendingTunnel {
    /// `None` once [`Self::run`] copies the bytes.
    tunnel: Option<Tunnel>,
    observer: Option<Box<dyn Observer>>,
    /// The number of bytes that the client has got.
    sent: u64,
    /// Declared last: the request ends after its access log line is written (see `response`).
    guard: RequestGuard,
}

impl PendingTunnel {
    pub(crate) fn new(open: OpenTunnel, guard: RequestGuard) -> Self {
        let OpenTunnel { tunnel, observer } = open;
        Self {
            tunnel: Some(tunnel),
            observer,
            sent: 0,
            guard,
        }
    }

    /// Copies bytes between `client` and the upstream until the tunnel ends, and closes both connections. `early` are the bytes
    /// that the client sent before it had the response. Returns why the connection of the client is closed.
    pub(crate) async fn run<IO>(
        mut self,
        mut client: IO,
        early: Vec<u8>,
        state: &ConnectionState,
    ) -> CloseReason
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(tunnel) = self.tunnel.take() else {
            return CloseReason::Done;
        };
        // This closes the connection to the upstream first: a request that has displaced the tunnel may be waiting for it.
        let end = self.copy(&mut client, tunnel, early, state).await;
        let reason = match &end {
            End::TimedOut => {
                state.record_timeout(TimeoutKind::Write);
                CloseReason::TimedOut(TimeoutKind::Write)
            }
            // Both directions were closed after their last byte, or the client has closed.
            End::Complete | End::ClientGone => CloseReason::Done,
            End::UpstreamBroken(_) | End::Silent(_) | End::Cut | End::Displaced => {
                let _ = timeout(CLOSE_TIMEOUT, client.shutdown()).await;
                CloseReason::Done
            }
        };
        self.report_end(end);
        reason
    }

    async fn copy<IO>(
        &mut self,
        client: &mut IO,
        mut tunnel: Tunnel,
        early: Vec<u8>,
        state: &ConnectionState,
    ) -> End
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut upload = TunnelFlow::new(early.into());
        let mut download = TunnelFlow::new(std::mem::take(&mut tunnel.first));
        let mut deadline = TunnelDeadline::new(tunnel.max_silence);
        // The upstream takes no more bytes. Those that it sent before may still be on their way to the client.
        let mut upload_error = None;
        poll_fn(|cx| {
            if let Poll::Ready(end) = self.poll_interrupted(&tunnel, cx) {
                return Poll::Ready(end);
            }
            let mut up = upload.poll(client, &mut tunnel.upstream, cx);
            if let Poll::Ready(Err(Failure::Write(error))) = up {
                upload.abandon();
                upload_error = Some(error);
                up = Poll::Ready(Ok(()));
            }
            let down = download.poll(&mut tunnel.upstream, client, cx);
            if self.count(&tunnel, upload.take_moved(), download.take_moved()) {
                deadline.record_progress();
            }
            let is_client_closed = up.is_ready() && upload_error.is_none();
            match (up, down) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(Failure::Write(_)))) => {
                    return Poll::Ready(End::ClientGone);
                }
                (_, Poll::Ready(Err(Failure::Read(error)))) => {
                    return Poll::Ready(End::UpstreamBroken(error));
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                    return Poll::Ready(match upload_error.take() {
                        Some(error) => End::UpstreamBroken(error),
                        None => End::Complete,
                    });
                }
                (Poll::Pending, Poll::Pending) => {}
                (Poll::Ready(Ok(())), Poll::Pending) | (Poll::Pending, Poll::Ready(Ok(()))) => {
                    deadline.record_half_close(if is_client_closed {
                        TunnelSide::Client
                    } else {
                        TunnelSide::Upstream
                    });
                }
            }
            deadline.poll(state, cx)
        })
        .await
    }

    /// Ready if the tunnel is ended from outside.
    fn poll_interrupted(&mut self, tunnel: &Tunnel, cx: &Context<'_>) -> Poll<End> {
        if let Some(observer) = &mut self.observer
            && observer.poll_cut(cx).is_ready()
        {
            return Poll::Ready(End::Cut);
        }
        let displaced = tunnel.upstream.poll_displaced(cx);
        displaced.map(|()| End::Displaced)
    }

    /// Counts bytes that were passed to the upstream and to the client. Returns whether there were any.
    fn count(&mut self, tunnel: &Tunnel, received: usize, sent: usize) -> bool {
        if received + sent == 0 {
            return false;
        }
        tunnel.upstream.record_transfer(received + sent);
        self.sent += sent as u64;
        if let Some(observer) = &mut self.observer {
            if received > 0 {
                observer.on_received(received);
            }
            if sent > 0 {
                observer.on_data(sent);
            }
        }
        true
    }

    /// Reports an end for which the client is not the reason; `Drop` reports the others.
    fn report_end(&mut self, end: End) {
        let error = match end {
            End::Complete => None,
            End::Silent(time) => Some(body::Error::Silent(time)),
            End::Cut => Some(body::Error::Cut),
            End::Displaced => Some(body::Error::Displaced),
            End::UpstreamBroken(error) => Some(body::Error::Upstream(Box::new(error))),
            End::ClientGone | End::TimedOut => return,
        };
        if let Some(observer) = self.observer.take() {
            let end = error.as_ref().map_or(BodyEnd::Whole, BodyEnd::Broken);
            observer.on_end(self.sent, end);
        }
    }
}

impl Drop for PendingTunnel {
    /// Reports a tunnel that has not ended by itself: the client has left or does not read, or the proxy shuts down.
    fn drop(&mut self) {
        self.guard.record_abort_reason();
        if let Some(observer) = self.observer.take() {
            observer.on_end(self.sent, BodyEnd::Dropped);
        }
    }
}

/// One side of a tunnel.
#[derive(Clone, Copy)]
enum TunnelSide {
    Client,
    Upstream,
}

/// The deadline of a tunnel: for the silence of both sides, and for a client that does not read.
struct TunnelDeadline {
    max_silence: Duration,
    last_progress: Instant,
    half_closed_by: Option<TunnelSide>,
    timer: Pin<Box<Sleep>>,
}

impl TunnelDeadline {
    fn new(max_silence: Duration) -> Self {
        Self {
            max_silence,
            last_progress: Instant::now(),
            half_closed_by: None,
            timer: Box::pin(sleep(max_silence)),
        }
    }

    /// Records that bytes were passed on.
    fn record_progress(&mut self) {
        self.last_progress = Instant::now();
    }

    /// Records which side has closed its direction first. From then on, the other side has [`HALF_CLOSED_SILENCE`] at most.
    fn record_half_close(&mut self, side: TunnelSide) {
        if self.half_closed_by.is_none() {
            self.last_progress = Instant::now();
            self.max_silence = self.max_silence.min(HALF_CLOSED_SILENCE);
            self.half_closed_by = Some(side);
        }
    }

    /// Ready when a deadline has passed. As in `driver`, a deadline that moves to a later time is noticed when the timer fires.
    fn poll(&mut self, state: &ConnectionState, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let silent_until = self.last_progress.checked_add(self.max_silence);
            let blocked_until = state.deadline().map(|(at, _)| at);
            let Some(wakeup) = silent_until.into_iter().chain(blocked_until).min() else {
                return Poll::Pending;
            };
            if wakeup < self.timer.deadline() {
                self.timer.as_mut().reset(wakeup);
            }
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if blocked_until.is_some_and(|at| at <= now) {
                return Poll::Ready(End::TimedOut);
            }
            if silent_until.is_some_and(|at| at <= now) {
                return Poll::Ready(match self.half_closed_by {
                    Some(TunnelSide::Client) => End::ClientGone,
                    Some(TunnelSide::Upstream) | None => End::Silent(self.max_silence),
                });
            }
            self.timer.as_mut().reset(wakeup);
        }
    }
}

/// How a tunnel ended.
#[derive(Debug)]
enum End {
    /// Both sides have closed, and every byte was passed on.
    Complete,
    /// The client broke the connection, or closed its direction and got nothing more from the upstream.
    ClientGone,
    /// The client does not read, or reads too slowly.
    TimedOut,
    /// No byte has passed for this time.
    Silent(Duration),
    /// An operator has ended the tunnel.
    Cut,
    /// Other requests needed the upstream connection.
    Displaced,
    /// The upstream broke the connection.
    UpstreamBroken(io::Error),
}

/// Why a direction of a tunnel cannot continue.
enum Failure {
    Read(io::Error),
    Write(io::Error),
}

/// One direction of a tunnel.
struct TunnelFlow {
    /// Bytes that arrived before the tunnel began.
    early: Bytes,
    /// Bytes that were read, the first `written` of which the other side has.
    buffer: Option<Buffer>,
    written: usize,
    /// The number of written bytes since the last [`Self::take_moved`].
    moved: usize,
    must_flush: bool,
    state: FlowState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FlowState {
    Open,
    /// The end of the stream was read, and is to be passed on.
    Ending,
    Closed,
}

impl TunnelFlow {
    fn new(early: Bytes) -> Self {
        Self {
            early,
            buffer: None,
            written: 0,
            moved: 0,
            must_flush: false,
            state: FlowState::Open,
        }
    }

    /// Ends this direction of the tunnel, because the side that receives takes no more bytes. Bytes that were read and not yet
    /// written are lost.
    fn abandon(&mut self) {
        (self.early, self.buffer, self.written) = (Bytes::new(), None, 0);
        self.state = FlowState::Closed;
    }

    /// Returns the number of bytes that were written since the last call.
    fn take_moved(&mut self) -> usize {
        std::mem::take(&mut self.moved)
    }

    /// Passes on what `from` has, as far as `to` takes it. Ready once the end of the stream was passed on, too.
    fn poll<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            ready!(self.poll_write(to, cx)).map_err(Failure::Write)?;
            match self.state {
                FlowState::Closed => return Poll::Ready(Ok(())),
                FlowState::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Failure::Write)?;
                    self.state = FlowState::Closed;
                    return Poll::Ready(Ok(()));
                }
                FlowState::Open => {}
            }
            let mut buffer = Buffer::small();
            match buffer.poll_read(from, cx) {
                Poll::Pending => {
                    drop(buffer);
                    if self.must_flush {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Failure::Write)?;
                        self.must_flush = false;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => self.state = FlowState::Ending,
                // FIN without close_notify, as many clients close. A WebSocket says itself whether it is complete (RFC 6455
                // section 7.1.5).
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.state = FlowState::Ending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Read(error))),
                Poll::Ready(Ok(count)) => {
                    buffer.grow(count);
                    self.buffer = Some(buffer);
                }
            }
        }
    }

    /// Ready when everything that was read is written.
    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.early.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.early))?;
            let count = self.accept(count)?;
            self.early.advance(count);
        }
        // An empty slice would keep the buffer, of which the bytes were a part.
        self.early = Bytes::new();
        while let Some(buffer) = &self.buffer {
            let rest = buffer.filled().get(self.written..).unwrap_or_default();
            let count = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            let is_last = count >= rest.len();
            self.written += self.accept(count)?;
            if is_last {
                (self.buffer, self.written) = (None, 0);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Counts written bytes. A socket that takes none of several bytes is an error, or the loop would not end.
    fn accept(&mut self, count: usize) -> io::Result<usize> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.moved += count;
        self.must_flush = true;
        Ok(count)
    }
}

/// How long the second direction of a tunnel may be silent after the first one has ended. A WebSocket ends with one message in
/// each direction (RFC 6455 section 7.1.1).
const HALF_CLOSED_SILENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, ReadBuf};

    use super::*;
    use crate::body::{MinRate, TunnelEnd, UploadState};
    use crate::connection::Settings;
    use crate::connection::shutdown::ShutdownTrigger;

    /// An upstream that has sent `rest` and has closed: a write fails, as after an RST, and reads still return what has arrived.
    struct ClosedUpstream {
        rest: Vec<u8>,
    }

    impl AsyncRead for ClosedUpstream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = self.rest.len().min(out.remaining()).min(1000);
            let read: Vec<u8> = self.rest.drain(..count).collect();
            out.put_slice(&read);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for ClosedUpstream {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl TunnelEnd for ClosedUpstream {
        fn poll_displaced(&self, _: &Context<'_>) -> Poll<()> {
            Poll::Pending
        }

        fn record_transfer(&self, _: usize) {}
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_slow_client_gets_what_the_upstream_sent_before_it_closed() {
        let hour = Duration::from_secs(3600);
        let settings = Settings {
            handshake: hour,
            head: hour,
            head_size: 1000,
            idle: hour,
            write_idle: hour,
            min_rate: MinRate {
                rate: 1,
                window: hour,
            },
            h2_streams: 1,
            h2_resets: 1,
            h2_window: 1,
            h2_connection_window: 1,
        };
        let state = Rc::new(ConnectionState::new(
            &settings,
            ShutdownTrigger::new().subscribe(),
        ));
        let sent: Vec<u8> = (0..100_000_u32).map(|byte| byte as u8).collect();
        let open = OpenTunnel {
            tunnel: Tunnel {
                upstream: Box::new(ClosedUpstream { rest: sent.clone() }),
                first: Bytes::new(),
                max_silence: hour,
            },
            observer: None,
        };
        let guard = RequestGuard::new(&state, &Arc::new(UploadState::default()));
        let (near, mut far) = tokio::io::duplex(64);
        let tunnel = PendingTunnel::new(open, guard);
        let mut received = Vec::new();
        let (reason, read) = tokio::join!(
            tunnel.run(near, b"a frame".to_vec(), &state),
            far.read_to_end(&mut received)
        );
        assert_eq!(read.unwrap(), sent.len());
        assert!(received == sent && matches!(reason, CloseReason::Done));
    }

    #[tokio::test]
    async fn early_bytes_are_released_when_they_are_written() {
        let owner = Arc::new([7; 100]);
        let early = Bytes::from_owner(SharedBytes(Arc::clone(&owner)));
        let mut flow = TunnelFlow::new(early.slice(..50));
        drop(early);
        assert_eq!(Arc::strong_count(&owner), 2);
        let (mut near, _far) = tokio::io::duplex(1000);
        poll_fn(|cx| flow.poll_write(&mut near, cx)).await.unwrap();
        assert_eq!(flow.take_moved(), 50);
        assert_eq!(Arc::strong_count(&owner), 1, "the tunnel keeps the buffer");
    }

    struct SharedBytes(Arc<[u8; 100]>);

    impl AsRef<[u8]> for SharedBytes {
        fn as_ref(&self) -> &[u8] {
            &*self.0
        }
    }
}
