//! The certificate that a site shows: handshakes take what is there when they begin, so a renewal disturbs nobody.
//!
//! Made by `snapshot`, and given to [`super::Tls`]; [`super::live`] changes it when its files do, and a thread of
//! `server` asks at intervals what has grown old. Nothing here logs.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::certs::{Pair, Warning};
use super::warning::{Age, Term};

/// A pair that can be replaced as a whole, so that no handshake sees a certificate with another's key.
pub struct Shown {
    pair: ArcSwap<Pair>,
    /// How old the pair's certificates were when that was told, in the order of their terms.
    told: Mutex<Vec<Age>>,
}

impl Shown {
    /// Shows this pair, about whose age the caller tells now.
    pub fn new(pair: Pair, now: OffsetDateTime) -> Arc<Self> {
        let told = Mutex::new(ages(&pair, now));
        Arc::new(Self {
            pair: ArcSwap::from_pointee(pair),
            told,
        })
    }

    /// What new handshakes get.
    pub fn current(&self) -> Arc<Pair> {
        self.pair.load_full()
    }

    /// Shows this one from the next handshake on; the caller tells about its age.
    pub fn show(&self, pair: Pair, now: OffsetDateTime) {
        let ages = ages(&pair, now);
        self.pair.store(Arc::new(pair));
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = ages;
    }

    /// When the first certificate of the chain expires.
    pub fn until(&self) -> OffsetDateTime {
        let pair = self.current();
        let all = pair.terms().iter().map(|term| term.until);
        all.min().unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// What is wrong with the certificates' age at `now`, told or not. `path` is the certificate's.
    pub fn aged(&self, path: &Path, now: OffsetDateTime) -> Vec<Warning> {
        let pair = self.current();
        let terms = pair.terms().iter();
        terms.filter_map(|term| term.warning(path, now)).collect()
    }

    /// What there is to tell of the certificates' age that has not been told: once as the end comes near, once more
    /// shortly before it, and once when it is there. `path` is the certificate's.
    pub fn aging(&self, path: &Path, now: OffsetDateTime) -> Vec<Warning> {
        let pair = self.current();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
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

fn ages(pair: &Pair, now: OffsetDateTime) -> Vec<Age> {
    pair.terms()
        .iter()
        .map(|term: &Term| term.age(now))
        .collect()
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.pair.load().certified()))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.load().fmt(f)
    }
}
