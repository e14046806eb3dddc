//! Responses whose body the proxy has as a whole.
//!
//! The rejections, the responses of routes without an upstream, the token endpoint and the admin listener are made of these.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::Body;

/// A response with a body of this media type. The response to a HEAD request (`is_head`) has the length of the body in
/// `Content-Length`, and no body (RFC 9110 section 9.3.2).
pub fn full_response(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Bytes>,
    is_head: bool,
) -> Response<Body> {
    let body = body.into();
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(match is_head {
        true => Body::empty(),
        false => Body::full(body),
    });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

/// A response without a body.
pub fn empty_response(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    // A 204 has no Content-Length (RFC 9110 section 8.6).
    if status != StatusCode::NO_CONTENT {
        let length = HeaderValue::from_static("0");
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
    response
}

/// The media type of JSON.
pub const JSON: &str = "application/json";
/// The media type of a text.
pub const TEXT: &str = "text/plain; charset=utf-8";
