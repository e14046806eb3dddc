//! Answers that come before the request has: `100 Continue`, refusals of uploads, and bodies that are too large.

use std::time::{Duration, Instant};

use crate::support::client::StreamEnd;
use crate::support::faulty_upstream::{Fault, FaultyUpstream};
use crate::support::h2::{self, H2Client, block_on};
use crate::support::proxy::directory;
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, exchange, pattern,
};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";
const MIB: usize = 1 << 20;

#[test]
fn continue_comes_after_the_login() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    let expecting = |ask: TestRequest| ask.header("Expect", "100-continue").body("body");
    client.send(expecting(TestRequest::alice("PATCH", UPLOAD)).head());
    assert_eq!(client.read_head().unwrap().status, 100);
    client.send("body");
    let answer = client.read_response("PATCH");
    assert_eq!((answer.status, answer.interim.len()), (200, 0));
    let seen = registry.only_request();
    assert!(seen.all("expect").is_empty());
    assert_eq!(seen.body, b"body");
}

#[test]
fn bad_credentials_get_no_continue() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for ask in [
        TestRequest::new("PATCH", UPLOAD),
        TestRequest::new("PATCH", UPLOAD).basic_auth(b"alice:no"),
    ] {
        let mut client = Client::connect(&proxy);
        client.send(ask.header("Expect", "100-continue").body("body").head());
        let answer = client.read_response("PATCH");
        answer.assert_rejection(401, "UNAUTHORIZED");
        assert!(answer.interim.is_empty());
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn other_expectations_are_refused() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let request = TestRequest::alice("PATCH", UPLOAD)
            .header("expect", "tea")
            .body("body");
        exchange(&proxy, http, &request).assert_rejection(417, "UNSUPPORTED");
        let nobody = TestRequest::new("PATCH", UPLOAD)
            .header("expect", "tea")
            .body("body");
        exchange(&proxy, http, &nobody).assert_rejection(401, "UNAUTHORIZED");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_refusal_is_read_by_a_client_that_still_sends() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("", "max_body = \"1MiB\""));
    let bytes = pattern(32 * MIB);
    let (known, nobody) = (
        TestRequest::alice("PATCH", UPLOAD),
        TestRequest::new("PATCH", UPLOAD),
    );
    for (request, status, code) in [(nobody, 401, "UNAUTHORIZED"), (known, 413, "SIZE_INVALID")] {
        for is_chunked in [false, true] {
            let mut request = request.clone().body(bytes.clone());
            request.is_chunked = is_chunked;
            let (head, body) = (request.head(), request.framed_body());
            for _ in 0..3 {
                let mut client = Client::connect(&proxy);
                client.send(&head);
                client.try_send(&body).expect("a gate that goes on reading");
                let answer = client.read_response("PATCH");
                answer.assert_rejection(status, code);
                assert_eq!(answer.header("connection"), "close");
                assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
            }
            for _ in 0..3 {
                exchange(&proxy, HttpVersion::Http2, &request).assert_rejection(status, code);
            }
        }
    }
    let whole = |seen: &crate::support::RecordedRequest| seen.end == RequestEnd::Whole;
    assert!(!registry.requests().iter().any(whole));
}

/// What is announced; as much of it is sent as the gate lets through.
const ANNOUNCED: usize = 1 << 30;
/// What a client sends before it reads: more than the gate reads on its way to a refusal, so that there are unread
/// bytes which a plain close would answer with a reset.
const BLIND: usize = MIB / 2;

/// An upload that ends in a refusal, and the gate that refuses it.
pub(crate) struct Refused {
    pub(crate) status: u16,
    code: &'static str,
    pub(crate) request: TestRequest,
    pub(crate) proxy: Proxy,
}

pub(crate) fn refused(registry: &Registry) -> Vec<Refused> {
    const READER: &str =
        "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n";
    let known = || TestRequest::alice("PATCH", UPLOAD);
    let wrong = |password: &str| {
        TestRequest::new("PATCH", UPLOAD).basic_auth(format!("alice:{password}").as_bytes())
    };
    let case = |status, code, request, (top, route): (&str, &str)| Refused {
        status,
        code,
        request,
        proxy: Proxy::start(registry, config(top, route)),
    };
    let form = known().header("Content-Type", "application/x-www-form-urlencoded");
    let busy = "[limits]\nupstream_connections = 1\nupstream_queue = 1\nupstream_wait = \"20ms\"\n";
    let cases = vec![
        case(
            401,
            "UNAUTHORIZED",
            TestRequest::new("PATCH", UPLOAD),
            ("", ""),
        ),
        case(403, "DENIED", known(), ("", READER)),
        case(413, "SIZE_INVALID", known(), ("", "max_body = \"64KiB\"")),
        case(415, "UNSUPPORTED", form, ("", "")),
        case(
            429,
            "TOOMANYREQUESTS",
            wrong("another"),
            ("[throttle]\nguesses = 1\n", ""),
        ),
        case(503, "UNAVAILABLE", known(), (busy, "")),
    ];
    exchange(&cases[4].proxy, HttpVersion::Http1, &wrong("one"))
        .assert_rejection(401, "UNAUTHORIZED");
    cases
}

/// In three framings each.
const TRIES: usize = 34;

fn read_late(case: &Refused, length: &str, [bytes, chunks]: [&[u8]; 2], tries: usize) {
    let known = case.request.clone().header("Content-Length", length);
    let unknown = case.request.clone().chunked();
    for _ in 0..tries {
        for (request, body) in [(&known, bytes), (&unknown, chunks)] {
            let mut client = Client::connect(&case.proxy);
            client.send(request.head());
            client.try_send(body).expect("a gate that goes on reading");
            let answer = client.read_response("PATCH");
            answer.assert_rejection(case.status, case.code);
            assert_eq!(answer.header("connection"), "close");
            assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
        }
    }
    block_on(async {
        let requests = (0..tries).map(|number| [&known, &unknown][number % 2].clone());
        for answer in send_blindly(&case.proxy, requests.collect(), bytes).await {
            answer.assert_rejection(case.status, case.code);
        }
    });
}

/// On the streams of one connection; none is read from before the proxy has stopped it.
async fn send_blindly(
    proxy: &Proxy,
    requests: Vec<TestRequest>,
    bytes: &[u8],
) -> Vec<TestResponse> {
    let mut client = H2Client::connect(proxy).await;
    let mut streams = Vec::new();
    for mut request in requests {
        request.is_chunked = true;
        let (response, mut sender) = client.start_request(&request).await.unwrap();
        let bytes = bytes.to_vec();
        streams.push(tokio::spawn(async move {
            // Until the proxy stops it, which it must.
            while h2::send(&mut sender, &bytes, false).await.is_ok() {}
            h2::collect(response.await.unwrap()).await
        }));
    }
    let mut answers = Vec::new();
    for stream in streams {
        answers.push(stream.await.unwrap());
    }
    answers
}

#[test]
fn every_refusal_is_read_by_a_client_that_sends_a_gibibyte_and_reads_late() {
    // Busy with a download, it takes nothing else.
    let registry = Registry::start(|exchange| {
        if exchange.head.method == "GET" {
            return exchange.wait_closed();
        }
        exchange.body();
    });
    let cases = refused(&registry);
    let mut holder = Client::connect(&cases[5].proxy);
    holder.send(TestRequest::alice("GET", "/v2/").head());
    registry.wait_for_requests(|seen| seen.len() == 1);
    let length = ANNOUNCED.to_string();
    let bytes = pattern(BLIND);
    let chunks: Vec<u8> = bytes.chunks(64 * 1024).flat_map(chunk).collect();
    std::thread::scope(|scope| {
        for case in &cases {
            // One who guesses waits a second for each refusal.
            let hands = if case.status == 429 { 17 } else { 1 };
            let (bytes, chunks, length) = (&bytes, &chunks, &length);
            for _ in 0..hands {
                scope.spawn(move || read_late(case, length, [bytes, chunks], TRIES / hands));
            }
        }
    });
    drop(holder);
    for seen in
        registry.wait_for_requests(|seen| seen.iter().all(|seen| seen.end == RequestEnd::Broken))
    {
        // Of a body of unknown length as much as is allowed is under way before it is too long.
        assert!(
            seen.method == "GET" || seen.body.len() <= 64 * 1024,
            "{}",
            seen.body.len()
        );
    }
    let known = registry
        .requests()
        .iter()
        .any(|seen| seen.method == "PATCH" && !seen.all("content-length").is_empty());
    assert!(!known, "a body that was announced as too long was sent on");
}

#[test]
fn a_gibibyte_may_be_sent_against_a_refusal() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    let request = TestRequest::new("PATCH", UPLOAD).header("Content-Length", ANNOUNCED.to_string());
    client.send(request.head());
    let (piece, began) = (pattern(MIB), Instant::now());
    for _ in 0..ANNOUNCED / MIB {
        client
            .try_send(&piece)
            .expect("a gate that goes on reading");
    }
    println!("{:?}", began.elapsed());
    client
        .read_response("PATCH")
        .assert_rejection(401, "UNAUTHORIZED");
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert!(registry.requests().is_empty());
}

#[test]
fn an_early_answer_of_the_upstream_is_read_by_a_client_that_reads_late() {
    let upstream = FaultyUpstream::always(Fault::Early(
        "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n\r\nearly".into(),
    ));
    let proxy = Proxy::start_in(directory(), &upstream.url(), config("", ""));
    let bytes = pattern(BLIND);
    let chunks: Vec<u8> = bytes.chunks(64 * 1024).flat_map(chunk).collect();
    let known = TestRequest::alice("PATCH", UPLOAD).header("Content-Length", ANNOUNCED.to_string());
    let unknown = TestRequest::alice("PATCH", UPLOAD).chunked();
    for _ in 0..33 {
        for (request, body) in [(&known, &bytes), (&unknown, &chunks)] {
            let mut client = Client::connect(&proxy);
            client.send(request.head());
            client.try_send(body).expect("a gate that goes on reading");
            let answer = client.read_response("PATCH");
            assert_eq!((answer.status, answer.text().as_str()), (413, "early"));
            assert_eq!(answer.header("connection"), "close");
            assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
        }
    }
    block_on(async {
        for answer in send_blindly(&proxy, vec![unknown; 34], &bytes).await {
            assert_eq!((answer.status, answer.text().as_str()), (413, "early"));
        }
    });
    let arrivals = upstream.requests();
    assert_eq!(arrivals.len(), 100);
    let mut connections: Vec<_> = arrivals.iter().map(|seen| seen.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 100, "a spoilt connection was used again");
}

#[test]
fn the_end_of_a_refusal_is_seen_at_once() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    client.send(TestRequest::new("PATCH", UPLOAD).chunked().head());
    client.send(chunk(b"some, and more to come"));
    let began = Instant::now();
    client
        .read_response("PATCH")
        .assert_rejection(401, "UNAUTHORIZED");
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn what_follows_a_refusal_is_no_request() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let hidden = TestRequest::alice("GET", "/v2/secret/tags/list").head();
    let mut client = Client::connect(&proxy);
    client.send(
        TestRequest::new("PATCH", UPLOAD)
            .body(hidden.clone())
            .head(),
    );
    let _ = client.try_send(&hidden);
    client
        .read_response("PATCH")
        .assert_rejection(401, "UNAUTHORIZED");
    // The body was never taken for a request; whether the connection goes on is open.
    let _ = client.try_send(TestRequest::new("GET", "/v2/").head());
    if let Ok(answer) = client.try_read_response("GET") {
        answer.assert_rejection(401, "UNAUTHORIZED");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_body_is_as_large_as_the_route_allows() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("", "max_body = \"64KiB\""));
    for http in HttpVersion::BOTH {
        for is_chunked in [false, true] {
            let mut request = TestRequest::alice("PATCH", UPLOAD).body(pattern(64 * 1024));
            request.is_chunked = is_chunked;
            assert_eq!(exchange(&proxy, http, &request).status, 200);
            assert_eq!(registry.requests().pop().unwrap().body.len(), 64 * 1024);
            request.body = Some(pattern(64 * 1024 + 1));
            let before = registry.requests().len();
            exchange(&proxy, http, &request).assert_rejection(413, "SIZE_INVALID");
            if is_chunked {
                let seen = registry.wait_for_requests(|seen| {
                    seen.len() == before || seen[before].end != RequestEnd::NotYet
                });
                assert!(
                    seen.iter()
                        .skip(before)
                        .all(|seen| seen.end == RequestEnd::Broken)
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
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for is_chunked in [false, true] {
            let mut request = TestRequest::alice("PATCH", UPLOAD).body(pattern(8 * MIB));
            request.is_chunked = is_chunked;
            let answer = exchange(&proxy, http, &request);
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (404, "gone"),
                "{http:?}"
            );
            assert!(answer.is_whole);
        }
    }
}
