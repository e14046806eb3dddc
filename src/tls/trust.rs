//! Client certificates: whose are taken, whether one must come, and what a client proved by one.
//!
//! `snapshot` loads a [`ClientCa`] for each site that asks for certificates, [`super::Tls`] puts it into the site's
//! handshakes, and `service` asks [`ClientCa::admits`] for each request. A certificate says nothing here about rights: it
//! is a condition beside the password. Nothing is revoked here: a certificate ends with its time or with its CA.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certs;
use super::chain::Certificate;
use super::pem;

/// Whose client certificates are taken, and whether one must come. Sites whose trust is equal are one trust domain.
#[derive(Clone)]
pub struct ClientCa(Arc<Inner>);

struct Inner {
    /// Sorted, each once: what the files are called, and their order, is no difference.
    authorities: Vec<CertificateDer<'static>>,
    demand: ClientAuthMode,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// Without one there is no connection.
    #[default]
    Required,
    /// One that is shown must be good.
    Optional,
}

/// A certificate whose key a client has proved to have.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    subject: String,
    /// Seconds since 1970.
    not_after: u64,
    /// What it was verified against.
    trust: ClientCa,
}

/// Why client certificates cannot be verified; each says in one sentence where, what, and what to do.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each sentence names its fields")]
pub enum Error {
    /// The file cannot be read, or a section of it not decoded.
    #[error(transparent)]
    File(#[from] certs::Error),
    /// There is nobody to trust.
    #[error("{path}: no certificate in it, it holds {found}; name the CA that issues the clients' certificates", path = path.display())]
    NoAuthority { path: PathBuf, found: String },
    /// One that the TLS library does not take.
    #[error("{path}: certificate {number} cannot be trusted as a CA ({cause}); copy the file again from where it was issued", path = path.display())]
    Authority {
        path: PathBuf,
        number: usize,
        cause: rustls::Error,
    },
    /// The library refused what it had taken.
    #[error("{path}: the TLS library refused to verify client certificates by it ({cause})", path = path.display())]
    Verifier {
        path: PathBuf,
        cause: VerifierBuilderError,
    },
}

impl ClientCa {
    /// Reads the CAs from a PEM file.
    ///
    /// # Errors
    /// When it holds none that can be used.
    pub fn load(path: &Path, demand: ClientAuthMode) -> Result<Self, Error> {
        let sections = pem::read(path)?;
        if sections.certificates.is_empty() {
            let (path, found) = (path.into(), sections.describe());
            return Err(Error::NoAuthority { path, found });
        }
        let mut authorities = sections.certificates;
        let mut roots = RootCertStore::empty();
        for (der, number) in authorities.iter().zip(1..) {
            roots.add(der.clone()).map_err(|cause| Error::Authority {
                path: path.into(),
                number,
                cause,
            })?;
        }
        authorities.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        authorities.dedup();
        let provider = Arc::new(super::provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if demand == ClientAuthMode::Optional {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|cause| Error::Verifier {
            path: path.into(),
            cause,
        })?;
        Ok(Self(Arc::new(Inner {
            authorities,
            demand,
            verifier,
        })))
    }

    /// Whether a client that has shown this, or nothing, may come in now.
    ///
    /// A connection may be older than a reload, and a ticket older than the end of its certificate: what was verified
    /// against other CAs, or is past its time, is verified again.
    pub fn admits(&self, shown: Option<&ClientCertificate>, now: UnixTime) -> bool {
        let Some(shown) = shown else {
            return self.0.demand == ClientAuthMode::Optional;
        };
        let is_same = self.same_roots(&shown.trust) && now.as_secs() <= shown.not_after;
        is_same || self.verifies(&shown.chain, now)
    }

    /// `required` after `optional` asks nothing more of a certificate that is there.
    fn same_roots(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.authorities == other.0.authorities
    }

    fn verifies(&self, chain: &[CertificateDer<'static>], now: UnixTime) -> bool {
        let Some((leaf, issuers)) = chain.split_first() else {
            return false;
        };
        let verifier = &self.0.verifier;
        verifier.verify_client_cert(leaf, issuers, now).is_ok()
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.verifier)
    }
}

impl PartialEq for ClientCa {
    fn eq(&self, other: &Self) -> bool {
        self.0.demand == other.0.demand && self.same_roots(other)
    }
}

impl Eq for ClientCa {}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.authorities.len();
        write!(f, "Trust({count} CAs, {:?})", self.0.demand)
    }
}

impl ClientCertificate {
    /// What a handshake with this trust has verified; `None` when it cannot be read all the same.
    pub(super) fn read(trust: &ClientCa, chain: &[CertificateDer<'_>]) -> Option<Self> {
        let chain: Vec<_> = chain.iter().map(|der| der.clone().into_owned()).collect();
        let leaf = Certificate::read(chain.first()?.clone())?;
        Some(Self {
            subject: leaf.subject.text.chars().take(SUBJECT).collect(),
            not_after: u64::try_from(leaf.not_after.unix_timestamp()).ok()?,
            trust: trust.clone(),
            chain,
        })
    }

    /// Its subject, as openssl writes it: whatever the CA let into it, so not fit for a log as it is.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({:?})", self.subject)
    }
}

/// Characters of a subject that are kept.
const SUBJECT: usize = 256;

#[cfg(test)]
mod tests;
