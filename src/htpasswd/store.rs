//! Replacing a password file on disk as a whole: a reader sees the old text or the new one.
//!
//! The command `tidegate htpasswd` calls it; [`edit`](super::edit) changes the text. The running proxy only reads the file,
//! and needs no lock, because a rename is atomic.
//!
//! Writers exclude each other by a lock (flock(2)) on the file itself. After a rename, that lock belongs to the old text.
//! So a writer that gets the lock checks whether the file still has its name, and otherwise tries again with the new file. A
//! separate lock file would stay behind for ever, and a lock on the directory could be held by every user who may list
//! it. A new file needs no lock: if two writers create it, the rename of the second fails, and it edits the text of the
//! first.
//!
//! The new file gets the owner, group and mode of the old one, as `htpasswd` itself does it. The code around the rename is
//! this module's own, because it also follows symbolic links, removes the files of killed writers, and names the cause of
//! each failure.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand;
use rustix::fs::{Access, CWD, RenameFlags, access, renameat_with};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::edit::Edited;
use super::live::MAX_FILE;
use super::parse::{is_of_another_kind, is_pem};
use super::problem::add_command;
use crate::bounded_file::{ReadError, RegularFile};

/// Reads the text of a file without a lock.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    content(&open(path)?, path)
}

/// Reads the text before an edit. Returns `None` if the file does not exist yet. Reports early what would make the edit fail,
/// before the user types a password, and does not let a file be edited that is no password file.
pub fn read_to_edit(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let target = follow_links(path)?;
    let text = match read(&target) {
        Err(Error::Missing { .. }) => None,
        text => Some(text?),
    };
    if text
        .as_ref()
        .is_some_and(|text| is_pem(text) || is_of_another_kind(text))
    {
        return Err(Error::NotPasswords { path: path.into() });
    }
    let directory = directory_of(&target);
    access(directory, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|errno| Error::in_directory(directory, errno.into()))?;
    Ok(text)
}

/// Replaces the text by the result of `edit`, unless that is `None`. Waits at most `wait` for other writers.
pub fn update(
    path: &Path,
    wait: Duration,
    edit: impl Fn(&[u8]) -> Option<Edited>,
) -> Result<Option<Edited>, Error> {
    let target = follow_links(path)?;
    let old = lock(&target, wait)?;
    let Some(edited) = edit(&content(&old, &target)?) else {
        return Ok(None);
    };
    let mut new = AtomicFile::create(&target, PRIVATE_MODE)?;
    new.copy_metadata(old.file())?;
    new.write(&edited.bytes)?;
    new.replace()?;
    Ok(Some(edited))
}

/// Updates the file as [`update`] does, or creates it from an empty text. The second value is whether the file was created.
///
/// A new file has mode 0640 less the umask: the proxy reads it through its group, and other users cannot.
pub fn update_or_create(
    path: &Path,
    wait: Duration,
    edit: impl Fn(&[u8]) -> Edited,
) -> Result<(Edited, bool), Error> {
    for _ in 0..MAX_ATTEMPTS {
        match update(path, wait, |text| Some(edit(text))) {
            Ok(Some(edited)) => return Ok((edited, false)),
            Ok(None) | Err(Error::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        let edited = edit(b"");
        let target = follow_links(path)?;
        let mut new = AtomicFile::create(&target, NEW_FILE_MODE)?;
        new.write(&edited.bytes)?;
        if new.persist_new()? {
            return Ok((edited, true));
        }
    }
    Err(Error::Locked {
        path: path.into(),
        wait,
    })
}

/// The reason why a file could not be read or replaced.
///
/// The file is unchanged, unless the error is [`Self::Failed`] after the rename: then the new text may be lost in a power
/// failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not exist.
    #[error("there is no file {}; {} creates it", path.display(), add_command(path, None))]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The path names a directory, a pipe or a device.
    #[error("{} is a directory, a pipe or a device; name a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file has more than [`MAX_FILE`] bytes.
    #[error("{} is larger than 64 MiB; check that the right file is named", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is probably of another kind.
    #[error("{} is another kind of file: no line has a hash, and not every line has the form USER:PASSWORD; nothing was changed; name the password file", path.display())]
    NotPasswords {
        /// The file.
        path: PathBuf,
    },
    /// The directory of the file does not exist.
    #[error("there is no directory {}; create it first", path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The user of this process lacks a permission.
    #[error("user id {user} may not {what} {path}{owner}; run this as the owner, or with sudo", path = path.display())]
    Denied {
        /// The effective user id of this process.
        user: u32,
        /// The action that needs the permission.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Its owner, group and mode, if they can be read.
        owner: String,
    },
    /// The new file could not be given the owner of the old one, and the proxy might be unable to read it.
    #[error(
        "the new text of {path} could not be given owner, group and access rights of the old (user id {user}, group id {group}): {source}; nothing was changed; run this as that user, or with sudo",
        path = path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        user: u32,
        /// Its group.
        group: u32,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another process did not release the lock.
    #[error("another process has kept {path} locked for {} s; nothing was changed; fuser {path} shows which", wait.as_secs(), path = path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long this process has waited.
        wait: Duration,
    },
    /// The file is a mount point, for example because a container mounts this single file.
    #[error("{} is mounted by itself and cannot be replaced in one step; edit it where it comes from", path.display())]
    Mounted {
        /// The file.
        path: PathBuf,
    },
    /// Another error of the operating system.
    #[error("cannot {what} {}: {source}", path.display())]
    Failed {
        /// The action that failed.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl Error {
    fn failed(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            ErrorKind::PermissionDenied => Self::Denied {
                user: geteuid().as_raw(),
                what,
                owner: describe_owner(&path),
                path,
            },
            ErrorKind::ResourceBusy => Self::Mounted { path },
            _ => Self::Failed { what, path, source },
        }
    }

    /// The error of creating the new file. The directory must be writable for that, not the old file.
    fn in_directory(directory: &Path, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::NoDirectory {
                path: directory.into(),
            },
            _ => Self::failed("make a new file in the directory", directory, source),
        }
    }
}

fn describe_owner(path: &Path) -> String {
    fs::metadata(path).map_or_else(
        |_| String::new(),
        |found| {
            let mode = found.mode() & 0o7777;
            let (user, group) = (found.uid(), found.gid());
            format!(" (owner {user}, group {group}, mode {mode:04o})")
        },
    )
}

/// The path to which symbolic links lead, whether it exists or not. The links stay, and their target is replaced.
fn follow_links(path: &Path) -> Result<PathBuf, Error> {
    let mut target = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(next) => target = directory_of(&target).join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(Error::failed("follow", path, Errno::LOOP.into()))
}

fn open(path: &Path) -> Result<RegularFile, Error> {
    RegularFile::open(path).map_err(|error| read_error(path, error))
}

fn content(file: &RegularFile, path: &Path) -> Result<Vec<u8>, Error> {
    file.read(MAX_FILE).map_err(|error| read_error(path, error))
}

fn read_error(path: &Path, error: ReadError) -> Error {
    match error {
        ReadError::NotRegular => Error::NotAFile { path: path.into() },
        ReadError::TooLarge { .. } => Error::TooLarge { path: path.into() },
        ReadError::Io(source) if source.kind() == ErrorKind::NotFound => {
            Error::Missing { path: path.into() }
        }
        ReadError::Io(source) => Error::failed("read", path, source),
    }
}

/// Opens and locks the file that has this name. The lock is released when the file is closed.
fn lock(target: &Path, wait: Duration) -> Result<RegularFile, Error> {
    let until = Instant::now() + wait;
    loop {
        if let Some(file) = try_lock(open(target)?, target)? {
            return Ok(file);
        }
        if Instant::now() >= until {
            let path = target.into();
            return Err(Error::Locked { path, wait });
        }
        thread::park_timeout(LOCK_POLL_INTERVAL);
    }
}

/// Returns `None` if another process holds the lock, or if the file was replaced between opening and locking.
fn try_lock(file: RegularFile, target: &Path) -> Result<Option<RegularFile>, Error> {
    match file.file().try_lock() {
        Ok(()) => Ok(has_name(file.file(), target).then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(Error::failed("lock", target, source)),
    }
}

fn has_name(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// The directory of a file. A path without a directory is in the working directory.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != OsStr::new("") => parent,
        _ => Path::new("."),
    }
}

/// The new file under a temporary name in the directory of its target; removed when dropped before it has its final name.
///
/// The temporary name is random and is read by no program, so a file that a killed process left does no harm. A later edit
/// removes it.
struct AtomicFile<'a> {
    target: &'a Path,
    path: PathBuf,
    file: File,
    /// Opened before anything is changed: what cannot be synced must not be changed.
    directory: File,
    is_persisted: bool,
}

impl<'a> AtomicFile<'a> {
    /// Creates an empty file of this mode, less the umask.
    fn create(target: &'a Path, mode: u32) -> Result<Self, Error> {
        remove_stale(target);
        let directory = directory_of(target);
        let to_error = |source| Error::in_directory(directory, source);
        let path = directory.join(temporary_name(target).map_err(to_error)?);
        let opened = File::open(directory).map_err(to_error)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let file = options.open(&path).map_err(to_error)?;
        Ok(Self {
            target,
            path,
            file,
            directory: opened,
            is_persisted: false,
        })
    }

    /// Copies owner, group and mode, so that the proxy can read the new file as it could read the old one.
    fn copy_metadata(&self, old: &File) -> Result<(), Error> {
        let to_error = |source| Error::failed("read", self.target, source);
        let (wanted, own) = (
            old.metadata().map_err(to_error)?,
            self.file.metadata().map_err(to_error)?,
        );
        let owner = (wanted.uid() != own.uid()).then_some(wanted.uid());
        let group = (wanted.gid() != own.gid()).then_some(wanted.gid());
        let mode = Permissions::from_mode(wanted.mode() & 0o7777);
        fchown(&self.file, owner, group)
            .and_then(|()| self.file.set_permissions(mode))
            .map_err(|source| Error::Owner {
                path: self.target.into(),
                user: wanted.uid(),
                group: wanted.gid(),
                source,
            })
    }

    /// Writes the text and syncs it to disk.
    fn write(&mut self, text: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(text)
            .and_then(|()| self.file.sync_all())
            .map_err(|source| Error::failed("write", &self.path, source))
    }

    /// Renames the file to its target, replacing the old file.
    fn replace(mut self) -> Result<(), Error> {
        fs::rename(&self.path, self.target)
            .map_err(|source| Error::failed("replace", self.target, source))?;
        self.is_persisted = true;
        self.sync_directory()
    }

    /// Renames the file to its target, unless the target exists. Returns whether it was renamed.
    fn persist_new(mut self) -> Result<bool, Error> {
        match renameat_with(CWD, &self.path, CWD, self.target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(Error::failed("create", self.target, errno.into())),
        }
        self.is_persisted = true;
        self.sync_directory().map(|()| true)
    }

    fn sync_directory(&self) -> Result<(), Error> {
        self.directory.sync_all().map_err(|source| {
            Error::failed(
                "write to disk the new entry of",
                directory_of(self.target),
                source,
            )
        })
    }
}

impl Drop for AtomicFile<'_> {
    fn drop(&mut self) {
        if !self.is_persisted {
            // The earlier error is reported; one of removing the file would hide it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A temporary name such as `.FILE.0123456789abcdef.new`.
fn temporary_name(target: &Path) -> io::Result<OsString> {
    let mut random = [0; 8];
    rand::fill(&mut random).map_err(io::Error::other)?;
    let mut name = temporary_prefix(target)?;
    name.push(format!(
        "{:016x}{TEMPORARY_SUFFIX}",
        u64::from_ne_bytes(random)
    ));
    Ok(name)
}

fn temporary_prefix(target: &Path) -> io::Result<OsString> {
    let name = target.file_name().ok_or(ErrorKind::IsADirectory)?;
    Ok([OsStr::new("."), name, OsStr::new(".")]
        .into_iter()
        .collect())
}

/// Removes the temporary files of processes that were killed long ago. A failure does not affect the edit.
fn remove_stale(target: &Path) {
    let (Ok(prefix), Ok(entries)) = (temporary_prefix(target), fs::read_dir(directory_of(target)))
    else {
        return;
    };
    for entry in entries.flatten() {
        if is_temporary(&prefix, &entry.file_name()) && is_stale(&entry) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_temporary(prefix: &OsStr, name: &OsStr) -> bool {
    let digits = name
        .as_encoded_bytes()
        .strip_prefix(prefix.as_encoded_bytes())
        .and_then(|rest| rest.strip_suffix(TEMPORARY_SUFFIX.as_bytes()));
    digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit))
}

fn is_stale(entry: &fs::DirEntry) -> bool {
    let changed = entry.metadata().and_then(|metadata| metadata.modified());
    let age = changed.map(|at| SystemTime::now().duration_since(at));
    matches!(age, Ok(Ok(age)) if age > STALE_AGE)
}

/// The mode of the new file until it gets the owner and mode of the old one.
const PRIVATE_MODE: u32 = 0o600;
/// The mode of a file that did not exist, see [`update_or_create`].
const NEW_FILE_MODE: u32 = 0o640;
const TEMPORARY_SUFFIX: &str = ".new";
/// The age from which a temporary file is stale. No edit takes this long.
const STALE_AGE: Duration = Duration::from_mins(10);
/// The interval at which a lock is tried that another process holds, usually for some milliseconds.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How often a file may appear and vanish again before the edit fails.
const MAX_ATTEMPTS: usize = 10;
/// The number of symbolic links that are followed, as in Linux.
const MAX_LINKS: usize = 40;

#[cfg(test)]
mod tests;
