//! `tidegate check --live`: its words and exit codes, by the executable itself.

use std::io::Write as _;
use std::process::{Output, Stdio};

use crate::binary::{Gate, command, configured, run, text};
use crate::listeners::kept_port;
use crate::support::proxy::TestConfig;
use crate::support::registry::refusing_address;
use crate::support::{Registry, config};

#[test]
fn all_is_well_or_it_is_said_what_is_not() {
    let registry = Registry::accepting_all().recording_health_checks();
    let (_dir, file) = configured(config("", "").upstream(&registry.url()));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    for words in [
        "localhost: the certificate fits its key and is valid until ",
        &format!("{} responds as a registry does", registry.url()),
        "the configuration is good",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    let asked = registry.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].all("authorization").is_empty());

    let away = format!("http://{}", refusing_address());
    let (_dir, file) = configured(config("", "").upstream(&away));
    // Without a look around nobody is asked.
    assert_eq!(run(&["check", "-c", &file]).status.code(), Some(0));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    for words in [
        "proxy.toml:12:",
        "no response",
        &away,
        "nothing listens there",
        "the live check found problems",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[test]
fn a_registry_without_users_behind_a_gate_that_asks_nobody_is_an_error() {
    let registry = Registry::accepting_all();
    let text_of = config("", "").upstream(&registry.url());
    let open = text_of.set("auth", "{ mode = \"upstream\" }");
    let (_dir, file) = configured(&open);
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("anyone may push"), "{said}");
}

#[test]
fn a_configuration_that_is_refused_is_not_looked_around() {
    let (_dir, file) = configured("nonsense");
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    // A push is a look around, and a question about rights is none.
    let both = [
        "check", "--push", "a", "--who", "alice", "--may", "pull", "a",
    ];
    assert_eq!(run(&both).status.code(), Some(2));
}

/// Takes uploads of one blob, and gives back what it took; uploads go on at this place.
fn storing(location: &'static str) -> Registry {
    let stored = std::sync::Mutex::new(Vec::new());
    Registry::start(move |exchange| {
        let method = exchange.head.method.clone();
        let body = exchange.body();
        let mut stored = stored.lock().unwrap();
        match method.as_str() {
            "POST" => exchange.send(format!(
                "HTTP/1.1 202 Accepted\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            )),
            "PUT" => {
                *stored = body;
                exchange.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
            }
            _ => {
                let length = stored.len();
                exchange.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                ));
                exchange.send(&*stored);
            }
        }
    })
}

/// A push is a look around as well, so `--live` is not needed.
fn push(file: &str, user: &[&str], password: &str) -> Output {
    let mut words = vec!["check", "--push", "team/app", "-c", file];
    words.extend(user);
    let mut command = command(&words);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // Who is not asked for a password reads none.
    let _ = writeln!(child.stdin.take().unwrap(), "{password}");
    child.wait_with_output().unwrap()
}

const AS_ALICE: [&str; 3] = ["--user", "alice", "--stdin"];

#[test]
fn a_blob_goes_through_the_gate_and_back() {
    let registry = storing("/v2/team/app/blobs/uploads/u?_state=x");
    let (port, _kept) = kept_port();
    let basic = config("", "").https(format_args!("127.0.0.1:{port}"));
    let token = config("[state]\ndir = \"{dir}\"\n", "")
        .https(format_args!("127.0.0.1:{port}"))
        .mode("token");
    for text_of in [basic, token] {
        let text_of = text_of.upstream(&registry.url());
        let (dir, file) = configured(&text_of);
        let folder = dir.path().to_str().unwrap();
        std::fs::write(&file, text_of.in_dir(folder)).unwrap();
        let _gate = Gate::start(&file);
        let output = push(&file, &AS_ALICE, "pw");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = text(&output.stdout);
        let there = format!("localhost:{port}/team/app at 127.0.0.1:{port}: a blob of 29 bytes");
        for words in [&there, "was pushed and pulled", "left in team/app: sha256:"] {
            assert!(said.contains(words), "{words} in {said}");
        }
        assert!(said.contains("responds as a registry does"), "{said}");
        // No password, and a wrong one.
        let verify = format!("tidegate htpasswd verify {folder}/htpasswd alice");
        for (user, password, words) in [
            (&[][..], "", ["requires a password", "--user NAME"]),
            (&AS_ALICE[..], "a-wrong-one", ["wrong password", &verify]),
        ] {
            let output = push(&file, user, password);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let said = text(&output.stderr);
            for words in words.iter().chain(&["401"]) {
                assert!(said.contains(words), "{words} in {said}");
            }
            assert!(!said.contains("a-wrong-one"), "{said}");
            assert!(!said.contains("of its own"), "{said}");
        }
    }
}

#[test]
fn an_upload_that_goes_on_elsewhere_is_told() {
    let registry = storing("http://registry.internal:5000/v2/team/app/blobs/uploads/u");
    let (port, _kept) = kept_port();
    let text_of = config("", "").https(format_args!("127.0.0.1:{port}"));
    let (_dir, file) = configured(text_of.upstream(&registry.url()));
    let gate = Gate::start(&file);
    let output = push(&file, &AS_ALICE, "pw");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    for words in ["http://registry.internal:5000", "internal_origins"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    drop(gate);
    let nobody = push(&file, &AS_ALICE, "pw");
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    assert!(text(&nobody.stderr).contains("is the proxy running?"));
}

#[test]
fn whoever_else_holds_the_port_gets_no_password() {
    let registry = storing("/v2/team/app/blobs/uploads/u").recording_health_checks();
    let (port, _kept) = kept_port();
    let text_of = config("", "").https(format_args!("127.0.0.1:{port}"));
    let text_of = text_of.upstream(&registry.url());
    let (_other, others) = configured(&text_of);
    let _gate = Gate::start(&others);
    // The same, with a certificate of its own.
    let (_dir, file) = configured(&text_of);
    let output = push(&file, &AS_ALICE, "pw");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("another certificate"), "{said}");
    let asked = registry.requests();
    let kinds: Vec<_> = asked.iter().map(|asked| asked.method.as_str()).collect();
    // By the command, and perhaps by the proxy that holds the port.
    assert!(
        !kinds.is_empty() && kinds.iter().all(|kind| *kind == "GET"),
        "{kinds:?}"
    );
}

/// A configuration on a port that is kept for it.
fn on_kept_port(top: &str, route: &str, registry: &Registry) -> (TestConfig, socket2::Socket) {
    let (port, kept) = kept_port();
    let text_of = config(top, route).https(format_args!("127.0.0.1:{port}"));
    (text_of.upstream(&registry.url()), kept)
}

#[track_caller]
fn assert_fails(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    for words in words {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[test]
fn a_missing_right_is_no_fault_of_the_registry() {
    let registry = storing("/v2/team/app/blobs/uploads/u");
    let grant =
        "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"team/*\"]\nactions = [\"pull\"]";
    for mode in ["basic", "token"] {
        let (text_of, _kept) = on_kept_port("[state]\ndir = \"{dir}\"\n", grant, &registry);
        let text_of = text_of.mode(mode);
        let (dir, file) = configured(&text_of);
        let folder = dir.path().to_str().unwrap();
        std::fs::write(&file, text_of.in_dir(folder)).unwrap();
        let _gate = Gate::start(&file);
        let output = push(&file, &AS_ALICE, "pw");
        let asked = format!("tidegate check -c {file} --who alice --may push team/app");
        assert_fails(
            &output,
            &[
                "alice may not push to team/app",
                "the password is correct",
                &asked,
            ],
        );
        assert!(
            !text(&output.stderr).contains("wrong password"),
            "{output:?}"
        );
    }
    let asked = registry.requests();
    assert!(asked.iter().all(|asked| asked.method == "GET"), "{asked:?}");
}

#[test]
fn a_registry_with_passwords_of_its_own_is_told_as_such() {
    let registry = Registry::responding(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"inner\"\r\nContent-Length: 0\r\n\r\n",
    );
    let (text_of, _kept) = on_kept_port("", "", &registry);
    let (_dir, file) = configured(&text_of);
    let gate = Gate::start(&file);
    // The password is right, and it is the registry that refuses.
    let output = push(&file, &AS_ALICE, "pw");
    assert_fails(&output, &["password of its own", "mode = \"upstream\""]);
    assert!(
        !text(&output.stderr).contains("wrong password"),
        "{output:?}"
    );
    drop(gate);
    // Where the login is left to the registry, its refusal is the user's.
    let (_dir, file) = configured(text_of.set("auth", "{ mode = \"upstream\" }"));
    let _gate = Gate::start(&file);
    let output = push(&file, &AS_ALICE, "pw");
    assert_fails(
        &output,
        &["wrong password", "the registry rejects the login of alice"],
    );
}

#[test]
fn guesses_that_used_up_their_number_are_told_with_the_time_to_wait() {
    let registry = storing("/v2/team/app/blobs/uploads/u");
    let (text_of, _kept) = on_kept_port("[throttle]\nguesses = 1\n", "", &registry);
    let (_dir, file) = configured(&text_of);
    let _gate = Gate::start(&file);
    assert_fails(&push(&file, &AS_ALICE, "one"), &["wrong password"]);
    let output = push(&file, &AS_ALICE, "another");
    assert_fails(&output, &["429", "too many wrong passwords", "wait "]);
}

#[test]
fn a_proxy_with_an_older_configuration_is_told_to_reload() {
    let registry = storing("/v2/team/app/blobs/uploads/u");
    let (text_of, _kept) = on_kept_port("", "", &registry);
    let (_dir, file) = configured(&text_of);
    let _gate = Gate::start(&file);
    std::fs::write(&file, text_of.set("hosts", "[\"new.example\"]").to_string()).unwrap();
    let reload = format!("tidegate reload -c {file}");
    assert_fails(
        &push(&file, &AS_ALICE, "pw"),
        &["421", "older configuration", &reload],
    );
}

#[test]
fn another_program_on_the_port_is_told() {
    let registry = Registry::accepting_all();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
        }
    });
    let text_of = config("", "").https(format_args!("127.0.0.1:{port}"));
    let (_dir, file) = configured(text_of.upstream(&registry.url()));
    let output = push(&file, &AS_ALICE, "pw");
    assert_fails(
        &output,
        &["does not speak TLS", "another program has the port"],
    );
    // Without a push it is a warning: the configuration itself may be good.
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("does not speak TLS"), "{said}");
}

#[test]
fn a_listener_that_wants_a_proxy_header_gets_one() {
    let registry = storing("/v2/team/app/blobs/uploads/u");
    let (text_of, _kept) = on_kept_port("", "", &registry);
    let text_of = text_of.after("workers", "proxy_protocol = [\"127.0.0.0/8\"]");
    let (_dir, file) = configured(&text_of);
    let _gate = Gate::spawn(&mut command(&["serve", "-c", &file]));
    let output = push(&file, &AS_ALICE, "pw");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("serves localhost with its certificate"));
}
