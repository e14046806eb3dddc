//! A connected socket of any kind, behind one type without a virtual call.
//!
//! Made by `connect`, used by the codec and looked at by the pool. Only a TLS stream is boxed: it is some kilobytes large,
//! and once a connection is nothing against a handshake.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

/// A connection, and since when there is one.
pub(super) struct Stream {
    socket: Socket,
    opened: Instant,
}

/// Of either kind.
pub(super) enum Socket {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// The same call on whichever socket there is.
macro_rules! on {
    ($stream:expr, $socket:ident => $call:expr) => {
        match &mut $stream.get_mut().socket {
            Socket::Tcp($socket) => $call,
            Socket::Tls($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

impl Stream {
    pub(super) fn new(socket: Socket, opened: Instant) -> Self {
        Self { socket, opened }
    }

    /// When it was connected.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// True when an idle connection can be used again: the peer has neither closed it nor sent a byte
    /// that nobody asked for.
    ///
    /// What the reactor has seen so far costs no system call. It can be one turn of the loop behind, so
    /// a request that must not fail for a stale connection asks the kernel itself (`certain`).
    pub(super) fn is_quiet(&mut self, certain: bool) -> bool {
        let mut byte = [0];
        let is_quiet = match &mut self.socket {
            Socket::Tcp(stream) => would_block(&stream.try_read(&mut byte)),
            Socket::Unix(stream) => would_block(&stream.try_read(&mut byte)),
            // Session tickets may still lie there; they are no answer.
            Socket::Tls(stream) => {
                let mut buffer = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream)
                    .poll_read(&mut cx, &mut buffer)
                    .is_pending()
            }
        };
        is_quiet && (!certain || would_block(&self.peek()))
    }

    fn peek(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit()];
        match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Socket::Tls(stream) => SockRef::from(stream.get_ref().0).peek(&mut byte),
            Socket::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        }
    }
}

fn would_block(read: &io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on!(self, socket => Pin::new(socket).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        on!(self, socket => Pin::new(socket).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on!(self, socket => Pin::new(socket).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
