//! A password that cannot print.
//!
//! Made by `auth` from a header, read by `htpasswd`. It says nothing
//! about who may log in.

use zeroize::Zeroizing;

/// A password's bytes, wiped when dropped, and silent in `Debug`; it has no `Display`.
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes the bytes as they came: no normalisation, any encoding (RFC 7617 leaves it open).
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for a hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", Password::new(b"s3cret".to_vec())),
            "Password(..)"
        );
    }
}
