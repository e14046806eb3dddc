//! Small conversions between text and numbers that several parsers share.

use std::str::FromStr;

/// Parses a number that consists of ASCII digits only.
///
/// `str::parse` also accepts a leading `+`, which no grammar in HTTP, TOML values or password files allows.
/// Returns `None` for an empty text, another character, or a number that does not fit into `T`.
pub(crate) fn parse_decimal<T: FromStr>(text: &str) -> Option<T> {
    if !is_decimal(text) {
        return None;
    }
    text.parse().ok()
}

/// Whether the text consists of one or more ASCII digits.
fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_a_decimal_number() {
        assert_eq!(parse_decimal::<u16>("0443"), Some(443));
        for other in ["", "+1", "-1", " 1", "1 ", "0x1", "65536", "１"] {
            assert_eq!(parse_decimal::<u16>(other), None, "{other:?}");
        }
    }
}
