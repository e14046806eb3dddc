//! Both libraries seal alike, and nothing but the cipher is exchanged.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig,
    ServerConnection, SideData,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::*;

#[test]
fn suites_and_groups_are_those_of_aws_lc_in_its_order() {
    let (ours, theirs) = (provider(), aws_lc_rs::default_provider());
    let suites = |of: &CryptoProvider| -> Vec<_> {
        of.cipher_suites.iter().map(|suite| suite.suite()).collect()
    };
    let groups =
        |of: &CryptoProvider| -> Vec<_> { of.kx_groups.iter().map(|it| it.name()).collect() };
    assert_eq!(suites(&ours), suites(&theirs));
    assert_eq!(groups(&ours), groups(&theirs));
}

#[test]
fn what_one_library_seals_the_other_opens() {
    // The certificate's key is an elliptic one; with RSA the ciphers are the same.
    let of_rsa = [
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let suites = aws_lc_rs::ALL_CIPHER_SUITES.iter();
    let mut talked = 0;
    for suite in suites.filter(|suite| !of_rsa.contains(&suite.suite())) {
        let other = with_rings_cipher(*suite);
        assert_eq!(other.suite(), suite.suite());
        talk(*suite, other);
        talk(other, *suite);
        talked += 1;
    }
    assert_eq!(talked, 6);
}

/// A client and a server say something of several records to each other.
fn talk(server: SupportedCipherSuite, client: SupportedCipherSuite) {
    let names = vec!["registry.test".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = CertificateDer::from(made.cert);
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let server = ServerConfig::builder_with_provider(with_only(server))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(with_only(client))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("registry.test").unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let said: Vec<u8> = (0..50_000_u32)
        .flat_map(u32::to_be_bytes)
        .take(50_000)
        .collect();
    client.writer().write_all(&said).unwrap();
    server.writer().write_all(&said).unwrap();
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    while at_server.len() < said.len() || at_client.len() < said.len() {
        carry(&mut client, &mut server, &mut at_server);
        carry(&mut server, &mut client, &mut at_client);
    }
    assert!(at_server == said && at_client == said);
}

/// Brings over what one side has to send, and what comes of it.
fn carry<A, B>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>, got: &mut Vec<u8>)
where
    A: SideData,
    B: SideData,
{
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets().unwrap();
        let mut plain = vec![0; 20_000];
        while let Ok(count @ 1..) = to.reader().read(&mut plain) {
            got.extend_from_slice(&plain[..count]);
        }
    }
}

fn with_only(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..aws_lc_rs::default_provider()
    })
}
