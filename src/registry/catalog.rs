//! The list of repositories (`/v2/_catalog`): parsing a page of the upstream, and writing a page of the proxy.
//!
//! `service` uses it for an identity that may see only some repositories. This module fetches nothing and knows no grants.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::errors::{MAX_PAGE_SIZE, RegistryError};
use crate::percent::encode_into;
use crate::text::parse_decimal;

/// The reason why there is no list. The messages are sent to the client, and name no repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// The upstream does not have the endpoint, or has turned it off.
    #[error("the registry behind this proxy has no list of repositories")]
    Missing,
    /// The response of the upstream is not a list, or is longer than [`MAX_BODY`].
    #[error("the registry behind this proxy sent no valid list of repositories")]
    Unreadable,
    /// No visible repository was found in the part of the list that was read.
    #[error("the list of repositories is too long to be searched in one request")]
    TooLong,
}

/// Parses the parameter `n`, the number of entries that the client wants.
pub fn page_size(written: Option<&str>) -> Result<usize, RegistryError> {
    let Some(written) = written.filter(|written| !written.is_empty()) else {
        return Ok(DEFAULT_PAGE_SIZE);
    };
    let size = parse_decimal(written).filter(|size| *size <= MAX_PAGE_SIZE);
    size.ok_or(RegistryError::PageSize)
}

/// Parses the names in a response body of the upstream. The names are not checked.
pub fn parse(body: &[u8]) -> Result<Vec<String>, CatalogError> {
    let mut parsed: Value = serde_json::from_slice(body).map_err(|_| CatalogError::Unreadable)?;
    match parsed.get_mut("repositories").map(Value::take) {
        Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(names)) => names
            .into_iter()
            .map(|name| match name {
                Value::String(name) => Ok(name),
                _ => Err(CatalogError::Unreadable),
            })
            .collect(),
        _ => Err(CatalogError::Unreadable),
    }
}

/// Whether a `Link` field of the upstream names a next page.
pub fn has_next_page(link: &str) -> bool {
    let mut parameters = link.split([';', ',']).map(str::trim);
    parameters.any(|parameter| matches!(parameter, "rel=\"next\"" | "rel=next"))
}

/// Whether `name` comes after `last` in the order of `distribution`: by bytes, with `/` before all others.
pub fn is_after(name: &str, last: &str) -> bool {
    sort_key(name).gt(sort_key(last))
}

fn sort_key(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| if byte == b'/' { 0 } else { byte })
}

/// The response body, `{"repositories":[…]}`.
pub fn body(names: &[String]) -> Vec<u8> {
    json!({ "repositories": names }).to_string().into_bytes()
}

/// The `Link` field that names the page after `last`.
pub fn link(size: usize, last: &str) -> String {
    let mut link = "</v2/_catalog?last=".to_owned();
    encode_into(&mut link, last);
    // Writing to a `String` cannot fail.
    let _ = write!(link, "&n={size}>; rel=\"next\"");
    link
}

/// The page size without a parameter `n`, as in `distribution`.
const DEFAULT_PAGE_SIZE: usize = 100;
/// The maximum length of a page of the upstream in bytes: four times the length of [`MAX_PAGE_SIZE`] names of 255 bytes.
pub const MAX_BODY: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn page_sizes_are_parsed() {
        for (written, size) in [
            (None, Some(100)),
            (Some(""), Some(100)),
            (Some("0"), Some(0)),
            (Some("1000"), Some(1000)),
            (Some("1001"), None),
            (Some("-1"), None),
            (Some("abc"), None),
            (Some("99999999999999999999999"), None),
        ] {
            assert_eq!(page_size(written).ok(), size, "{written:?}");
        }
    }

    #[test]
    fn a_body_is_a_list_of_names_or_unreadable() {
        let names = |text: &str| parse(text.as_bytes());
        assert_eq!(
            names(r#"{"repositories":["a","b/c"],"x":1}"#).unwrap(),
            ["a", "b/c"]
        );
        assert!(names(r#"{"repositories":null}"#).unwrap().is_empty());
        for text in [
            "",
            "[]",
            "{}",
            r#"{"repositories":{}}"#,
            r#"{"repositories":[1]}"#,
            r#"{"repositories":["a""#,
        ] {
            assert_eq!(names(text), Err(CatalogError::Unreadable), "{text}");
        }
    }

    #[test]
    fn a_slash_sorts_before_all_other_bytes() {
        for (name, last, after) in [
            ("a/b", "a", true),
            ("a-b", "a/b", true),
            ("a/b", "a-b", false),
            ("a", "a", false),
            ("b", "a/z", true),
        ] {
            assert_eq!(is_after(name, last), after, "{name} {last}");
        }
    }

    #[test]
    fn links_are_parsed_and_written() {
        assert_eq!(
            link(2, "pub/a&b"),
            "</v2/_catalog?last=pub%2Fa%26b&n=2>; rel=\"next\""
        );
        assert!(has_next_page(&link(1, "rel")));
        assert!(has_next_page("<x>; rel=next"));
        assert!(!has_next_page("<x>; rel=\"prev\""));
        assert!(!has_next_page("</v2/_catalog?last=next>"));
    }

    proptest! {
        #[test]
        fn a_written_body_parses_to_its_names(names in prop::collection::vec(".{0,20}", 0..20)) {
            prop_assert_eq!(parse(&body(&names)), Ok(names));
        }

        #[test]
        fn no_body_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
