//! Certificates made for the run: one CA, and what it issues.

use std::sync::{Arc, LazyLock};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;

/// The CA that the clients of the tests trust.
pub(crate) static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::make);

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    /// Its certificate.
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn make() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            der: own.der().clone(),
            pem: own.pem(),
        }
    }

    /// A certificate for these names and its key, both in PEM.
    pub(crate) fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_until(names, 4000)
    }

    /// One that is valid until the beginning of a year.
    pub(crate) fn issue_until(&self, names: &[&str], year: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// What a client speaks and whom it trusts.
pub(crate) fn client(
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

/// A client of the usual kind that speaks `alpn`.
pub(crate) fn usual_client(alpn: &str) -> Arc<ClientConfig> {
    client(AUTHORITY.der.clone(), rustls::ALL_VERSIONS, &[alpn])
}

/// The CA's own certificate.
pub(crate) fn root() -> CertificateDer<'static> {
    AUTHORITY.der.clone()
}
