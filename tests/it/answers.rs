//! The registry's responses as the client receives them: status, framing and bytes, in both HTTP versions.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::support::{
    Client, HttpVersion, OK, Proxy, Registry, TestRequest, TestResponse, exchange,
};

const MANIFEST: &str = "/v2/a/manifests/x";

#[test]
fn range_responses_pass_unchanged() {
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
            let response = exchange(
                &proxy,
                http,
                &TestRequest::alice("GET", MANIFEST).header("range", range),
            );
            assert_eq!(response.status.to_string(), status[..3]);
            assert_eq!(response.header("content-range"), content_range);
            assert_eq!(
                (response.header("content-length"), response.text()),
                (&*length.to_string(), body.to_owned())
            );
            assert_eq!(registry.requests().pop().unwrap().header("range"), range);
        }
    }
}

#[test]
fn a_304_has_no_body_and_keeps_its_etag() {
    let (one, two) = exchange_in_both_versions(
        "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 77\r\n\r\n",
        "GET",
    );
    for response in [one, two] {
        assert_eq!(
            (
                response.status,
                response.header("etag"),
                response.body.len()
            ),
            (304, "\"x\"", 0)
        );
        assert!(response.is_whole);
    }
}

#[test]
fn a_response_to_head_keeps_the_content_length_and_has_no_body() {
    let (one, two) = exchange_in_both_versions(
        "HTTP/1.1 200 OK\r\nContent-Length: 5368709120\r\n\r\n",
        "HEAD",
    );
    for response in [one, two] {
        assert_eq!(
            (response.status, response.header("content-length")),
            (200, "5368709120")
        );
        assert!(response.is_whole && response.body.is_empty());
    }
}

#[test]
fn a_204_has_no_content_length() {
    let (one, two) = exchange_in_both_versions("HTTP/1.1 204 No Content\r\n\r\n", "DELETE");
    for response in [one, two] {
        assert_eq!((response.status, response.body.len()), (204, 0));
        assert!(
            response.is_whole
                && !response.has_header("content-length")
                && !response.has_header("transfer-encoding")
        );
    }
}

#[test]
fn trailers_and_chunk_extensions_of_a_response_are_removed() {
    let (one, two) = exchange_in_both_versions(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3 \t; ext = 1\r\nabc\r\n0 ;x\r\nX-Trailer: 1\r\nContent-Length: 9\r\n\r\n",
        "GET",
    );
    for response in [one, two] {
        assert_eq!((response.text().as_str(), response.trailers), ("abc", 0));
        assert!(response.is_whole && !response.has_header("x-trailer"));
        // The proxy may send a Content-Length if the response arrived completely, but never that of the trailer section.
        assert!(!response.has_header("content-length") || response.header("content-length") == "3");
    }
}

#[test]
fn trailers_of_a_request_are_removed() {
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
    // The registry of the tests panics on a trailer section.
    let seen = registry.only_request();
    assert_eq!(
        (seen.body.as_slice(), seen.header("x-forwarded-for")),
        (b"abc".as_slice(), "127.0.0.1")
    );
    assert!(seen.all("x-trailer").is_empty());
}

#[test]
fn a_body_that_ends_with_the_connection_is_framed_for_the_client() {
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
            let response = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
            assert!(response.is_whole, "{head:?} {http:?}");
            assert_eq!(response.body.len(), 100_000);
            assert!(!response.has_header("content-length"));
        }
    }
}

#[test]
fn a_100_continue_of_the_registry_is_not_forwarded() {
    let (one, two) = exchange_in_both_versions(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "GET",
    );
    for response in [one, two] {
        assert_eq!((response.status, response.text().as_str()), (200, "{}"));
        assert!(!response.interim.contains(&100), "{response:?}");
    }
}

#[test]
fn bytes_after_a_complete_response_are_discarded() {
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
        "a connection with extra bytes is not used again"
    );
}

/// The registry wrongly sends a body in response to HEAD, at once or before the next response. Later requests of any client
/// must neither receive these bytes nor fail because of them.
#[test]
fn bytes_after_a_response_do_not_affect_later_requests() {
    for is_late in [false, true] {
        // The connections whose last response was to HEAD.
        let after_head = Mutex::new(BTreeSet::new());
        let registry = Registry::start(move |exchange| {
            exchange.body();
            let number = exchange.head.connection;
            let is_head = exchange.head.method == "HEAD";
            if after_head.lock().unwrap().remove(&number) && is_late {
                exchange.send("{\"errors\":[]}");
            }
            if is_head {
                after_head.lock().unwrap().insert(number);
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
fn error_responses_of_the_registry_pass_unchanged() {
    let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
    for status in ["400", "401", "403", "404", "429", "500", "503"] {
        let length = body.len();
        let registry = Registry::responding(format!(
            "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json; charset=utf-8\r\nRetry-After: 7\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        let proxy = Proxy::with_defaults(&registry);
        for http in HttpVersion::BOTH {
            let response = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
            assert_eq!(response.status.to_string(), status);
            assert_eq!(response.text(), body);
            assert_eq!(response.header("retry-after"), "7");
            assert_eq!(
                response.header("content-type"),
                "application/json; charset=utf-8"
            );
        }
    }
}

fn exchange_in_both_versions(response: &'static str, method: &str) -> (TestResponse, TestResponse) {
    let registry = Registry::responding(response);
    let proxy = Proxy::with_defaults(&registry);
    // Two requests on one connection would reveal superfluous bytes after the first response.
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
