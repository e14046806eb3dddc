//! `tidegate check --live`: its words and exit codes, by the executable itself.

use std::io::Write as _;
use std::process::{Output, Stdio};

use crate::binary::{Gate, command, configured, run, text};
use crate::listeners::kept_port;
use crate::support::registry::nowhere;
use crate::support::{Registry, config};

#[test]
fn all_is_well_or_it_is_said_what_is_not() {
    let registry = Registry::obliging();
    let (_dir, file) = configured(&config("", "").replace("{upstream}", &registry.url()));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    for words in [
        "localhost: the certificate fits its key and is valid until ",
        &format!("{} answers as a registry does", registry.url()),
        "the configuration is good",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    let asked = registry.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].all("authorization").is_empty());

    let away = format!("http://{}", nowhere());
    let (_dir, file) = configured(&config("", "").replace("{upstream}", &away));
    // Without a look around nobody is asked.
    assert_eq!(run(&["check", "-c", &file]).status.code(), Some(0));
    let output = run(&["check", "--live", "-c", &file]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    for words in ["proxy.toml:12:", "no answer", &away, "not all is well"] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[test]
fn a_registry_without_users_behind_a_gate_that_asks_nobody_is_an_error() {
    let registry = Registry::obliging();
    let text_of = config("", "").replace("{upstream}", &registry.url());
    let auth = text_of
        .lines()
        .find(|line| line.starts_with("auth = "))
        .unwrap();
    let open = text_of.replace(auth, "auth = { mode = \"upstream\" }");
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

fn push(file: &str, user: &[&str], password: &str) -> Output {
    let mut words = vec!["check", "--live", "--push", "team/app", "-c", file];
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
    let basic = config("", "").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let token = basic.replace("mode = \"basic\"", "mode = \"token\"");
    let token = format!("[state]\ndir = \"{{dir}}\"\n{token}");
    for text_of in [basic, token] {
        let text_of = text_of.replace("{upstream}", &registry.url());
        let (dir, file) = configured(&text_of);
        let folder = dir.path().to_str().unwrap();
        std::fs::write(&file, text_of.replace("{dir}", folder)).unwrap();
        let _gate = Gate::start(&file);
        let output = push(&file, &AS_ALICE, "pw");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = text(&output.stdout);
        let there = format!("localhost:{port}/team/app at 127.0.0.1:{port}: a blob of 29 bytes");
        for words in [&there, "was pushed and pulled", "left in team/app: sha256:"] {
            assert!(said.contains(words), "{words} in {said}");
        }
        // Nobody, and a wrong password.
        for (user, password) in [(&[][..], ""), (&AS_ALICE[..], "wrong")] {
            let output = push(&file, user, password);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let said = text(&output.stderr);
            assert!(said.contains("401") && !said.contains("wrong\n"), "{said}");
        }
    }
}

#[test]
fn an_upload_that_goes_on_elsewhere_is_told() {
    let registry = storing("http://registry.internal:5000/v2/team/app/blobs/uploads/u");
    let (port, _kept) = kept_port();
    let text_of = config("", "").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let (_dir, file) = configured(&text_of.replace("{upstream}", &registry.url()));
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
    assert!(text(&nobody.stderr).contains("does the gate run?"));
}

#[test]
fn whoever_else_holds_the_port_gets_no_password() {
    let registry = storing("/v2/team/app/blobs/uploads/u");
    let (port, _kept) = kept_port();
    let text_of = config("", "").replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
    let text_of = text_of.replace("{upstream}", &registry.url());
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
    assert_eq!(
        kinds,
        ["GET"],
        "the registry was looked at, and nothing else"
    );
}
