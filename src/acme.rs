//! Certificates from a certificate authority that speaks ACME (RFC 8555), got and renewed without anyone's doing.
//!
//! `snapshot` makes an [`Acme`] from the sites with `tls = "acme"`; `server` calls [`Renewals::turn`] again and again on
//! the main runtime, with the snapshot of that moment. What is issued goes into the [`Kept`] that handshakes look at, and
//! into a file. Nothing of this is on the way of a request: the authority's questions are answered by
//! [`tls::challenges`](crate::tls::challenges).

use std::io;
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::tls::certs;
use crate::tls::challenges::Challenges;
use crate::tls::kept::Kept;
use crate::upstream::Trust;

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
    pub trust: Trust,
    /// Whether there is a plain HTTP listener, so that http-01 can be tried.
    pub http: bool,
}

/// The hosts of one snapshot that want certificates, and where they come from.
#[derive(Debug)]
pub struct Acme {
    settings: Settings,
    store: Store,
    challenges: Arc<Challenges>,
    hosts: Vec<Arc<Kept>>,
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

    /// A host's certificate: the one in use, else the one that is stored, else none yet.
    ///
    /// # Errors
    /// When there is a stored one that cannot be used. The host is added all the same, and gets a new one.
    pub fn add(
        &mut self,
        host: &str,
        old: Option<&Self>,
        now: OffsetDateTime,
    ) -> Result<Arc<Kept>, (Arc<Kept>, certs::Error)> {
        let kept = Kept::new(host);
        let same = |known: &&Arc<Kept>| known.host() == kept.host();
        if let Some(known) = self.hosts.iter().find(same) {
            return Ok(Arc::clone(known));
        }
        let old = old.filter(|old| old.store == self.store);
        if let Some(known) = old.and_then(|old| old.hosts.iter().find(same)) {
            self.hosts.push(Arc::clone(known));
            return Ok(Arc::clone(known));
        }
        let loaded = self.store.load(kept.host(), now);
        let kept = Arc::new(kept);
        self.hosts.push(Arc::clone(&kept));
        match loaded {
            Ok(pair) => {
                if let Some(pair) = pair {
                    kept.set(pair);
                }
                Ok(kept)
            }
            Err(error) => Err((kept, error)),
        }
    }

    /// What the authority is answered.
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }
}
