//! A stream in memory, which delivers given bytes in given pieces.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Delivers one piece per read, then the end. Accepts and discards every write.
pub(crate) struct Wire {
    pieces: VecDeque<Vec<u8>>,
    end: WireEnd,
}

/// What a read returns after the last piece.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WireEnd {
    /// A clean end of the stream.
    Eof,
    /// `ECONNRESET`.
    Reset,
    /// Nothing: the read stays pending.
    Pending,
}

impl Wire {
    pub(crate) fn new(pieces: impl IntoIterator<Item = Vec<u8>>, end: WireEnd) -> Self {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        Self {
            pieces: pieces.collect(),
            end,
        }
    }

    /// Whether every piece was read.
    pub(crate) fn is_drained(&self) -> bool {
        self.pieces.is_empty()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.pieces.pop_front() else {
            return match self.end {
                WireEnd::Eof => Poll::Ready(Ok(())),
                WireEnd::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                WireEnd::Pending => Poll::Pending,
            };
        };
        let rest = piece.split_off(piece.len().min(out.remaining()));
        out.put_slice(&piece);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Splits `bytes` into pieces. Each of `lengths` is the length of a piece, as far as the bytes last; the last piece is the
/// rest.
pub(crate) fn split<'a>(bytes: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for length in lengths {
        let (piece, more) = rest.split_at(usize::from(*length).min(rest.len()));
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
}
