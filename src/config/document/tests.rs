//! Positions of bytes, syntax errors with their remedies, and texts that are no TOML.

use proptest::prelude::*;

use super::*;

fn position(text: &str, offset: usize) -> (usize, usize) {
    let position = Lines::new(text).position(offset);
    (position.line, position.column)
}

#[test]
fn positions_count_lines_and_characters_from_one() {
    let cases = [
        ("", 0, (1, 1)),
        ("", 9, (1, 1)),
        ("ab", 1, (1, 2)),
        ("ab", 2, (1, 3)),
        ("a\nb", 1, (1, 2)),
        ("a\nb", 2, (2, 1)),
        ("a\r\nb", 3, (2, 1)),
        ("a\rb", 2, (1, 3)),
        ("\n\n", 2, (3, 1)),
        ("äö€x", "äö€".len(), (1, 4)),
        ("ä\nö😀x", "ä\nö😀".len(), (2, 3)),
        ("\u{feff}ab", 4, (1, 2)),
    ];
    for (text, offset, expected) in cases {
        assert_eq!(position(text, offset), expected, "{text:?} at {offset}");
    }
}

#[test]
fn an_empty_file_is_accepted() {
    for text in ["", "\n", "# nothing\r\n", "\u{feff}", "\u{feff}a = \"x\""] {
        assert!(Document::parse("x", text.as_bytes()).is_ok(), "{text:?}");
    }
}

/// The only problem of a text, as `line:column: what | fix: remedy`.
fn syntax_error(text: &str) -> String {
    let problems = Document::parse("x", text.as_bytes()).unwrap_err();
    let problems = problems.sorted();
    let [problem] = problems.as_slice() else {
        panic!("not one problem: {problems:?}");
    };
    let shown = problem.to_string().replace("error: ", "");
    shown.replace("\n    ", " | ")
}

#[test]
fn the_first_syntax_error_is_reported_with_position_and_remedy() {
    let line = "fix: correct this line, or the one above: each is one key = value, one [table], or a # with a comment";
    let quotes = "fix: put the text between double quotes";
    let assign = "fix: write key = value";
    let open = "fix: look above for a [, { or quotation mark that is not closed";
    let comma = "fix: close the list with ] above, or write a comma between its elements";
    let twice = "fix: keep one of them; a table that may repeat is written [[name]]";
    let cases = [
        (
            "a = x\nb = y",
            format!("1:5: string values must be quoted, expected literal string | {quotes}"),
        ),
        (
            "a = [x]",
            format!("1:6: string values must be quoted, expected literal string | {quotes}"),
        ),
        (
            "a =\nb = \"\"",
            "1:4: string values must be quoted, expected literal string | fix: write a value after the ="
                .to_owned(),
        ),
        (
            "a = \"ü\" x",
            format!("1:9: unexpected key or value, expected newline, `#` | {line}"),
        ),
        (
            "a = \"x",
            "1:7: invalid basic string, expected `\"` | fix: close the text with \" on the same line"
                .to_owned(),
        ),
        (
            "a = \"\"\"x\ny",
            format!("2:2: invalid multi-line basic string, expected `\"` | {open}"),
        ),
        (
            "a",
            format!("1:2: key with no value, expected `=` | {assign}"),
        ),
        (
            "\u{feff}a",
            format!("1:2: key with no value, expected `=` | {assign}"),
        ),
        (
            "a \"x\"\nb = 1",
            format!("1:3: key with no value, expected `=` | {assign}"),
        ),
        (
            "ä = 1",
            format!("1:1: invalid unquoted key, expected letters, numbers, `-`, `_` | {line}"),
        ),
        (
            "a = \"\"\rb",
            format!("1:8: carriage return must be followed by newline, expected newline | {line}"),
        ),
        (
            "a = \"x\"\na = \"y\"",
            format!("2:1: duplicate key \"a\" | {twice}"),
        ),
        (
            "'a' = \"x\"\n\"a\" = \"y\"",
            format!("2:1: duplicate key \"a\" | {twice}"),
        ),
        (
            "a = \"ü\"\r\nb = \"y\"\r\n b = \"z\"\r\n",
            format!("3:2: duplicate key \"b\" | {twice}"),
        ),
        ("[t]\n[t]", format!("2:2: duplicate key \"t\" | {twice}")),
        (
            "s = []\n[[s]]\n",
            format!("2:3: duplicate key \"s\" | {twice}"),
        ),
        (
            "a = \"x\"\na.b = 2",
            format!("2:1: cannot extend value of type string with a dotted key \"a\" | {twice}"),
        ),
        ("[t\nb = 1", format!("1:3: unclosed table, expected `]` | {line}")),
        (
            "a = { x = \"\"\n",
            format!("1:13: unclosed inline table, expected `}}` | {open}"),
        ),
        (
            "c = [\n\"x\",\n",
            format!("2:5: unclosed array, expected `]` | {open}"),
        ),
        (
            "c = [\n\"x\"\nd = 1\n",
            format!("3:1: missing comma between array elements, expected `,` | {comma}"),
        ),
        (
            "c = [\"x\"\n[[d]]\n",
            format!("2:1: missing comma between array elements, expected `,` | {comma}"),
        ),
    ];
    let found = cases
        .each_ref()
        .map(|(text, _)| (*text, syntax_error(text)));
    assert_eq!(found, cases);
}

/// Spellings of other formats and of word processors.
#[test]
fn a_foreign_spelling_is_reported_with_the_one_of_toml() {
    let switch = "fix: write true or false; a text is written between double quotes";
    let straight =
        "fix: write straight quotation marks, \"…\", in the place of the typographic ones";
    let semicolon = "fix: remove the semicolon: a line of TOML ends without one";
    let cases = [
        (
            "a = 1\n\na = [\"x]\nb = 1",
            "3:1: a text is not closed on its line | fix: close the text with \" on the same line"
                .to_owned(),
        ),
        (
            "a = [\"x, \"y\"]\n",
            "1:11: missing comma between array elements, expected `,` | fix: close the text with \" on the same line"
                .to_owned(),
        ),
        (
            "a = True",
            format!("1:5: invalid boolean, expected `true` | {switch}"),
        ),
        (
            "a = { b = no, c = 1 }",
            format!("1:11: invalid float, expected `nan` | {switch}"),
        ),
        (
            "a = [no.example.com]",
            "1:6: invalid float, expected `nan` | fix: put the text between double quotes".to_owned(),
        ),
        (
            "a = “x”",
            format!("1:5: string values must be quoted, expected literal string | {straight}"),
        ),
        (
            "a = [„x“]",
            format!("1:6: string values must be quoted, expected literal string | {straight}"),
        ),
        (
            "a = \"x\";\nb = 1",
            format!("1:8: unexpected key or value, expected newline, `#` | {semicolon}"),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(syntax_error(text), expected, "{text}");
    }
}

#[test]
fn no_syntax_error_repeats_the_line() {
    for text in [
        "a = hunter2",
        "a = \"hunter2",
        "hunter2",
        "a = \"\" hunter2",
        "[hunter2",
        "a = 2020-99-99T",
        "a = \"hunter2\"\nb = hunter2 = 1",
    ] {
        let shown = syntax_error(text);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn bytes_that_are_not_utf_8_are_rejected_with_their_position() {
    assert!(Document::parse("x", "\"ä\" = 1".as_bytes()).is_ok());
    let problems = Document::parse("x", b"a = 1\n\xc3\xa4\xff").unwrap_err();
    let place = problems.errors().next().unwrap().place;
    assert_eq!(
        place,
        Some(Position {
            file: 0,
            line: 2,
            column: 2
        })
    );
    assert!(Document::parse("x", b"\xff\xfe[\0").is_err());
}

proptest! {
    #[test]
    fn positions_agree_with_counting(text in "(\\PC|\n|ä|😀){0,700}", at: prop::sample::Index) {
        let boundaries: Vec<_> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let offset = *at.get(&boundaries);
        let before = text.get(..offset).unwrap();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
        prop_assume!(!text.starts_with('\u{feff}'));
        prop_assert_eq!(position(&text, offset), (line, column));
    }
}
