//! Scopes: rights on repositories, as clients ask a token service for them (distribution, "Token Scope Documentation").
//!
//! `auth` reads what is asked for, writes challenges and carries a scope in each token; `access` cuts it down to what
//! the user may and holds operations against it. Knows no user.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::grammar::is_name;
use super::{Action, Operation};

/// Actions on repositories, and whether the catalogue may be read; empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    repositories: BTreeMap<String, Actions>,
    catalog: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Actions {
    pull: bool,
    push: bool,
    delete: bool,
}

impl Scope {
    /// Reads `repository:NAME:pull,push` and `registry:catalog:*`, several separated by spaces in each of `texts`.
    ///
    /// What it does not understand counts as not asked for, as the specification wants it, and so does what comes
    /// after 4 KiB: a token has to fit a header.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scope = Self::default();
        let mut room = MOST;
        let entries = texts.into_iter().flat_map(|text| text.split(' '));
        for entry in entries.filter(|entry| !entry.is_empty()) {
            if !scope.admit(entry, &mut room) {
                break;
            }
        }
        scope
    }

    /// What an operation needs, for the challenge that answers it; nothing for a ping.
    ///
    /// A push asks for the right to pull, too, and a mount for that on its source: one token then does for both.
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

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.repositories.is_empty() && !self.catalog
    }

    /// Whether it has this action; on a repository, or without one. A ping needs no scope, and who may push may pull.
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

    /// What `may` allows of it, asked for each repository and action; the catalogue has no repository.
    #[must_use]
    pub fn retain(mut self, may: impl Fn(Option<&str>, Action) -> bool) -> Self {
        self.catalog = self.catalog && may(None, Action::Catalog);
        self.repositories.retain(|name, actions| {
            actions.pull = actions.pull && may(Some(name), Action::Pull);
            actions.push = actions.push && may(Some(name), Action::Push);
            actions.delete = actions.delete && may(Some(name), Action::Delete);
            actions.is_some()
        });
        self
    }

    /// Adds an entry; false when there is no room for it.
    fn admit(&mut self, entry: &str, room: &mut usize) -> bool {
        let Some((kind, rest)) = entry.split_once(':') else {
            return true;
        };
        let Some((name, words)) = rest.rsplit_once(':') else {
            return true;
        };
        // A class may stand behind the type, as in repository(plugin).
        match kind.split_once('(').map_or(kind, |(kind, _class)| kind) {
            "registry" if name == "catalog" => self.catalog |= words.split(',').any(is_catalog),
            "repository" if is_name(name) => return self.admit_repository(name, words, room),
            _ => {}
        }
        true
    }

    fn admit_repository(&mut self, name: &str, words: &str, room: &mut usize) -> bool {
        let actions = Actions::parse(words);
        if !actions.is_some() {
            return true;
        }
        if !self.repositories.contains_key(name) {
            let Some(left) = room.checked_sub(name.len() + OVERHEAD) else {
                return false;
            };
            *room = left;
        }
        let known = self.actions(name);
        known.pull |= actions.pull;
        known.push |= actions.push;
        known.delete |= actions.delete;
        true
    }

    fn actions(&mut self, name: &str) -> &mut Actions {
        self.repositories.entry(name.to_owned()).or_default()
    }
}

impl Actions {
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

    fn is_some(self) -> bool {
        self.pull || self.push || self.delete
    }
}

/// The word of the specification is `*`; some clients say `catalog`.
fn is_catalog(word: &str) -> bool {
    matches!(word, "*" | "catalog")
}

/// As it is read: entries separated by a space.
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

/// Bytes of the printed form, the catalogue aside: some sixty usual repositories, or fourteen of the longest names.
const MOST: usize = 4096;
/// What an entry has beside its name.
const OVERHEAD: usize = " repository::pull,push,delete".len();

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
    fn what_clients_ask_for_is_read() {
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
    fn what_is_not_understood_is_not_asked_for() {
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
    fn the_number_of_repositories_is_bounded() {
        let all: Vec<_> = (0..10_000)
            .map(|n| format!("repository:team/app{n}:*"))
            .collect();
        let scope = Scope::parse(all.iter().map(String::as_str));
        assert!(scope.to_string().len() <= MOST);
        assert!(scope.repositories.len() > 60);
        assert_eq!(scope, Scope::parse([all.join(" ").as_str()]));
    }

    #[test]
    fn an_operation_asks_for_what_it_needs() {
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
    fn a_scope_allows_what_it_names() {
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
    fn what_is_not_retained_is_gone() {
        let scope = Scope::parse(["registry:catalog:* repository:a:* repository:b:pull"]);
        let kept = scope.retain(|name, action| name == Some("a") && action != Action::Delete);
        assert_eq!(kept.to_string(), "repository:a:pull,push");
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_what_is_printed_is_read_again(
            texts in proptest::collection::vec("((repository|registry|x)(\\(p\\))?:[a-c/]{0,3}(catalog)?:(pull|push|delete|\\*|catalog|z|,){0,3} ?|.{0,20}){0,4}", 0..4)
        ) {
            let scope = Scope::parse(texts.iter().map(String::as_str));
            let printed = scope.to_string();
            prop_assert_eq!(Scope::parse([printed.as_str()]), scope);
        }
    }
}
