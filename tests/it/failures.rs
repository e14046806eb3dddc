//! Failures of the registry or of the client: the other side gets an error or an aborted transfer, and never a message that
//! looks complete.

use std::net::Shutdown;

use rustix::process::Signal;

use crate::binary::{ServeProcess, configured};
use crate::support::h2::{self, H2Client, block_on};
use crate::support::proxy::TestConfig;
use crate::support::proxy::directory;
use crate::support::registry::{RequestEnd, refusing_address};
use crate::support::request::chunk;
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, config, exchange, pattern,
};

const MANIFEST: &str = "/v2/a/manifests/x";
const UPLOAD: &str = "/v2/a/blobs/uploads/u";

#[test]
fn an_unreachable_upstream_is_a_502() {
    let dir = directory();
    let missing = format!("unix:{}", dir.path().join("missing.sock").display());
    for upstream in [format!("http://{}", refusing_address()), missing] {
        let proxy = Proxy::start_in(directory(), &upstream, config("", ""));
        for http in HttpVersion::BOTH {
            exchange(&proxy, http, &TestRequest::new("GET", MANIFEST))
                .assert_rejection(401, "UNAUTHORIZED");
            let response = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
            response.assert_rejection(502, "UNAVAILABLE");
            assert!(!response.text().contains("127.0.0.1") && !response.text().contains(".sock"));
            exchange(&proxy, http, &TestRequest::alice("HEAD", MANIFEST))
                .assert_rejection_head(502);
            let upload = TestRequest::alice("PATCH", UPLOAD).body(pattern(1 << 20));
            exchange(&proxy, http, &upload).assert_rejection(502, "UNAVAILABLE");
        }
    }
}

/// On a route that needs no password, every client can cause such lines.
#[test]
fn an_outage_of_the_upstream_writes_few_lines_and_counts_the_others() {
    let upstream = format!("http://{}", refusing_address());
    let text = config("[log]\naccess = false\n", "").upstream(&upstream);
    let (_dir, file) = configured(text);
    let process = ServeProcess::start(&file);
    for _ in 0..40 {
        let response = process
            .client()
            .exchange(&TestRequest::alice("GET", MANIFEST));
        assert_eq!(response.status, 502);
    }
    process.signal(Signal::HUP);
    let mut lines = 0;
    loop {
        let line = process.next_line();
        if line.contains("reloaded") {
            break;
        }
        if line.contains("a request failed at its upstream") {
            assert!(
                line.contains(&upstream) && line.contains("request_id="),
                "{line}"
            );
            lines += 1;
        }
    }
    assert_eq!(lines, 10);
}

#[test]
fn a_silent_upstream_is_a_504() {
    let registry = Registry::start(|exchange| exchange.wait_closed());
    let proxy = Proxy::start(&registry, config_with_read_timeout("300ms"));
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST))
            .assert_rejection(504, "UNAVAILABLE");
        let upload = TestRequest::alice("PATCH", UPLOAD).body("body");
        exchange(&proxy, http, &upload).assert_rejection(504, "UNAVAILABLE");
    }
    // The proxy repeats no request, and closes the connections.
    let seen =
        registry.wait_for_requests(|seen| seen.iter().all(|seen| seen.end == RequestEnd::Broken));
    assert_eq!(seen.len(), 4);
}

#[test]
fn an_upstream_that_stops_during_its_response_aborts_the_response() {
    let registry = Registry::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nsome");
        exchange.wait_closed();
    });
    let proxy = Proxy::start(&registry, config_with_read_timeout("300ms"));
    for http in HttpVersion::BOTH {
        let response = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
        assert_eq!((response.status, response.text().as_str()), (200, "some"));
        assert!(!response.is_whole);
    }
}

fn config_with_read_timeout(read_timeout: &str) -> TestConfig {
    let upstream = format!("{{ urls = [\"{{upstream}}\"], read_timeout = \"{read_timeout}\" }}");
    config("", "").set("upstream", upstream)
}

#[test]
fn a_malformed_response_is_a_502() {
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(300 * 1024));
    for bytes in [
        "",
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        &huge,
    ] {
        let response_bytes = bytes.to_owned();
        let registry = Registry::start(move |exchange| {
            exchange.send(&response_bytes);
            exchange.close();
        });
        let proxy = Proxy::with_defaults(&registry);
        for http in HttpVersion::BOTH {
            println!("{http:?} {:?}", &bytes[..bytes.len().min(100)]);
            let response = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
            response.assert_rejection(502, "UNAVAILABLE");
        }
    }
}

#[test]
fn a_truncated_response_never_looks_complete() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(100_000);
    for bytes in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{long}"),
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_owned(),
        format!("{head}5\r\nabc"),
        format!("{head}3\r\nabc\r\n"),
        format!("{head}3\r\nabc\r\n0\r\n"),
        format!("{head}186a0\r\n{long}\r\n"),
    ] {
        let response_bytes = bytes.clone();
        let registry = Registry::start(move |exchange| {
            exchange.send(&response_bytes);
            exchange.close();
        });
        let proxy = Proxy::with_defaults(&registry);
        for http in HttpVersion::BOTH {
            println!("{http:?} {:?}", &bytes[..bytes.len().min(80)]);
            let response = exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST));
            assert!(
                response.status == 502 || !response.is_whole,
                "{http:?} {:?}: {response:?}",
                &bytes[..bytes.len().min(80)]
            );
        }
    }
}

#[test]
fn a_truncated_response_never_looks_complete_to_an_http10_client() {
    let registry = Registry::start(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        exchange.close();
    });
    let proxy = Proxy::with_defaults(&registry);
    let head = String::from_utf8(TestRequest::alice("GET", MANIFEST).head()).unwrap();
    let mut client = Client::connect(&proxy);
    client.send(head.replace("HTTP/1.1", "HTTP/1.0"));
    let response = client.read_response("GET");
    // HTTP/1.0 has no chunked coding: only an unclean close tells the client that the body is truncated.
    assert!(!response.has_header("transfer-encoding") && !response.has_header("content-length"));
    assert_eq!(response.text(), "abc");
    assert!(
        !response.is_whole,
        "a truncated body ended like a complete one"
    );
}

#[test]
fn a_client_that_disconnects_aborts_its_upload() {
    for is_chunked in [false, true] {
        let registry = Registry::accepting_all();
        let proxy = Proxy::with_defaults(&registry);
        let mut request = TestRequest::alice("PATCH", UPLOAD).body("the whole body");
        request.is_chunked = is_chunked;
        let mut client = Client::connect(&proxy);
        client.send(request.head());
        client.send(if is_chunked {
            chunk(b"the")
        } else {
            b"the".to_vec()
        });
        registry.wait_for_requests(|seen| seen.first().is_some_and(|seen| seen.body == b"the"));
        client.socket.shutdown(Shutdown::Both).unwrap();
        let seen = registry.wait_for_requests(|seen| seen[0].end != RequestEnd::NotYet);
        assert_eq!(
            (seen[0].end, seen[0].body.as_slice()),
            (RequestEnd::Broken, b"the".as_slice())
        );
    }
}

#[test]
fn a_stream_reset_aborts_the_upload() {
    for is_chunked in [false, true] {
        let registry = Registry::accepting_all();
        let proxy = Proxy::with_defaults(&registry);
        let mut request = TestRequest::alice("PATCH", UPLOAD).body("the whole body");
        request.is_chunked = is_chunked;
        block_on(async {
            let mut client = H2Client::connect(&proxy).await;
            let (response, mut sender) = client.start_request(&request).await.unwrap();
            h2::send(&mut sender, b"the", false).await.unwrap();
            // The response to a second request shows that the bytes of the first one were sent.
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
            sender.send_reset(::h2::Reason::CANCEL);
            assert!(response.await.is_err());
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
        });
        let seen = registry
            .wait_for_requests(|seen| seen.iter().all(|seen| seen.end != RequestEnd::NotYet));
        assert!(
            seen.iter().all(|seen| seen.end == RequestEnd::Broken),
            "{seen:?}"
        );
    }
}

#[test]
fn a_client_that_disconnects_aborts_its_download() {
    for http in HttpVersion::BOTH {
        let registry = Registry::start(|exchange| {
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nsome");
            exchange.wait_closed();
        });
        let proxy = Proxy::with_defaults(&registry);
        let request = TestRequest::alice("GET", MANIFEST);
        match http {
            HttpVersion::Http1 => {
                let mut client = Client::connect(&proxy);
                client.send(request.head());
                assert_eq!(client.read_head().unwrap().status, 200);
                assert_eq!(client.read_exact(4), b"some");
            }
            HttpVersion::Http2 => block_on(async {
                let mut client = H2Client::connect(&proxy).await;
                let (response, _) = client.start_request(&request).await.unwrap();
                let mut body = response.await.unwrap().into_body();
                assert_eq!(body.data().await.unwrap().unwrap().as_ref(), b"some");
                drop(body);
                client.exchange(&TestRequest::new("GET", "/v2/")).await;
            }),
        }
        let seen = registry.wait_for_requests(|seen| seen[0].end == RequestEnd::Broken);
        assert_eq!(seen.len(), 1);
    }
}

#[test]
fn an_upstream_can_be_a_unix_socket() {
    let socket = tempfile::tempdir().unwrap();
    let registry = Registry::start_unix(&socket.path().join("registry.sock"), |exchange| {
        exchange.body();
        let location = "http://localhost/v2/a/blobs/uploads/u";
        exchange.send(format!(
            "HTTP/1.1 202 Accepted\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        ));
    });
    let proxy = Proxy::start_in(directory(), &registry.url(), config("", ""));
    for http in HttpVersion::BOTH {
        let request = TestRequest::alice("POST", "/v2/a/blobs/uploads/").host("localhost:8443");
        let response = exchange(&proxy, http, &request);
        assert_eq!(response.status, 202);
        assert_eq!(
            response.header("location"),
            format!("https://localhost:8443{UPLOAD}")
        );
        assert_eq!(
            registry.requests().pop().unwrap().header("host"),
            "localhost:8443"
        );
    }
}
