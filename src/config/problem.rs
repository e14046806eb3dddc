//! A problem of a configuration file, and the list of all problems of one file and of the files that it includes.
//!
//! The modules of `config` report problems while they read the file; `snapshot`, `server` and `check` add those that they
//! find when they open the files it names. `cli` and a reload print the list. A problem never quotes a line of the file,
//! because the line may contain a secret by mistake.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::htpasswd::is_invisible;

/// A position in a file, counted as editors count: lines and characters from 1. Positions of the configuration file itself come
/// before those of included files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The file: 0 is the configuration file, and n is the nth file that it includes.
    pub file: usize,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1; a tab is one character.
    pub column: usize,
}

/// Whether the file can be used in spite of the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is rejected.
    Error,
    /// The file is used, although it probably does not mean what its author intended.
    Warning,
}

/// One problem: its position, what is wrong, why that matters, and what to do.
///
/// ```text
/// 12:5: error: unknown key "htpaswd" in site.route.auth
///     why: a misspelt key would silently do nothing
///     fix: did you mean "htpasswd"?
/// ```
///
/// The texts may contain any characters: `Display` escapes control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the file is rejected.
    pub severity: Severity,
    /// The position; `None` for a problem of the file as a whole.
    pub place: Option<Position>,
    /// What is wrong.
    pub what: String,
    /// Why that matters, if `what` does not make it clear.
    pub why: Option<String>,
    /// What to write instead.
    pub remedy: Option<String>,
}

impl Problem {
    /// Creates a problem because of which the file is rejected.
    pub fn error(place: impl Into<Option<Position>>, what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: place.into(),
            what: what.into(),
            why: None,
            remedy: None,
        }
    }

    /// Creates an error from the error of a file's reader, whose text ends with a semicolon and the remedy.
    pub fn of_file_error(place: impl Into<Option<Position>>, error: impl fmt::Display) -> Self {
        let sentence = error.to_string();
        match sentence.rsplit_once("; ") {
            Some((what, remedy)) => Self::error(place, what).fix(remedy),
            None => Self::error(place, sentence),
        }
    }

    /// Creates a problem that leaves the file usable.
    pub fn warning(place: impl Into<Option<Position>>, what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, what)
        }
    }

    /// Adds the reason why the problem matters.
    #[must_use]
    pub fn because(self, why: impl Into<String>) -> Self {
        Self {
            why: Some(why.into()),
            ..self
        }
    }

    /// Adds what to do about the problem.
    #[must_use]
    pub fn fix(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

/// The problem in one to three lines, without a line feed at the end.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.severity, escape(&self.what))?;
        for (word, text) in [("why", &self.why), ("fix", &self.remedy)] {
            if let Some(text) = text {
                write!(f, "\n    {word}: {}", escape(text))?;
            }
        }
        Ok(())
    }
}

/// The problems of one file and of the files that it includes.
///
/// `Display` prints the warnings before the errors, both in the order of their positions, so that the errors are what a
/// terminal still shows after a long report.
#[derive(Clone, Debug)]
pub struct Problems {
    file: PathBuf,
    /// The included files; the first one has the number 1 in a [`Position`].
    included: Vec<PathBuf>,
    list: Vec<Problem>,
    errors: usize,
}

impl Problems {
    /// Creates an empty list for `file`.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            included: Vec::new(),
            list: Vec::new(),
            errors: 0,
        }
    }

    /// Adds a problem. Errors after the first `MAX_ERRORS_KEPT` are only counted: a file with that many is no
    /// configuration at all.
    pub fn push(&mut self, problem: Problem) {
        if problem.severity == Severity::Error {
            self.errors += 1;
            if self.errors > MAX_ERRORS_KEPT {
                return;
            }
        }
        self.list.push(problem);
    }

    /// Returns one of the problems as a single line for a log, with the file in front.
    pub fn line(&self, problem: &Problem) -> String {
        let place = problem.place.map(|place| format!("{place}:"));
        let texts = [
            Some(&problem.what),
            problem.why.as_ref(),
            problem.remedy.as_ref(),
        ];
        let texts: Vec<_> = texts
            .into_iter()
            .flatten()
            .map(|text| escape(text))
            .collect();
        format!(
            "{}:{} {}",
            escape(&self.file_of(problem.place).to_string_lossy()),
            place.unwrap_or_default(),
            texts.join("; ")
        )
    }

    /// The configuration file that the problems are about.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Adds an included file, whose positions have the number that is returned.
    pub(crate) fn add_included(&mut self, file: impl Into<PathBuf>) -> usize {
        self.included.push(file.into());
        self.included.len()
    }

    /// The file of a position. A problem without a position is one of the configuration file.
    pub fn file_of(&self, place: Option<Position>) -> &Path {
        let number = place.map_or(0, |place| place.file);
        let included = number
            .checked_sub(1)
            .and_then(|index| self.included.get(index));
        included.unwrap_or(&self.file)
    }

    /// The problems because of which the file is rejected, by position.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.of(Severity::Error)
    }

    /// The problems that leave the file usable, by position.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.of(Severity::Warning)
    }

    /// All problems by position. Those of the file as a whole come first, and problems of the same position stay in the
    /// order in which they were added.
    pub fn sorted(&self) -> Vec<&Problem> {
        let mut sorted: Vec<_> = self.list.iter().collect();
        sorted.sort_by_key(|problem| problem.place);
        sorted
    }

    /// Whether the file is rejected.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether the list has neither errors nor warnings.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of errors and warnings, as in `2 errors, 1 warning`; a number of zero is left out. Without any problem,
    /// the summary is `no problems`.
    pub fn summary(&self) -> String {
        let warnings = self.warnings().count();
        let parts: Vec<_> = [(self.errors, "error"), (warnings, "warning")]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
            .collect();
        if parts.is_empty() {
            return "no problems".to_owned();
        }
        parts.join(", ")
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Problem> {
        self.sorted()
            .into_iter()
            .filter(move |problem| problem.severity == severity)
    }
}

/// Every problem as `FILE:LINE:COLUMN: …`, each followed by a line feed; errors after warnings.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.warnings().chain(self.errors()) {
            let file = escape(&self.file_of(problem.place).to_string_lossy());
            let gap = if problem.place.is_some() { ":" } else { ": " };
            writeln!(f, "{file}{gap}{problem}")?;
        }
        if self.errors > MAX_ERRORS_KEPT {
            let more = self.errors - MAX_ERRORS_KEPT;
            let file = escape(&self.file.to_string_lossy());
            writeln!(f, "{file}: error: and {more} more")?;
        }
        Ok(())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A text of the file in quotation marks, for a message: escaped, and cut after `MAX_QUOTED` characters. A value that the
/// reader is to copy into the file is written by `value::write`, which never cuts.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars().take(MAX_QUOTED) {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        push_escaped(&mut quoted, character);
    }
    if text.chars().nth(MAX_QUOTED).is_some() {
        quoted.push('…');
    }
    quoted.push('"');
    quoted
}

/// Whether a terminal would not show the character as it is: control characters, line separators, and characters that
/// reorder or hide the text around them.
pub(crate) fn is_unprintable(character: char) -> bool {
    is_invisible(character)
}

/// The text on one line, without characters that a terminal would interpret.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        push_escaped(&mut escaped, character);
    }
    escaped
}

fn push_escaped(text: &mut String, character: char) {
    if is_unprintable(character) {
        text.extend(character.escape_unicode());
    } else {
        text.push(character);
    }
}

/// More errors than an author corrects in one go.
const MAX_ERRORS_KEPT: usize = 200;

/// Longer than any key or host label, shorter than a pasted key file.
const MAX_QUOTED: usize = 60;

#[cfg(test)]
mod tests;
