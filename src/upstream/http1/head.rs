//! The head of an answer: found, parsed and judged.
//!
//! Called by `inbox`. Field values are slices of the buffer they came in. Whatever could be read in two
//! ways is refused, since the next answer on the connection would start where the wrong reading ends
//! (RFC 9112 6.3, 11.2). Hop-by-hop fields but `transfer-encoding` stay for the caller to remove.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header, response};

use super::Error;
use super::chunked::Chunked;
use super::framing::Framing;

/// A final head.
pub(super) struct Head {
    pub(super) parts: response::Parts,
    pub(super) framing: Framing,
    /// The upstream means to keep the connection.
    pub(super) is_reusable: bool,
}

/// A head is one of two things.
pub(super) enum Parsed {
    /// 100, 102, 103 or another 1xx, to be skipped.
    Interim,
    Final(Box<Head>),
}

/// The length of the head at the start of `bytes`, if its empty line has come; the first `scanned` bytes
/// are known not to contain it.
///
/// # Errors
/// [`Error::Malformed`] for what cannot become a head, before it is complete: a foreign protocol, or
/// lines that end in a bare LF.
pub(super) fn find_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, Error> {
    if !may_begin_head(bytes) {
        return Err(Error::Malformed("an answer that is not HTTP/1"));
    }
    let mut from = scanned;
    while let Some(at) = find_line_feed(bytes, from) {
        let line = bytes.get(..=at).unwrap_or_default();
        if !line.ends_with(b"\r\n") {
            return Err(Error::Malformed("a head with a bare line feed"));
        }
        if line.ends_with(b"\r\n\r\n") {
            return Ok(Some(at + 1));
        }
        from = at + 1;
    }
    Ok(None)
}

/// Whether a head can begin with these bytes, of which there may be more to come.
pub(super) fn may_begin_head(bytes: &[u8]) -> bool {
    bytes.iter().zip(START).all(|(got, want)| got == want)
}

fn find_line_feed(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    Some(from + rest.iter().position(|byte| *byte == b'\n')?)
}

/// Parses `head`, empty line included. `is_head`: it answers a HEAD request, so no body follows.
pub(super) fn parse(head: &Bytes, is_head: bool) -> Result<Parsed, Error> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut raw = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut raw,
        head,
        &mut fields,
    );
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(Error::Malformed("an answer with a broken head")),
        Err(error) => return Err(Error::Malformed(reason(error))),
    }
    let (status, version) = judge_status(&raw)?;
    if status.is_informational() {
        return Ok(Parsed::Interim);
    }
    let mut headers = collect(head, raw.headers)?;
    let framing = judge_framing(&mut headers, status, version, is_head)?;
    let is_reusable = version == Version::HTTP_11 && !says_close(&headers);
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.version, parts.headers) = (status, version, headers);
    Ok(Parsed::Final(Box::new(Head {
        parts,
        framing,
        is_reusable,
    })))
}

fn judge_status(raw: &httparse::Response<'_, '_>) -> Result<(StatusCode, Version), Error> {
    let version = match raw.version {
        Some(0) => Version::HTTP_10,
        Some(1) => Version::HTTP_11,
        _ => return Err(Error::Malformed("an answer of another HTTP version")),
    };
    let status = raw.code.and_then(|code| StatusCode::from_u16(code).ok());
    match status {
        None => Err(Error::Malformed("an answer without a valid status")),
        // It would hand the connection over to a protocol that nobody asked for.
        Some(StatusCode::SWITCHING_PROTOCOLS) => {
            Err(Error::Malformed("an answer that switches protocols"))
        }
        Some(status) => Ok((status, version)),
    }
}

/// All fields in their order.
fn collect(head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Error> {
    let broken = Error::Malformed("an answer with a broken field");
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(broken);
        };
        if headers.try_append(name, value).is_err() {
            return Err(broken);
        }
    }
    Ok(headers)
}

/// RFC 9112 6.3, without its leniencies. Judged for every answer, also one that has no body.
fn judge_framing(
    headers: &mut HeaderMap,
    status: StatusCode,
    version: Version,
    is_head: bool,
) -> Result<Framing, Error> {
    let length = content_length(headers)?;
    let is_chunked = is_chunked(headers)?;
    if is_chunked && length.is_some() {
        return Err(Error::Malformed("an answer with two framings"));
    }
    if is_chunked && version == Version::HTTP_10 {
        return Err(Error::Malformed("a chunked answer of HTTP/1.0"));
    }
    headers.remove(header::TRANSFER_ENCODING);
    // RFC 9110 8.6: a 204 has no Content-Length; with HEAD and 304 it tells the size of another answer.
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    let has_body =
        !is_head && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED;
    Ok(match length {
        _ if !has_body => Framing::Length(0),
        _ if is_chunked => Framing::Chunked(Chunked::new()),
        Some(length) => Framing::Length(length),
        None => Framing::Close,
    })
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.next().is_some() {
        return Err(Error::Malformed("an answer with two lengths"));
    }
    // `u64::from_str` alone would take a sign.
    let digits = length.to_str().unwrap_or_default();
    match digits.parse() {
        Ok(length) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Some(length)),
        _ => Err(Error::Malformed("an answer with a broken length")),
    }
}

fn is_chunked(headers: &HeaderMap) -> Result<bool, Error> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Error::Malformed(
            "an answer with an unknown transfer coding",
        )),
    }
}

fn says_close(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::TooManyHeaders => "an answer with too many fields",
        httparse::Error::Status => "an answer without a valid status",
        httparse::Error::Version => "an answer of another HTTP version",
        _ => "an answer with a broken field",
    }
}

/// Fields of a head; registries send about ten.
const FIELDS: usize = 128;

/// What every head starts with.
const START: &[u8] = b"HTTP/1.";
