//! Tests of which names a pattern matches, among them a comparison with a naive matcher.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn each_pattern_matches_its_names() {
    let cases = [
        ("a", "a", true),
        ("a", "b", false),
        ("a", "a/b", false),
        ("*", "a", true),
        ("*", "a/b", false),
        ("**", "a", true),
        ("**", "a/b/c", true),
        ("team/**", "team/a", true),
        ("team/**", "team/a/b", true),
        ("team/**", "team", false),
        ("team/**", "teams/a", false),
        ("team/*", "team/a/b", false),
        ("**/latest", "a/b/latest", true),
        ("**/latest", "latest", false),
        ("**/a/**", "x/a/a", true),
        ("**/a/**", "a/a/a", true),
        ("**/a/**", "a/a", false),
        ("**/**", "a", false),
        ("**/**", "a/b", true),
        ("a/*/c", "a/b/c", true),
        ("a/*/c", "a/b/b/c", false),
        ("home/{user}/**", "home/alice/x", true),
        ("home/{user}/**", "home/bob/x", false),
        ("{user}", "alice", true),
        ("**/{user}", "a/b/alice", true),
    ];
    for (text, name, fits) in cases {
        let fitted = pattern(text).matches(Some("alice"), name);
        assert_eq!(fitted, fits, "{text} and {name}");
    }
}

#[test]
fn a_user_whose_name_cannot_be_a_component_matches_nothing() {
    let home = pattern("home/{user}");
    for user in [None, Some(""), Some("a/b"), Some("*"), Some("{user}")] {
        for name in ["home/a", "home/b", "home/a/b"] {
            assert!(!home.matches(user, name), "{user:?} and {name}");
        }
    }
}

#[test]
fn malformed_patterns_and_patterns_that_never_match() {
    for (text, fault) in [
        ("", MalformedPattern::Empty),
        ("/a", MalformedPattern::Empty),
        ("a/", MalformedPattern::Empty),
        ("a//b", MalformedPattern::Empty),
        ("team-*", MalformedPattern::Star),
        ("***", MalformedPattern::Star),
        ("a/*b/c", MalformedPattern::Star),
        ("{group}", MalformedPattern::Placeholder),
        ("x-{user}", MalformedPattern::Placeholder),
        ("{user", MalformedPattern::Placeholder),
    ] {
        assert_eq!(Pattern::parse(text), Err(fault), "{text}");
    }
    let long = format!("{}/**", "a".repeat(254));
    for text in ["Team/**", "a..b", "-a", "a b", "../**", "ä", &long] {
        assert!(!pattern(text).can_match(), "{text}");
    }
    for text in ["**", "a/*/{user}", "a__b/c.d/e--f"] {
        assert!(pattern(text).can_match(), "{text}");
        assert_eq!(pattern(text).to_string(), text);
    }
}

#[test]
fn patterns_cover_narrower_ones() {
    let cases = [
        ("**", "a/b", true),
        ("**", "**/**", true),
        ("**/**", "**", false),
        ("team/**", "team/*", true),
        ("team/*", "team/**", false),
        ("*/**", "a/**", true),
        ("home/*/**", "home/{user}/**", true),
        ("home/{user}/**", "home/*/**", false),
        ("home/{user}/**", "home/alice/**", false),
        ("**/x", "**/x", true),
    ];
    for (wide, narrow, covers) in cases {
        let covered = pattern(wide).covers(&pattern(narrow));
        assert_eq!(covered, covers, "{wide} over {narrow}");
    }
}

#[test]
fn no_name_makes_a_pattern_slow() {
    let many = pattern(&format!("{}b", "**/a/".repeat(60)));
    let name = vec!["a"; 127].join("/");
    let began = Instant::now();
    for _ in 0..100 {
        assert!(!many.matches(None, &name));
    }
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Matches by the definition of patterns, without optimisation.
fn naive(parts: &[&str], components: &[&str], user: &str) -> bool {
    match (parts, components) {
        ([], []) => true,
        (["**", rest @ ..], [_, ..]) => {
            (1..=components.len()).any(|taken| naive(rest, &components[taken..], user))
        }
        ([part, rest @ ..], [component, after @ ..]) => {
            let fits =
                *part == "*" || part == component || (*part == "{user}" && *component == user);
            fits && naive(rest, after, user)
        }
        _ => false,
    }
}

fn parts() -> impl Strategy<Value = Vec<&'static str>> {
    let part = prop::sample::select(vec!["a", "b", "*", "**", "{user}"]);
    prop::collection::vec(part, 1..6)
}

fn components() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..8)
}

proptest! {
    #[test]
    fn matching_agrees_with_the_naive_matcher(parts in parts(), components in components()) {
        let fitted = pattern(&parts.join("/")).matches(Some("b"), &components.join("/"));
        prop_assert_eq!(fitted, naive(&parts, &components, "b"));
    }

    #[test]
    fn a_covered_pattern_matches_no_other_names(wide in parts(), narrow in parts(), components in components()) {
        let (wide, narrow) = (pattern(&wide.join("/")), pattern(&narrow.join("/")));
        let name = components.join("/");
        if wide.covers(&narrow) && narrow.matches(Some("c"), &name) {
            prop_assert!(wide.matches(Some("c"), &name), "{} over {} at {}", wide, narrow, name);
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", name in ".{0,40}") {
        if let Ok(parsed) = Pattern::parse(&text) {
            parsed.matches(Some(&name), &name);
            prop_assert_eq!(parsed.to_string(), text);
        }
    }
}

#[test]
fn patterns_may_match_below_a_path() {
    for (text, below, can) in [
        ("team/**", "team", true),
        ("team/app", "team", true),
        ("team", "team", true),
        ("team", "team/app", false),
        ("**", "team/app", true),
        ("*", "team", true),
        ("*", "team/app", false),
        ("{user}/x", "team", true),
        ("pub/**", "team", false),
        ("*/pub/**", "team/app", false),
        ("**/pub", "team/app", true),
    ] {
        let components: Vec<_> = below.split('/').collect();
        let pattern = Pattern::parse(text).unwrap();
        assert_eq!(pattern.may_match_under(&components), can, "{text} {below}");
        assert_eq!(pattern.is_of_user(), text.contains("{user}"));
    }
}
