//! Regular expressions of `location`, `if`, `rewrite`, `map` and `server_name`: matching them, and finding texts that they match.
//!
//! nginx uses PCRE. Look-around and back references have no counterpart in `regex`, so a pattern with them is unknown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use regex::bytes::{Match, Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Compiled regular expressions. The same pattern is matched against many texts.
#[derive(Debug, Default)]
pub(crate) struct PatternCache {
    /// By pattern; the second map has the patterns that ignore case.
    compiled: [RefCell<HashMap<String, Rc<Option<Regex>>>>; 2],
}

impl PatternCache {
    /// The compiled pattern; `None` inside if it is not understood.
    pub(crate) fn compiled(&self, pattern: &str, ignores_case: bool) -> Rc<Option<Regex>> {
        let [exact, ignoring_case] = &self.compiled;
        let map = if ignores_case { ignoring_case } else { exact };
        if let Some(known) = map.borrow().get(pattern) {
            return Rc::clone(known);
        }
        let regex = RegexBuilder::new(pattern)
            .unicode(false)
            .case_insensitive(ignores_case)
            .size_limit(MAX_COMPILED_SIZE)
            .build();
        let regex = Rc::new(regex.ok());
        map.borrow_mut()
            .insert(pattern.to_owned(), Rc::clone(&regex));
        regex
    }

    /// Whether the pattern matches the text; `None` if the pattern is not understood.
    pub(crate) fn is_match(&self, pattern: &str, ignores_case: bool, text: &str) -> Option<bool> {
        let regex = self.compiled(pattern, ignores_case);
        Some(regex.as_ref().as_ref()?.is_match(text.as_bytes()))
    }

    /// The texts of the groups of the first match: the whole match is the first one, and a group that takes no part is empty. `None` if
    /// the pattern is not understood; `Some(None)` if it does not match.
    pub(crate) fn captures(&self, pattern: &str, text: &str) -> Option<Option<Vec<String>>> {
        let regex = self.compiled(pattern, false);
        let found = regex.as_ref().as_ref()?.captures(text.as_bytes());
        Some(found.map(|groups| {
            let group = |group: Option<Match<'_>>| {
                let bytes = group.map(|group| group.as_bytes()).unwrap_or_default();
                String::from_utf8_lossy(bytes).into_owned()
            };
            groups.iter().map(group).collect()
        }))
    }
}

/// Texts that the pattern matches, one or more for each alternative; none if the pattern is not understood.
pub(crate) fn samples(pattern: &str) -> Vec<String> {
    let parsed = ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .build()
        .parse(pattern);
    let mut found = parsed.map_or_else(|_| Vec::new(), |hir| expand(&hir));
    found.truncate(MAX_SAMPLES);
    let texts = found
        .into_iter()
        .filter_map(|bytes| String::from_utf8(bytes).ok());
    texts.collect()
}

/// All texts that the pattern matches, if it matches a few whole texts only, such as `^/(404|500)\.html$`; else none.
pub(crate) fn whole_texts(pattern: &str) -> Vec<String> {
    let parsed = ParserBuilder::new().build().parse(pattern);
    let Some(inner) = parsed.ok().and_then(|hir| anchored(&hir)) else {
        return Vec::new();
    };
    let texts = if has_few_texts(&inner) {
        expand(&inner)
    } else {
        Vec::new()
    };
    let are_all = texts.len() < MAX_SAMPLES;
    let texts = texts.into_iter().filter(|_| are_all);
    texts
        .filter_map(|text| String::from_utf8(text).ok())
        .collect()
}

/// The part of a pattern between `^` at its start and `$` at its end.
fn anchored(hir: &Hir) -> Option<Hir> {
    let HirKind::Concat(parts) = hir.kind() else {
        return None;
    };
    let [first, inner @ .., last] = parts.as_slice() else {
        return None;
    };
    let is_anchored = *first.kind() == HirKind::Look(Look::Start)
        && matches!(last.kind(), HirKind::Look(Look::End));
    is_anchored.then(|| Hir::concat(inner.to_vec()))
}

/// Whether [`expand`] returns every text that matches, if it does not reach its limit.
fn has_few_texts(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) => true,
        HirKind::Look(_) | HirKind::Class(_) => false,
        HirKind::Repetition(repetition) => {
            repetition.max == Some(1) && has_few_texts(&repetition.sub)
        }
        HirKind::Capture(capture) => has_few_texts(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().all(has_few_texts),
    }
}

fn expand(hir: &Hir) -> Vec<Vec<u8>> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![Vec::new()],
        HirKind::Literal(literal) => vec![literal.0.to_vec()],
        HirKind::Class(class) => class_samples(class),
        HirKind::Repetition(repetition) => {
            let one = expand(&repetition.sub);
            if repetition.min > 0 {
                let count = usize::try_from(repetition.min.min(4)).unwrap_or(1);
                return one.into_iter().map(|text| text.repeat(count)).collect();
            }
            let mut all = vec![Vec::new()];
            all.extend(one);
            all
        }
        HirKind::Capture(capture) => expand(&capture.sub),
        HirKind::Concat(parts) => {
            let mut all = vec![Vec::new()];
            for part in parts {
                let ends = expand(part);
                let longer = all.iter().flat_map(|start: &Vec<u8>| {
                    ends.iter().map(move |end| [start.as_slice(), end].concat())
                });
                all = longer.take(MAX_SAMPLES).collect();
            }
            all
        }
        HirKind::Alternation(choices) => {
            choices.iter().flat_map(expand).take(MAX_SAMPLES).collect()
        }
    }
}

/// The first and the last character of a class, preferring characters that a path has.
fn class_samples(class: &Class) -> Vec<Vec<u8>> {
    let contains = |byte: u8| match class {
        Class::Unicode(set) => set
            .ranges()
            .iter()
            .any(|range| (range.start()..=range.end()).contains(&char::from(byte))),
        Class::Bytes(set) => set
            .ranges()
            .iter()
            .any(|range| (range.start()..=range.end()).contains(&byte)),
    };
    let mut usual = b"abcdefghijklmnopqrstuvwxyz0123456789-_.~!ABCDEFGHIJKLMNOPQRSTUVWXYZ/"
        .iter()
        .copied()
        .filter(|byte| contains(*byte));
    let first = usual.next();
    let last = usual.next_back();
    first
        .into_iter()
        .chain(last)
        .map(|byte| vec![byte])
        .collect()
}

/// The literal text with which everything begins that the pattern matches, up to the last slash; empty if the pattern is not
/// anchored.
pub(crate) fn literal_prefix(pattern: &str) -> String {
    let Some(rest) = pattern.strip_prefix('^') else {
        return String::new();
    };
    if rest.contains('|') && !rest.contains('(') {
        return String::new();
    }
    let mut literal = String::new();
    let mut characters = rest.chars();
    while let Some(next) = characters.next() {
        match next {
            '\\' => match characters.next() {
                Some(escaped @ ('/' | '.' | '-' | '_')) => literal.push(escaped),
                _ => break,
            },
            '/' | '-' | '_' => literal.push(next),
            _ if next.is_ascii_alphanumeric() => literal.push(next),
            _ => break,
        }
    }
    // The character after the literal may be a quantifier of its last character.
    let kept = literal.rfind('/').map_or(0, |at| at + 1);
    literal.truncate(kept);
    literal
}

/// The maximum size of a compiled regular expression in bytes.
const MAX_COMPILED_SIZE: usize = 1 << 20;
/// The maximum number of samples of one pattern.
const MAX_SAMPLES: usize = 24;
