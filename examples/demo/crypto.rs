//! Digests and random bytes, from the provider that TLS uses anyway.
//!
//! The store, the password and the check use them. Knows sha256 only, as every client does by default.

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::hash::Context;

use crate::Failure;

/// A SHA-256 under way.
pub(crate) struct Digester(Box<dyn Context>);

impl Digester {
    pub(crate) fn new() -> Self {
        // A suite is the only public way to its hash.
        let suite = match aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 {
            SupportedCipherSuite::Tls12(suite) => &suite.common,
            SupportedCipherSuite::Tls13(suite) => &suite.common,
        };
        Self(suite.hash_provider.start())
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// `sha256:` and 64 hex digits.
    pub(crate) fn finish(self) -> String {
        format!("sha256:{}", hex(self.0.finish().as_ref()))
    }
}

/// The digest of `data`, as registries write it.
pub(crate) fn digest(data: &[u8]) -> String {
    let mut digester = Digester::new();
    digester.update(data);
    digester.finish()
}

/// Bytes that nobody can guess.
pub(crate) fn random(length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; length];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| "the system has no random bytes")?;
    Ok(bytes)
}

/// Two lower case digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
