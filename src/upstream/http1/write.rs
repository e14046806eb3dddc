//! The request on its way out: its head, the framing of its body, and the writes to the socket.
//!
//! The exchange polls the [`RequestWriter`]. The caller's header map is written as it is, except for the fields that declare
//! the framing: they follow from the body alone, so that fields and body cannot disagree.
//!
//! Head and body are written in batches, each of which is one `writev`. A batch holds everything that the client's body has
//! ready, and no further frame is requested until all of it is written. This bounds the memory, and the client sends no faster
//! than the upstream reads.
//!
//! An upload that breaks off must not look complete to the upstream:
//!
//! - A chunk-size line is written only when the data of the chunk is in memory, and the last chunk only after a clean end of
//!   the body (RFC 9112 section 7.1).
//! - On HTTP/2, a request can turn out malformed after its last declared byte: more DATA can follow, or RST_STREAM (RFC 9113
//!   section 8.1.1). The batch with the last declared byte is therefore written only when the end of the body is known. Until
//!   then the upstream has an incomplete request, which can still be aborted.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::request::Parts;
use http::{HeaderName, Method, header};
use http_body::Body as _;
use tokio::io::AsyncWrite;

use crate::body::Body;
use crate::buffer_pool::MEDIUM;
use crate::upstream::error::Error;

/// Writes one request.
pub(crate) struct RequestWriter {
    /// `None` after the end of the body.
    body: Option<Body>,
    framing: RequestFraming,
    batch: WriteBatch,
    written: u64,
}

/// How the end of a request body is marked.
enum RequestFraming {
    /// By `content-length`. Holds the number of bytes that are still missing; 0 also if there is no body.
    Length(u64),
    /// By the chunked transfer coding.
    Chunked,
}

impl RequestWriter {
    /// Serializes the head into `head_buffer`. It is written together with the first frames of the body.
    pub(crate) fn new(mut head_buffer: Vec<u8>, parts: &Parts, body: Body) -> Result<Self, Error> {
        head_buffer.clear();
        let framing = serialize_head(&mut head_buffer, parts, &body)?;
        Ok(Self {
            body: Some(body).filter(|body| !body.is_end_stream()),
            framing,
            batch: WriteBatch::new(head_buffer),
            written: 0,
        })
    }

    /// The number of bytes that the socket has accepted.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether the whole request was written.
    pub(crate) fn is_complete(&self) -> bool {
        self.batch.is_empty() && self.body.is_none()
    }

    /// Whether nothing can be written before the client sends more of its body, or ends it.
    pub(crate) fn waits_for_body(&self) -> bool {
        self.body.is_some() && (self.batch.is_empty() || self.waits_for_end())
    }

    /// Whether all declared bytes were received, but not the end of the body. The batch is not written before that.
    fn waits_for_end(&self) -> bool {
        self.body.is_some() && matches!(self.framing, RequestFraming::Length(0))
    }

    /// The buffer for the head of the next request.
    pub(crate) fn into_head_buffer(self) -> Vec<u8> {
        self.batch.prefix
    }

    /// Ready when the body has ended and everything is written.
    ///
    /// # Errors
    /// [`Error::Write`] if the socket fails, [`Error::Body`] if the client's body fails, and [`Error::Malformed`] if the body
    /// does not have its declared length.
    pub(crate) fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        loop {
            if self.body.is_some() && (!self.batch.is_partly_written() || self.waits_for_end()) {
                self.fill_batch(cx)?;
            }
            if self.batch.is_empty() || self.waits_for_end() {
                // A TLS stream may hold back bytes that it accepted, so it is flushed also while the client's body is pending.
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

    /// Adds every frame that is ready to the batch, which is empty or holds only the head.
    fn fill_batch(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut size = 0;
        while self.waits_for_end()
            || size < MAX_BATCH_BYTES && self.batch.frames.len() < MAX_BATCH_FRAMES
        {
            let Some(body) = &mut self.body else {
                break;
            };
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.end_body()?,
                Poll::Ready(Some(Err(error))) => return Err(Error::Body(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    let has_ended = body.is_end_stream();
                    size += data.len();
                    self.push_data(data)?;
                    if has_ended {
                        self.end_body()?;
                    }
                }
            }
        }
        if matches!(self.framing, RequestFraming::Chunked) {
            self.batch.frame_as_chunk(size, self.body.is_none());
        }
        Ok(())
    }

    /// Adds the data of a frame. An empty frame is skipped: as a chunk it would be the last one.
    fn push_data(&mut self, data: Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        if let RequestFraming::Length(missing) = &mut self.framing {
            *missing = missing
                .checked_sub(data.len() as u64)
                .ok_or(Error::Malformed(
                    "the request body is longer than its declared length",
                ))?;
        }
        self.batch.frames.push_back(data);
        Ok(())
    }

    fn end_body(&mut self) -> Result<(), Error> {
        self.body = None;
        match self.framing {
            RequestFraming::Length(1..) => Err(Error::Malformed(
                "the request body is shorter than its declared length",
            )),
            RequestFraming::Length(0) | RequestFraming::Chunked => Ok(()),
        }
    }
}

/// Appends the head of a request with `body` to `out`. Host comes first (RFC 9110 section 7.2).
///
/// # Errors
/// [`Error::Malformed`] if the method or the target contains a byte that would split the request line. The types of the `http`
/// crate exclude such bytes; this is the last check before the socket.
fn serialize_head(out: &mut Vec<u8>, parts: &Parts, body: &Body) -> Result<RequestFraming, Error> {
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    if !is_request_line_word(target) || !is_request_line_word(parts.method.as_str()) {
        return Err(Error::Malformed(
            "the request line has a space or a control character",
        ));
    }
    for part in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(host) = parts.headers.get(header::HOST) {
        push_field(out, "host", host.as_bytes());
    }
    for (name, value) in &parts.headers {
        if !is_framing_field(name) && *name != header::HOST {
            push_field(out, name.as_str(), value.as_bytes());
        }
    }
    if parts.headers.contains_key(header::UPGRADE) {
        push_field(out, "connection", b"upgrade");
    }
    let framing = push_framing_field(out, &parts.method, body);
    out.extend_from_slice(b"\r\n");
    Ok(framing)
}

/// Appends `content-length` or `transfer-encoding`. A method that usually has a body gets `content-length: 0` if there is none
/// (RFC 9110 section 8.6).
fn push_framing_field(out: &mut Vec<u8>, method: &Method, body: &Body) -> RequestFraming {
    if body.is_end_stream() {
        if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            push_field(out, "content-length", b"0");
        }
        return RequestFraming::Length(0);
    }
    let Some(length) = body.size_hint().exact() else {
        push_field(out, "transfer-encoding", b"chunked");
        return RequestFraming::Chunked;
    };
    // A write to a `Vec` cannot fail.
    let _ = write!(out, "content-length: {length}\r\n");
    RequestFraming::Length(length)
}

fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn is_framing_field(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH
        || *name == header::TRANSFER_ENCODING
        || *name == header::CONNECTION
}

fn is_request_line_word(text: &str) -> bool {
    text.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

/// The bytes that the next `writev` should write: what a batch holds and what earlier calls have not written.
struct WriteBatch {
    /// The request head, a chunk-size line, or both.
    prefix: Vec<u8>,
    /// The number of bytes of `prefix` that are written.
    prefix_written: usize,
    frames: VecDeque<Bytes>,
    /// The end of a chunk, the last chunk, or both.
    suffix: &'static [u8],
}

impl WriteBatch {
    fn new(prefix: Vec<u8>) -> Self {
        Self {
            prefix,
            prefix_written: 0,
            frames: VecDeque::new(),
            suffix: b"",
        }
    }

    fn is_empty(&self) -> bool {
        self.prefix_written == self.prefix.len() && self.frames.is_empty() && self.suffix.is_empty()
    }

    /// Whether a part may be on the wire already, so that nothing can be inserted before the rest.
    fn is_partly_written(&self) -> bool {
        !self.is_empty()
            && (self.prefix_written > 0 || !self.frames.is_empty() || !self.suffix.is_empty())
    }

    /// Makes one chunk of all frames. After the end of the body, the last chunk follows.
    fn frame_as_chunk(&mut self, size: usize, is_last: bool) {
        if size > 0 {
            // A write to a `Vec` cannot fail.
            let _ = write!(self.prefix, "{size:x}\r\n");
        }
        self.suffix = match (size, is_last) {
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
        let prefix = self.prefix.get(self.prefix_written..).unwrap_or_default();
        // A request without a body, as of every download, is written by `send`, whose path in the kernel is shorter than that
        // of `writev`.
        if self.frames.is_empty() && self.suffix.is_empty() {
            let count = ready!(Pin::new(io).poll_write(cx, prefix))?;
            return self.record_written(count);
        }
        let mut slices = [IoSlice::new(&[]); MAX_BATCH_FRAMES + 2];
        let parts = [prefix].into_iter();
        let parts = parts.chain(self.frames.iter().map(Bytes::as_ref));
        let parts = parts.chain([self.suffix]).filter(|part| !part.is_empty());
        let mut used = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            used += 1;
        }
        let slices = slices.get(..used).unwrap_or_default();
        let count = ready!(Pin::new(io).poll_write_vectored(cx, slices))?;
        self.record_written(count)
    }

    fn record_written(&mut self, count: usize) -> Poll<io::Result<usize>> {
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(count);
        Poll::Ready(Ok(count))
    }

    fn advance(&mut self, mut count: usize) {
        let of_prefix = count.min(self.prefix.len() - self.prefix_written);
        self.prefix_written += of_prefix;
        count -= of_prefix;
        while let Some(frame) = self.frames.front_mut()
            && count > 0
        {
            let of_frame = count.min(frame.len());
            frame.advance(of_frame);
            count -= of_frame;
            if frame.is_empty() {
                self.frames.pop_front();
            }
        }
        self.suffix = self.suffix.get(count..).unwrap_or_default();
        if self.is_empty() {
            self.prefix.clear();
            self.prefix_written = 0;
        }
    }
}

/// The number of bytes after which a batch takes no further frame.
///
/// Measured on uploads: one `writev` for all frames that are ready costs 5 % less CPU time than one for each frame. The limit
/// equals what the proxy reads from a client in one call, because both are kept in memory while the upstream does not read.
const MAX_BATCH_BYTES: usize = MEDIUM;

/// The number of frames in a batch, well below the kernel's limit of 1024 slices. hyper's frames have 8 to 16 KiB.
const MAX_BATCH_FRAMES: usize = 60;
