//! The stream from which hyper reads and to which it writes, with an inspector that sees every byte of both directions.
//!
//! `serve` puts it between TLS and hyper. It is above TLS because the TLS layer may have buffered bytes of a request that came
//! with the end of the handshake. What the bytes mean is decided in `h1_framing` and `h2_frames`; this file reports the result
//! to the connection state.
//!
//! After an HTTP/1 request that may change the protocol of the connection, hyper gets no more bytes until the response decides: if
//! it is a 101, they belong to the tunnel, and otherwise they are the next request and are inspected as such.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::h1_framing::{FramingViolation, Region, RequestFramingValidator};
use super::h2_frames::{ClientFrames, FrameScanner};
use super::state::ConnectionState;
use crate::body::ConnectionShare;
use crate::buffer_pool::Buffer;

/// Sees the bytes that hyper reads and writes.
pub(crate) trait ByteInspector {
    /// Ready if hyper may read, with an error if the next read is to fail.
    fn poll_may_read(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>>;

    /// Inspects bytes that were read, at least one.
    fn inspect_read(&mut self, bytes: &mut [u8]) -> InspectedRead;

    /// Whether hyper gets no more bytes until a response decides what they mean.
    fn awaits_upgrade(&self) -> bool {
        false
    }

    /// Inspects bytes that were written.
    fn inspect_written(&mut self, _bytes: &[u8]) {}
}

/// What happens to the bytes of one read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InspectedRead {
    /// The number of bytes that hyper gets.
    pub(crate) passed: usize,
    /// The number of bytes that were inspected. Those after them are kept, and inspected once it is known what they are. The bytes
    /// that were inspected and not passed are dropped.
    pub(crate) inspected: usize,
}

impl InspectedRead {
    fn pass_all(bytes: &[u8]) -> Self {
        Self {
            passed: bytes.len(),
            inspected: bytes.len(),
        }
    }
}

/// Reports where HTTP/1 header sections begin and end, and hides bytes with ambiguous framing from hyper.
pub(crate) struct Http1Inspector {
    state: Rc<ConnectionState>,
    framing: RequestFramingValidator,
    /// Where the framing was violated, if it was.
    violation: Option<Region>,
}

impl Http1Inspector {
    pub(crate) fn new(state: &Rc<ConnectionState>) -> Self {
        Self {
            state: Rc::clone(state),
            framing: RequestFramingValidator::default(),
            violation: None,
        }
    }
}

impl ByteInspector for Http1Inspector {
    fn poll_may_read(&mut self, _: &Context<'_>) -> Poll<io::Result<()>> {
        match self.violation {
            None => Poll::Ready(Ok(())),
            Some(Region::Body) => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            // hyper has every byte that it may have, and responds to those.
            Some(Region::Head | Region::AfterLastRequest) => Poll::Pending,
        }
    }

    /// Bytes from the violation on are hidden from hyper. In a body, the next read returns the error.
    fn inspect_read(&mut self, bytes: &mut [u8]) -> InspectedRead {
        let result = self.framing.read(bytes);
        let has_ended = self.framing.has_ended_head();
        self.state
            .record_head_progress(has_ended, self.framing.is_in_head());
        // While a handshake is undecided, the inspector reads only a part of what the client sends. A client that leaves then is
        // noticed as one that leaves amid a request.
        let is_incomplete = !self.framing.is_between_requests() || self.framing.awaits_upgrade();
        self.state.set_request_incomplete(is_incomplete);
        let FramingViolation { at, region } = match result {
            Ok(inspected) => {
                if self.framing.awaits_upgrade() {
                    self.state.begin_upgrade();
                }
                return InspectedRead {
                    passed: inspected,
                    inspected,
                };
            }
            Err(violation) => violation,
        };
        self.violation = Some(region);
        let passed = match bytes.get_mut(at) {
            // A NUL is malformed anywhere in a header section: hyper responds to the requests before this one, then to this
            // one with 400, and closes the connection.
            Some(byte) if region == Region::Head => {
                *byte = 0;
                at.saturating_add(1)
            }
            _ => at,
        };
        InspectedRead {
            passed,
            inspected: bytes.len(),
        }
    }

    fn awaits_upgrade(&self) -> bool {
        self.state.awaits_upgrade()
    }
}

/// Counts HTTP/2 frames of both directions for the abuse limits, and counts received bytes in the receive budget.
pub(crate) struct Http2Inspector {
    state: Rc<ConnectionState>,
    share: Arc<ConnectionShare>,
    received: ClientFrames,
    sent: FrameScanner,
}

impl Http2Inspector {
    pub(crate) fn new(state: &Rc<ConnectionState>, share: &Arc<ConnectionShare>) -> Self {
        Self {
            state: Rc::clone(state),
            share: Arc::clone(share),
            received: ClientFrames::new(Instant::now()),
            sent: FrameScanner::new(0),
        }
    }
}

impl ByteInspector for Http2Inspector {
    fn poll_may_read(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        // The driver closes the connection after this poll.
        if self.state.is_abusive() {
            return Poll::Pending;
        }
        let may_read = self.share.poll_may_read(cx);
        if may_read.is_pending() {
            // While the proxy does not read, the client cannot complete a header section, so its time does not count.
            self.state.record_head_progress(false, false);
        }
        may_read.map(Ok)
    }

    fn inspect_read(&mut self, bytes: &mut [u8]) -> InspectedRead {
        self.share.record_read(bytes.len());
        let summary = self.received.read(bytes, Instant::now());
        self.state
            .record_head_progress(summary.has_ended_head, summary.is_in_head);
        self.state.record_resets(summary.resets);
        self.state.set_open_requests(self.received.open_requests());
        if summary.is_flood {
            self.state.record_flood();
        }
        InspectedRead::pass_all(bytes)
    }

    fn inspect_written(&mut self, bytes: &[u8]) {
        let Self {
            state,
            received,
            sent,
            ..
        } = self;
        sent.scan(bytes, |frame| {
            state.record_resets(usize::from(frame.is_error_reset()));
            received.record_sent(frame);
        });
        state.set_open_requests(received.open_requests());
    }
}

/// A stream whose bytes an inspector sees.
pub(crate) struct InspectedStream<IO, I> {
    stream: IO,
    inspector: I,
    /// Bytes that were read and not inspected: they follow a request that may change the protocol of the connection.
    kept: Vec<u8>,
}

impl<IO, I> InspectedStream<IO, I> {
    pub(crate) fn new(stream: IO, inspector: I) -> Self {
        Self {
            stream,
            inspector,
            kept: Vec::new(),
        }
    }

    /// Returns the inner stream and the bytes that were read from it and that hyper did not get, for a tunnel or for the close of
    /// the connection, when the bytes are no HTTP any more.
    pub(crate) fn into_parts(self) -> (IO, Vec<u8>) {
        (self.stream, self.kept)
    }
}

impl<IO: AsyncRead + Unpin, I: ByteInspector> InspectedStream<IO, I> {
    /// Reads and keeps what the client sends while a response decides about the protocol of the connection. Ready at the end of
    /// the stream, so that hyper notices a client that has left.
    fn poll_keep(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.kept.len() < MAX_KEPT {
            let mut buffer = Buffer::small();
            match ready!(buffer.poll_read(&mut self.stream, cx))? {
                0 => return Poll::Ready(Ok(())),
                count => {
                    buffer.grow(count);
                    self.kept.extend_from_slice(buffer.filled());
                }
            }
        }
        // `GuardedResponseFuture` wakes the connection when the response is there.
        Poll::Pending
    }

    /// Copies kept bytes to `out`, or else reads from the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, out);
        }
        let count = self.kept.len().min(out.remaining());
        out.put_slice(self.kept.get(..count).unwrap_or_default());
        self.kept.drain(..count);
        if self.kept.is_empty() {
            // An idle connection keeps no memory for this rare case.
            self.kept = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// The number of bytes after which no more are read, except that the last read may exceed it. A client must not send any before
/// the response to its handshake (RFC 6455 section 4.1).
const MAX_KEPT: usize = 16 * 1024;

impl<IO: AsyncRead + Unpin, I: ByteInspector + Unpin> AsyncRead for InspectedStream<IO, I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.inspector.poll_may_read(cx))?;
            if self.inspector.awaits_upgrade() {
                return self.poll_keep(cx);
            }
            let before = out.filled().len();
            ready!(self.poll_fill(cx, out))?;
            let fresh = out.filled_mut().get_mut(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let InspectedRead { passed, inspected } = self.inspector.inspect_read(fresh);
            let undecided = fresh.get(inspected..).unwrap_or_default();
            if !undecided.is_empty() {
                self.kept.splice(..0, undecided.iter().copied());
            }
            out.set_filled(before + passed);
            // A read of zero bytes would mean the end of the stream, so read again if every byte is hidden.
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin, I: ByteInspector + Unpin> AsyncWrite for InspectedStream<IO, I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        let written = bytes.get(..count).unwrap_or_default();
        self.inspector.inspect_written(written);
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
            let written = slice.get(..left.min(slice.len())).unwrap_or_default();
            self.inspector.inspect_written(written);
            left -= written.len();
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
