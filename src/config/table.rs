//! A table of the file being read: typed values with their places, and a report of all the rest.
//!
//! Used by the code that knows the keys. A table reads what it is asked for and judges single values
//! only; what values mean together is its reader's to check.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::document::Document;
use super::nearest::nearest;
use super::problem::{Position, Problem, quote};
use super::syntax::{Entries, Entry};

mod read;
mod values;

pub use values::{Chosen, List, Written};

/// A table and what was asked of it.
///
/// When it is dropped, every key that is neither asked for nor among the document's known ones is
/// reported as unknown. So a reader may leave early, but should keep the table until it has read all.
///
/// All getters answer `None` both for a key that is not written and for a wrong value, which they
/// report: a reader goes on with a default and finds the next problem.
#[derive(Debug)]
pub struct Table<'a> {
    document: &'a Document,
    path: String,
    entries: &'a Entries,
    at: usize,
    asked: RefCell<BTreeSet<&'static str>>,
}

/// A value, and where it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its first character.
    pub place: Position,
}

impl<T> Spanned<T> {
    /// Another value at the same place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned {
            value: change(self.value),
            place: self.place,
        }
    }
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'a> Table<'a> {
    pub(super) fn new(
        document: &'a Document,
        path: String,
        entries: &'a Entries,
        at: usize,
    ) -> Self {
        Self {
            document,
            path,
            entries,
            at,
            asked: RefCell::default(),
        }
    }

    /// Its dotted path, `site.route`; empty for the file as a whole.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The dotted path of one of its keys.
    pub fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() {
            return key.to_owned();
        }
        format!("{}.{key}", self.path)
    }

    /// Its header, or its brace.
    pub fn place(&self) -> Position {
        self.document.place(self.at)
    }

    /// Where a key is written; nothing when it is not.
    pub fn place_of(&self, key: &'static str) -> Option<Position> {
        let entry = self.find(key)?;
        Some(self.document.place(entry.key_at))
    }

    /// Adds a problem that the reader found.
    pub fn report(&self, problem: Problem) {
        self.document.report(problem);
    }

    /// Reports the key when it is not written. `example` is what to add: `hosts = ["a.example.com"]`.
    pub fn required(&self, key: &'static str, example: &str) -> &Self {
        if self.find(key).is_none()
            && self.document.is_surely_missing(key)
            && !self.is_misspelt(key)
        {
            let what = format!("missing key {}{}", quote(key), self.location());
            self.report(Problem::error(self.place(), what).fix(format!("add {example}")));
        }
        self
    }

    /// Whether an unknown key of this table resembles `key`. The report of the unknown key says so, and a report of the
    /// missing one would be a second error for the same fault.
    fn is_misspelt(&self, key: &'static str) -> bool {
        let siblings = self.siblings();
        let mut written = self.entries.keys();
        written.any(|written| {
            !siblings.contains(written.as_str())
                && nearest(written, siblings.iter().copied()) == Some(key)
        })
    }

    /// The key's entry; from now on the key is asked for.
    fn find(&self, key: &'static str) -> Option<&'a Entry> {
        if self.asked.borrow_mut().insert(key) {
            self.document.note_asked(self.dotted(key));
        }
        self.entries.get(key)
    }

    fn location(&self) -> String {
        if self.path.is_empty() {
            return String::new();
        }
        format!(" in {}", self.path)
    }

    fn report_unknown(&self) {
        let siblings = self.siblings();
        let is_unknown = |key: &str| !siblings.contains(key);
        let mut unknown: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, _)| is_unknown(key))
            .collect();
        unknown.sort_by_key(|(_, entry)| entry.key_at);
        for (key, entry) in unknown.iter().take(UNKNOWN_SHOWN) {
            let what = format!("unknown key {}{}", quote(key), self.location());
            let problem = Problem::error(self.document.place(entry.key_at), what)
                .because("a misspelt key would silently do nothing");
            let remedy = self.position_for(key, &siblings);
            self.report(Problem { remedy, ..problem });
        }
        if let Some((_, next)) = unknown.get(UNKNOWN_SHOWN) {
            let more = unknown.len() - UNKNOWN_SHOWN;
            let what = format!("and {more} more unknown keys{}", self.location());
            self.report(Problem::error(self.document.place(next.key_at), what));
        }
    }

    /// The keys of this table: asked for, or known to belong here.
    fn siblings(&self) -> BTreeSet<&'static str> {
        let known = self.document.known().iter().filter_map(|path| {
            let below = self.below(path)?;
            below.split('.').next()
        });
        known.chain(self.asked.borrow().iter().copied()).collect()
    }

    /// The rest of a known path that leads through this table.
    fn below(&self, path: &'static str) -> Option<&'static str> {
        if self.path.is_empty() {
            return Some(path);
        }
        path.strip_prefix(self.path.as_str())?.strip_prefix('.')
    }

    /// What to do with an unknown key: the right name, the right table, or the names there are. A key
    /// of a table in this one beats a similar name here, which beats the same name far away.
    fn position_for(&self, key: &str, siblings: &BTreeSet<&'static str>) -> Option<String> {
        let homes = |path: &'static str| {
            let (parent, last) = path.rsplit_once('.').unwrap_or(("", path));
            (last == key).then_some(parent)
        };
        let known = self.document.known();
        let child = |path: &&'static str| self.below(path).and_then(homes);
        if let Some(child) = known.iter().find_map(child) {
            return Some(format!("it belongs into {child} = {{ {key} = … }}"));
        }
        if let Some(meant) = nearest(key, siblings.iter().copied()) {
            return Some(format!("did you mean {}?", quote(meant)));
        }
        // A key of a site's own table that is found in an unrelated section, such as file, has nothing to do with it.
        let is_near = |home: &&str| {
            let section = self.path.split('.').next();
            !self.path.contains('.') || home.is_empty() || home.split('.').next() == section
        };
        if let Some(home) = known.iter().filter_map(|path| homes(path)).find(is_near) {
            return Some(expected_table(home));
        }
        let names: Vec<_> = siblings.iter().copied().collect();
        if (1..=NAMES_SHOWN).contains(&names.len()) {
            return Some(format!("the keys here are {}", names.join(", ")));
        }
        let home = known.iter().find_map(|path| homes(path));
        Some(home.map_or_else(|| REFERENCE.to_owned(), expected_table))
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        self.report_unknown();
    }
}

fn expected_table(home: &str) -> String {
    if home.is_empty() {
        return "it belongs to the top of the file, above the first [table]".to_owned();
    }
    format!("it belongs into the table {home}")
}

/// Of a table that is something else altogether, these are enough.
const UNKNOWN_SHOWN: usize = 20;

/// The remedy for a key that resembles no other, in a table with many keys.
const REFERENCE: &str =
    "remove it, or look up its name in the sample proxy.toml, which explains every key";

/// More than these do not help.
const NAMES_SHOWN: usize = 16;

#[cfg(test)]
mod tests;
