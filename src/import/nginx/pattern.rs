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
    /// The compiled pattern; `None` inside if it is not understood, or if the probes cannot have a text for each of its alternatives.
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
        let regex = Rc::new(regex.ok().filter(|_| samples(pattern).is_some()));
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

/// Texts that the pattern matches, at least one for each alternative; `None` if the pattern is not understood, or has too many
/// alternatives.
pub(crate) fn samples(pattern: &str) -> Option<Vec<String>> {
    let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
    let found = expand(&parser.parse(pattern).ok()?)?;
    let texts = found.into_iter().map(String::from_utf8);
    texts.collect::<Result<_, _>>().ok()
}

/// All texts that the pattern matches, if it matches a few whole texts only, such as `^/(404|500)\.html$`; else none.
pub(crate) fn whole_texts(pattern: &str) -> Vec<String> {
    let parsed = ParserBuilder::new().build().parse(pattern);
    let Some(inner) = parsed.ok().and_then(|hir| anchored(&hir)) else {
        return Vec::new();
    };
    let texts = expand(&inner).filter(|_| has_few_texts(&inner));
    let texts = texts.unwrap_or_default().into_iter();
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

/// The samples of a pattern without its look-around, which only restricts what the pattern matches.
pub(crate) fn samples_without_look_around(pattern: &str) -> Option<Vec<String>> {
    samples(&without_look_around(pattern)?)
}

/// Whether the pattern may match the empty text; `true` as well if that is not known.
pub(crate) fn may_match_empty(pattern: &str) -> bool {
    let Some(pattern) = without_look_around(pattern) else {
        return true;
    };
    Regex::new(&pattern).map_or(true, |regex| regex.is_match(b""))
}

/// Replaces each look-ahead and look-behind by an empty group. One that has groups remains, and the pattern is not understood.
fn without_look_around(pattern: &str) -> Option<String> {
    let look_around = regex::Regex::new(r"\(\?<?[=!][^()]*\)").ok()?;
    Some(look_around.replace_all(pattern, "(?:)").into_owned())
}

fn expand(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let found = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![Vec::new()],
        HirKind::Literal(literal) => vec![literal.0.to_vec()],
        HirKind::Class(class) => class_samples(class),
        HirKind::Repetition(repetition) => {
            let mut all = expand(&repetition.sub)?;
            if repetition.min == 0 {
                all.insert(0, Vec::new());
                return Some(all);
            }
            let count = usize::try_from(repetition.min).ok()?;
            if count > MAX_REPETITIONS {
                return None;
            }
            all.into_iter().map(|text| text.repeat(count)).collect()
        }
        HirKind::Capture(capture) => expand(&capture.sub)?,
        HirKind::Concat(parts) => {
            let mut all = vec![Vec::new()];
            for part in parts {
                all = concat(&all, &expand(part)?);
            }
            all
        }
        HirKind::Alternation(choices) => {
            let choices = choices.iter().map(expand).collect::<Option<Vec<_>>>()?;
            choices.into_iter().flatten().collect()
        }
    };
    (found.len() <= MAX_SAMPLES).then_some(found)
}

/// Appends each end to each start, or if the texts would be too many, to one start.
fn concat(starts: &[Vec<u8>], ends: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if starts.len().saturating_mul(ends.len()) <= MAX_COMBINED {
        let all = starts
            .iter()
            .flat_map(|start| ends.iter().map(move |end| (start, end)));
        return all.map(|(start, end)| [&**start, end].concat()).collect();
    }
    let count = starts.len().max(ends.len());
    let all = starts.iter().cycle().zip(ends.iter().cycle()).take(count);
    all.map(|(start, end)| [&**start, end].concat()).collect()
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
    let all = first.into_iter().chain(last);
    let mut all: Vec<_> = all.map(|byte| vec![byte]).collect();
    if all.is_empty() {
        all.extend(
            (0..=u8::MAX)
                .find(|byte| contains(*byte))
                .map(|byte| vec![byte]),
        );
    }
    all
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
const MAX_SAMPLES: usize = 64;
/// The maximum number of samples for which all combinations of the parts of a pattern are samples.
const MAX_COMBINED: usize = 24;
/// The maximum number of repetitions that a pattern demands.
const MAX_REPETITIONS: usize = 64;
