//! Handshakes of clients with and without certificates, tickets of one domain at another, and files that hold no CA.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::io::duplex;

use super::*;
use crate::tls::self_signed::{LocalCa, in_memory};
use crate::tls::shown::CertSlot;
use crate::tls::tests::{client_of, shake_over};
use crate::tls::{Settings, TicketKeys, Tls, TlsInfo, TlsSite};

/// Who issues client certificates.
struct Issuing {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Issuing {
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

/// A gate of one site, `a.test`, through any number of reloads.
struct World {
    dir: TempDir,
    authority: LocalCa,
    tickets: TicketKeys,
}

impl World {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            authority: in_memory(OffsetDateTime::now_utc()).unwrap(),
            tickets: TicketKeys::new().unwrap(),
        }
    }

    fn try_trust(&self, pem: &str, demand: ClientAuthMode) -> Result<ClientCa, Error> {
        let path = self.dir.path().join("clients.pem");
        std::fs::write(&path, pem).unwrap();
        ClientCa::load(&path, demand)
    }

    fn trust(&self, issuing: &Issuing, demand: ClientAuthMode) -> ClientCa {
        self.try_trust(&issuing.pem, demand).unwrap()
    }

    fn tls(&mut self, trust: Option<&ClientCa>) -> Tls {
        self.tickets = self.tickets.with(trust.cloned()).unwrap();
        let hosts = vec!["a.test".to_owned()];
        let pair = self
            .authority
            .issue(&hosts, OffsetDateTime::now_utc())
            .unwrap();
        let site = TlsSite {
            hosts,
            shown: CertSlot::new(pair, OffsetDateTime::now_utc()),
            trust: trust.cloned(),
        };
        Tls::new(&Settings::default(), vec![site], &self.tickets).unwrap()
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        client_of(self.authority.certificate_pem(), versions, &["h2"])
    }

    fn client_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        (pem, key): &(String, KeyPair),
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let root = self.authority.certificate_pem().as_bytes();
        roots
            .add(CertificateDer::from_pem_slice(root).unwrap())
            .unwrap();
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

/// What both sides have of a handshake, unless it fails.
async fn shake(tls: &Tls, config: &ClientConfig) -> Option<(TlsInfo, HandshakeKind)> {
    let (client, info) = shake_over(duplex(1 << 16), tls, config, "a.test").await;
    let info = info.ok()?;
    let kind = client.unwrap().get_ref().1.handshake_kind().unwrap();
    Some((info, kind))
}

const BOTH: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS13], &[&version::TLS12]];

#[tokio::test]
async fn a_required_certificate_must_come_and_be_good() {
    let mut world = World::new();
    let (ours, theirs) = (Issuing::new("ours"), Issuing::new("theirs"));
    let good = ours.issue("CI robot", later());
    let expired = ours.issue("late", OffsetDateTime::now_utc() - time::Duration::days(1));
    let foreign = theirs.issue("CI robot", later());
    // A certificate of the right name, and of nobody.
    let forged = Issuing::new("ours").issue("CI robot", later());
    for demand in [ClientAuthMode::Required, ClientAuthMode::Optional] {
        let trust = world.trust(&ours, demand);
        let tls = world.tls(Some(&trust));
        for versions in BOTH {
            let (info, _) = shake(&tls, &world.client_with(versions, &good))
                .await
                .unwrap();
            let shown = info.certificate.unwrap();
            assert!(shown.subject().contains("CN=CI robot"), "{shown:?}");
            assert!(trust.admits(Some(&shown), now()));
            for bad in [&expired, &foreign, &forged] {
                let refused = shake(&tls, &world.client_with(versions, bad)).await;
                assert!(refused.is_none(), "{refused:?}");
            }
            let without = shake(&tls, &world.client(versions)).await;
            assert_eq!(
                without.is_some(),
                demand == ClientAuthMode::Optional,
                "{without:?}"
            );
            assert!(without.is_none_or(|(info, _)| info.certificate.is_none()));
        }
        assert_eq!(
            trust.admits(None, now()),
            demand == ClientAuthMode::Optional
        );
    }
}

#[tokio::test]
async fn a_ticket_resumes_in_its_own_trust_domain_only() {
    let ours = Issuing::new("ours");
    let certificate = ours.issue("CI robot", later());
    for versions in BOTH {
        let mut world = World::new();
        let required = world.trust(&ours, ClientAuthMode::Required);
        let optional = world.trust(&ours, ClientAuthMode::Optional);
        let other = world.trust(&Issuing::new("theirs"), ClientAuthMode::Required);
        // A ticket from before the site asked for certificates opens nothing.
        let bare = world.client(versions);
        let open = world.tls(None);
        shake(&open, &bare).await.unwrap();
        assert_eq!(shake(&open, &bare).await.unwrap().1, HandshakeKind::Resumed);
        let guarded = world.tls(Some(&required));
        assert!(shake(&guarded, &bare).await.is_none());
        // Nor one from when it was optional.
        let lenient = world.tls(Some(&optional));
        shake(&lenient, &bare).await.unwrap();
        assert_eq!(
            shake(&lenient, &bare).await.unwrap().1,
            HandshakeKind::Resumed
        );
        let guarded = world.tls(Some(&required));
        assert!(shake(&guarded, &bare).await.is_none());
        // With a certificate it resumes, and the certificate stays known, over a reload with the same CA.
        let config = world.client_with(versions, &certificate);
        shake(&guarded, &config).await.unwrap();
        let reread = world.trust(&ours, ClientAuthMode::Required);
        let guarded = world.tls(Some(&reread));
        let (info, kind) = shake(&guarded, &config).await.unwrap();
        assert_eq!(kind, HandshakeKind::Resumed);
        assert!(required.admits(info.certificate.as_deref(), now()));
        // With another CA it is worth nothing, and with the old one back it is gone.
        let changed = world.tls(Some(&other));
        assert!(shake(&changed, &config).await.is_none());
        let back = world.tls(Some(&required));
        assert_ne!(
            shake(&back, &config).await.unwrap().1,
            HandshakeKind::Resumed
        );
    }
}

#[tokio::test]
async fn a_connection_is_judged_by_the_trust_of_the_moment() {
    let mut world = World::new();
    let (ours, theirs) = (Issuing::new("ours"), Issuing::new("theirs"));
    let trust = world.trust(&ours, ClientAuthMode::Required);
    let tls = world.tls(Some(&trust));
    let certificate = ours.issue("CI robot", later());
    let config = world.client_with(BOTH[0], &certificate);
    let shown = shake(&tls, &config).await.unwrap().0.certificate.unwrap();
    let both = [&*theirs.pem, &*ours.pem].concat();
    for (pem, admitted) in [(&ours.pem, true), (&both, true), (&theirs.pem, false)] {
        for demand in [ClientAuthMode::Required, ClientAuthMode::Optional] {
            let after = world.try_trust(pem, demand).unwrap();
            assert_eq!(after.admits(Some(&shown), now()), admitted);
        }
    }
    let in_two_days = now().as_secs() + 2 * 24 * 3600;
    let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(in_two_days));
    assert!(!trust.admits(Some(&shown), then), "past its time");
}

#[test]
fn equal_trust_is_one_domain_whatever_the_files_look_like() {
    let world = World::new();
    let (ours, theirs) = (Issuing::new("ours"), Issuing::new("theirs"));
    let load = |parts: &[&str], demand| world.try_trust(&parts.concat(), demand).unwrap();
    let (one, two) = (ours.pem.as_str(), theirs.pem.as_str());
    let both = load(&[one, two], ClientAuthMode::Required);
    assert!(both == load(&["# all\n", two, one, two], ClientAuthMode::Required));
    assert!(both != load(&[one, two], ClientAuthMode::Optional));
    assert!(both != load(&[one], ClientAuthMode::Required));
    assert!(load(&[two], ClientAuthMode::Required) != load(&[one], ClientAuthMode::Required));
}

#[test]
fn a_file_that_holds_no_authority_says_so() {
    let world = World::new();
    let key = KeyPair::generate().unwrap().serialize_pem();
    let damaged = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
    for (pem, said) in [
        ("", "nothing in PEM form"),
        (key.as_str(), "it holds a private key"),
        (damaged, "certificate 1 cannot be trusted"),
    ] {
        let error = world
            .try_trust(pem, ClientAuthMode::Required)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(said) && error.contains("clients.pem"),
            "{error}"
        );
    }
    let missing = ClientCa::load(
        &world.dir.path().join("absent.pem"),
        ClientAuthMode::Required,
    );
    assert!(missing.unwrap_err().to_string().contains("absent.pem"));
}

#[test]
fn a_long_subject_is_cut() {
    let world = World::new();
    let ours = Issuing::new("ours");
    let (pem, _) = ours.issue(&"\u{e9}\n".repeat(3000), later());
    let trust = world.trust(&ours, ClientAuthMode::Required);
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let read = ClientCertificate::read(&trust, &[der]).unwrap();
    assert_eq!(read.subject().chars().count(), SUBJECT);
    assert!(ClientCertificate::read(&trust, &[]).is_none());
    assert!(ClientCertificate::read(&trust, &[vec![0x30, 0].into()]).is_none());
}
