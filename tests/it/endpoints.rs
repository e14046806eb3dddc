//! Several registries behind one route: how the proxy chooses an endpoint, and what happens when an endpoint fails.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::proxy::TestConfig;
use crate::support::proxy::directory;
use crate::support::registry::refusing_address;
use crate::support::{
    Client, Exchange, HttpVersion, OK, PATIENCE, Proxy, Registry, TestRequest, config, exchange,
    kept_port, pause,
};

fn start_proxy(urls: &[String]) -> Proxy {
    Proxy::start_in(directory(), "", config_with_endpoints(urls))
}

fn config_with_endpoints(urls: &[String]) -> TestConfig {
    let list: Vec<_> = urls.iter().map(|url| format!("{url:?}")).collect();
    let full = format!("{{ urls = [{}] }}", list.join(", "));
    config("", "").set("upstream", &full)
}

/// Responds with 200 and keeps the connection open.
fn respond_ok(exchange: &mut Exchange<'_>) {
    exchange.body();
    exchange.send(OK);
}

fn address(registry: &Registry) -> SocketAddr {
    registry.authority().parse().unwrap()
}

/// The number of forwarded client requests. Health checks do not count: they have no `X-Forwarded-For`.
fn count_client_requests(registry: &Registry) -> usize {
    let requests = registry.requests();
    let client_requests = requests
        .iter()
        .filter(|seen| !seen.all("x-forwarded-for").is_empty());
    client_requests.count()
}

#[test]
fn pulls_are_distributed_over_all_endpoints() {
    let dir = tempfile::tempdir().unwrap();
    let registries = [
        Registry::start(respond_ok),
        Registry::start(respond_ok),
        Registry::start_unix(&dir.path().join("r.sock"), respond_ok),
    ];
    let proxy = start_proxy(&registries.each_ref().map(Registry::url));
    let mut client = Client::connect(&proxy);
    for _ in 0..90 {
        let response = client.exchange(&TestRequest::alice("GET", "/v2/a/manifests/x"));
        assert_eq!(response.status, 200);
    }
    let counts = registries.each_ref().map(count_client_requests);
    assert_eq!(counts.iter().sum::<usize>(), 90);
    assert!(
        counts.iter().all(|count| (10..60).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn health_checks_have_a_host_and_no_x_forwarded_fields() {
    let registries = [Registry::accepting_all(), Registry::accepting_all()]
        .map(Registry::recording_health_checks);
    let proxy = start_proxy(&registries.each_ref().map(Registry::url));
    for registry in &registries {
        let seen = registry.wait_for_requests(|seen| !seen.is_empty());
        assert_eq!(
            (seen[0].method.as_str(), seen[0].target.as_str()),
            ("GET", "/v2/")
        );
        assert_eq!(seen[0].header("host"), registry.authority());
        assert_eq!(seen[0].header_names(), ["host", "user-agent"]);
    }
    drop(proxy);
}

#[test]
fn one_unreachable_endpoint_of_two_fails_no_request() {
    let registry = Registry::start(respond_ok);
    let proxy = start_proxy(&[format!("http://{}", refusing_address()), registry.url()]);
    let mut client = Client::connect(&proxy);
    let mut sent = 0;
    for number in 0..20 {
        for (method, target) in [
            ("GET", format!("/v2/r{number}/manifests/x")),
            ("HEAD", format!("/v2/r{number}/manifests/x")),
            ("POST", format!("/v2/r{number}/blobs/uploads/")),
            ("PATCH", format!("/v2/r{number}/blobs/uploads/u")),
            ("DELETE", format!("/v2/r{number}/manifests/x")),
        ] {
            let mut request = TestRequest::alice(method, &target);
            if method == "PATCH" {
                request = request.body("some bytes").chunked();
            }
            assert_eq!(client.exchange(&request).status, 200, "{method} {target}");
            sent += 1;
        }
    }
    assert_eq!(count_client_requests(&registry), sent);
}

/// A registry that closes the connection without a response to a client request.
fn closing_registry() -> Registry {
    Registry::start(|exchange| {
        exchange.body();
        if exchange.head.all("x-forwarded-for").is_empty() {
            exchange.send(OK);
        } else {
            exchange.close();
        }
    })
}

#[test]
fn only_a_pull_is_repeated_at_another_endpoint_after_a_lost_connection() {
    for (method, is_pull) in [
        ("GET", true),
        ("HEAD", true),
        ("POST", false),
        ("PATCH", false),
        ("PUT", false),
        ("DELETE", false),
    ] {
        let (failing, working) = (closing_registry(), Registry::start(respond_ok));
        let proxy = start_proxy(&[failing.url(), working.url()]);
        let mut statuses = Vec::new();
        for number in 0..24 {
            let target = match method {
                "PATCH" => format!("/v2/r{number}/blobs/uploads/u"),
                "POST" => format!("/v2/r{number}/blobs/uploads/"),
                _ => format!("/v2/r{number}/manifests/x"),
            };
            let mut request = TestRequest::alice(method, &target);
            if matches!(method, "PATCH" | "PUT") {
                request = request.body("bytes");
            }
            let http = HttpVersion::BOTH[number % 2];
            let status = exchange(&proxy, http, &request).status;
            let seen = |registry: &Registry| {
                let seen = registry.requests();
                seen.iter().filter(|seen| seen.target == target).count()
            };
            let (at_failing, at_working) = (seen(&failing), seen(&working));
            if is_pull {
                assert_eq!((status, at_working), (200, 1), "{method} {target}");
                assert!(
                    at_failing <= 1,
                    "{method} {target} was there {at_failing} times"
                );
            } else {
                assert_eq!(at_failing + at_working, 1, "{method} {target}");
                assert_eq!(status, if at_failing == 0 { 200 } else { 502 });
            }
            statuses.push((status, at_failing));
        }
        let failures = statuses
            .iter()
            .filter(|(_, at_failing)| *at_failing == 1)
            .count();
        assert!(
            failures > 3,
            "{method} was sent to the failing endpoint {failures} times"
        );
    }
}

#[test]
fn a_pull_is_sent_twice_at_most() {
    let refusing_url = format!("http://{}", refusing_address());
    for (registries, others) in [
        (
            vec![closing_registry(), closing_registry(), closing_registry()],
            0,
        ),
        (vec![closing_registry()], 1),
    ] {
        let mut urls: Vec<_> = registries.iter().map(Registry::url).collect();
        urls.extend((0..others).map(|_| refusing_url.clone()));
        let proxy = start_proxy(&urls);
        for http in HttpVersion::BOTH {
            let before: usize = registries.iter().map(count_client_requests).sum();
            let get = TestRequest::alice("GET", "/v2/a/manifests/x");
            exchange(&proxy, http, &get).assert_rejection(502, "UNAVAILABLE");
            let times = registries.iter().map(count_client_requests).sum::<usize>() - before;
            assert!((1..=2).contains(&times), "{times} times");
        }
    }
}

/// Sends every request of a push of one blob and its manifest.
fn push(proxy: &Proxy, http: HttpVersion, repository: &str) {
    let upload = format!("/v2/{repository}/blobs/uploads/u");
    for request in [
        TestRequest::alice("POST", &format!("/v2/{repository}/blobs/uploads/")),
        TestRequest::alice("PATCH", &upload).body("one").chunked(),
        TestRequest::alice("GET", &upload),
        TestRequest::alice("PATCH", &upload).body("two").chunked(),
        TestRequest::alice("PUT", &upload).body(""),
        TestRequest::alice("PUT", &format!("/v2/{repository}/manifests/x")).body("{}"),
        TestRequest::alice("DELETE", &upload),
    ] {
        // Each request has a connection of its own, so that all workers take part.
        assert_eq!(exchange(proxy, http, &request).status, 200);
    }
}

#[test]
fn an_upload_stays_at_one_endpoint_across_reloads_and_proxies() {
    let registries = [
        Registry::start(respond_ok),
        Registry::start(respond_ok),
        Registry::start(respond_ok),
    ];
    let urls = registries.each_ref().map(Registry::url);
    let reversed: Vec<_> = urls.iter().rev().cloned().collect();
    let proxies = [start_proxy(&urls), start_proxy(&reversed)];
    let names: Vec<_> = (0..24).map(|number| format!("team/app-{number}")).collect();
    for name in &names {
        push(&proxies[0], HttpVersion::Http1, name);
    }
    proxies[0].reload().unwrap();
    for name in &names[..8] {
        push(&proxies[0], HttpVersion::Http2, name);
        push(&proxies[1], HttpVersion::Http1, name);
    }
    let mut endpoints: HashMap<String, usize> = HashMap::new();
    for (number, registry) in registries.iter().enumerate() {
        for seen in registry.requests() {
            let target = seen.target.trim_start_matches("/v2/");
            let name: Vec<_> = target.split('/').take(2).collect();
            if name.len() == 2 {
                let endpoint = *endpoints.entry(name.join("/")).or_insert(number);
                assert_eq!(endpoint, number, "{} went to two endpoints", seen.target);
            }
        }
    }
    assert_eq!(endpoints.len(), names.len());
    let used: std::collections::HashSet<_> = endpoints.values().collect();
    assert!(used.len() > 1, "all uploads went to {used:?}");
}

#[test]
fn an_endpoint_that_is_up_again_gets_requests_again() {
    let stable = Registry::start(respond_ok);
    let unstable = Registry::start(respond_ok);
    let (endpoint_address, _held) = (address(&unstable), unstable.held_port());
    let proxy = start_proxy(&[stable.url(), unstable.url()]);
    let mut client = Client::connect(&proxy);
    let mut pull = || {
        let response = client.exchange(&TestRequest::alice("GET", "/v2/a/manifests/x"));
        assert_eq!(response.status, 200);
    };
    let until = Instant::now() + PATIENCE;
    while count_client_requests(&unstable) == 0 {
        assert!(Instant::now() < until);
        pull();
    }
    drop(unstable);
    for _ in 0..50 {
        pull();
    }
    let back = Registry::start_at(endpoint_address, respond_ok);
    while count_client_requests(&back) == 0 {
        assert!(Instant::now() < until, "the endpoint gets no requests");
        pull();
    }
    // After a reload, requests succeed although the endpoint is down.
    drop(back);
    proxy.reload().unwrap();
    for _ in 0..50 {
        pull();
    }
}

#[test]
fn a_restart_of_the_only_registry_fails_no_request() {
    let registry = Registry::start(respond_ok);
    let (endpoint_address, _held) = (address(&registry), registry.held_port());
    let full = format!(
        "{{ urls = [\"{}\"], connect_retry = \"20s\" }}",
        registry.url()
    );
    let config = config("", "").set("upstream", &full);
    let proxy = Proxy::start_in(directory(), "", &config);
    let get = TestRequest::alice("GET", "/v2/a/manifests/x");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &get).status, 200);
    drop(registry);
    let patch = TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u").body("body");
    thread::scope(|scope| {
        let waiting: Vec<_> = [&get, &patch]
            .into_iter()
            .flat_map(|request| HttpVersion::BOTH.map(|http| (request, http)))
            .map(|(request, http)| {
                let proxy = &proxy;
                scope.spawn(move || exchange(proxy, http, request).status)
            })
            .collect();
        // This is long enough that the registry's address has refused a connection of each request.
        pause(Duration::from_millis(300));
        let back = Registry::start_at(endpoint_address, respond_ok);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), 200);
        }
        assert_eq!(count_client_requests(&back), 4, "each request is sent once");
    });
}

#[test]
fn a_request_fails_at_once_while_the_only_endpoint_is_known_to_be_down() {
    let full = format!(
        "{{ urls = [\"http://{}\"], connect_retry = \"1s\" }}",
        refusing_address()
    );
    let config = config("", "").set("upstream", &full);
    let proxy = Proxy::start_in(directory(), "", &config);
    let timed = || {
        let began = Instant::now();
        let request = TestRequest::alice("GET", "/v2/a/manifests/x");
        exchange(&proxy, HttpVersion::Http1, &request).assert_rejection(502, "UNAVAILABLE");
        began.elapsed()
    };
    assert!(timed() >= Duration::from_secs(1));
    assert!(timed() < Duration::from_secs(1));
}

/// The outcome of one request.
struct Outcome {
    id: String,
    method: &'static str,
    status: u16,
    /// From before the request was sent until the response had arrived.
    time: Range<Instant>,
}

/// The interval between the requests of one client: three clients send fifty requests a second.
const PACE: Duration = Duration::from_millis(60);
const CLIENTS: usize = 3;

/// Sends requests at a steady pace until `end` is set. Each request has a repository of its own.
fn send_requests(proxy: &Proxy, number: usize, end: &AtomicBool, done: &Mutex<Vec<Outcome>>) {
    let methods = ["GET", "HEAD", "GET", "PATCH", "GET", "POST", "GET", "PUT"];
    let mut client = Client::connect(proxy);
    let until = Instant::now() + PATIENCE;
    let mut due = Instant::now();
    for (count, method) in methods.into_iter().cycle().enumerate() {
        if end.load(Ordering::Relaxed) {
            return;
        }
        assert!(Instant::now() < until, "the test did not set `end`");
        let id = format!("r{number}-{count}");
        let (target, body) = match method {
            "PATCH" => (format!("/v2/{id}/blobs/uploads/u"), Some("bytes")),
            "PUT" => (format!("/v2/{id}/blobs/uploads/u"), Some("")),
            "POST" => (format!("/v2/{id}/blobs/uploads/"), None),
            _ => (format!("/v2/{id}/manifests/x"), None),
        };
        let mut request = TestRequest::alice(method, &target);
        request.body = body.map(|body| body.as_bytes().to_vec());
        let began = Instant::now();
        client.send(request.head());
        // After an early rejection, the proxy closes the connection.
        let _ = client.try_send(request.framed_body());
        let response = client.read_response(method);
        let time = began..Instant::now();
        let closes = response.header_values("connection").contains(&"close");
        if closes {
            client = Client::connect(proxy);
        }
        let outcome = Outcome {
            id,
            method,
            status: response.status,
            time,
        };
        done.lock().unwrap().push(outcome);
        // The pause sets the pace. A client that is late catches up.
        due += PACE;
        pause(due.saturating_duration_since(Instant::now()));
    }
}

/// A registry that can be restarted, and that records the requests that it receives.
struct Endpoint {
    number: usize,
    received: Arc<Mutex<Vec<(String, usize)>>>,
}

impl Endpoint {
    fn start(&self, address: SocketAddr) -> Registry {
        let (received, number) = (Arc::clone(&self.received), self.number);
        Registry::start_at(address, move |exchange| {
            let id = exchange.head.target.split('/').nth(2).unwrap_or_default();
            received.lock().unwrap().push((id.to_owned(), number));
            respond_ok(exchange);
        })
    }
}

/// Restarts one registry after the other while clients send fifty requests a second.
///
/// On a busy machine, the clients may fall behind. The assertions about the proxy hold in each run, and at least one of
/// three runs must have kept the pace.
fn rolling_restart(stop_registry: fn(Registry)) {
    let mut paces = Vec::new();
    for _ in 0..3 {
        let (done, due) = rolling_restart_once(stop_registry);
        if done >= due * 4 / 5 {
            return;
        }
        paces.push((done, due));
    }
    panic!("too slow for fifty requests a second: {paces:?}");
}

/// Returns how many requests were sent, and how many should have been sent at the given pace.
fn rolling_restart_once(stop_registry: fn(Registry)) -> (usize, usize) {
    let received: Arc<Mutex<Vec<(String, usize)>>> = Arc::default();
    let endpoints = [0, 1].map(|number| Endpoint {
        number,
        received: Arc::clone(&received),
    });
    // The ports stay reserved while a registry is down.
    let ports = endpoints.each_ref().map(|_| kept_port());
    let address_of = |number: usize| SocketAddr::from(([127, 0, 0, 1], ports[number].0));
    let mut registries = endpoints
        .each_ref()
        .map(|endpoint| Some(endpoint.start(address_of(endpoint.number))));
    let urls: Vec<_> = registries.iter().flatten().map(Registry::url).collect();
    let proxy = start_proxy(&urls);
    let (end, done) = (AtomicBool::new(false), Mutex::default());
    let mut stops = Vec::new();
    let began = Instant::now();
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (proxy, end, done) = (&proxy, &end, &done);
            scope.spawn(move || send_requests(proxy, number, end, done));
        }
        let until = Instant::now() + PATIENCE;
        let wait = |enough: &dyn Fn() -> bool| {
            while !enough() {
                assert!(Instant::now() < until, "the clients make no progress");
                pause(Duration::from_millis(5));
            }
        };
        let wait_for_more_outcomes = |count: usize| {
            let before = done.lock().unwrap().len();
            wait(&|| done.lock().unwrap().len() >= before + count);
        };
        for (endpoint, registry) in endpoints.iter().zip(&mut registries) {
            wait_for_more_outcomes(30);
            let stopped = registry.take().unwrap();
            let before = Instant::now();
            stop_registry(stopped);
            stops.push((endpoint.number, before..Instant::now()));
            wait_for_more_outcomes(50);
            let back = endpoint.start(address_of(endpoint.number));
            wait(&|| count_client_requests(&back) > 0);
            *registry = Some(back);
        }
        wait_for_more_outcomes(30);
        end.store(true, Ordering::Relaxed);
    });
    let (ran, done) = (began.elapsed(), done.into_inner().unwrap());
    assert_outcomes(&done, &received.lock().unwrap(), &stops);
    // Fifty requests a second, less the ones that the clients may be behind.
    let due = usize::try_from(ran.as_millis() / PACE.as_millis()).unwrap() * CLIENTS;
    (done.len(), due)
}

/// Checks that no GET and no HEAD failed, and that another request failed only if it was in progress at an endpoint that
/// was stopped. No request was sent twice that is not safe to repeat.
fn assert_outcomes(
    done: &[Outcome],
    received: &[(String, usize)],
    stops: &[(usize, Range<Instant>)],
) {
    let mut failed = 0;
    for Outcome {
        id,
        method,
        status,
        time,
    } in done
    {
        let seen: Vec<_> = received
            .iter()
            .filter(|(seen, _)| seen == id)
            .map(|(_, endpoint)| *endpoint)
            .collect();
        if matches!(*method, "GET" | "HEAD") {
            assert_eq!(*status, 200, "{method} {id}, seen at {seen:?}");
            continue;
        }
        assert!(seen.len() <= 1, "{method} {id} was sent to {seen:?}");
        if *status != 200 {
            assert_eq!(*status, 502, "{method} {id}");
            let was_there = |endpoint: usize| seen.iter().all(|seen| *seen == endpoint);
            let is_in_flight = stops.iter().any(|(endpoint, stop)| {
                was_there(*endpoint) && time.start <= stop.end && stop.start <= time.end
            });
            assert!(is_in_flight, "{method} {id}, seen at {seen:?}");
            failed += 1;
        }
    }
    let max_failures = CLIENTS * stops.len();
    assert!(failed <= max_failures, "{failed} of {} failed", done.len());
}

#[test]
fn a_rolling_restart_fails_no_pull() {
    rolling_restart(drop);
}

#[test]
fn a_rolling_crash_fails_no_pull() {
    // First check that `Registry::kill` resets the connections of its clients.
    let registry = Registry::start(respond_ok);
    let mut socket = std::net::TcpStream::connect(registry.authority()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(b"GET /v2/ HTTP/1.1\r\n\r\n").unwrap();
    registry.wait_for_requests(|seen| !seen.is_empty());
    registry.kill();
    let ended = socket.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    rolling_restart(Registry::kill);
}
