//! A pool of buffers. Connections use them only while data flows, so that an idle connection has none.
//!
//! `connection` and `tls` read from clients and write to them through these buffers, and `upstream` reads heads and bodies.
//! Each thread keeps a bounded list of returned buffers for each size, without locks; a buffer is zeroed once, when it is
//! allocated. The pool does not limit the number of buffers in use, which follows from the number of connections.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{io, mem};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

/// A buffer that is filled from the front. It returns to the pool when it is dropped, also as part of a [`Bytes`].
pub(crate) struct Buffer {
    storage: Box<[u8]>,
    filled: usize,
    /// The number of bytes after the filled ones that the last read brought.
    fresh: usize,
}

/// The size for the head of a response and a small body, which often arrive together.
pub(crate) const SMALL: usize = 32 * 1024;

/// The size of one read from a client. Measured on uploads: as fast as 256 KiB, and half the memory of an upload that the
/// upstream does not take.
pub(crate) const MEDIUM: usize = 128 * 1024;

/// The size of one read of a response body. Measured on downloads: 256 KiB is clearly faster than 64 or 128 KiB.
pub(crate) const LARGE: usize = 256 * 1024;

/// The size of the TLS records that carry one [`LARGE`] read and a response head, so that one system call sends both.
const TLS_RECORDS: usize = LARGE + 8 * 1024;

impl Buffer {
    /// An empty buffer of 32 KiB.
    pub(crate) fn small() -> Self {
        Self::acquire(SMALL)
    }

    /// An empty buffer of 128 KiB.
    pub(crate) fn medium() -> Self {
        Self::acquire(MEDIUM)
    }

    /// An empty buffer of 256 KiB.
    pub(crate) fn large() -> Self {
        Self::acquire(LARGE)
    }

    /// An empty buffer of 264 KiB, for TLS records.
    pub(crate) fn tls_record() -> Self {
        Self::acquire(TLS_RECORDS)
    }

    /// The smallest empty buffer that has room for `size` bytes; one of 256 KiB if none has.
    pub(crate) fn of(size: usize) -> Self {
        if size <= SMALL {
            Self::small()
        } else {
            Self::large()
        }
    }

    /// Takes a buffer from the pool, or allocates one.
    fn acquire(size: usize) -> Self {
        let pooled = FREE_LISTS
            .try_with(|lists| lists.borrow_mut().of_size(size).pop())
            .ok()
            .flatten();
        Self {
            storage: pooled.unwrap_or_else(|| vec![0; size].into_boxed_slice()),
            filled: 0,
            fresh: 0,
        }
    }

    /// The filled bytes.
    pub(crate) fn filled(&self) -> &[u8] {
        self.storage.get(..self.filled).unwrap_or_default()
    }

    /// The filled bytes, mutable.
    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        self.storage.get_mut(..self.filled).unwrap_or_default()
    }

    /// The free space after the filled bytes.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        self.storage.get_mut(self.filled..).unwrap_or_default()
    }

    /// Whether the buffer is one of [`Self::tls_record`].
    pub(crate) fn is_sealed(&self) -> bool {
        self.storage.len() == TLS_RECORDS
    }

    /// Removes the first `count` bytes and moves the others to the front.
    pub(crate) fn discard(&mut self, count: usize) {
        let count = count.min(self.filled);
        self.storage.copy_within(count..self.filled, 0);
        self.filled -= count;
    }

    /// Whether no bytes are filled.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether there is no free space.
    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.storage.len()
    }

    /// Reads once into the free space and returns the number of bytes. They are [`Self::fresh`] until the caller accepts some
    /// of them with [`Self::grow`]. Zero bytes mean the end of the stream, so the buffer must not be full.
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

    /// The bytes that the last read brought.
    pub(crate) fn fresh(&mut self) -> &mut [u8] {
        let end = self.filled.saturating_add(self.fresh);
        self.storage.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Adds the next `more` bytes to the filled ones.
    pub(crate) fn grow(&mut self, more: usize) {
        self.filled = self.filled.saturating_add(more).min(self.storage.len());
        self.fresh = 0;
    }

    /// Appends as many of `bytes` as fit.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.spare().len());
        if let (Some(to), Some(from)) = (self.spare().get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        self.grow(count);
    }

    /// Converts the filled bytes to shared ones. The buffer returns to the pool with the last slice.
    ///
    /// A few bytes are copied. Otherwise each of the small responses and frames that wait for a slow client would keep a whole
    /// buffer in use.
    pub(crate) fn freeze(self) -> Bytes {
        self.freeze_from(0)
    }

    /// As [`Self::freeze`], for the filled bytes from `start` on.
    pub(crate) fn freeze_from(self, start: usize) -> Bytes {
        let filled = self.filled().get(start..).unwrap_or_default();
        if filled.len() < MAX_COPIED {
            Bytes::copy_from_slice(filled)
        } else {
            Bytes::from_owner(self).slice(start..)
        }
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
        // On a thread that is ending, the pool no longer exists, and the buffer is freed.
        let _ = FREE_LISTS.try_with(|lists| {
            let mut lists = lists.borrow_mut();
            let list = lists.of_size(storage.len());
            if list.len() < MAX_FREE_PER_SIZE {
                list.push(storage);
            }
        });
    }
}

/// The returned buffers of one thread, by size.
struct FreeLists {
    small: Vec<Box<[u8]>>,
    medium: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    tls_records: Vec<Box<[u8]>>,
}

impl FreeLists {
    fn of_size(&mut self, size: usize) -> &mut Vec<Box<[u8]>> {
        match size {
            SMALL => &mut self.small,
            MEDIUM => &mut self.medium,
            TLS_RECORDS => &mut self.tls_records,
            _ => &mut self.large,
        }
    }
}

thread_local! {
    static FREE_LISTS: RefCell<FreeLists> = const {
        RefCell::new(FreeLists { small: Vec::new(), medium: Vec::new(), large: Vec::new(), tls_records: Vec::new() })
    };
}

/// Below this number of bytes, [`Buffer::freeze_from`] copies.
const MAX_COPIED: usize = 16 * 1024;

/// The number of returned buffers of each size that a thread keeps: at most 42 MiB for all sizes.
const MAX_FREE_PER_SIZE: usize = 64;

/// The numbers of small and of large buffers that this thread keeps.
#[cfg(test)]
pub(crate) fn kept() -> (usize, usize) {
    FREE_LISTS.with(|lists| {
        let lists = lists.borrow();
        (lists.small.len(), lists.large.len())
    })
}
