//! MD5-crypt: `$1$` (FreeBSD 2, 1994) and `$apr1$` (Apache), which differ in the magic string only.
//!
//! This implementation follows `ngx_crypt_apr1` of nginx's `ngx_crypt.c`, because no maintained crate has the algorithm. Its
//! tests compare it with libc. A thousand rounds are too few to protect a stolen file; `hash` reports such hashes as weak.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::crypt64;

/// Whether a stored hash is one that an encoder could have written.
pub(super) fn is_well_formed(stored: &[u8], magic: &[u8]) -> bool {
    split(stored, magic).is_some_and(|(salt, digest)| {
        salt.len() <= MAX_SALT
            && salt.iter().all(u8::is_ascii_graphic)
            && digest.len() == DIGITS
            && crypt64::is_encoded(digest, UNUSED_BITS)
    })
}

/// Whether the password has the stored digest. Returns `false` for a hash that is not MD5-crypt.
pub(super) fn verify(stored: &[u8], magic: &[u8], password: &[u8]) -> bool {
    split(stored, magic)
        .is_some_and(|(salt, digest)| encode(hash(password, magic, salt)).ct_eq(digest).into())
}

/// The hash to store for a password.
pub(in crate::htpasswd) fn generate(password: &[u8], magic: &[u8], salt: &[u8]) -> Vec<u8> {
    let digest = encode(hash(password, magic, salt));
    [magic, salt, b"$", &digest].concat()
}

/// A well-formed hash that no password matches, because no digest ends in `z`. Verifying it takes the full time.
pub(super) fn unmatchable(magic: &[u8]) -> Vec<u8> {
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
        // The inner digest is repeated up to the length of the password. A chunk is never longer than the digest.
        let (part, _) = inner.split_at(chunk.len());
        md5.update(part);
    }
    let mut bits = password.len();
    while bits > 0 {
        // For a 1, the original was meant to add a byte of the digest, but added one that it had just overwritten with zero.
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

/// Encodes the digest: three bytes to four digits, low bits first, in the order of the original.
#[expect(clippy::expect_used, reason = "a default digit would be another hash")]
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
            crypt64::encode(last)
        })
    });
    std::array::from_fn(|_| digits.next().expect("six groups have 24 digits"))
}

/// Describes the format, for the message about a damaged hash.
pub(super) const FORMAT: &str =
    "MD5 crypt has a salt of at most 8 characters, $, 22 letters, digits, dots or slashes";
/// The number of rounds, which the format fixes.
const ROUNDS: u32 = 1000;
/// The maximum length of a salt. Some implementations cut a longer salt, and others reject it.
const MAX_SALT: usize = 8;
/// The number of digits of a digest: 128 bits, six at a time.
const DIGITS: usize = 22;
/// The bits of the last digit that a digest does not use: the last digit encodes two bits.
const UNUSED_BITS: u8 = 0b11_1100;
