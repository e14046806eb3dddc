//! A request on its way out: head and body in batches, each of which is one `writev`.
//!
//! Polled by the exchange. A batch is everything the client's body has ready, and no further frame is
//! asked for until all of it is written: so memory is bounded, and the client's pace is the upstream's.
//! A chunk's size line is made when its bytes are in hand, never before, and the last chunk only after
//! a clean end of the body: a cut upload cannot look whole (RFC 9112 7.1).
//!
//! The same holds where the length was announced. On HTTP/2 a request may turn out malformed after its last announced
//! byte: more DATA may follow, or the stream may be reset (RFC 9113 section 8.1.1). The batch with the last announced byte
//! is therefore written only when the end of the body is known, and until then the upstream has an incomplete request,
//! which can still be aborted.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::request::Parts;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::Error;
use super::encoder::{Coding, write_head};
use crate::body::Body;
use crate::buffer_pool::MEDIUM;

/// The state of one request's writing.
pub(super) struct RequestWriter {
    /// None once it has ended.
    body: Option<Body>,
    coding: Coding,
    batch: WriteBatch,
    written: u64,
}

impl RequestWriter {
    /// Writes the head into `lead`; it goes out together with the first frames.
    pub(super) fn new(mut lead: Vec<u8>, parts: &Parts, body: Body) -> Result<Self, Error> {
        lead.clear();
        let coding = write_head(&mut lead, parts, &body)?;
        Ok(Self {
            body: Some(body).filter(|body| !body.is_end_stream()),
            coding,
            batch: WriteBatch::new(lead),
            written: 0,
        })
    }

    /// Bytes the socket has taken.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// True when the upstream has the whole request.
    pub(super) fn is_complete(&self) -> bool {
        self.batch.is_empty() && self.body.is_none()
    }

    /// True when nothing can be written before the client sends more, or ends its body.
    pub(super) fn waits_for_body(&self) -> bool {
        self.body.is_some() && (self.batch.is_empty() || self.is_held())
    }

    /// True when all announced bytes have come and the end of the body has not: the batch waits for it.
    fn is_held(&self) -> bool {
        self.body.is_some() && matches!(self.coding, Coding::Length(0))
    }

    /// The head's buffer, to be used again.
    pub(super) fn into_lead(self) -> Vec<u8> {
        self.batch.lead
    }

    /// Ready when the body has ended and everything is written.
    ///
    /// # Errors
    /// [`Error::Write`] from the socket, [`Error::Body`] from the client, and [`Error::Malformed`] for a
    /// body that is not as long as it said.
    pub(super) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            if self.body.is_some() && (!self.batch.is_begun() || self.is_held()) {
                self.gather(cx)?;
            }
            if self.batch.is_empty() || self.is_held() {
                // A TLS stream may still hold what it took, also while the client makes it wait for more.
                let flushed = Pin::new(io).poll_flush(cx).map_err(Error::Write);
                return match (&self.body, flushed) {
                    (Some(_), Poll::Ready(Ok(()))) => Poll::Pending,
                    (_, flushed) => flushed,
                };
            }
            let count = ready!(self.batch.poll_write(io, cx)).map_err(Error::Write)?;
            self.written = self.written.wrapping_add(count as u64);
        }
    }

    /// Takes every frame that is ready into the batch, which is empty but perhaps for the head.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut size = 0;
        while self.is_held() || size < BATCH_BYTES && self.batch.frames.len() < BATCH_FRAMES {
            let Some(body) = &mut self.body else {
                break;
            };
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.end()?,
                Poll::Ready(Some(Err(error))) => return Err(Error::Body(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    let has_ended = body.is_end_stream();
                    size += data.len();
                    self.take(data)?;
                    if has_ended {
                        self.end()?;
                    }
                }
            }
        }
        if matches!(self.coding, Coding::Chunked) {
            self.batch.close_chunk(size, self.body.is_none());
        }
        Ok(())
    }

    /// An empty frame is no frame: as a chunk it would be the last one.
    fn take(&mut self, data: Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        if let Coding::Length(due) = &mut self.coding {
            *due = due
                .checked_sub(data.len() as u64)
                .ok_or(Error::Malformed("a request body longer than it said"))?;
        }
        self.batch.frames.push_back(data);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        self.body = None;
        match self.coding {
            Coding::Length(1..) => Err(Error::Malformed("a request body shorter than it said")),
            Coding::Length(0) | Coding::Chunked => Ok(()),
        }
    }
}

/// What one `writev` is asked to take, and what it has left over.
struct WriteBatch {
    /// The head, the size line of a chunk, or both.
    lead: Vec<u8>,
    /// Bytes of `lead` that are written.
    sent: usize,
    frames: VecDeque<Bytes>,
    tail: &'static [u8],
}

impl WriteBatch {
    fn new(lead: Vec<u8>) -> Self {
        Self {
            lead,
            sent: 0,
            frames: VecDeque::new(),
            tail: b"",
        }
    }

    fn is_empty(&self) -> bool {
        self.sent == self.lead.len() && self.frames.is_empty() && self.tail.is_empty()
    }

    /// True when part of it may be on the wire already, so that nothing can be put before the rest.
    fn is_begun(&self) -> bool {
        !self.is_empty() && (self.sent > 0 || !self.frames.is_empty() || !self.tail.is_empty())
    }

    /// Makes one chunk of all frames, and the last chunk of the body's end.
    fn close_chunk(&mut self, size: usize, is_last: bool) {
        if size > 0 {
            // Writing to a Vec cannot fail.
            let _ = write!(self.lead, "{size:x}\r\n");
        }
        self.tail = match (size, is_last) {
            (0, false) => b"",
            (0, true) => b"0\r\n\r\n",
            (_, false) => b"\r\n",
            (_, true) => b"\r\n0\r\n\r\n",
        };
    }

    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let lead = self.lead.get(self.sent..).unwrap_or_default();
        // A head alone, as of every download: without the list, and by `send`, which is the shorter way in the kernel.
        if self.frames.is_empty() && self.tail.is_empty() {
            let taken = ready!(Pin::new(io).poll_write(cx, lead))?;
            return self.taken(taken);
        }
        let mut slices = [IoSlice::new(&[]); BATCH_FRAMES + 2];
        let parts = [lead].into_iter();
        let parts = parts.chain(self.frames.iter().map(Bytes::as_ref));
        let parts = parts.chain([self.tail]).filter(|part| !part.is_empty());
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        let taken = ready!(Pin::new(io).poll_write_vectored(cx, slices))?;
        self.taken(taken)
    }

    fn taken(&mut self, taken: usize) -> Poll<io::Result<usize>> {
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(taken);
        Poll::Ready(Ok(taken))
    }

    fn advance(&mut self, mut taken: usize) {
        let of_lead = taken.min(self.lead.len() - self.sent);
        self.sent += of_lead;
        taken -= of_lead;
        while let Some(frame) = self.frames.front_mut()
            && taken > 0
        {
            let of_frame = taken.min(frame.len());
            frame.advance(of_frame);
            taken -= of_frame;
            if frame.is_empty() {
                self.frames.pop_front();
            }
        }
        self.tail = self.tail.get(taken..).unwrap_or_default();
        if self.is_empty() {
            self.lead.clear();
            self.sent = 0;
        }
    }
}

/// Measured on uploads: one `writev` of what is ready costs 5 % less than one a frame. No more than what is read of a
/// client at once, since both are held where the upstream takes nothing.
const BATCH_BYTES: usize = MEDIUM;

/// Well below the kernel's limit of 1024 slices; hyper's frames are 8 to 16 KiB.
const BATCH_FRAMES: usize = 60;
