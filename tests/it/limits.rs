//! The keys of the table `[limits]`, each with a small value: the proxy rejects or ends what exceeds the limit, and serves what
//! stays within it.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::client::{StreamEnd, connect_tcp, is_timeout};
use crate::support::h2::{H2Client, block_on, with_time_limit};
use crate::support::registry::RequestEnd;
use crate::support::request::chunk;
use crate::support::{
    Client, HttpVersion, OK, PATIENCE, Proxy, Registry, TestRequest, certs, config, exchange,
    pattern, ping,
};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";

fn start_with_limits(registry: &Registry, limits: &str) -> Proxy {
    Proxy::start(registry, config(&format!("[limits]\n{limits}\n"), ""))
}

#[test]
fn a_head_beyond_head_size_gets_431() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "head_size = \"8KiB\"");
    for http in HttpVersion::BOTH {
        let fits = TestRequest::alice("GET", "/v2/").header("x-large", "x".repeat(6000));
        assert_eq!(exchange(&proxy, http, &fits).status, 200);
        let large = TestRequest::alice("GET", "/v2/").header("x-large", "x".repeat(10_000));
        assert_eq!(exchange(&proxy, http, &large).status, 431, "{http:?}");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn more_fields_than_head_fields_get_431() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "head_fields = 10");
    for http in HttpVersion::BOTH {
        let mut request = TestRequest::alice("GET", "/v2/");
        for number in 0..8 {
            request = request.header(&format!("x-{number}"), "x");
        }
        assert_eq!(exchange(&proxy, http, &request).status, 200);
        for number in 8..11 {
            request = request.header(&format!("x-{number}"), "x");
        }
        exchange(&proxy, http, &request).assert_rejection(431, "UNSUPPORTED");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn a_target_beyond_target_size_gets_414() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "target_size = \"1KiB\"");
    for http in HttpVersion::BOTH {
        let target = |size: usize| format!("/v2/?x={}", "x".repeat(size - "/v2/?x=".len()));
        assert_eq!(
            exchange(&proxy, http, &TestRequest::alice("GET", &target(1024))).status,
            200
        );
        let long = TestRequest::alice("GET", &target(1025));
        exchange(&proxy, http, &long).assert_rejection(414, "UNSUPPORTED");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn credentials_beyond_basic_size_get_401() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "basic_size = \"16B\"");
    for http in HttpVersion::BOTH {
        assert_eq!(ping(&proxy, http), 200);
        let long = TestRequest::new("GET", "/v2/").basic_auth(b"alice:pw and more");
        exchange(&proxy, http, &long).assert_rejection(401, "UNAUTHORIZED");
    }
}

#[test]
fn a_connection_beyond_connections_per_client_is_closed() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "connections_per_client = 2");
    let mut open = vec![Client::connect(&proxy), Client::connect(&proxy)];
    let connect = || {
        Client::try_tls(
            proxy.https(),
            "localhost",
            certs::default_client_config("http/1.1"),
        )
    };
    assert!(connect().is_err(), "a third connection was served");
    for client in &mut open {
        assert_eq!(client.ping(), 200);
    }
    open.pop();
    let until = Instant::now() + PATIENCE;
    while connect().is_err() {
        assert!(Instant::now() < until, "a closed connection still counts");
    }
}

#[test]
fn connections_beyond_the_limit_wait() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "connections = 1");
    let mut first = Client::connect(&proxy);
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let status = ping(&proxy, HttpVersion::Http1);
            sender.send(status).unwrap();
        });
        assert!(receiver.recv_timeout(Duration::from_millis(300)).is_err());
        assert_eq!(first.ping(), 200);
        drop(first);
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), 200);
    });
}

#[test]
fn an_idle_connection_is_closed_after_limits_idle() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "idle = \"300ms\"");
    let mut fresh = Client::connect(&proxy);
    assert_eq!(fresh.read_to_end(), (Vec::new(), StreamEnd::Clean));
    let mut used = Client::connect(&proxy);
    assert_eq!(used.ping(), 200);
    assert_eq!(used.read_to_end(), (Vec::new(), StreamEnd::Clean));
    block_on(async {
        let fresh = H2Client::connect(&proxy).await;
        let mut used = H2Client::connect(&proxy).await;
        assert_eq!(used.ping().await, 200);
        for client in [fresh, used] {
            // The proxy ends the connection with GOAWAY and NO_ERROR, although the client still has a handle to it. The client
            // may get an I/O error if it writes after the proxy has closed the socket.
            let end = with_time_limit(client.connection).await.unwrap();
            assert!(end.as_ref().err().is_none_or(::h2::Error::is_io), "{end:?}");
        }
    });
}

#[test]
fn idle_does_not_count_while_a_request_runs() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_millis(900));
        exchange.send(OK);
    });
    let proxy = start_with_limits(
        &registry,
        "idle = \"200ms\"\nhead = \"200ms\"\nwrite_idle = \"200ms\"",
    );
    for http in HttpVersion::BOTH {
        assert_eq!(ping(&proxy, http), 200);
    }
    drop(release);
}

#[test]
fn an_incomplete_head_gets_408_after_limits_head() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "head = \"300ms\"");
    let head = TestRequest::alice("GET", "/v2/").head();
    for bytes in [&head[..1], &head[..head.len() - 1]] {
        let mut client = Client::connect(&proxy);
        // The limit applies to every head of a connection, so the incomplete head is the third one.
        for _ in 0..2 {
            assert_eq!(client.ping(), 200);
        }
        client.send(bytes);
        let response = client.read_response("GET");
        assert_eq!(
            (response.status, response.header("connection")),
            (408, "close")
        );
        assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
    }
    assert_eq!(registry.requests().len(), 4);
}

#[test]
fn an_incomplete_pipelined_head_gets_408_after_the_response_before_it() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.send(OK);
    });
    let proxy = start_with_limits(&registry, "head = \"300ms\"");
    let mut client = Client::connect(&proxy);
    let head = TestRequest::alice("GET", "/v2/").head();
    client.send([&head, &head[..10]].concat());
    registry.wait_for_requests(|seen| seen.len() == 1);
    // While the first request is open, `limits.head` does not apply to the second head.
    assert!(no_response_arrives(&mut client));
    drop(release);
    assert_eq!(client.read_response("GET").status, 200);
    assert_eq!(client.read_response("GET").status, 408);
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
}

/// Whether no response arrives for longer than the timeouts of these tests.
fn no_response_arrives(client: &mut Client) -> bool {
    client
        .socket
        .set_read_timeout(Some(Duration::from_millis(900)))
        .unwrap();
    let is_late = client
        .try_read_response("GET")
        .is_err_and(|error| is_timeout(&error));
    client.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    is_late
}

#[test]
fn an_incomplete_head_sent_with_the_handshake_gets_408() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "head = \"300ms\"");
    let config = certs::default_client_config("http/1.1");
    let name = "localhost".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(config, name).unwrap();
    let mut socket = connect_tcp(proxy.https());
    while !tls.wants_read() || tls.wants_write() {
        tls.write_tls(&mut socket).unwrap();
    }
    while tls.is_handshaking() {
        tls.read_tls(&mut socket).unwrap();
        tls.process_new_packets().unwrap();
    }
    // The client sends its last handshake message and a part of a head in one write.
    tls.writer().write_all(b"GET /v2/ HT").unwrap();
    let mut both = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut both).unwrap();
    }
    socket.write_all(&both).unwrap();
    let mut client = Client::start_tls(tls, socket).unwrap();
    assert_eq!(client.read_response("GET").status, 408);
    assert_eq!(client.read_to_end(), (Vec::new(), StreamEnd::Clean));
}

#[test]
fn a_stalled_body_gets_408_and_breaks_the_forwarded_request() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "body_idle = \"300ms\"");
    let mut client = Client::connect(&proxy);
    client.send(TestRequest::alice("PATCH", UPLOAD).chunked().head());
    client.send(chunk(b"some"));
    client
        .read_response("PATCH")
        .assert_rejection(408, "UNSUPPORTED");
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let request = TestRequest::alice("PATCH", UPLOAD).chunked();
        let (pending_response, _sender) = client.start_request(&request).await.unwrap();
        let response = crate::support::h2::collect(pending_response.await.unwrap()).await;
        response.assert_rejection(408, "UNSUPPORTED");
    });
    let seen =
        registry.wait_for_requests(|seen| seen.iter().all(|seen| seen.end != RequestEnd::NotYet));
    assert!(
        seen.iter().all(|seen| seen.end == RequestEnd::Broken),
        "{seen:?}"
    );
}

/// A registry that sends a response without end. The receiver gets a message when the proxy has closed the connection.
fn registry_with_endless_response() -> (Registry, std::sync::mpsc::Receiver<()>) {
    let (sender, receiver) = channel();
    let registry = Registry::start(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
        let piece = pattern(1 << 20);
        let began = Instant::now();
        while exchange.is_open() {
            exchange.send(&piece);
        }
        if began.elapsed() < PATIENCE {
            let _ = sender.send(());
        }
    });
    (registry, receiver)
}

#[test]
fn a_client_that_reads_nothing_is_disconnected_after_write_idle() {
    let (registry, receiver) = registry_with_endless_response();
    let proxy = start_with_limits(&registry, "write_idle = \"300ms\"");
    let mut client = Client::connect(&proxy);
    client.send(TestRequest::alice("GET", "/v2/a/manifests/x").head());
    receiver
        .recv_timeout(PATIENCE)
        .expect("the proxy closed the connection to the registry");
    assert_eq!(client.read_to_end().1, StreamEnd::Broken);
}

#[test]
fn a_stream_whose_window_stays_closed_ends_after_write_idle() {
    let (registry, receiver) = registry_with_endless_response();
    let proxy = start_with_limits(&registry, "write_idle = \"300ms\"");
    let released = block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let (response, _) = client
            .start_request(&TestRequest::alice("GET", "/v2/a/manifests/x"))
            .await
            .unwrap();
        // The client keeps the connection open but never enlarges the window of the stream.
        let _unread = response.await.unwrap();
        let until = Duration::from_secs(10);
        tokio::task::spawn_blocking(move || receiver.recv_timeout(until).is_ok())
            .await
            .unwrap()
    });
    assert!(
        released,
        "a stream with a closed window keeps the connection to the registry open"
    );
}

#[test]
fn the_settings_frame_announces_h2_streams() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "h2_streams = 3");
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        assert_eq!(client.ping().await, 200);
        assert_eq!(client.max_concurrent_streams(), 3);
    });
}

#[test]
fn a_request_that_finds_no_upstream_connection_in_time_gets_503() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.send(OK);
    });
    let limits = "upstream_connections = 1\nupstream_queue = 1\nupstream_wait = \"200ms\"";
    let proxy = start_with_limits(&registry, limits);
    let mut first = Client::connect(&proxy);
    first.send(TestRequest::alice("GET", "/v2/").head());
    registry.wait_for_requests(|seen| seen.len() == 1);
    for http in HttpVersion::BOTH {
        let busy = exchange(&proxy, http, &TestRequest::alice("GET", "/v2/"));
        busy.assert_rejection(503, "UNAVAILABLE");
        assert!(busy.header("retry-after").parse::<u32>().is_ok());
        // The proxy responds to a ping without credentials itself, so the ping never gets 503.
        exchange(&proxy, http, &TestRequest::new("GET", "/v2/"))
            .assert_rejection(401, "UNAUTHORIZED");
    }
    drop(release);
    assert_eq!(first.read_response("GET").status, 200);
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
}

#[test]
fn a_connection_without_a_handshake_is_closed() {
    let registry = Registry::accepting_all();
    let proxy = start_with_limits(&registry, "handshake = \"200ms\"");
    let mut socket = connect_tcp(proxy.https());
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
}

#[test]
fn with_connections_1_two_listeners_serve_one_connection_at_a_time() {
    let registry = Registry::accepting_all();
    let text = config("[limits]\nconnections = 1\n", "").lines(
        "https",
        "https = [\"127.0.0.1:0\"]\nhttp = [\"127.0.0.1:0\"]",
    );
    let proxy = Proxy::start(&registry, &text);
    for _ in 0..3 {
        assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
    }
}
