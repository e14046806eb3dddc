//! The nearest of several known names, for "did you mean".
//!
//! Unknown keys, unknown words and unknown groups of a configuration use it, and so do `cli` for unknown users and the
//! nginx importer for unknown directives.

/// Returns the nearest of `known` if at most a third of its letters differ from `word`. Case does not count.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word: String = word.chars().take(MAX_LENGTH).collect();
    let word = word.to_ascii_lowercase();
    let length = word.chars().count();
    let near = known.into_iter().filter_map(|candidate| {
        let candidate_length = candidate.chars().count();
        let max_distance = (candidate_length.max(length) / 3).max(1);
        // A swap of two neighbours is one edit, because it is one typing error.
        let distance = strsim::osa_distance(&word, &candidate.to_ascii_lowercase());
        (distance <= max_distance && distance < candidate_length).then_some((distance, candidate))
    });
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns the first of `known` that is `word` but for case or one typing error: a letter that is missing, wrong, too much, or
/// swapped with its neighbour.
pub(crate) fn one_error_away<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<&'k str> {
    let word: String = word.chars().take(MAX_LENGTH).collect();
    let word = word.to_ascii_lowercase();
    let mut known = known.into_iter();
    known.find(|candidate| strsim::osa_distance(&word, &candidate.to_ascii_lowercase()) <= 1)
}

/// No known name is half as long. The limit bounds the time that a pasted text of megabytes takes.
const MAX_LENGTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::{nearest, one_error_away};

    #[test]
    fn one_error_is_a_letter_or_a_swap() {
        let known = ["hosts", "tls", "route"];
        for (word, expected) in [
            ("host", Some("hosts")),
            ("TLS", Some("tls")),
            ("tsl", Some("tls")),
            ("rootes", None),
            ("", None),
        ] {
            assert_eq!(one_error_away(word, known), expected, "{word}");
        }
    }

    #[test]
    fn the_nearest_name_is_returned_if_it_is_near_enough() {
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
