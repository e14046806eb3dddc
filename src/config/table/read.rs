//! How the getters of a table read: kinds of values, refusals, lists, names the author chooses.
//!
//! Called by `values` only. A reading function gets the table, the value's dotted name and the value.

use super::super::problem::{Position, Problem};
use super::super::syntax::{Entries, Node, Value};
use super::super::units;
use super::{Chosen, List, Spanned, Table};

impl<'a> Table<'a> {
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Self, &str, &'a Node) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let node = &self.find(key)?.node;
        let value = read(self, &self.dotted(key), node)?;
        Some(self.placed(node, value))
    }

    /// A string of a certain form, or, where `plain` says so, a number.
    pub(super) fn quantity<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, units::Error>,
        plain: impl Fn(i64) -> Option<T>,
    ) -> Option<Spanned<T>> {
        self.read(key, |table, name, node| match &node.value {
            Value::Integer(number) => number.and_then(plain).or_else(|| {
                // The number as it stands lacks a unit, and the refusal of that names one.
                let text = number.map(|number| number.to_string());
                let remedy = text.and_then(|text| parse(&text).err()?.remedy());
                table.refuse_with(name, node, expected, remedy)
            }),
            Value::Text(_) => table.parsed(name, node, &parse),
            _ => table.value_error(name, node, expected),
        })
    }

    pub(super) fn chosen<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&Self, &str, &'a Node) -> Option<T>,
    ) -> Option<Chosen<T>> {
        let node = &self.find(key)?.node;
        let Value::Table(entries) = &node.value else {
            return self.value_error(&self.dotted(key), node, expected);
        };
        let mut written: Vec<_> = entries.iter().collect();
        written.sort_by_key(|(_, entry)| entry.key_at);
        let name = self.dotted(key);
        let pairs = written.into_iter().filter_map(|(chosen, entry)| {
            let place = self.document.place(entry.key_at);
            let value = chosen.clone();
            let read = read(self, &format!("{name}.{chosen}"), &entry.node)?;
            Some((Spanned { value, place }, self.placed(&entry.node, read)))
        });
        Some(pairs.collect())
    }

    pub(super) fn text(&self, name: &str, node: &'a Node) -> Option<String> {
        self.parsed(name, node, &|text| Ok(text.to_owned()))
    }

    pub(super) fn parsed<T>(
        &self,
        name: &str,
        node: &'a Node,
        parse: &impl Fn(&str) -> Result<T, units::Error>,
    ) -> Option<T> {
        let Value::Text(text) = &node.value else {
            return self.value_error(name, node, "a string");
        };
        let read = parse(text).map_err(|error| units::explain(text, error, parse));
        self.value_ok(name, self.document.place(node.at), read)
    }

    pub(super) fn each<T>(
        &self,
        name: &str,
        node: &'a Node,
        parse: &impl Fn(&str) -> Result<T, units::Error>,
    ) -> Option<List<T>> {
        let Value::List(items) = &node.value else {
            return self.value_error(name, node, "a list of strings, [\"…\", \"…\"]");
        };
        let read = items.iter().filter_map(|item| {
            let value = self.parsed(name, item, parse)?;
            Some(self.placed(item, value))
        });
        Some(List {
            written: items.len(),
            items: read.collect(),
        })
    }

    pub(super) fn inner(&self, key: &str, node: &Node, entries: &'a Entries) -> Self {
        Self::new(self.document, self.dotted(key), entries, node.at)
    }

    pub(super) fn placed<T>(&self, node: &Node, value: T) -> Spanned<T> {
        let place = self.document.place(node.at);
        Spanned { value, place }
    }

    /// A unit's answer; its refusal becomes a problem.
    pub(super) fn value_ok<T>(
        &self,
        name: &str,
        place: Position,
        read: Result<T, units::Error>,
    ) -> Option<T> {
        let error = match read {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let problem = Problem::error(place, format!("{name}: {error}"));
        self.report(Problem {
            why: error.why(),
            remedy: error.remedy(),
            ..problem
        });
        None
    }

    /// Reports a value of the wrong kind. Nothing but a number is repeated: it may be a secret.
    pub(super) fn value_error<T>(&self, name: &str, node: &Node, expected: &str) -> Option<T> {
        let remedy = other_kind(expected, &node.value);
        self.refuse_with(name, node, expected, remedy)
    }

    /// As [`Self::refuse`], with another remedy.
    pub(super) fn refuse_with<T>(
        &self,
        name: &str,
        node: &Node,
        expected: &str,
        remedy: Option<String>,
    ) -> Option<T> {
        let found = match node.value {
            Value::Integer(Some(number)) => number.to_string(),
            _ => node.value.kind().to_owned(),
        };
        let what = format!("{name}: expected {expected}, found {found}");
        let problem = Problem::error(self.document.place(node.at), what);
        self.report(Problem { remedy, ..problem });
        None
    }
}

/// How a value of the wrong kind becomes one of the right kind, where only its notation is wrong.
fn other_kind(expected: &str, value: &Value) -> Option<String> {
    let remedy = match value {
        Value::Text(text) if expected == BOOLEAN && matches!(text.as_str(), "true" | "false") => {
            "write it without quotes"
        }
        Value::Text(text) if expected.starts_with("a whole number") && is_number(text) => {
            "write it without quotes"
        }
        Value::Text(text) if expected.starts_with("a status") && is_number(text) => {
            "write it without quotes"
        }
        Value::Text(_) if expected.starts_with("a list of strings") => {
            "put it between brackets, as in [\"…\"]"
        }
        Value::Text(_) | Value::List(_) | Value::Table(_) => return None,
        _ if expected == "a string" => "put it between double quotes",
        _ => return None,
    };
    Some(remedy.to_owned())
}

fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}

/// What a boolean is called in a refusal.
pub(super) const BOOLEAN: &str = "true or false";
