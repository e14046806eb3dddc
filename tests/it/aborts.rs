//! Aborted transfers: if one side aborts, the other side notices at once and never takes the abort for a complete message.
//! The proxy never sends a request twice that is not safe to repeat.

use std::collections::HashSet;
use std::net::Shutdown;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::faulty_upstream::{Close, Fault, FaultyUpstream, UpstreamRequest};
use crate::support::h2::{self, H2Client, block_on};
use crate::support::proxy::directory;
use crate::support::request::chunk;
use crate::support::{
    Client, HttpVersion, OK, Proxy, TestRequest, TestResponse, config, exchange, pattern, ping,
};

const MANIFEST: &str = "/v2/a/manifests/x";
const UPLOAD: &str = "/v2/a/blobs/uploads/u";
/// How soon the upstream must notice that the client has disconnected.
const SOON: Duration = Duration::from_secs(1);

fn start_proxy(upstream: &FaultyUpstream) -> Proxy {
    Proxy::start_in(directory(), &upstream.url(), config("", ""))
}

/// A request that is incomplete or without a response when its client disconnects: the header section, the first bytes of
/// the body, and a check that the upstream has received them.
type PartialRequest = (TestRequest, Vec<u8>, fn(&UpstreamRequest) -> bool);

fn partial_requests() -> Vec<PartialRequest> {
    let has_some = |request: &UpstreamRequest| request.body == 4;
    let is_whole = |request: &UpstreamRequest| request.is_whole;
    let mut length = TestRequest::alice("PATCH", UPLOAD);
    length = length.header("Content-Length", "99");
    vec![
        (length, b"some".to_vec(), has_some),
        (
            TestRequest::alice("PATCH", UPLOAD).chunked(),
            chunk(b"some"),
            has_some,
        ),
        // The request is complete, and the upstream has not responded yet.
        (
            TestRequest::alice("PATCH", UPLOAD).chunked(),
            [chunk(b"some"), b"0\r\n\r\n".to_vec()].concat(),
            is_whole,
        ),
        (TestRequest::alice("GET", MANIFEST), Vec::new(), is_whole),
    ]
}

#[track_caller]
fn assert_aborted(upstream: &FaultyUpstream, disconnected_at: Instant, was_whole: bool) {
    let requests = upstream.wait_for_requests(|seen| seen.last().unwrap().closed.is_some());
    let last = requests.last().unwrap();
    let took = last
        .closed
        .unwrap()
        .saturating_duration_since(disconnected_at);
    assert!(took < SOON, "{took:?} {last:?}");
    assert_eq!(last.is_whole, was_whole, "{last:?}");
}

/// Asserts that each request had a connection of its own.
#[track_caller]
fn assert_own_connections(requests: &[UpstreamRequest]) {
    let connections: HashSet<_> = requests.iter().map(|seen| seen.connection).collect();
    assert_eq!(
        connections.len(),
        requests.len(),
        "a connection was used again"
    );
}

#[test]
fn a_client_disconnect_closes_the_upstream_connection_within_a_second() {
    let upstream = FaultyUpstream::always(Fault::Silent);
    let proxy = start_proxy(&upstream);
    for (request, body, has_arrived) in partial_requests() {
        let was_whole = !body.ends_with(b"some") && !body.ends_with(b"some\r\n");
        for is_reset in [false, true] {
            let count = upstream.requests().len();
            let mut client = Client::connect(&proxy);
            client.send(request.head());
            client.send(&body);
            upstream.wait_for_requests(|seen| seen.len() > count && has_arrived(&seen[count]));
            let disconnected_at = Instant::now();
            if is_reset {
                SockRef::from(&client.socket)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            } else {
                client.socket.shutdown(Shutdown::Both).unwrap();
            }
            drop(client);
            assert_aborted(&upstream, disconnected_at, was_whole);
        }
    }
    assert_own_connections(&upstream.requests());
}

#[test]
fn an_http2_reset_or_disconnect_closes_the_upstream_connection_within_a_second() {
    let upstream = FaultyUpstream::always(Fault::Silent);
    let proxy = start_proxy(&upstream);
    for (request, body, has_arrived) in partial_requests() {
        let is_whole = body.ends_with(b"0\r\n\r\n");
        let was_whole = is_whole || body.is_empty();
        for is_connection in [false, true] {
            let count = upstream.requests().len();
            let disconnected_at = block_on(async {
                let mut client = H2Client::connect(&proxy).await;
                let mut request = request.clone();
                request.is_chunked |= request.method == "PATCH";
                let (response, mut sender) = client.start_request(&request).await.unwrap();
                if !body.is_empty() {
                    h2::send(&mut sender, b"some", is_whole).await.unwrap();
                }
                h2::wait_until(|| {
                    let seen = upstream.requests();
                    seen.len() > count && has_arrived(&seen[count])
                })
                .await;
                let disconnected_at = Instant::now();
                if is_connection {
                    client.connection.abort();
                } else {
                    sender.send_reset(::h2::Reason::CANCEL);
                    drop(response);
                    client.exchange(&TestRequest::new("GET", "/v2/")).await;
                }
                disconnected_at
            });
            assert_aborted(&upstream, disconnected_at, was_whole);
        }
    }
    assert_own_connections(&upstream.requests());
}

/// A response in each framing: the name of the framing, the bytes, and whether a client can detect that the body was cut by
/// a FIN.
fn framed_responses(body: &[u8]) -> Vec<(&'static str, Vec<u8>, bool)> {
    let head = "HTTP/1.1 200 OK\r\n";
    let length = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    let chunks: Vec<u8> = body
        .chunks(body.len().div_ceil(3))
        .flat_map(chunk)
        .collect();
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    vec![
        ("length", [length.as_bytes(), body].concat(), true),
        (
            "chunked",
            [chunked.as_bytes(), &chunks, b"0\r\n\r\n"].concat(),
            true,
        ),
        ("close", [head.as_bytes(), b"\r\n", body].concat(), false),
    ]
}

/// An upstream that sends a response of `framed_responses` and cuts it as the tag says, such as `length-17-Rst`.
fn cutting_upstream(body: Vec<u8>) -> FaultyUpstream {
    FaultyUpstream::start(move |request| {
        let Some(words) = request.target.strip_prefix("/v2/a/manifests/") else {
            return Fault::Respond(OK.into());
        };
        let words: Vec<_> = words.split('-').collect();
        let all = framed_responses(&body);
        let (_, response_bytes, _) = all.iter().find(|(name, ..)| *name == words[0]).unwrap();
        let close = match words[2] {
            "Rst" => Close::Rst,
            _ => Close::Fin,
        };
        Fault::Cut(response_bytes.clone(), words[1].parse().unwrap(), close)
    })
}

#[track_caller]
fn assert_no_clean_end(response: &TestResponse, body: &[u8], target: &str) {
    if response.status == 502 {
        response.assert_rejection(502, "UNAVAILABLE");
    } else {
        assert_eq!(response.status, 200, "{target}");
        assert!(
            !response.is_whole,
            "{target} ended like a complete response"
        );
        assert!(body.starts_with(&response.body), "{target}");
    }
}

fn assert_every_cut_is_detected(body: &[u8], step: usize) {
    let upstream = cutting_upstream(body.to_vec());
    let proxy = start_proxy(&upstream);
    let mut targets = Vec::new();
    for (name, response_bytes, is_detectable) in framed_responses(body) {
        let head = response_bytes
            .windows(4)
            .position(|part| part == b"\r\n\r\n")
            .unwrap()
            + 4;
        for at in (0..response_bytes.len())
            .step_by(step)
            .chain([head, response_bytes.len() - 1])
        {
            for close in [Close::Fin, Close::Rst] {
                if is_detectable || close == Close::Rst || at < head {
                    targets.push(format!("/v2/a/manifests/{name}-{at}-{close:?}"));
                }
            }
        }
    }
    for target in &targets {
        let response = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", target),
        );
        assert_no_clean_end(&response, body, target);
    }
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        for target in &targets {
            let response = client.exchange(&TestRequest::alice("GET", target)).await;
            assert_no_clean_end(&response, body, target);
        }
    });
    let requests = upstream.requests();
    assert_eq!(
        requests.len(),
        2 * targets.len(),
        "each target was requested once"
    );
    assert_own_connections(&requests);
}

#[test]
fn a_response_cut_at_any_byte_is_a_broken_transfer() {
    assert_every_cut_is_detected(b"the body of the answer", 1);
}

#[test]
fn a_large_response_cut_anywhere_is_a_broken_transfer() {
    assert_every_cut_is_detected(&pattern(400_000), 49_999);
}

#[test]
fn an_upstream_that_closes_during_an_upload_is_a_502() {
    for (bytes, close) in [
        (0, Close::Fin),
        (0, Close::Rst),
        (1, Close::Fin),
        (1 << 16, Close::Rst),
        (1 << 20, Close::Fin),
        ((4 << 20) - 1, Close::Rst),
    ] {
        let upstream = FaultyUpstream::always(Fault::CloseDuringBody(bytes, close));
        let proxy = start_proxy(&upstream);
        for http in HttpVersion::BOTH {
            for is_chunked in [false, true] {
                let mut request = TestRequest::alice("PATCH", UPLOAD).body(pattern(4 << 20));
                request.is_chunked = is_chunked;
                println!("{bytes} {close:?} {http:?} {is_chunked}");
                exchange(&proxy, http, &request).assert_rejection(502, "UNAVAILABLE");
            }
        }
        assert_eq!(upstream.requests().len(), 4, "no request is repeated");
    }
}

#[test]
fn only_a_get_or_head_without_body_is_repeated_after_a_reset() {
    for http in HttpVersion::BOTH {
        for (method, target, repeated) in [
            ("GET", MANIFEST, true),
            ("HEAD", MANIFEST, true),
            ("POST", "/v2/a/blobs/uploads/", false),
            ("PATCH", UPLOAD, false),
            ("PUT", MANIFEST, false),
            ("DELETE", MANIFEST, false),
        ] {
            let known = Mutex::new(HashSet::new());
            let upstream = FaultyUpstream::start(move |request| {
                if known.lock().unwrap().insert(request.connection) {
                    Fault::Respond(OK.into())
                } else {
                    Fault::CloseDuringBody(usize::MAX, Close::Rst)
                }
            });
            let text = config("", "").lines("workers", "workers = 1");
            let proxy = Proxy::start_in(directory(), &upstream.url(), &text);
            assert_eq!(ping(&proxy, http), 200);
            let mut request = TestRequest::alice(method, target);
            if matches!(method, "PATCH" | "PUT" | "POST") {
                request = request.body("body");
            }
            let response = exchange(&proxy, http, &request);
            let requests = upstream.requests();
            let times = requests.iter().filter(|seen| seen.target == target).count();
            println!("{http:?} {method} {requests:?}");
            assert_eq!(
                response.status,
                if repeated { 200 } else { 502 },
                "{method}"
            );
            assert_eq!(times, if repeated { 2 } else { 1 }, "{method}");
        }
    }
}

#[test]
fn no_unsafe_request_is_repeated_after_the_upstream_closes_an_idle_connection() {
    let upstream = FaultyUpstream::always(Fault::CloseIdle(OK.into()));
    let proxy = start_proxy(&upstream);
    let mut client = Client::connect(&proxy);
    for number in 0..100 {
        let method = ["GET", "PUT", "PATCH", "DELETE"][number % 4];
        let target = if method == "PATCH" { UPLOAD } else { MANIFEST };
        let mut request = TestRequest::alice(method, target);
        if matches!(method, "PUT" | "PATCH") {
            request = request.body("body");
        }
        let response = client.exchange(&request);
        // The FIN may cross the request. Then the client gets 502, and the proxy does not repeat the request.
        let is_rejected = response.status == 502 && method != "GET";
        assert!(
            response.status == 200 || is_rejected,
            "{method}: {response:?}"
        );
    }
    let ids: Vec<_> = upstream
        .requests()
        .into_iter()
        .filter(|seen| seen.method != "GET")
        .map(|seen| seen.id)
        .collect();
    let distinct: HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "a request was sent twice");
}

#[test]
fn a_slow_upstream_is_no_timeout_while_it_makes_progress() {
    let response_bytes = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe body";
    let slow = Fault::Slow(response_bytes.into(), 5, Duration::from_millis(60));
    let upstream = FaultyUpstream::always(slow);
    let upstream_line = "upstream = { urls = [\"{upstream}\"], read_timeout = \"1s\" }";
    let limits = "[limits]\nbody_idle = \"300ms\"\nwrite_idle = \"300ms\"\nidle = \"300ms\"\n";
    let text = config(limits, "").lines("upstream", upstream_line);
    let proxy = Proxy::start_in(directory(), &upstream.url(), &text);
    for http in HttpVersion::BOTH {
        let response = exchange(
            &proxy,
            http,
            &TestRequest::alice("PATCH", UPLOAD).body("some body to read slowly"),
        );
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "the body")
        );
        assert!(response.is_whole);
    }
}
