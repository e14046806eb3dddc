//! A stream of which hyper has one handle and the driver of the connection another.
//!
//! hyper owns the stream that it reads and writes. `serve` has the second handle, with which it sends what hyper wrote during
//! one poll of an HTTP/2 connection.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A handle of a stream. All handles are used by one task, one after the other.
pub(crate) struct SharedStream<IO> {
    inner: Rc<RefCell<Inner<IO>>>,
}

struct Inner<IO> {
    stream: IO,
    /// The error of a [`SharedStream::flush`], which the next call of hyper returns.
    failure: Option<io::Error>,
}

impl<IO> Clone for SharedStream<IO> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> SharedStream<IO> {
    pub(crate) fn new(stream: IO) -> Self {
        Self {
            inner: Rc::new(RefCell::new(Inner {
                stream,
                failure: None,
            })),
        }
    }

    /// Sends what is held back, as far as the socket takes it now. The rest is sent when the socket is ready: `cx` is the task
    /// of the connection.
    ///
    /// # Errors
    /// Fails if the socket fails. The next call of hyper returns the error.
    pub(crate) fn flush(&self, cx: &mut Context<'_>) -> Result<(), ()> {
        let mut inner = self.inner.try_borrow_mut().map_err(|_| ())?;
        if let Poll::Ready(Err(error)) = Pin::new(&mut inner.stream).poll_flush(cx) {
            inner.failure = Some(error);
            return Err(());
        }
        Ok(())
    }

    /// The stream, if this is its last handle.
    pub(crate) fn into_inner(self) -> Option<IO> {
        Some(Rc::into_inner(self.inner)?.into_inner().stream)
    }

    /// Runs `poll` on the stream, unless the last flush failed.
    fn with_stream<T>(
        &self,
        poll: impl FnOnce(Pin<&mut IO>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Ok(mut inner) = self.inner.try_borrow_mut() else {
            return Poll::Ready(Err(io::Error::other("the stream is in use")));
        };
        if let Some(failure) = inner.failure.take() {
            return Poll::Ready(Err(failure));
        }
        poll(Pin::new(&mut inner.stream))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for SharedStream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with_stream(|stream| stream.poll_read(cx, out))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SharedStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with_stream(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with_stream(|stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        let inner = self.inner.try_borrow();
        inner.is_ok_and(|inner| inner.stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_stream(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_stream(|stream| stream.poll_shutdown(cx))
    }
}
