//! `{SHA}` (`htpasswd -s`) and `{SSHA}` (nginx, LDAP): one SHA-1, in base64.
//!
//! For `hash`. A single SHA-1 is far too cheap against a stolen file; what to say about that is not decided here.

use base64ct::{Base64, Encoding};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

/// Whether a stored text is `prefix` and the base64 of a digest, with nothing behind it unless it is `salted`.
pub(super) fn is_well_formed(stored: &[u8], prefix: &[u8], salted: bool) -> bool {
    decode(stored, prefix).is_some_and(|bytes| match bytes.len() {
        DIGEST => true,
        length => salted && length > DIGEST,
    })
}

/// Whether the password, and the salt where there is one, has the stored digest.
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

/// A text of full work that no password matches: a digest that is a byte short.
pub(super) fn impossible(prefix: &[u8]) -> Vec<u8> {
    let text = Base64::encode_string(&[0; DIGEST - 1]);
    [prefix, text.as_bytes()].concat()
}

fn decode(stored: &[u8], prefix: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(stored.strip_prefix(prefix)?).ok()?;
    Base64::decode_vec(text).ok()
}

/// What a damaged one is compared with, for the one who keeps the file.
pub(super) const SHAPE: &str =
    "SHA-1 has the base64 of 20 bytes, and of a salt behind them in {SSHA}";
/// Bytes of a SHA-1.
const DIGEST: usize = 20;
