//! The arithmetic of TLS: aws-lc-rs, and for AES-GCM the one of two libraries that this processor is quicker with.
//!
//! Used by `tls` and `upstream`. aws-lc has AES-GCM for AVX-512 and for plain AES-NI, ring for the step between: VAES on
//! registers of 256 bits, which is what AMD's Zen 3 and Intel's client processors have. There a record of 16 KiB takes
//! 2.1 µs with ring and 4.0 with aws-lc (measured), an eighth of a whole download. Hashes, key exchange, signatures
//! and tickets are aws-lc's everywhere.

use std::sync::LazyLock;

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

/// The provider for both ends of the gate. Suites and groups are those of aws-lc-rs, in its order.
pub(crate) fn provider() -> CryptoProvider {
    let provider = aws_lc_rs::default_provider();
    CryptoProvider {
        cipher_suites: SUITES.clone(),
        ..provider
    }
}

/// Made once: rustls wants suites that last as long as the process.
static SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
    let suites = aws_lc_rs::default_provider().cipher_suites;
    if is_between() {
        suites.into_iter().map(with_rings_cipher).collect()
    } else {
        suites
    }
});

/// True where ring's AES-GCM is the quicker one: VAES, and no AVX-512 for aws-lc.
#[cfg(target_arch = "x86_64")]
fn is_between() -> bool {
    let has_vaes = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq");
    // What aws-lc asks for (`CRYPTO_is_AVX512_capable`).
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    has_vaes && !has_avx512
}

#[cfg(not(target_arch = "x86_64"))]
fn is_between() -> bool {
    false
}

/// The same suite, sealed and opened by ring. ChaCha20 takes the same time with both.
fn with_rings_cipher(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let rings = ring::ALL_CIPHER_SUITES
        .iter()
        .find(|rings| rings.suite() == suite.suite());
    match (suite, rings) {
        (SupportedCipherSuite::Tls13(suite), Some(SupportedCipherSuite::Tls13(rings))) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&suite.common),
                aead_alg: rings.aead_alg,
                ..*suite
            })))
        }
        (SupportedCipherSuite::Tls12(suite), Some(SupportedCipherSuite::Tls12(rings))) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&suite.common),
                aead_alg: rings.aead_alg,
                ..*suite
            })))
        }
        _ => suite,
    }
}

fn common(of: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: of.suite,
        hash_provider: of.hash_provider,
        confidentiality_limit: of.confidentiality_limit,
    }
}

#[cfg(test)]
mod tests;
