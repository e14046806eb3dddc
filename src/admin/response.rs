//! The responses of the admin listener.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use crate::body::Body;

/// A plain text.
pub(crate) fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = with_content_type("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}

/// A response with status 200 and a body of this media type.
pub(crate) fn with_content_type(
    media_type: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    let media_type = HeaderValue::from_static(media_type);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    response
}
