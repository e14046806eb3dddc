//! Streaming of bodies in both directions: bytes are forwarded at once and completely, and a side that does not read stops the
//! other side (backpressure).

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::h2::{self, H2Client, block_on};
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{
    Client, Exchange, HttpVersion, OK, PATIENCE, Proxy, Registry, TestRequest, exchange, pattern,
};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";
const MIB: usize = 1 << 20;
/// More MiB than all buffers on the path hold. Most of them are the buffers of four sockets.
const MOST: usize = 128;
/// The time without progress after which a transfer counts as stopped.
const STILL: Duration = Duration::from_millis(500);

#[test]
fn an_upload_is_forwarded_while_it_is_sent() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    client.send(TestRequest::alice("PATCH", UPLOAD).chunked().head());
    client.send(chunk(b"first"));
    registry.wait_for_requests(|seen| seen.first().is_some_and(|seen| seen.body == b"first"));
    client.send(chunk(b" last"));
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    assert_eq!(registry.only_request().body, b"first last");
}

#[test]
fn an_upload_over_http2_is_forwarded_while_it_is_sent() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let request = TestRequest::alice("PATCH", UPLOAD).chunked();
        let (response, mut sender) = client.start_request(&request).await.unwrap();
        h2::send(&mut sender, b"first", false).await.unwrap();
        h2::wait_until(|| registry.requests().first().is_some_and(has_first)).await;
        h2::send(&mut sender, b" last", true).await.unwrap();
        assert_eq!(h2::collect(response.await.unwrap()).await.status, 200);
    });
    assert_eq!(registry.only_request().body, b"first last");
}

#[test]
fn a_late_end_of_stream_ends_the_upload_at_once_and_once() {
    let is_whole_upload = |seen: &crate::support::RecordedRequest| {
        seen.method == "PATCH" && seen.end == RequestEnd::Whole && has_first(seen)
    };
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        for number in 1..=2 {
            let request = TestRequest::alice("PATCH", UPLOAD).chunked();
            let (response, mut sender) = client.start_request(&request).await.unwrap();
            h2::send(&mut sender, b"first", false).await.unwrap();
            h2::wait_until(|| registry.requests().get(number - 1).is_some_and(has_first)).await;
            // An empty DATA frame with END_STREAM.
            h2::send(&mut sender, b"", true).await.unwrap();
            assert_eq!(h2::collect(response.await.unwrap()).await.status, 200);
        }
        // The registry would have read a second last chunk as the next request on the connection.
        assert_eq!(registry.connections(), 1);
        // With Content-Length, the upload ends with END_STREAM as well: more DATA before it would make the request malformed
        // (RFC 9113, section 8.1.1).
        let request = TestRequest::alice("PATCH", UPLOAD).body("first");
        let (response, mut sender) = client.start_request(&request).await.unwrap();
        h2::send(&mut sender, b"first", false).await.unwrap();
        assert_eq!(client.ping().await, 200);
        let whole = |seen: &[crate::support::RecordedRequest]| {
            seen.iter().filter(|seen| is_whole_upload(seen)).count()
        };
        assert_eq!(whole(&registry.requests()), 2);
        h2::send(&mut sender, b"", true).await.unwrap();
        assert_eq!(h2::collect(response.await.unwrap()).await.status, 200);
        assert_eq!(whole(&registry.requests()), 3);
    });
    assert_eq!(registry.requests().len(), 4);
}

fn has_first(seen: &crate::support::RecordedRequest) -> bool {
    seen.body == b"first"
}

#[test]
fn large_uploads_are_forwarded_unchanged() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let bytes = pattern(64 * MIB + 1);
    for http in HttpVersion::BOTH {
        for is_chunked in [false, true] {
            let mut request = TestRequest::alice("PATCH", UPLOAD).body(bytes.clone());
            request.is_chunked = is_chunked;
            assert_eq!(exchange(&proxy, http, &request).status, 200);
            let seen = registry.requests().pop().unwrap();
            assert!(
                seen.body == bytes,
                "{http:?}: {} bytes arrived",
                seen.body.len()
            );
            let framing = (
                seen.all("content-length").len(),
                seen.all("transfer-encoding").len(),
            );
            assert_eq!(framing, if is_chunked { (0, 1) } else { (1, 0) });
        }
    }
}

#[test]
fn large_downloads_are_forwarded_unchanged() {
    let registry = Registry::start(|exchange| {
        let bytes = pattern(64 * MIB + 1);
        if exchange.head.target.contains("chunked") {
            exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            bytes
                .chunks(100_000)
                .for_each(|piece| exchange.send(chunk(piece)));
            exchange.send("0\r\n\r\n");
        } else {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
            exchange.send(head);
            exchange.send(&bytes);
        }
    });
    let proxy = Proxy::with_defaults(&registry);
    let bytes = pattern(64 * MIB + 1);
    for http in HttpVersion::BOTH {
        for tag in ["length", "chunked"] {
            let request = TestRequest::alice("GET", &format!("/v2/a/manifests/{tag}"));
            let response = exchange(&proxy, http, &request);
            assert!(
                response.is_whole && response.body == bytes,
                "{http:?} {tag}"
            );
            assert_eq!(response.has_header("content-length"), tag == "length");
        }
    }
}

#[test]
fn a_registry_that_does_not_read_stops_an_upload() {
    let (release, held) = channel::<()>();
    let registry = Registry::start(hold(held));
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    client.send(TestRequest::alice("PATCH", UPLOAD).chunked().head());
    registry.wait_for_requests(|seen| !seen.is_empty());
    client.socket.set_write_timeout(Some(STILL)).unwrap();
    // rustls reads from the socket when it cannot write.
    client.socket.set_read_timeout(Some(STILL)).unwrap();
    let piece = chunk(&pattern(MIB));
    let sent = (0..2 * MOST)
        .take_while(|_| client.try_send(&piece).is_ok())
        .count();
    assert!(
        sent < MOST,
        "{sent} MiB were sent to a registry that does not read"
    );
    drop(release);
}

#[test]
fn a_registry_that_does_not_read_stops_an_upload_over_http2() {
    let (release, held) = channel::<()>();
    let registry = Registry::start(hold(held));
    let proxy = Proxy::with_defaults(&registry);
    let sent = block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let (_response, mut sender) = client
            .start_request(&TestRequest::alice("PATCH", UPLOAD).chunked())
            .await
            .unwrap();
        let piece = pattern(MIB);
        let mut sent = 0;
        while sent < 2 * MOST {
            let sending = h2::send(&mut sender, &piece, false);
            if tokio::time::timeout(STILL, sending).await.is_err() {
                break;
            }
            sent += 1;
        }
        // Other streams of the connection are served.
        let ping = client.exchange(&TestRequest::new("GET", "/v2/")).await;
        ping.assert_rejection(401, "UNAUTHORIZED");
        sent
    });
    assert!(
        sent < MOST,
        "{sent} MiB were sent to a registry that does not read"
    );
    drop(release);
}

/// A handler that reads nothing until the sender of `held` is dropped.
fn hold(held: Receiver<()>) -> impl Fn(&mut Exchange<'_>) + Send + Sync {
    let held = Mutex::new(held);
    move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.close();
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_registry() {
    for http in HttpVersion::BOTH {
        let (sender, receiver) = channel();
        let registry = Registry::start(move |exchange| {
            exchange.set_timeout(STILL);
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
            let piece = pattern(MIB);
            let mut sent = 0;
            while exchange.is_open() && sent < 2 * MOST {
                exchange.send(&piece);
                sent += 1;
            }
            let _ = sender.send(sent);
        });
        let proxy = Proxy::with_defaults(&registry);
        let request = TestRequest::alice("GET", "/v2/a/manifests/x");
        let sent = match http {
            HttpVersion::Http1 => {
                let mut client = Client::connect(&proxy);
                client.send(request.head());
                receiver.recv_timeout(PATIENCE).unwrap()
            }
            HttpVersion::Http2 => block_on(async {
                let mut client = H2Client::connect(&proxy).await;
                let (response, _sender) = client.start_request(&request).await.unwrap();
                let _unread = response.await.unwrap();
                // The client still processes frames of the connection, and reads no bytes of the body.
                tokio::task::spawn_blocking(move || receiver.recv_timeout(PATIENCE))
                    .await
                    .unwrap()
            })
            .unwrap(),
        };
        assert!(
            sent < MOST,
            "{http:?}: {sent} MiB were sent for a client that does not read"
        );
    }
}

#[test]
fn many_requests_use_one_connection() {
    let registry = Registry::responding(OK);
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    for _ in 0..20 {
        let response = client.exchange(&TestRequest::alice("PUT", "/v2/a/manifests/x").body("{}"));
        assert_eq!(response.status, 200);
        assert!(!response.has_header("connection"), "{response:?}");
    }
    assert_eq!(
        registry.connections(),
        1,
        "the connection to the registry is reused as well"
    );
    let ends: Vec<_> = registry.requests().iter().map(|seen| seen.end).collect();
    assert_eq!(ends, [RequestEnd::Whole; 20]);
}
