//! bcrypt: strict parsing of the stored hash. The `bcrypt` crate computes the digest.

use base64ct::{Base64Bcrypt, Encoding};
use subtle::ConstantTimeEq;

/// The cost of a stored hash, if all 60 characters are as an encoder writes them. The cost may be any two digits. So the
/// `bcrypt` crate never sees a malformed hash.
pub(super) fn parse_cost(stored: &[u8]) -> Option<u8> {
    let (head, salt, digest) = split(stored)?;
    decode::<16>(salt)?;
    decode::<23>(digest)?;
    match head {
        [
            b'$',
            b'2',
            _,
            b'$',
            tens @ b'0'..=b'9',
            units @ b'0'..=b'9',
            b'$',
        ] => Some((tens - b'0') * 10 + (units - b'0')),
        _ => None,
    }
}

/// Whether the password has the stored digest. Returns `false` for a hash that is not bcrypt. Only the first 72 bytes of
/// the password count, as in every implementation.
pub(super) fn verify(stored: &[u8], cost: u8, password: &[u8]) -> bool {
    let Some((_, salt, digest)) = split(stored) else {
        return false;
    };
    let computed = decode(salt)
        .and_then(|salt| bcrypt::hash_with_salt_bytes(password, cost.into(), salt).ok());
    // Only the digests are compared, because the letter after `$2` may differ.
    computed
        .as_ref()
        .and_then(|computed| split(computed))
        .is_some_and(|(_, _, computed)| computed.ct_eq(digest).into())
}

/// A well-formed hash that no password matches, because no digest ends in `9`. Verifying it takes the full time.
pub(super) fn unmatchable(cost: u8) -> Vec<u8> {
    format!("$2y${cost:02}${:.<22}{:9<31}", "", "").into_bytes()
}

/// Splits a stored hash into a head such as `$2y$10$`, the salt and the digest.
fn split(stored: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, rest) = stored.split_at_checked(HEAD)?;
    let (salt, digest) = rest.split_at_checked(SALT_DIGITS)?;
    Some((head, salt, digest))
}

/// Decodes base 64 of exactly `N` bytes. The unused bits of the last digit must be zero.
fn decode<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let length = Base64Bcrypt::decode(digits, &mut bytes).ok()?.len();
    (length == N).then_some(bytes)
}

/// The maximum cost. With it, one verification takes about six seconds on a machine where cost 12 takes 186 ms.
pub const MAX_COST: u8 = 17;
/// Describes the format, for the message about a damaged hash.
pub(super) const FORMAT: &str =
    "bcrypt has 60 characters: $2y$, a cost of two digits, $, 53 letters, digits, dots or slashes";
/// The length of a head such as `$2y$10$`.
const HEAD: usize = 7;
const SALT_DIGITS: usize = 22;
