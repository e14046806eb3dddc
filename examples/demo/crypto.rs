//! Digests and random bytes, from the crypto provider of TLS.
//!
//! The store, the password and the check use this module. SHA-256 is the only algorithm, as it is the default of every client.

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::hash::Context;

use crate::Failure;

/// An incremental SHA-256 computation.
pub(crate) struct Digester(Box<dyn Context>);

impl Digester {
    pub(crate) fn new() -> Self {
        // The public API of rustls reaches a hash only through a cipher suite.
        let suite = match aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 {
            SupportedCipherSuite::Tls12(suite) => &suite.common,
            SupportedCipherSuite::Tls13(suite) => &suite.common,
        };
        Self(suite.hash_provider.start())
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest as `sha256:` and 64 hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        format!("sha256:{}", hex(self.0.finish().as_ref()))
    }
}

/// The digest of `data` in the form of the distribution specification.
pub(crate) fn digest(data: &[u8]) -> String {
    let mut digester = Digester::new();
    digester.update(data);
    digester.finish()
}

/// Random bytes from the operating system.
pub(crate) fn random(length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; length];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| "the system has no random bytes")?;
    Ok(bytes)
}

/// Two lower-case hexadecimal digits per byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
