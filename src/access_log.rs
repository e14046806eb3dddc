//! One line for each request: who asked for what, what came of it, and how long it took.
//!
//! `service` opens a [`Record`] when a request begins; the line is written when the record is dropped,
//! which is when the last byte of the answer is out, or when nobody waits for it any more. It never
//! holds a query, a credential or a header's value, and control bytes are escaped.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

use crate::addr::{ClientAddr, PeerAddr};
use crate::body::{End, Observer, Received};
use crate::log::Sink;
use crate::registry::Operation;

/// Where and how the lines are written.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// The log's writing end.
    pub sink: Sink,
    /// One JSON object a line, else words.
    pub json: bool,
}

/// What is known of one request so far.
#[derive(Debug)]
pub struct Record {
    log: Option<AccessLog>,
    began: Instant,
    received: Arc<Received>,
    facts: Facts,
}

/// The fields of a line, in its order.
#[derive(Debug, Default)]
struct Facts {
    client: String,
    peer: String,
    site: String,
    certificate: String,
    user: String,
    action: &'static str,
    repository: String,
    method: String,
    path: String,
    protocol: &'static str,
    status: u16,
    bytes_out: u64,
    upstream_ms: Option<u128>,
    refused: String,
    ended: &'static str,
    request_id: String,
}

impl Record {
    /// A request begins; without a log it costs nothing.
    pub fn begin(
        log: Option<&AccessLog>,
        client: ClientAddr,
        received: Arc<Received>,
        id: &str,
    ) -> Self {
        let mut facts = Facts {
            status: CLIENT_GONE,
            ended: "client_abort",
            ..Facts::default()
        };
        if log.is_some() {
            facts.client = client.to_string();
            id.clone_into(&mut facts.request_id);
        }
        Self {
            log: log.cloned(),
            began: Instant::now(),
            received,
            facts,
        }
    }

    /// Whom the socket leads to, when that is not the client.
    pub fn peer(&mut self, peer: PeerAddr, client: ClientAddr) {
        if peer.ip() != client.ip() {
            self.note(|facts| facts.peer = peer.ip().to_string());
        }
    }

    /// The subject of the client's certificate.
    pub fn certificate(&mut self, subject: &str) {
        self.note(|facts| subject.clone_into(&mut facts.certificate));
    }

    /// What the request line says; the path without its query.
    pub fn request(&mut self, parts: &http::request::Parts) {
        self.note(|facts| {
            parts.method.as_str().clone_into(&mut facts.method);
            parts.uri.path().clone_into(&mut facts.path);
            facts.protocol = match parts.version {
                http::Version::HTTP_2 => "HTTP/2.0",
                http::Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            };
        });
    }

    /// The site is known.
    pub fn site(&mut self, name: &str) {
        self.note(|facts| name.clone_into(&mut facts.site));
    }

    /// The user is verified.
    pub fn user(&mut self, name: Option<&str>) {
        self.note(|facts| name.unwrap_or_default().clone_into(&mut facts.user));
    }

    /// The operation is known.
    pub fn operation(&mut self, operation: Option<&Operation>) {
        self.note(|facts| {
            facts.action = operation.map_or("", |operation| operation.action().as_str());
            operation
                .and_then(Operation::repository)
                .unwrap_or_default()
                .clone_into(&mut facts.repository);
        });
    }

    /// The upstream's head came after `waited`.
    pub fn upstream(&mut self, waited: std::time::Duration) {
        self.note(|facts| facts.upstream_ms = Some(waited.as_millis()));
    }

    /// The gate answers itself, and why.
    pub fn refused(&mut self, why: &dyn std::fmt::Display) {
        self.note(|facts| facts.refused = why.to_string());
    }

    /// The head of the answer is decided; the body may still break off.
    pub fn status(&mut self, status: http::StatusCode) {
        self.facts.status = status.as_u16();
    }

    /// True when a line will be written.
    pub fn is_wanted(&self) -> bool {
        self.log.is_some()
    }

    fn note(&mut self, note: impl FnOnce(&mut Facts)) {
        if self.log.is_some() {
            note(&mut self.facts);
        }
    }

    fn line(&self, json: bool) -> String {
        let now = OffsetDateTime::now_utc();
        let time = now.format(TIME).unwrap_or_default();
        let numbers = [
            ("status", u128::from(self.facts.status)),
            ("bytes_in", u128::from(self.received.bytes())),
            ("bytes_out", u128::from(self.facts.bytes_out)),
            ("ms", self.began.elapsed().as_millis()),
        ];
        let words = self.facts.words();
        if json {
            as_json(&time, &words, &numbers, self.facts.upstream_ms)
        } else {
            as_text(&time, &words, &numbers, self.facts.upstream_ms)
        }
    }
}

impl Facts {
    fn words(&self) -> [(&'static str, &str); 13] {
        [
            ("client", &self.client),
            ("peer", &self.peer),
            ("site", &self.site),
            ("certificate", &self.certificate),
            ("user", &self.user),
            ("action", self.action),
            ("repository", &self.repository),
            ("method", &self.method),
            ("path", &self.path),
            ("protocol", self.protocol),
            ("refused", &self.refused),
            ("ended", self.ended),
            ("request_id", &self.request_id),
        ]
    }
}

impl Observer for Record {
    fn ended(mut self: Box<Self>, bytes: u64, end: End<'_>) {
        self.facts.bytes_out = bytes;
        self.facts.ended = match end {
            End::Whole => "",
            End::Broken(_) => "upstream_abort",
            End::Dropped => "client_abort",
        };
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            log.sink.write(self.line(log.json).into_bytes());
        }
    }
}

/// `TIME access client=… status=200 …`: what is not known is left out.
fn as_text(
    time: &str,
    words: &[(&str, &str)],
    numbers: &[(&str, u128)],
    upstream: Option<u128>,
) -> String {
    let mut line = format!("{time} access");
    for (name, value) in words.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(line, " {name}=");
        if value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
        {
            line.push_str(value);
        } else {
            // Rust's escapes: quotes, backslashes and every control character.
            let _ = write!(line, "{value:?}");
        }
    }
    for (name, value) in numbers {
        let _ = write!(line, " {name}={value}");
    }
    if let Some(upstream) = upstream {
        let _ = write!(line, " upstream_ms={upstream}");
    }
    line.push('\n');
    line
}

/// One object; what is not known is `null`, so that every line has the same keys.
fn as_json(
    time: &str,
    words: &[(&str, &str)],
    numbers: &[(&str, u128)],
    upstream: Option<u128>,
) -> String {
    let mut line = format!("{{\"time\":{}", quoted(time));
    for (name, value) in words {
        let value = if value.is_empty() {
            "null".to_owned()
        } else {
            quoted(value)
        };
        let _ = write!(line, ",\"{name}\":{value}");
    }
    for (name, value) in numbers {
        let _ = write!(line, ",\"{name}\":{value}");
    }
    let upstream = upstream.map_or_else(|| "null".to_owned(), |ms| ms.to_string());
    let _ = writeln!(line, ",\"upstream_ms\":{upstream}}}");
    line
}

fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    // Legal in JSON as they are, and a command to a terminal: DEL and the controls above ASCII.
    json.chars().fold(String::new(), |mut quoted, character| {
        if character.is_control() {
            let _ = write!(quoted, "\\u{:04x}", u32::from(character));
        } else {
            quoted.push(character);
        }
        quoted
    })
}

/// RFC 3339 with milliseconds, always as long.
const TIME: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
/// nginx's status for a client that left before its answer.
const CLIENT_GONE: u16 = 499;

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [(&str, u128); 2] = [("status", 200), ("bytes_in", 3)];

    #[test]
    fn text_escapes_what_could_forge_a_line() {
        let words = [("user", "al ice\n2026"), ("path", "/v2/"), ("site", "")];
        assert_eq!(
            as_text("T", &words, &NUMBERS, Some(7)),
            "T access user=\"al ice\\n2026\" path=/v2/ status=200 bytes_in=3 upstream_ms=7\n"
        );
    }

    #[test]
    fn json_is_one_object_with_every_key() {
        let words = [("user", "a\"\u{1b}\n\u{9b}\u{7f}"), ("site", "")];
        let line = as_json("T", &words, &NUMBERS, None);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["user"], "a\"\u{1b}\n\u{9b}\u{7f}");
        assert!(
            line.trim_end()
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ')
        );
        assert!(value["site"].is_null() && value["upstream_ms"].is_null());
        assert_eq!(value["status"], 200);
    }
}
