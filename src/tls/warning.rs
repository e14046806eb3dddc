//! What a usable certificate still lacks.
//!
//! Found by `certs` when it loads a pair, and by `shown` when one grows old; told by `check`, at start, after a reload and
//! as time passes. Nothing here keeps a certificate from being served.

use std::path::{Path, PathBuf};

use time::{Duration, OffsetDateTime};

use super::chain::Chain;

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
    /// Every client that renews has done so by now.
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
    let leaf = &chain.leaf;
    let terms = terms(chain);
    let aged = terms.iter().filter_map(|term| term.warning(path, now));
    let mut warnings: Vec<Warning> = aged.collect();
    if !chain.was_in_order {
        warnings.push(Warning::OutOfOrder { path: path.into() });
    }
    if chain.issuers == 0 && !leaf.is_self_issued() {
        warnings.push(Warning::Incomplete {
            path: path.into(),
            issuer: leaf.issuer.text.clone(),
        });
    }
    if leaf.is_authority {
        warnings.push(Warning::AuthorityAsLeaf { path: path.into() });
    }
    if leaf.names.is_empty() {
        warnings.push(Warning::NoNames { path: path.into() });
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

/// When a certificate is valid.
#[derive(Clone, Debug)]
pub(super) struct Validity {
    subject: String,
    from: OffsetDateTime,
    pub(super) until: OffsetDateTime,
}

/// How far a certificate's time has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExpiryState {
    Young,
    /// It should have been renewed by now.
    Old,
    /// Somebody must do something.
    Late,
    Over,
}

/// The leaf's, then its issuers'.
pub(super) fn terms(chain: &Chain) -> Vec<Validity> {
    let issuers = chain.others.iter().take(chain.issuers);
    let all = std::iter::once(&chain.leaf).chain(issuers);
    let term = |certificate: &super::chain::Certificate| Validity {
        subject: certificate.subject.text.clone(),
        from: certificate.not_before,
        until: certificate.not_after,
    };
    all.map(term).collect()
}

impl Validity {
    pub(super) fn age(&self, now: OffsetDateTime) -> ExpiryState {
        let life = self.until - self.from;
        match self.until - now {
            left if left < Duration::ZERO => ExpiryState::Over,
            left if left < LATE.min(life / 12) => ExpiryState::Late,
            left if left < OLD.min(life / 4) => ExpiryState::Old,
            _ => ExpiryState::Young,
        }
    }

    pub(super) fn warning(&self, path: &Path, now: OffsetDateTime) -> Option<Warning> {
        let (path, subject) = (path.to_path_buf(), self.subject.clone());
        let (from, at) = (self.from, self.until);
        Some(match self.age(now) {
            ExpiryState::Over => Warning::Expired {
                path,
                subject,
                since: at,
            },
            _ if from > now => Warning::NotYetValid {
                path,
                subject,
                from,
            },
            ExpiryState::Old | ExpiryState::Late => Warning::ExpiresSoon { path, subject, at },
            ExpiryState::Young => return None,
        })
    }
}

/// ACME clients renew when a third is left; a certificate of a few days is not old on its first.
const OLD: Duration = Duration::days(21);
const LATE: Duration = Duration::days(7);
