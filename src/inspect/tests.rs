//! Registries of all kinds before and beside a gate.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;

use super::*;
use crate::config;
use crate::snapshot::Purpose;

/// Answers every connection with this status, at this address.
fn registry(address: &str, status: &'static str) -> u16 {
    let socket = TcpListener::bind(address).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
        }
    });
    port
}

fn built(upstream: &str, auth: &str) -> (tempfile::TempDir, Config, Snapshot) {
    let dir = tempfile::tempdir().unwrap();
    let line = "alice:$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n";
    std::fs::write(dir.path().join("htpasswd"), line).unwrap();
    let text = format!(
        "[listen]\nhttps = [\"127.0.0.1:0\"]\n[[site]]\nhosts = [\"docker.example.com\"]\ntls = \"self-signed\"\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"{upstream}\"\nauth = {{ {auth} }}\n"
    );
    let file = dir.path().join("proxy.toml");
    let (config, mut problems) = config::parse(&file, text.as_bytes());
    let config = config.unwrap_or_else(|| panic!("{problems}"));
    let snapshot = Snapshot::build(&config, None, Purpose::Check, &mut problems);
    let snapshot = snapshot.unwrap_or_else(|| panic!("{problems}"));
    (dir, config, snapshot)
}

const BASIC: &str = "mode = \"basic\", htpasswd = \"htpasswd\", realm = \"r\"";
const UPSTREAM: &str = "mode = \"upstream\"";

async fn judged(upstream: &str, auth: &str) -> (Vec<String>, Problems) {
    let (_dir, config, snapshot) = built(upstream, auth);
    let mut problems = Problems::new(Path::new("proxy.toml"));
    let facts = run(&config, &snapshot, &mut problems).await;
    (facts, problems)
}

#[tokio::test]
async fn what_a_registry_says_is_held_against_the_mode() {
    for (status, auth, is_error, words) in [
        ("200 OK", BASIC, false, ""),
        ("401 Unauthorized", BASIC, false, "password of its own"),
        ("404 Not Found", BASIC, false, "404"),
        ("200 OK", UPSTREAM, true, "anyone may push"),
        ("401 Unauthorized", UPSTREAM, false, ""),
    ] {
        let port = registry("127.0.0.1:0", status);
        let (facts, problems) = judged(&format!("http://127.0.0.1:{port}"), auth).await;
        assert_eq!(problems.has_errors(), is_error, "{problems}");
        assert_eq!(
            problems.is_empty(),
            words.is_empty(),
            "{status}: {problems}"
        );
        assert!(
            problems.to_string().contains(words),
            "{words} in {problems}"
        );
        assert!(facts[0].contains("days"), "{facts:?}");
        assert_eq!(facts.len(), 1 + usize::from(words.is_empty()), "{facts:?}");
    }
}

#[tokio::test]
async fn one_that_does_not_answer_is_an_error_at_its_place() {
    // Bound and not listening: no other test's listener gets this port.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = deaf.local_addr().unwrap().port();
    let (_, problems) = judged(&format!("http://127.0.0.1:{port}"), BASIC).await;
    let said = problems.to_string();
    assert!(problems.has_errors(), "{said}");
    for words in ["proxy.toml:8", "cannot connect", "correct the address"] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[tokio::test]
async fn a_registry_that_others_reach_past_the_gate_is_an_error() {
    // 127.0.0.2 stands for an address that others reach: it is one of its own, and needs no network here.
    let other = ["127.0.0.2".parse().unwrap()];
    for (address, status, count) in [
        ("0.0.0.0:0", "200 OK", 1),
        ("0.0.0.0:0", "401 Unauthorized", 0),
        ("127.0.0.1:0", "200 OK", 0),
    ] {
        let port = registry(address, status);
        let (_dir, config, snapshot) = built(&format!("http://127.0.0.1:{port}"), BASIC);
        let subjects = subjects(&config, &snapshot);
        let found = subjects[0].exposures(&other).await;
        assert_eq!(found.len(), count, "{address} {status}: {found:?}");
        if count > 0 {
            let mut problems = Problems::new(Path::new("proxy.toml"));
            problems.push(found.into_iter().next().unwrap());
            let said = problems.to_string();
            assert!(
                problems.has_errors() && said.contains("127.0.0.2"),
                "{said}"
            );
            assert!(said.contains("past the gate"), "{said}");
        }
    }
}
