//! The search of a location, as `ngx_http_core_find_location` does it.
//!
//! `nginx_model` builds an index of each server block once, because a comparison searches thousands of paths in it.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use regex::bytes::Regex;

use crate::config::url::path_prefix;
use crate::registry::is_registry_path;

use crate::import::nginx::location::{Matcher, is_file_protection};
use crate::import::nginx::parser::Directive;
use crate::import::nginx::pattern::{PatternCache, literal_prefix, whole_texts};
use crate::import::nginx::scope::Scope;

/// A location with the directives in effect in it.
pub(crate) struct LocationNode<'a> {
    pub(crate) directive: &'a Directive,
    pub(crate) scope: Scope<'a>,
    /// The shortest path prefix, on a segment boundary and without a slash at its end, that contains every path that the location
    /// can match.
    pub(crate) cover: String,
    /// All paths that the location can match, if it is a regular expression for a few paths; else none.
    pub(crate) paths: Vec<String>,
    /// The path of a prefix or an exact location; empty for other locations.
    pub(crate) name: &'a str,
    /// Whether nginx tries no regular expressions after this prefix (`^~`).
    ends_search: bool,
    inner: LocationIndex<'a>,
}

/// The locations of one block.
#[derive(Default)]
pub(crate) struct LocationIndex<'a> {
    nodes: Vec<LocationNode<'a>>,
    exact: HashMap<&'a str, usize>,
    prefixes: HashMap<&'a str, usize>,
    /// The lengths of the prefixes.
    lengths: BTreeSet<usize>,
    /// The paths that nginx redirects to the same path with a slash at its end, with the location of that path.
    redirects: HashMap<&'a str, usize>,
    /// The regular expressions in their order; `None` in place of one that is not understood.
    patterns: Vec<(Rc<Option<Regex>>, usize)>,
}

/// The result of a search.
#[derive(Clone, Copy)]
pub(crate) enum LocationMatch<'i, 'a> {
    /// nginx handles the request in this location.
    Location(&'i LocationNode<'a>),
    /// nginx redirects to the path with a slash at its end, because of this location.
    SlashRedirect(&'i LocationNode<'a>),
    /// It is not known whether this location matches.
    NotUnderstood(&'i LocationNode<'a>),
    /// No location matches.
    None,
}

impl<'a> LocationIndex<'a> {
    /// Creates the index of the locations of a block. `outer_cover` is the cover of the location around them.
    pub(crate) fn new(scope: &Scope<'a>, outer_cover: &str, cache: &PatternCache) -> Self {
        let mut index = Self::default();
        for directive in scope.own().iter().filter(|d| d.name == "location") {
            let Some(matcher) = Matcher::read(directive) else {
                continue;
            };
            let at = index.nodes.len();
            let mut cover = String::new();
            let mut name = "";
            match matcher {
                Matcher::Exact(path) => {
                    path.trim_end_matches('/').clone_into(&mut cover);
                    name = path;
                    index.exact.insert(path, at);
                }
                Matcher::Prefix(path) | Matcher::NoRegex(path) => {
                    cover = cover_of(path);
                    name = path;
                    index.prefixes.insert(path, at);
                    index.lengths.insert(path.len());
                }
                Matcher::Regex {
                    pattern,
                    ignores_case,
                } if !is_file_protection(directive) => {
                    let own = cover_of(&literal_prefix(pattern));
                    let is_longer = own.len() >= outer_cover.len();
                    cover = if is_longer {
                        own
                    } else {
                        outer_cover.to_owned()
                    };
                    let compiled = cache.compiled(pattern, ignores_case);
                    index.patterns.push((compiled, at));
                }
                Matcher::Regex { .. } | Matcher::Named => continue,
            }
            let has_handler = directive.inner().iter().any(|d| d.name.ends_with("_pass"));
            if let Some(bare) = name.strip_suffix('/').filter(|_| has_handler) {
                index.redirects.insert(bare, at);
            }
            index
                .nodes
                .push(LocationNode::new(directive, scope, cover, matcher, cache));
        }
        index
    }

    /// Searches the location of a path, and adds the number of compared patterns to `steps`.
    pub(crate) fn find(&self, path: &str, steps: &Cell<usize>) -> LocationMatch<'_, 'a> {
        match self.search(path, steps) {
            Step::Final(found) => found,
            Step::Prefix(node) => LocationMatch::Location(node),
            Step::None => LocationMatch::None,
        }
    }

    fn search(&self, path: &str, steps: &Cell<usize>) -> Step<'_, 'a> {
        let node = |at: &usize| self.nodes.get(*at);
        if let Some(node) = self.exact.get(path).and_then(node) {
            return Step::Final(LocationMatch::Location(node));
        }
        let mut lengths = self.lengths.range(..=path.len()).rev();
        let prefix = lengths.find_map(|length| {
            steps.set(steps.get() + 1);
            self.prefixes.get(path.get(..*length)?).and_then(node)
        });
        let is_whole = prefix.is_some_and(|prefix| prefix.name == path);
        if !is_whole && let Some(node) = self.redirects.get(path).and_then(node) {
            return Step::Final(LocationMatch::SlashRedirect(node));
        }
        let mut result = Step::None;
        if let Some(prefix) = prefix {
            result = match prefix.inner.search(path, steps) {
                Step::None => Step::Prefix(prefix),
                found => found,
            };
            if prefix.ends_search || matches!(result, Step::Final(_)) {
                return result;
            }
        }
        for (pattern, at) in &self.patterns {
            steps.set(steps.get() + 1);
            let Some(node) = node(at) else { continue };
            let Some(pattern) = pattern.as_ref() else {
                return Step::Final(LocationMatch::NotUnderstood(node));
            };
            if pattern.is_match(path.as_bytes()) {
                return Step::Final(match node.inner.search(path, steps) {
                    Step::Final(found) => found,
                    Step::Prefix(inner) => LocationMatch::Location(inner),
                    Step::None => LocationMatch::Location(node),
                });
            }
        }
        result
    }
}

/// The result of a search in one block.
enum Step<'i, 'a> {
    /// The search ends.
    Final(LocationMatch<'i, 'a>),
    /// A prefix, unless a regular expression of an outer block matches.
    Prefix(&'i LocationNode<'a>),
    None,
}

impl<'a> LocationNode<'a> {
    /// Creates the node of a location in a block.
    pub(crate) fn new(
        directive: &'a Directive,
        outer: &Scope<'a>,
        cover: String,
        matcher: Matcher<'a>,
        cache: &PatternCache,
    ) -> Self {
        let scope = outer.inner(directive.inner());
        Self {
            inner: LocationIndex::new(&scope, &cover, cache),
            cover,
            paths: match matcher {
                Matcher::Regex {
                    pattern,
                    ignores_case: false,
                } => Some(whole_texts(pattern))
                    .filter(|paths| paths.iter().all(|path| path_prefix(path).is_ok()))
                    .unwrap_or_default(),
                _ => Vec::new(),
            },
            ends_search: matches!(matcher, Matcher::NoRegex(_)),
            ..Self::alone(directive, scope)
        }
    }

    /// Creates the node of a location without those in it.
    pub(crate) fn alone(directive: &'a Directive, scope: Scope<'a>) -> Self {
        let name = match Matcher::read(directive) {
            Some(Matcher::Exact(name) | Matcher::Prefix(name) | Matcher::NoRegex(name)) => name,
            Some(Matcher::Regex { .. } | Matcher::Named) | None => "",
        };
        Self {
            directive,
            scope,
            cover: String::new(),
            paths: Vec::new(),
            name,
            ends_search: false,
            inner: LocationIndex::default(),
        }
    }

    /// Whether a path outside of the registry API begins with the text of the location, a whole word, but is not below it: `/uix` for
    /// `/ui`.
    pub(crate) fn is_sibling(&self, path: &str) -> bool {
        let is_prefix = matches!(
            Matcher::read(self.directive),
            Some(Matcher::Prefix(_) | Matcher::NoRegex(_))
        );
        let rest = path.strip_prefix(self.name).filter(|_| is_prefix);
        let ends_with_word = self.name.ends_with(|c: char| c.is_ascii_alphanumeric());
        ends_with_word
            && !is_registry_path(path)
            && rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    }

    /// Whether the location is a regular expression for the ends of file names, such as `\.(css|js)$`.
    pub(crate) fn is_for_file_names(&self) -> bool {
        let matcher = Matcher::read(self.directive);
        matches!(matcher, Some(Matcher::Regex { pattern, .. }) if pattern.ends_with('$') && pattern.contains("\\."))
    }
}

/// The shortest path prefix on a segment boundary that contains every path that begins with this text.
pub(crate) fn cover_of(literal: &str) -> String {
    let end = literal.rfind('/').unwrap_or(0);
    literal.get(..end).unwrap_or_default().to_owned()
}
