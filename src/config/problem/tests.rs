//! The order, the counts and the escapes of printed problems.

use super::*;

const fn at(line: usize, column: usize) -> Position {
    Position {
        file: 0,
        line,
        column,
    }
}

#[test]
fn problems_are_printed_with_errors_after_warnings() {
    let mut problems = Problems::new("/etc/tidegate/proxy.toml");
    problems.push(Problem::warning(at(20, 1), "late").because("reasons"));
    problems.push(
        Problem::error(at(12, 5), "unknown key \"htpaswd\" in site.route.auth")
            .because("a misspelt key would silently do nothing")
            .fix("did you mean \"htpasswd\"?"),
    );
    problems.push(Problem::error(at(12, 4), "early"));
    problems.push(Problem::error(None, "whole"));
    let shown = r#"/etc/tidegate/proxy.toml:20:1: warning: late
    why: reasons
/etc/tidegate/proxy.toml: error: whole
/etc/tidegate/proxy.toml:12:4: error: early
/etc/tidegate/proxy.toml:12:5: error: unknown key "htpaswd" in site.route.auth
    why: a misspelt key would silently do nothing
    fix: did you mean "htpasswd"?
"#;
    assert_eq!(problems.to_string(), shown);
    assert_eq!(problems.summary(), "3 errors, 1 warning");
    assert_eq!(problems.errors().count(), 3);
    assert_eq!(problems.warnings().next().unwrap().what, "late");
}

#[test]
fn the_summary_counts_errors_and_warnings() {
    let mut problems = Problems::new("x");
    assert_eq!(problems.summary(), "no problems");
    assert!(problems.is_empty() && !problems.has_errors());
    problems.push(Problem::warning(None, "a"));
    assert_eq!(problems.summary(), "1 warning");
    assert!(!problems.is_empty() && !problems.has_errors());
    problems.push(Problem::error(None, "b"));
    assert_eq!(problems.summary(), "1 error, 1 warning");
    assert!(problems.has_errors());
}

#[test]
fn errors_beyond_the_maximum_are_counted_only() {
    let mut problems = Problems::new("x");
    for _ in 0..1000 {
        problems.push(Problem::error(at(1, 1), "e"));
    }
    assert_eq!(problems.errors().count(), MAX_ERRORS_KEPT);
    assert_eq!(problems.summary(), "1000 errors");
    assert!(problems.to_string().ends_with("x: error: and 800 more\n"));
}

#[test]
fn control_characters_are_escaped() {
    let mut problems = Problems::new("a\u{1b}[2J.toml");
    problems.push(Problem::error(None, "x\ny").because("\r").fix("\u{202e}"));
    let shown = problems.to_string();
    assert_eq!(
        shown,
        "a\\u{1b}[2J.toml: error: x\\u{a}y\n    why: \\u{d}\n    fix: \\u{202e}\n"
    );
}

#[test]
fn quotes_are_escaped_and_cut() {
    let cases = [
        ("plain", "\"plain\""),
        ("ü\"\\", "\"ü\\\"\\\\\""),
        ("a\nb\u{0}", "\"a\\u{a}b\\u{0}\""),
    ];
    for (text, quoted) in cases {
        assert_eq!(quote(text), quoted);
    }
    let long = quote(&"ä".repeat(61));
    assert_eq!(long, format!("\"{}…\"", "ä".repeat(60)));
    assert!(!quote(&"ä".repeat(60)).contains('…'));
}
