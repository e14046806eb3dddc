//! Reads a TOML table with the keys that it may have.
//!
//! The modules of `config` that build the settings read values with [`Table::get`] and [`Table::value`]. When the table of the
//! whole file is created, every key of the file that is not in the table of keys is reported.

use std::path::PathBuf;

use toml::de::{DeString, DeTable, DeValue};

use super::document::{Document, Spanned};
use super::form::{AnyKey, Form, Item, Key, Keys, TableForm, TableListForm, WithDefault, paths};
use super::nearest::{nearest, one_error_away};
use super::problem::{Position, Problem, quote};
use super::value;

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
            let meant = self
                .foreign_name(written)
                .or_else(|| nearest(written, names.iter().copied()));
            !names.contains(&written) && meant == Some(key.name())
        })
    }

    /// Reads the value of a key.
    pub(crate) fn get<F: Form>(&self, key: &Key<F>) -> Option<Spanned<F::Value>> {
        let item = self.item(key)?;
        let value = key.form.read(&item)?;
        Some(item.spanned(value))
    }

    /// Returns the result of a check of one value of a key, and reports its error at the value.
    pub(crate) fn accept<T>(
        &self,
        key: &dyn AnyKey,
        place: Position,
        checked: Result<T, value::Error>,
    ) -> Option<T> {
        let report = |error: value::Error| {
            let what = format!("{}: {error}", self.path_of(key));
            self.report(Problem {
                why: error.why(),
                ..Problem::error(place, what).fix(error.remedy())
            });
        };
        checked.map_err(report).ok()
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
        match item.value.get_ref() {
            DeValue::Table(entries) => Some(Self::inner(&item, entries, key.form.0)),
            _ => item.reject_no_table("a table", key.form.0),
        }
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
    pub(crate) fn tables(&self, key: &Key<TableListForm>) -> Vec<Self> {
        let Some(item) = self.item(key) else {
            return Vec::new();
        };
        let expected = "a list of tables";
        let remedy = format!("write [[{}]], with two brackets", item.name);
        match item.value.get_ref() {
            DeValue::Array(list) => {
                let items = list.iter().map(|value| item.element(value));
                let tables = items.filter_map(|item| match item.value.get_ref() {
                    DeValue::Table(entries) => Some(Self::inner(&item, entries, key.form.0)),
                    _ => item.reject_kind(expected, Some(&remedy)),
                });
                tables.collect()
            }
            // The table is read in spite of the mistake, so that its own problems are reported in the same run.
            DeValue::Table(entries) => {
                let what = format!("{}: expected {expected}, found one table", item.name);
                self.report(Problem::error(item.place(), what).fix(remedy));
                vec![Self::inner(&item, entries, key.form.0)]
            }
            _ => item
                .reject_kind(expected, Some(&remedy))
                .unwrap_or_default(),
        }
    }

    /// Reads a value that may be a string or a table.
    pub(crate) fn string_or_table(&self, key: &Key<TableForm>) -> Option<Choice<'a>> {
        let item = self.item(key)?;
        match item.value.get_ref() {
            DeValue::Table(entries) => Some(Choice::Table(Self::inner(&item, entries, key.form.0))),
            DeValue::String(_) => Some(Choice::String(item)),
            _ => item.reject_no_table("a string or a table", key.form.0),
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

    /// Returns the remedy for an unknown key: the right name, the right table, or the names of all keys. A name in this table
    /// that differs by one typing error comes first, then the same name in a table below this one, then a similar name in this
    /// table, and last the same name far away.
    fn suggest_for(&self, unknown: &str, all: Keys) -> String {
        let names = || self.keys.iter().map(|key| key.name());
        let meant = self.foreign_name(unknown);
        if let Some(meant) = meant.or_else(|| one_error_away(unknown, names())) {
            return format!("did you mean {}?", quote(meant));
        }
        if let Some(table) = tables_with(self.keys, unknown).find(|table| !table.is_empty()) {
            return self.belongs_below(&table, unknown);
        }
        if let Some(meant) = nearest(unknown, names()) {
            return format!("did you mean {}?", quote(meant));
        }
        // An unknown key of an inner table, such as "file" in site.route.auth, probably has nothing to do with a key of the
        // same name in another section, such as log.file.
        let section = |path: &str| path.split('.').next().map(str::to_owned);
        let is_near = |table: &String| {
            !self.path.contains('.') || table.is_empty() || section(table) == section(&self.path)
        };
        if let Some(table) = tables_with(all, unknown).find(is_near) {
            return belongs_in(all, &table);
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
            |table| belongs_in(all, &table),
        )
    }

    /// The key of this table that has another name in other programs.
    fn foreign_name(&self, unknown: &str) -> Option<&'static str> {
        let mut all = FOREIGN_NAMES.iter();
        let (_, _, name) =
            all.find(|(table, foreign, _)| *table == self.path && *foreign == unknown)?;
        Some(name)
    }

    /// The remedy for a key that a table below this one has. `table` is the path of that table from this one.
    fn belongs_below(&self, table: &str, unknown: &str) -> String {
        let (list, inner) = split_after_list(self.keys, table);
        let list = list.map(|list| match self.path.as_str() {
            "" => list.to_owned(),
            path => format!("{path}.{list}"),
        });
        match list {
            None if self.path.is_empty() => belongs_in(self.keys, table),
            None => format!("it belongs in {table} = {{ {unknown} = … }}"),
            Some(list) if inner.is_empty() => format!("it belongs in a [[{list}]]"),
            Some(list) => format!("it belongs in {inner} = {{ {unknown} = … }} of a [[{list}]]"),
        }
    }
}

/// Splits the path of a table behind the last list of tables on it: `site.route.auth` into `site.route` and `auth`.
fn split_after_list(keys: Keys, path: &str) -> (Option<&str>, &str) {
    let mut list_end = None;
    let (mut keys, mut end) = (keys, 0);
    for name in path.split('.') {
        let Some(key) = keys.iter().find(|key| key.name() == name) else {
            break;
        };
        end += name.len();
        if key.is_table_list() {
            list_end = Some(end);
        }
        keys = key.keys();
        end += 1;
    }
    let list = list_end.and_then(|end| path.get(..end));
    let inner = path.get(list_end.map_or(0, |end| end + 1)..);
    (list, inner.unwrap_or_default())
}

/// Returns the paths of the tables that have a key of this name.
fn tables_with(keys: Keys, name: &str) -> impl Iterator<Item = String> {
    paths(keys).into_iter().filter_map(move |(path, _)| {
        let (table, last) = path.rsplit_once('.').unwrap_or(("", &path));
        (last == name).then(|| table.to_owned())
    })
}

fn belongs_in(all: Keys, table: &str) -> String {
    if table.is_empty() {
        return "it belongs at the top of the file, above the first [table]".to_owned();
    }
    match split_after_list(all, table) {
        (Some(list), "") => format!("it belongs in a [[{list}]]"),
        _ => format!("it belongs in the table {table}"),
    }
}

/// Names of keys in other programs, mostly in nginx: the path of the table, the foreign name, and the name here.
const FOREIGN_NAMES: &[(&str, &str, &str)] = &[
    ("", "server", "site"),
    ("site", "server_name", "hosts"),
    ("site", "domain", "hosts"),
    ("site", "domains", "hosts"),
    ("site", "name", "hosts"),
    ("site", "location", "route"),
    ("site.route", "proxy_pass", "upstream"),
    ("site.route", "backend", "upstream"),
    ("site.route", "url", "upstream"),
    ("site.route", "client_max_body_size", "max_body"),
];

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
