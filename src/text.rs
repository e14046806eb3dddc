//! Conversions that several parsers and writers share: decimal numbers, hexadecimal digits, texts of a bounded length, and header
//! fields that are lists.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::str::FromStr;

use http::{HeaderMap, HeaderName};

/// Parses a number that consists of ASCII digits only.
///
/// `str::parse` also accepts a leading `+`, which no grammar in HTTP, TOML values or password files allows.
/// Returns `None` for an empty text, another character, or a number that does not fit into `T`.
pub(crate) fn parse_decimal<T: FromStr>(text: &str) -> Option<T> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Parses a number as [`parse_decimal`] does, but accepts only its shortest form, without a leading zero.
///
/// Some parsers read a number with a leading zero as octal, so a text such as `010` has two meanings.
pub(crate) fn parse_canonical_decimal<T: FromStr>(text: &str) -> Option<T> {
    if text.len() > 1 && text.starts_with('0') {
        return None;
    }
    parse_decimal(text)
}

/// Writes bytes as lower-case hexadecimal digits, two for each byte.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The text, or as much of it as fits into `max` bytes and an ellipsis.
pub(crate) fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    match text.split_at_checked(text.floor_char_boundary(max)) {
        Some((kept, rest)) if !rest.is_empty() => Cow::Owned(format!("{kept}…")),
        _ => Cow::Borrowed(text),
    }
}

/// The elements of a field whose value is a list of tokens (RFC 9110 section 5.6.1), from all fields of this name in their order.
pub(crate) fn list_elements<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    let elements = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    elements.map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_decimal_accepts_digits_only() {
        assert_eq!(parse_decimal::<u16>("0443"), Some(443));
        assert_eq!(parse_decimal::<u16>("65535"), Some(65535));
        for other in ["", "+1", "-1", " 1", "1 ", "0x1", "65536", "１"] {
            assert_eq!(parse_decimal::<u16>(other), None, "{other:?}");
        }
    }

    #[test]
    fn parse_canonical_decimal_rejects_leading_zeros() {
        assert_eq!(parse_canonical_decimal::<u8>("0"), Some(0));
        assert_eq!(parse_canonical_decimal::<u8>("10"), Some(10));
        for other in ["", "00", "01", "+1", "256"] {
            assert_eq!(parse_canonical_decimal::<u8>(other), None, "{other:?}");
        }
    }

    #[test]
    fn to_hex_writes_two_lower_case_digits_per_byte() {
        assert_eq!(to_hex(&[]), "");
        assert_eq!(to_hex(&[0, 9, 0xa0, 0xff]), "0009a0ff");
    }

    #[test]
    fn a_text_is_shortened_between_two_characters() {
        for (text, max, short) in [
            ("", 0, ""),
            ("abc", 3, "abc"),
            ("abcd", 3, "abc…"),
            ("aüb", 2, "a…"),
            ("aüb", 3, "aü…"),
            ("ü", 1, "…"),
        ] {
            assert_eq!(shorten(text, max), short, "{text} {max}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_number_is_parsed_from_its_decimal_form(number: u64) {
            let text = number.to_string();
            proptest::prop_assert_eq!(parse_decimal(&text), Some(number));
            proptest::prop_assert_eq!(parse_canonical_decimal(&text), Some(number));
        }
    }
}
