//! The word somebody probably meant.
//!
//! Asked by `table` for unknown keys, by `units` for words out of a list, and by `cli` for users.

/// The nearest of `known`, when it differs in at most a third of its letters; case does not count.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let written: Vec<char> = lower_case(word).take(LONGEST).collect();
    known
        .into_iter()
        .filter_map(|candidate| {
            let meant: Vec<char> = lower_case(candidate).collect();
            let allowed = (meant.len().max(written.len()) / 3).max(1);
            let distance = distance(&written, &meant);
            (distance <= allowed && distance < meant.len()).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn lower_case(word: &str) -> impl Iterator<Item = char> {
    word.chars().map(|letter| letter.to_ascii_lowercase())
}

/// How many letters must be changed, added, left out or swapped with their neighbour.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut left_behind = None;
    for (row, written) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut previous_meant = None;
        for (column, meant) in to.iter().enumerate() {
            let cost = usize::from(written != meant);
            let mut best = (at(&last, column) + cost)
                .min(at(&last, column + 1) + 1)
                .min(at(&current, column) + 1);
            if left_behind == Some(meant) && previous_meant == Some(written) && column > 0 {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
            previous_meant = Some(meant);
        }
        left_behind = Some(written);
        before_last = std::mem::replace(&mut last, current);
    }
    at(&last, to.len())
}

/// Outside the table of distances nothing is near.
fn at(row: &[usize], column: usize) -> usize {
    row.get(column).copied().unwrap_or(LONGEST)
}

/// No key is half as long, and a pasted novel is near to none of them.
const LONGEST: usize = 64;

#[cfg(test)]
mod tests;
