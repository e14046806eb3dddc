//! The memory of HTTP/2 connections. `limits.h2_memory` bounds the uploads that the upstream does not read, and the bound does not
//! block other requests. What the responses leave in the header compression of an idle connection is small.

use std::fs;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::support::frames::{END_HEADERS, END_STREAM, Frame, HEADERS, RawH2, frame, header_block};
use crate::support::h2::{self, H2Client, block_on, wait_until, with_time_limit};
use crate::support::{
    HttpVersion, OK, PATIENCE, Proxy, Registry, TestRequest, config, exchange, pattern,
};

const UPLOADS: usize = 8;
const SIZE: usize = 6 << 20;

/// The number of bytes that the proxy has not yet read from the kernel, for each client connection with such bytes.
fn unread_bytes(proxy: &Proxy) -> Vec<usize> {
    let port = format!(":{:04X}", proxy.https().port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let of_proxy = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_open = fields.get(1)?.ends_with(&port) && *fields.get(3)? == "01";
        let queue = fields.get(4)?.split(':').nth(1)?;
        let count = usize::from_str_radix(queue, 16).ok()?;
        (is_open && count > 0).then_some(count)
    });
    of_proxy.collect()
}

#[test]
fn stalled_uploads_wait_in_their_sockets_and_then_succeed() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        if exchange.head.method == "PATCH" {
            let _ = held.lock().unwrap().recv_timeout(PATIENCE);
            exchange.body();
            exchange.send(OK);
        } else {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
            exchange.send(head);
            exchange.send(pattern(SIZE));
        }
    });
    let limits = "[limits]\nh2_memory = \"1MiB\"\nh2_connection_window = \"4MiB\"\n";
    let proxy = Proxy::start(&registry, config(limits, ""));
    block_on(async {
        let mut uploads = Vec::new();
        for number in 0..UPLOADS {
            let mut client = H2Client::connect(&proxy).await;
            uploads.push(tokio::spawn(async move {
                let target = format!("/v2/a/blobs/uploads/{number}");
                let request = TestRequest::alice("PATCH", &target).body(pattern(SIZE));
                client.exchange(&request).await.status
            }));
        }
        // The windows have room for these bytes, so without the bound the proxy would have read them.
        wait_until(|| unread_bytes(&proxy).len() >= UPLOADS / 2).await;
        let mut other_client = H2Client::connect(&proxy).await;
        for _ in 0..3 {
            let get = TestRequest::alice("GET", "/v2/a/manifests/x");
            let (pending_response, _) = other_client.start_request(&get).await.unwrap();
            let response = h2::collect(with_time_limit(pending_response).await.unwrap()).await;
            assert!(response.is_whole && response.body.len() == SIZE);
        }
        assert!(unread_bytes(&proxy).len() >= UPLOADS / 2);
        drop(release);
        for upload in uploads {
            assert_eq!(with_time_limit(upload).await.unwrap(), 200);
        }
    });
    let seen = registry.wait_for_requests(|seen| seen.len() == UPLOADS + 3);
    let bytes = pattern(SIZE);
    let uploads = seen.iter().filter(|seen| seen.method == "PATCH");
    assert!(uploads.into_iter().all(|seen| seen.body == bytes));
}

#[test]
fn a_reload_changes_the_bound_for_open_uploads() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.body();
        exchange.send(OK);
    });
    let with_memory = |size: &str| {
        let limits = format!(
            "[limits]\nh2_memory = \"{size}\"\nh2_window = \"16MiB\"\nh2_connection_window = \"16MiB\"\n"
        );
        config(&limits, "")
    };
    let proxy = Proxy::start(&registry, with_memory("1MiB"));
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let upload = tokio::spawn(async move {
            let request =
                TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u").body(pattern(16 << 20));
            client.exchange(&request).await.status
        });
        wait_until(|| !unread_bytes(&proxy).is_empty() && !registry.requests().is_empty()).await;
        proxy.configure(&registry, with_memory("1GiB"));
        assert!(proxy.reload().is_ok());
        // With the larger bound the proxy reads everything that the windows allow.
        wait_until(|| unread_bytes(&proxy).is_empty()).await;
        drop(release);
        assert_eq!(with_time_limit(upload).await.unwrap(), 200);
    });
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http2,
            &TestRequest::alice("GET", "/v2/")
        )
        .status,
        200
    );
}

#[test]
fn the_header_compression_of_a_connection_keeps_no_digest() {
    let zeros = "0".repeat(64);
    let response = format!(
        "HTTP/1.1 200 OK\r\nDocker-Content-Digest: sha256:{zeros}\r\nContent-Length: 0\r\n\r\n"
    );
    let registry = Registry::start(move |exchange| exchange.send(&response));
    let proxy = Proxy::start(&registry, config("", ""));
    // The last value of SETTINGS_HEADER_TABLE_SIZE applies: the proxy may use its table.
    let mut client = RawH2::connect_with(proxy.https(), &[(1, 4096)]);
    let request = header_block(&[
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/v2/a/manifests/x"),
        (b"authorization", b"Basic YWxpY2U6cHc="),
    ]);
    for number in 0..3 {
        let stream = client.next_stream_id();
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &request));
        let is_head = |frame: &Frame| frame.kind == HEADERS && frame.stream == stream;
        let head = std::iter::from_fn(|| client.read_frame())
            .find(is_head)
            .unwrap();
        // The Huffman code of the digit 0 has five bits, all zero (RFC 7541 appendix B).
        let is_literal = head.payload.windows(39).any(|bytes| bytes == [0; 39]);
        assert!(
            is_literal,
            "response {number} refers to an entry of the table"
        );
    }
}
