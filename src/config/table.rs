//! Reads a TOML table with the keys that it may have.
//!
//! The modules of `config` that build the settings read values with [`Table::get`] and [`Table::value`]. When the table of the
//! whole file is created, every key of the file that is not in the table of keys is reported.

use std::path::PathBuf;

use toml::de::{DeString, DeTable, DeValue};

use super::document::{Document, Spanned};
use super::form::{AnyKey, Form, Item, Key, Keys, TableForm, WithDefault, paths};
use super::nearest::nearest;
use super::problem::{Position, Problem, quote};

/// A table of the file.
///
/// The getters return `None` both for a key that is not written and for a value that is wrong, which they report. A reader
/// then continues with a default, and so finds the next problem in the same run.
pub(crate) struct Table<'a> {
    document: &'a Document<'a>,
    path: String,
    /// `None` for a table that is not written.
    entries: Option<&'a DeTable<'a>>,
    /// The offset of the header or of the opening brace.
    offset: usize,
    keys: Keys,
}

impl<'a> Table<'a> {
    /// Returns the table of the whole file, and reports every key of the file that is not in `keys`.
    pub(crate) fn root(document: &'a Document<'a>, keys: Keys) -> Self {
        let root = Self::root_unchecked(document, keys);
        root.report_unknown_keys(keys);
        root
    }

    /// As [`Self::root`], without a report of unknown keys, for a document that is not complete yet.
    pub(crate) fn root_unchecked(document: &'a Document<'a>, keys: Keys) -> Self {
        Self {
            document,
            path: String::new(),
            entries: Some(document.root()),
            offset: 0,
            keys,
        }
    }

    /// The keys that the table may have.
    pub(crate) fn keys(&self) -> Keys {
        self.keys
    }

    /// The dotted path of one of its keys.
    pub(crate) fn path_of(&self, key: &dyn AnyKey) -> String {
        if self.path.is_empty() {
            return key.name().to_owned();
        }
        format!("{}.{}", self.path, key.name())
    }

    /// The folder of the file that the table is in. Relative paths in the table are below it.
    pub(crate) fn folder(&self) -> PathBuf {
        let file = self.file();
        file.parent().map(PathBuf::from).unwrap_or_default()
    }

    /// Whether every included file was used in full. If not, what the configuration lacks may be in such a file.
    pub(crate) fn is_complete(&self) -> bool {
        self.document.is_complete()
    }

    /// The file that the table is in.
    pub(crate) fn file(&self) -> PathBuf {
        self.document.file_at(self.offset)
    }

    /// Names an earlier position for a message about a later one.
    pub(crate) fn describe(&self, earlier: Position, later: Position) -> String {
        self.document.describe(earlier, later)
    }

    /// The position of the header or of the opening brace.
    pub(crate) fn place(&self) -> Position {
        self.document.position(self.offset)
    }

    /// The position of a key; `None` if it is not written.
    pub(crate) fn place_of(&self, key: &dyn AnyKey) -> Option<Position> {
        let (name, _) = self.entries?.get_key_value(key.name())?;
        Some(self.document.position(name.span().start))
    }

    /// Adds a problem that the reader of the table found.
    pub(crate) fn report(&self, problem: Problem) {
        self.document.report(problem);
    }

    /// Reports the key if it is not written. `example` is what to add, as in `hosts = ["a.example.com"]`.
    pub(crate) fn require(&self, key: &dyn AnyKey, example: &str) {
        if self.place_of(key).is_none() && !self.is_misspelt(key) {
            let what = format!("missing key {}{}", quote(key.name()), self.location());
            self.report(Problem::error(self.place(), what).fix(format!("add {example}")));
        }
    }

    /// Whether an unknown key of this table resembles `key`. The unknown key is reported with this suggestion; a report of
    /// the missing key would be a second error for the same mistake.
    fn is_misspelt(&self, key: &dyn AnyKey) -> bool {
        let names: Vec<_> = self.keys.iter().map(|key| key.name()).collect();
        let mut written = self.entries.into_iter().flat_map(DeTable::keys);
        written.any(|written| {
            let written: &str = written.get_ref();
            !names.contains(&written) && nearest(written, names.iter().copied()) == Some(key.name())
        })
    }

    /// Reads the value of a key.
    pub(crate) fn get<F: Form>(&self, key: &Key<F>) -> Option<Spanned<F::Value>> {
        let item = self.item(key)?;
        let value = key.form.read(&item)?;
        Some(item.spanned(value))
    }

    /// Reads the value of a key, or returns its default.
    pub(crate) fn value<F: Form>(&self, key: &Key<WithDefault<F>>) -> F::Value
    where
        F::Value: Clone + PartialEq,
    {
        self.get(key)
            .map_or_else(|| key.form.default.clone(), |read| read.value)
    }

    /// Returns a table in this one, such as `[limits]` or `auth = { … }`.
    pub(crate) fn table(&self, key: &Key<TableForm>) -> Option<Self> {
        let item = self.item(key)?;
        Some(Self::inner(&item, item.entries("a table")?, key.form.0))
    }

    /// Returns a table in this one. If it is not written, the result is an empty table, with the defaults of all its keys.
    pub(crate) fn table_or_empty(&self, key: &Key<TableForm>) -> Self {
        self.table(key).unwrap_or_else(|| Self {
            document: self.document,
            path: self.path_of(key),
            entries: None,
            offset: self.offset,
            keys: key.form.0,
        })
    }

    /// Returns the tables of `[[site]]`, or of a list of inline tables.
    pub(crate) fn tables(&self, key: &Key<TableForm>) -> Vec<Self> {
        let Some(item) = self.item(key) else {
            return Vec::new();
        };
        let expected = "a list of tables";
        match item.value.get_ref() {
            DeValue::Array(list) => {
                let items = list.iter().map(|value| item.element(value));
                items
                    .filter_map(|item| {
                        Some(Self::inner(&item, item.entries(expected)?, key.form.0))
                    })
                    .collect()
            }
            // The table is read in spite of the mistake, so that its own problems are reported in the same run.
            DeValue::Table(entries) => {
                let what = format!("{}: expected {expected}, found one table", item.name);
                let fix = format!("write [[{}]], with two brackets", item.name);
                self.report(Problem::error(item.place(), what).fix(fix));
                vec![Self::inner(&item, entries, key.form.0)]
            }
            _ => item.reject_kind(expected, None).unwrap_or_default(),
        }
    }

    /// Reads a value that may be a string or a table.
    pub(crate) fn string_or_table(&self, key: &Key<TableForm>) -> Option<Choice<'a>> {
        let item = self.item(key)?;
        match item.value.get_ref() {
            DeValue::Table(entries) => Some(Choice::Table(Self::inner(&item, entries, key.form.0))),
            DeValue::String(_) => Some(Choice::String(item)),
            _ => item.reject_kind("a string or a table", None),
        }
    }

    /// Reads a value that may be a number, or a table with further keys.
    pub(crate) fn scalar_or_table(&self, key: &Key<TableForm>) -> Option<ScalarOrTable<'a>> {
        let item = self.item(key)?;
        Some(match item.value.get_ref() {
            DeValue::Table(entries) => {
                ScalarOrTable::Table(Self::inner(&item, entries, key.form.0))
            }
            _ => ScalarOrTable::Scalar(item),
        })
    }

    /// Returns the table or the tables that the value of a key is, without reporting a value of another kind.
    pub(crate) fn tables_at(&self, key: &dyn AnyKey) -> Vec<Self> {
        let Some(item) = self.item(key).filter(|_| !key.keys().is_empty()) else {
            return Vec::new();
        };
        let items = match item.value.get_ref() {
            DeValue::Array(list) => list.iter().map(|value| item.element(value)).collect(),
            _ => vec![item],
        };
        let tables = items.iter().filter_map(|item| match item.value.get_ref() {
            DeValue::Table(entries) => Some(Self::inner(item, entries, key.keys())),
            _ => None,
        });
        tables.collect()
    }

    /// Returns the value of a key as it is written.
    pub(crate) fn item(&self, key: &dyn AnyKey) -> Option<Item<'a>> {
        let value = self.entries?.get(key.name())?;
        Some(Item {
            document: self.document,
            name: self.path_of(key),
            value,
        })
    }

    /// Returns the table that a value is.
    fn inner(item: &Item<'a>, entries: &'a DeTable<'a>, keys: Keys) -> Self {
        Self {
            document: item.document,
            path: item.name.clone(),
            entries: Some(entries),
            offset: item.value.span().start,
            keys,
        }
    }

    /// The end of a message that names a key: where the key is.
    fn location(&self) -> String {
        if self.path.is_empty() {
            return String::new();
        }
        format!(" in {}", self.path)
    }

    /// Reports the unknown keys of this table and of the tables in it. `all` are the keys of the whole file.
    fn report_unknown_keys(&self, all: Keys) {
        let mut unknown = Vec::new();
        for name in self.entries.into_iter().flat_map(DeTable::keys) {
            let Some(key) = self.keys.iter().find(|key| key.name() == name.get_ref()) else {
                unknown.push(name);
                continue;
            };
            for table in self.tables_at(*key) {
                table.report_unknown_keys(all);
            }
        }
        self.report_unknown(unknown, all);
    }

    /// Reports names that are no keys of this table. `all` are the keys of the whole file.
    pub(crate) fn report_unknown(&self, mut unknown: Vec<&toml::Spanned<DeString<'_>>>, all: Keys) {
        unknown.sort_by_key(|name| name.span().start);
        for name in unknown.iter().take(MAX_UNKNOWN_KEYS) {
            let place = self.document.position(name.span().start);
            let what = format!("unknown key {}{}", quote(name.get_ref()), self.location());
            self.report(
                Problem::error(place, what)
                    .because("a misspelt key would silently do nothing")
                    .fix(self.suggest_for(name.get_ref(), all)),
            );
        }
        if let Some(next) = unknown.get(MAX_UNKNOWN_KEYS) {
            let more = unknown.len() - MAX_UNKNOWN_KEYS;
            let what = format!("and {more} more unknown keys{}", self.location());
            self.report(Problem::error(
                self.document.position(next.span().start),
                what,
            ));
        }
    }

    /// Returns the remedy for an unknown key: the right name, the right table, or the names of all keys. The same name in a
    /// table below this one comes before a similar name in this table, which comes before the same name far away.
    fn suggest_for(&self, unknown: &str, all: Keys) -> String {
        if let Some(table) = tables_with(self.keys, unknown).find(|table| !table.is_empty()) {
            return format!("it belongs in {table} = {{ {unknown} = … }}");
        }
        if let Some(meant) = nearest(unknown, self.keys.iter().map(|key| key.name())) {
            return format!("did you mean {}?", quote(meant));
        }
        // An unknown key of an inner table, such as "file" in site.route.auth, probably has nothing to do with a key of the
        // same name in another section, such as log.file.
        let section = |path: &str| path.split('.').next().map(str::to_owned);
        let is_near = |table: &String| {
            !self.path.contains('.') || table.is_empty() || section(table) == section(&self.path)
        };
        if let Some(table) = tables_with(all, unknown).find(is_near) {
            return belongs_in(&table);
        }
        if (1..=MAX_NAMES_IN_REMEDY).contains(&self.keys.len()) {
            let names: Vec<_> = self.keys.iter().map(|key| key.name()).collect();
            return format!("the keys here are {}", names.join(", "));
        }
        tables_with(all, unknown).next().map_or_else(
            || {
                "remove it, or look up its name in the sample proxy.toml, which explains every key"
                    .to_owned()
            },
            |table| belongs_in(&table),
        )
    }
}

/// Returns the paths of the tables that have a key of this name.
fn tables_with(keys: Keys, name: &str) -> impl Iterator<Item = String> {
    paths(keys).into_iter().filter_map(move |(path, _)| {
        let (table, last) = path.rsplit_once('.').unwrap_or(("", &path));
        (last == name).then(|| table.to_owned())
    })
}

fn belongs_in(table: &str) -> String {
    if table.is_empty() {
        return "it belongs at the top of the file, above the first [table]".to_owned();
    }
    format!("it belongs in the table {table}")
}

/// A table with more unknown keys is probably a table of something else; the others are only counted.
const MAX_UNKNOWN_KEYS: usize = 20;

/// A longer list of names does not help.
const MAX_NAMES_IN_REMEDY: usize = 16;

/// A value that is a string or a table.
pub(crate) enum Choice<'a> {
    /// As in `tls = "acme"`.
    String(Item<'a>),
    /// As in `tls = { cert = "a.pem", key = "b.pem" }`.
    Table(Table<'a>),
}

/// A value that is a table or anything else.
pub(crate) enum ScalarOrTable<'a> {
    /// As in `respond = 404`.
    Scalar(Item<'a>),
    /// As in `respond = { status = 308, location = "/ui/" }`.
    Table(Table<'a>),
}

#[cfg(test)]
mod tests;
