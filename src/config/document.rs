//! A configuration file as text, on its way to values: the tree, and the report of its problems.
//!
//! Made by whoever reads the file (`check`, start and reload alike), read through its
//! [`root`](Document::root) table. It opens no file and knows no key but those it is told.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::lines::Lines;
use super::problem::{Position, Problem, Problems};
use super::syntax::{self, Entries};
use super::table::Table;

/// One file. Syntax errors are reported when it is made, everything else while its tables are read.
///
/// ```
/// use tidegate::config::document::Document;
///
/// let document = Document::parse("proxy.toml", "[listen]\nhttps = 443\n", &["listen.https"]);
/// {
///     let root = document.root();
///     let listen = root.required("listen", "[listen]").table("listen");
///     assert!(listen.is_some_and(|listen| listen.strings("https").is_none()));
/// }
/// let problems = document.into_problems();
/// assert!(problems.to_string().starts_with("proxy.toml:2:9: error: listen.https: expected"));
/// ```
#[derive(Debug)]
pub struct Document {
    lines: Lines,
    root: Entries,
    known: &'static [&'static str],
    faulty_lines: BTreeSet<usize>,
    asked: RefCell<BTreeSet<String>>,
    problems: RefCell<Problems>,
}

impl Document {
    /// Reads the text. `file` is for the report; `known` are the dotted paths of all keys there are
    /// (`site.route.auth.htpasswd`), so that a key in the wrong table can be told where it belongs.
    pub fn parse(file: impl Into<PathBuf>, text: &str, known: &'static [&'static str]) -> Self {
        let lines = Lines::new(text);
        let (root, faults) = syntax::read(&lines);
        let mut problems = Problems::new(file);
        let is_echo = |pair: &[syntax::SyntaxError]| match pair {
            [before, fault] => {
                lines.line(before.at) + 1 == lines.line(fault.at) && fault.is_echo_of(before)
            }
            _ => false,
        };
        let echoes = faults.windows(2).map(is_echo);
        let own = std::iter::once(false).chain(echoes).zip(&faults);
        let own: Vec<_> = own
            .filter(|(is_echo, _)| !is_echo)
            .map(|(_, fault)| fault)
            .collect();
        for fault in own.iter().take(FAULTS_SHOWN) {
            problems.push(fault.describe(lines.place(fault.at), text));
        }
        if let Some(next) = own.get(FAULTS_SHOWN) {
            let more = own.len() - FAULTS_SHOWN;
            let what = format!("and {more} more syntax errors from here on");
            problems.push(Problem::error(lines.place(next.at), what));
        }
        Self {
            root,
            known,
            faulty_lines: faults.iter().map(|fault| lines.line(fault.at)).collect(),
            asked: RefCell::default(),
            problems: RefCell::new(problems),
            lines,
        }
    }

    /// The table that the whole file is.
    pub fn root(&self) -> Table<'_> {
        Table::new(self, String::new(), &self.root, 0)
    }

    /// Whether all of the text was understood. If not, something may be missing in the tree that
    /// stands in the text, and checks across tables would report what is no problem.
    pub fn is_whole(&self) -> bool {
        self.faulty_lines.is_empty()
    }

    /// Adds a problem, unless its line has a syntax error, which is then the better report.
    pub fn report(&self, problem: Problem) {
        let is_faulty = |place: Position| self.faulty_lines.contains(&place.line.saturating_sub(1));
        if !problem.place.is_some_and(is_faulty) {
            self.problems.borrow_mut().push(problem);
        }
    }

    /// The dotted paths of everything asked for, written or not, tables included.
    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().iter().cloned().collect()
    }

    /// Everything that is wrong; its tables are gone by then, and have reported their unknown keys.
    pub fn into_problems(self) -> Problems {
        self.problems.into_inner()
    }

    /// Whether a key that is not in the tree may be called missing. In a text with syntax errors
    /// only a name that stands nowhere in it is surely not written.
    pub(super) fn is_surely_missing(&self, key: &str) -> bool {
        self.is_whole() || !self.lines.text().contains(key)
    }

    pub(super) fn place(&self, offset: usize) -> Position {
        self.lines.place(offset)
    }

    pub(super) fn note_asked(&self, path: String) {
        self.asked.borrow_mut().insert(path);
    }

    pub(super) fn known(&self) -> &'static [&'static str] {
        self.known
    }
}

/// The text of a file's bytes; TOML is UTF-8.
///
/// # Errors
///
/// A problem with the place of the first byte that is not.
pub fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let text = String::from_utf8_lossy(good);
        Problem::error(Lines::new(&text).place(good.len()), "not UTF-8 text")
            .because("a TOML file is UTF-8 (TOML 1.1, Preliminaries)")
            .fix("save the file as UTF-8")
    })
}

/// Of a file that is no TOML at all, these are enough.
const FAULTS_SHOWN: usize = 50;

#[cfg(test)]
mod tests;
