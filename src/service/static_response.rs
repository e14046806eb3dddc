//! The responses of routes with `respond`: a status alone, a redirect, or a text.
//!
//! Called by `service` before authentication: the response is the same for every client. It may depend on the host, the path
//! and the query of the request, which [`Target`] has validated.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::redirect;
use crate::body::Body;
use crate::net::host::with_brackets;
use crate::rejection::{Rejection, ResponseFormat};
use crate::site::{StaticContent, StaticResponse};
use crate::target::Target;
use crate::template::{Placeholder, Template};

/// The response of a route without an upstream. An error status becomes a rejection, so that it is counted as one.
pub(super) fn respond(
    response: &StaticResponse,
    target: &Target,
    format: &ResponseFormat,
) -> Result<Response<Body>, Rejection> {
    let status = response.status;
    let is_error = status.is_client_error() || status.is_server_error();
    match &response.content {
        StaticContent::Usual if is_error => Err(Rejection::StaticStatus(status)),
        StaticContent::Usual => Ok(empty(status)),
        StaticContent::Location(location) => Ok(redirect(status, &location_of(location, target))),
        // The files are served over plain HTTP only.
        StaticContent::Webroot(_) => Err(Rejection::NoRoute),
        StaticContent::Text(text) if is_error => {
            Err(Rejection::StaticText(status, render(text, target)))
        }
        StaticContent::Text(text) => Ok(plain_text(status, render(text, target), format)),
    }
}

fn empty(status: StatusCode) -> Response<Body> {
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

fn plain_text(status: StatusCode, text: String, format: &ResponseFormat) -> Response<Body> {
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(if format.is_head {
        Body::empty()
    } else {
        Body::full(text)
    });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, media_type);
    // The text may contain the path of the request, which a browser must not take for a page with scripts.
    let no_sniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_sniff);
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

/// The destination of a redirect.
///
/// No part of the request path may become its scheme or its host. `config` checks that for a location with a scheme. A location
/// without one begins with a slash, and so does the path of a request: together they could begin with `//`, after which a
/// client reads a host (RFC 3986 section 4.2). The slashes at the beginning are therefore merged.
fn location_of(template: &Template, target: &Target) -> String {
    let location = render(template, target);
    match location.strip_prefix('/') {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None => location,
    }
}

fn render(template: &Template, target: &Target) -> String {
    let host = with_brackets(target.host());
    let query = target.query().map(|query| format!("?{query}"));
    template.render(|placeholder| match placeholder {
        Placeholder::Host => &host,
        Placeholder::Path => target.raw_path(),
        Placeholder::Query => query.as_deref().unwrap_or_default(),
        // The configuration does not allow these here.
        Placeholder::Scheme | Placeholder::Client | Placeholder::User => "",
    })
}
