//! Percent escapes, decoded once and strictly, encoded in one way only.
//!
//! `target` and `registry` decode paths, `registry` decodes and encodes parameters. Knows none of their grammars.

/// Why a text cannot be decoded.
pub(crate) enum DecodeError {
    /// `%` without two hex digits.
    Malformed,
    /// An escape of a byte that `admits` refused.
    Refused,
}

/// `text` with its escapes resolved in one pass. Bytes written plainly pass; those that come out of an escape are put
/// to `admits`, since only there can they be something the eye of another parser reads differently.
pub(crate) fn decode(text: &str, admits: impl Fn(u8) -> bool) -> Result<Vec<u8>, DecodeError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let byte = escaped(bytes.next(), bytes.next()).ok_or(DecodeError::Malformed)?;
        if !admits(byte) {
            return Err(DecodeError::Refused);
        }
        decoded.push(byte);
    }
    Ok(decoded)
}

fn escaped(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let hex = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    Some(hex(high?)? << 4 | hex(low?)?)
}

/// Appends `text` with everything escaped but the unreserved characters of RFC 3986 section 2.3 and the colon, which
/// digests have and no parser of queries minds. A space is `%20`, which both readings of `+` agree on.
pub(crate) fn encode_into(target: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            target.push(char::from(byte));
        } else {
            target.push_str(&format!("%{byte:02X}"));
        }
    }
}
