//! The stream of a connection above TLS: what HTTP is read from, and who listens.
//!
//! `serve` puts it between TLS and hyper. It is above TLS because TLS may hold bytes of a head that came with the
//! handshake's end. What the bytes mean is said in `framing` and `frames`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{ClientFrames, FrameScanner};
use super::framing::{FramingViolation, Region, RequestFramingValidator};
use super::watch::ConnectionState;
use crate::body::ConnectionShare;

/// Who hears what HTTP is read from and written to.
pub(super) trait ByteInspector {
    /// Ready when there may be a read, or with the error that takes its place.
    fn poll_read_on(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>>;

    /// These bytes came, at least one; the listener says how many of them go on.
    fn read(&mut self, bytes: &mut [u8]) -> usize;

    /// These bytes were sent.
    fn wrote(&mut self, _: &[u8]) {}
}

/// HTTP/1: heads begin and end, and nothing in doubtful framing goes on.
pub(super) struct Http1Inspector {
    watch: Arc<ConnectionState>,
    framing: RequestFramingValidator,
    refused: Option<Region>,
}

impl Http1Inspector {
    pub(super) fn new(watch: &Arc<ConnectionState>) -> Self {
        Self {
            watch: Arc::clone(watch),
            framing: RequestFramingValidator::default(),
            refused: None,
        }
    }
}

impl ByteInspector for Http1Inspector {
    fn poll_read_on(&mut self, _: &Context<'_>) -> Poll<io::Result<()>> {
        match self.refused {
            None => Poll::Ready(Ok(())),
            Some(Region::Body) => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            // hyper has all that it is to have, and answers that.
            Some(Region::Head | Region::Behind) => Poll::Pending,
        }
    }

    /// What is refused comes as if it had not: the next read tells.
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let followed = self.framing.read(bytes);
        let has_ended = self.framing.has_ended_head();
        self.watch
            .record_head_progress(has_ended, self.framing.is_in_head());
        self.watch
            .set_request_incomplete(!self.framing.is_between_requests());
        let Err(FramingViolation { at, place }) = followed else {
            return bytes.len();
        };
        self.refused = Some(place);
        match bytes.get_mut(at) {
            // No head may hold a NUL: hyper answers the requests before it, then this one with 400, and closes.
            Some(byte) if place == Region::Head => {
                *byte = 0;
                at.saturating_add(1)
            }
            _ => at,
        }
    }
}

/// HTTP/2: what came waits in memory, and frames are counted.
pub(super) struct Http2Inspector {
    watch: Arc<ConnectionState>,
    holding: Arc<ConnectionShare>,
    frames: ClientFrames,
    sent: FrameScanner,
}

impl Http2Inspector {
    pub(super) fn new(watch: &Arc<ConnectionState>, holding: &Arc<ConnectionShare>) -> Self {
        Self {
            watch: Arc::clone(watch),
            holding: Arc::clone(holding),
            frames: ClientFrames::new(Instant::now()),
            sent: FrameScanner::new(0),
        }
    }
}

impl ByteInspector for Http2Inspector {
    fn poll_read_on(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.is_abusive() {
            return Poll::Pending;
        }
        let may = self.holding.poll_may_read(cx);
        if may.is_pending() {
            // Who is not read from is not slow.
            self.watch.record_head_progress(false, false);
        }
        may.map(Ok)
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.holding.record_read(bytes.len());
        let passed = self.frames.read(bytes, Instant::now());
        self.watch
            .record_head_progress(passed.has_ended_head, passed.is_in_head);
        self.watch.record_resets(passed.resets);
        self.watch.set_open_requests(self.frames.open_requests());
        if passed.is_flood {
            self.watch.record_flood();
        }
        bytes.len()
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let Self {
            watch,
            frames,
            sent,
            ..
        } = self;
        sent.walk(bytes, |frame| {
            watch.record_resets(usize::from(frame.is_error_reset()));
            frames.sent(frame);
        });
        watch.set_open_requests(frames.open_requests());
    }
}

/// What HTTP is read from and written to.
pub(super) struct InspectedStream<IO, L> {
    stream: IO,
    listener: L,
}

impl<IO, L> InspectedStream<IO, L> {
    pub(super) fn new(stream: IO, listener: L) -> Self {
        Self { stream, listener }
    }

    /// The stream alone, where nothing that comes is HTTP any more.
    pub(super) fn into_inner(self) -> IO {
        self.stream
    }
}

impl<IO: AsyncRead + Unpin, L: ByteInspector + Unpin> AsyncRead for InspectedStream<IO, L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.listener.poll_read_on(cx))?;
            let before = out.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, out))?;
            let fresh = out.filled_mut().get_mut(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let kept = self.listener.read(fresh);
            out.set_filled(before + kept);
            // Nothing at all would be the end of the stream.
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin, L: ByteInspector + Unpin> AsyncWrite for InspectedStream<IO, L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.listener.wrote(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        let mut left = count;
        for slice in slices {
            let sent = slice.get(..left.min(slice.len())).unwrap_or_default();
            self.listener.wrote(sent);
            left -= sent.len();
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
