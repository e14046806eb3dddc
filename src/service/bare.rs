//! Answers of the gate's own that have no body and are no refusals.
//!
//! Called by `service`.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::rejection::Rejection;

/// What a route without an upstream says to everyone.
pub(super) fn static_response(status: StatusCode) -> Result<Response<Body>, Rejection> {
    if status.is_client_error() || status.is_server_error() {
        return Err(Rejection::Closed(status));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    // A 204 has no length (RFC 9110 section 8.6).
    if status != StatusCode::NO_CONTENT {
        let nothing = HeaderValue::from_static("0");
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, nothing);
    }
    Ok(response)
}

/// Relative, so that it is true under whatever name the client came.
pub(super) fn redirect(location: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    // A location is made of a parsed target: legal in a header by construction.
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}
