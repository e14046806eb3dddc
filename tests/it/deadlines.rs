//! Every timeout of `[limits]` elapses on time, in both HTTP versions. Each timeout is one second here, and each test
//! measures it.

use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::support::client::{StreamEnd, connect_tcp};
use crate::support::h2::{self, H2Client, block_on, with_time_limit};
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{
    Client, Exchange, HttpVersion, Proxy, Registry, TestRequest, config, exchange, pattern,
};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";
const SECOND: Duration = Duration::from_secs(1);

/// Checks that the time since `began` is at least 0.9 seconds and less than 2.1 seconds.
#[track_caller]
fn assert_takes_a_second(began: Instant, what: &str) {
    let took = began.elapsed();
    println!("{what}: {took:?}");
    let (least, most) = (SECOND * 9 / 10, SECOND * 11 / 10 + SECOND);
    assert!((least..most).contains(&took), "{what} took {took:?}");
}

fn start_with_limits(registry: &Registry, limits: &str) -> Proxy {
    Proxy::start(registry, config(&format!("[limits]\n{limits}\n"), ""))
}

/// A handler that sends an endless response for the tag `endless`, and no response for any other target.
fn respond_endlessly_or_never(exchange: &mut Exchange<'_>) {
    if exchange.head.target.ends_with("endless") {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
        let piece = pattern(1 << 20);
        while exchange.is_open() {
            exchange.send(&piece);
        }
    }
    exchange.wait_closed();
}

#[test]
fn an_incomplete_handshake_is_closed_after_handshake() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "handshake = \"1s\"");
    let began = Instant::now();
    assert_eq!(connect_tcp(proxy.https()).read(&mut [0]).unwrap(), 0);
    assert_takes_a_second(began, "handshake");
}

#[test]
fn an_incomplete_header_section_gets_408_after_head() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "head = \"1s\"");
    let mut client = Client::connect(&proxy);
    let began = Instant::now();
    client.send("GET /v2/ HT");
    assert_eq!(client.read_response("GET").status, 408);
    assert_takes_a_second(began, "head");
}

#[test]
fn an_idle_connection_is_closed_after_idle() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "idle = \"1s\"");
    let mut client = Client::connect(&proxy);
    client.exchange(&TestRequest::alice("GET", "/v2/"));
    let began = Instant::now();
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert_takes_a_second(began, "idle");
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        client.exchange(&TestRequest::alice("GET", "/v2/")).await;
        let began = Instant::now();
        let _ = with_time_limit(client.connection).await.unwrap();
        assert_takes_a_second(began, "idle of HTTP/2");
    });
}

#[test]
fn an_upload_without_progress_gets_408_after_body_idle() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "body_idle = \"1s\"");
    let mut client = Client::connect(&proxy);
    client.send(TestRequest::alice("PATCH", UPLOAD).chunked().head());
    client.send(chunk(b"some"));
    let began = Instant::now();
    client
        .read_response("PATCH")
        .assert_rejection(408, "UNSUPPORTED");
    assert_takes_a_second(began, "body_idle");
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let request = TestRequest::alice("PATCH", UPLOAD).chunked();
        let (response, mut sender) = client.start_request(&request).await.unwrap();
        h2::send(&mut sender, b"some", false).await.unwrap();
        let began = Instant::now();
        let response = h2::collect(response.await.unwrap()).await;
        response.assert_rejection(408, "UNSUPPORTED");
        assert_takes_a_second(began, "body_idle of HTTP/2");
    });
}

#[test]
fn a_client_that_does_not_read_is_disconnected_after_write_idle() {
    let registry = Registry::start(respond_endlessly_or_never);
    let proxy = start_with_limits(&registry, "write_idle = \"1s\"");
    let request = TestRequest::alice("GET", "/v2/a/manifests/endless");
    let is_broken = |at: usize| {
        registry
            .requests()
            .get(at)
            .is_some_and(|seen| seen.end == RequestEnd::Broken)
    };
    let mut client = Client::connect(&proxy);
    let began = Instant::now();
    client.send(request.head());
    registry.wait_for_requests(|seen| {
        seen.first()
            .is_some_and(|seen| seen.end == RequestEnd::Broken)
    });
    assert_takes_a_second(began, "write_idle");
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let began = Instant::now();
        let (response, _) = client.start_request(&request).await.unwrap();
        let _unread = response.await.unwrap();
        h2::wait_until(|| is_broken(1)).await;
        assert_takes_a_second(began, "write_idle of HTTP/2");
    });
}

#[test]
fn an_upstream_without_a_response_is_a_504_after_read_timeout() {
    let registry = Registry::start(respond_endlessly_or_never);
    let upstream_line = "upstream = { urls = [\"{upstream}\"], read_timeout = \"1s\" }";
    let text = config("", "").lines("upstream", upstream_line);
    let proxy = Proxy::start(&registry, &text);
    for http in HttpVersion::BOTH {
        let began = Instant::now();
        let response = exchange(&proxy, http, &TestRequest::alice("GET", "/v2/"));
        response.assert_rejection(504, "UNAVAILABLE");
        assert_takes_a_second(began, &format!("read_timeout {http:?}"));
    }
}

#[test]
fn a_request_without_an_upstream_connection_gets_503_after_upstream_wait() {
    let registry = Registry::start(respond_endlessly_or_never);
    let proxy = start_with_limits(
        &registry,
        "upstream_connections = 1\nupstream_wait = \"1s\"",
    );
    let mut holder = Client::connect(&proxy);
    holder.send(TestRequest::alice("GET", "/v2/").head());
    registry.wait_for_requests(|seen| seen.len() == 1);
    for http in HttpVersion::BOTH {
        let began = Instant::now();
        exchange(&proxy, http, &TestRequest::alice("GET", "/v2/"))
            .assert_rejection(503, "UNAVAILABLE");
        assert_takes_a_second(began, &format!("upstream_wait {http:?}"));
    }
}

#[test]
fn the_shutdown_cuts_connections_after_drain() {
    let registry = Registry::start(respond_endlessly_or_never);
    let proxy = start_with_limits(&registry, "drain = \"1s\"");
    let mut holder = Client::connect(&proxy);
    holder.send(TestRequest::alice("GET", "/v2/").head());
    registry.wait_for_requests(|seen| seen.len() == 1);
    let began = Instant::now();
    proxy.send_command(tidegate::server::Command::Stop);
    assert_eq!(proxy.wait(), 1);
    assert_takes_a_second(began, "drain");
}

#[test]
fn http2_windows_have_the_configured_sizes() {
    let registry = Registry::start(respond_endlessly_or_never);
    let limits = "h2_window = \"100000B\"\nh2_connection_window = \"150000B\"";
    let proxy = start_with_limits(&registry, limits);
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        // The SETTINGS of the proxy arrive before its first response.
        client.exchange(&TestRequest::new("GET", "/v2/")).await;
        let request = TestRequest::alice("PATCH", UPLOAD).chunked();
        let (_one, mut first) = client.start_request(&request).await.unwrap();
        let (_two, mut second) = client.start_request(&request).await.unwrap();
        first.reserve_capacity(1 << 20);
        second.reserve_capacity(1 << 20);
        // The h2 library assigns capacity when its connection task runs.
        client.exchange(&TestRequest::new("GET", "/v2/")).await;
        assert_eq!((first.capacity(), second.capacity()), (100_000, 50_000));
    });
}
