//! A request's head on the wire, and the framing of its body.
//!
//! Called by `outgoing` once a request. The caller's header map is written as it is, but for the fields
//! that say how the body is framed: those follow from the body alone, so the two cannot disagree.

use std::io::Write as _;

use http::request::Parts;
use http::{HeaderName, Method, header};
use http_body::Body as _;

use super::Error;
use crate::body::Body;

/// How the body goes out.
pub(super) enum Coding {
    /// So many bytes are still due; 0 also stands for no body at all.
    Length(u64),
    /// Of unknown length.
    Chunked,
}

/// Writes the head of a request with `body` behind `out`, Host first (RFC 9110 7.2).
///
/// # Errors
/// [`Error::Malformed`] for a target or method that would not stay one word of the request line.
/// The types of `http` rule it out for values, and this is the last place before the wire.
pub(super) fn write_head(out: &mut Vec<u8>, parts: &Parts, body: &Body) -> Result<Coding, Error> {
    let target = parts.uri.path_and_query().map_or("/", |it| it.as_str());
    if !is_word(target) || !is_word(parts.method.as_str()) {
        return Err(Error::Malformed("a request line with control characters"));
    }
    for part in [parts.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    if let Some(host) = parts.headers.get(header::HOST) {
        write_field(out, "host", host.as_bytes());
    }
    for (name, value) in &parts.headers {
        if !is_framing(name) && *name != header::HOST {
            write_field(out, name.as_str(), value.as_bytes());
        }
    }
    let coding = write_framing(out, &parts.method, body);
    out.extend_from_slice(b"\r\n");
    Ok(coding)
}

/// RFC 9110 8.6: methods that anticipate a body say so when there is none.
fn write_framing(out: &mut Vec<u8>, method: &Method, body: &Body) -> Coding {
    if body.is_end_stream() {
        if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            write_field(out, "content-length", b"0");
        }
        return Coding::Length(0);
    }
    let Some(length) = body.size_hint().exact() else {
        write_field(out, "transfer-encoding", b"chunked");
        return Coding::Chunked;
    };
    // Writing to a Vec cannot fail.
    let _ = write!(out, "content-length: {length}\r\n");
    Coding::Length(length)
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn is_framing(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH
        || *name == header::TRANSFER_ENCODING
        || *name == header::CONNECTION
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}
