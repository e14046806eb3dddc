//! The users of one password file, and the verification of their passwords.

use std::collections::HashMap;
use std::fmt;

use super::hash::Scheme;
use crate::secret::Password;

/// The users of one file that can sign in. Names are byte strings, which are compared byte for byte.
#[derive(Default)]
pub struct Users {
    entries: HashMap<Box<[u8]>, Entry>,
    decoy: Option<Entry>,
}

/// The hash of one user.
pub struct Entry {
    scheme: Scheme,
    line: usize,
    stored: Box<[u8]>,
}

/// Hashes of one file whose verification takes such different times that the time of a response shows which users exist.
pub struct UnevenTimes<'a> {
    /// The scheme that takes longest.
    pub slowest: Scheme,
    /// The users whose verification takes less than half of that time, in the order of the lines.
    pub quicker: Vec<(&'a [u8], &'a Entry)>,
}

impl Users {
    pub(super) fn new(entries: HashMap<Box<[u8]>, Entry>) -> Self {
        let mut counts: HashMap<Scheme, usize> = HashMap::new();
        for entry in entries.values() {
            *counts.entry(entry.scheme).or_default() += 1;
        }
        let most_common = counts
            .into_iter()
            .max_by_key(|&(scheme, count)| (count, scheme));
        Self {
            entries,
            decoy: most_common.map(|(scheme, _)| Entry::decoy(scheme)),
        }
    }

    /// The number of users.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no users.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of a user. `None` also for a user whose line is unusable.
    pub fn find(&self, user: &[u8]) -> Option<&Entry> {
        self.entries.get(user)
    }

    /// The names of all users.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.keys().map(|name| &**name)
    }

    /// All users in the order of the lines.
    pub fn by_line(&self) -> Vec<(&[u8], &Entry)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(user, entry)| (&**user, entry))
            .collect();
        all.sort_unstable_by_key(|(_, entry)| entry.line);
        all
    }

    /// An entry to verify passwords of unknown users against, so that an unknown user takes as long as a known one. The entry
    /// has the most common scheme and cost of the file (on a tie, the more expensive one), and no password matches it.
    /// `None` if there are no users.
    pub fn decoy(&self) -> Option<&Entry> {
        self.decoy.as_ref()
    }

    /// The users whose passwords are verified in less than half the time of the slowest ones, if there are any. An unknown
    /// user takes the time of the most common scheme, so such a difference shows which names exist.
    pub fn uneven_times(&self) -> Option<UnevenTimes<'_>> {
        let schemes = self.entries.values().map(|entry| entry.scheme);
        let slowest = schemes.max_by_key(|scheme| (scheme.microseconds(), *scheme))?;
        let is_quicker = |entry: &Entry| 2 * entry.scheme.microseconds() < slowest.microseconds();
        let mut quicker = self.by_line();
        quicker.retain(|(_, entry)| is_quicker(entry));
        (!quicker.is_empty()).then_some(UnevenTimes { slowest, quicker })
    }
}

impl Entry {
    /// Creates the entry of a line. `stored` is a hash that [`Scheme::parse`] has accepted as `scheme`.
    pub(super) fn new(scheme: Scheme, line: usize, stored: &[u8]) -> Self {
        Self {
            scheme,
            line,
            stored: stored.into(),
        }
    }

    fn decoy(scheme: Scheme) -> Self {
        Self::new(scheme, 0, &scheme.unmatchable())
    }

    /// Verifies a password. This takes from microseconds to seconds, depending on [`Self::scheme`]. The comparison of the
    /// digests takes constant time.
    ///
    /// A password with a NUL byte or of more than [`MAX_PASSWORD`] bytes never matches, so that the length of a password does
    /// not make the work unbounded. bcrypt reads the first 72 bytes of a password, DES crypt the first 8.
    pub fn verify(&self, password: &Password) -> bool {
        let password = password.as_bytes();
        // C programs end a password at a NUL byte, and so would accept `secret\0anything`.
        if password.len() > MAX_PASSWORD || password.contains(&0) {
            return false;
        }
        self.scheme.verify(&self.stored, password)
    }

    /// The algorithm and cost of the hash.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The number of the line, from 1; 0 for the decoy.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The hash as it is in the file. The login cache and tokens are bound to it, so that they become invalid when the
    /// password changes. It must not be printed.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.len())
    }
}

/// Does not show the hash.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("scheme", &self.scheme)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// The maximum length of a password in bytes; a longer one never matches. MD5-crypt hashes a password 1000 times.
pub const MAX_PASSWORD: usize = 4096;
