//! Bytes in memory: a draft grows during an upload, a blob is complete, and a body sends the pieces of a blob.
//!
//! The store keeps these. One limit bounds the memory of all of them together.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::crypto::Digester;

/// The memory limit of a store.
pub(crate) struct Space {
    most: u64,
    used: AtomicU64,
}

/// The memory limit is reached.
#[derive(Debug)]
pub(crate) struct Full {
    most: u64,
}

/// Content that still grows.
pub(crate) struct Draft {
    pieces: Vec<Bytes>,
    last: BytesMut,
    digester: Digester,
    room: Room,
}

/// Complete content.
pub(crate) struct Blob {
    pieces: Vec<Bytes>,
    digest: String,
    room: Room,
}

/// Reserved memory, released on drop.
struct Room {
    space: Arc<Space>,
    taken: u64,
}

/// A response body of bytes in memory.
#[derive(Default)]
pub(crate) struct Pieces {
    pieces: VecDeque<Bytes>,
    left: u64,
    is_length_hidden: bool,
}

impl Space {
    pub(crate) fn new(most: u64) -> Arc<Self> {
        let used = AtomicU64::new(0);
        Arc::new(Self { most, used })
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.most / MEBIBYTE;
        write!(
            f,
            "the demo keeps at most {most} MiB in memory: delete something, or restart it"
        )
    }
}

impl Draft {
    pub(crate) fn new(space: Arc<Space>) -> Self {
        Self {
            pieces: Vec::new(),
            last: BytesMut::new(),
            digester: Digester::new(),
            room: Room { space, taken: 0 },
        }
    }

    pub(crate) fn length(&self) -> u64 {
        self.room.taken
    }

    /// Appends a copy of `data`: a slice from hyper would keep a larger buffer alive.
    pub(crate) fn append(&mut self, data: &[u8]) -> Result<(), Full> {
        self.room.take(data.len())?;
        self.digester.update(data);
        self.last.extend_from_slice(data);
        if self.last.len() >= PIECE {
            self.pieces.push(self.last.split().freeze());
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Blob {
        self.pieces.push(self.last.freeze());
        Blob {
            pieces: self.pieces,
            digest: self.digester.finish(),
            room: self.room,
        }
    }
}

impl Blob {
    pub(crate) fn length(&self) -> u64 {
        self.room.taken
    }

    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// A body with the bytes of `range`, cut at the end of the content.
    pub(crate) fn body(&self, range: Range<u64>) -> Pieces {
        let mut body = Pieces::default();
        let mut from = 0;
        for piece in &self.pieces {
            let to = from + length_of(piece);
            let start = range.start.clamp(from, to) - from;
            let end = range.end.clamp(from, to) - from;
            if let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end))
                && start < end
            {
                body.push(piece.slice(start..end));
            }
            from = to;
        }
        body
    }
}

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), Full> {
        let most = self.space.most;
        let more = u64::try_from(bytes).unwrap_or(u64::MAX);
        let grown = |used: u64| used.checked_add(more).filter(|sum| *sum <= most);
        self.space
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
            .map_err(|_used| Full { most })?;
        self.taken += more;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.space.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

impl Pieces {
    /// Reports no exact length, so that hyper sends the body with chunked transfer coding in HTTP/1.1.
    pub(crate) fn chunked(mut self) -> Self {
        self.is_length_hidden = true;
        self
    }

    /// The number of bytes that are not sent yet.
    pub(crate) fn length(&self) -> u64 {
        self.left
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.left += length_of(&piece);
            self.pieces.push_back(piece);
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(mut bytes: Bytes) -> Self {
        let mut body = Self::default();
        while bytes.has_remaining() {
            body.push(bytes.split_to(bytes.len().min(PIECE)));
        }
        body
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, length_of);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_length_hidden {
            SizeHint::default()
        } else {
            SizeHint::with_exact(self.left)
        }
    }
}

fn length_of(piece: &Bytes) -> u64 {
    u64::try_from(piece.len()).unwrap_or(u64::MAX)
}

const MEBIBYTE: u64 = 1024 * 1024;
/// Large enough for few pieces per blob, and small enough that growing a piece copies little.
const PIECE: usize = 1024 * 1024;
