//! The graceful shutdown: transfers in progress may end, new connections are refused, and a time limit cuts the rest.

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use tidegate::server::Command;

use crate::support::client::StreamEnd;
use crate::support::h2::{self, H2Client, block_on, with_time_limit};
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{Client, PATIENCE, Proxy, Registry, TestRequest, config};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";

/// Starts the graceful shutdown, and waits until the proxy accepts no more connections.
fn stop(proxy: &Proxy) {
    proxy.send_command(Command::Stop);
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(proxy.https()).is_ok() {
        assert!(
            Instant::now() < until,
            "the proxy still accepts connections"
        );
    }
}

fn begin_upload(proxy: &Proxy, registry: &Registry) -> Client {
    let mut client = Client::connect(proxy);
    client.send(TestRequest::alice("PATCH", UPLOAD).chunked().head());
    client.send(chunk(b"first"));
    registry.wait_for_requests(|seen| seen.iter().any(|seen| seen.body == b"first"));
    client
}

#[test]
fn during_a_shutdown_a_transfer_may_end_and_new_connections_are_refused() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = begin_upload(&proxy, &registry);
    stop(&proxy);
    client.send(chunk(b" last"));
    client.send("0\r\n\r\n");
    let response = client.read_response("PATCH");
    assert_eq!(
        (response.status, response.header("connection")),
        (200, "close")
    );
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert_eq!(registry.only_request().body, b"first last");
    assert_eq!(proxy.wait(), 0, "no connection was cut");
}

#[test]
fn a_proxy_that_has_reloaded_shuts_down_gracefully() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    proxy.reload().unwrap();
    stop(&proxy);
    assert_eq!(proxy.wait(), 0);
}

#[test]
fn during_a_shutdown_an_http2_stream_may_end_and_its_connection_is_closed() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let request = TestRequest::alice("PATCH", UPLOAD).chunked();
        let (response, mut sender) = client.start_request(&request).await.unwrap();
        h2::send(&mut sender, b"first", false).await.unwrap();
        h2::wait_until(|| registry.requests().iter().any(|seen| seen.body == b"first")).await;
        stop(&proxy);
        h2::send(&mut sender, b" last", true).await.unwrap();
        let response = h2::collect(response.await.unwrap()).await;
        assert!(response.is_whole && response.status == 200);
        let end = with_time_limit(client.connection).await.unwrap();
        assert!(end.as_ref().err().is_none_or(::h2::Error::is_io), "{end:?}");
    });
    assert_eq!(registry.only_request().body, b"first last");
    assert_eq!(proxy.wait(), 0, "no connection was cut");
}

#[test]
fn a_request_on_an_open_connection_is_served_during_a_shutdown() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.ping(), 200);
    stop(&proxy);
    let response = client.exchange(&TestRequest::alice("GET", "/v2/"));
    assert_eq!(
        (response.status, response.header("connection")),
        (200, "close")
    );
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert_eq!(proxy.wait(), 0);
}

#[test]
fn a_shutdown_closes_idle_connections() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut fresh = Client::connect(&proxy);
    let mut used = Client::connect(&proxy);
    assert_eq!(used.ping(), 200);
    block_on(async {
        let mut h2_client = H2Client::connect(&proxy).await;
        assert_eq!(h2_client.ping().await, 200);
        stop(&proxy);
        let end = with_time_limit(h2_client.connection).await.unwrap();
        assert!(end.as_ref().err().is_none_or(::h2::Error::is_io), "{end:?}");
    });
    assert_eq!(fresh.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert_eq!(used.read_to_end(), (Vec::new(), StreamEnd::Clean));
    let began = Instant::now();
    assert_eq!(proxy.wait(), 0);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the limit is 30 s"
    );
}

#[test]
fn connections_are_cut_after_the_drain_limit() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("[limits]\ndrain = \"300ms\"\n", ""));
    let mut client = begin_upload(&proxy, &registry);
    stop(&proxy);
    assert_eq!(proxy.wait(), 1);
    assert_eq!(client.read_to_end().1, StreamEnd::Broken);
    let seen = registry.wait_for_requests(|seen| seen[0].end != RequestEnd::NotYet);
    assert_eq!(seen[0].end, RequestEnd::Broken);
}

#[test]
fn a_second_stop_command_cuts_connections_at_once() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = begin_upload(&proxy, &registry);
    let began = Instant::now();
    stop(&proxy);
    proxy.send_command(Command::Stop);
    // A connection that was accepted just before the shutdown is cut as well.
    assert!(proxy.wait() >= 1);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the limit is 30 s"
    );
    assert_eq!(client.read_to_end().1, StreamEnd::Broken);
}

#[test]
fn a_reload_during_a_shutdown_is_not_a_second_stop_command() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = begin_upload(&proxy, &registry);
    stop(&proxy);
    proxy.send_command(Command::Reload(None));
    proxy.send_command(Command::ReopenLogs);
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    assert_eq!(proxy.wait(), 0);
}

#[test]
fn an_incomplete_handshake_or_request_does_not_delay_the_shutdown() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let silent = TcpStream::connect(proxy.https()).unwrap();
    let mut slow = Client::connect(&proxy);
    slow.send("GET /v2/ HT");
    stop(&proxy);
    let began = Instant::now();
    assert_eq!(proxy.wait(), 0);
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "a handshake may take 10 s, but not during a shutdown"
    );
    let _ = silent.shutdown(Shutdown::Both);
}
