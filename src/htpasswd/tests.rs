//! Tests of the grammar, of the messages for invalid lines, and of reading from disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::secret::Password;

const FIRST: &str = "$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u"; // pw
const SECOND: &str = "sa3tHJ3/KuYvI"; // password
const APR1: &str = "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb."; // password

fn can_log_in(loaded: &LoadedUsers, user: &[u8], password: &[u8]) -> bool {
    let password = Password::new(password.to_vec());
    loaded
        .users
        .find(user)
        .is_some_and(|entry| entry.verify(&password))
}

fn kinds(loaded: &LoadedUsers) -> Vec<(usize, ProblemKind)> {
    loaded
        .problems
        .iter()
        .map(|problem| (problem.line, problem.kind))
        .collect()
}

#[test]
fn comments_blanks_and_line_ends_as_nginx_reads_them() {
    let text = format!(
        "# comment: not a user\n\n#no:{FIRST}\r\n\r\n\rcr:{FIRST}\n   \n\
         plain:{FIRST}\ncrlf:{FIRST}\r\ncomment:{FIRST}:a comment: with colons\ncrlf comment:{FIRST}:note\r\nlast:{FIRST}"
    );
    let loaded = parse(text.as_bytes());
    assert_eq!(loaded.problems, []);
    for user in ["plain", "crlf", "comment", "crlf comment", "last"] {
        assert!(can_log_in(&loaded, user.as_bytes(), b"pw"), "{user}");
        assert!(!can_log_in(&loaded, user.as_bytes(), b"wrong"), "{user}");
    }
    assert_eq!(loaded.users.len(), 5);
    assert_eq!(loaded.users.find(b"plain").unwrap().line(), 7);
    assert_eq!(
        loaded.users.find(b"last").unwrap().stored(),
        FIRST.as_bytes()
    );
    for user in [
        "#no",
        "no",
        "cr",
        "\rcr",
        "# comment",
        "Plain",
        "PLAIN",
        "plain ",
        "",
    ] {
        assert!(loaded.users.find(user.as_bytes()).is_none(), "{user}");
    }
}

#[test]
fn with_an_empty_file_no_user_can_sign_in() {
    for text in ["", "\n", "\r\n", "# comment\n", "\u{feff}"] {
        let loaded = parse(text.as_bytes());
        assert!(loaded.users.is_empty());
        assert!(loaded.users.decoy().is_none());
        assert!(!can_log_in(&loaded, b"", b""));
    }
}

#[test]
fn the_first_line_of_a_user_counts() {
    let loaded = parse(format!("bob:{FIRST}\nalice:x\nbob:{SECOND}\nalice:{FIRST}\n").as_bytes());
    assert!(can_log_in(&loaded, b"bob", b"pw"));
    assert!(!can_log_in(&loaded, b"bob", b"password"));
    // An unusable first line counts too: a second line must not let the user sign in.
    assert!(!can_log_in(&loaded, b"alice", b"pw"));
    assert_eq!(
        kinds(&loaded),
        [
            (2, ProblemKind::Hash(UnusableHash::PlainText)),
            (3, ProblemKind::Duplicate { first: 1 }),
            (4, ProblemKind::Duplicate { first: 2 }),
        ]
    );
    assert_eq!(loaded.problems[1].severity(), Severity::Warning);
    assert_eq!(loaded.problems[1].user.as_deref(), Some("bob"));
}

#[test]
fn names_are_byte_strings() {
    let mut text = b"p\xe4ul:".to_vec();
    text.extend(FIRST.bytes());
    text.extend("\npäul:".bytes());
    text.extend(FIRST.bytes());
    let loaded = parse(&text);
    assert_eq!(loaded.problems, []);
    assert!(can_log_in(&loaded, b"p\xe4ul", b"pw"));
    assert!(can_log_in(&loaded, "päul".as_bytes(), b"pw"));
    assert!(loaded.users.find("pa\u{308}ul".as_bytes()).is_none());
}

#[test]
fn unusual_lines_are_accepted_with_a_warning() {
    for (text, user, remark) in [
        (
            format!("\u{feff}bob:{FIRST}"),
            "bob",
            LineWarning::ByteOrderMark,
        ),
        (format!(" lead:{FIRST}"), " lead", LineWarning::SpaceInName),
        (
            format!("trail :{FIRST}"),
            "trail ",
            LineWarning::SpaceInName,
        ),
        (format!("bob: {FIRST}"), "bob", LineWarning::SpaceAroundHash),
        (
            format!("bob:{FIRST} \t\r\n"),
            "bob",
            LineWarning::SpaceAroundHash,
        ),
        (
            format!("bob:{FIRST}\rjim:{FIRST}"),
            "bob",
            LineWarning::TextAfterReturn,
        ),
    ] {
        let loaded = parse(text.as_bytes());
        assert!(can_log_in(&loaded, user.as_bytes(), b"pw"), "{remark:?}");
        assert_eq!(kinds(&loaded), [(1, ProblemKind::Untidy(remark))]);
        assert_eq!(loaded.problems[0].severity(), Severity::Warning);
        assert_eq!(loaded.users.len(), 1);
    }
}

#[test]
fn bad_lines_are_reported_by_number_and_the_rest_loads() {
    let long = "u".repeat(256);
    let longest = "u".repeat(255);
    let huge = "h".repeat(1 << 20);
    let text = format!(
        "no colon here\n:{FIRST}\n{long}:{FIRST}\nn\0ul:{FIRST}\nnul:{FIRST}:\0\nhuge:{huge}\nempty:\n\
         locked:*0\nplain:secret\nbad:$apr1$x\ncost:{}\nyes:$y$j9T$x$y\n{longest}:{FIRST}\n",
        FIRST.replace("$04$", "$31$")
    );
    let loaded = parse(text.as_bytes());
    let found = kinds(&loaded);
    assert!(matches!(
        found[9],
        (10, ProblemKind::Hash(UnusableHash::Malformed(_)))
    ));
    let expected = [
        ProblemKind::Line(BadLine::NoColon),
        ProblemKind::Line(BadLine::EmptyUser),
        ProblemKind::Line(BadLine::LongUser),
        ProblemKind::Line(BadLine::Nul),
        ProblemKind::Line(BadLine::Nul),
        ProblemKind::Hash(UnusableHash::TooLong),
        ProblemKind::Hash(UnusableHash::Empty),
        ProblemKind::Hash(UnusableHash::Locked),
        ProblemKind::Hash(UnusableHash::PlainText),
        found[9].1,
        ProblemKind::Hash(UnusableHash::Cost { cost: 31 }),
        ProblemKind::Hash(UnusableHash::Unsupported(Scheme::Yescrypt)),
    ];
    assert_eq!(
        found,
        expected
            .into_iter()
            .enumerate()
            .map(|(n, kind)| (n + 1, kind))
            .collect::<Vec<_>>()
    );
    assert!(
        loaded
            .problems
            .iter()
            .all(|problem| problem.severity() == Severity::UserDisabled)
    );
    assert_eq!(loaded.users.len(), 1);
    assert!(can_log_in(&loaded, longest.as_bytes(), b"pw"));
    assert!(!can_log_in(&loaded, b"plain", b"secret"));
    assert!(!can_log_in(&loaded, b"empty", b""));
}

#[test]
fn weak_schemes_are_accepted_with_a_warning() {
    let md5 = "$1$salt$qJH7.N4xYta3aEG/dfqo/0";
    let loaded = parse(format!("a:{APR1}\nb:{md5}\nc:{SECOND}\nd:{FIRST}\n").as_bytes());
    assert_eq!(
        kinds(&loaded),
        [
            (1, ProblemKind::Weak(Scheme::Apr1)),
            (2, ProblemKind::Weak(Scheme::Md5)),
            (3, ProblemKind::Weak(Scheme::Des)),
        ]
    );
    for user in [b"a", b"b", b"c"] {
        assert!(can_log_in(&loaded, user, b"password"));
    }
    assert_eq!(
        loaded.problems[2].to_string(),
        "line 3, user \"c\": DES crypt is accepted, but counts only the first 8 characters of a password; \
         set the password again with tidegate htpasswd add FILE USER"
    );
    assert!(can_log_in(&loaded, b"c", b"passwordXYZ"));
}

#[test]
fn problems_are_sentences_without_secrets() {
    let secrets = [
        "C0ffee",
        "sEcret",
        "Xxd1irWT9ycqoYxGFn4cb",
        "31NqtHBKsx",
        SECOND,
    ];
    let text = format!(
        "sEcret\n:C0ffee\nplain:sEcret\nshort:$apr1$C0ffee\n{APR1}:swapped\n{FIRST}\n{{SHA}}C0ffee:bob\n\
         sha:{{SHA}}C0ffee=\nweak:{APR1}\nweak:{APR1}\n space:{FIRST}\nunknown:$C0ffee$x\n\
         nul:{FIRST}\0\n{SECOND}:bob\nlong:{}\nlocked:!$6$C0ffee\n",
        "sEcret".repeat(400)
    );
    let loaded = parse(text.as_bytes());
    assert!(loaded.problems.len() >= 15, "{:?}", loaded.problems);
    let debug = format!(
        "{loaded:?} {:?} {:?}",
        loaded.users.find(b"weak"),
        loaded.users.decoy()
    );
    for problem in &loaded.problems {
        let said = problem.to_string();
        assert!(
            said.starts_with(&format!("line {}", problem.line)),
            "{said}"
        );
        assert!(said.contains("; "), "no remedy: {said}");
        for secret in secrets {
            assert!(!said.contains(secret), "{said}");
            assert!(!debug.contains(secret), "{debug}");
        }
    }
}

#[test]
fn names_cannot_forge_log_lines() {
    let loaded = parse("ev\u{1b}[31m\ril\u{202e}\"\u{7f}:x\n".as_bytes());
    let said = loaded.problems[0].to_string();
    assert!(
        said.contains("ev\\u{1b}[31m\\ril\\u{202e}\\\"\\u{7f}"),
        "{said}"
    );
    assert!(!said.contains(char::is_control), "{said}");
}

#[test]
fn problems_are_listed_up_to_a_limit() {
    let weak = (0..MAX_LISTED + 7).map(|n| format!("u{n}:{APR1}\n"));
    let text: String = weak.chain(["last:plain\n".into()]).collect();
    let loaded = parse(text.as_bytes());
    assert_eq!(loaded.users.len(), MAX_LISTED + 7);
    assert_eq!(loaded.problems.len(), MAX_LISTED + 2);
    let disabled = &loaded.problems[MAX_LISTED];
    assert_eq!(
        (disabled.line, disabled.user.as_deref()),
        (MAX_LISTED + 8, Some("last"))
    );
    let rest = &loaded.problems[MAX_LISTED + 1];
    assert_eq!(rest.severity(), Severity::Warning);
    assert_eq!(
        rest.to_string(),
        "line 1001: 7 more warnings from here on are not listed; repair the listed ones first"
    );
}

#[test]
fn the_decoy_has_the_most_common_then_the_most_expensive_scheme() {
    let costlier = FIRST.replace("$04$", "$05$");
    for (hashes, scheme) in [
        (vec![APR1, APR1, FIRST], Scheme::Apr1),
        (vec![APR1, FIRST], Scheme::Bcrypt { cost: 4 }),
        (vec![FIRST, &costlier], Scheme::Bcrypt { cost: 5 }),
        (vec![FIRST, &costlier, FIRST], Scheme::Bcrypt { cost: 4 }),
        (vec![SECOND, "plain", "plain"], Scheme::Des),
    ] {
        let lines = hashes
            .iter()
            .enumerate()
            .map(|(n, hash)| format!("u{n}:{hash}\n"));
        let loaded = parse(lines.collect::<String>().as_bytes());
        let decoy = loaded.users.decoy().unwrap();
        assert_eq!((decoy.scheme(), decoy.line()), (scheme, 0));
        for password in ["", "pw", "password"] {
            assert!(!decoy.verify(&Password::new(password.into())));
        }
    }
}

#[test]
fn a_hundred_thousand_users_load_in_linear_time() {
    let text: String = (0..100_000).map(|n| format!("user{n}:{FIRST}\n")).collect();
    let started = own_time();
    let loaded = parse(text.as_bytes());
    let took = own_time() - started;
    assert_eq!(loaded.users.len(), 100_000);
    assert!(can_log_in(&loaded, b"user99999", b"pw"));
    // This takes a second without optimisation. Quadratic work would take minutes.
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// The processor time of this thread, which does not depend on the load of the machine.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

#[test]
fn files_are_read_and_everything_else_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let missing = load(&path).unwrap_err();
    assert!(missing.to_string().contains("users"), "{missing}");
    let remedy = missing.remedy().unwrap();
    assert!(remedy.contains("tidegate htpasswd add"), "{remedy}");

    // A key or a certificate, named by mistake.
    fs::write(&path, "Bag Attributes\n-----BEGIN PRIVATE KEY-----\nAAAA\n").unwrap();
    assert!(matches!(load(&path), Err(LoadError::Pem { .. })));

    fs::write(&path, format!("bob:{FIRST}\n")).unwrap();
    assert!(can_log_in(&load(&path).unwrap(), b"bob", b"pw"));

    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(load(&link).unwrap().users.len(), 1);

    let directory = load(dir.path()).unwrap_err();
    assert!(matches!(directory, LoadError::NotAFile { .. }));
    assert!(
        directory
            .to_string()
            .contains(&dir.path().display().to_string())
    );
    assert!(matches!(
        load(Path::new("/dev/zero")),
        Err(LoadError::NotAFile { .. })
    ));
}

#[test]
fn a_file_has_a_maximum_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let file = fs::File::create(&path).unwrap();
    let private = PermissionsExt::from_mode(0o600);
    file.set_permissions(private).unwrap();
    // A sparse file: one line of NUL bytes.
    file.set_len(MAX_FILE).unwrap();
    assert_eq!(
        kinds(&load(&path).unwrap()),
        [(1, ProblemKind::Line(BadLine::NoColon))]
    );
    file.set_len(MAX_FILE + 1).unwrap();
    assert!(matches!(load(&path), Err(LoadError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn any_bytes_parse(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        crate::fuzzing::parsers::check_htpasswd(&bytes);
    }

    #[test]
    fn any_lines_parse_and_report_their_own_numbers(text in "([a-c \r\0#]{0,3}:?(\\$2y\\$04\\$|\\$apr1\\$|[./0-9A-Z]{12}\\.)?[:\r ]?\n){0,20}") {
        crate::fuzzing::parsers::check_htpasswd(text.as_bytes());
    }

    #[test]
    fn users_that_are_written_are_found(
        users in prop::collection::hash_set("[^:\n\r#\0\u{feff} \t\x0b\x0c][^:\n\0]{0,20}", 1..8),
    ) {
        let text: String = users.iter().map(|user| format!("{user}:{FIRST}\r\n")).collect();
        let loaded = parse(text.as_bytes());
        prop_assert_eq!(loaded.users.len(), users.len());
        for user in &users {
            prop_assert_eq!(loaded.users.find(user.as_bytes()).map(Entry::stored), Some(FIRST.as_bytes()));
        }
    }
}
