//! WebSockets on a route with `registry = false`: the handshake, the tunnel, its limits, and attacks on all three.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tidegate::server::{Command, Scheme};

use crate::admin::{admin, get, get_unix};
use crate::support::client::{StreamEnd, connect_tcp, is_timeout};
use crate::support::h2::{H2Client, block_on};
use crate::support::proxy::TestConfig;
use crate::support::registry::{Exchange, RequestEnd};
use crate::support::{
    Client, OK, PATIENCE, Proxy, Registry, TestRequest, TestResponse, assert_contains, config,
    eventually, eventually_some, pattern, pause,
};

/// The handshake of RFC 6455 section 1.3, whose response has [`ACCEPT`].
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A proxy with a registry at `/v2/` and a user interface at `/ui/`.
fn with_ui(tables: &str, keys: &str) -> TestConfig {
    config(tables, "").append(&format!(
        "[[site.route]]\npath = \"/ui/\"\nregistry = false\n{keys}\n\
         auth = {{ mode = \"basic\", htpasswd = \"htpasswd\", realm = \"UI\" }}\n"
    ))
}

fn ui() -> TestConfig {
    with_ui("", "upstream = \"{upstream}\"")
}

/// A handshake without credentials.
fn handshake(target: &str) -> TestRequest {
    TestRequest::new("GET", target)
        .header("Connection", "keep-alive, Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY)
}

fn alices(target: &str) -> TestRequest {
    handshake(target).basic_auth(b"alice:pw")
}

/// An upstream's 101 with these further header fields.
fn switching(fields: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{fields}\r\n"
    )
}

fn accepted() -> String {
    switching(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n"))
}

/// An upstream that opens each WebSocket and sends back what it gets, and responds to everything else with 200.
fn echo() -> Registry {
    Registry::start(|exchange: &mut Exchange<'_>| {
        if exchange.head.all("upgrade").is_empty() {
            exchange.body();
            return exchange.send(OK);
        }
        exchange.send(accepted());
        while let Some(bytes) = exchange.raw() {
            exchange.send(bytes);
        }
        exchange.close();
    })
}

/// Sends a handshake and returns the response head.
#[track_caller]
fn open(client: &mut Client, request: &TestRequest) -> TestResponse {
    client.send(request.head());
    let head = client.read_head().unwrap();
    assert_eq!(head.status, 101, "{head:?}");
    head
}

/// A client with an open WebSocket.
#[track_caller]
fn opened(proxy: &Proxy) -> Client {
    let mut client = Client::connect(proxy);
    open(&mut client, &alices("/ui/ws"));
    client
}

#[track_caller]
fn echoes(client: &mut Client, bytes: &[u8]) {
    client.send(bytes);
    assert!(
        client.read_exact(bytes.len()) == bytes,
        "{} bytes",
        bytes.len()
    );
}

/// The line of the access log with this text.
#[track_caller]
fn line(log: &str, text: &str) -> String {
    let line = log.lines().find(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("{text} in {log}")).to_owned()
}

#[test]
fn a_websocket_carries_bytes_in_both_directions() {
    let upstream = echo();
    let proxy = Proxy::start(&upstream, ui());
    let mut client = Client::connect(&proxy);
    // The connection may have served other requests before.
    assert_eq!(client.ping(), 200);
    let request = alices("/ui/ws?token=x")
        .header("Sec-WebSocket-Protocol", "chat")
        .header("Sec-WebSocket-Extensions", "permessage-deflate")
        .header("X-Forwarded-For", "6.6.6.6");
    let head = open(&mut client, &request);
    assert_eq!(head.header("upgrade"), "websocket");
    assert_eq!(head.header("connection"), "upgrade");
    assert_eq!(head.header("sec-websocket-accept"), ACCEPT);
    assert!(!head.header("x-request-id").is_empty());
    assert!(!head.has_header("content-length") && !head.has_header("transfer-encoding"));
    let seen = upstream.requests().pop().unwrap();
    assert_eq!(seen.target, "/ui/ws?token=x");
    for (name, value) in [
        ("host", "localhost"),
        ("upgrade", "websocket"),
        ("connection", "upgrade"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(seen.header(name), value);
    }
    assert!(seen.all("authorization").is_empty());
    // Bytes that look like HTTP, and bytes that no HTTP parser accepts.
    for bytes in [
        b"GET /v2/ HTTP/1.1\r\n\r\n".as_slice(),
        b"\0\r\r\n\n#",
        &pattern(100),
    ] {
        echoes(&mut client, bytes);
    }
    assert_eq!(upstream.requests().len(), 2);
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let (rest, _) = client.read_to_end();
    assert!(rest.is_empty());
    upstream.wait_for_requests(|requests| requests[1].end == RequestEnd::Whole);
    let log = proxy.stop_and_read_access_log();
    let line = line(&log, "path=/ui/ws");
    assert_contains(
        &line,
        &[
            " status=101 ",
            " user=alice ",
            " bytes_in=127 ",
            " bytes_out=127 ",
            " upstream_ms=",
        ],
    );
    assert!(
        !line.contains("token") && !line.contains("termination"),
        "{line}"
    );
}

/// Sends `bytes` while it reads as many back.
fn exchange(mut client: Client, bytes: &[u8]) {
    let mut writer = client.socket.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(bytes).unwrap());
        assert!(client.read_exact(bytes.len()) == bytes);
    });
}

/// Sites behind a proxy that terminates TLS.
fn behind_proxy() -> TestConfig {
    ui().lines(
        "https",
        "behind_proxy = [\"127.0.0.1:0\", \"unix:{dir}/http.sock\"]\ntrusted_proxies = [\"127.0.0.1\"]",
    )
    .lines("tls", "")
}

fn forwarded(ask: TestRequest) -> TestRequest {
    ask.header("X-Forwarded-Proto", "https")
}

#[test]
fn a_websocket_passes_over_every_transport_at_full_length() {
    let upstream = echo();
    let proxy = Proxy::start(&upstream, behind_proxy());
    let bytes = pattern(20 << 20);
    let mut client = Client::plain(proxy.listener(Scheme::BehindProxy));
    open(&mut client, &forwarded(alices("/ui/ws")));
    exchange(client, &bytes);
    let connect = || UnixStream::connect(proxy.path("http.sock")).ok();
    let mut client = Client::from_socket(eventually_some("the socket is there", connect));
    open(&mut client, &forwarded(alices("/ui/ws")));
    exchange(client, &bytes);
    let seen = upstream.requests();
    assert!(seen.iter().all(|request| request.body == bytes));
    let proxy = Proxy::start(&upstream, ui());
    let mut client = opened(&proxy);
    for part in bytes.chunks(64 << 10).take(64) {
        echoes(&mut client, part);
    }
}

#[test]
fn the_first_bytes_of_the_upstream_may_come_with_its_101() {
    let upstream = Registry::start(|exchange: &mut Exchange<'_>| {
        exchange.send([accepted().as_bytes(), b"hello"].concat());
        exchange.raw();
        exchange.send("goodbye");
        exchange.close();
    });
    let proxy = Proxy::start(&upstream, ui());
    let mut client = opened(&proxy);
    assert_eq!(client.read_exact(5), b"hello");
    client.send("x");
    // The upstream has closed, so the proxy closes with everything that came before.
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end().0, b"goodbye");
}

/// The silence of a half-closed tunnel is counted from its half-close.
#[test]
fn an_idle_tunnel_that_a_client_half_closes_is_not_silent_for_too_long() {
    let upstream = Registry::start(|exchange: &mut Exchange<'_>| {
        exchange.send(accepted());
        assert_eq!(exchange.raw(), None);
        pause(Duration::from_millis(300));
        exchange.send("goodbye");
        exchange.close();
    });
    let keys = "upstream = { urls = [\"{upstream}\"], read_timeout = \"1500ms\" }";
    let proxy = Proxy::start(&upstream, with_ui("", keys));
    let mut client = opened(&proxy);
    pause(Duration::from_millis(1300));
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end().0, b"goodbye");
    let log = proxy.stop_and_read_access_log();
    assert!(!line(&log, "path=/ui/ws").contains("termination"), "{log}");
}

#[test]
fn no_handshake_reaches_an_upstream_before_its_client_may_send_it() {
    let upstream = echo();
    let tables = "[throttle]\nguesses = 0\n";
    let proxy = Proxy::start(&upstream, with_ui(tables, "upstream = \"{upstream}\""));
    let wrong = handshake("/ui/ws").basic_auth(b"alice:wrong");
    let denied = with_ui(tables, "upstream = \"{upstream}\"\ndeny = [\"all\"]");
    let mut client = Client::connect(&proxy);
    for (request, status) in [
        (handshake("/ui/ws"), 401),
        (wrong, 401),
        (alices("/elsewhere"), 404),
        (alices("/ui/ws").host("evil.test"), 421),
        (alices("/ui/ws").header("Origin", "https://evil.test"), 403),
        (alices("/ui/ws").header("Origin", "http://localhost"), 403),
        (alices("/ui/ws").header("Origin", "null"), 403),
    ] {
        // The rejection leaves the connection as it was.
        assert_eq!(client.exchange(&request).status, status, "{request:?}");
    }
    let denied = Proxy::start(&upstream, denied);
    assert_eq!(
        Client::connect(&denied).exchange(&alices("/ui/ws")).status,
        403
    );
    assert!(upstream.requests().is_empty());
    for origin in ["https://localhost", "https://LOCALHOST"] {
        let request = alices("/ui/ws").header("Origin", origin);
        open(&mut Client::connect(&proxy), &request);
    }
    let cors = "upstream = \"{upstream}\"\ncors = [\"https://ui.test\"]";
    let proxy = Proxy::start(&upstream, with_ui("", cors));
    let request = alices("/ui/ws").header("Origin", "https://ui.test");
    open(&mut Client::connect(&proxy), &request);
    // A page has the host under which the browser has reached it, or the one of external_url.
    let external = ui().after("hosts", "external_url = \"https://outer.test\"");
    let proxy = Proxy::start(&upstream, external);
    for origin in ["https://localhost", "https://outer.test"] {
        let request = alices("/ui/ws").header("Origin", origin);
        open(&mut Client::connect(&proxy), &request);
    }
}

#[test]
fn a_request_for_another_protocol_or_another_handshake_is_rejected() {
    let upstream = echo();
    let proxy = Proxy::start(&upstream, ui());
    let changed = |name: &str, value: &str| {
        let mut request = alices("/ui/ws");
        request.headers.retain(|(known, _)| known != name);
        request.header(name, value)
    };
    let mut post = alices("/ui/ws");
    "POST".clone_into(&mut post.method);
    let mut client = Client::connect(&proxy);
    for (request, status) in [
        (changed("Upgrade", "h2c"), 501),
        (changed("Upgrade", "websocket, h2c"), 501),
        (changed("Upgrade", "TLS/1.0"), 501),
        (alices("/ui/ws").header("Upgrade", "h2c"), 501),
        (changed("Sec-WebSocket-Version", "8"), 426),
        (changed("Sec-WebSocket-Key", "short"), 400),
        (alices("/ui/ws").header("Sec-WebSocket-Key", KEY), 400),
        (post.clone(), 400),
    ] {
        let answer = client.exchange(&request);
        assert_eq!(answer.status, status, "{request:?}");
        if status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), "13");
        }
    }
    for body in [alices("/ui/ws").body("abc"), alices("/ui/ws").chunked()] {
        assert_eq!(
            Client::connect(&proxy).exchange(&body).status,
            400,
            "{body:?}"
        );
    }
    assert!(upstream.requests().is_empty());
    // What does not ask for another protocol passes without Upgrade (RFC 9110 section 7.8).
    for request in [
        changed("Connection", "keep-alive"),
        TestRequest::alice("GET", "/ui/"),
    ] {
        assert_eq!(client.exchange(&request).status, 200);
        assert!(upstream.requests().pop().unwrap().all("upgrade").is_empty());
    }
    let old = String::from_utf8(alices("/ui/ws").head()).unwrap();
    client.send(old.replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(client.read_response("GET").status, 200);
    assert!(upstream.requests().pop().unwrap().all("upgrade").is_empty());
}

#[test]
fn a_registry_route_and_a_route_without_websockets_never_switch() {
    let upstream = Registry::responding(accepted());
    let keys = "upstream = \"{upstream}\"\nwebsocket = false";
    let proxy = Proxy::start(&upstream, with_ui("", keys));
    for target in ["/v2/", "/v2/a/tags/list", "/ui/ws"] {
        let answer = Client::connect(&proxy).exchange(&alices(target));
        assert_eq!(answer.status, 502, "{target}");
        let seen = upstream.requests().pop().unwrap();
        assert!(seen.all("upgrade").is_empty() && seen.all("connection").is_empty());
    }
    let upstream = echo();
    let proxy = Proxy::start(&upstream, with_ui("", keys));
    for target in ["/v2/", "/ui/ws"] {
        assert_eq!(
            Client::connect(&proxy).exchange(&alices(target)).status,
            200
        );
    }
}

#[test]
fn no_other_101_opens_a_tunnel() {
    let accept = format!("Sec-WebSocket-Accept: {ACCEPT}\r\n");
    let of = |line: &str, fields: &str| format!("{line}\r\n{fields}\r\n");
    let responses = [
        switching(""),
        switching("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOO=\r\n"),
        switching(&format!("{accept}{accept}")),
        switching(&format!("{accept}Content-Length: 0\r\n")),
        switching(&format!("{accept}Transfer-Encoding: chunked\r\n")),
        switching(&format!("{accept}Upgrade: h2c\r\n")),
        of(
            "HTTP/1.1 101 x",
            &format!("Upgrade: h2c\r\nConnection: Upgrade\r\n{accept}"),
        ),
        of(
            "HTTP/1.1 101 x",
            &format!("Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n{accept}"),
        ),
        of("HTTP/1.1 101 x", &format!("Upgrade: websocket\r\n{accept}")),
        of(
            "HTTP/1.1 101 x",
            &format!("Connection: Upgrade\r\n{accept}"),
        ),
        of(
            "HTTP/1.0 101 x",
            &format!("Upgrade: websocket\r\nConnection: Upgrade\r\n{accept}"),
        ),
    ];
    for response in responses {
        let sent = [
            response.as_bytes(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ]
        .concat();
        let upstream = Registry::responding(sent);
        let proxy = Proxy::start(&upstream, ui());
        let mut client = Client::connect(&proxy);
        assert_eq!(client.exchange(&alices("/ui/ws")).status, 502, "{response}");
        // The connection of the upstream is not used again, and the bytes on it are no response to another request.
        assert_eq!(client.exchange(&alices("/ui/ws")).status, 502, "{response}");
        assert_eq!(upstream.connections(), 2);
        // Without a handshake, no 101 is a response.
        let plain = TestRequest::alice("GET", "/ui/");
        assert_eq!(client.exchange(&plain).status, 502, "{response}");
    }
    let upstream = Registry::responding(accepted());
    let proxy = Proxy::start(&upstream, ui());
    for plain in [
        TestRequest::alice("GET", "/ui/"),
        TestRequest::alice("POST", "/ui/").body("x"),
    ] {
        assert_eq!(Client::connect(&proxy).exchange(&plain).status, 502);
    }
}

#[test]
fn a_response_that_is_no_101_leaves_the_connection_with_http() {
    let upstream = Registry::start(|exchange: &mut Exchange<'_>| {
        exchange.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    });
    let proxy = Proxy::start(&upstream, ui());
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        let answer = client.exchange(&alices("/ui/ws"));
        assert_eq!((answer.status, &*answer.body), (403, &b"no"[..]));
    }
    assert_eq!(
        client.exchange(&TestRequest::alice("GET", "/ui/")).status,
        403
    );
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn bytes_after_a_handshake_belong_to_the_tunnel_or_are_a_request_of_their_own() {
    let upstream = echo();
    let proxy = Proxy::start(&upstream, ui());
    let next = TestRequest::alice("GET", "/v2/secret/tags/list").head();
    // The upstream switches: the bytes arrive as they are, and are no request.
    let mut client = Client::connect(&proxy);
    client.send([alices("/ui/ws").head(), next.clone()].concat());
    assert_eq!(client.read_head().unwrap().status, 101);
    assert_eq!(client.read_exact(next.len()), next);
    let seen =
        upstream.wait_for_requests(|requests| requests.iter().any(|request| request.body == next));
    assert_eq!(seen.len(), 1);
    // Bytes that arrive while the upstream decides.
    let deciding = Registry::start(|exchange: &mut Exchange<'_>| {
        let is_slow = exchange.head.target.ends_with("slow");
        if is_slow {
            exchange.set_timeout(Duration::from_millis(300));
            assert_eq!(exchange.raw(), None, "bytes before the 101");
            exchange.set_timeout(PATIENCE);
        }
        if exchange.head.all("upgrade").is_empty() {
            return exchange.send(OK);
        }
        exchange.send(accepted());
        while let Some(bytes) = exchange.raw() {
            exchange.send(bytes);
        }
        exchange.close();
    });
    let proxy = Proxy::start(&deciding, ui());
    let mut client = Client::connect(&proxy);
    client.send(alices("/ui/slow").head());
    deciding.wait_for_requests(|requests| requests.len() == 1);
    client.send("early");
    assert_eq!(client.read_head().unwrap().status, 101);
    assert_eq!(client.read_exact(5), b"early");
    // The proxy or the upstream declines: the bytes are the next request of this client, with checks of its own.
    let upstream = Registry::accepting_all();
    let proxy = Proxy::start(&upstream, ui());
    for (first, status) in [
        (alices("/ui/ws"), 200),
        (handshake("/ui/ws"), 401),
        (alices("/ui/ws").header("Upgrade", "h2c"), 501),
    ] {
        let without_login = TestRequest::new("GET", "/v2/secret/tags/list").head();
        let mut client = Client::connect(&proxy);
        client.send([first.head(), without_login, next.clone()].concat());
        assert_eq!(client.read_response("GET").status, status);
        assert_eq!(client.read_response("GET").status, 401);
        assert_eq!(client.read_response("GET").status, 200);
    }
    let seen: Vec<_> = upstream
        .requests()
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    let listed = "/v2/secret/tags/list";
    assert_eq!(seen, ["/ui/ws", listed, listed, listed]);
    // What follows is checked as a request.
    let mut client = Client::connect(&proxy);
    let bad =
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
    client.send([handshake("/ui/ws").head(), bad.into()].concat());
    assert_eq!(client.read_response("GET").status, 401);
    assert_eq!(client.read_response("GET").status, 400);
}

/// The response to the first request decides nothing about the bytes after the handshake.
#[test]
fn bytes_after_a_handshake_that_is_pipelined_belong_to_the_tunnel() {
    let upstream = echo();
    let proxy = Proxy::start(&upstream, ui());
    let secret = "/v2/secret/tags/list";
    for _ in 0..20 {
        let mut client = Client::connect(&proxy);
        let first = TestRequest::alice("GET", "/v2/").head();
        let last = TestRequest::alice("GET", secret).head();
        client.send([first, alices("/ui/ws").head(), last.clone()].concat());
        assert_eq!(client.read_response("GET").status, 200);
        assert_eq!(client.read_head().unwrap().status, 101);
        assert_eq!(client.read_exact(last.len()), last);
    }
    let seen = upstream.requests();
    assert!(
        seen.iter().all(|request| request.target != secret),
        "{seen:?}"
    );
}

#[test]
fn a_client_that_leaves_or_sends_much_before_the_response_is_noticed() {
    let upstream = Registry::start(|exchange: &mut Exchange<'_>| exchange.wait_closed());
    let proxy = Proxy::start(&upstream, ui());
    let mut client = Client::connect(&proxy);
    client.send(alices("/ui/ws").head());
    upstream.wait_for_requests(|requests| requests.len() == 1);
    drop(client);
    upstream.wait_for_requests(|requests| requests[0].end == RequestEnd::Broken);
    let mut client = Client::connect(&proxy);
    client.send(alices("/ui/ws").head());
    upstream.wait_for_requests(|requests| requests.len() == 2);
    let timeout = Some(Duration::from_millis(500));
    client.socket.set_write_timeout(timeout).unwrap();
    let block = pattern(64 << 10);
    // The proxy keeps some of it; the rest stays in the buffers of the sockets.
    let sent = (0..1024).take_while(|_| client.try_send(&block).is_ok());
    assert!(sent.count() < 512);
    // A client that has sent more than the proxy keeps, and leaves.
    let mut client = Client::connect(&proxy);
    client.send(alices("/ui/ws").head());
    upstream.wait_for_requests(|requests| requests.len() == 3);
    client.send(pattern(48 << 10));
    drop(client);
    upstream.wait_for_requests(|requests| requests[2].end == RequestEnd::Broken);
}

#[test]
fn a_client_that_closes_one_direction_of_a_silent_tunnel_has_left() {
    let upstream = Registry::start(|exchange: &mut Exchange<'_>| {
        exchange.send(accepted());
        exchange.wait_closed();
        pause(Duration::from_secs(2));
    });
    let keys = "upstream = { urls = [\"{upstream}\"], read_timeout = \"1s\" }";
    let proxy = Proxy::start(&upstream, with_ui("", keys));
    let client = opened(&proxy);
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    upstream.wait_for_requests(|requests| requests[0].end == RequestEnd::Broken);
    pause(Duration::from_millis(1500));
    let log = proxy.stop_and_read_access_log();
    let tunnel = line(&log, "path=/ui/ws");
    assert!(tunnel.contains(" termination=client_abort"), "{tunnel}");
}

#[test]
fn the_slower_side_slows_the_faster_one() {
    let (listen, listening) = channel();
    let listening = Mutex::new(listening);
    let upstream = Registry::start(move |exchange: &mut Exchange<'_>| {
        exchange.send(accepted());
        if exchange.head.target == "/ui/deaf" {
            let _ = listening.lock().recv_timeout(PATIENCE);
            return exchange.wait_closed();
        }
        // The connection breaks when the test ends.
        let block = pattern(64 << 10);
        let mut blocks = 0;
        exchange.set_timeout(Duration::from_millis(500));
        while exchange.is_open() && blocks < 1024 {
            exchange.send(&block);
            blocks += 1;
        }
        assert!(
            blocks < 512,
            "{blocks} blocks to a client that does not read"
        );
        exchange.wait_closed();
    });
    let proxy = Proxy::start(&upstream, ui());
    let mut client = Client::connect(&proxy);
    open(&mut client, &alices("/ui/deaf"));
    let timeout = Some(Duration::from_millis(500));
    client.socket.set_write_timeout(timeout).unwrap();
    let block = pattern(64 << 10);
    let sent = (0..1024).take_while(|_| client.try_send(&block).is_ok());
    assert!(sent.count() < 512);
    listen.send(()).unwrap();
    let mut unread = Client::connect(&proxy);
    open(&mut unread, &alices("/ui/flood"));
    upstream.wait_for_requests(|requests| requests.len() == 2);
    drop(client);
    upstream.wait_for_requests(|requests| {
        requests
            .iter()
            .all(|request| request.end == RequestEnd::Broken)
    });
}

#[test]
fn a_silent_tunnel_is_closed_and_one_with_traffic_is_not() {
    let upstream = echo();
    let keys = "upstream = { urls = [\"{upstream}\"], read_timeout = \"1s\" }";
    let proxy = Proxy::start(&upstream, with_ui("", keys));
    let mut client = opened(&proxy);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2500) {
        echoes(&mut client, b"ping");
        pause(Duration::from_millis(200));
    }
    let silent = Instant::now();
    let (rest, end) = client.read_to_end();
    assert!(rest.is_empty() && end == StreamEnd::Clean);
    assert!(silent.elapsed() >= Duration::from_millis(600));
    let log = proxy.stop_and_read_access_log();
    assert!(
        line(&log, "path=/ui/ws").contains("termination=timeout"),
        "{log}"
    );
}

#[test]
fn a_client_that_does_not_read_is_closed() {
    let upstream = Registry::start(|exchange: &mut Exchange<'_>| {
        exchange.send(accepted());
        let block = pattern(64 << 10);
        while exchange.is_open() {
            exchange.send(&block);
        }
    });
    let limits = "[limits]\nwrite_idle = \"1s\"\n";
    let text = with_ui(limits, "upstream = \"{upstream}\"");
    let proxy = Proxy::start(&upstream, text.after("https", "admin = \"127.0.0.1:0\""));
    let client = opened(&proxy);
    eventually("the tunnel is closed", || {
        let log = std::fs::read_to_string(proxy.path("access.log")).unwrap_or_default();
        log.contains("path=/ui/ws")
    });
    drop(client);
    eventually("the timeout of the connection is counted", || {
        let metrics = get(admin(&proxy), "/metrics").text();
        metrics.contains("tidegate_connections_closed_total{reason=\"write_timeout\"} 1\n")
    });
    let log = proxy.stop_and_read_access_log();
    assert!(
        line(&log, "path=/ui/ws").contains("termination=timeout"),
        "{log}"
    );
}

#[test]
fn a_shutdown_ends_tunnels_after_its_time() {
    let upstream = echo();
    let limits = "[limits]\ndrain = \"1s\"\n";
    let proxy = Proxy::start(&upstream, with_ui(limits, "upstream = \"{upstream}\""));
    let mut client = opened(&proxy);
    proxy.send_command(Command::Stop);
    echoes(&mut client, b"still open");
    assert_eq!(proxy.wait(), 1);
    assert!(client.read_to_end().0.is_empty());
    let log = std::fs::read_to_string(proxy.path("access.log")).unwrap();
    assert!(
        line(&log, "path=/ui/ws").contains("termination=drain"),
        "{log}"
    );
}

#[test]
fn the_log_names_the_side_that_broke_the_tunnel() {
    let upstream = Registry::start(|exchange: &mut Exchange<'_>| {
        exchange.send(accepted());
        exchange.raw();
        exchange.close();
    });
    let proxy = Proxy::start(&upstream, ui());
    // Both sides close, one after the other.
    let mut client = opened(&proxy);
    client.send("x");
    client.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.read_to_end().0.is_empty());
    let reset = echo();
    let proxies = [proxy, Proxy::start(&reset, ui())];
    let mut client = opened(&proxies[1]);
    echoes(&mut client, b"x");
    reset.kill();
    let _ = client.read_to_end();
    let [closed, broken] = proxies.map(Proxy::stop_and_read_access_log);
    assert!(
        !line(&closed, "path=/ui/ws").contains("upstream_abort"),
        "{closed}"
    );
    assert!(
        line(&broken, "path=/ui/ws").contains("upstream_abort"),
        "{broken}"
    );
}

#[test]
fn a_tunnel_is_a_transfer_that_an_operator_can_end() {
    let upstream = echo();
    let text = ui().after("https", "admin = \"unix:{dir}/admin.sock\"");
    let proxy = Proxy::start(&upstream, text);
    let socket = proxy.path("admin.sock");
    let mut client = opened(&proxy);
    echoes(&mut client, b"four");
    let row = eventually_some("the tunnel is listed", || {
        let json: Value = serde_json::from_str(&get_unix(&socket, "/status.json").text()).unwrap();
        json["transfers"].get(0).cloned()
    });
    for (key, value) in [
        ("operation", Value::from("websocket")),
        ("repository", "/ui/ws".into()),
        ("user", "alice".into()),
        ("bytes", 8.into()),
        ("length", Value::Null),
    ] {
        assert_eq!(row[key], value, "{key} in {row}");
    }
    let page = get_unix(&socket, "/").text();
    assert!(
        page.contains("websocket") && page.contains("/ui/ws"),
        "{page}"
    );
    let mut admin = Client::from_socket(UnixStream::connect(&socket).unwrap());
    let cut = format!(
        "POST /cut?id={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        row["id"]
    );
    admin.send(cut);
    let answer = admin.read_response("POST");
    assert_eq!(answer.status, 200);
    assert!(
        answer.text().contains("websocket of /ui/ws by alice"),
        "{}",
        answer.text()
    );
    assert!(client.read_to_end().0.is_empty());
    let counted = |text: &str| get_unix(&socket, "/metrics").text().contains(text);
    eventually("the tunnel is counted", || {
        counted(
            "tidegate_requests_total{site=\"localhost\",operation=\"websocket\",status=\"101\"} 1",
        )
    });
    for text in [
        "tidegate_received_bytes_total{site=\"localhost\",operation=\"websocket\"} 4",
        "tidegate_sent_bytes_total{site=\"localhost\",operation=\"websocket\"} 4",
        "tidegate_active_transfers 0",
    ] {
        assert!(
            counted(text),
            "{text} in {}",
            get_unix(&socket, "/metrics").text()
        );
    }
    let log = proxy.stop_and_read_access_log();
    assert!(
        line(&log, "path=/ui/ws").contains("termination=cut"),
        "{log}"
    );
}

#[test]
fn tunnels_have_the_shares_of_other_requests() {
    let upstream = echo();
    let limits = "[limits]\nupstream_connections = 2\nupstream_wait = \"300ms\"\n";
    let proxy = Proxy::start(&upstream, with_ui(limits, "upstream = \"{upstream}\""));
    let mut first = opened(&proxy);
    // One client network has half of the connections.
    assert_eq!(
        Client::connect(&proxy).exchange(&alices("/ui/ws")).status,
        503
    );
    echoes(&mut first, b"x");
    // A tunnel that is idle for a second leaves its place to others.
    eventually("the idle tunnel counts no more", || {
        Client::connect(&proxy).ping() == 200
    });
    echoes(&mut first, b"still open");
    drop(first);
    upstream.wait_for_requests(|requests| requests[0].end == RequestEnd::Whole);
    opened(&proxy);
}

#[test]
fn a_tunnel_that_is_opened_over_http2_is_no_tunnel() {
    let upstream = echo();
    let proxy = Proxy::start(&upstream, ui());
    // RFC 8441 needs a setting that the proxy does not send, and RFC 9113 section 8.2.2 forbids Upgrade.
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let connect = TestRequest::alice("CONNECT", "/ui/ws");
        assert!(client.start_request(&connect).await.is_err() || upstream.requests().is_empty());
    });
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let request = TestRequest::alice("GET", "/ui/").header("upgrade", "websocket");
        if let Ok((response, _)) = client.start_request(&request).await {
            assert!(response.await.is_err());
        }
    });
    assert!(upstream.requests().is_empty());
}

/// What a connection to this address brings within a moment; `None` if nothing.
fn dialled(address: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut client = Client::from_socket(connect_tcp(address));
    client.send(bytes);
    let head = client.read_head();
    match head {
        Ok(head) => Some(head.status),
        Err(error) => {
            assert!(!is_timeout(&error));
            None
        }
    }
}

#[test]
fn a_peer_that_is_not_trusted_opens_no_tunnel() {
    let upstream = echo();
    let text = behind_proxy()
        .to_string()
        .replace("[\"127.0.0.1\"]", "[\"192.0.2.1\"]");
    let proxy = Proxy::start(&upstream, text);
    let address = proxy.listener(Scheme::BehindProxy);
    let request = forwarded(alices("/ui/ws")).head();
    assert_eq!(dialled(address, &request), Some(403));
    assert!(upstream.requests().is_empty());
    let trusted = Proxy::start(&upstream, behind_proxy());
    let plain = alices("/ui/ws").head();
    assert_eq!(
        dialled(trusted.listener(Scheme::BehindProxy), &plain),
        Some(400)
    );
    assert!(upstream.requests().is_empty());
}
