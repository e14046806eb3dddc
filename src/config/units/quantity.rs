//! Durations, sizes and statuses.
//!
//! A number and its unit, as in `"15m"` and `"32KiB"`: one number, one unit, nothing between.

use std::time::Duration;

use http::StatusCode;

use super::super::nearest::nearest;
use super::Error;

/// `500ms`, `900s`, `15m`, `2h`, `1d`; at most ten years, so that any deadline can be computed.
///
/// # Errors
///
/// No unit, another unit, no whole number, longer.
pub fn duration(text: &str) -> Result<Duration, Error> {
    read(text, &DURATION).map(Duration::from_millis)
}

/// `512B`, `32KiB`, `10MB`, `1GiB` in bytes.
///
/// # Errors
///
/// No unit, another unit, no whole number, 2^64 bytes or more.
pub fn size(text: &str) -> Result<u64, Error> {
    read(text, &SIZE)
}

/// A status that can end a request: 200 to 599.
///
/// # Errors
///
/// Another number: 1xx is no answer (RFC 9110 §15.2).
pub fn http_status(code: i64) -> Result<StatusCode, Error> {
    let range = "200 to 599";
    u16::try_from(code)
        .ok()
        .filter(|code| (200..=599).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(Error::OutOfRange { range })
}

/// What a kind of quantity is counted in.
struct Kind {
    /// Each with its factor.
    units: &'static [(&'static str, u64)],
    names: &'static str,
    range: &'static str,
    most: u64,
    usual: &'static str,
    example: &'static str,
    /// What people write for a unit: nginx's `k` and `m`, words.
    aliases: &'static [(&'static str, &'static str)],
}

fn read(text: &str, kind: &Kind) -> Result<u64, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let example = kind.example;
    if digits.is_empty() || unit.starts_with(['.', ',']) {
        return Err(Error::NotWhole { example });
    }
    let factor = factor(digits, unit, kind)?;
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .filter(|value| *value <= kind.most)
        .ok_or(Error::OutOfRange { range: kind.range })
}

fn factor(digits: &str, unit: &str, kind: &Kind) -> Result<u64, Error> {
    let units = kind.names;
    if unit.trim().is_empty() {
        let meant = format!("{digits}{}", kind.usual);
        let is_read = read(&meant, kind).is_ok();
        let example = if is_read {
            meant
        } else {
            kind.example.to_owned()
        };
        return Err(Error::NoUnit { units, example });
    }
    let found = kind.units.iter().find(|(name, _)| *name == unit);
    found.map(|(_, factor)| *factor).ok_or_else(|| {
        let unit = unit.to_owned();
        let meant = guess(unit.trim(), kind).map(|unit| format!("{digits}{unit}"));
        Error::UnknownUnit {
            unit,
            units,
            meant: meant.filter(|meant| read(meant, kind).is_ok()),
            example: kind.example,
        }
    })
}

fn guess(unit: &str, kind: &Kind) -> Option<&'static str> {
    let is_meant = |name: &str| name.eq_ignore_ascii_case(unit);
    let alias = kind.aliases.iter().find(|(name, _)| is_meant(name));
    let exact = kind.units.iter().find(|(name, _)| is_meant(name));
    alias
        .map(|(_, meant)| *meant)
        .or_else(|| exact.map(|(name, _)| *name))
        .or_else(|| {
            let long = kind.units.iter().filter(|(name, _)| name.len() > 2);
            nearest(unit, long.map(|(name, _)| *name))
        })
}

/// In milliseconds.
const DURATION: Kind = Kind {
    units: &[
        ("ms", 1),
        ("s", 1000),
        ("m", 60 * 1000),
        ("h", 3600 * 1000),
        ("d", DAY),
    ],
    names: "ms, s, m, h and d",
    range: "0s to 3650d",
    most: LONGEST,
    usual: "s",
    example: "1500ms",
    aliases: &[
        ("sec", "s"),
        ("secs", "s"),
        ("second", "s"),
        ("seconds", "s"),
        ("min", "m"),
        ("mins", "m"),
        ("minute", "m"),
        ("minutes", "m"),
        ("hour", "h"),
        ("hours", "h"),
        ("day", "d"),
        ("days", "d"),
    ],
};

/// In bytes.
const SIZE: Kind = Kind {
    units: &[
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1000),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ],
    names: "B, KiB, MiB, GiB, TiB (of 1024) and KB, MB, GB, TB (of 1000)",
    range: "0B to 16777215TiB",
    most: u64::MAX,
    usual: "B",
    example: "1536MiB",
    aliases: &[
        ("k", "KiB"),
        ("m", "MiB"),
        ("g", "GiB"),
        ("t", "TiB"),
        ("ki", "KiB"),
        ("mi", "MiB"),
        ("gi", "GiB"),
        ("ti", "TiB"),
        ("byte", "B"),
        ("bytes", "B"),
    ],
};

const DAY: u64 = 24 * 3600 * 1000;
const LONGEST: u64 = 3650 * DAY;
