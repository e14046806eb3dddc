//! What a usable certificate still lacks.
//!
//! Found by `certs` when it loads a pair, shown by `check`, at start and after a reload. Nothing here keeps a
//! certificate from being served.

use std::path::{Path, PathBuf};

use time::{Duration, OffsetDateTime};

use super::chain::{Certificate, Chain};

/// A fault that some or all clients will notice; each says in one sentence where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each sentence names its fields")]
pub enum Warning {
    /// Its time is over.
    #[error("{path}: the certificate of {subject:?} expired on {}: clients refuse it; renew it", since.date(), path = path.display())]
    Expired {
        path: PathBuf,
        subject: String,
        since: OffsetDateTime,
    },
    /// Its time has not come.
    #[error("{path}: the certificate of {subject:?} is not valid before {from}: clients refuse it until then; check this machine's clock", path = path.display())]
    NotYetValid {
        path: PathBuf,
        subject: String,
        from: OffsetDateTime,
    },
    /// Fewer than fourteen days are left.
    #[error("{path}: the certificate of {subject:?} expires on {}: renew it", at.date(), path = path.display())]
    ExpiresSoon {
        path: PathBuf,
        subject: String,
        at: OffsetDateTime,
    },
    /// Served in the right order all the same.
    #[error("{path}: the certificates are not in order and are sent sorted; put the site's own first, each followed by its issuer's", path = path.display())]
    OutOfOrder { path: PathBuf },
    /// Clients that know only the root cannot build a path.
    #[error("{path}: the certificate of the issuer {issuer:?} is missing: append it, unless that is a root which the clients trust themselves", path = path.display())]
    Incomplete { path: PathBuf, issuer: String },
    /// As a bare `openssl req -x509` makes it.
    #[error("{path}: the site's certificate is a CA (CA:TRUE): docker and curl take it once they trust it, rustls clients refuse it; make one with -addext basicConstraints=critical,CA:FALSE", path = path.display())]
    AuthorityAsLeaf { path: PathBuf },
    /// No subjectAltName that names a host.
    #[error("{path}: the certificate names no host in subjectAltName: docker and every Go client refuse it, a common name is not enough; make one with -addext subjectAltName=DNS:NAME", path = path.display())]
    NoNames { path: PathBuf },
    /// Clients that ask for this host refuse the certificate.
    #[error("{path}: the certificate does not cover {host:?}, only {names}: clients of that host refuse it; get one that names it", path = path.display())]
    Uncovered {
        path: PathBuf,
        host: String,
        names: String,
    },
    /// Every account on the machine can read or write the key.
    #[error("{path}: every user of this machine can get at the private key (mode {mode:04o}): chmod o= it", path = path.display())]
    KeyExposed { path: PathBuf, mode: u32 },
}

/// What is wrong with a chain at this time.
pub(super) fn judge(path: &Path, chain: &Chain, now: OffsetDateTime) -> Vec<Warning> {
    let path = || path.to_path_buf();
    let leaf = &chain.leaf;
    let issuers = chain.others.iter().take(chain.issuers);
    let mut warnings: Vec<Warning> = std::iter::once(leaf)
        .chain(issuers)
        .filter_map(|certificate| validity(path(), certificate, now))
        .collect();
    if !chain.was_in_order {
        warnings.push(Warning::OutOfOrder { path: path() });
    }
    if chain.issuers == 0 && !leaf.is_self_issued() {
        warnings.push(Warning::Incomplete {
            path: path(),
            issuer: leaf.issuer.text.clone(),
        });
    }
    if leaf.is_authority {
        warnings.push(Warning::AuthorityAsLeaf { path: path() });
    }
    if leaf.names.is_empty() {
        warnings.push(Warning::NoNames { path: path() });
    }
    warnings
}

/// The group may read a key: that is how a service which is not root gets at it.
pub(super) fn exposed(path: &Path, mode: u32) -> Option<Warning> {
    (mode & 0o007 != 0).then(|| Warning::KeyExposed {
        path: path.into(),
        mode,
    })
}

fn validity(path: PathBuf, certificate: &Certificate, now: OffsetDateTime) -> Option<Warning> {
    let subject = certificate.subject.text.clone();
    let (from, at) = (certificate.not_before, certificate.not_after);
    if at < now {
        let since = at;
        return Some(Warning::Expired {
            path,
            subject,
            since,
        });
    }
    if from > now {
        return Some(Warning::NotYetValid {
            path,
            subject,
            from,
        });
    }
    (at - now < SOON).then_some(Warning::ExpiresSoon { path, subject, at })
}

/// Every ACME client renews well before that.
const SOON: Duration = Duration::days(14);
