//! The responses of the admin listener.

use http::{Response, StatusCode};

use crate::body::{Body, TEXT, full_response};

/// A plain text.
pub(crate) fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Body> {
    full_response(status, TEXT, body, false)
}

/// A response with status 200 and a body of this media type.
pub(crate) fn with_content_type(
    media_type: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<Body> {
    full_response(StatusCode::OK, media_type, body, false)
}
