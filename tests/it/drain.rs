//! Draining: what runs may end, nothing new comes in, and there is an end to it.

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use tidegate::server::Command;

use crate::support::client::StreamEnd;
use crate::support::h2::{self, H2Client, block_on, with_time_limit};
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{Client, PATIENCE, Proxy, Registry, TestRequest, config};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";

/// Told to stop, and known to have begun: no connection is taken any more.
fn stop(proxy: &Proxy) {
    proxy.send_command(Command::Stop);
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(proxy.https()).is_ok() {
        assert!(Instant::now() < until, "a draining gate still accepts");
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
fn a_transfer_ends_and_new_connections_are_refused() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = begin_upload(&proxy, &registry);
    stop(&proxy);
    client.send(chunk(b" last"));
    client.send("0\r\n\r\n");
    let answer = client.read_response("PATCH");
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert_eq!(registry.only_request().body, b"first last");
    assert_eq!(proxy.wait(), 0, "nothing had to be cut");
}

#[test]
fn a_gate_that_has_reloaded_drains_as_well() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    proxy.reload().unwrap();
    stop(&proxy);
    assert_eq!(proxy.wait(), 0);
}

#[test]
fn a_stream_ends_and_its_connection_says_goodbye() {
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
        let answer = h2::collect(response.await.unwrap()).await;
        assert!(answer.is_whole && answer.status == 200);
        let end = with_time_limit(client.connection).await.unwrap();
        assert!(end.as_ref().err().is_none_or(::h2::Error::is_io), "{end:?}");
    });
    assert_eq!(registry.only_request().body, b"first last");
    assert_eq!(proxy.wait(), 0, "nothing had to be cut");
}

#[test]
fn a_request_that_was_on_its_way_is_served() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    assert_eq!(
        client.exchange(&TestRequest::alice("GET", "/v2/")).status,
        200
    );
    stop(&proxy);
    let answer = client.exchange(&TestRequest::alice("GET", "/v2/"));
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert_eq!(proxy.wait(), 0);
}

#[test]
fn idle_connections_close() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut fresh = Client::connect(&proxy);
    let mut used = Client::connect(&proxy);
    assert_eq!(
        used.exchange(&TestRequest::alice("GET", "/v2/")).status,
        200
    );
    block_on(async {
        let mut two = H2Client::connect(&proxy).await;
        assert_eq!(
            two.exchange(&TestRequest::alice("GET", "/v2/"))
                .await
                .status,
            200
        );
        stop(&proxy);
        let end = with_time_limit(two.connection).await.unwrap();
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
fn the_limit_cuts_what_does_not_end() {
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
fn the_second_stop_cuts_at_once() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = begin_upload(&proxy, &registry);
    let began = Instant::now();
    stop(&proxy);
    proxy.send_command(Command::Stop);
    // Whoever knocked at the last moment is cut as well.
    assert!(proxy.wait() >= 1);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the limit is 30 s"
    );
    assert_eq!(client.read_to_end().1, StreamEnd::Broken);
}

#[test]
fn a_reload_while_draining_is_no_second_stop() {
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
fn half_a_handshake_does_not_hold_the_gate() {
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
        "a handshake may take 10 s, but not when the gate drains"
    );
    let _ = silent.shutdown(Shutdown::Both);
}
