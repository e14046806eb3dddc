//! Percent-encoding (RFC 3986 section 2.1): escapes are decoded once and strictly, and encoded in one way only.
//!
//! `target` and `registry` decode paths, `registry` and `auth` decode parameters, and `registry` encodes parameters. Which
//! bytes are allowed is their decision.

use std::fmt::Write as _;

/// The reason why a text cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// A `%` is not followed by two hexadecimal digits.
    Malformed,
    /// The caller does not allow an escape of this byte.
    Forbidden,
}

/// Decodes the escapes of `text` in one pass.
///
/// `is_allowed` is called for the bytes that come from an escape, and not for those that are written plainly: only an
/// escaped byte can be read differently by another parser, as `%2F` is in a path.
pub(crate) fn decode(text: &str, is_allowed: impl Fn(u8) -> bool) -> Result<Vec<u8>, DecodeError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let byte = decode_escape(bytes.next(), bytes.next()).ok_or(DecodeError::Malformed)?;
        if !is_allowed(byte) {
            return Err(DecodeError::Forbidden);
        }
        decoded.push(byte);
    }
    Ok(decoded)
}

fn decode_escape(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    Some(value(high?)? << 4 | value(low?)?)
}

/// Appends `text` to `target` with every byte escaped except the unreserved characters of RFC 3986 section 2.3 and the colon.
///
/// Digests contain a colon, and no parser of queries gives it a meaning. A space is written `%20`, because a `+` means a
/// space to some parsers and a plus sign to others.
pub(crate) fn encode_into(target: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            target.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(decode("a%2fb%2Fc", |_| true), Ok(b"a/b/c".to_vec()));
        assert_eq!(decode("%252f", |_| true), Ok(b"%2f".to_vec()));
        assert_eq!(decode("a+b", |_| true), Ok(b"a+b".to_vec()));
        for malformed in ["%", "%2", "%zz", "%+1", "%2\u{e9}"] {
            assert_eq!(
                decode(malformed, |_| true),
                Err(DecodeError::Malformed),
                "{malformed}"
            );
        }
    }

    #[test]
    fn only_escaped_bytes_can_be_forbidden() {
        let is_allowed = |byte| byte != b'/';
        assert_eq!(decode("a/b", is_allowed), Ok(b"a/b".to_vec()));
        assert_eq!(decode("a%2Fb", is_allowed), Err(DecodeError::Forbidden));
    }

    proptest::proptest! {
        #[test]
        fn encoded_text_decodes_to_itself(text: String) {
            let mut encoded = String::new();
            encode_into(&mut encoded, &text);
            proptest::prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()));
            proptest::prop_assert_eq!(decode(&encoded, |_| true), Ok(text.into_bytes()));
        }
    }
}
