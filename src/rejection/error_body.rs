//! How a refusal is put together, and its body in the form the client reads.
//!
//! Called by `refusal`, which knows what to say.

use http::StatusCode;

use crate::registry::errors::{self, ErrorCode};
use crate::rejection::{ErrorResponse, ResponseFormat};

impl ErrorResponse {
    pub(crate) fn new(status: u16, code: ErrorCode, message: impl ToString) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            code,
            message: message.to_string(),
            retry_after: None,
            allow: None,
            token_error: None,
        }
    }

    /// The same words for every cause.
    pub(crate) fn unauthorized() -> Self {
        Self::new(401, ErrorCode::Unauthorized, "authentication required")
    }

    pub(crate) fn token_error(self, word: &'static str) -> Self {
        Self {
            token_error: Some(word),
            ..self
        }
    }

    pub(crate) fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    pub(crate) fn allow(self, methods: &'static str) -> Self {
        Self {
            allow: Some(methods),
            ..self
        }
    }

    /// Beside the usual words of UNAUTHORIZED and DENIED there must be a detail: of an error without one dockerd 20.10
    /// keeps the code alone, says `denied` and no more, and tries the push of each layer again for 50 seconds.
    fn detail(&self) -> Option<(&'static str, &'static str)> {
        let reason = match (self.status, self.token_error) {
            (StatusCode::UNAUTHORIZED, None) => "this takes a valid login",
            (StatusCode::UNAUTHORIZED, Some(_)) => "this takes another token",
            (StatusCode::FORBIDDEN, _) => "no grant gives this right",
            _ => return None,
        };
        Some(("reason", reason))
    }

    /// Media type and bytes: JSON that docker prints, a page for people, or a line.
    pub(crate) fn body(&self, manner: &ResponseFormat) -> (&'static str, Vec<u8>) {
        if manner.registry {
            return (
                "application/json",
                errors::body(self.code, &self.message, self.detail()),
            );
        }
        let title = self.status.canonical_reason().unwrap_or("Refused");
        let message = &self.message;
        if manner.html {
            let text = escape(message);
            let page = format!(
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
                 <body style=\"font:1rem system-ui;margin:4rem auto;max-width:40rem\"><h1>{title}</h1><p>{text}</p></body></html>\n"
            );
            return ("text/html; charset=utf-8", page.into_bytes());
        }
        (
            "text/plain; charset=utf-8",
            format!("{} {title}: {message}\n", self.status.as_u16()).into_bytes(),
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
