//! The hosts of one snapshot whose certificates come from a certificate authority.
//!
//! `snapshot` builds an [`Acme`] while it builds a configuration; `renewal` orders what is missing while the proxy serves.
//! Nothing in this file sends a request to the certificate authority.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use super::challenges::{AlpnChallengeResolver, Challenges};
use super::store::Store;
use crate::net::host::normalize_host;
use crate::tls::{AlpnChallenges, CertSlot, CertificateError, CertifiedPair};
use crate::upstream::ServerRoots;

/// The directory URL of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The settings of the `[acme]` table.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The https URL of the ACME directory, which identifies the certificate authority.
    pub directory: String,
    /// The e-mail address for messages of the certificate authority.
    pub email: Option<String>,
    /// The roots that verify the certificate of the ACME directory itself.
    pub roots: ServerRoots,
    /// Whether there is a plain HTTP listener, so that http-01 challenges are possible.
    pub has_http_listener: bool,
}

/// A host whose certificate is ordered and renewed over ACME.
pub struct ManagedHost {
    host: String,
    /// Empty until the first certificate is issued.
    slot: Arc<CertSlot>,
}

impl ManagedHost {
    pub(super) fn new(host: String, slot: Arc<CertSlot>) -> Self {
        Self { host, slot }
    }

    /// The host name in lower case, without a trailing dot.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The slot from which handshakes take the certificate.
    pub fn slot(&self) -> &Arc<CertSlot> {
        &self.slot
    }
}

impl fmt::Debug for ManagedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManagedHost({}, {:?})", self.host, self.slot)
    }
}

/// The settings, the files and the managed hosts of one snapshot.
#[derive(Debug)]
pub struct Acme {
    settings: Settings,
    store: Store,
    challenges: Arc<Challenges>,
    hosts: Vec<Arc<ManagedHost>>,
}

impl Acme {
    /// Creates an `Acme` without hosts. It takes over the open challenges of `old` if `old` has the same ACME directory and
    /// the same `state_dir`.
    pub fn new(settings: Settings, state_dir: &Path, old: Option<&Self>) -> Self {
        let store = Store::new(state_dir, &settings.directory);
        let old = old.filter(|old| old.store == store);
        let challenges = old.map_or_else(
            || Arc::new(Challenges::new(store.challenges_dir())),
            |old| Arc::clone(&old.challenges),
        );
        Self {
            settings,
            store,
            challenges,
            hosts: Vec::new(),
        }
    }

    /// Creates the directories.
    ///
    /// # Errors
    /// If a directory cannot be created.
    pub fn prepare(&self) -> io::Result<()> {
        self.store.prepare()
    }

    /// Adds a host. Its slot has the certificate that `old` uses for it, else the stored one, else `current`, else none.
    ///
    /// `current` is the certificate that clients of the host get at present, whatever its source. It stays in use until a
    /// certificate of this ACME directory is issued.
    ///
    /// Returns an error in addition to the host if the stored certificate cannot be used; a new one is then ordered.
    pub fn add(
        &mut self,
        host: &str,
        old: Option<&Self>,
        current: Option<Arc<CertifiedPair>>,
        now: OffsetDateTime,
    ) -> (Arc<ManagedHost>, Option<CertificateError>) {
        let host = normalize_host(host);
        let is_same = |known: &&Arc<ManagedHost>| known.host == host;
        if let Some(known) = self.hosts.iter().find(is_same) {
            return (Arc::clone(known), None);
        }
        let old = old.filter(|old| old.store == self.store);
        if let Some(known) = old.and_then(|old| old.hosts.iter().find(is_same)) {
            self.hosts.push(Arc::clone(known));
            return (Arc::clone(known), None);
        }
        let (stored, error) = match self.store.load(&host, now) {
            Ok(stored) => (stored, None),
            Err(error) => (None, Some(error)),
        };
        let is_valid = |pair: &Arc<CertifiedPair>| pair.covers(&host) && pair.not_after() > now;
        let interim = || Some((*current.filter(is_valid)?).clone());
        let pair = stored.or_else(interim);
        let slot = pair.map_or_else(CertSlot::empty, |pair| CertSlot::new(pair, now));
        let managed = Arc::new(ManagedHost::new(host, slot));
        self.hosts.push(Arc::clone(&managed));
        (managed, error)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn hosts(&self) -> &[Arc<ManagedHost>] {
        &self.hosts
    }

    /// The file with the certificate and the key of a host.
    pub fn certificate_file(&self, host: &ManagedHost) -> PathBuf {
        self.store.certificate_path(&host.host)
    }

    /// The open challenges.
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// Returns the source of TLS configurations for tls-alpn-01 challenges about the managed hosts.
    pub fn alpn_challenges(&self) -> Arc<dyn AlpnChallenges> {
        let hosts = self.hosts.iter().map(|managed| managed.host.clone());
        Arc::new(AlpnChallengeResolver::new(
            Arc::clone(&self.challenges),
            hosts.collect(),
        ))
    }
}
