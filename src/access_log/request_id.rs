//! The id of a request, the same in the gate's log, in the upstream's and in the answer.
//!
//! Made by `service`; a client's own id is never taken over, since it could repeat another's.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

/// Names one request in the logs of the gate and of the upstream: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// Unique in this process, and not to be guessed from another one.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let number = KEY.hash_one(NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::array::from_fn(|place| {
            digit(number >> (60 - 4 * place))
        }))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// As it is sent.
    pub fn value(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// The lowest four bits.
fn digit(number: u64) -> u8 {
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
    fn an_id_is_sixteen_hexadecimal_digits_and_no_two_are_the_same() {
        let ids = [RequestId::new(), RequestId::new()];
        for id in &ids {
            let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
            assert!(id.as_str().len() == 16 && id.as_str().bytes().all(is_digit));
            assert_eq!(id.value(), id.as_str());
        }
        assert_ne!(ids[0].as_str(), ids[1].as_str());
    }

    #[test]
    fn digits_are_those_of_the_number() {
        let text: Vec<u8> = (0..16).map(digit).collect();
        assert_eq!(text, b"0123456789abcdef");
    }
}
