//! Fair sharing of the connections to an upstream: one or several client networks that occupy connections leave connections for
//! other client networks.
//!
//! Each connection begins with a PROXY header that names the client.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::support::client::connect_tcp_on_behalf_of;
use crate::support::frames::{END_HEADERS, END_STREAM, HEADERS, RawH2, frame, header_block};
use crate::support::h2::{H2Client, block_on, wait_until};
use crate::support::{Client, OK, PATIENCE, Proxy, Registry, TestRequest, certs, config};

/// More bytes than the sockets and the proxy together buffer of a response that the client does not read.
const SIZE: usize = 16 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// Starts a proxy that accepts PROXY headers from this machine.
fn start(registry: &Registry, limits: &str) -> Proxy {
    let top = format!("[limits]\n{limits}\n");
    let keys = "workers = 2\nproxy_protocol = [\"127.0.0.1\"]";
    let proxy = Proxy::start(registry, config(&top, "").lines("workers", keys));
    // The login is then in the login cache, so that no later request waits for a password hash.
    assert_eq!(request_from(&proxy, "198.51.100.1", &ping()).0, 200);
    proxy
}

fn ping() -> TestRequest {
    TestRequest::alice("GET", "/v2/")
}

/// Opens a connection on behalf of `client`.
fn connect(proxy: &Proxy, client: &str, protocol: &str) -> Client {
    let socket = connect_tcp_on_behalf_of(client, proxy.https());
    let config = certs::default_client_config(protocol);
    let tls = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    Client::start_tls(tls, socket).unwrap()
}

/// Sends a request over a new connection, and returns the status and the time until the response.
fn request_from(proxy: &Proxy, client: &str, request: &TestRequest) -> (u16, Duration) {
    let began = Instant::now();
    let status = connect(proxy, client, "http/1.1").exchange(request).status;
    (status, began.elapsed())
}

/// How a client occupies upstream connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Requests a large response, and sends no WINDOW_UPDATE.
    Unread,
    /// Starts an upload, and sends no body.
    Unsent,
}

/// Opens an HTTP/2 connection and starts a request on each of `streams` streams.
fn hold(proxy: &Proxy, client: &str, hold: Hold, streams: usize) -> RawH2 {
    let mut frames = RawH2::over(connect(proxy, client, "h2"));
    frames.send_preface(&[]);
    let method: &[u8] = if hold == Hold::Unread {
        b"GET"
    } else {
        b"PATCH"
    };
    let path: &[u8] = match hold {
        Hold::Unread => b"/v2/a/manifests/x",
        Hold::Unsent => b"/v2/a/blobs/uploads/u",
    };
    let fields: [(&[u8], &[u8]); 5] = [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path),
        (b"authorization", b"Basic YWxpY2U6cHc="),
    ];
    let end = if hold == Hold::Unread { END_STREAM } else { 0 };
    for _ in 0..streams {
        let stream = frames.next_stream_id();
        frames.send(frame(
            HEADERS,
            END_HEADERS | end,
            stream,
            &header_block(&fields),
        ));
    }
    assert!(frames.ping_round_trip());
    frames
}

/// A registry that responds to requests for manifests with [`SIZE`] bytes, reads uploads to their end, and responds to all other
/// requests at once.
fn start_registry() -> Registry {
    let large = vec![b'x'; SIZE];
    Registry::start(move |exchange| {
        if exchange.head.target.contains("manifests") {
            exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            exchange.send(&large);
        } else {
            exchange.body();
            exchange.send(OK);
        }
    })
}

fn is_held(target: &str) -> bool {
    target.contains("manifests") || target.contains("uploads")
}

/// Waits until `count` requests that occupy a connection have arrived at the registry.
fn wait_held(registry: &Registry, count: usize) {
    registry.wait_for_requests(|seen| {
        seen.iter().filter(|seen| is_held(&seen.target)).count() >= count
    });
}

/// The 99th percentile of `times`.
fn percentile_99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn assert_one_network_leaves_connections(kind: Hold) {
    let registry = start_registry();
    let proxy = start(&registry, "");
    // The three addresses are in one /64, and count as one client network.
    let held: Vec<_> = (1..=3)
        .map(|number| hold(&proxy, &format!("2001:db8:1:1::{number}"), kind, 100))
        .collect();
    wait_held(&registry, 128);
    // Clients in another /64 of the same /48, and in other networks.
    for client in ["2001:db8:1:2::1", "2001:db8:2::1", "192.0.2.7"] {
        let (status, took) = request_from(&proxy, client, &ping());
        assert_eq!(status, 200, "{kind:?} {client}");
        assert!(took < SECOND, "{kind:?} {client}: {took:?}");
    }
    let mut other = connect(&proxy, "192.0.2.7", "http/1.1");
    let times = (0..500).map(|_| {
        let began = Instant::now();
        assert_eq!(other.exchange(&ping()).status, 200);
        began.elapsed()
    });
    let p99 = percentile_99(times.collect());
    println!("p99 of another client beside 300 requests, {kind:?}: {p99:?}");
    assert!(p99 < SECOND / 2, "{kind:?}: {p99:?}");
    drop((held, proxy));
}

#[test]
fn unread_responses_of_one_network_leave_connections_for_others() {
    assert_one_network_leaves_connections(Hold::Unread);
}

#[test]
fn unsent_uploads_of_one_network_leave_connections_for_others() {
    assert_one_network_leaves_connections(Hold::Unsent);
}

#[test]
fn unread_responses_of_many_networks_leave_connections_for_others() {
    for networks in [2, 3, 20] {
        let registry = start_registry();
        let proxy = start(&registry, "upstream_connections = 64");
        let held: Vec<_> = (1..=networks)
            .map(|number| hold(&proxy, &format!("198.51.100.{number}"), Hold::Unread, 40))
            .collect();
        wait_held(&registry, 40);
        // A few networks leave connections free. If many networks occupy all connections, another client waits until a response
        // was not read for a second, and gets its place.
        let most = if networks < 5 { SECOND } else { SECOND * 4 };
        for client in ["192.0.2.7", "192.0.2.8"] {
            let (status, took) = request_from(&proxy, client, &ping());
            println!("{networks} networks: {took:?}");
            assert_eq!(status, 200, "{networks} networks");
            assert!(took < most, "{networks} networks: {took:?}");
        }
        drop((held, proxy));
    }
}

/// A barrier that holds requests until it is opened.
#[derive(Default)]
struct Barrier {
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl Barrier {
    fn pass(&self) {
        let is_open = self.is_open.lock().unwrap();
        let passed = self
            .changed
            .wait_timeout_while(is_open, PATIENCE, |is_open| !*is_open);
        drop(passed.unwrap());
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// A registry that responds only to pings until the barrier is opened.
fn held_registry() -> (Registry, Arc<Barrier>) {
    let barrier = Arc::new(Barrier::default());
    let own = Arc::clone(&barrier);
    let registry = Registry::start(move |exchange| {
        if is_held(&exchange.head.target) {
            own.pass();
        }
        exchange.send(OK);
    });
    (registry, barrier)
}

#[test]
fn a_thousand_requests_of_one_client_are_all_served() {
    const CONNECTIONS: usize = 11;
    /// The requests of each connection that wait for the registry. The limit is 100 streams. The last stream is for one more
    /// request: its response shows that the proxy has read the requests before it.
    const EACH: usize = 99;
    let (registry, barrier) = held_registry();
    let proxy = Proxy::with_defaults(&registry);
    block_on(async {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(H2Client::connect(&proxy).await);
        }
        assert_eq!(clients[0].exchange(&ping()).await.status, 200);
        let mut responses = Vec::new();
        for client in &mut clients {
            for _ in 0..EACH {
                let started = client
                    .start_request(&TestRequest::alice("GET", "/v2/a/manifests/x"))
                    .await;
                responses.push(started.unwrap().0);
            }
            let anonymous = client.exchange(&TestRequest::new("GET", "/v2/")).await;
            assert_eq!(anonymous.status, 401);
        }
        wait_until(|| registry.requests().len() > 128).await;
        assert_eq!(registry.requests().len(), 129, "half of the connections");
        barrier.open();
        for response in responses {
            let response = tokio::time::timeout(PATIENCE, response).await.unwrap();
            assert_eq!(response.unwrap().status(), 200);
        }
    });
    assert_eq!(registry.requests().len(), CONNECTIONS * EACH + 1);
}

#[test]
pub(crate) fn a_network_has_half_of_what_is_free_and_its_48_two_thirds() {
    let (registry, barrier) = held_registry();
    let proxy = start(&registry, "upstream_connections = 12\nupstream_queue = 200");
    let count = |of: &str| {
        let of = of.to_owned();
        move |seen: &[crate::support::registry::RecordedRequest]| {
            let held = seen.iter().filter(|seen| is_held(&seen.target));
            held.filter(|seen| seen.header("x-real-ip").starts_with(&of))
                .count()
        }
    };
    let mut held = Vec::new();
    for (client, network, share) in [
        ("2001:db8:1:1::1", "2001:db8:1:1:", 6),
        // Another address of the same /64 gets no additional connections.
        ("2001:db8:1:1::2", "2001:db8:1:1:", 6),
        ("2001:db8:1:2::1", "2001:db8:1:2:", 2),
        ("192.0.2.7", "192.0.2.7", 2),
        ("192.0.2.8", "192.0.2.8", 1),
    ] {
        held.push(hold(&proxy, client, Hold::Unread, 10));
        let of_network = count(network);
        registry.wait_for_requests(|seen| of_network(seen) >= share);
        assert_eq!(of_network(&registry.requests()), share, "{client}");
    }
    // In the end, all requests are forwarded.
    barrier.open();
    registry.wait_for_requests(|seen| count("")(seen) == 50);
    drop(held);
}

/// One client network fills the queue. A second network still gets a connection, and a third one gets a place in the queue.
#[test]
pub(crate) fn requests_that_wait_give_way_to_networks_with_fewer() {
    let (registry, barrier) = held_registry();
    let proxy = start(&registry, "upstream_connections = 2\nupstream_queue = 2");
    let manifest = TestRequest::alice("GET", "/v2/a/manifests/x");
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let begin = |client: &'static str| {
            let (sender, proxy, manifest) = (sender.clone(), &proxy, &manifest);
            scope.spawn(move || {
                let (status, _) = request_from(proxy, client, manifest);
                sender.send((client, status)).unwrap();
            });
        };
        // Of these four requests, one is forwarded, two wait in the queue, and one is rejected. The two addresses are in one
        // /64 and share the limits of their network.
        let home = ["2001:db8:1:1::1", "2001:db8:1:1::2"];
        for client in [home[0], home[1], home[0], home[1]] {
            begin(client);
        }
        let (client, status) = receiver.recv_timeout(PATIENCE).unwrap();
        assert!(home.contains(&client) && status == 503, "{client} {status}");
        begin("192.0.2.7");
        wait_held(&registry, 2);
        // The queue is full, and the network with the most requests in it loses one.
        begin("192.0.2.8");
        let (client, status) = receiver.recv_timeout(PATIENCE).unwrap();
        assert!(home.contains(&client) && status == 503, "{client} {status}");
        barrier.open();
        let rest: Vec<_> = (0..4)
            .map(|_| receiver.recv_timeout(PATIENCE).unwrap())
            .collect();
        assert!(rest.iter().all(|(_, status)| *status == 200), "{rest:?}");
    });
}

/// If the number of unread responses is at its limit and another request waits, the proxy ends one of these responses.
#[test]
pub(crate) fn an_unread_response_is_broken_off_when_too_many_are_unread() {
    let registry = start_registry();
    let proxy = start(&registry, "upstream_connections = 2");
    block_on(async {
        let mut first = connect_h2(&proxy, "192.0.2.1").await;
        let manifest = TestRequest::alice("GET", "/v2/a/manifests/x");
        // The second request waits until the first response was not read for a second.
        let (unread, _) = first.start_request(&manifest).await.unwrap();
        let unread = unread.await.unwrap();
        let (more, _) = first.start_request(&manifest).await.unwrap();
        let more = more.await.unwrap();
        let mut second = connect_h2(&proxy, "192.0.2.2").await;
        let (other, _) = second.start_request(&manifest).await.unwrap();
        let other = other.await.unwrap();
        let mut third = connect_h2(&proxy, "192.0.2.3").await;
        assert_eq!(third.exchange(&ping()).await.status, 200);
        // The proxy ends the older response of the network that has two.
        let broken = crate::support::h2::collect(unread).await;
        assert!(!broken.is_whole && broken.body.len() < SIZE);
        for whole in [more, other] {
            let whole = crate::support::h2::collect(whole).await;
            assert!(whole.is_whole && whole.body.len() == SIZE);
        }
    });
    let log = proxy.stop_and_read_access_log();
    let broken = log
        .lines()
        .filter(|line| line.contains(" termination=timeout"));
    assert_eq!(broken.count(), 1, "{log}");
}

/// Opens an HTTP/2 connection on behalf of `client`.
async fn connect_h2(proxy: &Proxy, client: &str) -> H2Client {
    let socket = connect_tcp_on_behalf_of(client, proxy.https());
    H2Client::start_tls(socket, certs::default_client_config("h2")).await
}

#[test]
fn a_slow_response_continues_when_another_client_needs_its_connection() {
    let registry = start_registry();
    let proxy = start(&registry, "upstream_connections = 1");
    let mut slow = connect(&proxy, "192.0.2.1", "http/1.1");
    slow.send(TestRequest::alice("GET", "/v2/a/manifests/x").head());
    wait_held(&registry, 1);
    // The other client is served, and the slow client gets its complete response.
    assert_eq!(request_from(&proxy, "192.0.2.2", &ping()).0, 200);
    let response = slow.read_response("GET");
    assert!(response.is_whole && response.body.len() == SIZE);
}
