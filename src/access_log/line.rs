//! A line of the access log as text or JSON, escaped.

use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

/// `TIME access client=… status=200 …`: what is not known is left out.
pub(super) fn as_text(
    words: &[(&str, &str)],
    numbers: &[(&str, u128)],
    upstream: Option<u128>,
) -> String {
    let mut line = format!("{} access", now());
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
pub(super) fn as_json(
    words: &[(&str, &str)],
    numbers: &[(&str, u128)],
    upstream: Option<u128>,
) -> String {
    let mut line = format!("{{\"time\":{}", quoted(&now()));
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

/// A line in place of those that were lost, in the log's own form.
pub fn lost_line(json: bool, lost: u64) -> String {
    let time = now();
    if json {
        format!("{{\"time\":{},\"lost\":{lost}}}\n", quoted(&time))
    } else {
        format!("{time} access lost={lost}\n")
    }
}

fn now() -> String {
    OffsetDateTime::now_utc().format(TIME).unwrap_or_default()
}

/// RFC 3339 with milliseconds, always as long.
const TIME: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [(&str, u128); 2] = [("status", 200), ("bytes_in", 3)];

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
}
