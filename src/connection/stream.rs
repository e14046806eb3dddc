//! The stream of a connection, below and above TLS, telling the watch what moves.
//!
//! Writes are watched below TLS, since only there one that makes slow progress differs from one that
//! makes none; reads above it, since TLS may hold bytes of a head that came with the handshake's end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::Watch;
use crate::body::Holding;
use crate::buffers::Buffer;

/// A stream that tells the watch how its writes go, and reads in large pieces.
///
/// rustls asks for one record at a time; without this each is a system call. The buffer is lent only
/// while there are bytes that rustls has not taken.
pub(super) struct Watched<IO> {
    stream: IO,
    watch: Arc<Watch>,
    held: Option<Held>,
}

/// Bytes that were read, of which some are taken.
struct Held {
    buffer: Buffer,
    taken: usize,
}

impl<IO> Watched<IO> {
    pub(super) fn new(stream: IO, watch: &Arc<Watch>) -> Self {
        Self {
            stream,
            watch: Arc::clone(watch),
            held: None,
        }
    }

    /// Gives out held bytes; false when there are none.
    fn give(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        let rest = held.buffer.filled().get(held.taken..).unwrap_or_default();
        let count = rest.len().min(out.remaining());
        out.put_slice(rest.get(..count).unwrap_or_default());
        held.taken += count;
        if held.taken == held.buffer.filled().len() {
            self.held = None;
        }
        true
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.give(out) {
            return Poll::Ready(Ok(()));
        }
        let mut buffer = Buffer::large();
        let read = ready!(buffer.poll_read(&mut self.stream, cx))?;
        if read > 0 {
            buffer.grow(read);
            self.held = Some(Held { buffer, taken: 0 });
            self.give(out);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch.wrote(count(&result));
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch.wrote(count(&result));
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch.wrote(if result.is_ready() {
            Poll::Ready(0)
        } else {
            Poll::Pending
        });
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn count(written: &Poll<io::Result<usize>>) -> Poll<usize> {
    match written {
        Poll::Ready(Ok(count)) => Poll::Ready(*count),
        Poll::Ready(Err(_)) => Poll::Ready(0),
        Poll::Pending => Poll::Pending,
    }
}

/// Who is asked before HTTP is read, and told how much came.
pub(super) trait Listener {
    /// Ready when there may be a read.
    fn poll_read_on(self: &Arc<Self>, cx: &Context<'_>) -> Poll<()>;
    /// So many bytes came, at least one.
    fn read(&self, count: usize);
}

/// HTTP/1: a head begins.
impl Listener for Watch {
    fn poll_read_on(self: &Arc<Self>, _: &Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn read(&self, _: usize) {
        self.read();
    }
}

/// HTTP/2: what came waits in memory.
impl Listener for Holding {
    fn poll_read_on(self: &Arc<Self>, cx: &Context<'_>) -> Poll<()> {
        self.poll_read_on(cx)
    }

    fn read(&self, count: usize) {
        self.read(count);
    }
}

/// What HTTP is read from.
pub(super) struct Heard<IO, L> {
    stream: IO,
    listener: Arc<L>,
}

impl<IO, L> Heard<IO, L> {
    pub(super) fn new(stream: IO, listener: &Arc<L>) -> Self {
        Self {
            stream,
            listener: Arc::clone(listener),
        }
    }
}

impl<IO: AsyncRead + Unpin, L: Listener> AsyncRead for Heard<IO, L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.listener.poll_read_on(cx));
        let before = out.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, out))?;
        let count = out.filled().len() - before;
        if count > 0 {
            self.listener.read(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin, L> AsyncWrite for Heard<IO, L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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
