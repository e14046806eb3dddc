//! MD5-crypt: `$1$` (FreeBSD 2, 1994) and `$apr1$` (Apache), the same but for the magic.
//!
//! For `hash` and `make`. Follows `ngx_crypt_apr1` of nginx's `ngx_crypt.c`. A thousand rounds are too few against a stolen
//! file; what to say about that is not decided here.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::alphabet;

/// Whether a stored text is one that an encoder could have written.
pub(super) fn is_well_formed(stored: &[u8], magic: &[u8]) -> bool {
    split(stored, magic).is_some_and(|(salt, digest)| {
        salt.len() <= MAX_SALT
            && salt.iter().all(u8::is_ascii_graphic)
            && digest.len() == DIGITS
            && alphabet::is_encoded(digest, UNUSED_BITS)
    })
}

/// Whether the password has the stored digest; false for what is not MD5-crypt.
pub(super) fn verify(stored: &[u8], magic: &[u8], password: &[u8]) -> bool {
    split(stored, magic)
        .is_some_and(|(salt, digest)| encode(hash(password, magic, salt)).ct_eq(digest).into())
}

/// The text to store for a password.
pub(super) fn make(password: &[u8], magic: &[u8], salt: &[u8]) -> Vec<u8> {
    let digest = encode(hash(password, magic, salt));
    [magic, salt, b"$", &digest].concat()
}

/// A text of full work that no password matches: no digest ends in `z`.
pub(super) fn impossible(magic: &[u8]) -> Vec<u8> {
    [magic, b"........$", &[b'z'; DIGITS]].concat()
}

fn split<'a>(stored: &'a [u8], magic: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut parts = stored.strip_prefix(magic)?.splitn(2, |&byte| byte == b'$');
    Some((parts.next()?, parts.next()?))
}

fn hash(password: &[u8], magic: &[u8], salt: &[u8]) -> [u8; 16] {
    let mut digest = start(password, magic, salt);
    for round in 0..ROUNDS {
        let mut md5 = Md5::new();
        let (first, last) = match round % 2 {
            1 => (password, digest.as_slice()),
            _ => (digest.as_slice(), password),
        };
        md5.update(first);
        if round % 3 != 0 {
            md5.update(salt);
        }
        if round % 7 != 0 {
            md5.update(password);
        }
        md5.update(last);
        digest = md5.finalize().into();
    }
    digest
}

fn start(password: &[u8], magic: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner: [u8; 16] = concat([password, salt, password]);
    let mut md5 = Md5::new();
    md5.update(password);
    md5.update(magic);
    md5.update(salt);
    for chunk in password.chunks(16) {
        // As many bytes of the inner digest as the password has, over and over.
        // A chunk is never longer than the digest.
        let (part, _) = inner.split_at(chunk.len());
        md5.update(part);
    }
    let mut bits = password.len();
    while bits > 0 {
        // The original meant to take a byte of the digest for a 1, and took one that it had just zeroed.
        md5.update(match (bits & 1, password.first()) {
            (0, Some(first)) => [*first],
            _ => [0],
        });
        bits >>= 1;
    }
    md5.finalize().into()
}

fn concat(parts: [&[u8]; 3]) -> [u8; 16] {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().into()
}

/// Three bytes to four digits, low bits first, in an order of the original's own.
#[expect(
    clippy::expect_used,
    reason = "a digit in place of a missing one would be another hash"
)]
fn encode(digest: [u8; 16]) -> [u8; DIGITS] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = digest;
    let groups = [
        [a, g, m],
        [b, h, n],
        [c, i, o],
        [d, j, p],
        [e, k, f],
        [0, 0, l],
    ];
    let mut digits = groups.into_iter().flat_map(|[high, middle, low]| {
        let bits = u32::from_be_bytes([0, high, middle, low]);
        [0, 6, 12, 18].map(|shift| {
            let [.., last] = (bits >> shift).to_be_bytes();
            alphabet::encode(last)
        })
    });
    std::array::from_fn(|_| digits.next().expect("six groups have 24 digits"))
}

/// What a damaged one is compared with, for the one who keeps the file.
pub(super) const SHAPE: &str =
    "MD5 crypt has a salt of at most 8 characters, $, 22 letters, digits, dots or slashes";
const ROUNDS: u32 = 1000;
/// Longer ones are cut by some implementations and refused by others.
const MAX_SALT: usize = 8;
/// 128 bits, six at a time.
const DIGITS: usize = 22;
/// The last digit has the two highest of its eight bits, and nothing above.
const UNUSED_BITS: u8 = 0b11_1100;
