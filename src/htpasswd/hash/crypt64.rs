//! The base 64 encoding of crypt(3), with the digits `./0-9A-Za-z` in this order. bcrypt uses another order.
//!
//! `des_crypt`, `md5_crypt` and `sha_crypt` encode digests with it, and `generate` encodes salts.

/// The digit for the low six bits. It is computed without a table, so that the CPU cache reveals nothing about the bits.
pub(in crate::htpasswd) fn encode(bits: u8) -> u8 {
    match bits & 63 {
        low @ 0..12 => b'.' + low,
        middle @ 12..38 => b'A' + (middle - 12),
        high => b'a' + (high - 38),
    }
}

/// The value of a digit, below 64.
pub(super) fn decode(digit: u8) -> Option<u8> {
    match digit {
        b'.'..=b'9' => Some(digit - b'.'),
        b'A'..=b'Z' => Some(digit - b'A' + 12),
        b'a'..=b'z' => Some(digit - b'a' + 38),
        _ => None,
    }
}

/// Whether all bytes are digits, and the last digit has no bit of `unused_bits` set. An encoder fills the bits of the last
/// digit that it does not need with zeros, so no encoder has written a text with such a bit.
pub(super) fn is_encoded(text: &[u8], unused_bits: u8) -> bool {
    text.iter().all(|&digit| decode(digit).is_some())
        && text
            .last()
            .and_then(|&digit| decode(digit))
            .is_some_and(|value| value & unused_bits == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_64_digits_which_decode_to_their_values() {
        let digits: Vec<u8> = (0..64).map(encode).collect();
        assert_eq!(
            digits,
            b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        );
        for byte in 0..=255 {
            let value = digits.iter().position(|&digit| digit == byte);
            assert_eq!(decode(byte).map(usize::from), value);
        }
    }
}
