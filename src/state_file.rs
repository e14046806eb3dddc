//! The files that the proxy keeps in `state.dir`: mode 0600 unless they are public, written completely or not at all; and locks,
//! because several processes may share the directory.
//!
//! `tls` stores its CA with this module, `auth` the secret of its tokens, `acme` its account, certificates and challenges. This
//! module does not know the content.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use rustix::fs::{Access, access};
use rustix::io::Errno;

/// Creates `state.dir` with mode 0711, unless it exists. Other users may enter the directory but not list it: they can read the
/// public certificate of the proxy's own CA by its path, and every other file has mode 0600. The mode does not depend on the
/// umask; the mode of an existing directory is the operator's choice.
pub(crate) fn make_state_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    make_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))
}

/// Creates a directory and its parents with mode 0700, unless it exists.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Whether [`make_dir`] would succeed and files could be created in `dir`, judged by the rights of this process. Nothing is
/// created. A missing directory directly below `/var/lib` counts as existing, because systemd creates it for a service with
/// `StateDirectory=`, and `tidegate check` runs outside the service.
pub(crate) fn may_make(dir: &Path) -> io::Result<()> {
    let mut existing = dir;
    loop {
        match fs::metadata(existing) {
            Ok(metadata) if !metadata.is_dir() => return Err(Errno::NOTDIR.into()),
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

/// What an operator can do about an error of writing a file in a directory of the proxy.
pub(crate) fn write_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free space on the file system of this directory"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount the file system of this directory for reading and writing"
        }
        _ => "let the proxy's user read and write there",
    }
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

/// As [`try_lock`], but waits until the lock is free. After `timeout` the result is an error of the kind `TimedOut`.
pub(crate) fn lock(path: &Path, timeout: Duration) -> io::Result<Lock> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(lock) = try_lock(path)? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "another process holds the lock, and did not release it within {timeout:?}"
                ),
            ));
        }
        std::thread::park_timeout(LOCK_INTERVAL);
    }
}

/// The time between two attempts to take a lock. A CA or an account is created within some milliseconds.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Creates or replaces a file: after a crash it has either the old content or the new content. Two processes must not write the
/// same file at the same time; callers hold a lock, or use a name that no other process uses.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with_mode(path, content, 0o600)
}

/// As [`replace`], for a file that every user may read: mode 0644, whatever the umask is.
pub(crate) fn replace_public(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with_mode(path, content, 0o644)
}

fn replace_with_mode(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let draft = path.with_extension("draft");
    write_draft(&draft, content)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(mode))?;
    fs::rename(&draft, path)?;
    sync_dir(path)
}

/// Creates a file, unless it exists. If several processes do this at the same time, one of them creates the file, and all of
/// them find the same content afterwards.
pub(crate) fn make(path: &Path, content: &[u8]) -> io::Result<()> {
    // A random name, because a process id is not unique: each container that shares the directory may have a process 1.
    let mut suffix = [0; 8];
    rand::fill(&mut suffix)
        .map_err(|Unspecified| io::Error::other("the system provides no random bytes"))?;
    let suffix = u64::from_be_bytes(suffix);
    let draft = path.with_extension(format!("draft-{suffix:016x}"));
    // Unlike a rename, a hard link fails if the name exists.
    let linked = write_draft(&draft, content).and_then(|()| fs::hard_link(&draft, path));
    // The draft has a name of its own at each attempt, so the attempts on a full disk would leave one secret each.
    let removed = fs::remove_file(&draft);
    match linked.and(removed) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(path)
}

/// Writes and syncs a file that has mode 0600 from its creation on.
fn write_draft(draft: &Path, content: &[u8]) -> io::Result<()> {
    // A file that a crash left behind may have another mode or owner.
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

/// Writes the directory entry of a new name to the disk, which syncing the file does not do (fsync(2)).
fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_matter_of_permissions() {
        let remedy = |errno: Errno| write_remedy(&errno.into());
        assert!(remedy(Errno::ACCESS).starts_with("let the proxy's user"));
        assert!(remedy(Errno::NOSPC).starts_with("free space"));
        assert!(remedy(Errno::DQUOT).starts_with("free space"));
        assert!(remedy(Errno::ROFS).starts_with("mount"));
    }

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped_and_waiting_times_out() {
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
