//! Buffers that are lent while data flows, so that idle connections hold none.
//!
//! Used by `connection` and `tls` for what clients send and read, and by `upstream` for heads and bodies. Each thread keeps a short list of buffers that came back;
//! their bytes were zeroed once, when made. It does not limit how many are out at once: that follows
//! from the number of connections.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{io, mem};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

/// A buffer with some bytes filled; goes back to its list when dropped, also from within a [`Bytes`].
pub(crate) struct Buffer {
    storage: Box<[u8]>,
    filled: usize,
    /// Bytes behind those in use that the last read brought.
    fresh: usize,
}

/// The head of an answer and a small body arrive together in one of these.
pub(crate) const SMALL: usize = 32 * 1024;

/// What is read of a client at once. Measured on uploads: as quick as 256 KiB, and half of what each one holds that the
/// upstream does not take.
pub(crate) const MEDIUM: usize = 128 * 1024;

/// Frames of bodies. Measured on downloads: 256 KiB is clearly better than 64 or 128 KiB.
pub(crate) const LARGE: usize = 256 * 1024;

/// A frame of a body and a head, sealed: one system call.
pub(crate) const SEALED: usize = LARGE + 8 * 1024;

impl Buffer {
    /// An empty one of 32 KiB.
    pub(crate) fn small() -> Self {
        Self::lend(SMALL)
    }

    /// An empty one of 128 KiB.
    pub(crate) fn medium() -> Self {
        Self::lend(MEDIUM)
    }

    /// An empty one of 256 KiB.
    pub(crate) fn large() -> Self {
        Self::lend(LARGE)
    }

    /// An empty one of 264 KiB.
    pub(crate) fn sealed() -> Self {
        Self::lend(SEALED)
    }

    /// An empty one with room for `size` bytes, of at most 256 KiB.
    pub(crate) fn of(size: usize) -> Self {
        if size <= SMALL {
            Self::small()
        } else {
            Self::large()
        }
    }

    fn lend(size: usize) -> Self {
        let kept = FREE
            .try_with(|free| free.borrow_mut().list(size).pop())
            .ok()
            .flatten();
        Self {
            storage: kept.unwrap_or_else(|| vec![0; size].into_boxed_slice()),
            filled: 0,
            fresh: 0,
        }
    }

    /// The bytes in use.
    pub(crate) fn filled(&self) -> &[u8] {
        self.storage.get(..self.filled).unwrap_or_default()
    }

    /// The same, to be changed in place.
    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        self.storage.get_mut(..self.filled).unwrap_or_default()
    }

    /// The room behind the bytes in use.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.storage.get_mut(self.filled..).unwrap_or_default()
    }

    /// True for one of 264 KiB.
    pub(crate) fn is_sealed(&self) -> bool {
        self.storage.len() == SEALED
    }

    /// Forgets the first `count` bytes; the others move to the front.
    pub(crate) fn discard(&mut self, count: usize) {
        let count = count.min(self.filled);
        self.storage.copy_within(count..self.filled, 0);
        self.filled -= count;
    }

    /// True when no bytes are in use.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// True when there is no room to read into.
    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.storage.len()
    }

    /// Reads once behind the bytes in use, and says how many came. They are [`Self::fresh`] until the
    /// caller says by [`Self::grow`] how many of them to keep. None means the end of the stream, so the
    /// buffer must not be full.
    pub(crate) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let spare = self.storage.get_mut(self.filled..).unwrap_or_default();
        let mut space = ReadBuf::new(spare);
        ready!(Pin::new(io).poll_read(cx, &mut space))?;
        self.fresh = space.filled().len();
        Poll::Ready(Ok(self.fresh))
    }

    /// What the last read brought.
    pub(crate) fn fresh(&mut self) -> &mut [u8] {
        let end = self.filled.saturating_add(self.fresh);
        self.storage.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Takes `more` bytes behind those in use into use.
    pub(crate) fn grow(&mut self, more: usize) {
        self.filled = self.filled.saturating_add(more).min(self.storage.len());
        self.fresh = 0;
    }

    /// Appends `bytes` as far as there is room.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.spare().len());
        if let (Some(to), Some(from)) = (self.spare().get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.grow(count);
    }

    /// The bytes in use, shared; the buffer goes back when the last slice is gone.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let storage = mem::take(&mut self.storage);
        // On a thread that is ending the list is gone, and the buffer just goes too.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let list = free.list(storage.len());
            if list.len() < KEPT {
                list.push(storage);
            }
        });
    }
}

struct Free {
    small: Vec<Box<[u8]>>,
    medium: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    sealed: Vec<Box<[u8]>>,
}

impl Free {
    fn list(&mut self, size: usize) -> &mut Vec<Box<[u8]>> {
        match size {
            SMALL => &mut self.small,
            MEDIUM => &mut self.medium,
            SEALED => &mut self.sealed,
            _ => &mut self.large,
        }
    }
}

thread_local! {
    static FREE: RefCell<Free> = const {
        RefCell::new(Free { small: Vec::new(), medium: Vec::new(), large: Vec::new(), sealed: Vec::new() })
    };
}

/// Buffers of each size that a thread keeps: 42 MiB at most.
const KEPT: usize = 64;

#[cfg(test)]
pub(crate) fn kept() -> (usize, usize) {
    FREE.with(|free| {
        let free = free.borrow();
        (free.small.len(), free.large.len())
    })
}
