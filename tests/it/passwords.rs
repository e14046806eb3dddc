//! Password files: users of every supported hash format can log in, and an unusable line affects only its user.

use std::fs;

use tidegate::server::Server;

use crate::support::h2::{H2Client, block_on, collect};
use crate::support::proxy::{ALICE, directory};
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, assert_contains, config, exchange,
};

#[test]
fn a_user_of_each_hash_format_can_log_in() {
    let registry = Registry::accepting_all();
    let users = [
        ("apr1", "password", "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb."),
        ("md5", "password", "$1$salt$qJH7.N4xYta3aEG/dfqo/0"),
        ("des", "password", "sa3tHJ3/KuYvI"),
        ("sha", "password", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="),
        ("ssha", "password", "{SSHA}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0"),
        (
            "sha256",
            "pw",
            "$5$saltsalt$0rl.MZtoLLPP3X0Rdl8riRnphIcAXJY27/aOAyK2hB5",
        ),
        (
            "sha512",
            "Hello world!",
            "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
        ),
        (
            "b2y",
            "myPassword",
            "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC",
        ),
        (
            "b2a",
            "U*U",
            "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        ),
        (
            "b2b",
            "U*U",
            "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        ),
    ];
    let lines: Vec<_> = users
        .iter()
        .map(|(user, _, hash)| format!("{user}:{hash}\n"))
        .collect();
    let proxy = start_with_users(&registry, lines.concat());
    for (user, password, _) in users {
        assert_eq!(login(&proxy, user, password), 200, "{user}");
        assert_eq!(login(&proxy, user, "Password"), 401, "{user}");
        assert_eq!(login(&proxy, user, ""), 401, "{user}");
    }
    // DES crypt ignores everything after the eighth character; the other formats do not.
    assert_eq!(login(&proxy, "des", "passwordEXTRA"), 200);
    assert_eq!(login(&proxy, "md5", "passwordEXTRA"), 401);
}

#[test]
fn an_unusable_line_affects_only_its_user() {
    let registry = Registry::accepting_all();
    let hash = "$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u";
    let file = format!(
        "# people\n\n{ALICE}no colon at all\n:{hash}\nplain:secret\nempty:\nlocked:*0\n\
         dear:$2y$31$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n\
         odd:$2x$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n\
         readable:{{PLAIN}}secret\nalien:$9$abc\ncut:$2y$04$CCCC\n\
         commented:{hash}:a comment\r\ncr:{hash}\r\n lead:{hash}\nlast:{hash}"
    );
    let proxy = start_with_users(&registry, file);
    for user in ["alice", "commented", "cr", " lead", "last"] {
        assert_eq!(login(&proxy, user, "pw"), 200, "{user:?}");
    }
    for user in [
        "plain", "empty", "locked", "dear", "odd", "readable", "alien", "cut", "lead", "no",
    ] {
        for password in ["pw", "secret", "", "password", "*0"] {
            assert_eq!(login(&proxy, user, password), 401, "{user:?} {password:?}");
        }
    }
}

#[test]
fn the_first_line_of_a_user_counts() {
    let registry = Registry::accepting_all();
    let second = bcrypt::hash("second", 4).unwrap();
    let proxy = start_with_users(&registry, format!("{ALICE}alice:{second}\n"));
    assert_eq!(login(&proxy, "alice", "pw"), 200);
    assert_eq!(login(&proxy, "alice", "second"), 401);
}

#[test]
fn a_byte_order_mark_does_not_hide_the_first_user() {
    let registry = Registry::accepting_all();
    let proxy = start_with_users(&registry, format!("\u{feff}{ALICE}"));
    assert_eq!(login(&proxy, "alice", "pw"), 200);
    assert_eq!(login(&proxy, "\u{feff}alice", "pw"), 401);
}

#[test]
fn with_an_empty_file_every_login_fails() {
    let registry = Registry::accepting_all();
    for file in ["", "# nobody\n", "\n\n"] {
        let proxy = start_with_users(&registry, file);
        assert_eq!(login(&proxy, "alice", "pw"), 401);
        assert_eq!(login(&proxy, "", ""), 401);
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_missing_file_makes_the_start_fail() {
    let registry = Registry::accepting_all();
    for kind in ["missing", "directory"] {
        let dir = directory();
        let path = dir.path().join("htpasswd");
        fs::remove_file(&path).unwrap();
        if kind == "directory" {
            fs::create_dir(&path).unwrap();
        }
        let result = Proxy::try_start(dir, &registry.url(), config("", ""));
        let problems = result.err().expect("the start fails").to_string();
        assert!(problems.contains(path.to_str().unwrap()), "{problems}");
    }
}

#[test]
fn problems_name_the_lines_but_never_the_hashes() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let hash = "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.";
    let text = format!("{ALICE}weak:{hash}\nplain:hunter2secret\nalice:{hash}\n");
    fs::write(dir.path().join("htpasswd"), text).unwrap();
    let config = config("", "").upstream(&registry.url());
    let file = dir.path().join("proxy.toml");
    fs::write(&file, config.to_string()).unwrap();
    let (_server, problems) = Server::open(&file).unwrap();
    let problems = problems.to_string();
    assert_contains(
        &problems,
        &[
            "line 2",
            "\"weak\"",
            "line 3",
            "\"plain\"",
            "line 4",
            "\"alice\"",
        ],
    );
    for secret in ["Xxd1irWT9ycqoYxGFn4cb", "hunter2secret", "31NqtHBKsx"] {
        assert!(!problems.contains(secret), "{problems}");
    }
}

fn start_with_users(registry: &Registry, users: impl AsRef<[u8]>) -> Proxy {
    let dir = directory();
    fs::write(dir.path().join("htpasswd"), users).unwrap();
    // These tests send more wrong passwords than the default allows.
    let config = config("[throttle]\nguesses = 0\n", "");
    Proxy::start_in(dir, &registry.url(), &config)
}

fn login(proxy: &Proxy, user: &str, password: &str) -> u16 {
    let credentials = format!("{user}:{password}");
    exchange(
        proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/v2/").basic_auth(credentials.as_bytes()),
    )
    .status
}

/// A directory whose only user, alice, has the password "pw" with a costly hash. One check takes about 0.2 s.
fn directory_with_costly_hash() -> tempfile::TempDir {
    let dir = directory();
    let hash = bcrypt::hash("pw", 12).unwrap();
    fs::write(dir.path().join("htpasswd"), format!("alice:{hash}\n")).unwrap();
    dir
}

#[test]
fn a_thousand_concurrent_pings_cost_one_password_check() {
    let registry = Registry::accepting_all();
    // All pings continue at the same moment after the check, which is more than the default queue of the upstream holds.
    let limits = "[limits]\nupstream_queue = 1000\n";
    let proxy = Proxy::start_in(
        directory_with_costly_hash(),
        &registry.url(),
        config(limits, ""),
    );
    let began = std::time::Instant::now();
    block_on(async {
        let mut clients = Vec::new();
        let mut pending_responses = Vec::new();
        for _ in 0..10 {
            let mut client = H2Client::connect(&proxy).await;
            for _ in 0..100 {
                pending_responses.push(
                    client
                        .start_request(&TestRequest::alice("GET", "/v2/"))
                        .await
                        .unwrap()
                        .0,
                );
            }
            clients.push(client);
        }
        for pending_response in pending_responses {
            let response = collect(pending_response.await.unwrap()).await;
            assert_eq!(response.status, 200, "{}", response.text());
        }
    });
    // docker ends a ping after 15 s. One check for each request would take minutes.
    assert!(
        began.elapsed() < std::time::Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn checks_at_capacity_do_not_affect_cached_or_anonymous_clients() {
    let registry = Registry::accepting_all();
    let limits = "[limits]\nhash_threads = 1\nhash_queue = 1\n";
    let proxy = Proxy::start_in(
        directory_with_costly_hash(),
        &registry.url(),
        config(limits, ""),
    );
    let mut alice = Client::connect(&proxy);
    assert_eq!(alice.ping(), 200);
    block_on(async {
        let mut guesser = H2Client::connect(&proxy).await;
        let mut guesses = Vec::new();
        for number in 0..20 {
            let guess =
                TestRequest::new("GET", "/v2/").basic_auth(format!("alice:{number}").as_bytes());
            guesses.push(guesser.start_request(&guess).await.unwrap().0);
        }
        // The proxy reads the frames in order, so this response shows that all guesses have arrived.
        guesser
            .exchange(&TestRequest::new("GET", "/v2/"))
            .await
            .assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(alice.ping(), 200);
        exchange(&proxy, HttpVersion::Http1, &TestRequest::new("GET", "/v2/"))
            .assert_rejection(401, "UNAUTHORIZED");
        let mut busy = 0;
        for guess in guesses {
            let response = collect(guess.await.unwrap()).await;
            if response.status == 503 {
                response.assert_rejection(503, "UNAVAILABLE");
                assert!(response.header("retry-after").parse::<u32>().is_ok());
                busy += 1;
            } else {
                response.assert_rejection(401, "UNAUTHORIZED");
            }
        }
        assert!(busy > 0, "twenty checks fitted a queue of one");
    });
}
