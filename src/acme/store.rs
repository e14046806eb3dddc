//! The files in `state.dir/acme`: one account per ACME directory, one file with certificate and key per host, and locks.
//!
//! The other files of `acme` call it, always on a thread that may block. Several instances of the proxy may share the
//! directory: only the instance that holds a host's lock orders a certificate for it, and all instances read the result.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::state_file::Lock;
use crate::tls::{CertificateError, CertifiedPair, PemError, load_pair};
use crate::{bounded_file, state_file};

/// The files of one ACME directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Store {
    dir: PathBuf,
    /// A hash of the ACME directory's URL, which is part of every file name. It separates the certificates of a test directory
    /// from those of the production directory.
    directory_id: String,
}

/// The reason why an issued certificate is not in use.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaveError {
    #[error("{}: {cause}; {}", path.display(), state_file::write_remedy(cause))]
    Write { path: PathBuf, cause: io::Error },
    #[error("the issued certificate cannot be used: {0}")]
    Unusable(#[from] CertificateError),
    #[error("the issued certificate does not name {0}")]
    WrongHost(String),
}

impl Store {
    pub(super) fn new(state_dir: &Path, directory_url: &str) -> Self {
        let hash = digest(&SHA256, directory_url.as_bytes());
        let prefix = hash.as_ref().iter().take(4);
        Self {
            dir: state_dir.join("acme"),
            directory_id: prefix.map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// Creates missing directories with mode 0700.
    pub(super) fn prepare(&self) -> io::Result<()> {
        if let Some(state_dir) = self.dir.parent() {
            state_file::make_state_dir(state_dir)?;
        }
        for dir in ["certificates", "locks", "challenges"] {
            state_file::make_dir(&self.dir.join(dir))?;
        }
        Ok(())
    }

    pub(super) fn challenges_dir(&self) -> PathBuf {
        self.dir.join("challenges")
    }

    /// Loads the certificate of a host, if there is one.
    pub(super) fn load(
        &self,
        host: &str,
        now: OffsetDateTime,
    ) -> Result<Option<CertifiedPair>, CertificateError> {
        let path = self.certificate_path(host);
        match load_pair(&path, &path, now) {
            Ok((pair, _warnings)) => Ok(Some(pair)),
            Err(CertificateError::Pem(PemError::Unreadable { cause, .. }))
                if cause.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a certificate could be stored now. Called before an order, because a certificate that cannot be stored is ordered
    /// again, and CAs limit the number of orders.
    pub(super) fn check_space(&self, host: &str) -> io::Result<()> {
        let path = self.certificate_path(host).with_extension("new");
        let written = state_file::replace(&path, &[b'\n'; USUAL_CERTIFICATE_BYTES]);
        // If the file cannot be removed, the order replaces it.
        let _ = fs::remove_file(&path);
        written
    }

    /// Stores an issued certificate. Certificate and key are in one file, so that no reader finds one without the other. The
    /// file is checked before it replaces the stored one, so a valid certificate is never replaced by one that cannot be served.
    pub(super) fn save(
        &self,
        host: &str,
        chain: &str,
        key: &str,
        now: OffsetDateTime,
    ) -> Result<CertifiedPair, SaveError> {
        let content = Zeroizing::new(format!("{chain}\n{key}"));
        let path = self.certificate_path(host);
        let unchecked = path.with_extension("new");
        write(&unchecked, content.as_bytes())?;
        let loaded = load_pair(&unchecked, &unchecked, now);
        // If the file cannot be removed, the next order replaces it.
        let _ = fs::remove_file(&unchecked);
        let (pair, _warnings) = loaded?;
        if !pair.covers(host) {
            return Err(SaveError::WrongHost(host.to_owned()));
        }
        write(&path, content.as_bytes())?;
        Ok(pair)
    }

    /// Takes the lock under which a certificate is ordered. Returns `None` if another process holds it.
    pub(super) fn lock_host(&self, host: &str) -> io::Result<Option<Lock>> {
        self.lock(&format!("{host}-{}.lock", self.directory_id))
    }

    /// Takes the lock under which the account is created. Returns `None` if another task or process holds it.
    pub(super) fn lock_account(&self) -> io::Result<Option<Lock>> {
        self.lock(&format!("account-{}.lock", self.directory_id))
    }

    fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        self.prepare()?;
        state_file::try_lock(&self.dir.join("locks").join(name))
    }

    /// Reads the file of the account, if there is one.
    pub(super) fn account(&self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let read = bounded_file::read(&self.account_path(), MAX_ACCOUNT_BYTES);
        match read.map_err(io::Error::from) {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn save_account(&self, content: &[u8]) -> io::Result<()> {
        state_file::replace(&self.account_path(), content)
    }

    /// Renames the file of an account that the certificate authority does not know any more.
    pub(super) fn set_account_aside(&self) -> io::Result<()> {
        let path = self.account_path();
        fs::rename(&path, path.with_extension("lost"))
    }

    pub(super) fn account_path(&self) -> PathBuf {
        self.dir.join(format!("account-{}.json", self.directory_id))
    }

    pub(super) fn certificate_path(&self, host: &str) -> PathBuf {
        let name = format!("{host}-{}.pem", self.directory_id);
        self.dir.join("certificates").join(name)
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), SaveError> {
    state_file::replace(path, content).map_err(|cause| SaveError::Write {
        path: path.into(),
        cause,
    })
}

/// More than the size of a chain with its key in PEM form.
const USUAL_CERTIFICATE_BYTES: usize = 32 * 1024;
/// The largest accepted account file in bytes; an account has less than 1 KiB.
const MAX_ACCOUNT_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn store(dir: &TempDir, directory_url: &str) -> Store {
        let store = Store::new(dir.path(), directory_url);
        store.prepare().unwrap();
        store
    }

    fn issue(host: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn the_lock_is_per_host_and_acme_directory() {
        let dir = TempDir::new().unwrap();
        let (one, same, other) = (store(&dir, "a"), store(&dir, "a"), store(&dir, "b"));
        let lock = one.lock_host("a.test").unwrap().unwrap();
        assert!(same.lock_host("a.test").unwrap().is_none());
        assert!(same.lock_host("b.test").unwrap().is_some());
        assert!(other.lock_host("a.test").unwrap().is_some());
        drop(lock);
        assert!(same.lock_host("a.test").unwrap().is_some());
    }

    #[test]
    fn a_certificate_that_cannot_be_served_replaces_nothing() {
        let dir = TempDir::new().unwrap();
        let store = store(&dir, "a");
        assert!(store.load("a.test", now()).unwrap().is_none());
        let (chain, key) = issue("a.test");
        store.save("a.test", &chain, &key, now()).unwrap();
        let (foreign, foreign_key) = issue("b.test");
        for (chain, key) in [
            (&chain, &foreign_key),
            (&foreign, &foreign_key),
            (&String::new(), &key),
        ] {
            assert!(store.save("a.test", chain, key, now()).is_err());
        }
        let stored = store.load("a.test", now()).unwrap().unwrap();
        assert!(stored.covers("a.test"));
    }

    #[test]
    fn an_unknown_account_is_set_aside() {
        let dir = TempDir::new().unwrap();
        let store = store(&dir, "a");
        assert!(store.account().unwrap().is_none());
        store.save_account(b"{}").unwrap();
        assert_eq!(store.account().unwrap().unwrap().as_slice(), b"{}");
        store.set_account_aside().unwrap();
        assert!(store.account().unwrap().is_none());
        assert!(store.account_path().with_extension("lost").exists());
    }
}
