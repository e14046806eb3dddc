//! The certificate that a site shows: handshakes take what is there when they begin, so a renewal disturbs nobody.
//!
//! Made by `snapshot`, and given to [`super::Tls`]; [`super::live`] changes it when its files do, `acme` when a new one is
//! issued, and a thread of `server` asks at intervals what has grown old. Nothing here logs.

use parking_lot::Mutex;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::certs::{CertifiedPair, Warning};
use super::warning::{ExpiryState, Validity};

/// A pair that can be replaced as a whole, so that no handshake sees a certificate with another's key. Until the first
/// one is issued there may be none; once there is one, there always is.
pub struct CertSlot {
    pair: ArcSwapOption<CertifiedPair>,
    /// How old the pair's certificates were when that was told, in the order of their terms.
    told: Mutex<Vec<ExpiryState>>,
}

impl CertSlot {
    /// Shows this pair, about whose age the caller tells now.
    pub fn new(pair: CertifiedPair, now: OffsetDateTime) -> Arc<Self> {
        let told = Mutex::new(ages(&pair, now));
        Arc::new(Self {
            pair: ArcSwapOption::from_pointee(pair),
            told,
        })
    }

    /// Shows nothing yet.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self {
            pair: ArcSwapOption::empty(),
            told: Mutex::default(),
        })
    }

    /// What new handshakes get.
    pub fn current(&self) -> Option<Arc<CertifiedPair>> {
        self.pair.load_full()
    }

    /// Whether there is nothing to show yet.
    pub fn is_empty(&self) -> bool {
        self.pair.load().is_none()
    }

    /// Whether this very chain is shown.
    pub(crate) fn holds(&self, pair: &CertifiedPair) -> bool {
        let shown = self.pair.load();
        shown
            .as_ref()
            .is_some_and(|shown| shown.chain() == pair.chain())
    }

    /// Shows this one from the next handshake on; the caller tells about its age.
    pub fn replace(&self, pair: CertifiedPair, now: OffsetDateTime) {
        let ages = ages(&pair, now);
        self.pair.store(Some(Arc::new(pair)));
        *self.told.lock() = ages;
    }

    /// When the first certificate of the chain expires; `None` while there is none.
    pub fn until(&self) -> Option<OffsetDateTime> {
        let pair = self.current()?;
        pair.terms().iter().map(|term| term.until).min()
    }

    /// What is wrong with the certificates' age at `now`, told or not. `path` is the certificate's.
    pub fn aged(&self, path: &Path, now: OffsetDateTime) -> Vec<Warning> {
        let Some(pair) = self.current() else {
            return Vec::new();
        };
        let terms = pair.terms().iter();
        terms.filter_map(|term| term.warning(path, now)).collect()
    }

    /// What there is to tell of the certificates' age that has not been told: once as the end comes near, once more
    /// shortly before it, and once when it is there. `path` is the certificate's.
    pub fn take_new_warnings(&self, path: &Path, now: OffsetDateTime) -> Vec<Warning> {
        let Some(pair) = self.current() else {
            return Vec::new();
        };
        let mut told = self.told.lock();
        let mut warnings = Vec::new();
        for (term, told) in pair.terms().iter().zip(told.iter_mut()) {
            let age = term.age(now);
            if age > *told {
                *told = age;
                warnings.extend(term.warning(path, now));
            }
        }
        warnings
    }
}

fn ages(pair: &CertifiedPair, now: OffsetDateTime) -> Vec<ExpiryState> {
    pair.terms()
        .iter()
        .map(|term: &Validity| term.age(now))
        .collect()
}

impl ResolvesServerCert for CertSlot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.pair.load().as_ref()?.certified()))
    }
}

impl fmt::Debug for CertSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.load().fmt(f)
    }
}
