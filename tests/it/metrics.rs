//! The metrics: they count what happens, a client cannot create new series, and the metrics of the example alerts and of the
//! example dashboard exist.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidegate::server::Scheme;

use crate::admin::get;
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, certs, config, exchange, pause, ping,
};

fn start(registry: &Registry, top: &str) -> Proxy {
    let listen = "https = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"";
    let text = config(top, "").lines("https", listen);
    Proxy::start(registry, &text)
}

fn metrics(proxy: &Proxy) -> String {
    let response = get(proxy.listener(Scheme::Admin), "/metrics");
    assert_eq!(response.status, 200);
    response.text()
}

/// The value of the sample with this name and these labels, or 0 if there is no such sample.
fn value(text: &str, sample: &str) -> f64 {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[track_caller]
fn assert_sample(text: &str, sample: &str, expected: f64) {
    let found = value(text, sample);
    assert!(
        (found - expected).abs() < 1e-9,
        "{sample} is {found}, not {expected}, in {text}"
    );
}

/// Waits until a sample has the expected value, and returns the metrics of that moment. The proxy counts some events only when
/// the connection ends, which is after the client has read the response.
fn wait_for_sample(proxy: &Proxy, sample: &str, expected: f64) -> String {
    let deadline = Instant::now() + crate::support::PATIENCE;
    loop {
        let text = metrics(proxy);
        if (value(&text, sample) - expected).abs() < 1e-9 || Instant::now() > deadline {
            assert_sample(&text, sample, expected);
            return text;
        }
        pause(Duration::from_millis(5));
    }
}

#[test]
fn requests_bytes_rejections_and_logins_are_counted() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    let put = TestRequest::alice("PATCH", "/v2/team/app/blobs/uploads/u").body("0123456789");
    for http in HttpVersion::BOTH {
        assert_eq!(exchange(&proxy, http, &put).status, 200);
        assert_eq!(
            exchange(&proxy, http, &TestRequest::new("GET", "/v2/")).status,
            401
        );
        let wrong = TestRequest::new("GET", "/v2/").basic_auth(b"alice:wrong");
        assert_eq!(exchange(&proxy, http, &wrong).status, 401);
        let elsewhere = TestRequest::new("GET", "/v2/").host("other.example");
        assert_eq!(exchange(&proxy, http, &elsewhere).status, 421);
    }
    let requests = |operation: &str, status: u16| {
        format!(
            "tidegate_requests_total{{site=\"localhost\",operation=\"{operation}\",status=\"{status}\"}}"
        )
    };
    let text = wait_for_sample(&proxy, &requests("ping", 401), 4.0);
    assert_sample(&text, &requests("push", 200), 2.0);
    let elsewhere = "tidegate_requests_total{site=\"-\",operation=\"other\",status=\"421\"}";
    assert_sample(&text, elsewhere, 2.0);
    for (sample, expected) in [
        (
            "tidegate_received_bytes_total{site=\"localhost\",operation=\"push\"}",
            20.0,
        ),
        (
            "tidegate_sent_bytes_total{site=\"localhost\",operation=\"push\"}",
            4.0,
        ),
        (
            "tidegate_request_duration_seconds_count{site=\"localhost\",operation=\"push\"}",
            2.0,
        ),
        (
            "tidegate_request_duration_seconds_bucket{le=\"+Inf\",site=\"localhost\",operation=\"push\"}",
            2.0,
        ),
        (
            "tidegate_upstream_time_to_first_byte_seconds_count{site=\"localhost\"}",
            2.0,
        ),
        (
            "tidegate_rejections_total{site=\"localhost\",reason=\"no_credentials\"}",
            2.0,
        ),
        (
            "tidegate_rejections_total{site=\"localhost\",reason=\"wrong_password\"}",
            2.0,
        ),
        ("tidegate_rejections_total{site=\"-\",reason=\"host\"}", 2.0),
        ("tidegate_logins_total{outcome=\"verified\"}", 1.0),
        ("tidegate_logins_total{outcome=\"cached\"}", 1.0),
        ("tidegate_logins_total{outcome=\"wrong_password\"}", 2.0),
        ("tidegate_password_hashes_total", 2.0),
        ("tidegate_password_hashes_waiting", 0.0),
        ("tidegate_connections_accepted_total", 8.0),
        ("tidegate_config_last_reload_successful", 1.0),
        ("tidegate_ready", 1.0),
    ] {
        assert_sample(&text, sample, expected);
    }
    wait_for_sample(
        &proxy,
        "tidegate_connections_closed_total{reason=\"done\"}",
        8.0,
    );
    // A reload does not reset the counters.
    proxy.reload().unwrap();
    assert_sample(&metrics(&proxy), &requests("push", 200), 2.0);
}

#[test]
fn connections_are_counted_while_they_are_open() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "[limits]\nconnections_per_client = 2\n");
    let mut one = Client::connect(&proxy);
    assert_eq!(one.ping(), 200);
    let mut two = Client::connect(&proxy);
    assert_eq!(two.ping(), 200);
    let third = Client::try_tls(
        proxy.https(),
        "localhost",
        certs::default_client_config("http/1.1"),
    );
    assert!(third.is_err());
    let text = metrics(&proxy);
    assert_sample(&text, "tidegate_connections{protocol=\"h1\"}", 2.0);
    assert_sample(&text, "tidegate_connections_rejected_total", 1.0);
    drop((one, two));
    wait_for_sample(&proxy, "tidegate_connections{protocol=\"h1\"}", 0.0);
}

/// The names and labels of all samples.
fn series(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let named = samples.filter_map(|line| line.rsplit_once(' '));
    named.map(|(series, _)| series.to_owned()).collect()
}

#[test]
fn a_client_cannot_create_series() {
    let registry = Registry::start(|exchange| {
        let words = exchange.head.target.split(['-', '/']);
        let number = words.filter_map(|word| word.parse().ok()).next();
        let status = 200 + number.unwrap_or(0_u16) * 7 % 400;
        exchange.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
    });
    let proxy = start(&registry, "");
    let round = |numbers: std::ops::Range<u16>| {
        let mut client = Client::connect(&proxy);
        for number in numbers {
            for request in [
                TestRequest::new(&format!("M{number}"), "/v2/"),
                TestRequest::alice("GET", "/v2/").host(&format!("h{number}.example")),
                TestRequest::alice("GET", &format!("/v2/repository-{number}/tags/list")),
                TestRequest::new("GET", "/v2/")
                    .basic_auth(format!("user{}:x", number % 5).as_bytes()),
                TestRequest::new("GET", &format!("/path/{number}")),
            ] {
                if client.try_send(request.head()).is_err()
                    || client.try_read_response(&request.method).is_err()
                {
                    client = Client::connect(&proxy);
                }
            }
        }
        let found = series(&metrics(&proxy));
        for series in &found {
            for value in ["M1", "example", "repository-", "user", "/path"] {
                assert!(!series.contains(value), "{series}");
            }
        }
        found
    };
    let first = round(0..20);
    let then = round(20..120);
    let more: Vec<_> = then.difference(&first).collect();
    // The second round sent a hundred new values of each kind. New series may come only from the fixed list of statuses.
    assert!(more.len() < 44, "{more:?}");
}

#[test]
fn scraping_does_not_delay_requests() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    let address: SocketAddr = proxy.listener(Scheme::Admin);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(get(address, "/metrics").status, 200);
                }
            });
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let began = Instant::now();
            // Each request opens a connection, because the accept loop and the admin listener share a thread.
            let response = exchange(
                &proxy,
                HttpVersion::Http1,
                &TestRequest::alice("GET", "/v2/"),
            );
            assert_eq!(response.status, 200);
            slowest = slowest.max(began.elapsed());
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    });
}

/// The names of the metrics that a text with PromQL queries mentions.
fn metric_names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    let ours = words.filter(|word| {
        let word = word.strip_prefix("tidegate_");
        word.is_some_and(|rest| !rest.is_empty())
    });
    let of_process = text
        .split(|c: char| !is_part(c))
        .filter(|word| word.starts_with("process_"));
    ours.chain(of_process).map(str::to_owned).collect()
}

#[test]
fn every_metric_of_the_alerts_and_the_dashboard_exists() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
    let exported: BTreeSet<_> = series(&metrics(&proxy))
        .into_iter()
        .map(|series| series.split('{').next().unwrap().to_owned())
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus");
    for (file, least) in [("alerts.yml", 12), ("dashboard.json", 25)] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let used = metric_names(&text);
        assert!(used.len() >= least, "{file}: {used:?}");
        let missing: Vec<_> = used.difference(&exported).collect();
        assert!(missing.is_empty(), "{file} uses {missing:?}");
    }
}
