//! The list of repositories: a page of the upstream's read, and one of the gate's own written.
//!
//! `service` calls it where an identity may see some repositories only. Fetches nothing, and knows no rights.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::RegistryError;
use crate::percent::encode_into;

/// Why there is no list. The words are for the client, and name no repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The upstream does not know the endpoint, or has it turned off.
    #[error("the registry behind this gate has no list of repositories")]
    Missing,
    /// Something else than a list, or more of it than [`MAX_BODY`].
    #[error("the registry behind this gate gave no readable list of repositories")]
    Unreadable,
    /// Nothing to be shown was found in the part that could be looked through.
    #[error("the list of repositories is too long to be looked through at once")]
    TooLong,
}

/// How many entries the client wants.
pub fn page_size(written: Option<&str>) -> Result<usize, RegistryError> {
    let Some(written) = written.filter(|written| !written.is_empty()) else {
        return Ok(DEFAULT_SIZE);
    };
    let size = written.parse().ok().filter(|size| *size <= MAX_SIZE);
    size.ok_or(RegistryError::PageSize)
}

/// The names in the upstream's body, as they stand there.
pub fn parse(body: &[u8]) -> Result<Vec<String>, Fault> {
    let mut parsed: Value = serde_json::from_slice(body).map_err(|_| Fault::Unreadable)?;
    match parsed.get_mut("repositories").map(Value::take) {
        Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(names)) => names
            .into_iter()
            .map(|name| match name {
                Value::String(name) => Ok(name),
                _ => Err(Fault::Unreadable),
            })
            .collect(),
        _ => Err(Fault::Unreadable),
    }
}

/// Whether the upstream's `Link` says that its list goes on.
pub fn goes_on(link: &str) -> bool {
    let mut parameters = link.split([';', ',']).map(str::trim);
    parameters.any(|parameter| matches!(parameter, "rel=\"next\"" | "rel=next"))
}

/// Whether a name comes behind a place, in the order of `distribution`: that of bytes, with `/` before all others.
pub fn is_after(name: &str, place: &str) -> bool {
    order(name).gt(order(place))
}

fn order(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| if byte == b'/' { 0 } else { byte })
}

/// `{"repositories":[…]}`
pub fn body(names: &[String]) -> Vec<u8> {
    json!({ "repositories": names }).to_string().into_bytes()
}

/// The `Link` to what follows `last`, which the client has seen.
pub fn link(size: usize, last: &str) -> String {
    let mut link = "</v2/_catalog?last=".to_owned();
    encode_into(&mut link, last);
    // Writing to a string cannot fail.
    let _ = write!(link, "&n={size}>; rel=\"next\"");
    link
}

/// As `distribution` has it.
const DEFAULT_SIZE: usize = 100;
/// Entries of a page at most; `catalog.maxentries` of `distribution` by default.
pub const MAX_SIZE: usize = 1000;
/// Bytes of an upstream's page: [`MAX_SIZE`] names of 255 bytes, four times.
pub const MAX_BODY: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn page_sizes() {
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
            assert_eq!(names(text), Err(Fault::Unreadable), "{text}");
        }
    }

    #[test]
    fn a_slash_comes_before_all_other_letters() {
        for (name, place, after) in [
            ("a/b", "a", true),
            ("a-b", "a/b", true),
            ("a/b", "a-b", false),
            ("a", "a", false),
            ("b", "a/z", true),
        ] {
            assert_eq!(is_after(name, place), after, "{name} {place}");
        }
    }

    #[test]
    fn the_link_is_read_and_written() {
        assert_eq!(
            link(2, "pub/a&b"),
            "</v2/_catalog?last=pub%2Fa%26b&n=2>; rel=\"next\""
        );
        assert!(goes_on(&link(1, "rel")));
        assert!(goes_on("<x>; rel=next"));
        assert!(!goes_on("<x>; rel=\"prev\""));
        assert!(!goes_on("</v2/_catalog?last=next>"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(names in prop::collection::vec(".{0,20}", 0..20)) {
            prop_assert_eq!(parse(&body(&names)), Ok(names));
        }

        #[test]
        fn no_bytes_make_it_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
