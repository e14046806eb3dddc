//! A certificate and its key in files that may change at any time, as a renewal leaves them.
//!
//! `snapshot` makes one for each pair of paths, and a thread of `server` calls [`ReloadingCert::look`] at intervals. The files
//! are read only after two looks in a row saw both the same, and what is read is shown only if they still are and fit:
//! until then the last good pair stays. Nothing here logs, waits, or has a thread.

use parking_lot::{Mutex, MutexGuard};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use super::certs::{self, Error, Warning};
use super::shown::CertSlot;
use crate::file_watch;
use crate::file_watch::{ChangeDetector, LoadedVersion, Seen, StableFiles};

/// A pair of files, and what is shown of it.
#[derive(Debug)]
pub struct ReloadingCert {
    cert: PathBuf,
    key: PathBuf,
    shown: Arc<CertSlot>,
    /// Handshakes never wait for it: whoever holds it may be waiting for a disk.
    watched: Mutex<ChangeDetector<PairWatch>>,
}

/// The certificate's file and the key's.
type PairWatch = (Seen, Seen);

/// What a look found.
#[derive(Debug)]
pub enum CertEvent {
    /// Nothing that has not been told.
    Unchanged,
    /// New handshakes get another certificate from now on, with these faults.
    Renewed(Vec<Warning>),
    /// The files cannot be used; the last good pair stays. Told again only when the reason is another.
    Failed(Error),
    /// The files can be used again, and hold what they held.
    Recovered,
}

/// What a reload found.
#[derive(Debug)]
pub(crate) enum Reuse {
    /// The pair as it is in the files now, and its faults.
    Read(Arc<ReloadingCert>, Vec<Warning>),
    /// The files are being written: what is shown stays, and a later look finds what has been written.
    Busy,
}

impl ReloadingCert {
    /// Reads both files now, whoever may be writing them.
    ///
    /// # Errors
    /// When a file cannot be used, or the two do not belong together.
    pub fn load(
        cert: &Path,
        key: &Path,
        now: OffsetDateTime,
    ) -> Result<(Arc<Self>, Vec<Warning>), Error> {
        let (pair, warnings) = certs::load(cert, key, now)?;
        let live = Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            shown: CertSlot::new(pair, now),
            watched: Mutex::new(ChangeDetector::new(None)),
        };
        Ok((Arc::new(live), warnings))
    }

    /// Reads both files anew, beside this pair, if they are what was seen of them in quiet.
    ///
    /// # Errors
    /// As [`load`](Self::load), and only when nobody is writing.
    pub(crate) fn reuse(&self, quiet: &StableFiles, now: OffsetDateTime) -> Result<Reuse, Error> {
        let loaded = certs::load(&self.cert, &self.key, now);
        let seen = self.see();
        let known = (quiet.seen(&self.cert), quiet.seen(&self.key));
        if known != (Some(seen.0), Some(seen.1)) {
            return Ok(Reuse::Busy);
        }
        let (pair, warnings) = loaded?;
        let live = Self {
            cert: self.cert.clone(),
            key: self.key.clone(),
            shown: CertSlot::new(pair, now),
            watched: Mutex::new(ChangeDetector::new(Some(seen))),
        };
        Ok(Reuse::Read(Arc::new(live), warnings))
    }

    /// The certificate's file.
    pub fn cert(&self) -> &Path {
        &self.cert
    }

    /// Whether these are its files.
    pub fn is_of(&self, cert: &Path, key: &Path) -> bool {
        self.cert == cert && self.key == key
    }

    /// What handshakes get.
    pub fn shown(&self) -> &Arc<CertSlot> {
        &self.shown
    }

    /// Both files, and the stamps under which they were read.
    pub(crate) fn file_state(&self) -> [LoadedVersion; 2] {
        let read = self.watched().read();
        let known = |path: &Path, read| LoadedVersion {
            path: path.to_owned(),
            read,
        };
        [
            known(&self.cert, read.map(|(cert, _)| cert)),
            known(&self.key, read.map(|(_, key)| key)),
        ]
    }

    /// Looks at the files, and reads them when one has changed and both have then been quiet since the look before.
    pub fn poll(&self, now: OffsetDateTime) -> CertEvent {
        let mut watch = self.watched();
        let seen = self.see();
        if !watch.is_due(seen) {
            return CertEvent::Unchanged;
        }
        let loaded = certs::load(&self.cert, &self.key, now);
        if self.see() != seen {
            // Perhaps the one of before and the other of after: a later look sees them quiet.
            return CertEvent::Unchanged;
        }
        let (pair, warnings) = match loaded {
            Ok(loaded) => loaded,
            Err(error) if watch.failed(error.to_string()) => return CertEvent::Failed(error),
            Err(_) => return CertEvent::Unchanged,
        };
        let has_recovered = watch.succeeded(seen);
        if !self.shown.holds(&pair) {
            self.shown.replace(pair, now);
            return CertEvent::Renewed(warnings);
        }
        if has_recovered {
            return CertEvent::Recovered;
        }
        CertEvent::Unchanged
    }

    fn see(&self) -> PairWatch {
        (file_watch::poll(&self.cert), file_watch::poll(&self.key))
    }

    fn watched(&self) -> MutexGuard<'_, ChangeDetector<PairWatch>> {
        self.watched.lock()
    }
}

#[cfg(test)]
mod tests;
