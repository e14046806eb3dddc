//! The parts of an error response, and its body in the format that the client reads.
//!
//! Called by `rejection`, which knows the status, the code and the message of each rejection.

use http::StatusCode;

use crate::body::{JSON, TEXT};
use crate::registry::errors::{self, ErrorCode};
use crate::www_authenticate::Challenge;

/// What an error response depends on besides the rejection. `service` fills it while it decides on the request.
#[derive(Debug, Default)]
pub struct ResponseFormat {
    /// The request is for the registry API: the body is an OCI error in JSON.
    pub is_registry: bool,
    /// The method is HEAD: the response has no body.
    pub is_head: bool,
    /// The request is in HTTP/1, where `Connection: close` announces the end of the connection.
    pub is_http1: bool,
    /// The client accepts HTML: outside of the registry API, the body is a page instead of one line.
    pub prefers_html: bool,
    /// The challenge of the route, for a 401.
    pub challenge: Option<Challenge>,
    /// The host that the request names, if no site serves it: ASCII text of a bounded length.
    pub requested_host: Option<String>,
}

/// An error response before it is rendered.
#[derive(Debug)]
pub(super) struct ErrorResponse {
    pub(super) status: StatusCode,
    pub(super) code: ErrorCode,
    /// The message for the client. It never names the address of the upstream, and never reveals whether something
    /// exists that the client may not see.
    pub(super) message: String,
    /// The value of `Retry-After` in seconds.
    pub(super) retry_after: Option<u32>,
    /// The value of `Allow`.
    pub(super) allow: Option<&'static str>,
    /// The error code of a Bearer challenge: what is wrong with the token of the request (RFC 6750 section 3.1).
    pub(super) token_error: Option<&'static str>,
    /// The `reason` in the `detail` of an OCI error.
    detail: Option<&'static str>,
}

impl ErrorResponse {
    pub(super) fn new(status: u16, code: ErrorCode, message: impl ToString) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            code,
            message: message.to_string(),
            retry_after: None,
            allow: None,
            token_error: None,
            detail: None,
        }
    }

    /// A 401 whose message is the same for every cause, so that it reveals nothing about users.
    pub(super) fn unauthorized() -> Self {
        Self::new(401, ErrorCode::Unauthorized, "authentication required").detail(VALID_LOGIN)
    }

    /// A 403. `reason` is its `detail`.
    pub(super) fn denied(message: impl ToString, reason: &'static str) -> Self {
        Self::new(403, ErrorCode::Denied, message).detail(reason)
    }

    /// Sets the `detail` of the OCI error. Each UNAUTHORIZED and DENIED has one: of an error without a detail that has the
    /// usual message of its code, dockerd 20.10 keeps only the code, prints `denied` and nothing else, and retries the push of
    /// each layer for 50 seconds.
    pub(super) fn detail(self, reason: &'static str) -> Self {
        Self {
            detail: Some(reason),
            ..self
        }
    }

    pub(super) fn token_error(self, code: &'static str) -> Self {
        Self {
            token_error: Some(code),
            detail: Some("this takes another token"),
            ..self
        }
    }

    pub(super) fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    pub(super) fn allow(self, methods: &'static str) -> Self {
        Self {
            allow: Some(methods),
            ..self
        }
    }

    /// The media type and the bytes of the body: JSON that docker prints, a page for browsers, or one line.
    pub(super) fn body(&self, format: &ResponseFormat) -> (&'static str, Vec<u8>) {
        if format.is_registry {
            let detail = self.detail.map(|reason| ("reason", reason));
            return (JSON, errors::body(self.code, &self.message, detail));
        }
        let title = self.status.canonical_reason().unwrap_or("Rejected");
        let message = &self.message;
        if format.prefers_html {
            let text = escape_html(message);
            let page = format!(
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
                 <body style=\"font:1rem system-ui;margin:4rem auto;max-width:40rem\"><h1>{title}</h1><p>{text}</p></body></html>\n"
            );
            return ("text/html; charset=utf-8", page.into_bytes());
        }
        (
            TEXT,
            format!("{} {title}: {message}\n", self.status.as_u16()).into_bytes(),
        )
    }
}

/// The `detail` of a 401.
pub(super) const VALID_LOGIN: &str = "this takes a valid login";

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
