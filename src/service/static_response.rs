//! The responses of routes with `respond`: a status alone, a redirect, or a text.
//!
//! Called by `service` before authentication: the response is the same for every client. It may depend on the host, the path
//! and the query of the request, which [`Target`] has validated.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::redirect;
use crate::body::{Body, TEXT, empty_response, full_response};
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
        StaticContent::Usual => Ok(empty_response(status)),
        StaticContent::Location(location) => Ok(redirect(status, &location_of(location, target))),
        // The files are served over plain HTTP only.
        StaticContent::Webroot(_) => Err(Rejection::NoRoute),
        StaticContent::Text(text) if is_error => {
            Err(Rejection::StaticText(status, render(text, target)))
        }
        StaticContent::Text(text) => Ok(plain_text(status, render(text, target), format)),
    }
}

fn plain_text(status: StatusCode, text: String, format: &ResponseFormat) -> Response<Body> {
    let mut response = full_response(status, TEXT, text, format.is_head);
    // The text may contain the path of the request, which a browser must not take for a page with scripts.
    let no_sniff = HeaderValue::from_static("nosniff");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_sniff);
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
