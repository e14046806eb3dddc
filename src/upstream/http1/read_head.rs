//! The response head: receives it, parses it, and determines the framing of the body.
//!
//! The exchange polls the [`HeadBuffer`]. Interim responses (1xx) are discarded here: the proxy responds to
//! `Expect: 100-continue` itself and forwards no early hints. A 101 is a final response, and is accepted only if the request asked
//! for a WebSocket. The buffer is large enough for a small body to arrive in the same read as the head.
//!
//! A head that could be read in two ways is rejected, because the next response on the connection would be expected where the
//! wrong reading ends (RFC 9112 sections 6.3 and 11.2). Field values are copied from the buffer that they were received in: h2 keeps
//! those that it has put into the table of its header compression for as long as the client's connection is open, and a slice would
//! keep the whole buffer. `transfer-encoding` is removed; the caller removes the other hop-by-hop fields.

use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header, request,
    response,
};
use tokio::io::AsyncRead;

use super::read_body::ResponseFraming;
use crate::buffer_pool::{Buffer, LARGE};
use crate::text;
use crate::text::list_elements;
use crate::upstream::error::Error;

/// A final response head.
pub(crate) struct ResponseHead {
    pub(crate) parts: response::Parts,
    pub(crate) framing: ResponseFraming,
    /// Whether the upstream keeps the connection open after the response.
    pub(crate) is_reusable: bool,
}

/// The bytes of a response until its head is complete.
pub(crate) struct HeadBuffer {
    /// `None` until the first byte arrives, so that a waiting request holds no buffer.
    buffer: Option<Buffer>,
    /// The number of bytes that are known not to contain the end of the head.
    scanned: usize,
    interim_responses: u8,
    received: u64,
    max_head_size: usize,
    request: RequestKind,
}

/// What the head of a response depends on, of the request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// The method is HEAD, so the response has no body.
    Head,
    /// The request asks for a WebSocket, so the response may be a 101.
    Upgrade,
    Other,
}

impl RequestKind {
    pub(crate) fn of(parts: &request::Parts) -> Self {
        if parts.method == Method::HEAD {
            Self::Head
        } else if parts.headers.contains_key(header::UPGRADE) {
            Self::Upgrade
        } else {
            Self::Other
        }
    }
}

/// A parsed head.
enum Parsed {
    /// A 1xx response, which is skipped.
    Interim,
    Final(Box<ResponseHead>),
}

impl HeadBuffer {
    /// Creates a buffer for the response to one request.
    pub(crate) fn new(max_head_size: usize, request: RequestKind) -> Self {
        Self {
            buffer: None,
            scanned: 0,
            interim_responses: 0,
            received: 0,
            max_head_size,
            request,
        }
    }

    /// The number of received bytes.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Whether the first received bytes cannot be those of a response head.
    pub(crate) fn begins_without_status_line(&self) -> bool {
        let is_foreign = |buffer: &Buffer| !may_begin_head(buffer.filled());
        self.interim_responses == 0 && self.buffer.as_ref().is_some_and(is_foreign)
    }

    /// Returns the final response head and the bytes after it.
    pub(crate) fn poll_head<S: AsyncRead + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(ResponseHead, Bytes), Error>> {
        loop {
            ready!(self.poll_read(io, cx))?;
            while let Some(parsed) = self.split_head()? {
                match parsed {
                    (Parsed::Final(head), rest) => return Poll::Ready(Ok((*head, rest))),
                    (Parsed::Interim, rest) => self.skip_interim(rest)?,
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

    /// Removes and parses the next head if it is complete.
    ///
    /// Only new bytes are searched, and a head is parsed once, so that a head that arrives byte by byte does not cost more than
    /// others.
    fn split_head(&mut self) -> Result<Option<(Parsed, Bytes)>, Error> {
        let Some(buffer) = &self.buffer else {
            return Ok(None);
        };
        let end = find_end(buffer.filled(), self.scanned)?;
        self.scanned = buffer.filled().len();
        if end.unwrap_or(self.scanned) > self.max_head_size {
            return Err(HEAD_TOO_LARGE);
        }
        let Some(end) = end else {
            return Ok(None);
        };
        let head = buffer.filled().get(..end).unwrap_or_default();
        let parsed = parse(head, self.request)?;
        let rest = self.buffer.take().map(|buffer| buffer.freeze_from(end));
        Ok(Some((parsed, rest.unwrap_or_default())))
    }

    fn skip_interim(&mut self, rest: Bytes) -> Result<(), Error> {
        self.interim_responses += 1;
        if self.interim_responses > MAX_INTERIM_RESPONSES {
            return Err(Error::Malformed("too many interim responses"));
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

/// Copies a full small buffer into a large one. Few heads need it.
fn enlarge(buffer: &Buffer) -> Result<Buffer, Error> {
    if buffer.filled().len() >= LARGE {
        return Err(HEAD_TOO_LARGE);
    }
    let mut larger = Buffer::large();
    larger.append(buffer.filled());
    Ok(larger)
}

/// Returns the length of the head at the beginning of `bytes`, if its empty line was received. The first `scanned` bytes are
/// known not to contain the end of the head.
///
/// # Errors
/// [`Error::Malformed`] for bytes that cannot become a head, before they are complete: another protocol, or lines that end in
/// a bare LF.
fn find_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, Error> {
    if !may_begin_head(bytes) {
        return Err(Error::Malformed("the response is not HTTP/1"));
    }
    let mut from = scanned;
    while let Some(line_feed) = find_line_feed(bytes, from) {
        let line = bytes.get(..=line_feed).unwrap_or_default();
        if !line.ends_with(b"\r\n") {
            return Err(Error::Malformed("the response head has a bare line feed"));
        }
        if line.ends_with(b"\r\n\r\n") {
            return Ok(Some(line_feed + 1));
        }
        from = line_feed + 1;
    }
    Ok(None)
}

/// Whether `bytes`, which may be incomplete, can be the beginning of a response head.
fn may_begin_head(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .zip(b"HTTP/1.")
        .all(|(received, expected)| received == expected)
}

fn find_line_feed(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    Some(from + memchr::memchr(b'\n', rest)?)
}

/// Parses a complete `head`, including its empty line.
fn parse(head: &[u8], request: RequestKind) -> Result<Parsed, Error> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut raw = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut raw,
        head,
        &mut fields,
    );
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Error::Malformed("the response head is malformed")),
        Err(error) => return Err(parse_error(error)),
    }
    let (status, version) = status_and_version(&raw)?;
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    if status.is_informational() && !is_switch {
        return Ok(Parsed::Interim);
    }
    let mut headers = to_header_map(raw.headers)?;
    let framing = if is_switch {
        check_switch(&headers, version, request)?;
        ResponseFraming::UntilClose
    } else {
        determine_framing(&mut headers, status, version, request)?
    };
    let is_reusable = version == Version::HTTP_11 && !has_connection_option(&headers, b"close");
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.version, parts.headers) = (status, version, headers);
    Ok(Parsed::Final(Box::new(ResponseHead {
        parts,
        framing,
        is_reusable,
    })))
}

fn status_and_version(raw: &httparse::Response<'_, '_>) -> Result<(StatusCode, Version), Error> {
    let version = match raw.version {
        Some(0) => Version::HTTP_10,
        Some(1) => Version::HTTP_11,
        _ => return Err(UNSUPPORTED_VERSION),
    };
    match raw.code.and_then(|code| StatusCode::from_u16(code).ok()) {
        None => Err(INVALID_STATUS),
        Some(status) => Ok((status, version)),
    }
}

/// Checks a 101: the request asked for a WebSocket, and the response names no other protocol. A response without a body frames
/// none (RFC 9110 section 8.6, RFC 9112 section 6.1). Whether the upstream knows the key of the handshake is checked in `forward`.
fn check_switch(headers: &HeaderMap, version: Version, request: RequestKind) -> Result<(), Error> {
    if request != RequestKind::Upgrade {
        return Err(Error::Malformed(
            "the response switches protocols without an upgrade request",
        ));
    }
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let is_websocket = match (protocols.next(), protocols.next()) {
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"websocket"),
        _ => false,
    };
    if !is_websocket
        || version != Version::HTTP_11
        || !has_connection_option(headers, b"upgrade")
        || headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING)
    {
        return Err(Error::Malformed(
            "the response switches to another protocol than a WebSocket",
        ));
    }
    Ok(())
}

/// All fields in their order.
fn to_header_map(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::with_capacity(fields.len() + ADDED_FIELDS);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(MALFORMED_FIELD);
        };
        if headers.try_append(name, value).is_err() {
            return Err(MALFORMED_FIELD);
        }
    }
    Ok(headers)
}

/// The framing of the body by RFC 9112 section 6.3, without the leniency that the RFC permits.
///
/// The fields of a response without a body are checked as well.
fn determine_framing(
    headers: &mut HeaderMap,
    status: StatusCode,
    version: Version,
    request: RequestKind,
) -> Result<ResponseFraming, Error> {
    let length = content_length(headers)?;
    let is_chunked = is_chunked(headers)?;
    if is_chunked && length.is_some() {
        return Err(Error::Malformed(
            "the response has both content-length and transfer-encoding",
        ));
    }
    if is_chunked && version == Version::HTTP_10 {
        return Err(Error::Malformed("an HTTP/1.0 response is chunked"));
    }
    headers.remove(header::TRANSFER_ENCODING);
    // RFC 9110 section 8.6: a 204 has no content-length. In a response to HEAD and in a 304, content-length is the size of the
    // body that a GET would get, so it stays.
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    let has_body = request != RequestKind::Head
        && status != StatusCode::NO_CONTENT
        && status != StatusCode::NOT_MODIFIED;
    Ok(match length {
        _ if !has_body => ResponseFraming::Length(0),
        _ if is_chunked => ResponseFraming::chunked(),
        Some(length) => ResponseFraming::Length(length),
        None => ResponseFraming::UntilClose,
    })
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err(Error::Malformed("the response has two content-lengths"));
    }
    let length = length.to_str().ok().and_then(text::parse_decimal);
    length
        .map(Some)
        .ok_or(Error::Malformed("the content-length is no valid number"))
}

fn is_chunked(headers: &HeaderMap) -> Result<bool, Error> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Error::Malformed(
            "the response has an unsupported transfer coding",
        )),
    }
}

fn has_connection_option(headers: &HeaderMap, option: &[u8]) -> bool {
    list_elements(headers, &header::CONNECTION).any(|element| element.eq_ignore_ascii_case(option))
}

fn parse_error(error: httparse::Error) -> Error {
    match error {
        httparse::Error::TooManyHeaders => Error::Malformed("the response has too many fields"),
        httparse::Error::Status => INVALID_STATUS,
        httparse::Error::Version => UNSUPPORTED_VERSION,
        _ => MALFORMED_FIELD,
    }
}

const HEAD_TOO_LARGE: Error = Error::Malformed("the response head is too large");
const INVALID_STATUS: Error = Error::Malformed("the response has no valid status");
const UNSUPPORTED_VERSION: Error =
    Error::Malformed("the response is of an unsupported HTTP version");
const MALFORMED_FIELD: Error = Error::Malformed("a field of the response is malformed");

/// The number of fields that a response head may have. Registries send about ten.
const MAX_FIELDS: usize = 128;

/// The fields that are added to a response on its way to the client: X-Request-Id, the version of the registry API, and a field
/// for which hyper makes room before it looks whether there is a Date. Without room for them, the map would grow, which moves
/// and hashes every field again.
const ADDED_FIELDS: usize = 3;

/// The number of 1xx responses before the final one. RFC 9110 sets no limit. An upstream that processes a request for long may
/// send a 102 from time to time.
const MAX_INTERIM_RESPONSES: u8 = 16;
