//! Edits counted, and words found by them.

use super::*;

#[test]
fn counts_edits() {
    let cases = [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("htpaswd", "htpasswd", 1),
        ("hsots", "hosts", 1),
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
