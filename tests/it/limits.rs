//! The limits of `[limits]`, each with a small value: what is beyond it ends, what is within it does not notice.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::ask::chunk;
use crate::support::client::{End, dial, is_late};
use crate::support::h2::{H2, block_on, within};
use crate::support::registry::Ended;
use crate::support::{
    Ask, Client, Http, OK, PATIENCE, Proxy, Registry, ask, certs, config, pattern,
};

const UPLOAD: &str = "/v2/a/blobs/uploads/u";

fn with(registry: &Registry, limits: &str) -> Proxy {
    Proxy::start(registry, config(&format!("[limits]\n{limits}\n"), ""))
}

#[test]
fn head_size() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "head_size = \"8KiB\"");
    for http in Http::BOTH {
        let fits = Ask::alice("GET", "/v2/").header("x-large", "x".repeat(6000));
        assert_eq!(ask(&proxy, http, &fits).status, 200);
        let large = Ask::alice("GET", "/v2/").header("x-large", "x".repeat(10_000));
        assert_eq!(ask(&proxy, http, &large).status, 431, "{http:?}");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn head_fields() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "head_fields = 10");
    for http in Http::BOTH {
        let mut request = Ask::alice("GET", "/v2/");
        for number in 0..8 {
            request = request.header(&format!("x-{number}"), "x");
        }
        assert_eq!(ask(&proxy, http, &request).status, 200);
        for number in 8..11 {
            request = request.header(&format!("x-{number}"), "x");
        }
        ask(&proxy, http, &request).is_refusal(431, "UNSUPPORTED");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn target_size() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "target_size = \"1KiB\"");
    for http in Http::BOTH {
        let target = |size: usize| format!("/v2/?x={}", "x".repeat(size - "/v2/?x=".len()));
        assert_eq!(
            ask(&proxy, http, &Ask::alice("GET", &target(1024))).status,
            200
        );
        let long = Ask::alice("GET", &target(1025));
        ask(&proxy, http, &long).is_refusal(414, "UNSUPPORTED");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn basic_size() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "basic_size = \"16B\"");
    for http in Http::BOTH {
        assert_eq!(ask(&proxy, http, &Ask::alice("GET", "/v2/")).status, 200);
        let long = Ask::new("GET", "/v2/").login(b"alice:pw and more");
        ask(&proxy, http, &long).is_refusal(401, "UNAUTHORIZED");
    }
}

#[test]
fn connections_per_client() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "connections_per_client = 2");
    let mut open = vec![Client::connect(&proxy), Client::connect(&proxy)];
    let connect = || Client::try_tls(proxy.https(), "localhost", certs::usual_client("http/1.1"));
    assert!(connect().is_err(), "a third connection was served");
    for client in &mut open {
        assert_eq!(client.ask(&Ask::alice("GET", "/v2/")).status, 200);
    }
    open.pop();
    let until = Instant::now() + PATIENCE;
    while connect().is_err() {
        assert!(Instant::now() < until, "a closed connection still counts");
    }
}

#[test]
fn connections_beyond_the_limit_wait() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "connections = 1");
    let mut first = Client::connect(&proxy);
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let status = ask(&proxy, Http::One, &Ask::alice("GET", "/v2/")).status;
            tell.send(status).unwrap();
        });
        assert!(told.recv_timeout(Duration::from_millis(300)).is_err());
        assert_eq!(first.ask(&Ask::alice("GET", "/v2/")).status, 200);
        drop(first);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 200);
    });
}

#[test]
fn idle() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "idle = \"300ms\"");
    let mut fresh = Client::connect(&proxy);
    assert_eq!(fresh.rest(), (Vec::new(), End::Clean));
    let mut used = Client::connect(&proxy);
    assert_eq!(used.ask(&Ask::alice("GET", "/v2/")).status, 200);
    assert_eq!(used.rest(), (Vec::new(), End::Clean));
    block_on(async {
        let fresh = H2::connect(&proxy).await;
        let mut used = H2::connect(&proxy).await;
        assert_eq!(used.ask(&Ask::alice("GET", "/v2/")).await.status, 200);
        for client in [fresh, used] {
            // Ended by a GOAWAY without an error, though this side still holds its handle; the answer to
            // the goodbye may find the socket closed.
            let end = within(client.connection).await.unwrap();
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
    let proxy = with(
        &registry,
        "idle = \"200ms\"\nhead = \"200ms\"\nwrite_idle = \"200ms\"",
    );
    for http in Http::BOTH {
        assert_eq!(ask(&proxy, http, &Ask::alice("GET", "/v2/")).status, 200);
    }
    drop(release);
}

#[test]
fn head() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "head = \"300ms\"");
    let head = Ask::alice("GET", "/v2/").head();
    for bytes in [&head[..1], &head[..head.len() - 1]] {
        let mut client = Client::connect(&proxy);
        // The second head of a connection is held to it as the first is.
        for _ in 0..2 {
            assert_eq!(client.ask(&Ask::alice("GET", "/v2/")).status, 200);
        }
        client.send(bytes);
        let answer = client.answer("GET");
        assert_eq!((answer.status, answer.one("connection")), (408, "close"));
        assert_eq!(client.rest(), (Vec::new(), End::Clean));
    }
    assert_eq!(registry.requests().len(), 4);
}

#[test]
fn head_that_came_with_the_request_before_it() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.send(OK);
    });
    let proxy = with(&registry, "head = \"300ms\"");
    let mut client = Client::connect(&proxy);
    let head = Ask::alice("GET", "/v2/").head();
    client.send([&head, &head[..10]].concat());
    registry.wait(|seen| seen.len() == 1);
    // While the first one runs, the second may take its time.
    assert!(held_back(&mut client));
    drop(release);
    assert_eq!(client.answer("GET").status, 200);
    assert_eq!(client.answer("GET").status, 408);
    assert_eq!(client.rest(), (Vec::new(), End::Clean));
}

/// True when nothing comes for longer than the deadlines here.
fn held_back(client: &mut Client) -> bool {
    client
        .socket
        .set_read_timeout(Some(Duration::from_millis(900)))
        .unwrap();
    let is_late = client.try_answer("GET").is_err_and(|error| is_late(&error));
    client.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    is_late
}

#[test]
fn head_that_came_with_the_handshake() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "head = \"300ms\"");
    let config = certs::usual_client("http/1.1");
    let name = "localhost".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(config, name).unwrap();
    let mut socket = dial(proxy.https());
    while !tls.wants_read() || tls.wants_write() {
        tls.write_tls(&mut socket).unwrap();
    }
    while tls.is_handshaking() {
        tls.read_tls(&mut socket).unwrap();
        tls.process_new_packets().unwrap();
    }
    // The handshake's last message and a part of a head, in one piece.
    tls.writer().write_all(b"GET /v2/ HT").unwrap();
    let mut both = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut both).unwrap();
    }
    socket.write_all(&both).unwrap();
    let mut client = Client::of(tls, socket).unwrap();
    assert_eq!(client.answer("GET").status, 408);
    assert_eq!(client.rest(), (Vec::new(), End::Clean));
}

#[test]
fn body_idle() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "body_idle = \"300ms\"");
    let mut client = Client::connect(&proxy);
    client.send(Ask::alice("PATCH", UPLOAD).chunked().head());
    client.send(chunk(b"some"));
    client.answer("PATCH").is_refusal(408, "UNSUPPORTED");
    block_on(async {
        let mut client = H2::connect(&proxy).await;
        let request = Ask::alice("PATCH", UPLOAD).chunked();
        let (response, _sender) = client.begin(&request).await.unwrap();
        let answer = crate::support::h2::collect(response.await.unwrap()).await;
        answer.is_refusal(408, "UNSUPPORTED");
    });
    let seen = registry.wait(|seen| seen.iter().all(|seen| seen.end != Ended::NotYet));
    assert!(
        seen.iter().all(|seen| seen.end == Ended::Broken),
        "{seen:?}"
    );
}

/// A registry that sends without end, and says when it could not any more.
fn endless() -> (Registry, std::sync::mpsc::Receiver<()>) {
    let (tell, told) = channel();
    let registry = Registry::start(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
        let piece = pattern(1 << 20);
        let began = Instant::now();
        while exchange.is_open() {
            exchange.send(&piece);
        }
        if began.elapsed() < PATIENCE {
            let _ = tell.send(());
        }
    });
    (registry, told)
}

#[test]
fn write_idle() {
    let (registry, told) = endless();
    let proxy = with(&registry, "write_idle = \"300ms\"");
    let mut client = Client::connect(&proxy);
    client.send(Ask::alice("GET", "/v2/a/manifests/x").head());
    told.recv_timeout(PATIENCE).expect("the registry let go");
    assert_eq!(client.rest().1, End::Broken);
}

#[test]
fn write_idle_of_a_stream() {
    let (registry, told) = endless();
    let proxy = with(&registry, "write_idle = \"300ms\"");
    let released = block_on(async {
        let mut client = H2::connect(&proxy).await;
        let (response, _) = client
            .begin(&Ask::alice("GET", "/v2/a/manifests/x"))
            .await
            .unwrap();
        // Its window is never opened again, while the connection itself is alive.
        let _unread = response.await.unwrap();
        let until = Duration::from_secs(10);
        tokio::task::spawn_blocking(move || told.recv_timeout(until).is_ok())
            .await
            .unwrap()
    });
    assert!(released, "a stream that takes nothing holds the registry");
}

#[test]
fn h2_streams() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "h2_streams = 3");
    block_on(async {
        let mut client = H2::connect(&proxy).await;
        assert_eq!(client.ask(&Ask::alice("GET", "/v2/")).await.status, 200);
        assert_eq!(client.most_streams(), 3);
    });
}

#[test]
fn upstream_connections() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.send(OK);
    });
    let limits = "upstream_connections = 1\nupstream_queue = 1\nupstream_wait = \"200ms\"";
    let proxy = with(&registry, limits);
    let mut first = Client::connect(&proxy);
    first.send(Ask::alice("GET", "/v2/").head());
    registry.wait(|seen| seen.len() == 1);
    for http in Http::BOTH {
        let busy = ask(&proxy, http, &Ask::alice("GET", "/v2/"));
        busy.is_refusal(503, "UNAVAILABLE");
        assert!(busy.one("retry-after").parse::<u32>().is_ok());
        // A ping without credentials is never busy.
        ask(&proxy, http, &Ask::new("GET", "/v2/")).is_refusal(401, "UNAUTHORIZED");
    }
    drop(release);
    assert_eq!(first.answer("GET").status, 200);
    assert_eq!(
        ask(&proxy, Http::One, &Ask::alice("GET", "/v2/")).status,
        200
    );
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "handshake = \"200ms\"");
    let mut socket = dial(proxy.https());
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
}

#[test]
fn one_connection_at_a_time_is_enough_for_two_listeners() {
    let registry = Registry::obliging();
    let text = config("[limits]\nconnections = 1\n", "").lines(
        "https",
        "https = [\"127.0.0.1:0\"]\nhttp = [\"127.0.0.1:0\"]",
    );
    let proxy = Proxy::start(&registry, &text);
    for _ in 0..3 {
        assert_eq!(
            ask(&proxy, Http::One, &Ask::alice("GET", "/v2/")).status,
            200
        );
    }
}
