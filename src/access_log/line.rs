//! A line of the access log as text or JSON, escaped.
//!
//! Every request pays for this: a line is one string that grows once, and nothing is put into words by way of another one
//! unless it must be escaped.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

/// `TIME access client=… status=200 …`: what is not known is left out.
pub(super) fn as_text(
    words: &[(&str, &str)],
    numbers: &[(&str, u64)],
    upstream: Option<u64>,
) -> String {
    let mut line = String::with_capacity(USUAL);
    push_time(&mut line, now());
    line.push_str(" access");
    for (name, value) in words.iter().filter(|(_, value)| !value.is_empty()) {
        line.extend([" ", name, "="]);
        if is_plain(value) && !value.contains(' ') {
            line.push_str(value);
        } else {
            // Rust's escapes: quotes, backslashes and every control character.
            let _ = write!(line, "{value:?}");
        }
    }
    let upstream = upstream.map(|waited| ("upstream_ms", waited));
    for (name, value) in numbers.iter().copied().chain(upstream) {
        let _ = write!(line, " {name}={value}");
    }
    line.push('\n');
    line
}

/// One object; what is not known is `null`, so that every line has the same keys.
pub(super) fn as_json(
    words: &[(&str, &str)],
    numbers: &[(&str, u64)],
    upstream: Option<u64>,
) -> String {
    let mut line = String::with_capacity(USUAL);
    line.push_str("{\"time\":\"");
    push_time(&mut line, now());
    line.push('"');
    for (name, value) in words {
        line.extend([",\"", name, "\":"]);
        if value.is_empty() {
            line.push_str("null");
        } else {
            push_quoted(&mut line, value);
        }
    }
    for (name, value) in numbers {
        let _ = write!(line, ",\"{name}\":{value}");
    }
    line.push_str(",\"upstream_ms\":");
    match upstream {
        Some(waited) => {
            let _ = write!(line, "{waited}");
        }
        None => line.push_str("null"),
    }
    line.push_str("}\n");
    line
}

/// Printable ASCII that needs no escape, in either form.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

fn push_quoted(line: &mut String, text: &str) {
    if is_plain(text) {
        line.extend(["\"", text, "\""]);
        return;
    }
    let json = serde_json::Value::from(text).to_string();
    for character in json.chars() {
        // Legal in JSON as they are, and a command to a terminal: DEL and the controls above ASCII.
        if character.is_control() {
            let _ = write!(line, "\\u{:04x}", u32::from(character));
        } else {
            line.push(character);
        }
    }
}

/// A line in place of those that were lost, in the log's own form.
pub fn lost_line(json: bool, lost: u64) -> String {
    let mut time = String::new();
    push_time(&mut time, now());
    if json {
        format!("{{\"time\":\"{time}\",\"lost\":{lost}}}\n")
    } else {
        format!("{time} access lost={lost}\n")
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// RFC 3339 with milliseconds, always as long. The calendar is asked once a second.
fn push_time(line: &mut String, now: Duration) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = RefCell::default();
    }
    let seconds = now.as_secs();
    let kept = SECOND.try_with(|second| {
        let mut second = second.borrow_mut();
        if second.1.is_empty() || second.0 != seconds {
            *second = (seconds, calendar(seconds));
        }
        line.push_str(&second.1);
    });
    // A thread that ends has no memory any more.
    if kept.is_err() {
        line.push_str(&calendar(seconds));
    }
    let _ = write!(line, ".{:03}Z", now.subsec_millis());
}

fn calendar(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds);
    let text = time.map(|time| time.format(SECONDS));
    text.ok().and_then(Result::ok).unwrap_or_default()
}

const SECONDS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
/// As long as a line usually is.
const USUAL: usize = 384;

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [(&str, u64); 2] = [("status", 200), ("bytes_in", 3)];

    #[test]
    fn text_escapes_what_could_forge_a_line() {
        let words = [("user", "al ice\n2026"), ("path", "/v2/"), ("site", "")];
        let line = as_text(&words, &NUMBERS, Some(7));
        let (_time, rest) = line.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "access user=\"al ice\\n2026\" path=/v2/ status=200 bytes_in=3 upstream_ms=7\n"
        );
    }

    #[test]
    fn json_is_one_object_with_every_key() {
        let words = [("user", "a\"\u{1b}\n\u{9b}\u{7f}"), ("site", "")];
        let line = as_json(&words, &NUMBERS, None);
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
    #[test]
    fn a_moment_is_told_to_the_millisecond() {
        let told = |millis| {
            let mut line = String::new();
            push_time(&mut line, Duration::from_millis(millis));
            line
        };
        assert_eq!(told(1_700_000_000_007), "2023-11-14T22:13:20.007Z");
        assert_eq!(told(1_700_000_000_999), "2023-11-14T22:13:20.999Z");
        assert_eq!(told(1_700_000_001_000), "2023-11-14T22:13:21.000Z");
        assert_eq!(told(0), "1970-01-01T00:00:00.000Z");
    }
}
