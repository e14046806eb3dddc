//! What a key is, and the forms that the value of a key may have: how each is read, its range and its default.
//!
//! `keys` defines every key with these types, and `table` reads values with them. A form judges one value alone; what several
//! values mean together is checked by the module that reads them.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::StatusCode;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Spanned};
use super::problem::{Position, Problem};
use super::value::{self, format_duration, format_size};
use super::variables;

/// A key of a TOML table. `F` is the form of its value, which has the range and the default, too.
#[derive(Debug)]
pub(crate) struct Key<F> {
    /// The name of the key in its table.
    pub(crate) name: &'static str,
    /// The first sentence of the documentation of the key in `proxy.toml`.
    pub(crate) doc: &'static str,
    /// The form of the value.
    pub(crate) form: F,
}

/// The keys of one table, in the order of `proxy.toml`.
pub(crate) type Keys = &'static [&'static dyn AnyKey];

/// A key, whatever the form of its value is.
pub(crate) trait AnyKey {
    /// The name of the key in its table.
    fn name(&self) -> &'static str;
    /// The first sentence of its documentation.
    fn doc(&self) -> &'static str;
    /// The keys below this one, if its value is a table.
    fn keys(&self) -> Keys;
    /// Whether its value is a list of tables, as in `[[site]]`.
    fn is_table_list(&self) -> bool;
    /// The range of its values, as in `1 to 256`, if it has one.
    fn range(&self) -> Option<String>;
    /// Whether a value of this key is the default. `None` if the key has no fixed default.
    fn is_default(&self, item: &Item<'_>) -> Option<bool>;
}

impl<F: Form> AnyKey for Key<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn keys(&self) -> Keys {
        self.form.keys()
    }

    fn is_table_list(&self) -> bool {
        self.form.is_table_list()
    }

    fn range(&self) -> Option<String> {
        self.form.range()
    }

    fn is_default(&self, item: &Item<'_>) -> Option<bool> {
        self.form.is_default(&self.form.read(item)?)
    }
}

/// Returns the dotted paths of the keys and of all keys below them.
pub(crate) fn paths(keys: Keys) -> Vec<(String, &'static dyn AnyKey)> {
    let mut all = Vec::new();
    for key in keys {
        all.push((key.name().to_owned(), *key));
        let below = paths(key.keys()).into_iter();
        all.extend(below.map(|(path, inner)| (format!("{}.{path}", key.name()), inner)));
    }
    all
}

/// A value of the file, and the dotted path of its key for messages.
pub(crate) struct Item<'a> {
    /// The document of the value.
    pub(crate) document: &'a Document<'a>,
    /// The dotted path of the key.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: &'a toml::Spanned<DeValue<'a>>,
}

impl<'a> Item<'a> {
    /// The position of the value.
    pub(crate) fn place(&self) -> Position {
        self.document.position(self.value.span().start)
    }

    /// Reads a string with a parser of `value`, `address` or `url`. Variables of the environment are replaced before.
    pub(crate) fn parse<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, value::Error>,
    ) -> Option<Spanned<T>> {
        let text = self.accept(variables::replace(self.text()?, variables::of_process))?;
        let value = value::parse_explained(&text, &parse);
        // The file does not have the text that is rejected, so the author has to look at the variable.
        let value = value.map_err(|error| match text {
            Cow::Owned(_) => value::Error::Replaced(Box::new(error)),
            Cow::Borrowed(_) => error,
        });
        Some(self.spanned(self.accept(value)?))
    }

    /// Returns the value if it is a string, and reports it otherwise.
    fn text(&self) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text),
            DeValue::Array(_) => {
                self.reject_kind("a string", Some("remove the brackets, and keep one string"))
            }
            DeValue::Table(_) => self.reject_kind("a string", None),
            _ => self.reject_kind("a string", Some("put it between double quotes")),
        }
    }

    /// Returns the number if the value is one. The inner `None` is a number that does not fit.
    fn integer(&self) -> Option<Option<i64>> {
        match self.value.get_ref() {
            DeValue::Integer(digits) => {
                Some(i64::from_str_radix(digits.as_str(), digits.radix()).ok())
            }
            _ => None,
        }
    }

    /// Returns the entries if the value is a table with names that its author chooses, and reports it otherwise.
    pub(crate) fn entries(&self, expected: &str) -> Option<&'a DeTable<'a>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => Some(entries),
            _ => self.reject_kind(expected, None),
        }
    }

    /// An element of this list.
    pub(crate) fn element(&self, value: &'a toml::Spanned<DeValue<'a>>) -> Self {
        Self {
            document: self.document,
            name: self.name.clone(),
            value,
        }
    }

    pub(crate) fn spanned<T>(&self, value: T) -> Spanned<T> {
        Spanned {
            value,
            place: self.place(),
        }
    }

    /// Returns the result of a parser, and reports its error.
    fn accept<T>(&self, parsed: Result<T, value::Error>) -> Option<T> {
        parsed
            .map_err(|error| {
                let problem = Problem::error(self.place(), format!("{}: {error}", self.name));
                self.document.report(Problem {
                    why: error.why(),
                    remedy: Some(error.remedy()),
                    ..problem
                });
            })
            .ok()
    }

    /// Reports a value of the wrong kind. Only a number is repeated in the message: any other value may be a secret. Without
    /// another remedy, the remedy is to write what is expected.
    pub(crate) fn reject_kind<T>(&self, expected: &str, remedy: Option<&str>) -> Option<T> {
        let found = match self.integer() {
            Some(Some(number)) => number.to_string(),
            _ => kind(self.value.get_ref()).to_owned(),
        };
        let what = format!("{}: expected {expected}, found {found}", self.name);
        self.document.report(Problem {
            remedy: Some(remedy.map_or_else(|| format!("write {expected}"), str::to_owned)),
            ..Problem::error(self.place(), what)
        });
        None
    }

    /// Reports a value that is no table, although the key has keys below it.
    pub(crate) fn reject_no_table<T>(&self, expected: &str, keys: Keys) -> Option<T> {
        let key = self.name.rsplit('.').next().unwrap_or(&self.name);
        let remedy = if key == self.name {
            format!("write [{key}], and its keys on the lines below")
        } else {
            let names = keys.iter().take(MAX_KEYS_IN_EXAMPLE).map(|key| key.name());
            let entries: Vec<_> = names.map(|name| format!("{name} = …")).collect();
            let table = format!("{key} = {{ {} }}", entries.join(", "));
            match expected.contains("a string") {
                true => format!("write {key} = \"…\" or {table}"),
                false => format!("write {table}"),
            }
        };
        self.reject_kind(expected, Some(&remedy))
    }

    /// Reports a value outside of its range.
    fn reject_range(&self, why: Option<&str>, remedy: String) {
        let problem = Problem::error(self.place(), format!("{} is out of range", self.name));
        self.document.report(Problem {
            why: why.map(str::to_owned),
            remedy: Some(remedy),
            ..problem
        });
    }

    /// The remedy for a string that would be accepted without its quotes.
    fn without_quotes(&self, is_right: impl Fn(&str) -> bool) -> Option<&'static str> {
        match self.value.get_ref() {
            DeValue::String(text) if is_right(text) => Some("write it without quotes"),
            _ => None,
        }
    }
}

/// The number of keys in the remedy for a value that should be a table. The first keys of every table are the usual ones.
const MAX_KEYS_IN_EXAMPLE: usize = 2;

/// Names the kind of a value, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        // A message has the value of a number that fits, not its kind.
        DeValue::Integer(_) => "a number that is too large",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok()
}

/// The form of a value: how it is read, and what `proxy.toml` has to say about it.
pub(crate) trait Form {
    /// What the value is read into.
    type Value;

    /// Reads the value, or reports why it is rejected.
    fn read(&self, item: &Item<'_>) -> Option<Self::Value>;

    /// The keys of the table that the value is.
    fn keys(&self) -> Keys {
        &[]
    }

    /// Whether the value is a list of tables.
    fn is_table_list(&self) -> bool {
        false
    }

    /// The range of the values, if it is narrower than the type of the value.
    fn range(&self) -> Option<String> {
        None
    }

    /// Whether the value is the default; `None` if there is no fixed default.
    fn is_default(&self, _value: &Self::Value) -> Option<bool> {
        None
    }
}

/// A form with a fixed default.
#[derive(Debug)]
pub(crate) struct WithDefault<F: Form> {
    /// The form of a value that is written.
    pub(crate) form: F,
    /// The value of a key that is not written.
    pub(crate) default: F::Value,
}

impl<F: Form> Form for WithDefault<F>
where
    F::Value: PartialEq,
{
    type Value = F::Value;

    fn read(&self, item: &Item<'_>) -> Option<F::Value> {
        self.form.read(item)
    }

    fn range(&self) -> Option<String> {
        self.form.range()
    }

    fn is_default(&self, value: &F::Value) -> Option<bool> {
        Some(*value == self.default)
    }
}

/// A string that a parser reads.
#[derive(Debug)]
pub(crate) struct Text<T>(pub(crate) fn(&str) -> Result<T, value::Error>);

impl<T> Form for Text<T> {
    type Value = T;

    fn read(&self, item: &Item<'_>) -> Option<T> {
        Some(item.parse(self.0)?.value)
    }
}

/// One of several words, each with the value that it means.
#[derive(Debug)]
pub(crate) struct Word<T: 'static>(pub(crate) &'static [(&'static str, T)]);

impl<T: Clone> Form for Word<T> {
    type Value = T;

    fn read(&self, item: &Item<'_>) -> Option<T> {
        Some(item.parse(|text| value::word(text, self.0))?.value)
    }
}

/// `true` or `false`.
#[derive(Debug)]
pub(crate) struct Boolean;

impl Form for Boolean {
    type Value = bool;

    fn read(&self, item: &Item<'_>) -> Option<bool> {
        match item.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                let remedy = item.without_quotes(|text| matches!(text, "true" | "false"));
                item.reject_kind("true or false", remedy)
            }
        }
    }
}

/// A whole number of a range.
#[derive(Debug)]
pub(crate) struct Number<T> {
    range: RangeInclusive<u64>,
    value: PhantomData<T>,
}

impl<T> Number<T> {
    /// A number of this range.
    pub(crate) const fn new(range: RangeInclusive<u64>) -> Self {
        let value = PhantomData;
        Self { range, value }
    }

    /// A number without a natural maximum.
    pub(crate) const fn any() -> Self {
        Self::new(ANY_NUMBER)
    }
}

/// The range of a number without a natural maximum. `proxy.toml` does not mention it.
const ANY_NUMBER: RangeInclusive<u64> = 1..=10_000_000;

impl<T: TryFrom<u64>> Form for Number<T> {
    type Value = T;

    fn read(&self, item: &Item<'_>) -> Option<T> {
        let number = item.integer().flatten();
        let number = number.and_then(|number| u64::try_from(number).ok());
        let in_range = number.filter(|number| self.range.contains(number));
        in_range
            .and_then(|number| T::try_from(number).ok())
            .or_else(|| {
                let (min, max) = (self.range.start(), self.range.end());
                let expected = format!("a whole number from {min} to {max}");
                item.reject_kind(&expected, item.without_quotes(is_number))
            })
    }

    fn range(&self) -> Option<String> {
        let (min, max) = (self.range.start(), self.range.end());
        (self.range != ANY_NUMBER).then(|| format!("{min} to {max}"))
    }
}

/// A size with its unit, as in `"32KiB"`, in bytes.
#[derive(Debug)]
pub(crate) struct Size<T> {
    range: RangeInclusive<u64>,
    value: PhantomData<T>,
}

impl<T> Size<T> {
    /// A size of this range of bytes.
    pub(crate) const fn new(range: RangeInclusive<u64>) -> Self {
        let value = PhantomData;
        Self { range, value }
    }

    fn range_text(&self) -> String {
        let (min, max) = (*self.range.start(), *self.range.end());
        format!("{} to {}", format_size(min), format_size(max))
    }
}

impl<T: TryFrom<u64>> Form for Size<T> {
    type Value = T;

    fn read(&self, item: &Item<'_>) -> Option<T> {
        let bytes = read_quantity(item, "a size such as \"32KiB\"", value::size)?;
        let in_range = Some(bytes).filter(|bytes| self.range.contains(bytes));
        let size = in_range.and_then(|bytes| T::try_from(bytes).ok());
        if size.is_none() {
            item.reject_range(None, format!("write a size from {}", self.range_text()));
        }
        size
    }

    fn range(&self) -> Option<String> {
        Some(self.range_text())
    }
}

/// A size with its unit, or a number of bytes. Every number is in range.
#[derive(Debug)]
pub(crate) struct SizeOrBytes;

impl Form for SizeOrBytes {
    type Value = u64;

    fn read(&self, item: &Item<'_>) -> Option<u64> {
        let bytes = item.integer().flatten();
        let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok());
        bytes.or_else(|| {
            let expected = "a size such as \"32KiB\", or a number of bytes";
            read_quantity(item, expected, value::size)
        })
    }
}

/// A duration with its unit, as in `"15m"`.
#[derive(Debug)]
pub(crate) enum Time {
    /// A wait that must not be zero.
    Wait,
    /// A wait that zero turns off.
    OptionalWait,
    /// A duration of a range.
    Within {
        /// The minimum.
        min: Duration,
        /// The maximum.
        max: Duration,
        /// Why another duration is rejected.
        why: &'static str,
    },
}

impl Form for Time {
    type Value = Duration;

    fn read(&self, item: &Item<'_>) -> Option<Duration> {
        let time = read_quantity(item, "a duration such as \"30s\"", value::duration)?;
        match self {
            Self::Wait if time.is_zero() => {
                item.document.report(
                    Problem::error(item.place(), format!("{} is zero", item.name))
                        .because("every wait would end immediately")
                        .fix("write how long to wait, as in \"10s\""),
                );
                None
            }
            Self::Within { min, max, why } if !(*min..=*max).contains(&time) => {
                let range = duration_range(*min, *max);
                item.reject_range(Some(why), format!("write a duration from {range}"));
                None
            }
            Self::Wait | Self::OptionalWait | Self::Within { .. } => Some(time),
        }
    }

    fn range(&self) -> Option<String> {
        match self {
            Self::Wait | Self::OptionalWait => None,
            Self::Within { min, max, .. } => Some(duration_range(*min, *max)),
        }
    }
}

fn duration_range(min: Duration, max: Duration) -> String {
    format!("{} to {}", format_duration(min), format_duration(max))
}

/// Reads a string with a number and a unit.
fn read_quantity<T>(
    item: &Item<'_>,
    expected: &str,
    parse: fn(&str) -> Result<T, value::Error>,
) -> Option<T> {
    match item.value.get_ref() {
        DeValue::String(_) => Some(item.parse(parse)?.value),
        _ => {
            // A number without quotes has no unit, either. The parser's remedy for that adds the usual one.
            let number = item.integer().flatten().map(|number| number.to_string());
            let remedy = number.and_then(|number| Some(parse(&number).err()?.remedy()));
            item.reject_kind(expected, remedy.as_deref())
        }
    }
}

/// An HTTP status, as in `404`.
#[derive(Debug)]
pub(crate) struct Status;

impl Form for Status {
    type Value = StatusCode;

    fn read(&self, item: &Item<'_>) -> Option<StatusCode> {
        match item.integer() {
            Some(code) => item.accept(value::http_status(code.unwrap_or(-1))),
            None => item.reject_kind("a status such as 404", item.without_quotes(is_number)),
        }
    }
}

/// A list of strings that a parser reads.
#[derive(Debug)]
pub(crate) struct List<T>(pub(crate) fn(&str) -> Result<T, value::Error>);

impl<T> Form for List<T> {
    type Value = Items<T>;

    fn read(&self, item: &Item<'_>) -> Option<Items<T>> {
        let expected = "a list of strings, [\"…\", \"…\"]";
        match item.value.get_ref() {
            DeValue::Array(list) => Some(Items {
                written: list.len(),
                items: list
                    .iter()
                    .filter_map(|value| item.element(value).parse(self.0))
                    .collect(),
            }),
            DeValue::String(_) => {
                item.reject_kind(expected, Some("put it between brackets, as in [\"…\"]"))
            }
            _ => item.reject_kind(expected, None),
        }
    }
}

/// The elements of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Items<T> {
    /// The accepted elements.
    pub(crate) items: Vec<Spanned<T>>,
    /// The number of elements in the file.
    written: usize,
}

impl<T> Items<T> {
    /// Whether the list in the file has no element. A list whose elements were all rejected is not empty: it has its problems
    /// already, and must not get another one for being empty.
    pub(crate) fn is_written_empty(&self) -> bool {
        self.written == 0
    }

    /// Whether every element of the list in the file was accepted. If not, what the elements mean together is not known.
    pub(crate) fn is_complete(&self) -> bool {
        self.items.len() == self.written
    }

    /// The accepted elements without their positions.
    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.items.into_iter().map(|item| item.value)
    }
}

/// A table whose names are chosen by the author of the file, with values of one form.
#[derive(Debug)]
pub(crate) struct Named<F> {
    /// The form of every value.
    pub(crate) form: F,
    /// The form of the table, with its article.
    pub(crate) expected: &'static str,
}

impl<F: Form> Form for Named<F> {
    type Value = NamedValues<F::Value>;

    fn read(&self, item: &Item<'_>) -> Option<Self::Value> {
        let mut entries: Vec<_> = item.entries(self.expected)?.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut named = NamedValues {
            values: Vec::new(),
            rejected: Vec::new(),
        };
        for (key, value) in entries {
            let name = Spanned {
                value: key.get_ref().clone().into_owned(),
                place: item.document.position(key.span().start),
            };
            let item = Item {
                document: item.document,
                name: format!("{}.{}", item.name, name.value),
                value,
            };
            match self.form.read(&item) {
                Some(value) => named.values.push((name, item.spanned(value))),
                None => named.rejected.push(name.value),
            }
        }
        Some(named)
    }
}

/// The values of a [`Named`] table.
#[derive(Clone, Debug)]
pub(crate) struct NamedValues<T> {
    /// The accepted values with their names, in the order of the file.
    pub(crate) values: Vec<(Spanned<String>, Spanned<T>)>,
    /// The names of the values that were rejected.
    pub(crate) rejected: Vec<String>,
}

/// A table, or a string or a table, with these keys. The method of `Table` that reads the value decides which of them is
/// accepted.
pub(crate) struct TableForm(pub(crate) Keys);

impl Form for TableForm {
    type Value = ();

    fn read(&self, _: &Item<'_>) -> Option<()> {
        Some(())
    }

    fn keys(&self) -> Keys {
        self.0
    }
}

/// A list of tables with these keys, as in `[[site]]`.
pub(crate) struct TableListForm(pub(crate) Keys);

impl Form for TableListForm {
    type Value = ();

    fn read(&self, _: &Item<'_>) -> Option<()> {
        Some(())
    }

    fn keys(&self) -> Keys {
        self.0
    }

    fn is_table_list(&self) -> bool {
        true
    }
}
