//! TOML text to a tree, with every syntax error of the text.
//!
//! Called by `document`. The tree is what could be understood: a caller that finds something missing
//! in the tree of a text with faults must not take it for missing in the text.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::de::{DeInteger, DeTable, DeValue};

use super::lines::Lines;
use super::problem::{Position, Problem, quote};

/// A value and the byte it begins at.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) value: Value,
}

/// A value as TOML has it, as far as a configuration needs it.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    /// Nothing, when it does not fit.
    Integer(Option<i64>),
    Boolean(bool),
    List(Vec<Node>),
    Table(Entries),
    /// A kind that no key takes.
    Other(&'static str),
}

/// The keys of a table.
pub(super) type Entries = BTreeMap<String, Entry>;

/// A key's value, and the byte the key begins at.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key_at: usize,
    pub(super) node: Node,
}

/// A syntax error. Its words come from the parser, which quotes nothing of the text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SyntaxError {
    pub(super) at: usize,
    end: usize,
    message: String,
}

impl Value {
    /// What it is, with its article, for a sentence.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(Some(_)) => "an integer",
            Self::Integer(None) => "a number that is too large",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

impl SyntaxError {
    /// The fault in words.
    pub(super) fn describe(&self, place: Position, text: &str) -> Problem {
        if self.is_duplicate() {
            let key = text.get(self.at..self.end).unwrap_or_default();
            let what = format!("duplicate key {}", quote(key.trim_matches(['"', '\''])));
            return Problem::error(place, what)
                .fix("keep one of them; a table that may repeat is written [[name]]");
        }
        if self.is(UNQUOTED) {
            return Problem::error(place, UNQUOTED).fix("put the text between double quotes");
        }
        let problem = Problem::error(place, self.message.clone());
        if self.is(NO_VALUE) {
            return problem.fix("write key = value");
        }
        if self.is(NO_COMMA) {
            return problem
                .fix("close the list with ] above, or write a comma between its elements");
        }
        if self.is("unclosed array,") || self.is("unclosed inline table") {
            return problem.fix("look above for a [ or { that is not closed");
        }
        problem
    }

    /// Whether this fault is only there because of the one in the line before: in a list that is not closed, each further
    /// line is taken for an element.
    pub(super) fn is_echo_of(&self, before: &Self) -> bool {
        self.is(NO_COMMA) && before.is(NO_COMMA)
    }

    fn is(&self, start: &str) -> bool {
        self.message.starts_with(start)
    }

    fn is_duplicate(&self) -> bool {
        self.is("duplicate key")
    }

    /// Found while values are put into tables, and so only as right as the tables are.
    fn depends_on_tables(&self) -> bool {
        self.is_duplicate() || self.is("cannot extend")
    }
}

/// Reads the text. The faults are in the order of their places, the first one of each line: those
/// behind it are mostly its echo.
pub(super) fn read(lines: &Lines) -> (Entries, Vec<SyntaxError>) {
    let (entries, faults) = read_all(lines);
    let mut faults: Vec<_> = faults.into_iter().collect();
    faults.dedup_by_key(|fault| lines.line(fault.at));
    (entries, faults)
}

fn read_all(lines: &Lines) -> (Entries, BTreeSet<SyntaxError>) {
    let (entries, faults) = parse(lines.text());
    let Some(mended) = mend(lines, &faults) else {
        return (entries, faults);
    };
    let (entries, more) = parse(&mended);
    let first = faults
        .into_iter()
        .filter(|fault| !fault.depends_on_tables());
    (entries, first.chain(more).collect())
}

fn parse(text: &str) -> (Entries, BTreeSet<SyntaxError>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let faults = errors.iter().map(|error| {
        let span = error.span().unwrap_or_default();
        SyntaxError {
            at: span.start,
            end: span.end,
            message: error.message().to_owned(),
        }
    });
    // A key that is not there has a fault of its own.
    let is_real = |fault: &SyntaxError| !fault.is_duplicate() || fault.at < fault.end;
    let entries = convert_table(root.get_ref());
    (entries, faults.filter(is_real).collect())
}

/// The text with blanks in place of the lines behind which the parser understands nothing: it stops
/// at a key without a value, and takes an unclosed header for a part of the next one. The faults of
/// those lines are known by then, and every other byte keeps its place.
fn mend(lines: &Lines, faults: &BTreeSet<SyntaxError>) -> Option<String> {
    let mut lost: Vec<Range<usize>> = Vec::new();
    for fault in faults {
        let line = lines.line(fault.at);
        if lost.last().is_none_or(|last| last.end <= line) {
            lost.extend(lost_lines(lines, fault, line));
        }
    }
    if lost.is_empty() {
        return None;
    }
    let mut mended = lines.text().to_owned();
    for line in lost.into_iter().flatten() {
        let blank: String = lines.line_text(line).bytes().map(blank).collect();
        mended.replace_range(lines.range(line), &blank);
    }
    Some(mended)
}

/// A header that is none takes its section with it: else its keys would count for the one before.
fn lost_lines(lines: &Lines, fault: &SyntaxError, line: usize) -> Option<Range<usize>> {
    if HEADER_FAULTS.iter().any(|start| fault.is(start)) {
        return Some(line..next_header(lines, line));
    }
    // Before any look at the line: it may be long, and have many faults of other kinds.
    if !fault.is(NO_VALUE) && !fault.is("missing value for key") {
        return None;
    }
    let text = lines.line_text(line);
    if text.contains(']') && !text.contains(['[', '=']) {
        return Some(line..next_header(lines, line));
    }
    // A text over several lines that begins here would lose its beginning.
    let opens_text = text.contains("\"\"\"") || text.contains("'''");
    (!opens_text).then_some(line..line + 1)
}

fn next_header(lines: &Lines, line: usize) -> usize {
    (line + 1..lines.count())
        .find(|next| lines.line_text(*next).trim_start().starts_with('['))
        .unwrap_or_else(|| lines.count())
}

const fn blank(byte: u8) -> char {
    match byte {
        b'\n' => '\n',
        b'\r' => '\r',
        _ => ' ',
    }
}

fn convert_table(table: &DeTable<'_>) -> Entries {
    let entries = table.iter().map(|(key, value)| {
        let node = convert(value.span().start, value.get_ref());
        let key_at = key.span().start;
        (key.get_ref().to_string(), Entry { key_at, node })
    });
    entries.collect()
}

/// As deep as the parser goes, which is 80 levels.
fn convert(at: usize, value: &DeValue<'_>) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(digits) => Value::Integer(convert_integer(digits)),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Array(list) => Value::List(
            list.iter()
                .map(|item| convert(item.span().start, item.get_ref()))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table)),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Node { at, value }
}

fn convert_integer(digits: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(digits.as_str(), digits.radix()).ok()
}

// The parser's words. Should a later one say it otherwise, less is mended and nothing is wrong.
const NO_VALUE: &str = "key with no value";
const NO_COMMA: &str = "missing comma between array elements";
const HEADER_FAULTS: [&str; 3] = ["unclosed table", "unclosed array table", "invalid table"];
const UNQUOTED: &str = "string values must be quoted";
