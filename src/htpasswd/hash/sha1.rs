//! `{SHA}` (`htpasswd -s`) and `{SSHA}` (nginx, LDAP): one SHA-1 in base64, without or with a salt.
//!
//! A single SHA-1 is too cheap to protect a stolen file. `hash` reports such hashes as weak.

use base64ct::{Base64, Encoding};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

/// Whether a stored hash is `prefix` and the base64 of a digest, followed by a salt only if it is `salted`.
pub(super) fn is_well_formed(stored: &[u8], prefix: &[u8], salted: bool) -> bool {
    decode(stored, prefix).is_some_and(|bytes| match bytes.len() {
        DIGEST => true,
        length => salted && length > DIGEST,
    })
}

/// Whether the password, with the salt if there is one, has the stored digest.
pub(super) fn verify(stored: &[u8], prefix: &[u8], password: &[u8]) -> bool {
    let Some(bytes) = decode(stored, prefix) else {
        return false;
    };
    let Some((digest, salt)) = bytes.split_at_checked(DIGEST) else {
        return false;
    };
    let mut sha = Sha1::new();
    sha.update(password);
    sha.update(salt);
    sha.finalize().as_slice().ct_eq(digest).into()
}

/// A hash that no password matches, because its digest is one byte too short.
pub(super) fn unmatchable(prefix: &[u8]) -> Vec<u8> {
    let text = Base64::encode_string(&[0; DIGEST - 1]);
    [prefix, text.as_bytes()].concat()
}

fn decode(stored: &[u8], prefix: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(stored.strip_prefix(prefix)?).ok()?;
    Base64::decode_vec(text).ok()
}

/// Describes the format, for the message about a damaged hash.
pub(super) const FORMAT: &str = "SHA-1 has the base64 of 20 bytes, which a salt follows in {SSHA}";
/// The length of a SHA-1 digest in bytes.
const DIGEST: usize = 20;
