//! `location` as prefixes of paths.
//!
//! Called by `site`. What stands in a location is read by `route`.

use crate::config::url::path_prefix;

use crate::import::nginx::scope::Scope;
use crate::import::nginx::tree::Directive;

/// A location with what holds in it.
pub(super) struct Location<'a> {
    pub(super) directive: &'a Directive,
    pub(super) scope: Scope<'a>,
    pub(super) paths: Paths,
}

/// Which requests it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Paths {
    Prefix(String),
    Exact(String),
    /// A regular expression that is no more than these prefixes.
    Like(Vec<String>),
    /// Another regular expression.
    Unclear,
    /// `@name`, or `internal`: no request of a client.
    Inner,
}

/// All locations of a server block, the nested ones behind their outer one.
pub(super) fn of<'a>(block: &'a [Directive], scope: &Scope<'a>) -> Vec<Location<'a>> {
    let mut found = Vec::new();
    for directive in block.iter().filter(|inner| inner.name == "location") {
        let scope = scope.within(directive.inner());
        let is_internal = directive.all("internal").next().is_some();
        let paths = if is_internal {
            Paths::Inner
        } else {
            paths(directive)
        };
        found.push(Location {
            directive,
            scope: scope.clone(),
            paths,
        });
        found.extend(of(directive.inner(), &scope));
    }
    found
}

fn paths(location: &Directive) -> Paths {
    let args: Vec<&str> = location.args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["=", path] => exact(path),
        ["^~", path] => prefix(path),
        ["~" | "~*", pattern] => like(pattern),
        // nginx takes the sign without a blank behind it, too.
        [word] => match word.strip_prefix("^~") {
            Some(path) => prefix(path),
            None => match (word.strip_prefix('='), word.strip_prefix('~')) {
                (Some(path), _) => exact(path),
                (_, Some(pattern)) => like(pattern.trim_start_matches('*')),
                _ if word.starts_with('@') => Paths::Inner,
                _ => prefix(word),
            },
        },
        _ => Paths::Unclear,
    }
}

fn prefix(path: &str) -> Paths {
    path_prefix(path).map_or(Paths::Unclear, Paths::Prefix)
}

fn exact(path: &str) -> Paths {
    path_prefix(path).map_or(Paths::Unclear, Paths::Exact)
}

fn like(pattern: &str) -> Paths {
    let prefixes = expanded(pattern).map(|prefixes| {
        let each = prefixes.iter().map(|prefix| path_prefix(prefix).ok());
        each.collect::<Option<Vec<_>>>()
    });
    prefixes.flatten().map_or(Paths::Unclear, Paths::Like)
}

/// `^/literal`, with groups of literals in it and anything, or nothing, at its end.
fn expanded(pattern: &str) -> Option<Vec<String>> {
    let mut rest = pattern.strip_prefix('^')?;
    let mut prefixes = vec![String::new()];
    while !ENDS.contains(&rest) {
        let next = rest.chars().next()?;
        if next == '(' {
            let (group, behind) = rest.get(1..)?.split_once(')')?;
            let choices = group.trim_start_matches("?:").split('|');
            let choices = choices.map(literal).collect::<Option<Vec<_>>>()?;
            let longer = prefixes.iter().flat_map(|prefix| {
                choices
                    .iter()
                    .map(move |choice| format!("{prefix}{choice}"))
            });
            prefixes = longer.collect();
            rest = behind;
        } else {
            let length = if next == '\\' { 2 } else { 1 };
            let character = literal(rest.get(..length)?)?;
            for prefix in &mut prefixes {
                prefix.push_str(&character);
            }
            rest = rest.get(length..)?;
        }
        if prefixes.len() > MOST {
            return None;
        }
    }
    Some(prefixes)
}

/// Text without a sign that a regular expression reads.
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

/// What does not change that a prefix is meant.
const ENDS: &[&str] = &[
    "", ".*", ".*$", "(.*)", "(.*)$", ".+", "(.+)", "(.+)$", "(/|$)", "(/.*)?$", "(?:/|$)",
];
/// Prefixes of one regular expression.
const MOST: usize = 32;
