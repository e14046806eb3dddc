//! Password files: who is in them, and whether a password is theirs.
//!
//! `snapshot` makes [`LiveUsers`] and `server` looks after them; `auth` asks [`Users::find`] and [`Entry::verify`]; `cli`
//! edits files with [`edit`], [`make`] and [`store`]. Nothing here counts guesses, remembers logins or moves the work off
//! the I/O threads: one check may take seconds.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::secret::Password;

mod alphabet;
mod bcrypt_hash;
mod des_crypt;
pub mod edit;
mod file;
mod hash;
mod live;
pub mod make;
mod md5_crypt;
mod parse;
mod problem;
mod sha_crypt;
mod sha_digest;
pub mod store;

pub use bcrypt_hash::MAX_COST;
pub use hash::{Rejection, Scheme};
pub use live::{Change, Event, LiveUsers};
pub use parse::{LineInfo, list, parse};
pub use problem::{
    BadLine, LineWarning, Problem, ProblemKind, Severity, add_command, is_invisible, shell_word,
};

/// The users of one file who can sign in. Names are byte strings, compared byte for byte.
#[derive(Default)]
pub struct Users {
    entries: HashMap<Box<[u8]>, Entry>,
    prevailing: Option<Entry>,
}

/// Hashes of one file that take so different a time to check that the time of a response shows which users exist.
pub struct UnevenTimes<'a> {
    /// The scheme that takes longest.
    pub slowest: Scheme,
    /// The users whose checks take less than half of that time, in the order of the lines.
    pub quicker: Vec<(&'a [u8], &'a Entry)>,
}

/// What a file gave: its users, and what is wrong with it.
#[derive(Debug, Default)]
pub struct LoadedUsers {
    /// Everyone whose line is good.
    pub users: Users,
    /// In the order of the lines. At most [`MAX_LISTED`] of each severity; a last one counts the rest.
    pub problems: Vec<Problem>,
}

/// One user's line.
pub struct Entry {
    scheme: Scheme,
    line: usize,
    stored: Box<[u8]>,
}

/// Why there is no content at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Missing, not permitted, or failing hardware.
    #[error("cannot read the password file {}: {source}; check that it exists and that this user may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("the password file {} is a directory, a pipe or a device; name a file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// More than [`MAX_FILE`] bytes.
    #[error("the password file {} is larger than 64 MiB; check that the right file is named", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl Users {
    /// How many users can sign in.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody can.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The line of this user; none also for a user whose line was refused.
    pub fn find(&self, user: &[u8]) -> Option<&Entry> {
        self.entries.get(user)
    }

    /// Everyone, in the order of the lines.
    pub fn by_line(&self) -> Vec<(&[u8], &Entry)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(user, entry)| (&**user, entry))
            .collect();
        all.sort_unstable_by_key(|(_, entry)| entry.line);
        all
    }

    /// A stand-in for users who do not exist: of the scheme and cost most common in the file (the dearer of two
    /// equally common ones), it takes as long as a real check, and no password matches it. None without users.
    pub fn decoy(&self) -> Option<&Entry> {
        self.prevailing.as_ref()
    }

    /// The users whose passwords are checked in less than half the time of the slowest ones, if there are any. An unknown user takes the time of the most common scheme, so such a difference
    /// shows which names exist.
    pub fn uneven_times(&self) -> Option<UnevenTimes<'_>> {
        let schemes = self.entries.values().map(|entry| entry.scheme);
        let slowest = schemes.max_by_key(|scheme| (scheme.microseconds(), *scheme))?;
        let is_quicker = |entry: &Entry| 2 * entry.scheme.microseconds() < slowest.microseconds();
        let mut quicker = self.by_line();
        quicker.retain(|(_, entry)| is_quicker(entry));
        (!quicker.is_empty()).then_some(UnevenTimes { slowest, quicker })
    }

    fn new(entries: HashMap<Box<[u8]>, Entry>) -> Self {
        let mut counts: HashMap<Scheme, usize> = HashMap::new();
        for entry in entries.values() {
            *counts.entry(entry.scheme).or_default() += 1;
        }
        let most = counts
            .into_iter()
            .max_by_key(|&(scheme, count)| (count, scheme));
        Self {
            entries,
            prevailing: most.map(|(scheme, _)| Entry::dummy(scheme)),
        }
    }
}

impl Entry {
    /// Whether this is the password. Takes from microseconds to seconds, by [`Self::scheme`]; the comparison takes
    /// the same time for every digest. A password with a NUL byte or of more than [`MAX_PASSWORD`] bytes never
    /// matches, so the longest of them bounds the work. bcrypt reads the first 72 bytes, DES the first 8.
    pub fn verify(&self, password: &Password) -> bool {
        let password = password.as_bytes();
        // C programs end a password at its NUL, and so would let `secret\0anything` in.
        if password.len() > MAX_PASSWORD || password.contains(&0) {
            return false;
        }
        self.scheme.verify(&self.stored, password)
    }

    /// Algorithm and cost.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Where it stands in the file, from 1; 0 for the stand-in of unknown users.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The hash as it stands in the file: a key for what must end when the password changes. Not for printing.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    fn dummy(scheme: Scheme) -> Self {
        Self {
            scheme,
            line: 0,
            stored: scheme.impossible().into(),
        }
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.len())
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("scheme", &self.scheme)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// Reads and parses a file. What is wrong in single lines is in [`LoadedUsers::problems`], not an error.
pub fn load(path: &Path) -> Result<LoadedUsers, LoadError> {
    file::read(path).map(|content| content.loaded)
}

/// Bytes of a password that are looked at; a longer one is wrong. MD5-crypt hashes it 1000 times.
pub const MAX_PASSWORD: usize = 4096;
/// Bytes of a file.
pub const MAX_FILE: u64 = 64 << 20;
/// Problems of one severity that are listed: a file of 100 000 weak hashes must not become as many log lines.
pub const MAX_LISTED: usize = 1000;

#[cfg(test)]
mod tests;
