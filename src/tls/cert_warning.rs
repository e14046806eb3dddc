//! Warnings about certificates that the proxy serves, but that some or all clients reject, and their expiry.
//!
//! `certified_pair` checks a chain when it is loaded, and `cert_slot` checks the expiry as time passes. The warnings are
//! reported by `tidegate check`, at start, after a reload and at runtime. They never prevent a certificate from being served.

use std::path::{Path, PathBuf};

use time::{Duration, OffsetDateTime};

use super::certificate::{Certificate, Chain};
use crate::htpasswd::shell_word;

/// A problem of a certificate that clients will notice. Each message names the file, the problem and a remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum CertWarning {
    /// The certificate has expired.
    #[error("{path}: the certificate of {subject:?} expired on {}: clients reject it; renew it", since.date(), path = path.display())]
    Expired {
        path: PathBuf,
        subject: String,
        since: OffsetDateTime,
    },
    /// The certificate is not valid yet.
    #[error("{path}: the certificate of {subject:?} is not valid before {}: clients reject it until then; check this machine's clock", from.date(), path = path.display())]
    NotYetValid {
        path: PathBuf,
        subject: String,
        from: OffsetDateTime,
    },
    /// The certificate should have been renewed by now.
    #[error("{path}: the certificate of {subject:?} expires on {}: renew it", at.date(), path = path.display())]
    ExpiresSoon {
        path: PathBuf,
        subject: String,
        at: OffsetDateTime,
    },
    /// The file is not in the order in which the proxy sends the chain.
    #[error("{path}: the certificates are not in order and are sent sorted; put the site's own first, each followed by its issuer's", path = path.display())]
    OutOfOrder { path: PathBuf },
    /// An intermediate certificate is missing, so a client that knows only the root cannot build a path to it.
    #[error("{path}: the certificate of the issuer {issuer:?} is missing: append it, unless that is a root which the clients trust themselves", path = path.display())]
    Incomplete { path: PathBuf, issuer: String },
    /// The site's certificate is a CA, as `openssl req -x509` creates it by default.
    #[error("{path}: the site's certificate is a CA (CA:TRUE): docker and curl accept it once they trust it, rustls clients reject it; create one with -addext basicConstraints=critical,CA:FALSE", path = path.display())]
    CaAsLeaf { path: PathBuf },
    /// The certificate has no host name in subjectAltName.
    #[error("{path}: the certificate names no host in subjectAltName: docker and every Go client reject it, a common name is not enough; create one with -addext subjectAltName=DNS:NAME", path = path.display())]
    NoNames { path: PathBuf },
    /// The certificate does not name a host of the site.
    #[error("{path}: the certificate does not cover {host:?}, only {names}: clients of that host reject it; get one that names it", path = path.display())]
    Uncovered {
        path: PathBuf,
        host: String,
        names: String,
    },
    /// Every account of the machine can read or write the private key.
    #[error("{path}: every user of this machine can get at the private key (mode {mode:04o}): chmod o= {}", shell_word(&path.to_string_lossy()), path = path.display())]
    KeyExposed { path: PathBuf, mode: u32 },
}

impl CertWarning {
    /// Whether the warning is of no importance for a certificate that the proxy presents as a client: the server knows the
    /// issuers, and does not look for a host name.
    pub(crate) fn concerns_servers_only(&self) -> bool {
        match self {
            Self::Incomplete { .. }
            | Self::CaAsLeaf { .. }
            | Self::NoNames { .. }
            | Self::Uncovered { .. } => true,
            Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::ExpiresSoon { .. }
            | Self::OutOfOrder { .. }
            | Self::KeyExposed { .. } => false,
        }
    }
}

/// Returns the warnings about a chain at the time `now`.
pub(super) fn check_chain(path: &Path, chain: &Chain, now: OffsetDateTime) -> Vec<CertWarning> {
    let leaf = &chain.leaf;
    let validities = validities(chain);
    let expiry = validities.iter().filter_map(|it| it.warning(path, now));
    let mut warnings: Vec<CertWarning> = expiry.collect();
    if !chain.was_in_order {
        warnings.push(CertWarning::OutOfOrder { path: path.into() });
    }
    if chain.issuers == 0 && !leaf.is_self_issued() {
        warnings.push(CertWarning::Incomplete {
            path: path.into(),
            issuer: leaf.issuer.text.clone(),
        });
    }
    if leaf.is_ca {
        warnings.push(CertWarning::CaAsLeaf { path: path.into() });
    }
    if leaf.names.is_empty() {
        warnings.push(CertWarning::NoNames { path: path.into() });
    }
    warnings
}

/// Returns a warning if every account may access the key file. The group may: a service that does not run as root reads the
/// key through its group.
pub(super) fn check_key_mode(path: &Path, mode: u32) -> Option<CertWarning> {
    (mode & 0o007 != 0).then(|| CertWarning::KeyExposed {
        path: path.into(),
        mode,
    })
}

/// Returns the validity periods of the leaf and of its issuers, in the order of the chain.
pub(super) fn validities(chain: &Chain) -> Vec<Validity> {
    let issuers = chain.others.iter().take(chain.issuers);
    std::iter::once(&chain.leaf)
        .chain(issuers)
        .map(Validity::new)
        .collect()
}

/// The validity period of one certificate.
#[derive(Clone, Debug)]
pub(super) struct Validity {
    subject: String,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

/// The urgency of renewing a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExpiryState {
    Ok,
    /// An ACME client would have renewed the certificate by now.
    Expiring,
    /// The certificate expires soon, so an operator must act.
    Critical,
    Expired,
}

impl Validity {
    fn new(certificate: &Certificate) -> Self {
        Self {
            subject: certificate.subject.text.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        }
    }

    pub(super) fn expiry_state(&self, now: OffsetDateTime) -> ExpiryState {
        let lifetime = self.not_after - self.not_before;
        match self.not_after - now {
            left if left < Duration::ZERO => ExpiryState::Expired,
            left if left < CRITICAL_TIME_LEFT.min(lifetime / 12) => ExpiryState::Critical,
            left if left < EXPIRING_TIME_LEFT.min(lifetime / 4) => ExpiryState::Expiring,
            _ => ExpiryState::Ok,
        }
    }

    pub(super) fn warning(&self, path: &Path, now: OffsetDateTime) -> Option<CertWarning> {
        let (path, subject) = (path.to_path_buf(), self.subject.clone());
        let (from, at) = (self.not_before, self.not_after);
        Some(match self.expiry_state(now) {
            ExpiryState::Expired => CertWarning::Expired {
                path,
                subject,
                since: at,
            },
            _ if from > now => CertWarning::NotYetValid {
                path,
                subject,
                from,
            },
            ExpiryState::Expiring | ExpiryState::Critical => {
                CertWarning::ExpiresSoon { path, subject, at }
            }
            ExpiryState::Ok => return None,
        })
    }
}

/// The time left below which a certificate is expiring. ACME clients renew when a third of the lifetime is left. A certificate
/// that is valid for a few days only counts as expiring when a quarter of its lifetime is left.
const EXPIRING_TIME_LEFT: Duration = Duration::days(21);
/// The time left below which the expiry is critical; a twelfth of the lifetime if that is less.
const CRITICAL_TIME_LEFT: Duration = Duration::days(7);
