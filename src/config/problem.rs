//! What is wrong with a configuration file, said to the person who wrote it.
//!
//! Filled by `document` and `table` and by whoever checks what the values mean together; printed by
//! `cli` and by a reload. It never shows a line of the file: a secret may stand there by mistake.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

/// A place in the file, as editors count: lines and characters from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1; a tab is one character.
    pub column: usize,
}

/// Whether the file can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is used, and probably not as its author meant it.
    Warning,
}

/// One problem: where, what, why it matters, what to do.
///
/// ```text
/// 12:5: error: unknown key "htpaswd" in site.route.auth
///     why: a misspelt key would silently do nothing
///     fix: did you mean "htpasswd"?
/// ```
///
/// The texts may hold any characters: control characters are escaped when it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the file is refused.
    pub severity: Severity,
    /// Nothing for a problem of the file as a whole.
    pub place: Option<Position>,
    /// What is wrong.
    pub what: String,
    /// Why that matters, when `what` does not say it by itself.
    pub why: Option<String>,
    /// What to write instead.
    pub remedy: Option<String>,
}

/// The problems of one file, shown in the order of their places: the warnings first, then the errors, so that the errors
/// are what a terminal still shows after a long report.
#[derive(Clone, Debug)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
    errors: usize,
}

impl Problem {
    /// A problem that refuses the file.
    pub fn error(place: impl Into<Option<Position>>, what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: place.into(),
            what: what.into(),
            why: None,
            remedy: None,
        }
    }

    /// A problem that leaves the file usable.
    pub fn warning(place: impl Into<Option<Position>>, what: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, what)
        }
    }

    /// Adds why it matters.
    #[must_use]
    pub fn because(self, why: impl Into<String>) -> Self {
        Self {
            why: Some(why.into()),
            ..self
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn fix(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

impl Problems {
    /// No problems of `file` yet.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            list: Vec::new(),
            errors: 0,
        }
    }

    /// Adds one. Of a file that is no configuration at all, only the first errors are kept; the
    /// others are counted.
    pub fn push(&mut self, problem: Problem) {
        if problem.severity == Severity::Error {
            self.errors += 1;
            if self.errors > ERRORS_KEPT {
                return;
            }
        }
        self.list.push(problem);
    }

    /// One of them as a single line for a log, with the file in front.
    pub fn line(&self, problem: &Problem) -> String {
        let place = problem
            .place
            .map(|place| format!("{place}:"))
            .unwrap_or_default();
        let texts = [
            Some(&problem.what),
            problem.why.as_ref(),
            problem.remedy.as_ref(),
        ];
        let texts: Vec<_> = texts
            .into_iter()
            .flatten()
            .map(|text| quiet(text))
            .collect();
        format!("{}:{place} {}", self.file.display(), texts.join("; "))
    }

    /// The file they are about.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Those that refuse the file, by place.
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.of(Severity::Error)
    }

    /// Those that do not, by place.
    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.of(Severity::Warning)
    }

    /// All of them, by place; those of the file as a whole come first, and equal places stay in
    /// the order they were found in.
    pub fn sorted(&self) -> Vec<&Problem> {
        let mut sorted: Vec<_> = self.list.iter().collect();
        sorted.sort_by_key(|problem| problem.place);
        sorted
    }

    /// Whether the file is refused.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether nothing is wrong at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// `2 errors, 1 warning`, and what is none is left out; `no problems` without any.
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

/// One to three lines, without a line feed at the end.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: ", self.severity)?;
        escape(f, &self.what)?;
        for (word, text) in [("why", &self.why), ("fix", &self.remedy)] {
            if let Some(text) = text {
                write!(f, "\n    {word}: ")?;
                escape(f, text)?;
            }
        }
        Ok(())
    }
}

/// Every problem as `FILE:LINE:COLUMN: …`, each followed by a line feed; errors after warnings.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.warnings().chain(self.errors()) {
            escape(f, &self.file.to_string_lossy())?;
            let gap = if problem.place.is_some() { ":" } else { ": " };
            writeln!(f, "{gap}{problem}")?;
        }
        if let Some(more) = self
            .errors
            .checked_sub(ERRORS_KEPT)
            .filter(|more| *more > 0)
        {
            escape(f, &self.file.to_string_lossy())?;
            writeln!(f, ": error: and {more} more")?;
        }
        Ok(())
    }
}

/// What someone wrote, in quotation marks: escaped, and cut when it is long. For messages only; a value that is to be
/// copied into the file is written by `units::write`.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars().take(QUOTED) {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if is_unprintable(character) => quoted.extend(character.escape_unicode()),
            _ => quoted.push(character),
        }
    }
    if text.chars().nth(QUOTED).is_some() {
        quoted.push('…');
    }
    quoted.push('"');
    quoted
}

/// Writes `text` so that it stays on one line and leaves the terminal alone.
fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    text.chars().try_for_each(|character| {
        if is_unprintable(character) {
            return write!(f, "{}", character.escape_unicode());
        }
        f.write_char(character)
    })
}

/// `text` with what [`escape`] escapes.
fn quiet(text: &str) -> String {
    text.chars().fold(String::new(), |mut quiet, character| {
        if is_unprintable(character) {
            quiet.extend(character.escape_unicode());
        } else {
            quiet.push(character);
        }
        quiet
    })
}

/// Control characters, line separators, and what reorders or hides the text around it.
pub(super) fn is_unprintable(character: char) -> bool {
    crate::htpasswd::is_invisible(character)
}

/// Nobody mends more in one go.
const ERRORS_KEPT: usize = 200;

/// Longer than any key or host label, shorter than a pasted key file.
const QUOTED: usize = 60;

#[cfg(test)]
mod tests;
