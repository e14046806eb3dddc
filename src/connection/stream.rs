//! The stream of a connection below TLS, telling the watch how its writes go.
//!
//! Only here a write that makes slow progress differs from one that makes none, and a reset is seen that no read tells of;
//! what is read is heard above TLS, in `heard`.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::watch::ConnectionState;
use crate::buffer_pool::{Buffer, SMALL};

/// What can be asked, without reading from it, whether the other end has broken it off.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// The error that came.
    fn take_error(&self) -> io::Result<()>;

    /// True when the other end sends nothing more, though what it sent may not be read.
    fn is_read_closed(&self) -> bool;

    /// Makes the close a reset: what was not sent by then is forgotten.
    fn set_linger_zero(&self);
}

impl Socket for TcpStream {
    fn take_error(&self) -> io::Result<()> {
        self.take_error()?.map_or(Ok(()), Err)
    }

    /// As the reactor has seen it: no system call.
    fn is_read_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let ready = pin!(self.ready(Interest::READABLE)).poll(&mut cx);
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    fn set_linger_zero(&self) {
        // It fails on a socket that is broken already.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// A stream that tells the watch how its writes go, and reads in large pieces.
///
/// hyper asks for little at a time, and each time would be a system call; TLS reads in large pieces by itself. The buffer is
/// lent only while there are bytes that were not taken.
pub(super) struct MonitoredSocket<IO: Socket> {
    stream: IO,
    watch: Arc<ConnectionState>,
    held: Option<ReadAhead>,
}

/// Bytes that were read, of which some are taken.
struct ReadAhead {
    buffer: Buffer,
    taken: usize,
}

impl<IO: Socket> MonitoredSocket<IO> {
    pub(super) fn new(stream: IO, watch: &Arc<ConnectionState>) -> Self {
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

impl<IO: Socket> AsyncRead for MonitoredSocket<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.give(out) {
            self.watch.record_progress();
            return Poll::Ready(Ok(()));
        }
        if out.remaining() > SMALL {
            ready!(Pin::new(&mut self.stream).poll_read(cx, out))?;
            self.watch.record_progress();
            return Poll::Ready(Ok(()));
        }
        let mut buffer = Buffer::medium();
        let read = ready!(buffer.poll_read(&mut self.stream, cx))?;
        self.watch.record_progress();
        if read > 0 {
            buffer.grow(read);
            self.held = Some(ReadAhead { buffer, taken: 0 });
            self.give(out);
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
        self.watch.record_write(count(&result));
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        // rustls always hands over a list; the kernel's way for a list of one is longer than that of `send`.
        let result = match slices {
            [only] => stream.poll_write(cx, only),
            _ => stream.poll_write_vectored(cx, slices),
        };
        self.watch.record_write(count(&result));
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Asked for at each turn of the connection, so a reset is noticed here though nobody reads.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.take_probe() {
            self.stream.take_error()?;
            // Read, this end would end the connection, too; behind what nobody reads it is noticed here alone. Behind whole
            // requests it is none: the first of them is answered.
            if self.watch.is_stalled() && self.stream.is_read_closed() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch.record_write(if result.is_ready() {
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
    /// The system would keep what a client does not read, up to some megabytes, for minutes after the close.
    fn drop(&mut self) {
        if self.watch.is_write_stuck() {
            self.stream.set_linger_zero();
        }
    }
}

fn count(written: &Poll<io::Result<usize>>) -> Poll<usize> {
    match written {
        Poll::Ready(Ok(count)) => Poll::Ready(*count),
        Poll::Ready(Err(_)) => Poll::Ready(0),
        Poll::Pending => Poll::Pending,
    }
}
