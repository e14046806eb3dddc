//! Reading a password file, and the users of a file that may change at any time.
//!
//! `snapshot` creates one [`LiveUsers`] for each file, `auth` takes [`LiveUsers::current`] for each request, and a thread of
//! `server` calls [`LiveUsers::poll`] at intervals. A file is read only after two polls in a row saw it unchanged, so that a
//! file that is being written is not read until the writer has paused. Nothing here logs, waits, or starts a thread.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::parse::{LoadedUsers, is_pem, parse};
use super::problem::{Problem, ProblemKind, add_command, shell_word};
use super::users::{Entry, Users};
use crate::bounded_file::{ReadError, is_closed_directory, is_hidden_by_unit};
use crate::file_watch::{self, ChangeDetector, FileStamp, LoadedVersion, Seen};

/// The users of a file as it was last read.
#[derive(Debug)]
pub struct LiveUsers {
    path: PathBuf,
    users: ArcSwap<Users>,
    /// Requests never take this lock, because its holder may be waiting for a disk.
    watch_state: Mutex<WatchState>,
}

#[derive(Debug)]
struct WatchState {
    detector: ChangeDetector<Seen>,
    problems: Vec<Problem>,
}

/// The result of a poll.
#[derive(Debug)]
pub enum Event {
    /// Nothing changed that an earlier poll has not reported.
    Unchanged,
    /// The file has other users or other problems, which are in use from now on.
    Changed(Change),
    /// The file cannot be read; the users stay. Reported again only for another reason.
    Failed(LoadError),
    /// The file can be read again, and its content is the same as before.
    Recovered,
}

/// The differences between two versions of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The number of users that can sign in now.
    pub users: usize,
    /// The number of users that could not sign in before.
    pub added: usize,
    /// The number of users that can no longer sign in.
    pub removed: usize,
    /// The number of users with another hash.
    pub changed: usize,
    /// The problems that were not there before. A change of one line does not report a thousand weak hashes again.
    pub problems: Vec<Problem>,
}

impl LiveUsers {
    /// Reads the file now, even if it is being written.
    pub fn load(path: &Path) -> Result<Arc<Self>, LoadError> {
        let content = read(path)?;
        Ok(Arc::new(Self::new(path, content, None)))
    }

    /// Reads the file again for a reload, and returns the new users if the file is still as `stable` was seen in two polls.
    /// Otherwise the result is `self`, and a later poll reads what has been written.
    pub(crate) fn reuse(self: &Arc<Self>, stable: Option<Seen>) -> Result<Arc<Self>, LoadError> {
        let content = read(&self.path)?;
        match stable {
            Some(seen) if content.is_version(seen) => {
                Ok(Arc::new(Self::new(&self.path, content, Some(seen))))
            }
            _ => Ok(Arc::clone(self)),
        }
    }

    fn new(path: &Path, content: Content, version: Option<Seen>) -> Self {
        Self {
            path: path.to_owned(),
            users: ArcSwap::from_pointee(content.loaded.users),
            watch_state: Mutex::new(WatchState {
                detector: ChangeDetector::new(version),
                problems: content.loaded.problems,
            }),
        }
    }

    /// The path of the file, and the version of it that is in use.
    pub(crate) fn file_state(&self) -> LoadedVersion {
        LoadedVersion {
            path: self.path.clone(),
            read: self.watch_state.lock().detector.read(),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The current users. Takes no lock.
    pub fn current(&self) -> Arc<Users> {
        self.users.load_full()
    }

    /// The problems in the file. Waits for a poll that is running.
    pub fn problems(&self) -> Vec<Problem> {
        self.watch_state.lock().problems.clone()
    }

    /// Checks whether the file has changed, and reads it if the poll before saw the same change.
    pub fn poll(&self) -> Event {
        let mut state = self.watch_state.lock();
        let seen = file_watch::poll(&self.path);
        if !state.detector.is_due(seen) {
            return Event::Unchanged;
        }
        match read(&self.path) {
            Ok(content) if content.is_version(seen) => self.replace(&mut state, content, seen),
            // The file was written between the poll and the reading. A later poll sees it unchanged.
            Ok(_) => Event::Unchanged,
            Err(error) if state.detector.failed(error.to_string()) => Event::Failed(error),
            Err(_) => Event::Unchanged,
        }
    }

    fn replace(&self, state: &mut WatchState, content: Content, seen: Seen) -> Event {
        let users = Arc::new(content.loaded.users);
        let before = self.users.swap(Arc::clone(&users));
        let problems = new_problems(&state.problems, &content.loaded.problems);
        let change = Change::diff(&before, &users, problems);
        state.problems = content.loaded.problems;
        let has_recovered = state.detector.succeeded(seen);
        if !change.is_empty() {
            return Event::Changed(change);
        }
        if has_recovered {
            return Event::Recovered;
        }
        Event::Unchanged
    }
}

impl Change {
    fn diff(before: &Users, after: &Users, problems: Vec<Problem>) -> Self {
        let mut change = Self {
            users: after.len(),
            problems,
            ..Self::default()
        };
        for (name, entry) in after.by_line() {
            match before.find(name).map(Entry::stored) {
                None => change.added += 1,
                Some(stored) if stored != entry.stored() => change.changed += 1,
                Some(_) => {}
            }
        }
        let removed = before.names().filter(|name| after.find(name).is_none());
        change.removed = removed.count();
        change
    }

    fn is_empty(&self) -> bool {
        self.added + self.removed + self.changed == 0 && self.problems.is_empty()
    }
}

/// The problems in `after` that are not in `before`. A problem of a named user is not new if only its line number changed.
fn new_problems(before: &[Problem], after: &[Problem]) -> Vec<Problem> {
    let is_known = |problem: &&Problem| {
        before.iter().any(|known| {
            known.kind == problem.kind
                && known.user == problem.user
                && (known.line == problem.line || known.user.is_some())
        })
    };
    let new = after.iter().filter(|problem| !is_known(problem));
    new.cloned().collect()
}

/// Reads and parses a file once. Problems of single lines are in [`LoadedUsers::problems`] and are not errors.
pub fn load(path: &Path) -> Result<LoadedUsers, LoadError> {
    read(path).map(|content| content.loaded)
}

/// The reason why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is missing or cannot be read.
    #[error("cannot read the password file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The path names a directory, a pipe or a device.
    #[error("the password file {} is a directory, a pipe or a device; name a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file has more than [`MAX_FILE`] bytes.
    #[error("the password file {} is larger than 64 MiB; check that the right file is named", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file has a key or a certificate.
    #[error("{} is a PEM file (a key or a certificate), not a password file; name another file", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
    },
}

impl LoadError {
    /// What the operator can do, if the message does not say it.
    pub fn remedy(&self) -> Option<String> {
        let Self::Read { path, source } = self else {
            return None;
        };
        match source.kind() {
            io::ErrorKind::NotFound => Some(format!(
                "create it with its first user: {}",
                add_command(path, None)
            )),
            io::ErrorKind::PermissionDenied if is_hidden_by_unit(source) => Some(
                "move the file to another directory, such as /etc/tidegate, because the systemd unit hides /root and /home from the proxy"
                    .to_owned(),
            ),
            io::ErrorKind::PermissionDenied if is_closed_directory(source) => Some(
                "let the user of the proxy enter the directory (chgrp, chmod 0750), or move the file"
                    .to_owned(),
            ),
            io::ErrorKind::PermissionDenied => {
                let path = path.to_string_lossy();
                Some(format!(
                    "let the user of the proxy read it, for example with: chmod 0640 {0} && chgrp tidegate {0}",
                    shell_word(&path)
                ))
            }
            _ => None,
        }
    }
}

/// The parsed content of a file.
struct Content {
    loaded: LoadedUsers,
    /// The version of the file that was read. `None` if the file changed while it was read.
    stamp: Option<FileStamp>,
}

impl Content {
    /// Whether the content is of the version that a poll has seen.
    fn is_version(&self, seen: Seen) -> bool {
        self.stamp.is_some_and(|stamp| seen == Ok(stamp))
    }
}

fn read(path: &Path) -> Result<Content, LoadError> {
    let content = file_watch::read(path, MAX_FILE).map_err(|error| {
        let path = path.into();
        match error {
            ReadError::NotRegular => LoadError::NotAFile { path },
            ReadError::TooLarge { .. } => LoadError::TooLarge { path },
            ReadError::Io(source) => LoadError::Read { path, source },
        }
    })?;
    if is_pem(&content.bytes) {
        return Err(LoadError::Pem { path: path.into() });
    }
    let mut loaded = parse(&content.bytes);
    loaded.problems.splice(..0, exposure(&content.metadata));
    Ok(Content {
        loaded,
        stamp: content.stamp,
    })
}

/// The problem of a file that users other than its owner and its group may read or write.
fn exposure(metadata: &Metadata) -> Option<Problem> {
    let mode = metadata.mode() & 0o7777;
    (mode & 0o006 != 0).then(|| Problem::new(0, None, ProblemKind::Exposed { mode }))
}

/// The maximum size of a password file in bytes.
pub const MAX_FILE: u64 = 64 << 20;

#[cfg(test)]
mod tests;
