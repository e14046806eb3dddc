//! The body of a refusal, in the form the client reads.
//!
//! Called by `refusal`, which knows what to say.

use super::{Manner, Verdict};
use crate::registry::errors;

impl Verdict {
    /// Media type and bytes: JSON that docker prints, a page for people, or a line.
    pub(super) fn body(&self, manner: &Manner) -> (&'static str, Vec<u8>) {
        if manner.registry {
            return (
                "application/json",
                errors::body(self.code, &self.message, None),
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
