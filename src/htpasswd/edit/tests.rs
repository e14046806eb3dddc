//! Tests of which bytes an edit changes, and that it changes no others.

use proptest::prelude::*;

use super::*;
use crate::htpasswd::{list, parse};

const OLD: &str = "$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u";
const NEW: &str = "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.";

fn set_to(text: &str) -> String {
    String::from_utf8(set(text.as_bytes(), b"bob", NEW.as_bytes()).bytes).unwrap()
}

#[test]
fn only_the_line_that_counts_changes() {
    let bob = format!("bob:{NEW}");
    for (before, after) in [
        // Comments, blank lines, the order and unknown lines stay.
        (
            format!("# a\n\nx:{OLD}\nbob:{OLD}\nnonsense\n#bob:{OLD}\n"),
            format!("# a\n\nx:{OLD}\n{bob}\nnonsense\n#bob:{OLD}\n"),
        ),
        (
            format!("x:{OLD}\r\nbob:{OLD}\r\nz:{OLD}\n"),
            format!("x:{OLD}\r\n{bob}\r\nz:{OLD}\n"),
        ),
        // The comment of the line stays.
        (
            format!("bob:{OLD}:since 2020\n"),
            format!("{bob}:since 2020\n"),
        ),
        (
            format!("bob:{OLD}:since 2020\r\n"),
            format!("{bob}:since 2020\r\n"),
        ),
        (format!("bob:{OLD}\rhidden\n"), format!("{bob}\rhidden\n")),
        // A locked, an empty and a damaged hash, and spaces around the hash.
        ("bob:!\n".to_owned(), format!("{bob}\n")),
        ("bob:".to_owned(), bob.clone()),
        (format!("bob: {OLD} :c"), format!("{bob}:c")),
        // Nothing of a readable password stays, nor a NUL byte that would make the line invalid.
        ("bob:my:secret\r\n".to_owned(), format!("{bob}\r\n")),
        ("bob:{PLAIN}my:secret\n".to_owned(), format!("{bob}\n")),
        (format!("bob:{OLD}:\0\n"), format!("{bob}\n")),
        // The first line counts, and later lines are removed.
        (
            format!("bob:{OLD}\nx:{OLD}\nbob:{OLD}\nbob:z"),
            format!("{bob}\nx:{OLD}\n"),
        ),
        // The byte order mark stays before the first line, and is not part of a name.
        (format!("\u{feff}bob:{OLD}\n"), format!("\u{feff}{bob}\n")),
    ] {
        assert_eq!(set_to(&before), after, "{before:?}");
    }
}

#[test]
fn a_new_line_is_appended_with_the_line_end_of_the_others() {
    let bob = format!("bob:{NEW}");
    for (before, after) in [
        (String::new(), format!("{bob}\n")),
        ("\u{feff}".to_owned(), format!("\u{feff}{bob}\n")),
        ("# a\n".to_owned(), format!("# a\n{bob}\n")),
        ("# a\r\n".to_owned(), format!("# a\r\n{bob}\r\n")),
        (format!("x:{OLD}"), format!("x:{OLD}\n{bob}\n")),
        (
            format!("# a\r\nx:{OLD}"),
            format!("# a\r\nx:{OLD}\r\n{bob}\r\n"),
        ),
        (
            format!("Bob:{OLD}\n#bob:{OLD}\nbob\n"),
            format!("Bob:{OLD}\n#bob:{OLD}\nbob\n{bob}\n"),
        ),
    ] {
        assert_eq!(set_to(&before), after, "{before:?}");
    }
}

#[test]
fn the_result_describes_the_edit() {
    let text = format!("# a\nbob:{OLD}\nbob:{OLD}\nx:{OLD}\nbob:z\n");
    let result = |edited: Edited| (edited.line, edited.existed, edited.duplicates);
    assert_eq!(result(set(text.as_bytes(), b"bob", b"h")), (2, true, 2));
    assert_eq!(result(set(text.as_bytes(), b"new", b"h")), (6, false, 0));
    let removed = remove(text.as_bytes(), b"bob").unwrap();
    assert_eq!(removed.bytes, format!("# a\nx:{OLD}\n").as_bytes());
    assert_eq!(result(removed), (2, true, 2));
    for missing in ["carol", "#bob", "# a", "", "Bob"] {
        assert_eq!(remove(text.as_bytes(), missing.as_bytes()), None);
    }
}

#[test]
fn names_that_a_line_cannot_have_are_rejected() {
    let long = "x".repeat(256);
    for (name, fault) in [
        ("", BadName::Empty),
        ("a:b", BadName::Colon),
        ("a\nb", BadName::Control),
        ("\ra", BadName::Control),
        ("a\0", BadName::Control),
        ("#a", BadName::Comment),
        (long.as_str(), BadName::Long),
        (OLD, BadName::Hash),
        ("{SHA}x", BadName::Hash),
        (" a", BadName::Space),
        ("a ", BadName::Space),
        ("\u{feff}a", BadName::ByteOrderMark),
    ] {
        assert_eq!(check_name(name.as_bytes()), Err(fault), "{name}");
    }
    for good in [
        "a",
        "a b",
        "a#b",
        "Łukasz",
        "administrator",
        "a@b.example",
        "-",
        &"x".repeat(255),
    ] {
        assert_eq!(check_name(good.as_bytes()), Ok(()), "{good}");
    }
}

/// Texts with lines of every kind and few names, so that the edited user is often among them.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(format!("bob:{OLD}").into_bytes()),
        Just(format!("bob:{OLD}:comment").into_bytes()),
        Just(format!("alice:{OLD}").into_bytes()),
        Just(b"bob:!".to_vec()),
        Just(b"bob:plain:text".to_vec()),
        Just(b"# bob:".to_vec()),
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..20),
        "(bob|carol):[ -~\r\0]{0,12}".prop_map(String::into_bytes),
    ];
    let end = prop_oneof![Just(&b"\n"[..]), Just(&b"\r\n"[..])];
    let lines = prop::collection::vec((line, end), 0..8);
    (any::<bool>(), lines, any::<bool>()).prop_map(|(mark, lines, ends)| {
        let mut text: Vec<u8> = lines
            .into_iter()
            .flat_map(|(line, end)| [&line, end].concat())
            .collect();
        if !ends && text.ends_with(b"\n") {
            text.pop();
        }
        if mark {
            text.splice(0..0, *b"\xef\xbb\xbf");
        }
        text
    })
}

/// All lines of other users, without their line ends.
fn others(text: &[u8], user: &[u8]) -> Vec<Vec<u8>> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    lines
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| entry_of(line).is_none_or(|(name, _)| name != user))
        .map(<[u8]>::to_vec)
        .collect()
}

proptest! {
    #[test]
    fn a_user_that_is_set_can_sign_in_and_nothing_else_changes(text in text(), user in "bob|alice|carol|new") {
        let user = user.as_bytes();
        let edited = set(&text, user, NEW.as_bytes());
        let loaded = parse(&edited.bytes);
        let entry = loaded.users.find(user).unwrap();
        prop_assert_eq!(entry.stored(), NEW.as_bytes());
        prop_assert_eq!(entry.line(), edited.line);
        prop_assert_eq!(others(&edited.bytes, user), others(&text, user));
        let again = set(&edited.bytes, user, NEW.as_bytes());
        prop_assert_eq!(&again.bytes, &edited.bytes);
        prop_assert_eq!((again.existed, again.duplicates), (true, 0));
        prop_assert_eq!(edited.existed, remove(&text, user).is_some());
    }

    #[test]
    fn a_removed_user_has_no_line_and_nothing_else_changes(text in text(), user in "bob|alice|carol|new") {
        let user = user.as_bytes();
        if let Some(edited) = remove(&text, user) {
            prop_assert!(parse(&edited.bytes).users.find(user).is_none());
            prop_assert_eq!(others(&edited.bytes, user), others(&text, user));
            prop_assert_eq!(remove(&edited.bytes, user), None);
        }
    }

    #[test]
    fn the_list_agrees_with_the_parser(text in text()) {
        let loaded = parse(&text);
        let listed = list(&text);
        let good = listed.iter().filter(|listed| listed.scheme.is_ok());
        prop_assert_eq!(good.count(), loaded.users.len());
        for one in &listed {
            match one.scheme {
                Ok(scheme) => if let Some(user) = &one.user && user.is_ascii() && !user.contains('\\') {
                    let entry = loaded.users.find(user.as_bytes()).unwrap();
                    prop_assert_eq!((entry.line(), entry.scheme()), (one.line, scheme));
                },
                Err(kind) => {
                    let same = loaded.problems.iter().any(|problem| {
                        (problem.line, problem.kind, &problem.user) == (one.line, kind, &one.user)
                    });
                    prop_assert!(same);
                }
            }
        }
    }
}
