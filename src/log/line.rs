//! Formats one log line, as text or as a JSON object. Both logs of the process use this type, so that one parser
//! reads both.
//!
//! - JSON: every line begins with the keys `time`, `level` and `message`, in this order; the fields follow.
//! - Text: `TIME LEVEL message key=value …` (logfmt after the message). A text value is in double quotes if it is
//!   empty or has a space, `"`, `\`, `=`, or a character that is not printable ASCII.
//! - Quoted values use the escapes of JSON in both formats. Control characters and characters without a glyph of
//!   their own (RIGHT-TO-LEFT OVERRIDE, ZERO WIDTH SPACE) are always escaped, so that a value can neither end a line
//!   nor send commands to a terminal.
//!
//! `access_log` writes a line for every request, so nothing here allocates while the buffer of the line is large
//! enough.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

/// The format of the lines of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text with `key=value` fields.
    Text,
    /// One JSON object for each line.
    Json,
}

/// Writes one line to a buffer.
#[derive(Debug)]
pub struct LogLine<'a> {
    buffer: &'a mut String,
    format: LogFormat,
}

impl<'a> LogLine<'a> {
    /// Begins a line with the current time.
    pub fn begin(buffer: &'a mut String, format: LogFormat, level: &str, message: &str) -> Self {
        match format {
            LogFormat::Json => {
                buffer.push_str("{\"time\":\"");
                push_time(buffer, since_1970());
                push_all(buffer, &["\",\"level\":\"", level, "\",\"message\":"]);
                push_quoted(buffer, message);
            }
            LogFormat::Text => {
                push_time(buffer, since_1970());
                push_all(buffer, &[" ", level, " "]);
                push_escaped(buffer, message, false);
            }
        }
        Self { buffer, format }
    }

    fn is_json(&self) -> bool {
        self.format == LogFormat::Json
    }

    /// Adds a field with a text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        if self.is_json() || !is_bare(value) {
            push_quoted(self.buffer, value);
        } else {
            self.buffer.push_str(value);
        }
    }

    /// Adds a field with a text that may be unknown. Text lines omit an unknown field. JSON lines have `null`, so
    /// that every line of a log has the same keys.
    pub fn optional_text(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.unknown(key),
        }
    }

    /// Adds a field with the `Display` text of a value.
    pub fn display(&mut self, key: &str, value: impl fmt::Display) {
        self.text(key, &value.to_string());
    }

    /// Adds a field with an address. The `Display` impl of an IPv4 address takes a fifth of the time of a whole line.
    pub fn address(&mut self, key: &str, address: IpAddr) {
        let IpAddr::V4(address) = address else {
            return self.display(key, address);
        };
        self.key(key);
        let quote = if self.is_json() { "\"" } else { "" };
        self.buffer.push_str(quote);
        for (index, octet) in address.octets().into_iter().enumerate() {
            if index > 0 {
                self.buffer.push('.');
            }
            push_number(self.buffer, octet.into());
        }
        self.buffer.push_str(quote);
    }

    /// Adds a field with a number.
    pub fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_number(self.buffer, value);
    }

    /// Adds a field with a number that may be unknown, as [`optional_text`](Self::optional_text) does.
    pub fn optional_number(&mut self, key: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.unknown(key),
        }
    }

    /// Adds a field with a value whose text is the same in JSON and in text lines: a signed number, `true` or `false`.
    pub fn literal(&mut self, key: &str, value: impl fmt::Display) {
        self.key(key);
        // Writing to a string does not fail.
        let _ = write!(self.buffer, "{value}");
    }

    /// Ends the line.
    pub fn end(self) {
        self.buffer
            .push_str(if self.is_json() { "}\n" } else { "\n" });
    }

    fn key(&mut self, key: &str) {
        if self.is_json() {
            return push_all(self.buffer, &[",\"", key, "\":"]);
        }
        // Single characters, because a call that copies one byte costs more than the byte.
        self.buffer.push(' ');
        self.buffer.push_str(key);
        self.buffer.push('=');
    }

    fn unknown(&mut self, key: &str) {
        if self.is_json() {
            self.key(key);
            self.buffer.push_str("null");
        }
    }
}

/// Calls `write` with an empty buffer, which all lines of a thread share.
pub fn with_line_buffer(write: impl FnOnce(&mut String)) {
    thread_local! {
        static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
    }
    let mut buffer = BUFFER.try_with(RefCell::take).unwrap_or_default();
    buffer.clear();
    write(&mut buffer);
    // A buffer that a long line has made large is freed. While a thread ends, its thread-local values are gone.
    if buffer.capacity() <= MAX_KEPT_CAPACITY {
        let _ = BUFFER.try_with(|kept| kept.replace(buffer));
    }
}

/// The line that reports the number of lost lines.
pub(super) fn lost_lines(format: LogFormat, lost: u64) -> String {
    let mut buffer = String::new();
    let mut line = LogLine::begin(&mut buffer, format, "WARN", "log lines were lost");
    line.number("lost", lost);
    line.end();
    buffer
}

fn push_all(buffer: &mut String, parts: &[&str]) {
    for part in parts {
        buffer.push_str(part);
    }
}

/// Appends a decimal number. A loop over the digits does less work than `write!`: most numbers of a line have one
/// digit, or three.
fn push_number(buffer: &mut String, number: u64) {
    let mut digits = [0; 20];
    let (mut rest, mut from) = (number, digits.len());
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        from -= 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for digit in digits.get(from..).unwrap_or_default() {
        buffer.push(char::from(*digit));
    }
}

/// Whether a text value needs no quotes in a text line.
fn is_bare(value: &str) -> bool {
    let is_bare = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    !value.is_empty() && value.bytes().all(is_bare)
}

fn push_quoted(buffer: &mut String, text: &str) {
    buffer.push('"');
    push_escaped(buffer, text, true);
    buffer.push('"');
}

/// If `is_quoted`, quotation marks and backslashes are escaped as well.
fn push_escaped(buffer: &mut String, text: &str, is_quoted: bool) {
    let is_plain =
        |byte: u8| matches!(byte, b' '..=b'~') && !(is_quoted && matches!(byte, b'"' | b'\\'));
    // Nearly every text is plain.
    if text.bytes().all(is_plain) {
        buffer.push_str(text);
        return;
    }
    for character in text.chars() {
        match character {
            '"' | '\\' if is_quoted => buffer.extend(['\\', character]),
            '\n' => buffer.push_str("\\n"),
            '\r' => buffer.push_str("\\r"),
            '\t' => buffer.push_str("\\t"),
            character if is_visible(character) => buffer.push(character),
            character => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a string does not fail.
                    let _ = write!(buffer, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// Whether a character has a glyph of its own. `escape_debug` escapes exactly those that have none, and `"`, `'` and
/// `\`.
fn is_visible(character: char) -> bool {
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Appends the time in the format of RFC 3339, in UTC with milliseconds, always of the same length. Date and time of
/// day are formatted once per second and thread.
fn push_time(buffer: &mut String, now: Duration) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = RefCell::default();
    }
    let seconds = now.as_secs();
    let kept = SECOND.try_with(|second| {
        let mut second = second.borrow_mut();
        if second.1.is_empty() || second.0 != seconds {
            *second = (seconds, format_seconds(seconds));
        }
        buffer.push_str(&second.1);
    });
    // While a thread ends, its thread-local values are gone.
    if kept.is_err() {
        buffer.push_str(&format_seconds(seconds));
    }
    let millis = now.subsec_millis();
    buffer.push('.');
    for digit in [millis / 100, millis / 10, millis] {
        buffer.push(char::from_digit(digit % 10, 10).unwrap_or('0'));
    }
    buffer.push('Z');
}

fn format_seconds(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds);
    let text = time.map(|time| time.format(SECONDS));
    text.ok().and_then(Result::ok).unwrap_or_default()
}

/// The capacity up to which a buffer is kept: more than the length of a usual line.
const MAX_KEPT_CAPACITY: usize = 4096;
const SECONDS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(format: LogFormat, write: impl FnOnce(&mut LogLine<'_>)) -> String {
        let mut buffer = String::new();
        let mut line = LogLine::begin(&mut buffer, format, "INFO", "it happened");
        write(&mut line);
        line.end();
        buffer
    }

    /// The line without its time.
    fn after_time(line: &str) -> &str {
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(time.len(), "2023-11-14T22:13:20.007Z".len());
        rest
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 200, 4_294_967_296, u64::MAX] {
            let mut line = String::new();
            push_number(&mut line, number);
            assert_eq!(line, number.to_string());
        }
    }

    #[test]
    fn an_address_is_written_as_its_display_text() {
        for address in ["0.0.0.0", "192.0.2.7", "255.10.100.99", "2001:db8::1", "::"] {
            for format in [LogFormat::Text, LogFormat::Json] {
                let address: IpAddr = address.parse().unwrap();
                let written = line(format, |line| line.address("client", address));
                let expected = line(format, |line| line.text("client", &address.to_string()));
                assert_eq!(without_time(&written), without_time(&expected));
            }
        }
    }

    /// The line without the digits of its time.
    fn without_time(line: &str) -> &str {
        line.split_once("Z").unwrap().1
    }

    #[test]
    fn text_is_quoted_when_a_logfmt_parser_needs_it() {
        for (value, expected) in [
            ("alice", "alice"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("2001:db8::1", "2001:db8::1"),
            ("", "\"\""),
            ("al ice", "\"al ice\""),
            ("CN=alice", "\"CN=alice\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("a\r\n2026 INFO access", "\"a\\r\\n2026 INFO access\""),
            ("\u{1b}[2J\u{9b}\u{7f}", "\"\\u001b[2J\\u009b\\u007f\""),
            ("\u{202e}größe\u{200b}", "\"\\u202egröße\\u200b\""),
            ("\u{e0001}", "\"\\udb40\\udc01\""),
        ] {
            let text = line(LogFormat::Text, |line| line.text("key", value));
            assert_eq!(
                after_time(&text),
                format!("INFO it happened key={expected}\n")
            );
        }
    }

    #[test]
    fn a_message_never_ends_its_line() {
        let mut buffer = String::new();
        let message = "cannot read \"x\"\n2026 INFO \u{1b}[2J";
        LogLine::begin(&mut buffer, LogFormat::Text, "WARN", message).end();
        let expected = "WARN cannot read \"x\"\\n2026 INFO \\u001b[2J\n";
        assert_eq!(after_time(&buffer), expected);
    }

    #[test]
    fn unknown_fields_are_null_in_json_and_omitted_in_text() {
        let write = |line: &mut LogLine<'_>| {
            line.optional_text("user", None);
            line.optional_number("upstream_ms", None);
            line.number("status", 200);
            line.literal("is_up", true);
        };
        let text = line(LogFormat::Text, write);
        assert_eq!(
            after_time(&text),
            "INFO it happened status=200 is_up=true\n"
        );
        let json: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, write)).unwrap();
        assert!(json["user"].is_null() && json["upstream_ms"].is_null());
        assert_eq!(
            (&json["status"], &json["is_up"]),
            (&200.into(), &true.into())
        );
        assert_eq!(json["message"], "it happened");
    }

    #[test]
    fn lost_lines_are_reported_in_the_format_of_the_log() {
        let text = lost_lines(LogFormat::Text, 7);
        assert_eq!(after_time(&text), "WARN log lines were lost lost=7\n");
        let json: serde_json::Value =
            serde_json::from_str(&lost_lines(LogFormat::Json, 7)).unwrap();
        assert_eq!((&json["level"], &json["lost"]), (&"WARN".into(), &7.into()));
        assert!(json["time"].is_string());
    }

    #[test]
    fn time_is_written_with_milliseconds() {
        let written = |millis| {
            let mut line = String::new();
            push_time(&mut line, Duration::from_millis(millis));
            line
        };
        assert_eq!(written(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        assert_eq!(written(1_700_000_000_999), "2023-11-14T22:13:20.999Z");
        assert_eq!(written(1_700_000_001_000), "2023-11-14T22:13:21.000Z");
        assert_eq!(written(0), "1970-01-01T00:00:00.000Z");
    }

    proptest! {
        #[test]
        fn no_value_forges_a_line_and_json_round_trips(value in "(?s).*|[\"\\\\\\x00-\\x20\\x7f-\\u{a0}=]*") {
            let json = line(LogFormat::Json, |line| line.text("key", &value));
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read["key"].as_str(), Some(value.as_str()));
            let text = line(LogFormat::Text, |line| line.text("key", &value));
            for line in [json, text.clone()] {
                prop_assert_eq!(line.matches('\n').count(), 1);
                prop_assert!(line.trim_end_matches('\n').chars().all(|c| !c.is_control()));
            }
            // A quoted value is a JSON string, so that every logfmt parser reads it.
            let (_, written) = text.trim_end_matches('\n').split_once("key=").unwrap();
            if written.starts_with('"') {
                let read: String = serde_json::from_str(written).unwrap();
                prop_assert_eq!(read, value);
            } else {
                prop_assert_eq!(written, value);
            }
        }
    }
}
