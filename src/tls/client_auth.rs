//! Client certificates: the CA that issues them, whether one is required, and what a client has proved with one.
//!
//! `snapshot` loads a [`ClientCa`] for each site that requests certificates, `config` passes it to rustls, and `service` asks
//! [`ClientCa::accepts`] for each request. A client certificate gives no rights: it is a condition in addition to the password.
//! Revocation is not checked: a certificate is accepted until it expires or its CA is removed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::Certificate;
use super::crypto_provider::server_provider;
use super::pem::{self, PemFile};

/// The CAs whose client certificates a site accepts, and whether a client must present one. Sites with equal values share
/// session ticket keys.
#[derive(Clone)]
pub struct ClientCa(Arc<Inner>);

struct Inner {
    /// Sorted and without duplicates, so that the order of a file makes no difference.
    roots: Vec<CertificateDer<'static>>,
    mode: ClientAuthMode,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Whether a client must present a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuthMode {
    /// The handshake fails without a certificate.
    #[default]
    Required,
    /// A client may present no certificate. The handshake fails if a presented certificate is not valid.
    Optional,
}

/// A certificate that a client has presented, and whose private key it has proved to have.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    subject: String,
    /// The end of the validity in seconds since 1970.
    not_after: u64,
    /// The CA against which the certificate was verified.
    verified_by: ClientCa,
}

/// The reason why client certificates cannot be verified. Each message names the file, the problem and a remedy.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    /// The file cannot be read or decoded.
    #[error(transparent)]
    Pem(#[from] pem::Error),
    /// The file contains no certificate.
    #[error("{path}: no certificate in it, it holds {found}; name the CA that issues the clients' certificates", path = path.display())]
    NoCertificate { path: PathBuf, found: String },
    /// rustls does not accept a certificate as a trust anchor.
    #[error("{path}: certificate {number} cannot be trusted as a CA ({cause}); copy the file again from where it was issued", path = path.display())]
    InvalidCa {
        path: PathBuf,
        number: usize,
        cause: rustls::Error,
    },
    /// rustls accepted the certificates, but built no verifier from them.
    #[error("{path}: the TLS library cannot verify client certificates with it ({cause}); name the CA that issues the clients' certificates", path = path.display())]
    Verifier {
        path: PathBuf,
        cause: VerifierBuilderError,
    },
}

impl ClientCa {
    /// Reads the CA certificates from a PEM file.
    ///
    /// # Errors
    /// If the file contains no certificate that can be used as a CA.
    pub fn load(path: &Path, mode: ClientAuthMode) -> Result<Self, Error> {
        let file = PemFile::read(path)?;
        if file.certificates.is_empty() {
            let (path, found) = (path.into(), file.describe());
            return Err(Error::NoCertificate { path, found });
        }
        let mut roots = file.certificates;
        let mut store = RootCertStore::empty();
        for (der, number) in roots.iter().zip(1..) {
            store.add(der.clone()).map_err(|cause| Error::InvalidCa {
                path: path.into(),
                number,
                cause,
            })?;
        }
        roots.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
        roots.dedup();
        let provider = Arc::new(server_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
        if mode == ClientAuthMode::Optional {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|cause| Error::Verifier {
            path: path.into(),
            cause,
        })?;
        Ok(Self(Arc::new(Inner {
            roots,
            mode,
            verifier,
        })))
    }

    /// Whether a client with this certificate, or without one, may send requests at the time `now`.
    ///
    /// The handshake has verified the certificate, but a connection can be older than a reload, and a session ticket can outlive
    /// the certificate in it. Therefore a certificate that was verified against other CAs, or has expired, is verified again.
    pub fn accepts(&self, certificate: Option<&ClientCertificate>, now: UnixTime) -> bool {
        let Some(certificate) = certificate else {
            return self.0.mode == ClientAuthMode::Optional;
        };
        let is_verified =
            self.has_same_roots(&certificate.verified_by) && now.as_secs() <= certificate.not_after;
        is_verified || self.verifies(&certificate.chain, now)
    }

    /// The mode is not compared: a change from optional to required makes no difference for a certificate that was presented.
    fn has_same_roots(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.roots == other.0.roots
    }

    fn verifies(&self, chain: &[CertificateDer<'static>], now: UnixTime) -> bool {
        let Some((leaf, issuers)) = chain.split_first() else {
            return false;
        };
        let verifier = &self.0.verifier;
        verifier.verify_client_cert(leaf, issuers, now).is_ok()
    }

    /// Passes bytes to `update` that are equal for equal values only, in every process.
    pub(super) fn hash_into(&self, mut update: impl FnMut(&[u8])) {
        update(match self.0.mode {
            ClientAuthMode::Required => b"required",
            ClientAuthMode::Optional => b"optional",
        });
        for root in &self.0.roots {
            // With its length, so that the bytes of two certificates are never those of one.
            update(&root.len().to_be_bytes());
            update(root);
        }
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.verifier)
    }
}

impl PartialEq for ClientCa {
    fn eq(&self, other: &Self) -> bool {
        self.0.mode == other.0.mode && self.has_same_roots(other)
    }
}

impl Eq for ClientCa {}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.roots.len();
        write!(f, "ClientCa({count} certificates, {:?})", self.0.mode)
    }
}

impl ClientCertificate {
    /// Parses the certificate that a handshake has verified against `verified_by`. Returns `None` if it cannot be parsed, in
    /// spite of the verification.
    pub(super) fn parse(verified_by: &ClientCa, chain: &[CertificateDer<'_>]) -> Option<Self> {
        let chain: Vec<_> = chain.iter().map(|der| der.clone().into_owned()).collect();
        let leaf = Certificate::parse(chain.first()?.clone())?;
        Some(Self {
            subject: leaf.subject.text.chars().take(MAX_SUBJECT_CHARS).collect(),
            not_after: u64::try_from(leaf.not_after.unix_timestamp()).ok()?,
            verified_by: verified_by.clone(),
            chain,
        })
    }

    /// The subject in the notation of openssl. It may contain any characters that the CA has signed, so the caller must escape
    /// it before it is logged.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({:?})", self.subject)
    }
}

/// The number of characters of a subject that are kept.
const MAX_SUBJECT_CHARS: usize = 256;

#[cfg(test)]
mod tests;
