//! Responses before the end of the request: `100 Continue`, rejected uploads, and bodies that are too large.

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
fn a_100_continue_is_sent_after_the_login() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    let expecting = |request: TestRequest| request.header("Expect", "100-continue").body("body");
    client.send(expecting(TestRequest::alice("PATCH", UPLOAD)).head());
    assert_eq!(client.read_head().unwrap().status, 100);
    client.send("body");
    let response = client.read_response("PATCH");
    assert_eq!((response.status, response.interim.len()), (200, 0));
    let seen = registry.only_request();
    assert!(seen.all("expect").is_empty());
    assert_eq!(seen.body, b"body");
}

#[test]
fn wrong_credentials_get_401_without_100_continue() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for request in [
        TestRequest::new("PATCH", UPLOAD),
        TestRequest::new("PATCH", UPLOAD).basic_auth(b"alice:no"),
    ] {
        let mut client = Client::connect(&proxy);
        client.send(request.header("Expect", "100-continue").body("body").head());
        let response = client.read_response("PATCH");
        response.assert_rejection(401, "UNAUTHORIZED");
        assert!(response.interim.is_empty());
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn an_unknown_expectation_gets_417() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let request = TestRequest::alice("PATCH", UPLOAD)
            .header("expect", "tea")
            .body("body");
        exchange(&proxy, http, &request).assert_rejection(417, "UNSUPPORTED");
        let anonymous = TestRequest::new("PATCH", UPLOAD)
            .header("expect", "tea")
            .body("body");
        exchange(&proxy, http, &anonymous).assert_rejection(401, "UNAUTHORIZED");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_client_that_is_still_sending_can_read_the_rejection() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("", "max_body = \"1MiB\""));
    let bytes = pattern(32 * MIB);
    let (authenticated, anonymous) = (
        TestRequest::alice("PATCH", UPLOAD),
        TestRequest::new("PATCH", UPLOAD),
    );
    for (request, status, code) in [
        (anonymous, 401, "UNAUTHORIZED"),
        (authenticated, 413, "SIZE_INVALID"),
    ] {
        for is_chunked in [false, true] {
            let mut request = request.clone().body(bytes.clone());
            request.is_chunked = is_chunked;
            let (head, body) = (request.head(), request.framed_body());
            for _ in 0..3 {
                let mut client = Client::connect(&proxy);
                client.send(&head);
                client.try_send(&body).expect("the proxy keeps reading");
                let response = client.read_response("PATCH");
                response.assert_rejection(status, code);
                assert_eq!(response.header("connection"), "close");
                assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
            }
            for _ in 0..3 {
                exchange(&proxy, HttpVersion::Http2, &request).assert_rejection(status, code);
            }
        }
    }
    let is_whole = |seen: &crate::support::RecordedRequest| seen.end == RequestEnd::Whole;
    assert!(!registry.requests().iter().any(is_whole));
}

/// The announced length of a body. A test sends as much of the body as the proxy reads.
const ANNOUNCED: usize = 1 << 30;
/// How many bytes a client sends before it reads: more than the proxy reads before it sends the rejection. If the proxy
/// closed the socket with these bytes unread, the kernel would send an RST.
const SENT_BEFORE_READING: usize = MIB / 2;

/// An upload that the proxy rejects, and the proxy.
pub(crate) struct RejectedUpload {
    pub(crate) status: u16,
    code: &'static str,
    pub(crate) request: TestRequest,
    pub(crate) proxy: Proxy,
}

/// One case for each status with which the proxy rejects an upload. While the client exists, its download keeps the only
/// upstream connection of one of the proxies busy, so that uploads get 503 there.
pub(crate) fn rejected_uploads() -> (Registry, Vec<RejectedUpload>, Client) {
    let registry = Registry::start(|exchange| {
        if exchange.head.method == "GET" {
            return exchange.wait_closed();
        }
        exchange.body();
    });
    const READER: &str =
        "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n";
    let authenticated = || TestRequest::alice("PATCH", UPLOAD);
    let wrong = |password: &str| {
        TestRequest::new("PATCH", UPLOAD).basic_auth(format!("alice:{password}").as_bytes())
    };
    let case = |status, code, request, (top, route): (&str, &str)| RejectedUpload {
        status,
        code,
        request,
        proxy: Proxy::start(&registry, config(top, route)),
    };
    let form = authenticated().header("Content-Type", "application/x-www-form-urlencoded");
    let busy = "[limits]\nupstream_connections = 1\nupstream_queue = 1\nupstream_wait = \"20ms\"\n";
    let cases = vec![
        case(
            401,
            "UNAUTHORIZED",
            TestRequest::new("PATCH", UPLOAD),
            ("", ""),
        ),
        case(403, "DENIED", authenticated(), ("", READER)),
        case(
            413,
            "SIZE_INVALID",
            authenticated(),
            ("", "max_body = \"64KiB\""),
        ),
        case(415, "UNSUPPORTED", form, ("", "")),
        case(
            429,
            "TOOMANYREQUESTS",
            wrong("another"),
            ("[throttle]\nguesses = 1\n", ""),
        ),
        case(503, "UNAVAILABLE", authenticated(), (busy, "")),
    ];
    exchange(&cases[4].proxy, HttpVersion::Http1, &wrong("one"))
        .assert_rejection(401, "UNAUTHORIZED");
    let mut holder = Client::connect(&cases[5].proxy);
    holder.send(TestRequest::alice("GET", "/v2/").head());
    registry.wait_for_requests(|seen| seen.len() == 1);
    (registry, cases, holder)
}

/// The number of attempts for each framing: Content-Length, chunked and HTTP/2.
const TRIES: usize = 34;

/// Sends a part of the body before it reads the response, several times in each framing.
fn assert_late_reads_get_the_rejection(
    case: &RejectedUpload,
    length: &str,
    [bytes, chunks]: [&[u8]; 2],
    tries: usize,
) {
    let with_length = case.request.clone().header("Content-Length", length);
    let without_length = case.request.clone().chunked();
    for _ in 0..tries {
        for (request, body) in [(&with_length, bytes), (&without_length, chunks)] {
            let mut client = Client::connect(&case.proxy);
            client.send(request.head());
            client.try_send(body).expect("the proxy keeps reading");
            let response = client.read_response("PATCH");
            response.assert_rejection(case.status, case.code);
            assert_eq!(response.header("connection"), "close");
            assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
        }
    }
    block_on(async {
        let requests = (0..tries).map(|number| [&with_length, &without_length][number % 2].clone());
        for response in upload_without_reading(&case.proxy, requests.collect(), bytes).await {
            response.assert_rejection(case.status, case.code);
        }
    });
}

/// Uploads on the streams of one connection, and reads a response only after the proxy has stopped its upload.
async fn upload_without_reading(
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
            // The proxy must stop the upload with RST_STREAM.
            while h2::send(&mut sender, &bytes, false).await.is_ok() {}
            h2::collect(response.await.unwrap()).await
        }));
    }
    let mut responses = Vec::new();
    for stream in streams {
        responses.push(stream.await.unwrap());
    }
    responses
}

#[test]
fn a_client_that_sends_before_it_reads_can_read_every_rejection() {
    let (registry, cases, holder) = rejected_uploads();
    let length = ANNOUNCED.to_string();
    let bytes = pattern(SENT_BEFORE_READING);
    let chunks: Vec<u8> = bytes.chunks(64 * 1024).flat_map(chunk).collect();
    std::thread::scope(|scope| {
        for case in &cases {
            // A rejection of the guess limiter takes a second.
            let thread_count = if case.status == 429 { 17 } else { 1 };
            let (bytes, chunks, length) = (&bytes, &chunks, &length);
            for _ in 0..thread_count {
                scope.spawn(move || {
                    assert_late_reads_get_the_rejection(
                        case,
                        length,
                        [bytes, chunks],
                        TRIES / thread_count,
                    )
                });
            }
        }
    });
    drop(holder);
    for seen in
        registry.wait_for_requests(|seen| seen.iter().all(|seen| seen.end == RequestEnd::Broken))
    {
        // The proxy forwards a body of unknown length until it exceeds the limit.
        assert!(
            seen.method == "GET" || seen.body.len() <= 64 * 1024,
            "{}",
            seen.body.len()
        );
    }
    let is_forwarded = registry
        .requests()
        .iter()
        .any(|seen| seen.method == "PATCH" && !seen.all("content-length").is_empty());
    assert!(
        !is_forwarded,
        "the proxy forwarded a body whose announced length is too large"
    );
}

#[test]
fn a_client_can_send_a_gibibyte_before_it_reads_the_rejection() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    let request = TestRequest::new("PATCH", UPLOAD).header("Content-Length", ANNOUNCED.to_string());
    client.send(request.head());
    let (piece, began) = (pattern(MIB), Instant::now());
    for _ in 0..ANNOUNCED / MIB {
        client.try_send(&piece).expect("the proxy keeps reading");
    }
    println!("{:?}", began.elapsed());
    client
        .read_response("PATCH")
        .assert_rejection(401, "UNAUTHORIZED");
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert!(registry.requests().is_empty());
}

#[test]
fn a_client_that_sends_before_it_reads_can_read_an_early_response_of_the_upstream() {
    let upstream = FaultyUpstream::always(Fault::Early(
        "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n\r\nearly".into(),
    ));
    let proxy = Proxy::start_in(directory(), &upstream.url(), config("", ""));
    let bytes = pattern(SENT_BEFORE_READING);
    let chunks: Vec<u8> = bytes.chunks(64 * 1024).flat_map(chunk).collect();
    let with_length =
        TestRequest::alice("PATCH", UPLOAD).header("Content-Length", ANNOUNCED.to_string());
    let without_length = TestRequest::alice("PATCH", UPLOAD).chunked();
    for _ in 0..33 {
        for (request, body) in [(&with_length, &bytes), (&without_length, &chunks)] {
            let mut client = Client::connect(&proxy);
            client.send(request.head());
            client.try_send(body).expect("the proxy keeps reading");
            let response = client.read_response("PATCH");
            assert_eq!((response.status, response.text().as_str()), (413, "early"));
            assert_eq!(response.header("connection"), "close");
            assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
        }
    }
    block_on(async {
        for response in upload_without_reading(&proxy, vec![without_length; 34], &bytes).await {
            assert_eq!((response.status, response.text().as_str()), (413, "early"));
        }
    });
    let requests = upstream.requests();
    assert_eq!(requests.len(), 100);
    let mut connections: Vec<_> = requests.iter().map(|seen| seen.connection).collect();
    connections.dedup();
    assert_eq!(
        connections.len(),
        100,
        "the connection of an incomplete request was used again"
    );
}

#[test]
fn the_connection_closes_soon_after_a_rejection() {
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
fn the_rejected_body_is_not_parsed_as_a_request() {
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
    // The proxy may close the connection or serve the next request, but must not parse the body as a request.
    let _ = client.try_send(TestRequest::new("GET", "/v2/").head());
    if let Ok(response) = client.try_read_response("GET") {
        response.assert_rejection(401, "UNAUTHORIZED");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_body_larger_than_max_body_gets_413() {
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
                    "the announced length is too large, so that the request is not forwarded"
                );
            }
        }
    }
}

#[test]
fn an_early_response_of_the_registry_reaches_the_client() {
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
            let response = exchange(&proxy, http, &request);
            assert_eq!(
                (response.status, response.text().as_str()),
                (404, "gone"),
                "{http:?}"
            );
            assert!(response.is_whole);
        }
    }
}
