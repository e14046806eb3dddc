//! Why a password file could not be read or replaced, in words for the one at the terminal.
//!
//! Made by `store`, printed by `cli`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;

/// The file is as it was, unless the error is [`Self::Failed`] after the rename: then it may be gone after a power cut.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No such file.
    #[error("there is no file {path}; tidegate htpasswd add {path} USER creates it", path = path.display())]
    Missing {
        /// What was named.
        path: PathBuf,
    },
    /// A directory, a pipe or a device.
    #[error("{} is a directory, a pipe or a device; name a file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// More than [`super::MAX_FILE`] bytes.
    #[error("{} is larger than 64 MiB; check that the right file is named", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Where the file should be.
    #[error("there is no directory {}; create it first", path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Needs other rights.
    #[error("user id {user} may not {what} {path}{owner}; run this as the owner, or with sudo", path = path.display())]
    Denied {
        /// Who this process is.
        user: u32,
        /// What needs the right.
        what: &'static str,
        /// Of what.
        path: PathBuf,
        /// Its owner, group and mode, as far as they can be seen.
        owner: String,
    },
    /// A file of another owner would become ours, and the gate could perhaps not read it.
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
        /// What the system said.
        source: io::Error,
    },
    /// Another writer does not end.
    #[error("another process has kept {path} locked for {} s; nothing was changed; fuser {path} tells which", wait.as_secs(), path = path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        wait: Duration,
    },
    /// As when a container has this one file from outside.
    #[error("{} is mounted by itself and cannot be replaced in one step; edit it where it comes from", path.display())]
    Mounted {
        /// The file.
        path: PathBuf,
    },
    /// Whatever else the system says.
    #[error("cannot {what} {}: {source}", path.display())]
    Failed {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Problem {
    pub(super) fn failed(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            ErrorKind::PermissionDenied => Self::Denied {
                user: geteuid().as_raw(),
                what,
                owner: owner(&path),
                path,
            },
            ErrorKind::ResourceBusy => Self::Mounted { path },
            _ => Self::Failed { what, path, source },
        }
    }

    /// A new file takes the old one's place, so the directory must be writable, not the file.
    pub(super) fn in_directory(directory: &Path, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Self::NoDirectory {
                path: directory.into(),
            },
            _ => Self::failed("make a new file in the directory", directory, source),
        }
    }
}

fn owner(path: &Path) -> String {
    fs::metadata(path).map_or_else(
        |_| String::new(),
        |found| {
            let mode = found.mode() & 0o7777;
            let (user, group) = (found.uid(), found.gid());
            format!(" (owner {user}, group {group}, mode {mode:04o})")
        },
    )
}
