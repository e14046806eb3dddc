//! Syntax errors: all of them, at their places, and what is still read behind them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// `line:column: what` of everything, after `read` has asked for what it wants.
fn problems_of(text: &str, read: impl FnOnce(&Table<'_>)) -> Vec<String> {
    let document = Document::parse("x.toml", text, &[]);
    read(&document.root());
    let problems = document.into_problems();
    let shown = problems.sorted().into_iter();
    shown
        .map(|problem| problem.to_string().lines().next().unwrap().to_owned())
        .collect()
}

/// Strings `a`, `b`, `c` and tables `s` with a required `name` and an `n` of at most 9.
fn ask(root: &Table<'_>) {
    for key in ["a", "b", "c"] {
        root.string(key);
    }
    for table in root.tables("s") {
        table.required("name", "name = \"x\"").string("name");
        table.integer::<u16>("n", 0..=9);
    }
}

fn check(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        let shown = problems_of(text, ask);
        let shown: Vec<_> = shown
            .iter()
            .map(|line| line.replace("error: ", ""))
            .collect();
        assert_eq!(&shown, expected, "{text}");
    }
}

#[test]
fn an_empty_file_is_fine() {
    for text in ["", "\n", "# nothing\r\n", "\u{feff}", "\u{feff}a = \"x\""] {
        assert_eq!(problems_of(text, ask), [""; 0], "{text:?}");
    }
}

#[test]
fn syntax_errors_at_their_places() {
    check(&[
        ("a = x", &["1:5: string values must be quoted"]),
        ("a =\nb = \"\"", &["1:4: string values must be quoted"]),
        (
            "a = \"ü\" x",
            &["1:9: unexpected key or value, expected newline, `#`"],
        ),
        ("a = \"x", &["1:7: invalid basic string, expected `\"`"]),
        (
            "a = \"\"\"x\ny",
            &["2:2: invalid multi-line basic string, expected `\"`"],
        ),
        ("a", &["1:2: key with no value, expected `=`"]),
        ("\u{feff}a", &["1:2: key with no value, expected `=`"]),
        (
            "ä = 1",
            &["1:1: invalid unquoted key, expected letters, numbers, `-`, `_`"],
        ),
        (
            "a = \"\"\rb",
            &["1:8: carriage return must be followed by newline, expected newline"],
        ),
    ]);
}

#[test]
fn duplicates_are_named() {
    check(&[
        ("a = \"x\"\na = \"y\"", &["2:1: duplicate key \"a\""]),
        ("'a' = \"x\"\n\"a\" = \"y\"", &["2:1: duplicate key \"a\""]),
        (
            "a = \"ü\"\r\nb = \"y\"\r\n b = \"z\"\r\n",
            &["3:2: duplicate key \"b\""],
        ),
        ("[t]\n[t]", &["2:2: duplicate key \"t\""]),
        ("s = []\n[[s]]\n", &["2:3: duplicate key \"s\""]),
        (
            "a = \"x\"\na.b = 2",
            &["2:1: cannot extend value of type string with a dotted key"],
        ),
    ]);
}

#[test]
fn reads_on_behind_a_key_without_a_value() {
    check(&[
        (
            "a \"x\"\nb = 1\nc = y\nd = 1\n[[s]]\nname = \"\"\nn = 77\n",
            &[
                "1:3: key with no value, expected `=`",
                "2:5: b: expected a string, found 1",
                "3:5: string values must be quoted",
                "4:1: unknown key \"d\"",
                "7:5: s.n: expected a whole number from 0 to 9, found 77",
            ],
        ),
        (
            "a [\n\"x\"\n]\r\nb = true\n",
            &[
                "1:3: key with no value, expected `=`",
                "2:4: key with no value, expected `=`",
                "3:1: missing table open, expected `[`",
                "4:5: b: expected a string, found a boolean",
            ],
        ),
        // The text over two lines would be cut in halves, so the rest stays unread.
        (
            "a \"\"\"\nx\"\"\"\nb = 1",
            &["1:3: key with no value, expected `=`"],
        ),
    ]);
}

#[test]
fn a_bad_header_takes_only_its_section_with_it() {
    let found = "n: expected a whole number from 0 to 9, found 77";
    check(&[
        (
            "[t\nzz = 1\n[[s]]\nn = 77\nname = \"\"\n[[s]]\nn = x\n",
            &[
                "1:3: unclosed table, expected `]`",
                &format!("4:5: s.{found}"),
                "7:5: string values must be quoted",
            ],
        ),
        (
            "[[s]]\nn = 1\nname = \"\"\n[[s\nn = 77\nn = 5\n[[s]]\nzz = 1\n",
            &[
                "4:4: unclosed array table, expected `]]`",
                "8:1: unknown key \"zz\" in s",
            ],
        ),
        (
            "t]\nb = true\n[[s]\nn = 77\n[[s]]\nn = 77\nname = 1",
            &[
                "1:2: key with no value, expected `=`",
                "3:5: unclosed array table, expected `]`",
                &format!("6:5: s.{found}"),
                "7:8: s.name: expected a string, found 1",
            ],
        ),
        (
            "[]\n[a.]\nb = 1",
            &[
                "1:2: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`",
                "2:4: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`",
            ],
        ),
    ]);
}

#[test]
fn what_is_not_closed_says_where_the_text_ended() {
    check(&[
        (
            "a = { x = \"\"\n",
            &["1:13: unclosed inline table, expected `}`"],
        ),
        (
            "b = true\nc = [\n\"x\",\n",
            &[
                "1:5: b: expected a string, found a boolean",
                "2:5: c: expected a string, found a list",
                "3:5: unclosed array, expected `]`",
            ],
        ),
    ]);
}

#[test]
fn missing_is_only_what_stands_nowhere_in_a_faulty_text() {
    check(&[
        ("[[s]]\nn = 1", &["1:1: missing key \"name\" in s"]),
        (
            "[[s]]\nn = 1\nn = 2",
            &["1:1: missing key \"name\" in s", "3:1: duplicate key \"n\""],
        ),
        (
            "[[s]]\nname \"x\"",
            &["2:6: key with no value, expected `=`"],
        ),
        (
            "[[s]]\nn = 1\n[t\nname = 1",
            &["3:3: unclosed table, expected `]`"],
        ),
    ]);
    let document = Document::parse("x", "a = x", &[]);
    assert!(!document.is_whole());
    assert!(Document::parse("x", "a = 1", &[]).is_whole());
}

#[test]
fn a_line_with_a_syntax_error_has_no_other_problem() {
    let document = Document::parse("x", "a = x\nb = 1\n", &[]);
    document.report(Problem::error(
        Position { line: 1, column: 9 },
        "first line",
    ));
    document.report(Problem::error(
        Position { line: 2, column: 1 },
        "second line",
    ));
    document.report(Problem::warning(None, "whole file"));
    let problems = document.into_problems();
    let said: Vec<_> = problems.sorted().iter().map(|p| p.what.clone()).collect();
    assert_eq!(
        said,
        ["whole file", "string values must be quoted", "second line"]
    );
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
    ] {
        let document = Document::parse("x", text, &[]);
        let shown = document.into_problems().to_string();
        assert!(
            shown.contains("error") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}

#[test]
fn bytes_are_utf_8_or_have_a_place() {
    assert_eq!(decode("ä = 1".as_bytes()), Ok("ä = 1"));
    let problem = decode(b"a = 1\n\xc3\xa4\xff").unwrap_err();
    assert_eq!(problem.place, Some(Position { line: 2, column: 2 }));
    assert!(decode(b"\xff\xfe[\0").is_err());
}

/// With what this thread took of the processor: whatever else runs, it is the same.
fn timed(text: &str) -> (Vec<String>, Duration) {
    let own_time = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap()
    };
    let before = own_time();
    let problems = problems_of(text, ask);
    (problems, own_time() - before)
}

const ENOUGH: Duration = Duration::from_secs(20);

/// The time grows with the text; with its square, each would take minutes.
#[test]
fn a_megabyte_of_garbage_is_refused_in_time() {
    let units = [
        "[",
        "]",
        "{",
        "\"",
        "'",
        "\0",
        "=",
        ",",
        ".",
        "\n",
        "\r",
        "a=\"\n",
        "a=[",
        "a={",
        "a.",
        "[a]\n",
        "[[a]]\n",
        "[a\n",
        "a]\n",
        "a\n",
        "a=x\n",
        "ä",
        "\u{1b}[0m",
        "x y\n",
        "[s]\nq=1\n",
        "\"\"\"",
        "# c\n",
        "a=1,",
        "1=1\n",
        "[[s]]\nn=99\nzz=1\n",
    ];
    let sizes = units.map(|unit| (unit, 1 << 17));
    for (unit, bytes) in sizes.into_iter().chain([("a\n", 1 << 20)]) {
        let text = unit.repeat(bytes / unit.len());
        let (problems, took) = timed(&text);
        assert!(took < ENOUGH, "{unit:?} took {took:?}");
        assert!(
            problems.len() <= 300,
            "{unit:?} has {} problems",
            problems.len()
        );
    }
    let keys: String = (0..100_000).map(|key| format!("k{key}=1,")).collect();
    let names: String = (0..100_000).map(|_| "\"ä\",").collect();
    let text = format!("s = [{{{keys} n=99}}]\nb = [{names}]\n");
    let (problems, took) = timed(&text);
    assert!(took < ENOUGH, "{took:?}");
    assert_eq!(
        problems.len(),
        24,
        "20 unknown keys, the others, name, n, b"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_panics(text in "(\\PC|\n|\t){0,200}") {
        let _ = problems_of(&text, ask);
    }

    #[test]
    fn nothing_like_toml_panics(parts in prop::collection::vec(prop::sample::select(PARTS), 0..30)) {
        let text = parts.concat();
        for problem in problems_of(&text, ask) {
            let line: usize = problem.split(':').next().unwrap().parse().unwrap();
            prop_assert!(line <= text.matches('\n').count() + 1, "{problem}");
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(text) = decode(&bytes) {
            let _ = problems_of(text, ask);
        }
    }
}

const PARTS: &[&str] = &[
    "a",
    "b",
    "s",
    "name",
    "n",
    " = ",
    "=",
    ".",
    ",",
    "\n",
    "\n",
    "\r\n",
    "\r",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "\"x\"",
    "1",
    "-1",
    "0x",
    "1979-05-27",
    "07:32",
    "1e9",
    "inf",
    "true",
    "#",
    "\\",
    "\\u00",
    "ü",
    "\u{feff}",
    "\0",
    "[s]\n",
    "[[s]]\n",
    "n = 1\n",
    "a = [\n",
    "s.a = {",
];
