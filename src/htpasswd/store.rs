//! A password file on disk, replaced as a whole: whoever reads it sees the old text or the new one.
//!
//! For `cli`; what changes in the text is `edit`'s. The gate itself only reads, and needs no lock: a rename is atomic.
//!
//! Writers exclude each other by a lock on the file itself. A rename leaves that lock with the old text, so whoever
//! got it looks whether the file still has its name, and else tries again with the new one. A lock on a file beside it
//! would stay behind for ever, and one on the directory could be held by every user who may list it. A new file needs
//! no lock: of two that create it, the second is told by the rename, and edits what the first one wrote.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::MAX_FILE;
use super::edit::Edited;
use crate::bounded_file::{ReadError, RegularFile};

mod beside;
mod problem;

use beside::Beside;
pub use problem::Problem;

/// The whole text, without a lock.
pub fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    content(&open(path)?, path)
}

/// The text before an edit, none for a file that is still to be created. Finds early what would stop the edit, so
/// that nobody types a password for nothing.
pub fn read_to_edit(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    let target = follow(path)?;
    let text = match read(&target) {
        Err(Problem::Missing { .. }) => None,
        text => Some(text?),
    };
    let directory = directory(&target);
    access(directory, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|errno| Problem::in_directory(directory, errno.into()))?;
    Ok(text)
}

/// Replaces the text by what `edit` makes of it, if it makes anything. Waits at most `wait` for other writers.
pub fn update(
    path: &Path,
    wait: Duration,
    edit: impl Fn(&[u8]) -> Option<Edited>,
) -> Result<Option<Edited>, Problem> {
    let target = follow(path)?;
    let old = lock(&target, wait)?;
    let Some(edited) = edit(&content(&old, &target)?) else {
        return Ok(None);
    };
    let mut new = Beside::create(&target, beside::PRIVATE)?;
    new.copy_metadata(old.file())?;
    new.write(&edited.bytes)?;
    new.replace()?;
    Ok(Some(edited))
}

/// As [`update`], or creates the file from an empty text; says whether it did. A new file has mode 0640 less the
/// umask: the gate reads it by its group, and nobody else does.
pub fn update_or_create(
    path: &Path,
    wait: Duration,
    edit: impl Fn(&[u8]) -> Edited,
) -> Result<(Edited, bool), Problem> {
    for _ in 0..ATTEMPTS {
        match update(path, wait, |text| Some(edit(text))) {
            Ok(Some(edited)) => return Ok((edited, false)),
            Ok(None) | Err(Problem::Missing { .. }) => {}
            Err(problem) => return Err(problem),
        }
        let edited = edit(b"");
        let target = follow(path)?;
        let mut new = Beside::create(&target, beside::SHARED)?;
        new.write(&edited.bytes)?;
        if new.persist()? {
            return Ok((edited, true));
        }
    }
    Err(Problem::Locked {
        path: path.into(),
        wait,
    })
}

/// What a symbolic link leads to, whether it exists or not: the link stays, and its target is replaced.
fn follow(path: &Path) -> Result<PathBuf, Problem> {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(next) => target = directory(&target).join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(Problem::failed("follow", path, Errno::LOOP.into()))
}

fn open(path: &Path) -> Result<RegularFile, Problem> {
    RegularFile::open(path).map_err(|error| failed_read(path, error))
}

fn content(file: &RegularFile, path: &Path) -> Result<Vec<u8>, Problem> {
    file.read(MAX_FILE)
        .map_err(|error| failed_read(path, error))
}

fn failed_read(path: &Path, error: ReadError) -> Problem {
    match error {
        ReadError::NotRegular => Problem::NotAFile { path: path.into() },
        ReadError::TooLarge { .. } => Problem::TooLarge { path: path.into() },
        ReadError::Io(source) if source.kind() == ErrorKind::NotFound => {
            Problem::Missing { path: path.into() }
        }
        ReadError::Io(source) => Problem::failed("read", path, source),
    }
}

/// The file that has this name, locked until it is closed.
fn lock(target: &Path, wait: Duration) -> Result<RegularFile, Problem> {
    let until = Instant::now() + wait;
    loop {
        if let Some(file) = try_lock(open(target)?, target)? {
            return Ok(file);
        }
        if Instant::now() >= until {
            let path = target.into();
            return Err(Problem::Locked { path, wait });
        }
        thread::park_timeout(PAUSE);
    }
}

/// None when another holds the lock, or when the file was replaced between opening and locking.
fn try_lock(file: RegularFile, target: &Path) -> Result<Option<RegularFile>, Problem> {
    match file.file().try_lock() {
        Ok(()) => Ok(is_named(file.file(), target).then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(Problem::failed("lock", target, source)),
    }
}

fn is_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Where the file is; a bare name is in the working directory.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != OsStr::new("") => parent,
        _ => Path::new("."),
    }
}

/// Between two looks at a lock that another process holds for some milliseconds.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a file may appear and vanish again before giving up.
const ATTEMPTS: usize = 10;
/// As the system has it.
const MAX_LINKS: usize = 40;

#[cfg(test)]
mod tests;
