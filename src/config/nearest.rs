//! The word somebody probably meant.
//!
//! Asked by `table` for unknown keys and by `units` for words out of a list.

/// The nearest of `known`, when it differs in at most a third of its letters; case does not count.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let written: Vec<char> = word.chars().take(LONGEST).collect();
    known
        .into_iter()
        .filter_map(|candidate| {
            let meant: Vec<char> = candidate.chars().collect();
            let allowed = (meant.len().max(written.len()) / 3).max(1);
            let distance = distance(&written, &meant);
            (distance <= allowed && distance < meant.len()).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
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
            let cost = usize::from(!written.eq_ignore_ascii_case(meant));
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
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        let cases = [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("htpaswd", "htpasswd", 1),
            ("hsots", "hosts", 1),
            ("Hosts", "hosts", 0),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
        ];
        for (from, to, expected) in cases {
            let chars = |word: &str| word.chars().collect::<Vec<_>>();
            assert_eq!(distance(&chars(from), &chars(to)), expected, "{from} {to}");
        }
    }

    #[test]
    fn names_the_nearest_or_none() {
        let known = ["hosts", "tls", "route", "external_url", "max_body", "to"];
        let cases = [
            ("host", Some("hosts")),
            ("hsots", Some("hosts")),
            ("TLS", Some("tls")),
            ("max-body", Some("max_body")),
            ("externalurl", Some("external_url")),
            ("routes", Some("route")),
            ("upstream", None),
            ("x", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest(&"hosts".repeat(1 << 20), known), None);
    }
}
