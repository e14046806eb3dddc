//! Responses of the registry, and what they need from a request: its query, and the origin that its client addressed.
//!
//! All handlers use this module.

use http::header::{self, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::Failure;
use crate::content::{Full, Pieces};

/// The result of every handler.
pub(crate) type Answer = Response<Pieces>;

/// An error of the distribution specification.
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            status,
            code,
            message,
        }
    }

    pub(crate) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn unknown(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(crate) fn into_answer(self) -> Answer {
        let error = json!({ "code": self.code, "message": self.message });
        json(self.status, &json!({ "errors": [error] }))
    }
}

impl From<Full> for ApiError {
    /// The store is full. The status is not 5xx, because clients would retry.
    fn from(full: Full) -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, "SIZE_INVALID", full.to_string())
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "UNKNOWN", failure.to_string())
    }
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    bytes(status, Pieces::default())
}

/// A response with a body and its `Content-Length`.
pub(crate) fn bytes(status: StatusCode, body: Pieces) -> Answer {
    let length = body.length();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    set(&mut answer, header::CONTENT_LENGTH, length.to_string());
    answer
}

pub(crate) fn json(status: StatusCode, value: &Value) -> Answer {
    let mut answer = bytes(status, Pieces::from(bytes::Bytes::from(value.to_string())));
    let media_type = HeaderValue::from_static("application/json");
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    answer
}

/// Sets a header field. A value that no header field can have is left out; none comes from a request that hyper accepted.
pub(crate) fn set(answer: &mut Answer, name: HeaderName, value: impl Into<String>) {
    if let Ok(value) = HeaderValue::try_from(value.into()) {
        answer.headers_mut().insert(name, value);
    }
}

/// Sets the digest of the content, and the same as `ETag` for caches.
pub(crate) fn set_digest(answer: &mut Answer, digest: &str) {
    set(answer, DIGEST, digest);
    set(answer, header::ETAG, format!("\"{digest}\""));
}

/// An absolute URL, as the CNCF registry writes it, from the Host of the request and the forwarded scheme.
pub(crate) fn url(head: &Parts, path: &str) -> String {
    let text = |name: HeaderName| head.headers.get(name)?.to_str().ok();
    let scheme = text(FORWARDED_PROTO).unwrap_or("http");
    match text(header::HOST) {
        Some(host) => format!("{scheme}://{host}{path}"),
        None => path.to_owned(),
    }
}

/// The decoded value of a query parameter.
pub(crate) fn parameter(head: &Parts, key: &str) -> Option<String> {
    let mut pairs = head
        .uri
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == key)?;
    unescape(value)
}

/// The page of a list that `n` and `last` ask for, under the JSON key `key`. A Link field leads to the next page.
pub(crate) fn page(head: &Parts, names: Vec<String>, mut rest: Value, key: &str) -> Answer {
    let last = parameter(head, "last").unwrap_or_default();
    let most = parameter(head, "n").and_then(|number| number.parse().ok());
    let mut names: Vec<_> = names.into_iter().filter(|name| *name > last).collect();
    let is_cut = most.is_some_and(|most| names.len() > most);
    names.truncate(most.unwrap_or(usize::MAX));
    let next = names.last().filter(|_| is_cut).cloned();
    if let Some(object) = rest.as_object_mut() {
        object.insert(key.to_owned(), json!(names));
    }
    let mut answer = json(StatusCode::OK, &rest);
    if let (Some(next), Some(most)) = (next, most) {
        let path = head.uri.path();
        let link = format!("<{path}?last={next}&n={most}>; rel=\"next\"");
        set(&mut answer, header::LINK, link);
    }
    answer
}

/// Whether the method is HEAD.
pub(crate) fn is_head(head: &Parts) -> bool {
    head.method == Method::HEAD
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let digits = str::from_utf8(&digits).ok()?;
        plain.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(plain).ok()
}

/// Clients compare the value of this field with the digest that they computed.
pub(crate) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
