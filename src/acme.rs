//! Certificates from a certificate authority that speaks ACME (RFC 8555), got and renewed without anyone's doing.
//!
//! `snapshot` makes an [`Acme`] from the sites with `tls = "acme"`; `server` calls [`Renewals::turn`] again and again on
//! the main runtime, with the snapshot of that moment. What is issued goes into the [`CertSlot`] that handshakes look at, and
//! into a file. Nothing of this is on the way of a request: the authority's questions are answered by
//! [`tls::challenges`](crate::tls::challenges).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use crate::tls::certs::{self, CertifiedPair};
use crate::tls::challenges::{AlpnChallengeResolver, Challenges};
use crate::tls::normal;
use crate::tls::shown::CertSlot;
use crate::upstream::ServerRoots;

mod account;
mod attempt;
mod failure;
mod order;
mod renewals;
mod schedule;
mod store;
mod web;

pub use renewals::Renewals;
use store::Store;

/// Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Who issues, and what it is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory's URL, https.
    pub directory: String,
    /// Where the authority may write to.
    pub email: Option<String>,
    /// Whose certificate the directory itself must show.
    pub trust: ServerRoots,
    /// Whether there is a plain HTTP listener, so that http-01 can be tried.
    pub http: bool,
}

/// A host, and what is shown for it: nothing until its first certificate.
pub struct ManagedHost {
    /// Lower case, without a trailing dot.
    host: String,
    shown: Arc<CertSlot>,
}

impl ManagedHost {
    /// Lower case, without a trailing dot.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What handshakes get.
    pub fn shown(&self) -> &Arc<CertSlot> {
        &self.shown
    }
}

impl fmt::Debug for ManagedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({}, {:?})", self.host, self.shown)
    }
}

/// The hosts of one snapshot that want certificates, and where they come from.
#[derive(Debug)]
pub struct Acme {
    settings: Settings,
    store: Store,
    challenges: Arc<Challenges>,
    hosts: Vec<Arc<ManagedHost>>,
}

impl Acme {
    /// Knows of no host yet. What `old` has in use for the same directory and folder is taken over.
    pub fn new(settings: Settings, state_dir: &Path, old: Option<&Self>) -> Self {
        let store = Store::new(state_dir, &settings.directory);
        let old = old.filter(|old| old.store == store);
        let challenges = old.map_or_else(
            || Arc::new(Challenges::new(store.challenges())),
            |old| Arc::clone(&old.challenges),
        );
        Self {
            settings,
            store,
            challenges,
            hosts: Vec::new(),
        }
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn prepare(&self) -> io::Result<()> {
        self.store.prepare()
    }

    /// A host, with the certificate in use, else the one that is stored, else none yet. `shown` is what clients of the host
    /// have seen so far, wherever it came from: they go on seeing it until there is one from this directory.
    ///
    /// Beside it why a stored one cannot be used; a new one is ordered then.
    pub fn add(
        &mut self,
        host: &str,
        old: Option<&Self>,
        shown: Option<Arc<CertifiedPair>>,
        now: OffsetDateTime,
    ) -> (Arc<ManagedHost>, Option<certs::Error>) {
        let host = normal(host);
        let same = |known: &&Arc<ManagedHost>| known.host == host;
        if let Some(known) = self.hosts.iter().find(same) {
            return (Arc::clone(known), None);
        }
        let old = old.filter(|old| old.store == self.store);
        if let Some(known) = old.and_then(|old| old.hosts.iter().find(same)) {
            self.hosts.push(Arc::clone(known));
            return (Arc::clone(known), None);
        }
        let (stored, error) = match self.store.load(&host, now) {
            Ok(stored) => (stored, None),
            Err(error) => (None, Some(error)),
        };
        let is_good = |pair: &Arc<CertifiedPair>| pair.covers(&host) && pair.not_after() > now;
        let meanwhile = || Some((*shown.filter(is_good)?).clone());
        let pair = stored.or_else(meanwhile);
        let shown = pair.map_or_else(CertSlot::empty, |pair| CertSlot::new(pair, now));
        let kept = Arc::new(ManagedHost { host, shown });
        self.hosts.push(Arc::clone(&kept));
        (kept, error)
    }

    /// Where a host's certificate and key are kept.
    pub fn file(&self, kept: &ManagedHost) -> PathBuf {
        self.store.certificate(&kept.host)
    }

    /// For handshakes.
    pub fn answering(&self) -> AlpnChallengeResolver {
        let hosts = self.hosts.iter().map(|kept| kept.host.clone());
        AlpnChallengeResolver::new(Arc::clone(&self.challenges), hosts.collect())
    }

    /// What the authority is answered.
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }
}
