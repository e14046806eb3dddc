//! The 64 digits of crypt(3): `./0-9A-Za-z`, in this order. bcrypt has an order of its own.
//!
//! For `md5_crypt`, `des_crypt` and the salts of `make`.

/// The digit for the low six bits, by arithmetic: no look-up tells a cache observer which.
pub(super) fn encode(bits: u8) -> u8 {
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

/// Whether these are digits, the last of them with a value that has no bit of `unused`: an encoder that has run
/// out of bits fills up with zeros, so a set bit there was written by no encoder.
pub(super) fn is_encoded(text: &[u8], unused: u8) -> bool {
    text.iter().all(|&digit| decode(digit).is_some())
        && text
            .last()
            .and_then(|&digit| decode(digit))
            .is_some_and(|value| value & unused == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_64_and_back() {
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
