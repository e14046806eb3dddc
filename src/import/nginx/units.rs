//! Sizes and times: nginx's syntax and the syntax of the `proxy.toml`.

/// Parses a size such as `10m`, `512k`, `1g` or `8192` into bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (text.get(..at)?, 1 << 10),
        (at, 'm' | 'M') => (text.get(..at)?, 1 << 20),
        (at, 'g' | 'G') => (text.get(..at)?, 1 << 30),
        _ => (text, 1),
    };
    number(digits)?.checked_mul(factor)
}

/// Parses a time such as `90`, `90s`, `1h30m` or `500ms` into milliseconds.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let count = number(rest.get(..end)?)?;
        rest = rest.get(end..)?;
        let (unit, factor) = UNITS
            .iter()
            .find(|(unit, _)| rest.starts_with(unit))
            .copied()?;
        total = total.checked_add(count.checked_mul(factor)?)?;
        rest = rest.get(unit.len()..)?.trim_start();
    }
    Some(total)
}

/// Writes a time for the `proxy.toml`.
pub(crate) fn format_time(milliseconds: u64) -> String {
    if milliseconds.is_multiple_of(1000) {
        return format!("{}s", milliseconds / 1000);
    }
    format!("{milliseconds}ms")
}

/// Writes a size for the `proxy.toml`, in the largest unit of which it is a multiple.
pub(crate) fn format_size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units
        .iter()
        .find(|(factor, _)| bytes.is_multiple_of(*factor));
    match unit {
        Some((factor, unit)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?
}

/// The units in milliseconds. `ms` comes before `m`, which is its prefix; a number without a unit is in seconds.
const UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
    ("M", 30 * 86_400_000),
    ("y", 365 * 86_400_000),
    ("", 1000),
];
