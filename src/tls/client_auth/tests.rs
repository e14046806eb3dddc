//! Handshakes with and without client certificates, session tickets across client CAs, and files without a CA.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::duplex;

use super::*;
use crate::tls::self_signed::{LocalCa, in_memory};
use crate::tls::tests::{client_of, handshake_over};
use crate::tls::{CertSlot, Settings, TicketKeys, TlsConfigs, TlsInfo, TlsSite};

/// A CA that issues client certificates.
struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl TestCa {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    fn issue(&self, subject: &str, until: OffsetDateTime) -> (String, KeyPair) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, subject);
        params.not_after = until;
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key)
    }
}

/// A proxy with the single site `a.test`. It can be reloaded any number of times.
struct TestProxy {
    dir: TempDir,
    ca: LocalCa,
    tickets: TicketKeys,
}

impl TestProxy {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            ca: in_memory(OffsetDateTime::now_utc()).unwrap(),
            tickets: TicketKeys::new().unwrap(),
        }
    }

    fn try_client_ca(&self, pem: &str, mode: ClientAuthMode) -> Result<ClientCa, Error> {
        let path = self.dir.path().join("clients.pem");
        std::fs::write(&path, pem).unwrap();
        ClientCa::load(&path, mode)
    }

    fn client_ca(&self, test_ca: &TestCa, mode: ClientAuthMode) -> ClientCa {
        self.try_client_ca(&test_ca.pem, mode).unwrap()
    }

    fn tls(&mut self, client_ca: Option<&ClientCa>) -> TlsConfigs {
        self.tickets = self.tickets.with(client_ca.cloned()).unwrap();
        let hosts = vec!["a.test".to_owned()];
        let pair = self.ca.issue(&hosts, OffsetDateTime::now_utc()).unwrap();
        let site = TlsSite {
            hosts,
            listen: None,
            slot: CertSlot::new(pair, OffsetDateTime::now_utc()),
            client_ca: client_ca.cloned(),
        };
        TlsConfigs::new(&Settings::default(), vec![site], &self.tickets).unwrap()
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        client_of(self.ca.certificate(), versions, &["h2"])
    }

    fn client_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        (pem, key): &(String, KeyPair),
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.certificate().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap()
    }
}

fn later() -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(1)
}

fn now() -> UnixTime {
    UnixTime::now()
}

/// Performs a handshake; returns `None` if it fails.
async fn handshake(tls: &TlsConfigs, config: &ClientConfig) -> Option<(TlsInfo, HandshakeKind)> {
    let (client, info) = handshake_over(duplex(1 << 16), tls, config, "a.test").await;
    let info = info.ok()?;
    let kind = client.unwrap().get_ref().1.handshake_kind().unwrap();
    Some((info, kind))
}

const BOTH: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS13], &[&version::TLS12]];

#[tokio::test]
async fn a_required_certificate_must_be_presented_and_valid() {
    let mut proxy = TestProxy::new();
    let (own_ca, other_ca) = (TestCa::new("ours"), TestCa::new("theirs"));
    let good = own_ca.issue("CI robot", later());
    let expired = own_ca.issue("late", OffsetDateTime::now_utc() - time::Duration::days(1));
    let foreign = other_ca.issue("CI robot", later());
    // A certificate of another CA with the same name.
    let forged = TestCa::new("ours").issue("CI robot", later());
    for mode in [ClientAuthMode::Required, ClientAuthMode::Optional] {
        let client_ca = proxy.client_ca(&own_ca, mode);
        let tls = proxy.tls(Some(&client_ca));
        for versions in BOTH {
            let (info, _) = handshake(&tls, &proxy.client_with(versions, &good))
                .await
                .unwrap();
            let presented = info.certificate.unwrap();
            assert!(presented.subject().contains("CN=CI robot"), "{presented:?}");
            assert!(client_ca.accepts(Some(&presented), now()));
            for bad in [&expired, &foreign, &forged] {
                let result = handshake(&tls, &proxy.client_with(versions, bad)).await;
                assert!(result.is_none(), "{result:?}");
            }
            let without = handshake(&tls, &proxy.client(versions)).await;
            assert_eq!(
                without.is_some(),
                mode == ClientAuthMode::Optional,
                "{without:?}"
            );
            assert!(without.is_none_or(|(info, _)| info.certificate.is_none()));
        }
        assert_eq!(
            client_ca.accepts(None, now()),
            mode == ClientAuthMode::Optional
        );
    }
}

#[tokio::test]
async fn a_ticket_is_accepted_for_its_own_client_ca_only() {
    let own_ca = TestCa::new("ours");
    let certificate = own_ca.issue("CI robot", later());
    for versions in BOTH {
        let mut proxy = TestProxy::new();
        let required = proxy.client_ca(&own_ca, ClientAuthMode::Required);
        let optional = proxy.client_ca(&own_ca, ClientAuthMode::Optional);
        let other = proxy.client_ca(&TestCa::new("theirs"), ClientAuthMode::Required);
        // A ticket from a time when the site requested no certificate is not accepted.
        let no_cert = proxy.client(versions);
        let open = proxy.tls(None);
        handshake(&open, &no_cert).await.unwrap();
        assert_eq!(
            handshake(&open, &no_cert).await.unwrap().1,
            HandshakeKind::Resumed
        );
        let with_required = proxy.tls(Some(&required));
        assert!(handshake(&with_required, &no_cert).await.is_none());
        // Nor is a ticket from a time when the certificate was optional.
        let with_optional = proxy.tls(Some(&optional));
        handshake(&with_optional, &no_cert).await.unwrap();
        assert_eq!(
            handshake(&with_optional, &no_cert).await.unwrap().1,
            HandshakeKind::Resumed
        );
        let with_required = proxy.tls(Some(&required));
        assert!(handshake(&with_required, &no_cert).await.is_none());
        // The session of a client with a certificate is resumed after a reload with the same CA, with its certificate.
        let config = proxy.client_with(versions, &certificate);
        handshake(&with_required, &config).await.unwrap();
        let reread = proxy.client_ca(&own_ca, ClientAuthMode::Required);
        let with_required = proxy.tls(Some(&reread));
        let (info, kind) = handshake(&with_required, &config).await.unwrap();
        assert_eq!(kind, HandshakeKind::Resumed);
        assert!(required.accepts(info.certificate.as_deref(), now()));
        // It is not resumed with another CA, nor when the old CA is back, which has new ticket keys.
        let changed = proxy.tls(Some(&other));
        assert!(handshake(&changed, &config).await.is_none());
        let back = proxy.tls(Some(&required));
        assert_ne!(
            handshake(&back, &config).await.unwrap().1,
            HandshakeKind::Resumed
        );
    }
}

#[tokio::test]
async fn an_open_connection_is_checked_against_the_current_client_ca() {
    let mut proxy = TestProxy::new();
    let (own_ca, other_ca) = (TestCa::new("ours"), TestCa::new("theirs"));
    let client_ca = proxy.client_ca(&own_ca, ClientAuthMode::Required);
    let tls = proxy.tls(Some(&client_ca));
    let certificate = own_ca.issue("CI robot", later());
    let config = proxy.client_with(BOTH[0], &certificate);
    let presented = handshake(&tls, &config)
        .await
        .unwrap()
        .0
        .certificate
        .unwrap();
    let both = [&*other_ca.pem, &*own_ca.pem].concat();
    for (pem, admitted) in [(&own_ca.pem, true), (&both, true), (&other_ca.pem, false)] {
        for mode in [ClientAuthMode::Required, ClientAuthMode::Optional] {
            let after = proxy.try_client_ca(pem, mode).unwrap();
            assert_eq!(after.accepts(Some(&presented), now()), admitted);
        }
    }
    let in_two_days = now().as_secs() + 2 * 24 * 3600;
    let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(in_two_days));
    assert!(!client_ca.accepts(Some(&presented), then), "expired");
}

#[test]
fn client_cas_are_compared_by_their_certificates_and_mode() {
    let proxy = TestProxy::new();
    let (own_ca, other_ca) = (TestCa::new("ours"), TestCa::new("theirs"));
    let load = |parts: &[&str], mode| proxy.try_client_ca(&parts.concat(), mode).unwrap();
    let (one, two) = (own_ca.pem.as_str(), other_ca.pem.as_str());
    let both = load(&[one, two], ClientAuthMode::Required);
    assert!(both == load(&["# all\n", two, one, two], ClientAuthMode::Required));
    assert!(both != load(&[one, two], ClientAuthMode::Optional));
    assert!(both != load(&[one], ClientAuthMode::Required));
    assert!(load(&[two], ClientAuthMode::Required) != load(&[one], ClientAuthMode::Required));
}

#[test]
fn the_error_says_what_a_file_without_ca_contains() {
    let proxy = TestProxy::new();
    let key = KeyPair::generate().unwrap().serialize_pem();
    let damaged = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
    for (pem, message) in [
        ("", "nothing in PEM form"),
        (key.as_str(), "it holds a private key"),
        (damaged, "certificate 1 cannot be trusted"),
    ] {
        let error = proxy
            .try_client_ca(pem, ClientAuthMode::Required)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(message) && error.contains("clients.pem"),
            "{error}"
        );
    }
    let missing = ClientCa::load(
        &proxy.dir.path().join("absent.pem"),
        ClientAuthMode::Required,
    );
    assert!(missing.unwrap_err().to_string().contains("absent.pem"));
}

#[test]
fn a_long_subject_is_truncated() {
    let proxy = TestProxy::new();
    let own_ca = TestCa::new("ours");
    let (pem, _) = own_ca.issue(&"\u{e9}\n".repeat(3000), later());
    let client_ca = proxy.client_ca(&own_ca, ClientAuthMode::Required);
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let parsed = ClientCertificate::parse(&client_ca, &[der]).unwrap();
    assert_eq!(parsed.subject().chars().count(), MAX_SUBJECT_CHARS);
    assert!(ClientCertificate::parse(&client_ca, &[]).is_none());
    assert!(ClientCertificate::parse(&client_ca, &[vec![0x30, 0].into()]).is_none());
}
