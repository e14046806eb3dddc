//! Checks of a request head that need neither the site nor the identity of the client.
//!
//! Called by `service` and by the token endpoint. The framing of HTTP/1 messages is checked before hyper sees them, in
//! `connection`; the request target is checked by [`crate::target`].

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, request};

use crate::rejection::Rejection;

/// Checks that path and query have at most `max_length` bytes.
pub(super) fn check_target_length(
    parts: &request::Parts,
    max_length: usize,
) -> Result<(), Rejection> {
    let target = parts.uri.path_and_query();
    if target.map_or(0, |target| target.as_str().len()) > max_length {
        return Err(Rejection::TargetTooLong);
    }
    Ok(())
}

/// Checks that there are at most `max_fields` header fields.
pub(super) fn check_header_fields(
    parts: &request::Parts,
    max_fields: usize,
) -> Result<(), Rejection> {
    if parts.headers.len() > max_fields {
        return Err(Rejection::TooManyHeaderFields);
    }
    Ok(())
}

/// Rejects CONNECT, which a reverse proxy never forwards, and a `Transfer-Encoding` that a server behind the proxy
/// could read in another way than the proxy does (RFC 9112 section 6.1).
pub(super) fn check_framing(parts: &request::Parts) -> Result<(), Rejection> {
    if parts.method == Method::CONNECT {
        return Err(Rejection::MethodNotAllowed);
    }
    let mut fields = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    match (fields.next(), fields.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Rejection::TransferCoding),
    }
}

/// Rejects every expectation other than `100-continue`, which is the only one that is defined (RFC 9110 section
/// 10.1.1).
pub(super) fn check_expectation(headers: &HeaderMap) -> Result<(), Rejection> {
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(is_known) {
        Ok(())
    } else {
        Err(Rejection::Expectation)
    }
}

/// Checks that the announced body has at most `max_body` bytes. A body without `Content-Length` is bounded while it is
/// read.
pub(super) fn check_content_length(headers: &HeaderMap, max_body: u64) -> Result<(), Rejection> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match announced {
        Some(announced) if announced > max_body => Err(Rejection::BodyTooLarge(max_body)),
        _ => Ok(()),
    }
}
