//! The cryptography behind rustls: aws-lc-rs, with the AES-GCM of ring on processors where ring is faster.
//!
//! Used by `tls` for clients and by `upstream` for upstreams. aws-lc has AES-GCM implementations for AVX-512 and for plain
//! AES-NI. ring has one for the processors in between, which have VAES on 256-bit registers but no AVX-512: AMD's Zen 3 and
//! Intel's client processors. There, a record of 16 KiB takes 2.1 µs with ring and 4.0 µs with aws-lc (measured), which is an
//! eighth of the CPU time of a whole download. Hashes, key exchange, signatures and tickets come from aws-lc everywhere.

use std::sync::LazyLock;

use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::{
    CipherSuite, CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

/// The provider for both sides of the proxy. It has the cipher suites and the key exchange groups of aws-lc-rs, in its order.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: CIPHER_SUITES.clone(),
        ..aws_lc_rs::default_provider()
    }
}

/// The provider for connections of clients, which prefers AES-128-GCM: a key of 128 bits is strong enough, and AES-128 moves
/// the most bytes per second.
///
/// The key exchange groups keep their order (X25519MLKEM768, X25519, P-256, P-384), because rustls takes the first group of
/// the *client's* list that the server supports, whatever the server's order is.
pub(crate) fn server_provider() -> CryptoProvider {
    let mut provider = provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes_128(suite));
    provider
}

pub(super) fn is_aes_128(suite: &SupportedCipherSuite) -> bool {
    matches!(
        suite.suite(),
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// Created once per process, because rustls requires suites with a static lifetime.
static CIPHER_SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
    let suites = aws_lc_rs::default_provider().cipher_suites;
    if is_ring_faster() {
        suites.into_iter().map(with_ring_aead).collect()
    } else {
        suites
    }
});

/// Whether the AES-GCM of ring is faster on this processor: it has VAES, but lacks the AVX-512 that aws-lc needs.
#[cfg(target_arch = "x86_64")]
fn is_ring_faster() -> bool {
    let has_vaes = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq");
    // The same features as in `CRYPTO_is_AVX512_capable` of aws-lc.
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    has_vaes && !has_avx512
}

#[cfg(not(target_arch = "x86_64"))]
fn is_ring_faster() -> bool {
    false
}

/// Returns the suite with the AEAD of ring in place of its own. ChaCha20-Poly1305 is replaced too; it takes the same time in
/// both libraries.
fn with_ring_aead(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let ring_suite = ring::ALL_CIPHER_SUITES
        .iter()
        .find(|ring_suite| ring_suite.suite() == suite.suite());
    match (suite, ring_suite) {
        (SupportedCipherSuite::Tls13(suite), Some(SupportedCipherSuite::Tls13(ring_suite))) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: copy_common(&suite.common),
                aead_alg: ring_suite.aead_alg,
                ..*suite
            })))
        }
        (SupportedCipherSuite::Tls12(suite), Some(SupportedCipherSuite::Tls12(ring_suite))) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: copy_common(&suite.common),
                aead_alg: ring_suite.aead_alg,
                ..*suite
            })))
        }
        _ => suite,
    }
}

/// `CipherSuiteCommon` does not implement `Clone`.
fn copy_common(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: common.confidentiality_limit,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::Arc;

    use rustls::{
        ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig,
        ServerConnection, SideData,
    };
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    use super::*;

    #[test]
    fn suites_and_groups_are_those_of_aws_lc_in_its_order() {
        let (mixed, aws_lc) = (provider(), aws_lc_rs::default_provider());
        let suites = |of: &CryptoProvider| -> Vec<_> {
            of.cipher_suites.iter().map(|suite| suite.suite()).collect()
        };
        let groups = |of: &CryptoProvider| -> Vec<_> {
            of.kx_groups.iter().map(|group| group.name()).collect()
        };
        assert_eq!(suites(&mixed), suites(&aws_lc));
        assert_eq!(groups(&mixed), groups(&aws_lc));
    }

    #[test]
    fn each_library_decrypts_what_the_other_encrypts() {
        // The certificate of the test has an elliptic-curve key; the AEADs are the same with RSA.
        let rsa_suites = [
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ];
        let suites = aws_lc_rs::ALL_CIPHER_SUITES.iter();
        let mut tested = 0;
        for suite in suites.filter(|suite| !rsa_suites.contains(&suite.suite())) {
            let with_ring = with_ring_aead(*suite);
            assert_eq!(with_ring.suite(), suite.suite());
            exchange(*suite, with_ring);
            exchange(with_ring, *suite);
            tested += 1;
        }
        assert_eq!(tested, 6);
    }

    /// Sends several records from a client to a server and back.
    fn exchange(server: SupportedCipherSuite, client: SupportedCipherSuite) {
        let names = vec!["registry.test".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = CertificateDer::from(made.cert);
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let server = ServerConfig::builder_with_provider(provider_with_only(server))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider_with_only(client))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("registry.test").unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let sent: Vec<u8> = (0..50_000_u32)
            .flat_map(u32::to_be_bytes)
            .take(50_000)
            .collect();
        client.writer().write_all(&sent).unwrap();
        server.writer().write_all(&sent).unwrap();
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        while at_server.len() < sent.len() || at_client.len() < sent.len() {
            transfer(&mut client, &mut server, &mut at_server);
            transfer(&mut server, &mut client, &mut at_client);
        }
        assert!(at_server == sent && at_client == sent);
    }

    /// Passes all pending records of one side to the other, and appends the plaintext to `received`.
    fn transfer<A, B>(
        from: &mut ConnectionCommon<A>,
        to: &mut ConnectionCommon<B>,
        received: &mut Vec<u8>,
    ) where
        A: SideData,
        B: SideData,
    {
        let mut records = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut records).unwrap();
        }
        let mut records = records.as_slice();
        while !records.is_empty() {
            to.read_tls(&mut records).unwrap();
            to.process_new_packets().unwrap();
            let mut plaintext = vec![0; 20_000];
            while let Ok(count @ 1..) = to.reader().read(&mut plaintext) {
                received.extend_from_slice(&plaintext[..count]);
            }
        }
    }

    fn provider_with_only(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider {
            cipher_suites: vec![suite],
            ..aws_lc_rs::default_provider()
        })
    }
}
