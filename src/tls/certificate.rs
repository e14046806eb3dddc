//! One X.509 certificate with the fields that the proxy uses, and the order of a certificate chain.
//!
//! Used by `certified_pair`, `cert_warning`, `client_auth` and `self_signed`. Issuers are found by name and key identifier.
//! Signatures are not verified here: the clients do that.

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_DSA, OID_NIST_EC_P384, OID_NIST_EC_P521,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::subject_alt_name::SubjectAltName;

/// The fields of one certificate.
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    /// SubjectPublicKeyInfo in DER.
    pub(super) public_key: Vec<u8>,
    /// The kind of the public key for messages, such as `RSA with 2048 bits`.
    pub(super) key_kind: String,
    pub(super) subject: DistinguishedName,
    pub(super) issuer: DistinguishedName,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    pub(super) names: Vec<SubjectAltName>,
    /// Whether basicConstraints has CA:TRUE.
    pub(super) is_ca: bool,
    /// subjectKeyIdentifier.
    pub(super) key_id: Option<Vec<u8>>,
    /// authorityKeyIdentifier.
    issuer_key_id: Option<Vec<u8>>,
}

/// A distinguished name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DistinguishedName {
    der: Vec<u8>,
    /// The name in the notation of openssl.
    pub(super) text: String,
}

impl Certificate {
    /// Returns `None` if the bytes are not an X.509 certificate.
    pub(super) fn parse(der: CertificateDer<'static>) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(&der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let (key_id, issuer_key_id) = key_ids(&parsed);
        Some(Self {
            public_key: parsed.public_key().raw.to_vec(),
            key_kind: key_kind(parsed.public_key()),
            subject: DistinguishedName::new(parsed.subject()),
            issuer: DistinguishedName::new(parsed.issuer()),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            names: subject_alt_names(&parsed),
            is_ca: parsed.is_ca(),
            key_id,
            issuer_key_id,
            der,
        })
    }

    /// Whether the certificate names itself as its issuer, as a root does.
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject.der == self.issuer.der
    }

    /// Compares the names, and the key identifiers if both certificates have one: a CA that changes its key keeps its name.
    fn is_issued_by(&self, other: &Self) -> bool {
        let same_key = match (&self.issuer_key_id, &other.key_id) {
            (Some(issuer_key_id), Some(key_id)) => issuer_key_id == key_id,
            _ => true,
        };
        self.issuer.der == other.subject.der && same_key
    }
}

impl DistinguishedName {
    fn new(name: &x509_parser::x509::X509Name<'_>) -> Self {
        Self {
            der: name.as_raw().to_vec(),
            text: name.to_string(),
        }
    }
}

/// A chain in the order in which it is sent: the leaf first, each certificate followed by its issuer (RFC 8446 section 4.4.2).
pub(super) struct Chain {
    pub(super) leaf: Certificate,
    /// The issuers in order, then the other certificates of the file.
    pub(super) others: Vec<Certificate>,
    /// The number of issuers at the front of `others`.
    pub(super) issuers: usize,
    /// Whether the file had this order already.
    pub(super) was_in_order: bool,
}

/// Orders the certificates of a file. The leaf is the certificate with this public key, or the first one if there is no key to
/// compare. Returns `None` if no certificate has the key.
pub(super) fn order_chain(mut file: Vec<Certificate>, public_key: Option<&[u8]>) -> Option<Chain> {
    let is_leaf = |c: &Certificate| public_key.is_none_or(|key| c.public_key == key);
    let position = file.iter().position(is_leaf)?;
    let mut was_in_order = position == 0;
    let leaf = file.remove(position);
    let mut issuers: Vec<Certificate> = Vec::new();
    // The loop ends at a root, or when the file has no more certificates.
    while let Some(next) = issuer_position(&file, issuers.last().unwrap_or(&leaf)) {
        was_in_order &= next == 0;
        issuers.push(file.remove(next));
    }
    Some(Chain {
        leaf,
        issuers: issuers.len(),
        others: issuers.into_iter().chain(file).collect(),
        was_in_order,
    })
}

fn issuer_position(file: &[Certificate], child: &Certificate) -> Option<usize> {
    if child.is_self_issued() {
        return None;
    }
    file.iter().position(|other| child.is_issued_by(other))
}

fn subject_alt_names(parsed: &X509Certificate<'_>) -> Vec<SubjectAltName> {
    let Ok(Some(extension)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let general_names = &extension.value.general_names;
    general_names
        .iter()
        .filter_map(SubjectAltName::parse)
        .collect()
}

/// Returns subjectKeyIdentifier and authorityKeyIdentifier.
fn key_ids(parsed: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut own, mut issuer) = (None, None);
    for extension in parsed.iter_extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => own = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                issuer = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    (own, issuer)
}

fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> String {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA with {} bits", rsa.key_size()),
        Ok(PublicKey::EC(_)) => format!("EC on {}", curve(key)),
        Ok(PublicKey::DSA(_)) => "DSA".into(),
        _ if key.algorithm.algorithm == OID_KEY_TYPE_DSA => "DSA".into(),
        _ => format!("of type {}", key.algorithm.algorithm),
    }
}

fn curve(key: &SubjectPublicKeyInfo<'_>) -> String {
    let parameters = key.algorithm.parameters.as_ref();
    match parameters.and_then(|any| any.as_oid().ok()) {
        Some(oid) if oid == OID_EC_P256 => "P-256".into(),
        Some(oid) if oid == OID_NIST_EC_P384 => "P-384".into(),
        Some(oid) if oid == OID_NIST_EC_P521 => "P-521".into(),
        Some(oid) => format!("the curve {oid}"),
        None => "a curve of its own".into(),
    }
}
