//! The registry's answers as the client gets them: status, framing and bytes, in both HTTP versions.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::support::{
    Client, HttpVersion, OK, Proxy, Registry, TestRequest, TestResponse, exchange,
};

const MANIFEST: &str = "/v2/a/manifests/x";

#[test]
fn ranges_pass_untouched() {
    let cases = [
        ("bytes=0-0", "206 Partial Content", "bytes 0-0/10", "x"),
        ("bytes=-2", "206 Partial Content", "bytes 8-9/10", "xy"),
        ("bytes=99-", "416 Range Not Satisfiable", "bytes */10", ""),
    ];
    for (range, status, content_range, body) in cases {
        let length = body.len();
        let registry = Registry::responding(format!(
            "HTTP/1.1 {status}\r\nContent-Range: {content_range}\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        let proxy = Proxy::with_defaults(&registry);
        for http in HttpVersion::BOTH {
            let answer = exchange(
                &proxy,
                http,
                &TestRequest::alice("GET", MANIFEST).header("range", range),
            );
            assert_eq!(answer.status.to_string(), status[..3]);
            assert_eq!(answer.header("content-range"), content_range);
            assert_eq!(
                (answer.header("content-length"), answer.text()),
                (&*length.to_string(), body.to_owned())
            );
            assert_eq!(registry.requests().pop().unwrap().header("range"), range);
        }
    }
}

#[test]
fn not_modified_has_no_body_and_keeps_its_tag() {
    let (one, two) = both(
        "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 77\r\n\r\n",
        "GET",
    );
    for answer in [one, two] {
        assert_eq!(
            (answer.status, answer.header("etag"), answer.body.len()),
            (304, "\"x\"", 0)
        );
        assert!(answer.is_whole);
    }
}

#[test]
fn head_keeps_the_length_and_has_no_body() {
    let (one, two) = both(
        "HTTP/1.1 200 OK\r\nContent-Length: 5368709120\r\n\r\n",
        "HEAD",
    );
    for answer in [one, two] {
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (200, "5368709120")
        );
        assert!(answer.is_whole && answer.body.is_empty());
    }
}

#[test]
fn no_content_has_no_length() {
    let (one, two) = both("HTTP/1.1 204 No Content\r\n\r\n", "DELETE");
    for answer in [one, two] {
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert!(
            answer.is_whole
                && !answer.has_header("content-length")
                && !answer.has_header("transfer-encoding")
        );
    }
}

#[test]
fn trailers_and_chunk_extensions_end_here() {
    let (one, two) = both(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3 \t; ext = 1\r\nabc\r\n0 ;x\r\nX-Trailer: 1\r\nContent-Length: 9\r\n\r\n",
        "GET",
    );
    for answer in [one, two] {
        assert_eq!((answer.text().as_str(), answer.trailers), ("abc", 0));
        assert!(answer.is_whole && !answer.has_header("x-trailer"));
        // An answer that came whole has a length; it is never the trailer's.
        assert!(!answer.has_header("content-length") || answer.header("content-length") == "3");
    }
}

#[test]
fn a_clients_trailers_end_here() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    client.send(
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    client.send("3\r\nabc\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nX-Trailer: 1\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    // The registry of the tests does not stand trailers.
    let seen = registry.only_request();
    assert_eq!(
        (seen.body.as_slice(), seen.header("x-forwarded-for")),
        (b"abc".as_slice(), "127.0.0.1")
    );
    assert!(seen.all("x-trailer").is_empty());
}

#[test]
fn a_body_up_to_the_close_is_framed_for_the_client() {
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
    ] {
        let registry = Registry::start(move |exchange| {
            exchange.send(head);
            exchange.send(vec![b'x'; 100_000]);
            exchange.close();
        });
        let proxy = Proxy::with_defaults(&registry);
        for http in HttpVersion::BOTH {
            let answer = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
            assert!(answer.is_whole, "{head:?} {http:?}");
            assert_eq!(answer.body.len(), 100_000);
            assert!(!answer.has_header("content-length"));
        }
    }
}

#[test]
fn interim_answers_stay_behind_the_gate() {
    let (one, two) = both(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "GET",
    );
    for answer in [one, two] {
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
        assert!(!answer.interim.contains(&100), "{answer:?}");
    }
}

#[test]
fn bytes_behind_a_complete_answer_are_nobodys() {
    let registry = Registry::responding(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    );
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    for _ in 0..3 {
        assert_eq!(
            client.exchange(&TestRequest::alice("GET", MANIFEST)).text(),
            "{}"
        );
    }
    assert_eq!(
        registry.connections(),
        3,
        "such a connection is not used again"
    );
}

/// A registry that sends a body in response to HEAD, at once or later: none of the requests that follow, of whatever client,
/// gets any of it or fails for it.
#[test]
fn bytes_behind_an_answer_harm_no_request_that_follows() {
    for is_late in [false, true] {
        // The connections over which a body is owed, or was said too much.
        let owing = Mutex::new(BTreeSet::new());
        let registry = Registry::start(move |exchange| {
            exchange.body();
            let number = exchange.head.connection;
            let is_head = exchange.head.method == "HEAD";
            if owing.lock().unwrap().remove(&number) && is_late {
                exchange.send("{\"errors\":[]}");
            }
            if is_head {
                owing.lock().unwrap().insert(number);
                exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n");
                if !is_late {
                    exchange.send("{\"errors\":[]}");
                }
            } else {
                exchange.send(OK);
            }
        });
        let proxy = Proxy::with_defaults(&registry);
        for http in HttpVersion::BOTH {
            for _ in 0..25 {
                let head = exchange(&proxy, http, &TestRequest::alice("HEAD", MANIFEST));
                assert_eq!(head.status, 200, "{head:?}");
                let get = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
                assert_eq!(
                    (get.status, get.text().as_str()),
                    (200, "{}"),
                    "late: {is_late}"
                );
            }
        }
    }
}

#[test]
fn errors_of_the_registry_pass_untouched() {
    let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
    for status in ["400", "401", "403", "404", "429", "500", "503"] {
        let length = body.len();
        let registry = Registry::responding(format!(
            "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json; charset=utf-8\r\nRetry-After: 7\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        let proxy = Proxy::with_defaults(&registry);
        for http in HttpVersion::BOTH {
            let answer = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
            assert_eq!(answer.status.to_string(), status);
            assert_eq!(answer.text(), body);
            assert_eq!(answer.header("retry-after"), "7");
            assert_eq!(
                answer.header("content-type"),
                "application/json; charset=utf-8"
            );
        }
    }
}

fn both(answer: &'static str, method: &str) -> (TestResponse, TestResponse) {
    let registry = Registry::responding(answer);
    let proxy = Proxy::with_defaults(&registry);
    // Twice over one connection, so that a byte too many would show.
    let mut client = Client::connect(&proxy);
    let first = client.exchange(&TestRequest::alice(method, MANIFEST));
    let second = client.exchange(&TestRequest::alice(method, MANIFEST));
    assert_eq!(first.without_request_id(), second.without_request_id());
    (
        first,
        exchange(
            &proxy,
            HttpVersion::Http2,
            &TestRequest::alice(method, MANIFEST),
        ),
    )
}
