//! Sealed bytes on their way: those that came and are not opened, and those that wait for the socket.
//!
//! Used by `stream`. The buffers are lent: an idle connection holds none, and one that waits for the rest of a record
//! holds the bytes of that record alone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::server::ServerConnectionData;
use rustls::unbuffered::WriteTraffic;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::buffer_pool::{Buffer, SMALL};

/// What came. rustls opens it in place, record by record, from its front.
#[derive(Default)]
pub(super) struct CiphertextIn {
    buffer: Option<Buffer>,
    /// Bytes of the buffer that are used up.
    start: usize,
    /// What was left when the buffer went back.
    rest: Vec<u8>,
}

impl CiphertextIn {
    /// Reads once, and says how many bytes came; none means the end of the stream.
    pub(super) fn poll_fill<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = self.buffer.take().unwrap_or_else(Buffer::medium);
        if self.rest.is_empty() {
            buffer.discard(self.start);
        } else {
            buffer.append(&self.rest);
        }
        self.start = 0;
        if buffer.is_full() {
            // A record has 18 KiB at most, and all parts of a message of a handshake together 64.
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        match buffer.poll_read(io, cx) {
            Poll::Ready(Ok(count)) => {
                buffer.grow(count);
                self.rest = Vec::new();
                self.buffer = Some(buffer);
                Poll::Ready(Ok(count))
            }
            other => {
                // Who sends the beginning of a record and no more is to hold no more than that.
                if self.rest.is_empty() && !buffer.is_empty() {
                    self.rest = buffer.filled().to_vec();
                }
                other
            }
        }
    }

    /// All that is not used up, from the same byte on until [`Self::discard`].
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Some(buffer) => buffer
                .filled_mut()
                .get_mut(self.start..)
                .unwrap_or_default(),
            None => &mut self.rest,
        }
    }

    /// So many bytes are used up.
    pub(super) fn discard(&mut self, count: usize) {
        let Some(buffer) = &self.buffer else {
            self.rest.drain(..count.min(self.rest.len()));
            return;
        };
        self.start = self.start.saturating_add(count);
        if self.start >= buffer.filled().len() {
            self.start = 0;
            self.buffer = None;
        }
    }

    /// Whether it has a buffer, and how many bytes of its own.
    #[cfg(test)]
    pub(super) fn held(&self) -> (bool, usize) {
        (self.buffer.is_some(), self.rest.len())
    }

    /// The length of the record in front, its head included, when all of it is there (RFC 8446 section 5.1).
    pub(super) fn record(&mut self) -> Option<usize> {
        let bytes = self.bytes();
        let &[_, _, _, high, low] = bytes.first_chunk()?;
        let length = RECORD_HEAD + usize::from(u16::from_be_bytes([high, low]));
        (bytes.len() >= length).then_some(length)
    }
}

/// rustls' permission to send.
pub(super) type Traffic<'a> = WriteTraffic<'a, ServerConnectionData>;

/// What waits for the socket.
#[derive(Default)]
pub(super) struct CiphertextOut {
    buffer: Option<Buffer>,
    sent: usize,
}

impl CiphertextOut {
    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_none()
    }

    /// True when no more may wait.
    pub(super) fn is_full(&mut self) -> bool {
        self.buffer
            .as_mut()
            .is_some_and(|it| it.is_sealed() && contents(it.spare().len()) == 0)
    }

    /// Room for sealed bytes behind those that wait: for `wanted` of them, or as many as may wait at once.
    pub(super) fn room(&mut self, wanted: usize) -> &mut [u8] {
        let is_roomy = |it: &mut Buffer| it.is_sealed() || it.spare().len() >= wanted;
        if !self.buffer.as_mut().is_some_and(is_roomy) {
            let waiting = self.buffer.take();
            let waiting = waiting.as_ref().and_then(|it| it.filled().get(self.sent..));
            let waiting = waiting.unwrap_or_default();
            let mut larger = if waiting.len().saturating_add(wanted) <= SMALL {
                Buffer::small()
            } else {
                Buffer::tls_record()
            };
            larger.append(waiting);
            self.sent = 0;
            self.buffer = Some(larger);
        }
        self.spare()
    }

    fn spare(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map(Buffer::spare).unwrap_or_default()
    }

    /// Seals as much of `slices` as may wait, and says how much.
    pub(super) fn seal(
        &mut self,
        traffic: &mut Traffic<'_>,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        let mut left = contents(self.room(sealed(total)).len());
        let mut taken = 0;
        let mut slices = slices.iter().map(|slice| &**slice).peekable();
        while left > 0
            && let Some(slice) = slices.next()
        {
            let slice = slice.get(..left.min(slice.len())).unwrap_or_default();
            let room = RECORD.min(left).saturating_sub(slice.len());
            // What is small goes into one record with what follows: a head and a short body.
            let count = if slices.peek().is_some_and(|next| next.len() <= room) {
                let mut gathered = Buffer::small();
                gathered.append(slice);
                let fits = |gathered: &Buffer, next: &[u8]| {
                    gathered.filled().len() + next.len() <= RECORD.min(left)
                };
                while let Some(next) = slices.next_if(|next| fits(&gathered, next)) {
                    gathered.append(next);
                }
                self.encrypt(traffic, gathered.filled())?
            } else {
                self.encrypt(traffic, slice)?
            };
            taken += count;
            left -= count;
        }
        Ok(taken)
    }

    fn encrypt(&mut self, traffic: &mut Traffic<'_>, plain: &[u8]) -> io::Result<usize> {
        let count = traffic
            .encrypt(plain, self.spare())
            .map_err(io::Error::other)?;
        self.grow(count);
        Ok(plain.len())
    }

    /// Tells the client that nothing more comes.
    pub(super) fn say_goodbye(&mut self, traffic: &mut Traffic<'_>) -> io::Result<()> {
        let room = self.room(sealed(0));
        let count = traffic.queue_close_notify(room).map_err(io::Error::other)?;
        self.grow(count);
        Ok(())
    }

    /// So many bytes of the room are in use.
    pub(super) fn grow(&mut self, count: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.grow(count);
            if buffer.is_empty() {
                self.buffer = None;
            }
        }
    }

    /// Sends all that waits.
    pub(super) fn poll_send<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(buffer) = &self.buffer {
            let waiting = buffer.filled().get(self.sent..).unwrap_or_default();
            if waiting.is_empty() {
                self.sent = 0;
                self.buffer = None;
                break;
            }
            let count = ready!(Pin::new(&mut *io).poll_write(cx, waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        Poll::Ready(Ok(()))
    }
}

/// How many bytes `plain` bytes may become when they are sealed.
fn sealed(plain: usize) -> usize {
    plain.saturating_add(OVERHEAD.saturating_mul(2 + plain / RECORD))
}

/// How many bytes fit into so much room when they are sealed.
fn contents(room: usize) -> usize {
    room.saturating_sub(OVERHEAD * (2 + room / RECORD))
}

/// Bytes in front of a record's contents.
const RECORD_HEAD: usize = 5;

/// The most that one record holds.
const RECORD: usize = 16 * 1024;

/// More than sealing adds to 16 KiB: 29 bytes a record (TLS 1.2), of which there may be two for so much, and what rustls
/// puts in front (a key update).
const OVERHEAD: usize = 128;
