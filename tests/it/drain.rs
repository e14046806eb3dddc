//! The graceful shutdown: transfers in progress may end, new connections are refused, and a time limit cuts the rest.

use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tidegate::server::Command;

use crate::support::client::StreamEnd;
use crate::support::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW, Outcome, PING, RawH2,
    WINDOW_UPDATE, frame, header_block,
};
use crate::support::h2::{self, H2Client, block_on, with_time_limit};
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{Client, PATIENCE, Proxy, Registry, TestRequest, config, eventually};

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

/// An HTTP/2 client sends WINDOW_UPDATE while it reads. If the proxy had closed its socket by then, the kernel would respond with
/// RST and discard what the client has not received yet.
#[test]
fn during_a_shutdown_a_slow_client_receives_the_end_of_an_http2_response() {
    let (release, released) = channel();
    let released = Mutex::new(released);
    let registry = Registry::start(move |exchange| {
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LONG}\r\n\r\na"
        ));
        released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        exchange.send(vec![b'a'; LONG as usize - 1]);
    });
    let proxy = Proxy::with_defaults(&registry);
    let mut frames = RawH2::connect_with(proxy.https(), &[(INITIAL_WINDOW, LONG)]);
    frames.send(frame(WINDOW_UPDATE, 0, 0, &LONG.to_be_bytes()));
    let stream = frames.next_stream_id();
    let head = header_block(&[
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/v2/a/manifests/latest"),
        (b"authorization", b"Basic YWxpY2U6cHc="),
    ]);
    frames.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head));
    assert_eq!(frames.read_outcome(stream), Outcome::Status(200));
    stop(&proxy);
    let mut received = 0;
    let mut goaways = 0;
    // The second GOAWAY follows the response to the PING that came with the first one.
    while goaways < 2 {
        let seen = frames.read_frame().expect("an open connection");
        match seen.kind {
            DATA => received += seen.payload.len(),
            PING if seen.flags & ACK == 0 => frames.send(frame(PING, ACK, 0, &seen.payload)),
            GOAWAY => goaways += 1,
            _ => {}
        }
    }
    release.send(()).unwrap();
    // The proxy has written the whole response, most of which is in the buffer of its socket.
    eventually("the access log has the request", || {
        let log = std::fs::read_to_string(proxy.path("access.log"));
        log.is_ok_and(|log| log.contains("manifests/latest"))
    });
    let mut has_ended = false;
    while !has_ended {
        let _ = frames.try_send(frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()));
        let Some(seen) = frames.read_frame() else {
            break;
        };
        if seen.kind == DATA {
            received += seen.payload.len();
            has_ended = seen.flags & END_STREAM != 0;
        }
    }
    assert_eq!((received, has_ended), (LONG as usize, true));
    drop(frames);
    assert_eq!(proxy.wait(), 0, "no connection was cut");
}

/// More than the client's socket receives before it is read, and less than the buffer of the proxy's socket holds.
const LONG: u32 = 1 << 20;

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
fn a_log_that_is_rotated_during_a_shutdown_is_reopened() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = begin_upload(&proxy, &registry);
    stop(&proxy);
    let log = proxy.path("access.log");
    std::fs::rename(&log, proxy.path("access.log.1")).unwrap();
    proxy.send_command(Command::ReopenLogs);
    eventually("the log is reopened", || log.exists());
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    assert_eq!(proxy.wait(), 0);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("method=PATCH"), "{text}");
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
