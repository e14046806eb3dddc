//! What the importer reports: warnings that need attention, and directives without a counterpart with the reason.
//!
//! Every step of the translation adds remarks; `output` writes them as comments and `cli` prints the warnings. The value of a
//! directive is shown only where it cannot be a secret.

use std::collections::{BTreeMap, BTreeSet};

use crate::import::nginx::parser::{Directive, SourcePos};

/// All warnings and all directives without a counterpart.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    warnings: Vec<(SourcePos, String)>,
    /// By reason.
    unsupported: BTreeMap<&'static str, Vec<(SourcePos, String)>>,
    /// The requests that nginx forwards and tidegate does not, each with the response of tidegate.
    pub(crate) stricter: Vec<String>,
}

impl Remarks {
    /// Adds a warning: the result differs from nginx's behaviour, and the operator should look at it.
    pub(crate) fn warn(&mut self, at: SourcePos, what: impl Into<String>) {
        let warning = (at, what.into());
        // An inherited directive is met in every block that inherits it, so the same warning may come several times.
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The number of warnings so far.
    pub(crate) fn warning_count(&self) -> usize {
        self.warnings.len()
    }

    /// Removes the warnings after the first `count` whose positions satisfy `is_void`: they describe keys that the result does not have.
    pub(crate) fn forget_warnings(&mut self, count: usize, is_void: impl Fn(SourcePos) -> bool) {
        let later = self.warnings.split_off(count.min(self.warnings.len()));
        self.warnings
            .extend(later.into_iter().filter(|(at, _)| !is_void(*at)));
    }

    /// Adds a directive without a counterpart.
    pub(crate) fn unsupported(&mut self, reason: &'static str, directive: &Directive) {
        self.unsupported_as(reason, directive.at, directive.name.clone());
    }

    /// Adds a directive without a counterpart, described by other words than its name.
    pub(crate) fn unsupported_as(
        &mut self,
        reason: &'static str,
        at: SourcePos,
        what: impl Into<String>,
    ) {
        let list = self.unsupported.entry(reason).or_default();
        let entry = (at, what.into());
        if !list.contains(&entry) {
            list.push(entry);
        }
    }

    /// Removes the remarks about directives that were translated after all.
    pub(crate) fn forget_unsupported(&mut self, translated: &BTreeSet<SourcePos>) {
        for list in self.unsupported.values_mut() {
            list.retain(|(at, _)| !translated.contains(at));
        }
        self.unsupported.retain(|_, list| !list.is_empty());
    }

    /// The number of directives without a counterpart.
    pub(crate) fn unsupported_count(&self) -> usize {
        self.unsupported.values().map(Vec::len).sum()
    }

    /// The warnings with their file and line, in the order of the files.
    pub(crate) fn warnings(&self, files: &[String]) -> Vec<String> {
        lines(&self.warnings, files)
    }

    /// The directives without a counterpart, grouped by reason, each with its file and line.
    pub(crate) fn unsupported_groups(&self, files: &[String]) -> Vec<(&'static str, Vec<String>)> {
        self.unsupported
            .iter()
            .map(|(reason, list)| (*reason, lines(list, files)))
            .collect()
    }
}

fn lines(remarks: &[(SourcePos, String)], files: &[String]) -> Vec<String> {
    let mut sorted: Vec<_> = remarks.iter().collect();
    sorted.sort_by_key(|(at, _)| *at);
    let line = |(at, what): &(SourcePos, String)| format!("{}: {what}", file_and_line(files, *at));
    sorted.into_iter().map(line).collect()
}

/// `FILE:LINE`
pub(crate) fn file_and_line(files: &[String], at: SourcePos) -> String {
    let file = files.get(at.file).map_or("?", String::as_str);
    format!("{file}:{}", at.position.line)
}

/// The reason of directives whose effect tidegate has without a line of configuration.
pub(crate) const BUILT_IN: &str = "nothing to write: tidegate does this without a key";
