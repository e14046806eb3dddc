//! A certificate chain with its private key, loaded from PEM files.
//!
//! `cert_reload` loads the pair of a site at start, at a reload and after the files have changed; `self_signed` and `acme`
//! create one from what they have issued. Loading rejects only what cannot be served, and returns a [`CertWarning`] for
//! everything else that an operator should correct. This file neither logs nor watches files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::cert_warning::{CertWarning, Validity, check_chain, check_key_mode, validities};
use super::certificate::{Certificate, Chain, order_chain};
use super::pem::{self, PemFile};
use super::subject_alt_name::SubjectAltName;
use crate::htpasswd::shell_word;

/// A certificate chain and the private key of its first certificate.
#[derive(Clone)]
pub struct CertifiedPair {
    certified_key: Arc<CertifiedKey>,
    names: Vec<SubjectAltName>,
    /// The validity periods of the leaf and of its issuers.
    validities: Vec<Validity>,
}

/// The reason why a pair cannot be served. Each message names the file, the problem and a remedy.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    /// A file cannot be read or decoded.
    #[error(transparent)]
    Pem(#[from] pem::Error),
    /// The certificate file contains no certificate.
    #[error("{path}: no certificate in it, it holds {found}; name the certificate chain here (are the two files swapped?)", path = path.display())]
    NoCertificate { path: PathBuf, found: String },
    /// The key file contains no private key.
    #[error("{path}: no private key in it, it holds {found}; name the certificate's key here (are the two files swapped?)", path = path.display())]
    NoKey { path: PathBuf, found: String },
    /// The private key is encrypted. There is no terminal on which a start or a reload could ask for the password.
    #[error("{}: the private key is encrypted; {}", path.display(), decryption_remedy(path))]
    Encrypted { path: PathBuf },
    /// The TLS library does not sign with a key of this kind or size.
    #[error("{path}: this kind of private key is not supported (the certificate's key is {kind}); use RSA with 2048 to 8192 bits, EC on P-256, P-384 or P-521, or Ed25519", path = path.display())]
    UnsupportedKey { path: PathBuf, kind: String },
    /// No certificate in the file has the public key of the private key.
    #[error("{key}: this private key does not belong to the certificate in {cert}; name the key that the certificate was requested with", key = key.display(), cert = cert.display())]
    Mismatch { key: PathBuf, cert: PathBuf },
}

/// Loads a pair from two PEM files, or from one file that contains both and is named twice. The chain is sent in the right
/// order, whatever the order of the file.
///
/// # Errors
/// If a file cannot be used, or the key does not belong to the certificate.
pub fn load_pair(
    cert: &Path,
    key: &Path,
    now: OffsetDateTime,
) -> Result<(CertifiedPair, Vec<CertWarning>), Error> {
    let certificates = read_certificates(cert)?;
    let (private_key, mode) = read_private_key(key)?;
    let kind = certificates.first().map(|c| c.key_kind.clone());
    let signing_key = any_supported_type(&private_key).map_err(|_| Error::UnsupportedKey {
        path: key.into(),
        kind: kind.unwrap_or_default(),
    })?;
    let public_key = signing_key.public_key();
    let chain =
        order_chain(certificates, public_key.as_deref()).ok_or_else(|| Error::Mismatch {
            key: key.into(),
            cert: cert.into(),
        })?;
    let mut warnings = check_chain(cert, &chain, now);
    warnings.extend(check_key_mode(key, mode));
    Ok((CertifiedPair::new(chain, signing_key), warnings))
}

impl CertifiedPair {
    /// Creates a pair from a chain and the key of its leaf. [`order_chain`] ensures that they belong together.
    pub(super) fn new(chain: Chain, signing_key: Arc<dyn SigningKey>) -> Self {
        let validities = validities(&chain);
        let sent: Vec<CertificateDer<'static>> = std::iter::once(chain.leaf.der)
            .chain(chain.others.into_iter().map(|other| other.der))
            .collect();
        Self {
            certified_key: Arc::new(CertifiedKey::new(sent, signing_key)),
            names: chain.leaf.names,
            validities,
        }
    }

    /// Whether clients that connect to `host` accept the certificate. The host `*.x` is covered by the name `*.x` only.
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.covers(host))
    }

    /// Returns one warning for each of a site's hosts that the certificate does not cover. The host `*` needs no name. `path`
    /// is the certificate's file.
    pub fn uncovered(&self, path: &Path, hosts: &[String]) -> Vec<CertWarning> {
        // A certificate without any name has a warning of its own.
        if self.names.is_empty() {
            return Vec::new();
        }
        let missing = hosts.iter().filter(|h| *h != "*" && !self.covers(h));
        let warning = |host: &String| CertWarning::Uncovered {
            path: path.into(),
            host: host.clone(),
            names: self.joined_names(),
        };
        missing.map(warning).collect()
    }

    /// The names of subjectAltName, in the certificate's order.
    pub fn names(&self) -> &[SubjectAltName] {
        &self.names
    }

    /// The start of the leaf's validity.
    pub fn not_before(&self) -> OffsetDateTime {
        let leaf = self.validities.first();
        leaf.map_or(OffsetDateTime::UNIX_EPOCH, |leaf| leaf.not_before)
    }

    /// The end of the leaf's validity.
    pub fn not_after(&self) -> OffsetDateTime {
        let leaf = self.validities.first();
        leaf.map_or(OffsetDateTime::UNIX_EPOCH, |leaf| leaf.not_after)
    }

    /// The validity periods of the leaf and of its issuers.
    pub(super) fn validities(&self) -> &[Validity] {
        &self.validities
    }

    /// The chain as it is sent, in DER, beginning with the leaf.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    pub(super) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified_key
    }

    /// Returns the first ten names for a log line, and the number of the others.
    pub fn names_in_short(&self) -> String {
        let listed = self
            .names
            .iter()
            .take(MAX_LISTED_NAMES)
            .map(SubjectAltName::to_string);
        let listed = listed.collect::<Vec<_>>().join(", ");
        match self.names.len().saturating_sub(MAX_LISTED_NAMES) {
            0 => listed,
            more => format!("{listed} and {more} more"),
        }
    }

    fn joined_names(&self) -> String {
        let names: Vec<String> = self.names.iter().map(SubjectAltName::to_string).collect();
        names.join(", ")
    }
}

/// A manual implementation, so that the private key cannot appear in debug output.
impl fmt::Debug for CertifiedPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (names, not_after) = (self.joined_names(), self.not_after());
        write!(f, "CertifiedPair({names}, until {not_after})")
    }
}

fn decryption_remedy(path: &Path) -> String {
    let (file, plain) = (
        path.display().to_string(),
        format!("{}.plain", path.display()),
    );
    format!(
        "decrypt it with: openssl pkey -in {} -out {} and name {plain} as the key",
        shell_word(&file),
        shell_word(&plain)
    )
}

/// Reads the certificates of a file, of which there is at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<Certificate>, Error> {
    let file = PemFile::read(path)?;
    if file.certificates.is_empty() {
        return Err(Error::NoCertificate {
            path: path.into(),
            found: file.describe(),
        });
    }
    let numbered = file.certificates.into_iter().zip(1..);
    numbered
        .map(|(der, number)| {
            Certificate::parse(der).ok_or_else(|| {
                Error::Pem(pem::Error::Malformed {
                    path: path.into(),
                    what: format!("certificate {number} is not in X.509 form"),
                })
            })
        })
        .collect()
}

/// Reads the private key of a file, and returns it with the file's permission bits.
pub(super) fn read_private_key(
    path: &Path,
) -> Result<(Zeroizing<PrivateKeyDer<'static>>, u32), Error> {
    let mut file = PemFile::read(path)?;
    let mode = file.mode;
    match file.key.take() {
        Some(key) => Ok((key, mode)),
        None if file.is_encrypted() => Err(Error::Encrypted { path: path.into() }),
        None => Err(Error::NoKey {
            path: path.into(),
            found: file.describe(),
        }),
    }
}

/// The number of a certificate's names that a log line lists.
const MAX_LISTED_NAMES: usize = 10;

#[cfg(test)]
mod tests;
