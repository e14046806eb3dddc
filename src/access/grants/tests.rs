//! Tests of what grants allow, and of grants that allow nothing new.

use super::*;

/// Parses a grant such as `alice, @users: team/**, x: pull`.
fn grant(text: &str, line: usize) -> Grant {
    let mut fields = text.split(": ");
    let mut field = || fields.next().unwrap().split(", ");
    let mut subjects = Subjects::default();
    for principal in field() {
        match principal {
            "@anonymous" => subjects.anyone = true,
            "@users" => subjects.verified = true,
            _ => drop(subjects.users.insert(principal.to_owned())),
        }
    }
    let patterns = field().map(|text| Pattern::parse(text).unwrap()).collect();
    let actions = field()
        .map(|word| Actions::all().iter().find(|known| known.as_str() == word))
        .map(Option::unwrap)
        .collect();
    Grant {
        subjects,
        patterns,
        actions,
        line,
        file: None,
    }
}

fn grants(texts: &[&str]) -> Grants {
    let numbered = texts.iter().zip(1..);
    Grants::new(numbered.map(|(text, line)| grant(text, line)))
}

#[test]
fn grants_add_up_and_nothing_else_is_allowed() {
    let grants = grants(&[
        "@users: pub/**: pull",
        "ci: team/**, pub/**: push",
        "root: **: delete",
        "@users: home/{user}/**: push, delete",
        "@anonymous: open/*: pull",
        "ci: **: catalog",
    ]);
    let cases = [
        (Some("ci"), "team/a", "pull, push"),
        (Some("ci"), "pub/a/b", "pull, push"),
        (Some("ci"), "home/ci/a", "pull, push, delete"),
        (Some("ci"), "home/root/a", ""),
        (Some("root"), "home/root/a", "pull, push, delete"),
        (Some("root"), "secret", "delete"),
        (Some("eve"), "pub/a", "pull"),
        (Some("eve"), "team/a", ""),
        (Some("eve"), "open/a", "pull"),
        (None, "open/a", "pull"),
        (None, "open/a/b", ""),
        (None, "pub/a", ""),
        (None, "home/{user}/a", ""),
        (Some("Eve"), "home/Eve/a", ""),
        (Some("eve"), "pub/A", ""),
        (Some("eve"), "pub//a", ""),
        (Some("eve"), "", ""),
    ];
    for (user, repository, expected) in cases {
        let mut effective = grants.effective(user, repository);
        for action in [Action::Pull, Action::Push, Action::Delete] {
            let allowed = grants.allows(user, action, Some(repository));
            let place = format!("{user:?} {action} {repository}");
            assert_eq!(allowed, effective.contains(action), "{place}");
        }
        if effective.contains(Action::Catalog) {
            assert_eq!(user, Some("ci"));
            effective = effective
                .iter()
                .filter(|action| *action != Action::Catalog)
                .collect();
        }
        assert_eq!(effective.to_string(), expected, "{user:?} {repository}");
    }
}

#[test]
fn ping_and_catalog_have_no_repository() {
    let grants = grants(&["ci: team/**: catalog", "@anonymous: pub: pull"]);
    assert!(grants.allows(Some("ci"), Action::Catalog, None));
    assert!(!grants.allows(Some("eve"), Action::Catalog, None));
    assert!(!grants.allows(None, Action::Catalog, None));
    assert!(grants.allows(Some("eve"), Action::Ping, None));
    assert!(!grants.allows(None, Action::Ping, None));
    assert!(!grants.allows(Some("ci"), Action::Pull, None));
}

#[test]
fn who_may_pull_everything() {
    let grants = grants(&["root: x, **: push", "@users: *: pull", "@users: **: delete"]);
    assert!(grants.can_pull_all(Some("root")));
    assert!(!grants.can_pull_all(Some("eve")));
    assert!(!grants.can_pull_all(None));
}

#[test]
fn a_grant_that_gives_nothing_more_is_found() {
    let grants = grants(&[
        "@users: team/**: push",
        "ci: team/*: pull",
        "ci: team/*: delete",
        "@anonymous: team/x: pull",
        "ci, bob: home/**: pull",
        "ci, bob: home/**: pull",
        "ci, eve: home/**: pull",
        "@users: **: pull",
    ]);
    let lines: Vec<_> = grants
        .shadowed()
        .map(|(wide, narrow)| (wide.line, narrow.line))
        .collect();
    assert_eq!(lines, [(1, 2), (8, 5), (5, 6), (8, 7)]);
}

#[test]
fn however_they_are_found_grants_keep_their_order() {
    let to = |users: &[&str], verified: bool, line: usize| Grant {
        subjects: Subjects {
            verified,
            users: users.iter().map(|user| (*user).to_owned()).collect(),
            ..Subjects::default()
        },
        patterns: vec![Pattern::parse("**").unwrap()],
        actions: [Action::Pull].into_iter().collect(),
        line,
        file: None,
    };
    let grants = Grants::new([
        to(&["alice"], false, 1),
        to(&[], true, 2),
        to(&["bob", "alice"], false, 3),
        to(&["bob"], true, 4),
        to(&["alice"], false, 5),
    ]);
    let lines = |user| -> Vec<_> { grants.for_principal(user).map(|grant| grant.line).collect() };
    assert_eq!(lines(Some("alice")), [1, 2, 3, 4, 5]);
    assert_eq!(lines(Some("bob")), [2, 3, 4]);
    assert_eq!(lines(Some("eve")), [2, 4]);
    assert_eq!(lines(None), [] as [usize; 0]);
}
