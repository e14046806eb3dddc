//! The id of a request, which is the same in the access log, in the log of the upstream, and in `X-Request-Id` of the
//! response.
//!
//! [`RequestRecord`](super::RequestRecord) creates it. An id that the client sends is never used, since it could be
//! the id of another request.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

/// The id of one request: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// Creates an id that is unique in this process and cannot be guessed from another id: a keyed hash of a counter.
    #[expect(
        clippy::new_without_default,
        reason = "a default value suggests that two ids can be equal"
    )]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let number = KEY.hash_one(NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::array::from_fn(|index| {
            hex_digit(number >> (60 - 4 * index))
        }))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id as the value of a response header field.
    ///
    /// The value is marked such that HPACK sends it as a literal that is never indexed (RFC 7541 section 6.2.3). No other response
    /// has the same value, so an entry in the dynamic table would be of no use, would evict the fields that every response has,
    /// and would be compared with each later id.
    pub fn header_value(&self) -> HeaderValue {
        let mut value =
            HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| HeaderValue::from_static("-"));
        value.set_sensitive(true);
        value
    }
}

/// The lowest four bits of `number` as a hexadecimal digit.
fn hex_digit(number: u64) -> u8 {
    let low = (number & 15) as u8;
    if low < 10 {
        b'0' + low
    } else {
        b'a' + low - 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_sixteen_hexadecimal_digits_and_is_unique() {
        let ids = [RequestId::new(), RequestId::new()];
        for id in &ids {
            let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
            assert!(id.as_str().len() == 16 && id.as_str().bytes().all(is_digit));
            assert_eq!(id.header_value(), id.as_str());
            assert!(id.header_value().is_sensitive(), "HPACK indexes the value");
        }
        assert_ne!(ids[0].as_str(), ids[1].as_str());
    }

    #[test]
    fn hex_digit_formats_the_lowest_four_bits() {
        let text: Vec<u8> = (0..16).map(hex_digit).collect();
        assert_eq!(text, b"0123456789abcdef");
    }
}
