//! Formats numbers, durations and times for the status page.
//!
//! Numbers have at most three significant digits where a unit follows. No-break spaces keep a number and its unit on one line.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// Formats a size: `0 B`, `1.5 KiB`, `34.2 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    // From 999.5 on, the value would have four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit_name = UNITS.get(unit).copied().unwrap_or_default();
    let value = if unit == 0 {
        bytes.to_string()
    } else {
        three_digits(value)
    };
    format!("{value}\u{a0}{unit_name}")
}

/// Formats a number of bytes per second.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// Formats a number of events per second.
pub(crate) fn frequency(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 0.01 {
        return "<\u{a0}0.01/s".to_owned();
    }
    if per_second >= 1000.0 {
        return format!("{}/s", count(per_second as u64));
    }
    format!("{}/s", three_digits(per_second))
}

/// Formats a count with groups of three digits, separated by narrow spaces as in ISO 80000-1: `12 345`.
pub(crate) fn count(count: u64) -> String {
    let plain = count.to_string();
    let mut grouped = String::new();
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a duration with at most two units: `4 s`, `3 min`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two_units = |first: u64, unit, second: u64, smaller_unit| match second {
        0 => format!("{first}\u{a0}{unit}"),
        second => format!("{first}\u{a0}{unit} {second}\u{a0}{smaller_unit}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}\u{a0}s"),
        (0, 0, minutes) => format!("{minutes}\u{a0}min"),
        (0, hours, minutes) => two_units(hours, "h", minutes % 60, "min"),
        (days, hours, _) => two_units(days, "d", hours % 24, "h"),
    }
}

/// Formats a time in UTC for people: `2026-07-31 18:23:49 UTC`. The script of the page shows it in the time zone of the
/// browser, in the same format.
pub(crate) fn time(time: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let time = OffsetDateTime::from(time);
    time.format(format).unwrap_or_default()
}

/// Formats a time in UTC for the `datetime` attribute: `2026-07-31T18:23:49Z`.
pub(crate) fn iso_time(time: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let time = OffsetDateTime::from(time);
    time.format(format).unwrap_or_default()
}

/// Finds the first time in a text that has the format of [`iso_time`], as the messages of the readiness have. Returns the
/// text before it, the time, and the text after it.
pub(crate) fn find_iso_time(text: &str) -> Option<(&str, SystemTime, &str)> {
    let is_time = |bytes: &[u8]| {
        bytes
            .iter()
            .zip(b"0000-00-00T00:00:00Z")
            .all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                form => byte == form,
            })
    };
    let at = text
        .as_bytes()
        .windows("0000-00-00T00:00:00Z".len())
        .position(is_time)?;
    let (before, rest) = text.split_at_checked(at)?;
    let (time, after) = rest.split_at_checked("0000-00-00T00:00:00Z".len())?;
    let time = OffsetDateTime::parse(time, &Rfc3339).ok()?;
    Some((before, time.into(), after))
}

/// Formats a number with at most three significant digits, without zeros at the end of the fraction.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        value if value >= 99.95 || value == 0.0 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        for (value, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1536, "1.5 KiB"),
            (35_861_299, "34.2 MiB"),
            (1_073_741_824, "1 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(value).replace('\u{a0}', " "), expected);
        }
        assert_eq!(rate(2048), "2\u{a0}KiB/s");
        for (value, expected) in [
            (0.0, "0/s"),
            (0.001, "< 0.01/s"),
            (0.2, "0.2/s"),
            (12.34, "12.3/s"),
            (999.9, "1000/s"),
            (12_345.6, "12 345/s"),
        ] {
            let shown = frequency(value).replace(['\u{a0}', '\u{202f}'], " ");
            assert_eq!(shown, expected);
        }
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567).replace('\u{202f}', "_"), "1_234_567");
    }

    #[test]
    fn durations_have_two_units_and_times_name_their_zone() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (7500, "2 h 5 min"),
            (86_400 * 3 + 3600 * 4 + 59, "3 d 4 h"),
        ] {
            let shown = duration(Duration::from_secs(seconds));
            assert_eq!(shown.replace('\u{a0}', " "), expected);
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_999);
        assert_eq!(time(at), "2001-09-09 01:46:40 UTC");
        assert_eq!(iso_time(at), "2001-09-09T01:46:40Z");
    }

    #[test]
    fn a_time_in_a_text_is_found() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        assert_eq!(
            find_iso_time("é down since 2001-09-09T01:46:40Z: é"),
            Some(("é down since ", at, ": é"))
        );
        for text in [
            "",
            "2001-09-09",
            "2001-09-09T01:46:40",
            "2001-99-99T01:46:40Z",
            "é".repeat(30).as_str(),
        ] {
            assert_eq!(find_iso_time(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_size_has_at_most_four_characters_and_a_unit(value: u64) {
            let shown = bytes(value);
            prop_assert!(shown.chars().count() <= "99.9\u{a0}MiB".len(), "{}", shown);
        }
    }
}
