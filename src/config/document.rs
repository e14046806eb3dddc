//! A configuration file and the files that it includes as one TOML tree, with the position of every value and the list of all
//! problems.
//!
//! `config::parse` creates the document, `include` adds files to it, `table` reads values from it, and every reader adds problems
//! to it. The document knows no key.
//!
//! The offsets of the values of all files are in one range of numbers: those of an included file begin where those of the file
//! before it end. So the file of a value follows from its offset.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Position, Problem, Problems, quote};
use crate::htpasswd::shell_word;

/// A value and its position in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// The position of its first character.
    pub place: Position,
}

impl<T> Spanned<T> {
    /// Converts the value, and keeps the position.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned {
            value: convert(self.value),
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

/// A configuration file with the files that it includes.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    /// The texts of the files in the order of their offsets; the first one is the configuration file.
    parts: Vec<Part<'t>>,
    root: DeTable<'t>,
    /// Whether the tree has everything that the included files should add to it.
    is_complete: Cell<bool>,
    problems: RefCell<Problems>,
}

/// The text of one file.
#[derive(Debug)]
struct Part<'t> {
    /// The offset of its first byte.
    start: usize,
    /// Its number in a [`Position`].
    number: usize,
    lines: Lines<'t>,
}

impl<'t> Document<'t> {
    /// Parses the bytes of a file. `file` is the name that the problems have.
    ///
    /// # Errors
    ///
    /// The bytes are not UTF-8 or not TOML. Only the first syntax error is reported: what follows it is unreliable, because
    /// the parser may take one statement for a part of another one.
    pub(crate) fn parse(file: impl Into<PathBuf>, bytes: &'t [u8]) -> Result<Self, Problems> {
        let mut problems = Problems::new(file);
        match parse(problems.file(), bytes) {
            Ok((lines, root)) => Ok(Self {
                parts: vec![Part {
                    start: 0,
                    number: 0,
                    lines,
                }],
                root,
                is_complete: Cell::new(true),
                problems: RefCell::new(problems),
            }),
            Err(problem) => {
                problems.push(problem);
                Err(problems)
            }
        }
    }

    /// The table of the whole file.
    pub(crate) fn root(&self) -> &DeTable<'t> {
        &self.root
    }

    /// The table of the whole file, to be changed.
    pub(crate) fn root_mut(&mut self) -> &mut DeTable<'t> {
        &mut self.root
    }

    /// Records that a part of an included file could not be used, which was reported. A site or a group that the rest of the
    /// configuration lacks may be in that part.
    pub(crate) fn mark_incomplete(&self) {
        self.is_complete.set(false);
    }

    /// Whether every included file was used in full.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    /// Parses the bytes of an included file, and returns its table. The caller merges it into [`Self::root_mut`]. A syntax error
    /// is reported, and the result is `None`.
    pub(crate) fn parse_included(&mut self, file: &Path, bytes: &'t [u8]) -> Option<DeTable<'t>> {
        let number = self.problems.get_mut().add_included(file);
        match parse(file, bytes) {
            Ok((lines, root)) => {
                let last = self.parts.last();
                // One more than the length, because the position after the last character is the end of a file, too.
                let start = last.map_or(0, |last| last.start + last.lines.text.len() + 1);
                self.parts.push(Part {
                    start,
                    number,
                    lines,
                });
                Some(shifted_table(root, start))
            }
            Err(problem) => {
                self.mark_incomplete();
                self.report(Problem {
                    place: problem.place.map(|place| Position {
                        file: number,
                        ..place
                    }),
                    ..problem
                });
                None
            }
        }
    }

    /// Returns the position of the byte at `offset`.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let part = self.parts.iter().rfind(|part| part.start <= offset);
        part.map_or_else(Position::default, |part| Position {
            file: part.number,
            ..part.lines.position(offset - part.start)
        })
    }

    /// The file of the byte at `offset`.
    pub(crate) fn file_at(&self, offset: usize) -> PathBuf {
        let place = self.position(offset);
        self.problems.borrow().file_of(Some(place)).to_owned()
    }

    /// Names an earlier position for a message about a later one: the line, and the file if it is another one.
    pub(crate) fn describe(&self, earlier: Position, later: Position) -> String {
        if earlier.file == later.file {
            return format!("line {}", earlier.line);
        }
        let problems = self.problems.borrow();
        let file = problems.file_of(Some(earlier));
        format!("line {} of {}", earlier.line, file.display())
    }

    /// Adds a problem.
    pub(crate) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Returns all problems that were reported.
    pub(crate) fn into_problems(self) -> Problems {
        self.problems.into_inner()
    }
}

/// Adds `distance` to the offsets of a table and of everything in it.
fn shifted_table(table: DeTable<'_>, distance: usize) -> DeTable<'_> {
    let shifted = |span: Range<usize>| span.start + distance..span.end + distance;
    let entries = table.into_iter().map(|(name, value)| {
        let name = toml::Spanned::new(shifted(name.span()), name.into_inner());
        (name, shifted_value(value, distance))
    });
    entries.collect()
}

fn shifted_value(value: toml::Spanned<DeValue<'_>>, distance: usize) -> toml::Spanned<DeValue<'_>> {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shifted_table(table, distance)),
        DeValue::Array(list) => {
            let mut shifted = DeArray::new();
            for value in list {
                shifted.push(shifted_value(value, distance));
            }
            DeValue::Array(shifted)
        }
        other => other,
    };
    toml::Spanned::new(span.start + distance..span.end + distance, value)
}

fn parse<'t>(file: &Path, bytes: &'t [u8]) -> Result<(Lines<'t>, DeTable<'t>), Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let text = String::from_utf8_lossy(valid);
        Problem::error(Lines::new(&text).position(valid.len()), "not UTF-8 text")
            .because("a TOML file is UTF-8 (TOML 1.1, Preliminaries)")
            .fix("save the file as UTF-8")
    })?;
    let lines = Lines::new(text);
    match DeTable::parse(text) {
        Ok(root) => Ok((lines, root.into_inner())),
        Err(error) if is_nginx_text(text) => {
            let place = lines.position(error.span().unwrap_or_default().start);
            Err(nginx_problem(file, place))
        }
        Err(error) => Err(syntax_problem(&lines, &error)),
    }
}

/// Describes a syntax error. The message is the parser's, which quotes nothing of the text. The remedy follows from the text
/// around the error, and not from the wording of the message, which a release of the parser may change.
fn syntax_problem(lines: &Lines<'_>, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or_default();
    let place = lines.position(span.start);
    let (before, rest) = lines.split_line(span.start);
    let problem = Problem::error(place, error.message());
    if !before.ends_with('=')
        && let Some(key) = repeated_key(lines.text, &span)
    {
        let what = format!("{} {}", error.message(), quote(key));
        return Problem::error(place, what)
            .fix("keep one of them; a table that may repeat is written [[name]]");
    }
    let starts_unquoted = |text: &str| {
        text.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '*' | '$' | '~'))
    };
    if before.ends_with(['=', '[', ',']) && starts_unquoted(rest) {
        let word = rest.split([',', ']', '}', '#', ' ', '\t']).next();
        let is_switch = word.is_some_and(|word| {
            SWITCHES
                .iter()
                .any(|switch| switch.eq_ignore_ascii_case(word))
        });
        return problem.fix(if is_switch {
            "write true or false; a text is written between double quotes"
        } else {
            "put the text between double quotes"
        });
    }
    if before.ends_with(['=', '[', ',']) && rest.starts_with(['“', '”', '„', '‘', '’', '«', '»'])
    {
        return problem
            .fix("write straight quotation marks, \"…\", in the place of the typographic ones");
    }
    if rest == ";" {
        return problem.fix("remove the semicolon: a line of TOML ends without one");
    }
    if before.ends_with('=') && rest.is_empty() {
        return problem.fix("write a value after the =");
    }
    if !lines.has_multiline_string() {
        if let Some(quote) = open_quote(lines.line(span.start)) {
            return problem.fix(format!("close the text with {quote} on the same line"));
        }
        // In a list, the parser takes a text that is not closed for an element, and reports the statement on the next line.
        let (_, above) = lines.line_start(span.start.saturating_sub(1));
        if before.is_empty()
            && let Some(quote) = open_quote(lines.line(above))
        {
            return Problem::error(lines.position(above), "a text is not closed on its line")
                .fix(format!("close the text with {quote} on the same line"));
        }
    }
    if let Some(key) = key_before_colon(before, rest) {
        return problem.fix(format!(
            "write {key} = …, with \"=\" in the place of the colon"
        ));
    }
    if is_key(before) && !lines.ends_in_multiline_string() {
        return problem.fix("write key = value");
    }
    if lines.is_rest_blank(span.start) {
        return problem.fix("look above for a [, { or quotation mark that is not closed");
    }
    // A statement is valid at the start of a line, unless the parser takes it for an element of a list.
    if before.is_empty()
        && rest.starts_with(|c: char| c.is_ascii_alphanumeric() || "[\"'{".contains(c))
    {
        return problem.fix("close the list with ] above, or write a comma between its elements");
    }
    problem.fix("correct this line, or the one above: each is one key = value, one [table], or a # with a comment")
}

/// Whether a line begins with a directive of nginx and ends as such a line does. No line of a TOML file ends with a semicolon, and
/// one that ends with an opening brace has a `=`.
fn is_nginx_text(text: &str) -> bool {
    let is_directive = |line: &str| {
        let line = line.trim();
        let word = line.split([' ', '\t', '{', ';']).next().unwrap_or_default();
        line.ends_with(['{', ';']) && !line.contains('=') && NGINX_DIRECTIVES.contains(&word)
    };
    text.lines().any(is_directive)
}

/// Directives of which nearly every configuration of nginx has one.
const NGINX_DIRECTIVES: &[&str] = &[
    "events",
    "http",
    "server",
    "location",
    "listen",
    "server_name",
    "proxy_pass",
    "include",
    "upstream",
];

/// What other formats write for the two booleans of TOML, without regard to case.
const SWITCHES: &[&str] = &["true", "false", "yes", "no", "on", "off"];

fn nginx_problem(file: &Path, place: Position) -> Problem {
    let word = shell_word(&file.to_string_lossy());
    Problem::error(place, "this looks like a configuration of nginx")
        .because("tidegate reads TOML")
        .fix(format!(
            "translate it: tidegate import nginx {word} > proxy.toml"
        ))
}

/// The quotation mark of a string that is not closed on its line.
fn open_quote(line: &str) -> Option<char> {
    let mut open = None;
    let mut is_escaped = false;
    for character in line.chars() {
        match (open, character) {
            (None, '#') => break,
            (None, '"' | '\'') => open = Some(character),
            (Some('"'), '\\') if !is_escaped => {
                is_escaped = true;
                continue;
            }
            (Some(quote), _) if quote == character && !is_escaped => open = None,
            _ => {}
        }
        is_escaped = false;
    }
    open
}

/// Returns the key if a line has a colon between key and value, as in YAML and JSON, where TOML has `=`. `before` and `rest`
/// are the parts of the line before and after the position of the syntax error.
fn key_before_colon<'t>(before: &'t str, rest: &'t str) -> Option<&'t str> {
    let key = if rest.starts_with(':') {
        before
    } else if let Some(key) = before.strip_suffix(':') {
        key
    } else if before.is_empty() || before.ends_with(['{', ',']) {
        rest.split_once(':')?.0
    } else {
        return None;
    };
    let key = key.rsplit(['{', ',']).next().unwrap_or(key).trim();
    is_key(key).then_some(key)
}

/// Returns the key at `span` if it is complete and occurs before, too: then the error is that it is written twice.
fn repeated_key<'t>(text: &'t str, span: &Range<usize>) -> Option<&'t str> {
    let before = text.get(..span.start)?;
    let after = text.get(span.end..)?.trim_start();
    let key = text.get(span.clone())?;
    let name = key.trim_matches(['"', '\'']);
    let is_repeated = is_key(key) && after.starts_with(['=', '.', ']']) && before.contains(name);
    is_repeated.then_some(name)
}

/// Whether the text is a quoted key, or bare keys with dots between them.
fn is_key(text: &str) -> bool {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let is_quoted_with = |quote: char| {
        let inner = text
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote));
        inner.is_some_and(|inner| !inner.contains(quote))
    };
    let is_quoted = is_quoted_with('"') || is_quoted_with('\'');
    !text.is_empty() && (text.chars().all(is_bare) || is_quoted)
}

/// Converts byte offsets to lines and columns. The time of a conversion does not depend on the offset, so that a line of a
/// megabyte with an error in each value is reported in time.
#[derive(Debug)]
struct Lines<'t> {
    text: &'t str,
    /// The offset at which each line begins.
    starts: Vec<usize>,
    /// The number of characters before each block of [`BLOCK_SIZE`] bytes.
    characters_before_block: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// Finds the lines of a text. A line ends with a line feed; a carriage return before it is a character of the line.
    fn new(text: &'t str) -> Self {
        // No editor counts a byte order mark as a character of the first line.
        let first = text.len() - text.trim_start_matches('\u{feff}').len();
        let starts = text.match_indices('\n').map(|(feed, _)| feed + 1);
        let mut total = 0;
        let characters = text.as_bytes().chunks(BLOCK_SIZE).map(|block| {
            total += count_characters(block);
            total
        });
        Self {
            text,
            starts: std::iter::once(first).chain(starts).collect(),
            characters_before_block: std::iter::once(0).chain(characters).collect(),
        }
    }

    /// Returns the position of the character at `offset`. An offset after the text has the position after the last character.
    fn position(&self, offset: usize) -> Position {
        let (line, start) = self.line_start(offset);
        let column = self
            .characters_before(offset)
            .saturating_sub(self.characters_before(start));
        Position {
            file: 0,
            line: line + 1,
            column: column + 1,
        }
    }

    /// Returns the parts of a line before and after `offset`, without blanks at their ends.
    fn split_line(&self, offset: usize) -> (&'t str, &'t str) {
        let (_, start) = self.line_start(offset);
        let before = self.text.get(start..offset).unwrap_or_default();
        let rest = self.text.get(offset..).unwrap_or_default();
        let rest = rest.lines().next().unwrap_or_default();
        (before.trim(), rest.trim())
    }

    /// Returns the line of `offset`.
    fn line(&self, offset: usize) -> &'t str {
        let (_, start) = self.line_start(offset);
        let rest = self.text.get(start..).unwrap_or_default();
        rest.lines().next().unwrap_or_default()
    }

    /// Whether the text has a string of several lines, in which a line may have one quotation mark.
    fn has_multiline_string(&self) -> bool {
        self.text.contains("\"\"\"") || self.text.contains("'''")
    }

    /// Whether nothing but blanks follows `offset`.
    fn is_rest_blank(&self, offset: usize) -> bool {
        let rest = self.text.get(offset..).unwrap_or_default();
        rest.trim_start().is_empty()
    }

    /// Whether the text ends within a string of several lines.
    fn ends_in_multiline_string(&self) -> bool {
        let is_odd = |quotes| self.text.matches(quotes).count() % 2 == 1;
        is_odd("\"\"\"") || is_odd("'''")
    }

    /// Returns the number, from 0, and the first offset of the line that contains `offset`.
    fn line_start(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let line = line.saturating_sub(1);
        (line, self.starts.get(line).copied().unwrap_or_default())
    }

    fn characters_before(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let block = offset / BLOCK_SIZE;
        let before_block = self.characters_before_block.get(block);
        let rest = self.text.as_bytes().get(block * BLOCK_SIZE..offset);
        before_block.copied().unwrap_or_default() + count_characters(rest.unwrap_or_default())
    }
}

/// Counts the characters that begin in the bytes: one at each byte that continues no other one (RFC 3629 section 3).
fn count_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

const BLOCK_SIZE: usize = 256;

#[cfg(test)]
mod tests;
