//! What stands in a string or a number of the configuration: durations, sizes, addresses, URLs.
//!
//! Called through `table`. Every function reads one value and nothing else: it asks neither the
//! system nor a name server. A refusal says what is wrong, why, and what to write instead, and
//! never repeats what may be a password.

use std::fmt;

use super::nearest::nearest;
use super::problem::{is_unprintable, quote};

mod address;
mod file;
mod quantity;
mod url;

pub use address::{
    Host, HostPattern, binding, host, host_pattern, network, socket_address, unix_path,
};
pub use file::{Secret, live_file, secret};
pub use quantity::{duration, http_status, size};
pub use url::{ExternalUrl, Scheme, UpstreamUrl, external_url, path_prefix, upstream_url};

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An empty string where something must stand.
    #[error("it is empty")]
    Empty,
    /// A number without a unit; with the value as it may have been meant.
    #[error("the unit is missing")]
    NoUnit {
        /// Every unit there is.
        units: &'static str,
        /// The number with a unit.
        example: String,
    },
    /// A unit that there is not.
    #[error("there is no unit {}", quote(.unit))]
    UnknownUnit {
        /// As written.
        unit: String,
        /// Every unit there is.
        units: &'static str,
        /// The value with the unit that was probably meant.
        meant: Option<String>,
        /// A value of the right form.
        example: &'static str,
    },
    /// Negative, with a fraction, or no number at all.
    #[error("it does not begin with a whole number")]
    NotWhole {
        /// A value of the right form.
        example: &'static str,
    },
    /// Outside of what the gate can count with.
    #[error("it is not in the range {range}")]
    OutOfRange {
        /// Both ends, included.
        range: &'static str,
    },
    /// Not of the form at all.
    #[error("it is not {expected}")]
    Malformed {
        /// The form, with its article.
        expected: &'static str,
        /// What to write instead.
        remedy: String,
    },
    /// Of the form, with a part that has no meaning here.
    #[error("{part} has no place in it")]
    Superfluous {
        /// The part, with its article.
        part: &'static str,
        /// Why there is none.
        why: &'static str,
        /// What to write instead.
        remedy: String,
    },
    /// Not one of a few words.
    #[error("there is no {}", quote(.word))]
    UnknownWord {
        /// As written.
        word: String,
        /// Every word there is.
        words: Vec<&'static str>,
    },
}

impl Error {
    /// Why it matters, where the error does not say so by itself.
    pub fn why(&self) -> Option<String> {
        match self {
            Self::Superfluous { why, .. } => Some((*why).to_owned()),
            Self::NoUnit { units, .. } | Self::UnknownUnit { units, .. } => {
                Some(format!("the units are {units}"))
            }
            _ => None,
        }
    }

    /// What to write instead.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Empty => Some("write a value between the quotes".to_owned()),
            Self::OutOfRange { range } => Some(format!("write a value from {range}")),
            Self::NoUnit { example, .. } => Some(write(example)),
            Self::UnknownUnit {
                meant: Some(meant), ..
            } => Some(write(meant)),
            Self::NotWhole { example }
            | Self::UnknownUnit {
                meant: None,
                example,
                ..
            } => Some(format!(
                "write a whole number and a unit, as in {}",
                quote(example)
            )),
            Self::Malformed { remedy, .. } | Self::Superfluous { remedy, .. } => {
                Some(remedy.clone())
            }
            Self::UnknownWord { word, words } => Some(suggest(word, words)),
        }
    }
}

/// One of a few words, each with its meaning.
///
/// # Errors
///
/// Another word; the error names all of them, or the nearest.
pub fn word<T: Clone>(text: &str, words: &[(&'static str, T)]) -> Result<T, Error> {
    let found = words.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, meaning)| meaning.clone())
        .ok_or_else(|| Error::UnknownWord {
            word: text.to_owned(),
            words: words.iter().map(|(word, _)| *word).collect(),
        })
}

/// A string with something in it.
///
/// # Errors
///
/// It is empty.
pub fn text(text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    Ok(text.to_owned())
}

fn suggest(word: &str, words: &[&'static str]) -> String {
    if let Some(meant) = nearest(word, words.iter().copied()) {
        return format!("did you mean {}?", quote(meant));
    }
    let all: Vec<_> = words.iter().map(|word| quote(word)).collect();
    format!("write {}", all.join(" or "))
}

/// `write "…"`, the remedy of most refusals. The value is a TOML basic string that can be copied into the file as it
/// stands, so it is never cut.
pub(super) fn write(value: impl fmt::Display) -> String {
    let mut remedy = String::from("write \"");
    for character in value.to_string().chars() {
        match character {
            '"' | '\\' => remedy.extend(['\\', character]),
            _ if is_unprintable(character) => {
                remedy.push_str(&format!("\\U{:08x}", u32::from(character)));
            }
            _ => remedy.push(character),
        }
    }
    remedy.push('"');
    remedy
}

/// `write "…"` with the value that was probably meant, if `parse` accepts that value; else `otherwise`. A remedy that
/// the next run refuses is worse than none.
pub(super) fn write_accepted<T>(
    meant: impl fmt::Display,
    parse: impl FnOnce(&str) -> Result<T, Error>,
    otherwise: impl Into<String>,
) -> String {
    let meant = meant.to_string();
    if meant.len() <= LONGEST_REMEDY && parse(&meant).is_ok() {
        write(meant)
    } else {
        otherwise.into()
    }
}

/// What is wrong with a value that is refused although it would be accepted without the blanks around it, or because it
/// holds the name of a variable. Otherwise the error stays as it is.
pub(super) fn explain<T>(
    text: &str,
    error: Error,
    parse: impl FnOnce(&str) -> Result<T, Error>,
) -> Error {
    let trimmed = text.trim();
    if trimmed != text && !trimmed.is_empty() && parse(trimmed).is_ok() {
        return Error::Superfluous {
            part: "a blank at an end",
            why: "blanks between the quotes are a part of the value",
            remedy: write(trimmed),
        };
    }
    if text.contains("${") || text.starts_with('$') {
        return Error::Superfluous {
            part: "a variable",
            why: "the value is taken as it stands; no variable is put in its place",
            remedy: "write the value itself, not the name of a variable".to_owned(),
        };
    }
    error
}

/// Longer than any URL or host name; what is longer was pasted by mistake.
const LONGEST_REMEDY: usize = 300;

#[cfg(test)]
mod tests;
