//! bcrypt, with a strict reading of what stands in the file.
//!
//! For `hash`; the function itself is the `bcrypt` crate's.

use base64ct::{Base64Bcrypt, Encoding};
use subtle::ConstantTimeEq;

/// The cost, of any two digits, if all 60 characters are as an encoder writes them: nothing that the crate might
/// trip over gets there.
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

/// Whether the password has the stored digest; false for what is not bcrypt. Reads 72 bytes of the password, as
/// every implementation does.
pub(super) fn verify(stored: &[u8], cost: u8, password: &[u8]) -> bool {
    let Some((_, salt, digest)) = split(stored) else {
        return false;
    };
    let made = decode(salt)
        .and_then(|salt| bcrypt::hash_with_salt_bytes(password, cost.into(), salt).ok());
    // Only the digests: the letter after `$2` may differ.
    made.as_ref()
        .and_then(|made| split(made))
        .is_some_and(|(_, _, made)| made.ct_eq(digest).into())
}

/// A text of full work that no password matches: no digest ends in `9`.
pub(super) fn impossible(cost: u8) -> Vec<u8> {
    format!("$2y${cost:02}${:.<22}{:9<31}", "", "").into_bytes()
}

/// `$2y$10$`, the salt, the digest.
fn split(stored: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, rest) = stored.split_at_checked(HEAD)?;
    let (salt, digest) = rest.split_at_checked(SALT_DIGITS)?;
    Some((head, salt, digest))
}

/// Exactly as many digits as the bytes need, with zeros where the last one has bits to spare.
fn decode<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let length = Base64Bcrypt::decode(digits, &mut bytes).ok()?.len();
    (length == N).then_some(bytes)
}

/// About six seconds for one check, on a machine where cost 12 takes 186 ms.
pub const MAX_COST: u8 = 17;
/// What a damaged one is compared with, for the one who keeps the file.
pub(super) const SHAPE: &str =
    "bcrypt has 60 characters: $2y$, a cost of two digits, $, 53 letters, digits, dots or slashes";
const HEAD: usize = 7;
const SALT_DIGITS: usize = 22;
