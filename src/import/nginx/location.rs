//! The `location` blocks of a server block and the path prefixes that they match.

use crate::config::url::path_prefix;

use crate::import::nginx::parser::Directive;
use crate::import::nginx::pattern::samples_without_look_around;
use crate::import::nginx::scope::Scope;

/// The modifier and the argument of a `location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matcher<'a> {
    /// `=`: this path alone.
    Exact(&'a str),
    /// A prefix.
    Prefix(&'a str),
    /// `^~`: a prefix after which nginx tries no regular expressions.
    NoRegex(&'a str),
    /// `~` or `~*`.
    Regex {
        pattern: &'a str,
        ignores_case: bool,
    },
    /// `@name`, which only `try_files` and `error_page` reach.
    Named,
}

impl<'a> Matcher<'a> {
    /// Reads the arguments of a `location`; `None` if nginx would not accept them. nginx also accepts a modifier without a
    /// blank after it.
    pub(crate) fn read(location: &'a Directive) -> Option<Self> {
        let args: Vec<&str> = location.args.iter().map(String::as_str).collect();
        let (modifier, text) = match args.as_slice() {
            [modifier, text] => (*modifier, *text),
            [word] => ["^~", "=", "~*", "~"]
                .into_iter()
                .find_map(|modifier| Some((modifier, word.strip_prefix(modifier)?)))
                .unwrap_or(("", word)),
            _ => return None,
        };
        Some(match modifier {
            "=" => Self::Exact(text),
            "^~" => Self::NoRegex(text),
            "~" | "~*" => Self::Regex {
                pattern: text,
                ignores_case: modifier == "~*",
            },
            "" if text.starts_with('@') => Self::Named,
            "" => Self::Prefix(text),
            _ => return None,
        })
    }
}

/// Whether a location rejects only files whose names begin with a dot, such as `.htaccess`. nginx has it for files of its own
/// machine; the importer warns of it and forwards these paths.
pub(crate) fn is_file_protection(location: &Directive) -> bool {
    let Some(Matcher::Regex { pattern, .. }) = Matcher::read(location) else {
        return false;
    };
    let is_forwarded = location.inner().iter().any(|d| d.name.ends_with("_pass"));
    let has_dot_file = |sample: &String| sample.contains("/.");
    let samples = samples_without_look_around(pattern).unwrap_or_default();
    !is_forwarded && !samples.is_empty() && samples.iter().all(has_dot_file)
}

/// A location with the directives in effect in it.
pub(crate) struct Location<'a> {
    pub(crate) directive: &'a Directive,
    pub(crate) scope: Scope<'a>,
    /// The directives in effect where the location hands its requests over: its own, or those of the location to which `try_files`
    /// leads.
    pub(crate) effective: Scope<'a>,
    pub(crate) paths: Paths,
}

/// The paths that a location matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Paths {
    Prefix(String),
    Exact(String),
    /// A regular expression that matches these prefixes.
    Prefixes(Vec<String>),
    /// Another regular expression.
    Pattern,
    /// `@name`, or `internal`: no request of a client.
    Internal,
}

/// Reads all locations of a server block; nested locations follow their outer location.
pub(crate) fn read<'a>(block: &'a [Directive], scope: &Scope<'a>) -> Vec<Location<'a>> {
    let mut found = Vec::new();
    for directive in block.iter().filter(|inner| inner.name == "location") {
        let scope = scope.inner(directive.inner());
        let is_internal = scope.get("internal").is_some();
        let paths = if is_internal {
            Paths::Internal
        } else {
            paths(directive)
        };
        found.push(Location {
            directive,
            scope: scope.clone(),
            effective: scope.clone(),
            paths,
        });
        found.extend(read(directive.inner(), &scope));
    }
    found
}

fn paths(location: &Directive) -> Paths {
    match Matcher::read(location) {
        Some(Matcher::Exact(path)) => path_prefix(path).map_or(Paths::Pattern, Paths::Exact),
        Some(Matcher::Prefix(path) | Matcher::NoRegex(path)) => {
            path_prefix(path).map_or(Paths::Pattern, Paths::Prefix)
        }
        Some(Matcher::Regex { pattern, .. }) => {
            let prefixes = expand(pattern).and_then(|prefixes| {
                let each = prefixes.iter().map(|prefix| path_prefix(prefix).ok());
                each.collect::<Option<Vec<_>>>()
            });
            prefixes.map_or(Paths::Pattern, Paths::Prefixes)
        }
        Some(Matcher::Named) => Paths::Internal,
        None => Paths::Pattern,
    }
}

/// Expands `^/literal`, with groups of literals in it, and with anything or nothing at its end.
fn expand(pattern: &str) -> Option<Vec<String>> {
    let mut rest = pattern.strip_prefix('^')?;
    let mut prefixes = vec![String::new()];
    while !ENDS.contains(&rest) {
        let next = rest.chars().next()?;
        if next == '(' {
            let (group, after) = rest.get(1..)?.split_once(')')?;
            let choices = group.trim_start_matches("?:").split('|');
            let choices = choices.map(literal).collect::<Option<Vec<_>>>()?;
            let longer = prefixes.iter().flat_map(|prefix| {
                choices
                    .iter()
                    .map(move |choice| format!("{prefix}{choice}"))
            });
            prefixes = longer.collect();
            rest = after;
        } else {
            let length = if next == '\\' { 2 } else { 1 };
            let character = literal(rest.get(..length)?)?;
            for prefix in &mut prefixes {
                prefix.push_str(&character);
            }
            rest = rest.get(length..)?;
        }
        if prefixes.len() > MAX_PREFIXES {
            return None;
        }
    }
    Some(prefixes)
}

/// The text that a part of a regular expression matches, if it matches exactly one text.
fn literal(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(next) = characters.next() {
        match next {
            '\\' => plain.push(characters.next().filter(|c| matches!(c, '/' | '.' | '-'))?),
            '/' | '-' | '_' => plain.push(next),
            _ if next.is_ascii_alphanumeric() => plain.push(next),
            _ => return None,
        }
    }
    Some(plain)
}

/// The ends of a regular expression that matches a prefix.
const ENDS: &[&str] = &[
    "", ".*", ".*$", "(.*)", "(.*)$", ".+", "(.+)", "(.+)$", "(/|$)", "(/.*)?$", "(?:/|$)",
];
/// The maximum number of prefixes of one regular expression.
const MAX_PREFIXES: usize = 32;
