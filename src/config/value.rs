//! Parsers for single values that are not addresses or URLs: words, durations, sizes, statuses, file paths, secrets.
//!
//! `keys` names one parser for each key, and `table` calls it. A parser reads one value and nothing else: it opens no file and
//! asks neither the system nor a name server. Its [`Error`] says what is wrong, why, and what to write instead, and never
//! repeats what may be a password. `address` and `url` have further parsers, which return the same error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;

use super::nearest::nearest;
use super::problem::{is_unprintable, quote};
use crate::net::host::HostPort;
use crate::template::{Placeholder, Template};
use crate::text::parse_decimal;

/// Why a value is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The string is empty.
    #[error("it is empty")]
    Empty,
    /// A number has no unit.
    #[error("the unit is missing")]
    NoUnit {
        /// The names of all units.
        units: &'static str,
        /// The number with the unit that was probably meant.
        example: String,
    },
    /// The unit does not exist.
    #[error("there is no unit {}", quote(.unit))]
    UnknownUnit {
        /// The unit as written.
        unit: String,
        /// The names of all units.
        units: &'static str,
        /// The value with the unit that was probably meant.
        meant: Option<String>,
        /// A value of the right form.
        example: &'static str,
    },
    /// The number is negative, has a fraction, or is no number.
    #[error("it does not begin with a whole number")]
    NotWhole {
        /// A value of the right form.
        example: &'static str,
    },
    /// The value is outside of the range that can be represented.
    #[error("it is not in the range {range}")]
    OutOfRange {
        /// Both ends, which are included.
        range: &'static str,
    },
    /// The value does not have the expected form.
    #[error("it is not {expected}")]
    Malformed {
        /// The form, with its article.
        expected: &'static str,
        /// What to write instead.
        remedy: String,
    },
    /// The value has the expected form, and a part that has no meaning for its key.
    #[error("{part} has no place in it")]
    UnexpectedPart {
        /// The part, with its article.
        part: &'static str,
        /// Why the part has no meaning.
        why: &'static str,
        /// What to write instead.
        remedy: String,
    },
    /// The value names a variable of the environment that is not set.
    #[error("the environment variable {name} is not set")]
    UnsetVariable {
        /// The name of the variable.
        name: String,
    },
    /// The value of a variable of the environment is not UTF-8 text.
    #[error("the environment variable {name} is not UTF-8 text")]
    VariableNotText {
        /// The name of the variable.
        name: String,
    },
    /// There is no name of a variable between `${` and `}`, or there is no `}`.
    #[error("\"${{\" is not followed by the name of a variable and \"}}\"")]
    NoVariableName,
    /// The value is rejected after variables in it were replaced.
    #[error("after ${{NAME}} was replaced, {0}")]
    Replaced(Box<Self>),
    /// The text has a placeholder that its key does not allow.
    #[error("there is no placeholder {{{word}}}")]
    UnknownPlaceholder {
        /// The word between the braces.
        word: String,
        /// The words that are allowed.
        allowed: Vec<&'static str>,
    },
    /// The value is none of the words that its key allows.
    #[error("there is no {}", quote(.word))]
    UnknownWord {
        /// The word as written.
        word: String,
        /// All words.
        words: Vec<&'static str>,
    },
}

impl Error {
    /// Why the problem matters, where the error itself does not make it clear.
    pub(crate) fn why(&self) -> Option<String> {
        match self {
            Self::UnexpectedPart { why, .. } => Some((*why).to_owned()),
            Self::NoUnit { units, .. } | Self::UnknownUnit { units, .. } => {
                Some(format!("the units are {units}"))
            }
            Self::Replaced(error) => error.why(),
            _ => None,
        }
    }

    /// What to write instead.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::Empty => "write a value between the quotes".to_owned(),
            Self::UnsetVariable { name } | Self::VariableNotText { name } => format!(
                "set {name} in the environment of the proxy, or write $${{{name}}} if the text itself is meant"
            ),
            Self::NoVariableName => {
                "write ${NAME} with letters, digits and \"_\", or $${ if the text itself is meant"
                    .to_owned()
            }
            Self::Replaced(error) => format!(
                "{}; or correct the variable in the environment of the proxy",
                error.remedy()
            ),
            Self::OutOfRange { range } => format!("write a value from {range}"),
            Self::NoUnit { example, .. } => write(example),
            Self::UnknownUnit {
                meant: Some(meant), ..
            } => write(meant),
            Self::NotWhole { example }
            | Self::UnknownUnit {
                meant: None,
                example,
                ..
            } => format!("write a whole number and a unit, as in {}", quote(example)),
            Self::Malformed { remedy, .. } | Self::UnexpectedPart { remedy, .. } => remedy.clone(),
            Self::UnknownPlaceholder { allowed, .. } => {
                let all: Vec<_> = allowed.iter().map(|name| format!("{{{name}}}")).collect();
                format!("the placeholders here are {}", all.join(", "))
            }
            Self::UnknownWord { word, words } => suggest_word(word, words),
        }
    }
}

fn suggest_word(word: &str, words: &[&'static str]) -> String {
    if let Some(meant) = nearest(word, words.iter().copied()) {
        return format!("did you mean {}?", quote(meant));
    }
    let all: Vec<_> = words.iter().map(|word| quote(word)).collect();
    format!("write {}", all.join(" or "))
}

/// Parses one of several words, and returns the meaning of the word.
///
/// # Errors
///
/// The text is none of the words. The error names the nearest word, or all of them.
pub(crate) fn word<T: Clone>(text: &str, words: &[(&'static str, T)]) -> Result<T, Error> {
    let found = words.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, meaning)| meaning.clone())
        .ok_or_else(|| Error::UnknownWord {
            word: text.to_owned(),
            words: words.iter().map(|(word, _)| *word).collect(),
        })
}

/// Accepts every string, including the empty one.
///
/// # Errors
///
/// None. The result has the type that all parsers have.
pub(crate) fn any_text(text: &str) -> Result<String, Error> {
    Ok(text.to_owned())
}

/// Accepts every string that is not empty.
///
/// # Errors
///
/// The string is empty.
pub(crate) fn text(text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    Ok(text.to_owned())
}

/// Parses the destination of a redirect, with `{host}`, `{path}` and `{query}`.
///
/// No part of the request path may become the scheme or the host of the destination, because a link to the proxy would then
/// lead to any server that its author names.
///
/// # Errors
///
/// The text is neither a path nor an http URL, a placeholder is unknown, or the host has a placeholder other than `{host}`.
pub(crate) fn location(text: &str) -> Result<Template, Error> {
    let template = response_text(text)?;
    let is_plain =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>');
    if text.is_empty() {
        return Err(Error::Empty);
    }
    if !text.bytes().all(is_plain) {
        return Err(Error::Malformed {
            expected: "a URL",
            remedy: "write characters outside of ASCII, spaces and quotes with %XX".to_owned(),
        });
    }
    let scheme = ["https://", "http://"]
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let Some(rest) = scheme else {
        let is_path =
            text.starts_with("{path}") || text.starts_with('/') && !text.starts_with("//");
        return is_path.then_some(template).ok_or_else(|| Error::Malformed {
            expected: "a path, or a URL with https:// or http://",
            remedy: "write \"https://ui.example.com{path}{query}\", or \"/ui/\"".to_owned(),
        });
    };
    // What follows the host must be separated from it, so that a value cannot extend the host: a path begins with a slash.
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let end = rest.find("{path}").map_or(end, |path| path.min(end));
    let end = rest.find("{query}").map_or(end, |query| query.min(end));
    let authority = rest.get(..end).unwrap_or_default();
    let sample = authority.replacen("{host}", "host.example", 1);
    let is_host = !authority.contains('@') && HostPort::parse(&sample).is_some();
    // A name before or after {host} would lead to a name that is not the site's.
    let is_whole = !authority.contains("{host}")
        || authority
            .strip_prefix("{host}")
            .is_some_and(|port| port.is_empty() || port.starts_with(':'));
    if is_host && is_whole {
        return Ok(template);
    }
    Err(Error::Malformed {
        expected: "a URL with a host, or with {host} in the place of the whole name",
        remedy: "write \"https://ui.example.com{path}{query}\", or \"https://{host}:8443{path}\""
            .to_owned(),
    })
}

/// Parses a text with `{host}`, `{path}` and `{query}`.
///
/// # Errors
///
/// A placeholder is unknown.
pub(crate) fn response_text(text: &str) -> Result<Template, Error> {
    let allowed = [Placeholder::Host, Placeholder::Path, Placeholder::Query];
    placeholders(text, &allowed)
}

/// Parses a text with the `allowed` placeholders.
///
/// # Errors
///
/// A placeholder is unknown.
pub(crate) fn placeholders(text: &str, allowed: &[Placeholder]) -> Result<Template, Error> {
    Template::parse(text, allowed).map_err(|word| Error::UnknownPlaceholder {
        word,
        allowed: allowed.iter().map(|allowed| allowed.name()).collect(),
    })
}

/// Parses one mail address.
///
/// # Errors
///
/// The text is not `USER@HOST`, or is a list of addresses or an address with a name.
pub(crate) fn email(text: &str) -> Result<String, Error> {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.contains(|c: char| c.is_whitespace() || c.is_control() || ",:?<>".contains(c))
    };
    let parts = text.split_once('@');
    match parts.filter(|(user, host)| is_plain(user) && is_plain(host) && !host.contains('@')) {
        Some(_) => Ok(text.to_owned()),
        None => Err(Error::Malformed {
            expected: "one mail address",
            remedy: "write \"admin@example.com\"".to_owned(),
        }),
    }
}

/// The source of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A file.
    File(PathBuf),
    /// A systemd credential of this name (systemd.exec(5), `LoadCredential=`).
    Credential(String),
}

impl Secret {
    /// Resolves a relative path against `base`.
    pub(crate) fn below(self, base: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(base.join(path)),
            Self::Credential(_) => self,
        }
    }
}

/// Parses the path of a file that the proxy reads again while it runs: a certificate, a key, or a password file.
///
/// # Errors
///
/// The text is empty, or names a credential, which systemd copies only once.
pub(crate) fn live_file(text: &str) -> Result<String, Error> {
    if text.starts_with(CREDENTIAL) {
        return Err(Error::UnexpectedPart {
            part: "\"credential:\"",
            why: "systemd copies a credential when the service starts, and a certificate or a password file changes \
                  while it runs",
            remedy: "write the path of the file itself".to_owned(),
        });
    }
    self::text(text)
}

/// Parses a path, or `credential:NAME`.
///
/// # Errors
///
/// The text is empty, or systemd would not accept the name of the credential (systemd.exec(5), `LoadCredential=`).
pub(crate) fn secret(text: &str) -> Result<Secret, Error> {
    let Some(name) = text.strip_prefix(CREDENTIAL) else {
        return self::text(text).map(|path| Secret::File(PathBuf::from(path)));
    };
    let is_name = (1..=255).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b':' | b'/'));
    if !is_name {
        return Err(Error::Malformed {
            expected: "\"credential:\" and the name in a unit's LoadCredential=",
            remedy: write("credential:token-secret"),
        });
    }
    Ok(Secret::Credential(name.to_owned()))
}

const CREDENTIAL: &str = "credential:";

/// Parses a status that can be the final status of a response: 200 to 599.
///
/// # Errors
///
/// The number is another one. A response with 1xx is not final (RFC 9110 section 15.2).
pub(crate) fn http_status(code: i64) -> Result<StatusCode, Error> {
    let range = "200 to 599";
    u16::try_from(code)
        .ok()
        .filter(|code| (200..=599).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(Error::OutOfRange { range })
}

/// Parses a duration with one unit: `500ms`, `900s`, `15m`, `2h`, `1d`. The maximum is ten years, so that every deadline can be
/// computed.
///
/// # Errors
///
/// The unit is missing or unknown, the number is not a whole number, or the duration is longer than ten years.
pub(crate) fn duration(text: &str) -> Result<Duration, Error> {
    quantity(text, &DURATION).map(Duration::from_millis)
}

/// Parses a size with one unit, in bytes: `512B`, `32KiB`, `10MB`, `1GiB`.
///
/// # Errors
///
/// The unit is missing or unknown, the number is not a whole number, or the size is 2^64 bytes or more.
pub(crate) fn size(text: &str) -> Result<u64, Error> {
    quantity(text, &SIZE)
}

/// Formats a duration as [`duration`] parses it, with the largest unit that divides it.
pub(crate) fn format_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    format_quantity(milliseconds, &DURATION)
}

/// Formats a size as [`size`] parses it, with the largest unit of 1024 that divides it.
pub(crate) fn format_size(bytes: u64) -> String {
    format_quantity(bytes, &SIZE)
}

/// The units of a quantity, and the texts of its errors.
struct Quantity {
    /// The name of each unit and its factor. The first `formatted` ones are used for output, in increasing order.
    units: &'static [(&'static str, u64)],
    formatted: usize,
    unit_names: &'static str,
    range: &'static str,
    max: u64,
    /// The unit that a number without a unit probably has.
    usual_unit: &'static str,
    example: &'static str,
    /// What people write for a unit: the `k` and `m` of nginx, and words.
    aliases: &'static [(&'static str, &'static str)],
}

fn quantity(text: &str, quantity: &Quantity) -> Result<u64, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() || unit.starts_with(['.', ',']) {
        return Err(Error::NotWhole {
            example: quantity.example,
        });
    }
    let factor = unit_factor(digits, unit, quantity)?;
    parse_decimal::<u64>(digits)
        .and_then(|number| number.checked_mul(factor))
        .filter(|value| *value <= quantity.max)
        .ok_or(Error::OutOfRange {
            range: quantity.range,
        })
}

fn unit_factor(digits: &str, unit: &str, kind: &Quantity) -> Result<u64, Error> {
    let units = kind.unit_names;
    let is_accepted = |value: &String| quantity(value, kind).is_ok();
    if unit.trim().is_empty() {
        let meant = Some(format!("{digits}{}", kind.usual_unit)).filter(is_accepted);
        return Err(Error::NoUnit {
            units,
            example: meant.unwrap_or_else(|| kind.example.to_owned()),
        });
    }
    if let Some((_, factor)) = kind.units.iter().find(|(name, _)| *name == unit) {
        return Ok(*factor);
    }
    let meant = suggest_unit(unit.trim(), kind).map(|unit| format!("{digits}{unit}"));
    Err(Error::UnknownUnit {
        unit: unit.to_owned(),
        units,
        meant: meant.filter(is_accepted),
        example: kind.example,
    })
}

fn suggest_unit(unit: &str, quantity: &Quantity) -> Option<&'static str> {
    let is_meant = |name: &str| name.eq_ignore_ascii_case(unit);
    let mut aliases = quantity.aliases.iter();
    if let Some((_, meant)) = aliases.find(|(name, _)| is_meant(name)) {
        return Some(meant);
    }
    let names = || quantity.units.iter().map(|(name, _)| *name);
    // Every name of one or two letters would be near to every other one.
    let long_names = || names().filter(|name| name.len() > 2);
    names()
        .find(|name| is_meant(name))
        .or_else(|| nearest(unit, long_names()))
}

fn format_quantity(value: u64, quantity: &Quantity) -> String {
    let units = quantity.units.iter().take(quantity.formatted);
    let mut dividing = units.filter(|(_, factor)| value.is_multiple_of(*factor));
    // The first unit has the factor 1. For zero, every unit divides, and the smallest one is written.
    let unit = if value == 0 {
        dividing.next()
    } else {
        dividing.next_back()
    };
    unit.map_or_else(
        || value.to_string(),
        |(name, factor)| format!("{}{name}", value / factor),
    )
}

/// Durations in milliseconds.
const DURATION: Quantity = Quantity {
    units: &[
        ("ms", 1),
        ("s", 1000),
        ("m", 60 * 1000),
        ("h", 3600 * 1000),
        ("d", DAY),
    ],
    formatted: 5,
    unit_names: "ms, s, m, h and d",
    range: "0s to 3650d",
    max: 3650 * DAY,
    usual_unit: "s",
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

/// A day in milliseconds.
const DAY: u64 = 24 * 3600 * 1000;

/// Sizes in bytes.
const SIZE: Quantity = Quantity {
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
    formatted: 5,
    unit_names: "B, KiB, MiB, GiB, TiB (of 1024) and KB, MB, GB, TB (of 1000)",
    range: "0B to 16777215TiB",
    max: u64::MAX,
    usual_unit: "B",
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

/// The remedy `write "…"`. The value is a TOML basic string that can be copied into the file as it is, so it is never cut.
pub(crate) fn write(value: impl fmt::Display) -> String {
    format!("write {}", toml_string(&value.to_string()))
}

/// A TOML basic string with this content.
pub(crate) fn toml_string(value: &str) -> String {
    let mut string = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => string.extend(['\\', character]),
            // In the file, `${` begins the name of a variable, unless another `$` precedes it.
            '{' if string.ends_with('$') => string.push_str("${"),
            _ if is_unprintable(character) => {
                string.push_str(&match u32::from(character) {
                    code @ ..=0xffff => format!("\\u{code:04X}"),
                    code => format!("\\U{code:08X}"),
                });
            }
            _ => string.push(character),
        }
    }
    string.push('"');
    string
}

/// The remedy `write "…"` with the value that was probably meant, if `parse` accepts that value, else `otherwise`. A remedy
/// that the next run rejects is worse than none.
pub(crate) fn write_accepted<T>(
    meant: impl fmt::Display,
    parse: impl FnOnce(&str) -> Result<T, Error>,
    otherwise: impl Into<String>,
) -> String {
    let meant = meant.to_string();
    if meant.len() <= MAX_REMEDY && parse(&meant).is_ok() {
        write(meant)
    } else {
        otherwise.into()
    }
}

/// Longer than any URL or host name; a longer value was pasted by mistake.
const MAX_REMEDY: usize = 300;

/// Parses a text, and replaces the error in two cases that every parser has: the text would be accepted without the blanks
/// around it, or it is the name of a variable without braces.
pub(crate) fn parse_explained<T>(
    text: &str,
    parse: &dyn Fn(&str) -> Result<T, Error>,
) -> Result<T, Error> {
    let error = match parse(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let trimmed = text.trim();
    if trimmed != text && !trimmed.is_empty() && parse(trimmed).is_ok() {
        return Err(Error::UnexpectedPart {
            part: "a blank at an end",
            why: "blanks between the quotes are a part of the value",
            remedy: write(trimmed),
        });
    }
    if text.starts_with('$') && !text.starts_with("${") {
        return Err(Error::UnexpectedPart {
            part: "a variable without braces",
            why: "only ${NAME} is replaced by a variable of the environment",
            remedy: "put braces around the name, as in \"${NAME}\"".to_owned(),
        });
    }
    Err(error)
}

#[cfg(test)]
mod tests;
