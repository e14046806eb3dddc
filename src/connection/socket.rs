//! The socket of a connection, below TLS: reads in large pieces, reports writes and progress to the connection state, and
//! detects a client that has closed or reset the connection while nothing is read from it.
//!
//! Only below TLS is a write that makes slow progress different from a write that makes none. What the bytes mean is inspected
//! above TLS, in `inspect`.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::state::ConnectionState;
use crate::buffer_pool::{Buffer, SMALL};

/// A stream that can report, without a read, whether its peer has closed it. Tests use one in memory.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Returns the pending error of the socket (SO_ERROR), such as a reset.
    fn take_error(&self) -> io::Result<()>;

    /// Whether the peer has closed its sending side (FIN). Bytes before the FIN may be unread.
    fn is_read_closed(&self) -> bool;

    /// Makes the close send RST (SO_LINGER with time zero), so that the kernel discards unsent bytes.
    fn set_linger_zero(&self);
}

impl Socket for TcpStream {
    fn take_error(&self) -> io::Result<()> {
        self.take_error()?.map_or(Ok(()), Err)
    }

    /// Returns what tokio's reactor knows from epoll (EPOLLRDHUP). This is no system call.
    fn is_read_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = pin!(self.ready(Interest::READABLE)).poll(&mut cx);
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    fn set_linger_zero(&self) {
        // The call fails on a socket that is already broken, where it is not needed.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl Socket for UnixStream {
    fn take_error(&self) -> io::Result<()> {
        self.take_error()?.map_or(Ok(()), Err)
    }

    fn is_read_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = pin!(self.ready(Interest::READABLE)).poll(&mut cx);
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Does nothing. A Unix socket has no unsent bytes, because each write puts its bytes into the buffer of the reader, and it
    /// cannot be reset: an HTTP/1.0 client takes a truncated response without a length for a complete one.
    fn set_linger_zero(&self) {}
}

/// A socket that reports its writes and its progress to the connection state, and reads in large pieces.
///
/// hyper reads little at a time, and each read would be a system call, so that small reads are served from a buffer. TLS reads in
/// large pieces, and directly. The buffer is in use only while it has bytes.
pub(crate) struct MonitoredSocket<IO: Socket> {
    stream: IO,
    state: Rc<ConnectionState>,
    read_ahead: Option<ReadAhead>,
}

/// Bytes that were read from the socket, the first `taken` of which the reader has.
struct ReadAhead {
    buffer: Buffer,
    taken: usize,
}

impl<IO: Socket> MonitoredSocket<IO> {
    pub(crate) fn new(stream: IO, state: &Rc<ConnectionState>) -> Self {
        Self {
            stream,
            state: Rc::clone(state),
            read_ahead: None,
        }
    }

    /// As [`Self::new`], for a stream from which the bytes in `buffer` were read already.
    pub(crate) fn with_read_ahead(stream: IO, state: &Rc<ConnectionState>, buffer: Buffer) -> Self {
        let mut socket = Self::new(stream, state);
        socket.read_ahead = Some(ReadAhead { buffer, taken: 0 });
        socket
    }

    /// Copies buffered bytes to `out`. Returns false if there are none.
    fn copy_read_ahead(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let Some(ahead) = &mut self.read_ahead else {
            return false;
        };
        let rest = ahead.buffer.filled().get(ahead.taken..).unwrap_or_default();
        let count = rest.len().min(out.remaining());
        out.put_slice(rest.get(..count).unwrap_or_default());
        ahead.taken += count;
        if ahead.taken == ahead.buffer.filled().len() {
            self.read_ahead = None;
        }
        true
    }

    /// Fails if the client has reset the connection, or has closed it before its request was complete.
    ///
    /// A FIN that follows unread bytes is only visible here, because hyper is not reading. If the unread bytes are complete
    /// requests, the connection is kept: hyper still responds to the first of them.
    fn check_peer(&self) -> io::Result<()> {
        self.stream.take_error()?;
        if self.state.take_stall() && self.stream.is_read_closed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl<IO: Socket> AsyncRead for MonitoredSocket<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.copy_read_ahead(out) {
            self.state.record_progress();
            return Poll::Ready(Ok(()));
        }
        if out.remaining() >= SMALL {
            ready!(Pin::new(&mut self.stream).poll_read(cx, out))?;
            self.state.record_progress();
            return Poll::Ready(Ok(()));
        }
        let mut buffer = Buffer::medium();
        let read = ready!(buffer.poll_read(&mut self.stream, cx))?;
        self.state.record_progress();
        if read > 0 {
            buffer.grow(read);
            self.read_ahead = Some(ReadAhead { buffer, taken: 0 });
            self.copy_read_ahead(out);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: Socket> AsyncWrite for MonitoredSocket<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.state.record_write(progress(&result));
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        // rustls always passes a list. `send` takes a shorter path through the kernel than `writev` with one element.
        let result = match slices {
            [only] => stream.poll_write(cx, only),
            _ => stream.poll_write_vectored(cx, slices),
        };
        self.state.record_write(progress(&result));
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes whenever the connection is polled, so the liveness probe runs here: it detects a reset although nothing is
    /// read.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.take_probe() {
            self.check_peer()?;
        }
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.state.record_write(if result.is_ready() {
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

impl<IO: Socket> Drop for MonitoredSocket<IO> {
    fn drop(&mut self) {
        if self.state.must_reset() {
            self.stream.set_linger_zero();
        }
    }
}

/// The number of bytes written, zero after an error, or pending.
fn progress(written: &Poll<io::Result<usize>>) -> Poll<usize> {
    match written {
        Poll::Ready(Ok(count)) => Poll::Ready(*count),
        Poll::Ready(Err(_)) => Poll::Ready(0),
        Poll::Pending => Poll::Pending,
    }
}
