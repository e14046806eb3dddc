//! The terminals of the OCI distribution specification 1.1: names, tags, digests, upload ids.
//!
//! `route` and `query` check what they took apart. Looks nothing up.
//!
//! A name here has no upper case and no port, though `distribution` admits both in the first component: `Secret/repo`
//! is another repository to it than `secret/repo`, and a name with a port makes it answer with a path of its disk.

use super::RegistryError;

/// Whether `text` is a repository name: components joined by `/`, at most 255 bytes in all.
pub fn is_name(text: &str) -> bool {
    check_name(text).is_ok()
}

pub(super) fn check_name(text: &str) -> Result<(), RegistryError> {
    if text.len() > MAX_NAME {
        return Err(RegistryError::Name("longer than 255 bytes"));
    }
    if !text.split('/').all(is_component) {
        return Err(RegistryError::Name(
            "components are lower case letters and digits, separated by one '.', '_' or '__' or by '-'",
        ));
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, read as: splitting at each letter leaves the separators.
fn is_component(text: &str) -> bool {
    let is_separator =
        |part: &str| matches!(part, "" | "." | "_" | "__") || part.bytes().all(|byte| byte == b'-');
    text.starts_with(is_lower) && text.ends_with(is_lower) && text.split(is_lower).all(is_separator)
}

fn is_lower(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit()
}

/// `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`
pub(super) fn is_tag(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !text.is_empty()
        && text.len() <= MAX_TAG
        && !text.starts_with(['.', '-'])
        && text.bytes().all(is_inner)
}

/// `algorithm:encoded`; the registered algorithms (OCI image specification, descriptor.md) with their exact length.
pub(super) fn is_digest(text: &str) -> bool {
    match text.split_once(':') {
        Some(("sha256", encoded)) => encoded.len() == 64 && encoded.bytes().all(is_lower_hex),
        Some(("sha512", encoded)) => encoded.len() == 128 && encoded.bytes().all(is_lower_hex),
        Some((algorithm, encoded)) => is_algorithm(algorithm) && is_encoded(encoded),
        None => false,
    }
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// `[a-z0-9]+([.+_-][a-z0-9]+)*`
fn is_algorithm(text: &str) -> bool {
    text.split(['.', '+', '_', '-'])
        .all(|part| !part.is_empty() && part.chars().all(is_lower))
}

/// `[A-Za-z0-9=_-]+`
fn is_encoded(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-');
    !text.is_empty() && text.bytes().all(is_inner)
}

/// `[A-Za-z0-9_.=-]+`; a name of the upstream's choosing, not always a UUID.
pub(super) fn is_upload_id(text: &str) -> bool {
    let is_inner =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'=' | b'-');
    !text.is_empty() && text.bytes().all(is_inner)
}

/// Bytes, slashes included: the path of a repository on disk must fit.
const MAX_NAME: usize = 255;
/// Bytes.
const MAX_TAG: usize = 128;
