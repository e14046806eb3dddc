//! Answers that come before the request has: `100 Continue`, refusals of uploads, and bodies that are too large.

use std::time::{Duration, Instant};

use crate::support::ask::chunk;
use crate::support::client::End;
use crate::support::registry::Ended;
use crate::support::{Ask, Client, Http, Proxy, Registry, ask, config, pattern};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";
const MIB: usize = 1 << 20;

#[test]
fn continue_comes_after_the_login() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    let mut client = Client::connect(&proxy);
    let expecting = |ask: Ask| ask.header("Expect", "100-continue").body("body");
    client.send(expecting(Ask::alice("PATCH", UPLOAD)).head());
    assert_eq!(client.head().unwrap().status, 100);
    client.send("body");
    let answer = client.answer("PATCH");
    assert_eq!((answer.status, answer.interim.len()), (200, 0));
    let seen = registry.only();
    assert!(seen.all("expect").is_empty());
    assert_eq!(seen.body, b"body");
}

#[test]
fn bad_credentials_get_no_continue() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    for ask in [
        Ask::new("PATCH", UPLOAD),
        Ask::new("PATCH", UPLOAD).login(b"alice:no"),
    ] {
        let mut client = Client::connect(&proxy);
        client.send(ask.header("Expect", "100-continue").body("body").head());
        let answer = client.answer("PATCH");
        answer.is_refusal(401, "UNAUTHORIZED");
        assert!(answer.interim.is_empty());
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn other_expectations_are_refused() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        let request = Ask::alice("PATCH", UPLOAD)
            .header("expect", "tea")
            .body("body");
        ask(&proxy, http, &request).is_refusal(417, "UNSUPPORTED");
        let nobody = Ask::new("PATCH", UPLOAD)
            .header("expect", "tea")
            .body("body");
        ask(&proxy, http, &nobody).is_refusal(401, "UNAUTHORIZED");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_refusal_is_read_by_a_client_that_still_sends() {
    let registry = Registry::obliging();
    let proxy = Proxy::start(&registry, &config("", "max_body = \"1MiB\""));
    let bytes = pattern(32 * MIB);
    let (known, nobody) = (Ask::alice("PATCH", UPLOAD), Ask::new("PATCH", UPLOAD));
    for (request, status, code) in [(nobody, 401, "UNAUTHORIZED"), (known, 413, "SIZE_INVALID")] {
        for is_chunked in [false, true] {
            let mut request = request.clone().body(bytes.clone());
            request.is_chunked = is_chunked;
            let (head, body) = (request.head(), request.framed_body());
            for _ in 0..20 {
                let mut client = Client::connect(&proxy);
                client.send(&head);
                client.try_send(&body).expect("a gate that goes on reading");
                let answer = client.answer("PATCH");
                answer.is_refusal(status, code);
                assert_eq!(answer.one("connection"), "close");
                assert_eq!(client.rest(), (Vec::new(), End::Clean));
            }
            for _ in 0..20 {
                ask(&proxy, Http::Two, &request).is_refusal(status, code);
            }
        }
    }
    let whole = |seen: &crate::support::Recorded| seen.end == Ended::Whole;
    assert!(!registry.requests().iter().any(whole));
}

#[test]
fn the_end_of_a_refusal_is_seen_at_once() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    let mut client = Client::connect(&proxy);
    client.send(Ask::new("PATCH", UPLOAD).chunked().head());
    client.send(chunk(b"some, and more to come"));
    let began = Instant::now();
    client.answer("PATCH").is_refusal(401, "UNAUTHORIZED");
    assert_eq!(client.rest(), (Vec::new(), End::Clean));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn what_follows_a_refusal_is_no_request() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    let hidden = Ask::alice("GET", "/v2/secret/tags/list").head();
    let mut client = Client::connect(&proxy);
    client.send(Ask::new("PATCH", UPLOAD).body(hidden.clone()).head());
    let _ = client.try_send(&hidden);
    client.answer("PATCH").is_refusal(401, "UNAUTHORIZED");
    // The body was never taken for a request; whether the connection goes on is open.
    let _ = client.try_send(Ask::new("GET", "/v2/").head());
    if let Ok(answer) = client.try_answer("GET") {
        answer.is_refusal(401, "UNAUTHORIZED");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_body_is_as_large_as_the_route_allows() {
    let registry = Registry::obliging();
    let proxy = Proxy::start(&registry, &config("", "max_body = \"64KiB\""));
    for http in Http::BOTH {
        for is_chunked in [false, true] {
            let mut request = Ask::alice("PATCH", UPLOAD).body(pattern(64 * 1024));
            request.is_chunked = is_chunked;
            assert_eq!(ask(&proxy, http, &request).status, 200);
            assert_eq!(registry.requests().pop().unwrap().body.len(), 64 * 1024);
            request.body = Some(pattern(64 * 1024 + 1));
            let before = registry.requests().len();
            ask(&proxy, http, &request).is_refusal(413, "SIZE_INVALID");
            if is_chunked {
                let seen =
                    registry.wait(|seen| seen.len() == before || seen[before].end != Ended::NotYet);
                assert!(
                    seen.iter()
                        .skip(before)
                        .all(|seen| seen.end == Ended::Broken)
                );
            } else {
                assert_eq!(
                    registry.requests().len(),
                    before,
                    "announced, so never sent"
                );
            }
        }
    }
}

#[test]
fn a_registry_may_answer_before_the_end_of_an_upload() {
    let registry = Registry::start(|exchange| {
        exchange.more();
        exchange.send("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone");
        exchange.close();
    });
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        for is_chunked in [false, true] {
            let mut request = Ask::alice("PATCH", UPLOAD).body(pattern(8 * MIB));
            request.is_chunked = is_chunked;
            let answer = ask(&proxy, http, &request);
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (404, "gone"),
                "{http:?}"
            );
            assert!(answer.is_whole);
        }
    }
}
