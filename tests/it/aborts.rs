//! Aborts are aborts: whoever goes, the other side sees it at once and never takes it for an end, and nothing that was
//! begun is sent twice.

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
    Client, HttpVersion, OK, Proxy, TestRequest, TestResponse, config, exchange, pattern,
};

const MANIFEST: &str = "/v2/a/manifests/x";
const UPLOAD: &str = "/v2/a/blobs/uploads/u";
/// How soon the upstream must see that a client has gone.
const SOON: Duration = Duration::from_secs(1);

fn before(upstream: &FaultyUpstream) -> Proxy {
    Proxy::start_in(directory(), &upstream.url(), config("", ""))
}

/// A request that is under way when its client goes: how it begins, and what the upstream must have seen by then.
type Begun = (TestRequest, Vec<u8>, fn(&UpstreamRequest) -> bool);

fn begun() -> Vec<Begun> {
    let has_some = |arrival: &UpstreamRequest| arrival.body == 4;
    let is_whole = |arrival: &UpstreamRequest| arrival.is_whole;
    let mut length = TestRequest::alice("PATCH", UPLOAD);
    length = length.header("Content-Length", "99");
    vec![
        (length, b"some".to_vec(), has_some),
        (
            TestRequest::alice("PATCH", UPLOAD).chunked(),
            chunk(b"some"),
            has_some,
        ),
        // All is sent, and the upstream has not answered yet.
        (
            TestRequest::alice("PATCH", UPLOAD).chunked(),
            [chunk(b"some"), b"0\r\n\r\n".to_vec()].concat(),
            is_whole,
        ),
        (TestRequest::alice("GET", MANIFEST), Vec::new(), is_whole),
    ]
}

#[track_caller]
fn assert_aborted(upstream: &FaultyUpstream, gone: Instant, was_whole: bool) {
    let arrivals = upstream.wait_for_requests(|seen| seen.last().unwrap().closed.is_some());
    let last = arrivals.last().unwrap();
    let took = last.closed.unwrap().saturating_duration_since(gone);
    assert!(took < SOON, "{took:?} {last:?}");
    assert_eq!(last.is_whole, was_whole, "{last:?}");
}

#[test]
fn a_client_that_goes_is_gone_for_the_upstream_within_a_second() {
    let upstream = FaultyUpstream::always(Fault::Silent);
    let proxy = before(&upstream);
    for (request, body, has_come) in begun() {
        let was_whole = !body.ends_with(b"some") && !body.ends_with(b"some\r\n");
        for is_reset in [false, true] {
            let count = upstream.requests().len();
            let mut client = Client::connect(&proxy);
            client.send(request.head());
            client.send(&body);
            upstream.wait_for_requests(|seen| seen.len() > count && has_come(&seen[count]));
            let gone = Instant::now();
            if is_reset {
                SockRef::from(&client.socket)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            } else {
                client.socket.shutdown(Shutdown::Both).unwrap();
            }
            drop(client);
            assert_aborted(&upstream, gone, was_whole);
        }
    }
    let connections: HashSet<_> = upstream
        .requests()
        .iter()
        .map(|seen| seen.connection)
        .collect();
    assert_eq!(
        connections.len(),
        upstream.requests().len(),
        "one was used again"
    );
}

#[test]
fn a_stream_that_goes_is_gone_for_the_upstream_within_a_second() {
    let upstream = FaultyUpstream::always(Fault::Silent);
    let proxy = before(&upstream);
    for (request, body, has_come) in begun() {
        let is_whole = body.ends_with(b"0\r\n\r\n");
        let was_whole = is_whole || body.is_empty();
        for is_connection in [false, true] {
            let count = upstream.requests().len();
            let gone = block_on(async {
                let mut client = H2Client::connect(&proxy).await;
                let mut request = request.clone();
                request.is_chunked |= request.method == "PATCH";
                let (response, mut sender) = client.start_request(&request).await.unwrap();
                if !body.is_empty() {
                    h2::send(&mut sender, b"some", is_whole).await.unwrap();
                }
                h2::wait_until(|| {
                    let seen = upstream.requests();
                    seen.len() > count && has_come(&seen[count])
                })
                .await;
                let gone = Instant::now();
                if is_connection {
                    client.connection.abort();
                } else {
                    sender.send_reset(::h2::Reason::CANCEL);
                    drop(response);
                    client.exchange(&TestRequest::new("GET", "/v2/")).await;
                }
                gone
            });
            assert_aborted(&upstream, gone, was_whole);
        }
    }
    let connections: HashSet<_> = upstream
        .requests()
        .iter()
        .map(|seen| seen.connection)
        .collect();
    assert_eq!(
        connections.len(),
        upstream.requests().len(),
        "one was used again"
    );
}

/// An answer in each framing: its bytes, and whether a plain close within its body shows.
fn wires(body: &[u8]) -> Vec<(&'static str, Vec<u8>, bool)> {
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

/// The upstream of `wires`, cut where the tag says: `length-17-Reset`.
fn cutting(body: Vec<u8>) -> FaultyUpstream {
    FaultyUpstream::start(move |arrival| {
        let Some(words) = arrival.target.strip_prefix("/v2/a/manifests/") else {
            return Fault::Answer(OK.into());
        };
        let words: Vec<_> = words.split('-').collect();
        let all = wires(&body);
        let (_, wire, _) = all.iter().find(|(name, ..)| *name == words[0]).unwrap();
        let close = match words[2] {
            "Reset" => Close::Reset,
            _ => Close::Plainly,
        };
        Fault::Cut(wire.clone(), words[1].parse().unwrap(), close)
    })
}

#[track_caller]
fn assert_no_clean_end(answer: &TestResponse, body: &[u8], target: &str) {
    if answer.status == 502 {
        answer.assert_rejection(502, "UNAVAILABLE");
    } else {
        assert_eq!(answer.status, 200, "{target}");
        assert!(!answer.is_whole, "{target} ended as a whole answer does");
        assert!(body.starts_with(&answer.body), "{target}");
    }
}

fn cut_everywhere(body: &[u8], step: usize) {
    let upstream = cutting(body.to_vec());
    let proxy = before(&upstream);
    let mut targets = Vec::new();
    for (name, wire, shows) in wires(body) {
        let head = wire
            .windows(4)
            .position(|part| part == b"\r\n\r\n")
            .unwrap()
            + 4;
        for at in (0..wire.len()).step_by(step).chain([head, wire.len() - 1]) {
            for close in [Close::Plainly, Close::Reset] {
                if shows || close == Close::Reset || at < head {
                    targets.push(format!("/v2/a/manifests/{name}-{at}-{close:?}"));
                }
            }
        }
    }
    for target in &targets {
        let answer = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", target),
        );
        assert_no_clean_end(&answer, body, target);
    }
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        for target in &targets {
            let answer = client.exchange(&TestRequest::alice("GET", target)).await;
            assert_no_clean_end(&answer, body, target);
        }
    });
    let arrivals = upstream.requests();
    assert_eq!(arrivals.len(), 2 * targets.len(), "each was asked for once");
    let connections: HashSet<_> = arrivals.iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), arrivals.len());
}

#[test]
fn an_answer_cut_at_any_byte_is_a_broken_transfer() {
    cut_everywhere(b"the body of the answer", 1);
}

#[test]
fn a_large_answer_cut_anywhere_is_a_broken_transfer() {
    cut_everywhere(&pattern(400_000), 49_999);
}

#[test]
fn an_upstream_that_goes_within_an_upload_is_a_bad_gateway() {
    for (bytes, close) in [
        (0, Close::Plainly),
        (0, Close::Reset),
        (1, Close::Plainly),
        (1 << 16, Close::Reset),
        (1 << 20, Close::Plainly),
        ((4 << 20) - 1, Close::Reset),
    ] {
        let upstream = FaultyUpstream::always(Fault::Leave(bytes, close));
        let proxy = before(&upstream);
        for http in HttpVersion::BOTH {
            for is_chunked in [false, true] {
                let mut request = TestRequest::alice("PATCH", UPLOAD).body(pattern(4 << 20));
                request.is_chunked = is_chunked;
                println!("{bytes} {close:?} {http:?} {is_chunked}");
                exchange(&proxy, http, &request).assert_rejection(502, "UNAVAILABLE");
            }
        }
        assert_eq!(upstream.requests().len(), 4, "nothing is repeated");
    }
}

#[test]
fn only_a_bodiless_get_or_head_goes_out_again_after_a_reset() {
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
            let upstream = FaultyUpstream::start(move |arrival| {
                if known.lock().unwrap().insert(arrival.connection) {
                    Fault::Answer(OK.into())
                } else {
                    Fault::Leave(usize::MAX, Close::Reset)
                }
            });
            let text = config("", "").lines("workers", "workers = 1");
            let proxy = Proxy::start_in(directory(), &upstream.url(), &text);
            assert_eq!(
                exchange(&proxy, http, &TestRequest::alice("GET", "/v2/")).status,
                200
            );
            let mut request = TestRequest::alice(method, target);
            if matches!(method, "PATCH" | "PUT" | "POST") {
                request = request.body("body");
            }
            let answer = exchange(&proxy, http, &request);
            let arrivals = upstream.requests();
            let times = arrivals.iter().filter(|seen| seen.target == target).count();
            println!("{http:?} {method} {arrivals:?}");
            assert_eq!(answer.status, if repeated { 200 } else { 502 }, "{method}");
            assert_eq!(times, if repeated { 2 } else { 1 }, "{method}");
        }
    }
}

#[test]
fn a_connection_that_closes_while_idle_costs_nobody_a_request() {
    let upstream = FaultyUpstream::always(Fault::CloseIdle(OK.into()));
    let proxy = before(&upstream);
    let mut client = Client::connect(&proxy);
    for number in 0..100 {
        let method = ["GET", "PUT", "PATCH", "DELETE"][number % 4];
        let target = if method == "PATCH" { UPLOAD } else { MANIFEST };
        let mut request = TestRequest::alice(method, target);
        if matches!(method, "PUT" | "PATCH") {
            request = request.body("body");
        }
        let answer = client.exchange(&request);
        // The close may cross the request: then it is told, and never repeated.
        let is_told = answer.status == 502 && method != "GET";
        assert!(answer.status == 200 || is_told, "{method}: {answer:?}");
    }
    let ids: Vec<_> = upstream
        .requests()
        .into_iter()
        .filter(|seen| seen.method != "GET")
        .map(|seen| seen.id)
        .collect();
    let distinct: HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "one was sent twice");
}

#[test]
fn a_slow_upstream_is_waited_for() {
    let wire = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nthe body";
    let slow = Fault::Slow(wire.into(), 5, Duration::from_millis(60));
    let upstream = FaultyUpstream::always(slow);
    let patient = "upstream = { urls = [\"{upstream}\"], read_timeout = \"1s\" }";
    let limits = "[limits]\nbody_idle = \"300ms\"\nwrite_idle = \"300ms\"\nidle = \"300ms\"\n";
    let text = config(limits, "").lines("upstream", patient);
    let proxy = Proxy::start_in(directory(), &upstream.url(), &text);
    for http in HttpVersion::BOTH {
        let answer = exchange(
            &proxy,
            http,
            &TestRequest::alice("PATCH", UPLOAD).body("some body to read slowly"),
        );
        assert_eq!((answer.status, answer.text().as_str()), (200, "the body"));
        assert!(answer.is_whole);
    }
}
