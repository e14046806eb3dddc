//! [`ReloadingCert`], a certificate and a key in files that may change at any time, for example when certbot renews them.
//!
//! `snapshot` creates one for each pair of paths, and a thread of `server` calls [`ReloadingCert::poll`] at intervals. The
//! files are read only after two polls in a row have seen the same stamps of both files. What was read is used only if the
//! stamps are still the same and the key belongs to the certificate; until then, the last valid pair stays in use. Nothing here
//! logs, waits, or owns a thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::cert_slot::CertSlot;
use super::cert_warning::CertWarning;
use super::certified_pair::{Error, load_pair};
use crate::file_watch::{self, ChangeDetector, LoadedVersion, Seen, StableFiles};

/// A pair of files, and the slot with the certificate that was read from them.
#[derive(Debug)]
pub struct ReloadingCert {
    cert: PathBuf,
    key: PathBuf,
    slot: Arc<CertSlot>,
    /// Handshakes never take this lock, because its holder may wait for a disk.
    detector: Mutex<ChangeDetector<PairStamps>>,
}

/// The stamps of the certificate's file and of the key's file.
type PairStamps = (Seen, Seen);

/// The result of a poll.
#[derive(Debug)]
pub enum CertEvent {
    /// There is nothing to report.
    Unchanged,
    /// New handshakes use another certificate from now on, about which there are these warnings.
    Renewed(Vec<CertWarning>),
    /// The files cannot be used, and the last valid pair stays in use. Returned again only if the reason changes.
    Failed(Error),
    /// The files could not be used before, and now contain the pair in use again.
    Recovered,
}

/// The result of reading the files again for a new configuration.
#[derive(Debug)]
pub(crate) enum Reuse {
    /// The pair that is in the files now, and the warnings about it.
    Read(Arc<ReloadingCert>, Vec<CertWarning>),
    /// A file is being written. The pair in use stays, and a later poll will read what was written.
    Busy,
}

impl ReloadingCert {
    /// Reads both files now, even if they are being written.
    ///
    /// # Errors
    /// If a file cannot be used, or the key does not belong to the certificate.
    pub fn load(
        cert: &Path,
        key: &Path,
        now: OffsetDateTime,
    ) -> Result<(Arc<Self>, Vec<CertWarning>), Error> {
        let (pair, warnings) = load_pair(cert, key, now)?;
        let reloading = Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            slot: CertSlot::new(pair, now),
            detector: Mutex::new(ChangeDetector::new(None)),
        };
        Ok((Arc::new(reloading), warnings))
    }

    /// Reads both files again into a new `ReloadingCert`, if their stamps are those in `stable_files`. `self` does not change.
    ///
    /// # Errors
    /// As [`load`](Self::load), and only if the files are stable.
    pub(crate) fn reuse(
        &self,
        stable_files: &StableFiles,
        now: OffsetDateTime,
    ) -> Result<Reuse, Error> {
        let loaded = load_pair(&self.cert, &self.key, now);
        let stamps = self.stamps();
        let stable = (stable_files.seen(&self.cert), stable_files.seen(&self.key));
        if stable != (Some(stamps.0), Some(stamps.1)) {
            return Ok(Reuse::Busy);
        }
        let (pair, warnings) = loaded?;
        let reloading = Self {
            cert: self.cert.clone(),
            key: self.key.clone(),
            slot: CertSlot::new(pair, now),
            detector: Mutex::new(ChangeDetector::new(Some(stamps))),
        };
        Ok(Reuse::Read(Arc::new(reloading), warnings))
    }

    /// The path of the certificate's file.
    pub fn cert(&self) -> &Path {
        &self.cert
    }

    /// Whether these are the paths of the two files.
    pub fn is_of(&self, cert: &Path, key: &Path) -> bool {
        self.cert == cert && self.key == key
    }

    /// The slot from which handshakes take the certificate.
    pub fn slot(&self) -> &Arc<CertSlot> {
        &self.slot
    }

    /// Returns both files, with the stamps that they had when they were read.
    pub(crate) fn file_state(&self) -> [LoadedVersion; 2] {
        let read = self.detector.lock().read();
        let version = |path: &Path, read| LoadedVersion {
            path: path.to_owned(),
            read,
        };
        [
            version(&self.cert, read.map(|(cert, _)| cert)),
            version(&self.key, read.map(|(_, key)| key)),
        ]
    }

    /// Examines the stamps of both files, and reads the files if one has changed and both are the same as at the previous poll.
    pub fn poll(&self, now: OffsetDateTime) -> CertEvent {
        let mut detector = self.detector.lock();
        let stamps = self.stamps();
        if !detector.is_due(stamps) {
            return CertEvent::Unchanged;
        }
        let loaded = load_pair(&self.cert, &self.key, now);
        if self.stamps() != stamps {
            // A file has changed meanwhile, so one may be old and the other new. A later poll reads them when they are stable.
            return CertEvent::Unchanged;
        }
        let (pair, warnings) = match loaded {
            Ok(loaded) => loaded,
            Err(error) if detector.failed(error.to_string()) => return CertEvent::Failed(error),
            Err(_) => return CertEvent::Unchanged,
        };
        let has_recovered = detector.succeeded(stamps);
        if !self.slot.holds(&pair) {
            self.slot.replace(pair, now);
            return CertEvent::Renewed(warnings);
        }
        if has_recovered {
            return CertEvent::Recovered;
        }
        CertEvent::Unchanged
    }

    fn stamps(&self) -> PairStamps {
        (file_watch::poll(&self.cert), file_watch::poll(&self.key))
    }
}

#[cfg(test)]
mod tests;
