//! Files that the proxy itself keeps in `state.dir`: readable by their owner alone, written completely or not at all, and
//! locks, since several processes may share the directory.
//!
//! `tls` keeps its CA in them, `auth` the secret of its tokens, `acme` its account and certificates. What they mean is known
//! there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

use rustix::fs::{Access, access};
use rustix::io::Errno;

/// 0700, unless it is there already.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Whether [`make_dir`] would succeed and files could be made in `dir`, judged by the rights of this process; nothing is
/// made. A directory that is missing directly below `/var/lib` counts as there: systemd makes it for a service with
/// `StateDirectory=`, and `check` runs outside of the service.
pub(crate) fn may_make(dir: &Path) -> io::Result<()> {
    let mut existing = dir;
    loop {
        match fs::metadata(existing) {
            Ok(found) if !found.is_dir() => return Err(Errno::NOTDIR.into()),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        existing = match existing.parent() {
            Some(parent) if parent == Path::new("/var/lib") => return Ok(()),
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
    }
    Ok(access(existing, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// An exclusive lock (flock(2)) on a file that exists for the lock alone. The operating system releases the lock when the
/// value is dropped, and when the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes the lock on a file, which is created if necessary; `None` while another process or thread holds the lock.
pub(crate) fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// As [`try_lock`], but waits until the lock is free. After `patience` the result is an error of the kind `TimedOut`.
pub(crate) fn lock(path: &Path, patience: Duration) -> io::Result<Lock> {
    let until = Instant::now() + patience;
    loop {
        if let Some(lock) = try_lock(path)? {
            return Ok(lock);
        }
        if Instant::now() >= until {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "another process holds the lock, and did not release it within {patience:?}"
                ),
            ));
        }
        std::thread::park_timeout(LOCK_INTERVAL);
    }
}

/// The time between two attempts to take a lock. A CA or an account is created within some milliseconds.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Writes a file, or replaces it: after a crash either the old content or the new content is there. Two processes must not
/// write the same file at the same time; callers hold a lock, or use a name that no other process uses.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    write_draft(&draft, content)?;
    fs::rename(&draft, path)?;
    sync_dir(path)
}

/// Creates a file, unless it exists: of several processes that do so at the same time, one succeeds, and all of them find the
/// same content.
pub(crate) fn make(path: &Path, content: &[u8]) -> io::Result<()> {
    // A random name, because a process id is not unique: each container that shares the directory may have a process 1.
    let mut suffix = [0; 8];
    rand::fill(&mut suffix)
        .map_err(|Unspecified| io::Error::other("the system provides no random bytes"))?;
    let suffix = u64::from_be_bytes(suffix);
    let draft = path.with_extension(format!("draft-{suffix:016x}"));
    write_draft(&draft, content)?;
    // Unlike a rename, a link takes no name that is taken.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(path)
}

/// 0600 from the first moment.
fn write_draft(draft: &Path, content: &[u8]) -> io::Result<()> {
    // What a crash left behind may have another mode or owner.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The new name itself must be on the disk (fsync(2)).
fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped_and_waiting_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let held = lock(&path, Duration::ZERO).unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        let error = lock(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(&path, Duration::from_secs(30)).is_ok());
            drop(held);
            assert!(waiting.join().unwrap());
        });
    }
}
