//! A site's certificate and key: from PEM files to a pair that is known to fit.
//!
//! Called by `live` at check, start and reload, and when the files have changed. It judges what it reads ([`Warning`])
//! but refuses only what cannot be served; it neither logs nor watches.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

pub use super::names::Name;
pub use super::warning::Warning;

use super::chain::{Certificate, Chain, order_chain};
use super::pem::{self, PemFile};
use super::warning::{self, Validity};

/// A certificate chain and the key that belongs to its first certificate.
#[derive(Clone)]
pub struct CertifiedPair {
    certified: Arc<CertifiedKey>,
    names: Vec<Name>,
    terms: Vec<Validity>,
}

/// Why a pair cannot be served; each says in one sentence where, what, and what to do.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each sentence names its fields")]
pub enum Error {
    /// A file is missing, forbidden, or not a file.
    #[error("{path}: {cause}; {}", remedy(cause), path = path.display())]
    Unreadable { path: PathBuf, cause: io::Error },
    /// A section is broken, or is not what its label says.
    #[error("{path}: {what}; copy the file again from where it was issued", path = path.display())]
    Malformed { path: PathBuf, what: String },
    /// The file for the certificate has none.
    #[error("{path}: no certificate in it, it holds {found}; name the certificate chain here (are the two files swapped?)", path = path.display())]
    NoCertificate { path: PathBuf, found: String },
    /// The file for the key has none.
    #[error("{path}: no private key in it, it holds {found}; name the certificate's key here (are the two files swapped?)", path = path.display())]
    NoKey { path: PathBuf, found: String },
    /// There is nobody to ask for the password at a start or a reload.
    #[error("{path}: the private key is encrypted; decrypt it with: openssl pkey -in {path} -out {path}.plain", path = path.display())]
    Encrypted { path: PathBuf },
    /// A kind or a size of key that the TLS library does not sign with.
    #[error("{path}: this kind of private key is not supported (the certificate's key is {kind}); use RSA with 2048 to 8192 bits, EC on P-256, P-384 or P-521, or Ed25519", path = path.display())]
    UnsupportedKey { path: PathBuf, kind: String },
    /// Key and certificate are of different origin.
    #[error("{key}: this private key does not belong to the certificate in {cert}; name the key that the certificate was requested with", key = key.display(), cert = cert.display())]
    Mismatch { key: PathBuf, cert: PathBuf },
}

/// Reads a pair from two PEM files, or twice from one that holds both.
///
/// The chain is sent in the right order, whatever the file's.
///
/// # Errors
/// When a file cannot be used, or the two do not belong together.
pub fn load(
    cert: &Path,
    key: &Path,
    now: OffsetDateTime,
) -> Result<(CertifiedPair, Vec<Warning>), Error> {
    let certificates = read_certificates(cert)?;
    let (private, mode) = read_key(key)?;
    let kind = certificates.first().map(|c| c.key_kind.clone());
    let signer = any_supported_type(&private).map_err(|_| Error::UnsupportedKey {
        path: key.into(),
        kind: kind.unwrap_or_default(),
    })?;
    let public_key = signer.public_key();
    let chain =
        order_chain(certificates, public_key.as_deref()).ok_or_else(|| Error::Mismatch {
            key: key.into(),
            cert: cert.into(),
        })?;
    let mut warnings = warning::judge(cert, &chain, now);
    warnings.extend(warning::exposed(key, mode));
    Ok((CertifiedPair::new(chain, signer), warnings))
}

impl CertifiedPair {
    /// The two must belong together, which [`arrange`] sees to.
    pub(super) fn new(chain: Chain, signer: Arc<dyn SigningKey>) -> Self {
        let terms = warning::terms(&chain);
        let sent: Vec<CertificateDer<'static>> = std::iter::once(chain.leaf.der)
            .chain(chain.others.into_iter().map(|other| other.der))
            .collect();
        Self {
            certified: Arc::new(CertifiedKey::new(sent, signer)),
            names: chain.leaf.names,
            terms,
        }
    }

    /// Whether clients that ask for `host` accept the certificate. A host `*.x` is covered by that same name.
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.covers(host))
    }

    /// One warning for each host of a site that is not covered; `*` asks for nothing. `path` is the certificate's.
    pub fn uncovered(&self, path: &Path, hosts: &[String]) -> Vec<Warning> {
        // A certificate without names has its own warning.
        if self.names.is_empty() {
            return Vec::new();
        }
        let missing = hosts.iter().filter(|h| *h != "*" && !self.covers(h));
        let warn = |host: &String| Warning::Uncovered {
            path: path.into(),
            host: host.clone(),
            names: self.listed_names(),
        };
        missing.map(warn).collect()
    }

    /// The names of subjectAltName, in the certificate's order.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// The last moment at which the site's own certificate is valid.
    pub fn not_after(&self) -> OffsetDateTime {
        let own = self.terms.first();
        own.map_or(OffsetDateTime::UNIX_EPOCH, |term| term.until)
    }

    /// When the site's own certificate and its issuers' are valid.
    pub(super) fn terms(&self) -> &[Validity] {
        &self.terms
    }

    /// The chain as it is sent, DER, the site's own certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The names for a log line; of many names the first ten.
    pub fn names_in_short(&self) -> String {
        let listed = self.names.iter().take(LISTED_NAMES).map(Name::to_string);
        let listed = listed.collect::<Vec<_>>().join(", ");
        match self.names.len().saturating_sub(LISTED_NAMES) {
            0 => listed,
            more => format!("{listed} and {more} more"),
        }
    }

    fn listed_names(&self) -> String {
        let names: Vec<String> = self.names.iter().map(Name::to_string).collect();
        names.join(", ")
    }
}

impl std::fmt::Debug for CertifiedPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (names, not_after) = (self.listed_names(), self.not_after());
        write!(f, "Pair({names}, until {not_after})")
    }
}

/// At least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<Certificate>, Error> {
    let sections = pem::read(path)?;
    if sections.certificates.is_empty() {
        return Err(Error::NoCertificate {
            path: path.into(),
            found: sections.describe(),
        });
    }
    let numbered = sections.certificates.into_iter().zip(1..);
    numbered
        .map(|(der, number)| {
            Certificate::read(der).ok_or_else(|| Error::Malformed {
                path: path.into(),
                what: format!("certificate {number} is not in X.509 form"),
            })
        })
        .collect()
}

/// The key and the file's mode.
pub(super) fn read_key(
    path: &Path,
) -> Result<(zeroize::Zeroizing<PrivateKeyDer<'static>>, u32), Error> {
    let mut sections = pem::read(path)?;
    let mode = sections.mode;
    let key = sections.key.take();
    let key = key.ok_or_else(|| missing_key(path, &sections))?;
    Ok((key, mode))
}

fn missing_key(path: &Path, sections: &PemFile) -> Error {
    if sections.is_encrypted() {
        return Error::Encrypted { path: path.into() };
    }
    Error::NoKey {
        path: path.into(),
        found: sections.describe(),
    }
}

/// Names of a certificate that one log line holds.
const LISTED_NAMES: usize = 10;

fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "correct the path, or put the file there",
        io::ErrorKind::PermissionDenied => {
            "give the gate's user the right to read it (chgrp, chmod 0640; for files of certbot examples/certbot-deploy-hook does so)"
        }
        _ => "name a readable PEM file",
    }
}

#[cfg(test)]
mod tests;
