//! Bytes of an answer until its head is complete.
//!
//! Polled by the exchange. Interim answers are swallowed here: nobody asked for them, and they end with
//! their head. The buffer is big enough for a small body to come along with the head.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncRead;

use super::Error;
use super::head::{self, Head, Parsed};
use crate::buffer_pool::{Buffer, LARGE};

/// What has been read so far.
pub(super) struct HeadBuffer {
    /// None while nothing has come, so that a request that waits holds no memory.
    buffer: Option<Buffer>,
    /// Bytes in which no end of a head was found.
    scanned: usize,
    interims: u8,
    received: u64,
    head_size: usize,
    is_head: bool,
}

impl HeadBuffer {
    /// For the answer to one request; `is_head` when its method is HEAD.
    pub(super) fn new(head_size: usize, is_head: bool) -> Self {
        Self {
            buffer: None,
            scanned: 0,
            interims: 0,
            received: 0,
            head_size,
            is_head,
        }
    }

    /// Bytes that have come.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// True when the first bytes that have come are not those of a head.
    pub(super) fn began_without_status_line(&self) -> bool {
        let is_foreign = |buffer: &Buffer| !head::may_begin_head(buffer.filled());
        self.interims == 0 && self.buffer.as_ref().is_some_and(is_foreign)
    }

    /// The final head, and what has come behind it.
    pub(super) fn poll_head<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Head, Bytes), Error>> {
        loop {
            ready!(self.poll_read(io, cx))?;
            while let Some(found) = self.split()? {
                match found {
                    (Parsed::Final(head), rest) => return Poll::Ready(Ok((*head, rest))),
                    (Parsed::Interim, rest) => self.skip(rest)?,
                }
            }
        }
    }

    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        let mut buffer = self.buffer.take().unwrap_or_else(Buffer::small);
        if buffer.is_full() {
            buffer = enlarge(&buffer)?;
        }
        let read = buffer.poll_read(io, cx);
        if let Poll::Ready(Ok(count)) = read {
            buffer.grow(count);
            self.received = self.received.wrapping_add(count as u64);
        }
        self.buffer = Some(buffer).filter(|buffer| !buffer.is_empty());
        match ready!(read) {
            Ok(0) => Poll::Ready(Err(Error::Closed(io::ErrorKind::UnexpectedEof.into()))),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(Error::Closed(error))),
        }
    }

    /// The next head, if all of it is there. Only new bytes are looked at, and a head is parsed once:
    /// one that comes byte by byte costs no more than another.
    fn split(&mut self) -> Result<Option<(Parsed, Bytes)>, Error> {
        let Some(buffer) = &self.buffer else {
            return Ok(None);
        };
        let end = head::find_end(buffer.filled(), self.scanned)?;
        self.scanned = buffer.filled().len();
        if end.unwrap_or(self.scanned) > self.head_size {
            return Err(Error::Malformed("an answer with a head too long"));
        }
        let Some(end) = end else {
            return Ok(None);
        };
        let mut head = self.buffer.take().map(Buffer::freeze).unwrap_or_default();
        let rest = head.split_off(end);
        Ok(Some((head::parse(&head, self.is_head)?, rest)))
    }

    fn skip(&mut self, rest: Bytes) -> Result<(), Error> {
        self.interims += 1;
        if self.interims > INTERIMS {
            return Err(Error::Malformed("too many interim answers"));
        }
        self.scanned = 0;
        if !rest.is_empty() {
            let mut buffer = Buffer::of(rest.len());
            buffer.append(&rest);
            self.buffer = Some(buffer);
        }
        Ok(())
    }
}

/// More than the small buffer is a rare head; more than the large one is none.
fn enlarge(buffer: &Buffer) -> Result<Buffer, Error> {
    if buffer.filled().len() >= LARGE {
        return Err(Error::Malformed("an answer with a head too long"));
    }
    let mut larger = Buffer::large();
    larger.append(buffer.filled());
    Ok(larger)
}

/// Answers of status 1xx before the final one. An upstream that processes for long sends a 102 every
/// now and then; RFC 9110 sets no limit.
const INTERIMS: u8 = 16;
