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

use crate::addr::ClientAddr;

/// Lends room for a line: the same for all lines of a thread.
pub(super) fn with_room(write: impl FnOnce(&mut String)) {
    thread_local! {
        static LINE: RefCell<String> = const { RefCell::new(String::new()) };
    }
    let mut line = LINE.try_with(RefCell::take).unwrap_or_default();
    line.clear();
    write(&mut line);
    // One of unusual length goes; a thread that ends has no memory any more.
    if line.capacity() <= UNUSUAL {
        let _ = LINE.try_with(|kept| kept.replace(line));
    }
}

/// `TIME access client=… status=200 …`: what is not known is left out.
pub(super) fn as_text(
    line: &mut String,
    client: &ClientAddr,
    words: &[(&str, &str)],
    numbers: &[(&str, u64)],
    upstream: Option<u64>,
) {
    push_time(line, now());
    let _ = write!(line, " access client={client}");
    for (name, value) in words.iter().filter(|(_, value)| !value.is_empty()) {
        push(line, &[" ", name, "="]);
        if is_plain(value) && !value.contains(' ') {
            line.push_str(value);
        } else {
            // Rust's escapes: quotes, backslashes and every control character.
            let _ = write!(line, "{value:?}");
        }
    }
    let upstream = upstream.map(|waited| ("upstream_ms", waited));
    for (name, value) in numbers.iter().copied().chain(upstream) {
        push(line, &[" ", name, "="]);
        push_number(line, value);
    }
    line.push('\n');
}

/// One object; what is not known is `null`, so that every line has the same keys.
pub(super) fn as_json(
    line: &mut String,
    client: &ClientAddr,
    words: &[(&str, &str)],
    numbers: &[(&str, u64)],
    upstream: Option<u64>,
) {
    line.push_str("{\"time\":\"");
    push_time(line, now());
    let _ = write!(line, "\",\"client\":\"{client}\"");
    for (name, value) in words {
        push(line, &[",\"", name, "\":"]);
        if value.is_empty() {
            line.push_str("null");
        } else {
            push_quoted(line, value);
        }
    }
    for (name, value) in numbers {
        push(line, &[",\"", name, "\":"]);
        push_number(line, *value);
    }
    line.push_str(",\"upstream_ms\":");
    match upstream {
        Some(waited) => push_number(line, waited),
        None => line.push_str("null"),
    }
    line.push_str("}\n");
}

fn push(line: &mut String, parts: &[&str]) {
    for part in parts {
        line.push_str(part);
    }
}

/// Most numbers of a line have one digit, or three.
fn push_number(line: &mut String, number: u64) {
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
    let digits = digits.get(from..).unwrap_or_default();
    line.push_str(std::str::from_utf8(digits).unwrap_or_default());
}

/// Printable ASCII that needs no escape, in either form.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\')
}

fn push_quoted(line: &mut String, text: &str) {
    if is_plain(text) {
        push(line, &["\"", text, "\""]);
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
    let millis = now.subsec_millis();
    line.push('.');
    for digit in [millis / 100, millis / 10, millis] {
        line.push(char::from_digit(digit % 10, 10).unwrap_or('0'));
    }
    line.push('Z');
}

fn calendar(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let time = OffsetDateTime::from_unix_timestamp(seconds);
    let text = time.map(|time| time.format(SECONDS));
    text.ok().and_then(Result::ok).unwrap_or_default()
}

const SECONDS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
/// Longer than a line usually is.
const UNUSUAL: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [(&str, u64); 2] = [("status", 200), ("bytes_in", 3)];

    fn client() -> ClientAddr {
        ClientAddr::vouched([192, 0, 2, 1].into())
    }

    #[test]
    fn numbers_are_told_as_usual() {
        for number in [0, 7, 10, 200, 4_294_967_296, u64::MAX] {
            let mut line = String::new();
            push_number(&mut line, number);
            assert_eq!(line, number.to_string());
        }
    }

    #[test]
    fn text_escapes_what_could_forge_a_line() {
        let words = [("user", "al ice\n2026"), ("path", "/v2/"), ("site", "")];
        let mut line = String::new();
        as_text(&mut line, &client(), &words, &NUMBERS, Some(7));
        let (_time, rest) = line.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "access client=192.0.2.1 user=\"al ice\\n2026\" path=/v2/ status=200 bytes_in=3 upstream_ms=7\n"
        );
    }

    #[test]
    fn json_is_one_object_with_every_key() {
        let words = [("user", "a\"\u{1b}\n\u{9b}\u{7f}"), ("site", "")];
        let mut line = String::new();
        as_json(&mut line, &client(), &words, &NUMBERS, None);
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
