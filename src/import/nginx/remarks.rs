//! What the importer has to say: what needs a look, and what fell away and why.
//!
//! Filled by the whole translation, printed by `write` and by `cli`. Values of directives are shown only where they
//! cannot be secrets.

use std::collections::BTreeMap;

use crate::import::nginx::tree::{Directive, SourcePos};

/// Everything there is to say.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    warnings: Vec<(SourcePos, String)>,
    fallen: BTreeMap<&'static str, Vec<(SourcePos, String)>>,
}

impl Remarks {
    /// Something that is not as it was and that somebody should look at.
    pub(super) fn warn(&mut self, at: SourcePos, what: impl Into<String>) {
        let warning = (at, what.into());
        // Inherited directives are met in every block that they reach.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// A directive that is left out.
    pub(super) fn unsupported(&mut self, why: &'static str, directive: &Directive) {
        self.unsupported_as(why, directive.at, directive.name.clone());
    }

    /// The same, in other words than its name.
    pub(super) fn unsupported_as(
        &mut self,
        why: &'static str,
        at: SourcePos,
        what: impl Into<String>,
    ) {
        let list = self.fallen.entry(why).or_default();
        let fallen = (at, what.into());
        if !list.contains(&fallen) {
            list.push(fallen);
        }
    }

    /// How many directives fell away.
    pub(super) fn count(&self) -> usize {
        self.fallen.values().map(Vec::len).sum()
    }

    /// Each with its file and line, in their order.
    pub(super) fn warnings(&self, files: &[String]) -> Vec<String> {
        let mut sorted: Vec<_> = self.warnings.iter().collect();
        sorted.sort_by_key(|(at, _)| *at);
        let line = |(at, what): &(SourcePos, String)| format!("{}: {what}", place(files, *at));
        sorted.into_iter().map(line).collect()
    }

    /// By reason; each reason with its directives, by file and line.
    pub(super) fn fallen(&self, files: &[String]) -> Vec<(&'static str, Vec<String>)> {
        let group = |(why, list): (&&'static str, &Vec<(SourcePos, String)>)| {
            let mut sorted: Vec<_> = list.iter().collect();
            sorted.sort_by_key(|(at, _)| *at);
            let line = |(at, what): &(SourcePos, String)| format!("{}: {what}", place(files, *at));
            (*why, sorted.into_iter().map(line).collect())
        };
        self.fallen.iter().map(group).collect()
    }
}

/// `FILE:LINE`
pub(super) fn place(files: &[String], at: SourcePos) -> String {
    let file = files.get(at.file).map_or("?", String::as_str);
    format!("{file}:{}", at.place.line)
}
