//! The users of a file that may change at any time: requests ask for them, a watcher looks whether they still hold.
//!
//! `snapshot` makes one for each file, `auth` takes [`LiveUsers::current`], a thread of `server` calls
//! [`LiveUsers::look`] at intervals. A file is read only after two looks in a row saw it the same, so one that is
//! being written is left alone until the writer has paused. Nothing here logs, waits, or has a thread.

use parking_lot::{Mutex, MutexGuard};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::file::{self, Content};
use super::{Entry, LoadError, Problem, Users};
use crate::file_watch;
use crate::file_watch::{ChangeDetector, LoadedVersion, Seen};

/// The users of a file as last read.
#[derive(Debug)]
pub struct LiveUsers {
    path: PathBuf,
    users: ArcSwap<Users>,
    /// Requests never wait for it: whoever holds it may be waiting for a disk.
    watched: Mutex<WatchState>,
}

/// What a look found.
#[derive(Debug)]
pub enum Event {
    /// Nothing that has not been told.
    Unchanged,
    /// Other users, or other problems, are in use from now on.
    Changed(Change),
    /// The file cannot be read; the users stay. Told again only when the reason is another.
    Failed(LoadError),
    /// The file can be read again, and says what it said.
    Recovered,
}

/// What is different.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// How many can sign in now.
    pub users: usize,
    /// Users who could not sign in before.
    pub added: usize,
    /// Users who can no more.
    pub removed: usize,
    /// Users with another hash.
    pub changed: usize,
    /// Problems that were not there before: a change of one line tells nobody again of a thousand weak hashes.
    pub problems: Vec<Problem>,
}

#[derive(Debug)]
struct WatchState {
    watch: ChangeDetector<Seen>,
    problems: Vec<Problem>,
}

impl LiveUsers {
    /// Reads the file now, whoever may be writing it.
    pub fn load(path: &Path) -> Result<Arc<Self>, LoadError> {
        let content = file::read(path)?;
        Ok(Arc::new(Self::new(path, content, None)))
    }

    /// Reads the file anew, beside these users, if it is what was seen of it in quiet; else these stay, and a later look
    /// finds what has been written.
    pub(crate) fn reuse(self: &Arc<Self>, quiet: Option<Seen>) -> Result<Arc<Self>, LoadError> {
        let content = file::read(&self.path)?;
        match quiet {
            Some(seen) if content.is(seen) => {
                Ok(Arc::new(Self::new(&self.path, content, Some(seen))))
            }
            _ => Ok(Arc::clone(self)),
        }
    }

    fn new(path: &Path, content: Content, read: Option<Seen>) -> Self {
        Self {
            path: path.to_owned(),
            users: ArcSwap::from_pointee(content.loaded.users),
            watched: Mutex::new(WatchState {
                watch: ChangeDetector::new(read),
                problems: content.loaded.problems,
            }),
        }
    }

    /// The file, and the stamp under which it was read.
    pub(crate) fn file_state(&self) -> LoadedVersion {
        LoadedVersion {
            path: self.path.clone(),
            read: self.watched().watch.read(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The users now. Waits for nothing.
    pub fn current(&self) -> Arc<Users> {
        self.users.load_full()
    }

    /// What is wrong in the file. Waits for a look that is under way.
    pub fn problems(&self) -> Vec<Problem> {
        self.watched().problems.clone()
    }

    /// Looks at the file, and reads it when it has changed and then been quiet since the look before.
    pub fn poll(&self) -> Event {
        let mut watched = self.watched();
        let seen = file_watch::poll(&self.path);
        if !watched.watch.is_due(seen) {
            return Event::Unchanged;
        }
        match file::read(&self.path) {
            Ok(content) if content.is(seen) => self.accept(&mut watched, content, seen),
            // Written to just now, or another file: a later look sees it quiet.
            Ok(_) => Event::Unchanged,
            Err(error) if watched.watch.failed(error.to_string()) => Event::Failed(error),
            Err(_) => Event::Unchanged,
        }
    }

    fn accept(&self, watched: &mut WatchState, content: Content, seen: Seen) -> Event {
        let users = Arc::new(content.loaded.users);
        let before = self.users.swap(Arc::clone(&users));
        let problems = new_problems(&watched.problems, &content.loaded.problems);
        let change = Change::diff(&before, &users, problems);
        watched.problems = content.loaded.problems;
        let has_recovered = watched.watch.succeeded(seen);
        if !change.is_nothing() {
            return Event::Changed(change);
        }
        if has_recovered {
            return Event::Recovered;
        }
        Event::Unchanged
    }

    fn watched(&self) -> MutexGuard<'_, WatchState> {
        self.watched.lock()
    }
}

impl Change {
    fn diff(before: &Users, after: &Users, problems: Vec<Problem>) -> Self {
        let mut change = Self {
            users: after.len(),
            problems,
            ..Self::default()
        };
        for (name, entry) in &after.entries {
            match before.find(name).map(Entry::stored) {
                None => change.added += 1,
                Some(stored) if stored != entry.stored() => change.changed += 1,
                Some(_) => {}
            }
        }
        let names = before.entries.keys();
        change.removed = names.filter(|name| after.find(name).is_none()).count();
        change
    }

    fn is_nothing(&self) -> bool {
        self.added + self.removed + self.changed == 0 && self.problems.is_empty()
    }
}

/// Those that were not there before. A line that moved is no news where its user is named.
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

#[cfg(test)]
mod tests;
