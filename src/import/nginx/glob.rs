//! The patterns of `include`: `*`, `?` and `[…]` in the parts of a path, as glob(3) has them.
//!
//! Called by `include`. The order is that of the names, so that the same files always give the same text.

use std::path::{Path, PathBuf};

use crate::import::nginx::files::FileSource;

/// Whether there is anything to match.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The paths that there are, sorted.
pub(super) fn expand(files: &dyn FileSource, pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        found = if is_pattern(&text) {
            let below = found
                .iter()
                .flat_map(|folder| matching(files, folder, &text));
            below.take(MOST).collect()
        } else {
            found.into_iter().map(|folder| folder.join(part)).collect()
        };
    }
    found.sort();
    found
}

fn matching(files: &dyn FileSource, folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let here = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let names = files.names(here).unwrap_or_default();
    let pattern: Vec<char> = pattern.chars().collect();
    let is_meant = |name: &String| {
        // As the shell has it: a dot at the beginning must be written.
        let is_hidden = name.starts_with('.') && pattern.first() != Some(&'.');
        let name: Vec<char> = name.chars().collect();
        !is_hidden && matches(&pattern, &name)
    };
    let meant = names.into_iter().filter(is_meant);
    meant.map(|name| folder.join(name)).collect()
}

/// Goes back to the last `*` at most, so the time is that of both lengths multiplied.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(character) = name.get(seen) {
        if pattern.get(at) == Some(&'*') {
            star = Some((at, seen));
            at += 1;
        } else if let Some(length) = one(pattern.get(at..).unwrap_or_default(), *character) {
            at += length;
            seen += 1;
        } else if let Some((star_at, star_seen)) = star {
            star = Some((star_at, star_seen + 1));
            at = star_at + 1;
            seen = star_seen + 1;
        } else {
            return false;
        }
    }
    let rest = pattern.get(at..).unwrap_or_default();
    rest.iter().all(|character| *character == '*')
}

/// How long the part of the pattern is that stands for this character.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', set @ ..] => match set_end(set) {
            Some(end) => is_in(set.get(..end).unwrap_or_default(), character).then_some(end + 2),
            None => (character == '[').then_some(1),
        },
        [own, ..] => (*own == character).then_some(1),
        [] => None,
    }
}

/// Where the `]` stands; one right at the beginning belongs to the set.
fn set_end(set: &[char]) -> Option<usize> {
    let skipped = if set.first().is_some_and(|c| matches!(c, '!' | '^')) {
        2
    } else {
        1
    };
    let behind = set.iter().skip(skipped).position(|c| *c == ']')?;
    Some(behind + skipped)
}

fn is_in(set: &[char], character: char) -> bool {
    let (is_negated, mut set) = match set {
        ['!' | '^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut is_found = false;
    loop {
        match set {
            [] => return is_found != is_negated,
            [low, '-', high, rest @ ..] => {
                is_found |= (*low..=*high).contains(&character);
                set = rest;
            }
            [own, rest @ ..] => {
                is_found |= *own == character;
                set = rest;
            }
        }
    }
}

/// Files of one `include`; more is a mistake.
const MOST: usize = 1000;
