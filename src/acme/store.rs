//! What is kept between two runs, in `state.dir/acme`: an account for each directory, a file with certificate and key for
//! each host, and locks.
//!
//! Called by the rest of `acme`, always where blocking is allowed. Several gates may share the folder: who holds a host's
//! lock alone orders for it, and everyone reads what came of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::state_file::Lock;
use crate::text::to_hex;
use crate::tls::certs::{self, CertifiedPair};
use crate::{bounded_file, state_file};

/// The folder, as one directory's certificates see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Store {
    dir: PathBuf,
    /// Stands for the directory in file names: what a test directory issued is never taken for the real one's.
    mark: String,
}

/// Why what was issued is not in use.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaveError {
    #[error("{}: {cause}", path.display())]
    Write { path: PathBuf, cause: io::Error },
    #[error("what was issued cannot be used: {0}")]
    Unusable(#[from] certs::Error),
    #[error("what was issued is not for {0}")]
    Foreign(String),
}

impl Store {
    pub(super) fn new(state_dir: &Path, directory: &str) -> Self {
        let hash = digest(&SHA256, directory.as_bytes());
        let mark = hash.as_ref().get(..4).unwrap_or_default();
        Self {
            dir: state_dir.join("acme"),
            mark: to_hex(mark),
        }
    }

    /// 0700, where they are missing.
    pub(super) fn prepare(&self) -> io::Result<()> {
        for dir in ["certificates", "locks", "challenges"] {
            state_file::make_dir(&self.dir.join(dir))?;
        }
        Ok(())
    }

    pub(super) fn challenges(&self) -> PathBuf {
        self.dir.join("challenges")
    }

    /// The certificate of a host, when there is one.
    pub(super) fn load(
        &self,
        host: &str,
        now: OffsetDateTime,
    ) -> Result<Option<CertifiedPair>, certs::Error> {
        let path = self.certificate(host);
        match certs::load(&path, &path, now) {
            Ok((pair, _warnings)) => Ok(Some(pair)),
            Err(certs::Error::Unreadable { cause, .. })
                if cause.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Certificate and key are one file, so that no reader sees one without the other; a good one is never replaced by
    /// one that cannot be served.
    pub(super) fn save(
        &self,
        host: &str,
        chain: &str,
        key: &str,
        now: OffsetDateTime,
    ) -> Result<CertifiedPair, SaveError> {
        let content = Zeroizing::new(format!("{chain}\n{key}"));
        let path = self.certificate(host);
        let new = path.with_extension("new");
        write(&new, content.as_bytes())?;
        let loaded = certs::load(&new, &new, now);
        // Replaced by the next one, should it stay.
        let _ = fs::remove_file(&new);
        let (pair, _warnings) = loaded?;
        if !pair.covers(host) {
            return Err(SaveError::Foreign(host.to_owned()));
        }
        write(&path, content.as_bytes())?;
        Ok(pair)
    }

    /// `None` while another process orders for the host.
    pub(super) fn lock_host(&self, host: &str) -> io::Result<Option<Lock>> {
        self.lock(&format!("{host}-{}.lock", self.mark))
    }

    /// `None` while another process makes the account.
    pub(super) fn lock_account(&self) -> io::Result<Option<Lock>> {
        self.lock(&format!("account-{}.lock", self.mark))
    }

    fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        self.prepare()?;
        state_file::try_lock(&self.dir.join("locks").join(name))
    }

    /// The account's file, when there is one.
    pub(super) fn account(&self) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let read = bounded_file::read(&self.account_path(), MAX_ACCOUNT).map_err(io::Error::from);
        match read {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn save_account(&self, content: &[u8]) -> io::Result<()> {
        state_file::replace(&self.account_path(), content)
    }

    /// For an account that the authority does not know any more; the file is laid aside.
    pub(super) fn forget_account(&self) -> io::Result<()> {
        let path = self.account_path();
        fs::rename(&path, path.with_extension("lost"))
    }

    pub(super) fn account_path(&self) -> PathBuf {
        self.dir.join(format!("account-{}.json", self.mark))
    }

    pub(super) fn certificate(&self, host: &str) -> PathBuf {
        let name = format!("{host}-{}.pem", self.mark);
        self.dir.join("certificates").join(name)
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), SaveError> {
    state_file::replace(path, content).map_err(|cause| SaveError::Write {
        path: path.into(),
        cause,
    })
}

/// The largest accepted account file in bytes; an account has less than 1 KiB.
const MAX_ACCOUNT: u64 = 1 << 20;

#[cfg(test)]
mod tests;
