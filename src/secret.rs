//! A password that cannot be printed.
//!
//! `auth` creates passwords from request header fields and forms, `cli` from a prompt, and `htpasswd` hashes them.

use std::fmt;

use zeroize::Zeroizing;

/// The bytes of a password. They are overwritten when the value is dropped; `Debug` does not show them, and there is no
/// `Display`.
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Takes the bytes as they were sent, without normalisation: RFC 7617 leaves the encoding open.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for hashing.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_the_password() {
        assert_eq!(
            format!("{:?}", Password::new(b"s3cret".to_vec())),
            "Password(..)"
        );
    }
}
