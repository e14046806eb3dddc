//! Token scopes: actions on repositories, as clients request them from a token service (`distribution`, "Token Scope
//! Documentation").
//!
//! `auth` parses the requested scope, writes challenges, and puts a scope into each token. `access` reduces a scope to what the
//! identity may do, and checks operations against the scope of a token. This module knows no users.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::operation::{Action, Operation};
use super::path::is_name;

/// The actions on each repository, and whether the list of repositories may be read. A default scope is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    repositories: BTreeMap<String, ScopeActions>,
    catalog: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ScopeActions {
    pull: bool,
    push: bool,
    delete: bool,
}

impl Scope {
    /// Parses entries such as `repository:NAME:pull,push` and `registry:catalog:*`. Each of `texts` may have several entries,
    /// separated by spaces.
    ///
    /// Unknown entries are ignored, as the specification demands. So are entries after the first 4 KiB, because a token must fit
    /// into a header field.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scope = Self::default();
        let mut space_left = MAX_SCOPE;
        let entries = texts.into_iter().flat_map(|text| text.split(' '));
        for entry in entries.filter(|entry| !entry.is_empty()) {
            if !scope.add(entry, &mut space_left) {
                break;
            }
        }
        scope
    }

    /// The scope that an operation needs, for the challenge. It is empty for a ping.
    ///
    /// The scope of a push includes pull, and that of a mount includes pull on its source, so that one token suffices.
    pub fn of(operation: &Operation) -> Self {
        let mut scope = Self {
            catalog: operation.action() == Action::Catalog,
            ..Self::default()
        };
        if let Some(name) = operation.repository() {
            let actions = scope.actions(name);
            actions.add(operation.action());
            actions.pull |= actions.push;
        }
        if let Some(source) = operation.mount().and_then(|mount| mount.from) {
            scope.actions(source).pull = true;
        }
        scope
    }

    /// Whether the scope is empty.
    pub fn is_empty(&self) -> bool {
        self.repositories.is_empty() && !self.catalog
    }

    /// Whether the scope covers an action on a repository, or without one. A ping needs no scope, and push includes pull.
    pub fn allows(&self, repository: Option<&str>, action: Action) -> bool {
        let actions = repository.and_then(|name| self.repositories.get(name));
        match action {
            Action::Ping => true,
            Action::Catalog => self.catalog,
            Action::Pull => actions.is_some_and(|actions| actions.pull || actions.push),
            Action::Push => actions.is_some_and(|actions| actions.push),
            Action::Delete => actions.is_some_and(|actions| actions.delete),
        }
    }

    /// The part of the scope for which `is_allowed` returns `true`. It is called for each repository and action, and without a
    /// repository for the list of repositories.
    #[must_use]
    pub fn retain(mut self, is_allowed: impl Fn(Option<&str>, Action) -> bool) -> Self {
        self.catalog = self.catalog && is_allowed(None, Action::Catalog);
        self.repositories.retain(|name, actions| {
            actions.pull = actions.pull && is_allowed(Some(name), Action::Pull);
            actions.push = actions.push && is_allowed(Some(name), Action::Push);
            actions.delete = actions.delete && is_allowed(Some(name), Action::Delete);
            !actions.is_empty()
        });
        self
    }

    /// Adds an entry. Returns `false` if the scope has no space for it.
    fn add(&mut self, entry: &str, space_left: &mut usize) -> bool {
        let Some((kind, rest)) = entry.split_once(':') else {
            return true;
        };
        let Some((name, words)) = rest.rsplit_once(':') else {
            return true;
        };
        // A class may follow the type, as in `repository(plugin)`.
        match kind.split_once('(').map_or(kind, |(kind, _class)| kind) {
            "registry" if name == "catalog" => self.catalog |= words.split(',').any(is_catalog),
            "repository" if is_name(name) => return self.add_repository(name, words, space_left),
            _ => {}
        }
        true
    }

    fn add_repository(&mut self, name: &str, words: &str, space_left: &mut usize) -> bool {
        let actions = ScopeActions::parse(words);
        if actions.is_empty() {
            return true;
        }
        if !self.repositories.contains_key(name) {
            let Some(left) = space_left.checked_sub(name.len() + ENTRY_OVERHEAD) else {
                return false;
            };
            *space_left = left;
        }
        let known = self.actions(name);
        known.pull |= actions.pull;
        known.push |= actions.push;
        known.delete |= actions.delete;
        true
    }

    /// The actions on a repository, which is added if necessary.
    fn actions(&mut self, name: &str) -> &mut ScopeActions {
        self.repositories.entry(name.to_owned()).or_default()
    }
}

impl ScopeActions {
    fn parse(words: &str) -> Self {
        let mut actions = Self::default();
        for word in words.split(',') {
            match word {
                "pull" => actions.pull = true,
                "push" => actions.push = true,
                "delete" => actions.delete = true,
                "*" => {
                    actions = Self {
                        pull: true,
                        push: true,
                        delete: true,
                    }
                }
                _ => {}
            }
        }
        actions
    }

    fn add(&mut self, action: Action) {
        match action {
            Action::Pull => self.pull = true,
            Action::Push => self.push = true,
            Action::Delete => self.delete = true,
            Action::Ping | Action::Catalog => {}
        }
    }

    fn is_empty(self) -> bool {
        !(self.pull || self.push || self.delete)
    }
}

/// Whether an action is that of the list of repositories. The specification writes `*`; some clients send `catalog`.
fn is_catalog(word: &str) -> bool {
    matches!(word, "*" | "catalog")
}

/// Writes the entries separated by a space, as they are parsed.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_first = true;
        let mut begin = |f: &mut fmt::Formatter<'_>| {
            if std::mem::take(&mut is_first) {
                return Ok(());
            }
            f.write_char(' ')
        };
        if self.catalog {
            begin(f)?;
            f.write_str("registry:catalog:*")?;
        }
        for (name, actions) in &self.repositories {
            begin(f)?;
            let words = [
                (actions.pull, "pull"),
                (actions.push, "push"),
                (actions.delete, "delete"),
            ];
            let words: Vec<_> = words
                .iter()
                .filter_map(|(has, word)| has.then_some(*word))
                .collect();
            write!(f, "repository:{name}:{}", words.join(","))?;
        }
        Ok(())
    }
}

/// The maximum length of the written form in bytes, without the list of repositories: some sixty usual repositories, or fourteen
/// with the longest names.
const MAX_SCOPE: usize = 4096;
/// The maximum length of an entry without its name.
const ENTRY_OVERHEAD: usize = " repository::pull,push,delete".len();

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::*;
    use crate::registry::Parsed;

    fn printed(texts: &[&str]) -> String {
        Scope::parse(texts.iter().copied()).to_string()
    }

    #[test]
    fn requested_scopes_are_parsed() {
        let cases: &[(&[&str], &str)] = &[
            (&["repository:a/b:pull"], "repository:a/b:pull"),
            (&["repository:a:push,pull"], "repository:a:pull,push"),
            (&["repository:a:*"], "repository:a:pull,push,delete"),
            (&["repository(plugin):a:pull"], "repository:a:pull"),
            (
                &["repository:b:push repository:a:pull", "repository:b:pull"],
                "repository:a:pull repository:b:pull,push",
            ),
            (&["registry:catalog:*"], "registry:catalog:*"),
            (&["  registry:catalog:catalog "], "registry:catalog:*"),
            (&["", " "], ""),
        ];
        for (texts, expected) in cases {
            assert_eq!(printed(texts), *expected, "{texts:?}");
        }
    }

    #[test]
    fn unknown_entries_are_ignored() {
        for text in [
            "repository",
            "repository:a",
            "repository:a:",
            "repository:a:admin",
            "repository:A/b:pull",
            "repository:a/../b:pull",
            "repository:host:5000/a:pull",
            "repository:a\tb:pull",
            "registry:catalog:pull",
            "registry:other:*",
            "plugin:a:pull",
            ":a:pull",
        ] {
            assert!(Scope::parse([text]).is_empty(), "{text}");
        }
    }

    #[test]
    fn the_length_of_a_scope_is_bounded() {
        let all: Vec<_> = (0..10_000)
            .map(|n| format!("repository:team/app{n}:*"))
            .collect();
        let scope = Scope::parse(all.iter().map(String::as_str));
        assert!(scope.to_string().len() <= MAX_SCOPE);
        assert!(scope.repositories.len() > 60);
        assert_eq!(scope, Scope::parse([all.join(" ").as_str()]));
    }

    #[test]
    fn the_scope_of_an_operation_is_what_it_needs() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let mount = format!("mount={digest}&from=b");
        for (method, path, query, expected) in [
            ("GET", "/v2/", None, ""),
            ("GET", "/v2/_catalog", None, "registry:catalog:*"),
            ("GET", "/v2/a/tags/list", None, "repository:a:pull"),
            ("PUT", "/v2/a/manifests/x", None, "repository:a:pull,push"),
            ("DELETE", "/v2/a/manifests/x", None, "repository:a:delete"),
            (
                "POST",
                "/v2/a/blobs/uploads/",
                Some(mount.as_str()),
                "repository:a:pull,push repository:b:pull",
            ),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let Ok(Parsed::Operation(operation)) = Operation::parse(&method, path, query) else {
                panic!("{method} {path}");
            };
            let scope = Scope::of(&operation);
            assert_eq!(scope.to_string(), expected);
            assert!(scope.allows(operation.repository(), operation.action()));
        }
    }

    #[test]
    fn a_scope_allows_the_actions_that_it_names() {
        let scope = Scope::parse(["repository:a:push repository:b:delete"]);
        assert!(scope.allows(None, Action::Ping));
        assert!(scope.allows(Some("a"), Action::Push));
        assert!(scope.allows(Some("a"), Action::Pull));
        assert!(!scope.allows(Some("a"), Action::Delete));
        assert!(scope.allows(Some("b"), Action::Delete));
        assert!(!scope.allows(Some("b"), Action::Pull));
        assert!(!scope.allows(Some("c"), Action::Pull));
        assert!(!scope.allows(None, Action::Catalog));
        assert!(!scope.allows(None, Action::Pull));
    }

    #[test]
    fn retain_removes_the_other_actions() {
        let scope = Scope::parse(["registry:catalog:* repository:a:* repository:b:pull"]);
        let kept = scope.retain(|name, action| name == Some("a") && action != Action::Delete);
        assert_eq!(kept.to_string(), "repository:a:pull,push");
    }

    proptest! {
        #[test]
        fn a_written_scope_parses_to_itself(
            texts in proptest::collection::vec("((repository|registry|x)(\\(p\\))?:[a-c/]{0,3}(catalog)?:(pull|push|delete|\\*|catalog|z|,){0,3} ?|.{0,20}){0,4}", 0..4)
        ) {
            let scope = Scope::parse(texts.iter().map(String::as_str));
            let printed = scope.to_string();
            prop_assert_eq!(Scope::parse([printed.as_str()]), scope);
        }
    }
}
