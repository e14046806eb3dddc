//! Certificates that are made for the test run: one CA, and the certificates that it issues.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm,
};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The CA that the clients of the tests trust.
pub(crate) static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::generate);

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    pub(crate) fn generate() -> Self {
        Self::of(CertificateParams::new(Vec::new()).unwrap())
    }

    /// A CA with a distinguished name of its own, for client certificates.
    pub(crate) fn another() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = format!("authority {number}");
        params.distinguished_name.push(DnType::CommonName, name);
        Self::of(params)
    }

    fn of(mut params: CertificateParams) -> Self {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            der: own.der().clone(),
            pem: own.pem(),
        }
    }

    /// The certificate of this CA.
    pub(crate) fn pem(&self) -> String {
        self.pem.clone()
    }

    /// A client certificate with this common name, and its key.
    pub(crate) fn issue_client_pair(
        &self,
        name: &str,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            certificate.der().clone(),
            key.serialize_der().try_into().unwrap(),
        )
    }

    /// A certificate for these names and its key, both in PEM.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_until(names, 4000)
    }

    /// A certificate for this public key as a public CA issues it: valid for three months, with the authority key
    /// identifier extension.
    pub(crate) fn issue_for_key(&self, host: &str, key: Vec<u8>) -> String {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::hours(1);
        params.not_after = now + time::Duration::days(90);
        params.use_authority_key_identifier_extension = true;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(u64::try_from(number).unwrap().into());
        params.signed_by(&Subject(key), &self.issuer).unwrap().pem()
    }

    /// A certificate that is valid until the beginning of a year, and its key.
    pub(crate) fn issue_until(&self, names: &[&str], year: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The public key of a certificate signing request.
struct Subject(Vec<u8>);

impl PublicKeyData for Subject {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A counter that makes the names of CAs and the serial numbers of certificates unique.
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// The configuration of a client that presents a certificate and offers `alpn`.
pub(crate) fn client_config_with_certificate(
    (certificate, key): (CertificateDer<'static>, PrivateKeyDer<'static>),
    versions: &[&'static SupportedProtocolVersion],
    alpn: &str,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root_certificate()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Arc::new(config)
}

/// The configuration of a client that trusts `root`.
pub(crate) fn client_config(
    root: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The configuration of a client with default settings that offers `alpn`.
pub(crate) fn default_client_config(alpn: &str) -> Arc<ClientConfig> {
    client_config(AUTHORITY.der.clone(), rustls::ALL_VERSIONS, &[alpn])
}

/// The certificate of [`AUTHORITY`].
pub(crate) fn root_certificate() -> CertificateDer<'static> {
    AUTHORITY.der.clone()
}
