//! The response body: reads it from the socket when it is polled, and removes its framing.
//!
//! The exchange creates a [`BodyReader`], and `response_body` polls it. A frame is all that the socket has, up to 256 KiB. The
//! buffer is taken from the pool only when there are bytes to read, and nothing is read ahead of a slow client.

use std::io;
use std::mem;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::SizeHint;
use tokio::io::AsyncRead;

use super::connection::Connection;
use crate::buffer_pool::Buffer;
use crate::upstream::error::Error;

/// Reads a response body, part of which may have arrived together with the head.
pub(crate) struct BodyReader<S> {
    /// `None` after the connection was taken for the next request, or closed because it cannot be used again.
    connection: Option<Connection<S>>,
    framing: ResponseFraming,
    /// Body bytes that arrived together with the head.
    buffered: Bytes,
    /// What follows the frames that were returned so far.
    next: Next,
    is_reusable: bool,
    accepts_eof_as_end: bool,
}

/// What follows the frames that a [`BodyReader`] has returned.
enum Next {
    /// More bytes are read from the socket.
    Read,
    /// The clean end of the body.
    End,
    /// An error.
    Error(Error),
    /// Nothing: the error was returned.
    Nothing,
}

/// How the end of a response body is marked (RFC 9112 section 6.3).
pub(crate) enum ResponseFraming {
    /// By `content-length`. Holds the number of bytes that are still missing; 0 for a response without a body.
    Length(u64),
    /// By the last chunk of the chunked transfer coding.
    Chunked(ChunkedDecoder),
    /// By the end of the connection.
    UntilClose,
}

/// The result of decoding received bytes in place.
pub(crate) struct Decoded {
    /// The number of body bytes, which are now at the beginning.
    pub(crate) payload: usize,
    /// The number of received bytes that belong to this response. Fewer than were given if its end was found.
    pub(crate) consumed: usize,
}

impl<S: AsyncRead + Unpin> BodyReader<S> {
    /// Creates a reader. The connection can be used for another request after the body if `is_reusable`. The caller must call
    /// [`Self::begin`] next.
    pub(crate) fn new(
        connection: Connection<S>,
        framing: ResponseFraming,
        is_reusable: bool,
    ) -> Self {
        Self {
            connection: Some(connection),
            framing,
            buffered: Bytes::new(),
            next: Next::Read,
            is_reusable,
            accepts_eof_as_end: true,
        }
    }

    /// Treats the end of the connection as an error, also for a body without other framing.
    ///
    /// Used after a failed write. When the upstream has reset the connection, the kernel returns the bytes that it had received
    /// and then end-of-file, although more bytes may have been lost.
    pub(crate) fn require_explicit_end(&mut self) {
        self.accepts_eof_as_end = false;
    }

    /// Takes the bytes that arrived after the head.
    pub(crate) fn begin(&mut self, rest: Bytes) {
        match self.framing {
            ResponseFraming::Chunked(_) => {
                let mut bytes = rest.to_vec();
                let payload = self.decode(&mut bytes);
                bytes.truncate(payload);
                self.buffered = Bytes::from(bytes);
            }
            ResponseFraming::Length(_) | ResponseFraming::UntilClose => self.begin_unframed(rest),
        }
    }

    /// Without chunks, the body is a slice of the buffer of the head, and nothing is copied.
    fn begin_unframed(&mut self, mut rest: Bytes) {
        if let ResponseFraming::Length(missing) = &mut self.framing {
            let body = take_up_to(missing, rest.len());
            self.is_reusable &= body == rest.len();
            rest.truncate(body);
        }
        self.buffered = rest;
        self.check_end();
    }

    /// Returns the next bytes of the body. They are never empty.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if !self.buffered.is_empty() {
            return Poll::Ready(Some(Ok(mem::take(&mut self.buffered))));
        }
        if matches!(self.next, Next::Read) {
            match self.poll_read(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(data) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                Poll::Ready(_) => {}
            }
        }
        match mem::replace(&mut self.next, Next::Nothing) {
            Next::Error(error) => Poll::Ready(Some(Err(error))),
            Next::End => {
                self.next = Next::End;
                Poll::Ready(None)
            }
            Next::Read | Next::Nothing => Poll::Ready(None),
        }
    }

    /// Reads until the socket has no more bytes, the buffer is full, or the body ends. The result is empty only if the body
    /// ends.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut buffer = Buffer::large();
        while matches!(self.next, Next::Read) && !buffer.is_full() {
            let Some(connection) = &mut self.connection else {
                self.next = Next::Nothing;
                break;
            };
            match buffer.poll_read(connection.io_mut(), cx) {
                Poll::Pending if buffer.is_empty() => {
                    return self.poll_deadline(cx).map(|()| Bytes::new());
                }
                Poll::Pending => break,
                Poll::Ready(Err(error)) => self.fail(Error::Closed(error)),
                Poll::Ready(Ok(0)) => self.end_of_file(),
                Poll::Ready(Ok(_)) => {
                    connection.deadline.stop();
                    let payload = self.decode(buffer.fresh());
                    buffer.grow(payload);
                }
            }
        }
        Poll::Ready(buffer.freeze())
    }

    /// Ready only if the upstream has been silent for too long; the body has failed then.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection {
            ready!(connection.deadline.poll(cx));
            let error = connection.deadline.error();
            self.fail(error);
        }
        Poll::Ready(())
    }

    /// Decodes `received` in place, records an end or an error, and returns the number of body bytes at its beginning.
    fn decode(&mut self, received: &mut [u8]) -> usize {
        match self.framing.decode(received) {
            Err(error) => {
                self.fail(error);
                0
            }
            Ok(decoded) => {
                // Bytes after the response would be taken for the response to the next request.
                self.is_reusable &= decoded.consumed == received.len();
                self.check_end();
                decoded.payload
            }
        }
    }

    fn check_end(&mut self) {
        if self.framing.is_complete() {
            self.next = Next::End;
            self.connection.take_if(|_| !self.is_reusable);
        }
    }

    fn end_of_file(&mut self) {
        if matches!(self.framing, ResponseFraming::UntilClose) && self.accepts_eof_as_end {
            self.next = Next::End;
            self.connection = None;
        } else {
            self.fail(Error::Closed(io::ErrorKind::UnexpectedEof.into()));
        }
    }

    fn fail(&mut self, error: Error) {
        self.next = Next::Error(error);
        self.connection = None;
    }

    /// Returns the error if the body failed within the bytes that arrived together with the head. The head was not forwarded
    /// yet, so the client can still get an error response.
    pub(crate) fn check(self) -> Result<Self, Error> {
        match self.next {
            Next::Error(error) => Err(error),
            Next::Read | Next::End | Next::Nothing => Ok(self),
        }
    }

    /// Takes the connection after a 101, and the bytes that arrived together with the response head.
    pub(crate) fn into_tunnel(self) -> Option<(Connection<S>, Bytes)> {
        Some((self.connection?, self.buffered))
    }

    /// Whether nothing more is read from the socket, because of the end of the body or an error.
    pub(crate) fn is_received(&self) -> bool {
        !matches!(self.next, Next::Read)
    }

    /// Takes the connection if the body [is received](Self::is_received) and another request can be sent over it.
    pub(crate) fn take_connection(&mut self) -> Option<Connection<S>> {
        match self.next {
            Next::End => self.connection.take(),
            Next::Read | Next::Error(_) | Next::Nothing => None,
        }
    }

    /// Whether the body has ended cleanly and all its bytes were returned.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.buffered.is_empty() && matches!(self.next, Next::End)
    }

    /// The size of the rest of the body. Exact for a body with `content-length`, and for a body that arrived completely
    /// together with its head.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let buffered = self.buffered.len() as u64;
        match self.framing.missing() {
            Some(missing) => SizeHint::with_exact(buffered.saturating_add(missing)),
            None => {
                let mut hint = SizeHint::new();
                hint.set_lower(buffered);
                hint
            }
        }
    }
}

impl ResponseFraming {
    /// The framing of a chunked body, before its first byte.
    pub(crate) const fn chunked() -> Self {
        Self::Chunked(ChunkedDecoder {
            state: ChunkedState::Size,
            missing: 0,
            line_length: 0,
        })
    }

    /// Removes the framing from `bytes` in place.
    pub(crate) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Error> {
        let payload = match self {
            Self::Chunked(decoder) => return decoder.decode(bytes),
            Self::UntilClose => bytes.len(),
            Self::Length(missing) => take_up_to(missing, bytes.len()),
        };
        Ok(Decoded {
            payload,
            consumed: payload,
        })
    }

    /// Whether all bytes of the response were received.
    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Self::Length(missing) => *missing == 0,
            Self::Chunked(decoder) => decoder.is_complete(),
            Self::UntilClose => false,
        }
    }

    /// The number of body bytes that were not received yet, if it is known.
    fn missing(&self) -> Option<u64> {
        match self {
            Self::Length(missing) => Some(*missing),
            Self::Chunked(decoder) => decoder.is_complete().then_some(0),
            Self::UntilClose => None,
        }
    }
}

/// Subtracts up to `available` from `missing`, and returns how much.
fn take_up_to(missing: &mut u64, available: usize) -> usize {
    let taken = usize::try_from(*missing).map_or(available, |missing| missing.min(available));
    *missing = missing.saturating_sub(taken as u64);
    taken
}

/// Decodes the chunked transfer coding (RFC 9112 section 7.1) in place. It can stop and continue at any byte.
///
/// The decoder is strict: a size consists of hexadecimal digits, lines end in CRLF, and all lengths are bounded. White space is
/// accepted only between a size and an extension, where a recipient must skip it (RFC 9112 section 7.1.1). Extensions and
/// trailers are discarded.
pub(crate) struct ChunkedDecoder {
    state: ChunkedState,
    /// The missing data bytes of the current chunk, or its size as far as it was read.
    missing: u64,
    /// The number of bytes of the current line or of the trailer section.
    line_length: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ChunkedState {
    Size,
    /// In white space after the size. An extension must follow.
    SizeSpace,
    Extension,
    /// Before the line feed of the size line.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a line after the last chunk.
    TrailerStart,
    TrailerField,
    TrailerFieldLf,
    /// Before the line feed of the empty line.
    FinalLf,
    Complete,
}

impl ChunkedDecoder {
    /// Whether the empty line after the last chunk was read.
    fn is_complete(&self) -> bool {
        self.state == ChunkedState::Complete
    }

    /// Moves the data in `bytes` to the beginning, over the framing.
    fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Error> {
        let (mut payload, mut at) = (0, 0);
        while at < bytes.len() && !self.is_complete() {
            if self.state == ChunkedState::Data {
                let count = take_up_to(&mut self.missing, bytes.len() - at);
                if at != payload {
                    bytes.copy_within(at..at + count, payload);
                }
                payload += count;
                at += count;
                if self.missing == 0 {
                    self.state = ChunkedState::DataCr;
                }
            } else if let Some(byte) = bytes.get(at) {
                self.state = self.step(*byte)?;
                at += 1;
            }
        }
        Ok(Decoded {
            payload,
            consumed: at,
        })
    }

    /// Reads one byte of the framing and returns the next state.
    fn step(&mut self, byte: u8) -> Result<ChunkedState, Error> {
        use ChunkedState as S;
        match (self.state, byte) {
            (S::Size, _) => self.size(byte),
            (S::SizeSpace, b';') => Ok(S::Extension),
            (S::SizeSpace, b' ' | b'\t') => self.skip(byte, MAX_EXTENSION, S::SizeSpace),
            (S::SizeSpace, _) => Err(INVALID_CHUNK_SIZE),
            (S::Extension, b'\r') => Ok(S::SizeLf),
            (S::Extension, _) => self.skip(byte, MAX_EXTENSION, S::Extension),
            (S::SizeLf, b'\n') => Ok(self.begin_data()),
            (S::DataCr, b'\r') => Ok(S::DataLf),
            (S::DataLf, b'\n') => {
                self.line_length = 0;
                Ok(S::Size)
            }
            (S::TrailerStart, b'\r') => Ok(S::FinalLf),
            (S::TrailerField, b'\r') => Ok(S::TrailerFieldLf),
            (S::TrailerStart | S::TrailerField, _) => {
                self.skip(byte, MAX_TRAILERS, S::TrailerField)
            }
            (S::TrailerFieldLf, b'\n') => Ok(S::TrailerStart),
            (S::FinalLf, b'\n') => Ok(S::Complete),
            _ => Err(Error::Malformed("a chunk line does not end in CRLF")),
        }
    }

    fn size(&mut self, byte: u8) -> Result<ChunkedState, Error> {
        match (char::from(byte).to_digit(16), byte) {
            (Some(digit), _) if self.line_length < MAX_SIZE_DIGITS => {
                self.line_length += 1;
                self.missing = (self.missing << 4) | u64::from(digit);
                Ok(ChunkedState::Size)
            }
            (None, b'\r') if self.line_length > 0 => Ok(ChunkedState::SizeLf),
            (None, b';') if self.line_length > 0 => {
                self.line_length = 0;
                Ok(ChunkedState::Extension)
            }
            (None, b' ' | b'\t') if self.line_length > 0 => {
                self.line_length = 0;
                Ok(ChunkedState::SizeSpace)
            }
            _ => Err(INVALID_CHUNK_SIZE),
        }
    }

    fn begin_data(&mut self) -> ChunkedState {
        self.line_length = 0;
        if self.missing == 0 {
            ChunkedState::TrailerStart
        } else {
            ChunkedState::Data
        }
    }

    /// Discards a byte of an extension or trailer. Control characters other than the tab are errors.
    fn skip(&mut self, byte: u8, max: usize, next: ChunkedState) -> Result<ChunkedState, Error> {
        self.line_length += 1;
        if self.line_length > max {
            return Err(Error::Malformed(
                "a chunk extension or the trailer section is too long",
            ));
        }
        if byte.is_ascii_control() && byte != b'\t' {
            return Err(Error::Malformed("a chunk line has a control character"));
        }
        Ok(next)
    }
}

const INVALID_CHUNK_SIZE: Error = Error::Malformed("a chunk has no valid size");

/// The number of hexadecimal digits of a chunk size: 64 bits.
const MAX_SIZE_DIGITS: usize = 16;

/// The number of bytes of the extensions of one chunk, and of the white space before them.
const MAX_EXTENSION: usize = 1024;

/// The number of bytes of the trailer section.
const MAX_TRAILERS: usize = 8 * 1024;
