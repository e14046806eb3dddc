//! The users of a file that may change at any time: requests ask for them, a watcher looks whether they still hold.
//!
//! `snapshot` makes one for each file, `auth` takes [`LiveUsers::current`], a thread of `server` calls
//! [`LiveUsers::look`] at intervals. A file is read only after two looks in a row saw it the same, so one that is
//! being written is left alone until the writer has paused. Nothing here logs, waits, or has a thread.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::file::{self, Content, Stamp};
use super::{Entry, LoadError, Problem, Users};

/// The users of a file as last read.
#[derive(Debug)]
pub struct LiveUsers {
    path: PathBuf,
    users: ArcSwap<Users>,
    /// Requests never wait for it: whoever holds it may be waiting for a disk.
    watched: Mutex<Watched>,
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

#[derive(Debug, Default)]
struct Watched {
    /// The last look's stamp, or why there is none.
    seen: Option<Result<Stamp, String>>,
    /// What the users were read from. None while that was not after two equal looks, as at the start: a write just
    /// before or after that reading may have left no trace in the stamp, whose clock ticks in milliseconds.
    read: Option<Stamp>,
    problems: Vec<Problem>,
    trouble: Option<String>,
}

impl LiveUsers {
    /// Reads the file now. Where it is being written, and `old` has an earlier content of it, that one is returned
    /// and stays until the file is quiet.
    pub fn load(path: &Path, old: Option<&Arc<Self>>) -> Result<Arc<Self>, LoadError> {
        let content = file::read(path)?;
        if let (None, Some(old)) = (content.stamp, old) {
            return Ok(Arc::clone(old));
        }
        Ok(Arc::new(Self {
            path: path.to_owned(),
            users: ArcSwap::from_pointee(content.loaded.users),
            watched: Mutex::new(Watched {
                problems: content.loaded.problems,
                ..Watched::default()
            }),
        }))
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
    pub fn look(&self) -> Event {
        let mut watched = self.watched();
        let seen = file::look(&self.path);
        if !watched.is_quiet(&seen) {
            return Event::Unchanged;
        }
        let content = match seen {
            Ok(stamp) if !watched.is_news(stamp) => return Event::Unchanged,
            Ok(stamp) => file::read(&self.path).map(|content| content.if_still(stamp)),
            Err(error) => Err(error),
        };
        match content {
            Ok(Some(content)) => self.accept(&mut watched, content),
            // Written to just now, or another file: a later look sees it quiet.
            Ok(None) => Event::Unchanged,
            Err(error) => watched.fail(error),
        }
    }

    fn accept(&self, watched: &mut Watched, content: Content) -> Event {
        let users = Arc::new(content.loaded.users);
        let before = self.users.swap(Arc::clone(&users));
        let problems = new_problems(&watched.problems, &content.loaded.problems);
        let change = Change::between(&before, &users, problems);
        watched.problems = content.loaded.problems;
        watched.read = content.stamp;
        let has_recovered = watched.trouble.take().is_some();
        if !change.is_nothing() {
            return Event::Changed(change);
        }
        if has_recovered {
            return Event::Recovered;
        }
        Event::Unchanged
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Whether this look saw what the one before saw.
    fn is_quiet(&mut self, seen: &Result<Stamp, LoadError>) -> bool {
        let seen = seen.as_ref().map_err(ToString::to_string).copied();
        let before = self.seen.replace(seen);
        before == self.seen
    }

    /// What could not be read is tried again, since not all that helps shows in the stamp.
    fn is_news(&self, stamp: Stamp) -> bool {
        self.trouble.is_some() || self.read != Some(stamp)
    }

    fn fail(&mut self, error: LoadError) -> Event {
        let words = error.to_string();
        if self.trouble.as_ref() == Some(&words) {
            return Event::Unchanged;
        }
        self.trouble = Some(words);
        Event::Failed(error)
    }
}

impl Change {
    fn between(before: &Users, after: &Users, problems: Vec<Problem>) -> Self {
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
