//! The getters of a table, one for each kind of value.
//!
//! Called by the code that knows the keys. Each marks its key as asked for, and reports a value of the
//! wrong kind, or one that `units` refuses, without repeating it.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::StatusCode;

use super::super::problem::Problem;
use super::super::syntax::Value;
use super::super::units;
use super::read::BOOLEAN;
use super::{Spanned, Table};

/// Values under names that the author of the file chooses, in the file's order.
pub type Chosen<T> = Vec<(Spanned<String>, Spanned<T>)>;

/// The elements of a list that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T> {
    pub(super) items: Vec<Spanned<T>>,
    pub(super) written: usize,
}

impl<T> List<T> {
    /// Whether the list in the file has no element. A list whose elements were all refused is not empty: it has its
    /// problems already, and must not get another one for being empty.
    pub fn is_written_empty(&self) -> bool {
        self.written == 0
    }

    /// Whether every element of the list in the file could be read. If not, what the elements mean together is not known.
    pub fn is_whole(&self) -> bool {
        self.items.len() == self.written
    }

    /// The elements that could be read.
    pub fn into_items(self) -> Vec<Spanned<T>> {
        self.items
    }

    /// Keeps the elements that `keep` accepts; the others are refused, and count as written.
    pub fn retain(&mut self, keep: impl FnMut(&Spanned<T>) -> bool) {
        self.items.retain(keep);
    }
}

impl<T> std::ops::Deref for List<T> {
    type Target = [Spanned<T>];

    fn deref(&self) -> &[Spanned<T>] {
        &self.items
    }
}

impl<T> IntoIterator for List<T> {
    type Item = Spanned<T>;
    type IntoIter = std::vec::IntoIter<Spanned<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

/// A value that may be written in short or in full.
#[derive(Debug)]
pub enum Written<'a> {
    /// `tls = "acme"`
    Short(Spanned<String>),
    /// `tls = { cert = "a.pem", key = "b.pem" }`
    Full(Table<'a>),
}

impl<'a> Table<'a> {
    /// A string, any.
    pub fn string(&self, key: &'static str) -> Option<Spanned<String>> {
        self.read(key, |table, name, node| table.text(name, node))
    }

    /// A string of a certain form: `route.parse("path", units::path_prefix)`.
    pub fn parse<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, units::Error>,
    ) -> Option<Spanned<T>> {
        self.read(key, |table, name, node| table.parsed(name, node, &parse))
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &'static str) -> Option<Spanned<bool>> {
        self.read(key, |table, name, node| match node.value {
            Value::Boolean(value) => Some(value),
            _ => table.value_error(name, node, BOOLEAN),
        })
    }

    /// `true` or `false`.
    pub fn boolean_or(&self, key: &'static str, default: bool) -> bool {
        self.boolean(key).map_or(default, |read| read.value)
    }

    /// A whole number of the range, both ends included.
    pub fn integer<T: TryFrom<u64>>(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<Spanned<T>> {
        self.read(key, |table, name, node| {
            let in_range = match node.value {
                Value::Integer(value) => value
                    .and_then(|value| u64::try_from(value).ok())
                    .filter(|value| range.contains(value))
                    .and_then(|value| T::try_from(value).ok()),
                _ => None,
            };
            let (from, to) = (range.start(), range.end());
            in_range.or_else(|| {
                table.value_error(name, node, &format!("a whole number from {from} to {to}"))
            })
        })
    }

    /// A whole number of the range, both ends included.
    pub fn integer_or<T: TryFrom<u64>>(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: T,
    ) -> T {
        self.integer(key, range).map_or(default, |read| read.value)
    }

    /// A duration with its unit, `"15m"`.
    pub fn duration(&self, key: &'static str) -> Option<Spanned<Duration>> {
        self.quantity(key, "a duration such as \"30s\"", units::duration, |_| None)
    }

    /// A duration with its unit, `"15m"`.
    pub fn duration_or(&self, key: &'static str, default: Duration) -> Duration {
        self.duration(key).map_or(default, |read| read.value)
    }

    /// Bytes with their unit, `"32KiB"`.
    pub fn size(&self, key: &'static str) -> Option<Spanned<u64>> {
        self.quantity(key, "a size such as \"32KiB\"", units::size, |_| None)
    }

    /// Bytes with their unit, `"32KiB"`.
    pub fn size_or(&self, key: &'static str, default: u64) -> u64 {
        self.size(key).map_or(default, |read| read.value)
    }

    /// Bytes with their unit, or a plain number of them: `0`.
    pub fn size_or_bytes(&self, key: &'static str) -> Option<Spanned<u64>> {
        let expected = "a size such as \"32KiB\", or a number of bytes";
        self.quantity(key, expected, units::size, |bytes| {
            u64::try_from(bytes).ok()
        })
    }

    /// An HTTP status, `404`.
    pub fn status(&self, key: &'static str) -> Option<Spanned<StatusCode>> {
        self.read(key, |table, name, node| match node.value {
            Value::Integer(code) => {
                let place = table.document.place(node.at);
                table.value_ok(name, place, units::http_status(code.unwrap_or(-1)))
            }
            _ => table.value_error(name, node, "a status such as 404"),
        })
    }

    /// A list of strings.
    pub fn strings(&self, key: &'static str) -> Option<Spanned<List<String>>> {
        self.parse_each(key, |text| Ok(text.to_owned()))
    }

    /// A list of strings of a certain form. Those that are not are reported and left out.
    pub fn parse_each<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, units::Error>,
    ) -> Option<Spanned<List<T>>> {
        self.read(key, |table, name, node| table.each(name, node, &parse))
    }

    /// A table of strings, `{ "Name" = "value" }`.
    pub fn pairs(&self, key: &'static str) -> Option<Chosen<String>> {
        self.chosen(key, "a table of strings", |table, name, node| {
            table.text(name, node)
        })
    }

    /// A table of lists of strings, `ci = ["bot", "alice"]`.
    pub fn lists(&self, key: &'static str) -> Option<Chosen<List<String>>> {
        self.chosen(key, "a table of lists of strings", |table, name, node| {
            table.each(name, node, &|text| Ok(text.to_owned()))
        })
    }

    /// The names that the author has chosen in a table of [`lists`](Self::lists) or [`pairs`](Self::pairs), also of the
    /// values that are refused; `None` if the value is no table.
    pub fn names_in(&self, key: &'static str) -> Option<Vec<String>> {
        match self.find(key).map(|entry| &entry.node.value) {
            None => Some(Vec::new()),
            Some(Value::Table(entries)) => Some(entries.keys().cloned().collect()),
            Some(_) => None,
        }
    }

    /// A table in this one, `[limits]` or `auth = { … }`.
    pub fn table(&self, key: &'static str) -> Option<Self> {
        let node = &self.find(key)?.node;
        match &node.value {
            Value::Table(entries) => Some(self.inner(key, node, entries)),
            _ => self.value_error(&self.dotted(key), node, "a table"),
        }
    }

    /// Tables in this one, `[[site]]` or a list of inline ones; none when it is not written.
    pub fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some(entry) = self.find(key) else {
            return Vec::new();
        };
        let name = self.dotted(key);
        match &entry.node.value {
            Value::List(nodes) => nodes
                .iter()
                .filter_map(|node| match &node.value {
                    Value::Table(entries) => Some(self.inner(key, node, entries)),
                    _ => self.value_error(&name, node, "a list of tables"),
                })
                .collect(),
            // It is read all the same, for the sake of the problems in it.
            Value::Table(entries) => {
                let what = format!("{name}: expected a list of tables, found one table");
                let problem = Problem::error(self.document.place(entry.node.at), what);
                self.report(problem.fix(format!("write [[{name}]], with two brackets")));
                vec![self.inner(key, &entry.node, entries)]
            }
            _ => self
                .value_error(&name, &entry.node, "a list of tables")
                .into_iter()
                .collect(),
        }
    }

    /// What may be a string or a table.
    pub fn string_or_table(&self, key: &'static str) -> Option<Written<'a>> {
        let node = &self.find(key)?.node;
        match &node.value {
            Value::Table(entries) => Some(Written::Full(self.inner(key, node, entries))),
            Value::Text(text) => Some(Written::Short(self.placed(node, text.clone()))),
            _ => self.value_error(&self.dotted(key), node, "a string or a table"),
        }
    }
}
