//! nginx's inheritance: which directives are in effect in a block.
//!
//! A directive is in effect from the innermost block that has it. Of directives that may occur several times, such as
//! `proxy_set_header`, the innermost block that has at least one hides those of all outer blocks.

use crate::import::nginx::parser::Directive;

/// The blocks around a place, the outermost first.
#[derive(Clone, Debug)]
pub(crate) struct Scope<'a> {
    blocks: Vec<&'a [Directive]>,
}

impl<'a> Scope<'a> {
    /// Creates the scope of the outermost block.
    pub(crate) fn new(outermost: &'a [Directive]) -> Self {
        Self {
            blocks: vec![outermost],
        }
    }

    /// The scope of a block inside this one.
    pub(crate) fn inner(&self, block: &'a [Directive]) -> Self {
        let mut blocks = self.blocks.clone();
        blocks.push(block);
        Self { blocks }
    }

    /// The directive of this name that is in effect; the last one if the block has several.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).last().copied()
    }

    /// The first argument of the directive of this name that is in effect; the empty text if there is none.
    pub(crate) fn value(&self, name: &str) -> &'a str {
        self.get(name).map_or("", Directive::first)
    }

    /// All directives of this name that are in effect.
    pub(crate) fn all(&self, name: &str) -> Vec<&'a Directive> {
        self.any_of(&[name])
    }

    /// All directives of these names that are in effect. The names hide each other, as `allow` and `deny` do.
    pub(crate) fn any_of(&self, names: &[&str]) -> Vec<&'a Directive> {
        let found = self.blocks.iter().rev().map(|block| {
            let is_named = |directive: &&Directive| names.contains(&directive.name.as_str());
            block.iter().filter(is_named).collect::<Vec<_>>()
        });
        found
            .into_iter()
            .find(|found| !found.is_empty())
            .unwrap_or_default()
    }

    /// Every directive of all blocks, also those that an inner block hides.
    pub(crate) fn every(&self) -> impl Iterator<Item = &'a Directive> {
        self.blocks.iter().flat_map(|block| block.iter())
    }

    /// The directives of the innermost block.
    pub(crate) fn own(&self) -> &'a [Directive] {
        self.blocks.last().copied().unwrap_or_default()
    }

    /// The value that a `set` gives to a variable: the last `set` of the innermost block that has one.
    pub(crate) fn variable(&self, name: &str) -> Option<&'a str> {
        let set = |block: &&'a [Directive]| {
            let is_set =
                |d: &&Directive| d.name == "set" && d.first().strip_prefix('$') == Some(name);
            block.iter().rfind(is_set).map(|found| found.arg(1))
        };
        self.blocks.iter().rev().find_map(set)
    }
}
