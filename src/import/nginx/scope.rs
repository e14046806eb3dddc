//! What holds in a block: nginx's inheritance.
//!
//! Called by every part of the translation. A directive holds from the innermost block that has it; of those that may
//! stand several times, the innermost block that has one hides all outer ones.

use crate::import::nginx::tree::Directive;

/// The blocks around a place, the outermost first.
#[derive(Clone, Debug)]
pub(super) struct Scope<'a> {
    levels: Vec<&'a [Directive]>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(outermost: &'a [Directive]) -> Self {
        Self {
            levels: vec![outermost],
        }
    }

    /// A block in this one.
    pub(super) fn within(&self, block: &'a [Directive]) -> Self {
        let mut levels = self.levels.clone();
        levels.push(block);
        Self { levels }
    }

    /// The directive that holds here.
    pub(super) fn one(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).last().copied()
    }

    /// All of this name that hold here.
    pub(super) fn all(&self, name: &str) -> Vec<&'a Directive> {
        self.any_of(&[name])
    }

    /// The same for names that hide each other, as `allow` and `deny` do.
    pub(super) fn any_of(&self, names: &[&str]) -> Vec<&'a Directive> {
        let found = self.levels.iter().rev().map(|level| {
            let is_meant = |directive: &&Directive| names.contains(&directive.name.as_str());
            level.iter().filter(is_meant).collect::<Vec<_>>()
        });
        found
            .into_iter()
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    /// Every directive of all blocks, whether another one hides it or not.
    pub(super) fn every(&self) -> impl Iterator<Item = &'a Directive> {
        self.levels.iter().flat_map(|level| level.iter())
    }

    /// What stands in the innermost block itself.
    pub(super) fn own(&self) -> &'a [Directive] {
        self.levels.last().copied().unwrap_or_default()
    }

    /// The value a `set` gave to a variable, from the innermost block outward.
    pub(super) fn variable(&self, name: &str) -> Option<&'a str> {
        let set = |level: &&'a [Directive]| {
            let is_meant =
                |d: &&Directive| d.name == "set" && d.first().strip_prefix('$') == Some(name);
            level.iter().rfind(is_meant).map(|found| found.arg(1))
        };
        self.levels.iter().rev().find_map(set)
    }
}
