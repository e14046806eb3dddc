//! Which fields cross the gate, in both directions: pure functions on header maps.
//!
//! Called by `forward`. The order is the point: first everything that is not to cross is taken out of
//! the sender's set, then ours is added, so that a sender cannot name our fields away
//! (`Connection: X-Forwarded-For`).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::forwarded::{ClientInfo, FORWARDED_FOR, FORWARDED_PROTO};

/// Fields that an operator sets or removes; `None` removes.
pub type Edits = Vec<(HeaderName, Option<HeaderValue>)>;

/// Takes out of a request what must not reach the upstream; `Authorization` stays where the upstream
/// checks it itself.
pub(super) fn strip_request(headers: &mut HeaderMap, keep_authorization: bool) {
    let mut gone = connection_options(headers);
    let stripped = |name: &HeaderName| {
        is_hop_by_hop(name)
            || is_forwarding_header(name.as_str())
            || (name == header::AUTHORIZATION && !keep_authorization)
    };
    gone.extend(headers.keys().filter(|name| stripped(name)).cloned());
    for name in gone {
        headers.remove(name);
    }
    join_cookies(headers);
}

/// Adds what the upstream is to know: whom it answers, over what, and under which id.
pub(super) fn add_request(
    headers: &mut HeaderMap,
    host: HeaderValue,
    asker: &ClientInfo,
    request_id: &str,
) {
    headers.insert(header::HOST, host);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(asker.scheme));
    let chain = asker.chain.as_ref().unwrap_or(&asker.address);
    headers.insert(FORWARDED_FOR, chain.clone());
    headers.insert(REAL_IP, asker.address.clone());
    // The gate's own ids are legal values.
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Takes out of an answer what concerns the upstream and the gate only.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    let mut gone = connection_options(headers);
    let stripped = |name: &HeaderName| is_hop_by_hop(name) || name.as_str().starts_with("x-accel-");
    gone.extend(headers.keys().filter(|name| stripped(name)).cloned());
    for name in gone {
        headers.remove(name);
    }
}

/// Marks cookies as for https only: an upstream behind a gate does not know that the outside is https.
pub(crate) fn secure_cookies(headers: &mut HeaderMap) {
    if let header::Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) {
        for cookie in cookies.iter_mut() {
            let mut attributes = cookie.as_bytes().split(|byte| *byte == b';').skip(1);
            if !attributes.any(|attribute| attribute.trim_ascii().eq_ignore_ascii_case(b"secure"))
                && let Ok(secure) =
                    HeaderValue::from_bytes(&[cookie.as_bytes(), b"; Secure"].concat())
            {
                *cookie = secure;
            }
        }
    }
}

/// Makes sure that an answer under `/v2/` carries the API version exactly once, whatever came.
pub fn set_api_version(headers: &mut HeaderMap) {
    let first = headers
        .get(API_VERSION)
        .filter(|value| !value.is_empty())
        .cloned();
    headers.insert(API_VERSION, first.unwrap_or(REGISTRY_2));
}

/// Applies the operator's fields.
pub(super) fn edit(headers: &mut HeaderMap, edits: &Edits) {
    for (name, value) in edits {
        match value {
            Some(value) => headers.insert(name, value.clone()),
            None => headers.remove(name),
        };
    }
}

/// True for a field that the operator cannot set: framing, the hop, and what the gate vouches for.
pub fn is_reserved(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || name == header::HOST
        || name == header::CONTENT_LENGTH
        || is_forwarding_header(name.as_str())
}

/// Names in `Connection` fields, all lines of them (RFC 9110 section 7.6.1).
///
/// A sender cannot nominate away what frames, routes or authorises its message.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for field in headers.get_all(header::CONNECTION) {
        let tokens = field.as_bytes().split(|byte| *byte == b',');
        names.extend(tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok()));
    }
    let kept = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
    ];
    names.retain(|name| !kept.contains(name));
    names
}

/// Fields of one connection (RFC 9110 section 7.6.1), and those whose meaning ends at the gate.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
    )
}

/// Fields that say who the client is or where it wanted to go. From a client they are forgeries; a
/// registry builds its URLs from them, `Forwarded` before all others. A name with `_` is read as one
/// with `-` by CGI-like upstreams.
fn is_forwarding_header(name: &str) -> bool {
    name.contains('_')
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-original-")
        || name.starts_with("proxy-")
        || matches!(
            name,
            "forwarded"
                | "x-forwarded"
                | "x-real-ip"
                | "x-request-id"
                | "x-rewrite-url"
                | "x-http-method-override"
                | "x-http-method"
                | "x-method-override"
                | "proxy"
        )
}

/// HTTP/2 clients may send one field a cookie; HTTP/1 wants one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<_> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice()))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// The version of the registry API, which old docker clients look for on every answer.
pub const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// Names a request in the logs of both sides.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REGISTRY_2: HeaderValue = HeaderValue::from_static("registry/2.0");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

#[cfg(test)]
mod tests;
