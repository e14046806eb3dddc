//! Whole files: one with many errors, texts that are no configuration, and the time that large texts take.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::parse;

#[test]
fn every_wrong_value_of_a_file_is_reported_in_one_run() {
    let text = include_str!("tests/wrong.toml");
    let crlf = text.replace('\n', "\r\n");
    for text in [text, &crlf] {
        let (_, problems) = parse(Path::new("/etc/tidegate/proxy.toml"), text.as_bytes());
        let shown = format!("{problems}{}\n", problems.summary());
        assert_eq!(shown, include_str!("tests/wrong.txt"), "{shown}");
    }
}

#[test]
fn the_smallest_file_has_no_problem() {
    let text = r#"
[listen]
https = ["[::]:443"]

[[site]]
hosts = ["docker.example.com"]
tls = { cert = "fullchain.pem", key = "privkey.pem" }

[[site.route]]
path = "/v2/"
upstream = "http://127.0.0.1:5000"
auth = { mode = "basic", htpasswd = "htpasswd", realm = "Registry realm" }
"#;
    assert_eq!(lines(text), [""; 0]);
}

/// The first lines of all problems.
fn lines(text: &str) -> Vec<String> {
    let (_, problems) = parse(Path::new("x.toml"), text.as_bytes());
    let shown = problems.sorted().into_iter();
    shown
        .map(|problem| problem.to_string().lines().next().unwrap().to_owned())
        .collect()
}

/// The problems of a text, and the processor time of this thread, which other processes do not influence.
fn timed(text: &str) -> (Vec<String>, Duration) {
    let thread_time = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap()
    };
    let before = thread_time();
    let problems = lines(text);
    (problems, thread_time() - before)
}

/// If the time grew with the square of the length, each text would take minutes.
const MAX_TIME: Duration = Duration::from_secs(20);

#[test]
fn large_texts_that_are_no_configuration_are_rejected_in_time() {
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
        "[site]\nq=1\n",
        "\"\"\"",
        "# c\n",
        "a=1,",
        "1=1\n",
        "[[site]]\nhosts=99\nzz=1\n",
    ];
    let sizes = units.map(|unit| (unit, 1 << 17));
    for (unit, bytes) in sizes.into_iter().chain([("a\n", 1 << 20)]) {
        let text = unit.repeat(bytes / unit.len());
        let (problems, time) = timed(&text);
        assert!(time < MAX_TIME, "{unit:?} took {time:?}");
        assert!(
            problems.len() <= 300,
            "{unit:?} has {} problems",
            problems.len()
        );
    }
    let keys: String = (0..100_000).map(|key| format!("k{key}=1,")).collect();
    let names: String = (0..100_000).map(|_| "\"ä\",").collect();
    let text = format!("site = [{{{keys} hosts=[99]}}]\ngroups = {{ a = [{names}] }}\n");
    let (problems, time) = timed(&text);
    assert!(time < MAX_TIME, "{time:?}");
    assert_eq!(
        problems.len(),
        25,
        "20 unknown keys, their number, hosts, and the missing listen, tls and route"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_panics(text in "(\\PC|\n|\t){0,200}") {
        let _ = lines(&text);
    }

    #[test]
    fn no_text_of_toml_tokens_panics(parts in prop::collection::vec(prop::sample::select(PARTS), 0..30)) {
        let text = parts.concat();
        for problem in lines(&text) {
            let line: usize = problem.split(':').next().unwrap().parse().unwrap();
            prop_assert!(line <= text.matches('\n').count() + 1, "{problem}");
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse(Path::new("x"), &bytes);
    }
}

const PARTS: &[&str] = &[
    "a",
    "site",
    "limits",
    "idle",
    "hosts",
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
    "[limits]\n",
    "[[site]]\n",
    "[[site.route]]\n",
    "drain = 1\n",
    "hosts = [\n",
    "site.tls = {",
];
