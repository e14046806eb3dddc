//! The admin listener: who may ask, what is told, and that it outlives floods, reloads and the end of the gate.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tidegate::server::{Command, Scheme};

use crate::listeners::kept_port;
use crate::support::client::{connect_tcp, connect_tcp_from};
use crate::support::proxy::TestConfig;
use crate::support::request::chunk;
use crate::support::{
    Client, HttpVersion, PATIENCE, Proxy, Registry, TestRequest, TestResponse, config, eventually,
    exchange,
};

pub(crate) fn watched(top: &str, admin: &str) -> TestConfig {
    config(top, "").after("https", format_args!("admin = \"{admin}\""))
}

fn start(registry: &Registry, top: &str) -> Proxy {
    Proxy::start(registry, watched(top, "127.0.0.1:0"))
}

pub(crate) fn admin(proxy: &Proxy) -> SocketAddr {
    proxy.listener(Scheme::Admin)
}

pub(crate) fn get(address: SocketAddr, path: &str) -> TestResponse {
    Client::plain(address).exchange(&TestRequest::new("GET", path))
}

pub(crate) fn get_unix(path: &Path, target: &str) -> TestResponse {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nHost: anything\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    Client::from_socket(stream).read_response("GET")
}

pub(crate) fn number(metrics: &TestResponse, sample: &str) -> f64 {
    let text = metrics.text();
    let line = text.lines().find_map(|line| line.strip_prefix(sample));
    let value = line.unwrap_or_else(|| panic!("no {sample} in {text}"));
    value.trim().parse().unwrap()
}

#[test]
fn health_readiness_and_numbers_are_told() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", "/v2/")
        )
        .status,
        200
    );
    assert_eq!(
        exchange(&proxy, HttpVersion::Http2, &TestRequest::new("GET", "/v2/")).status,
        401
    );
    let alive = get(admin(&proxy), "/healthz");
    assert_eq!((alive.status, alive.text().as_str()), (200, "alive\n"));
    assert_eq!(alive.header("cache-control"), "no-store");
    eventually("it is ready", || {
        get(admin(&proxy), "/readyz").status == 200
    });
    let ready = get(admin(&proxy), "/readyz");
    assert_eq!((ready.status, ready.text().as_str()), (200, "ready\n"));
    let metrics = get(admin(&proxy), "/metrics");
    assert_eq!(metrics.status, 200);
    assert_eq!(
        metrics.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    for (status, count) in [(200, 1.0), (401, 1.0)] {
        let sample = format!(
            "tidegate_requests_total{{site=\"localhost\",operation=\"ping\",status=\"{status}\"}}"
        );
        assert!((number(&metrics, &sample) - count).abs() < f64::EPSILON);
    }
    let accept =
        TestRequest::new("GET", "/metrics").header("accept", "application/openmetrics-text");
    let open = Client::plain(admin(&proxy)).exchange(&accept);
    assert!(open.text().ends_with("# EOF\n"));
    assert_eq!(get(admin(&proxy), "/absent").status, 404);
}

#[test]
fn only_reading_is_understood() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    let head = Client::plain(admin(&proxy)).exchange(&TestRequest::new("HEAD", "/healthz"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PURGE"] {
        let answer =
            Client::plain(admin(&proxy)).exchange(&TestRequest::new(method, "/healthz").body("x"));
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), "GET, HEAD");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_page_that_points_its_own_name_here_learns_nothing() {
    let registry = Registry::accepting_all();
    let text = watched("", "127.0.0.1:0").after("https", "admin_hosts = [\"gate.internal\"]");
    let proxy = Proxy::start(&registry, &text);
    for (host, status) in [
        ("localhost", 200),
        ("localhost:9090", 200),
        ("127.0.0.1", 200),
        ("[::1]:9090", 200),
        ("GATE.internal:9090", 200),
        ("", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
    ] {
        for path in ["/healthz", "/metrics"] {
            // Without a Host it is HTTP/1.0, as plain checks of balancers send it.
            let mut client = Client::plain(admin(&proxy));
            let answer = if host.is_empty() {
                client.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
                client.read_response("GET")
            } else {
                client.exchange(&TestRequest::new("GET", path).host(host))
            };
            assert_eq!(answer.status, status, "{host}");
            assert!(status == 200 || !answer.text().contains("tidegate_"));
        }
    }
}

#[test]
fn neither_side_is_closed_by_a_flood_of_the_other() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "[limits]\nconnections = 2\n");
    let elsewhere = Ipv4Addr::new(127, 0, 0, 3);
    let _flood: Vec<_> = (0..10)
        .map(|_| connect_tcp_from(elsewhere, proxy.https()))
        .collect();
    assert_eq!(get(admin(&proxy), "/healthz").status, 200);
    drop(_flood);
    let _flood: Vec<_> = (0..100).map(|_| connect_tcp(admin(&proxy))).collect();
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", "/v2/")
        )
        .status,
        200
    );
    // Another client finds room beside the one that takes all it gets.
    let mut other = connect_tcp_from(Ipv4Addr::new(127, 0, 0, 2), admin(&proxy));
    other
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(Client::from_socket(other).read_response("GET").status, 200);
}

#[test]
fn who_says_nothing_is_closed() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    let mut silent = Client::plain(admin(&proxy));
    let mut slow = Client::plain(admin(&proxy));
    slow.send("GET /healthz HTTP/1.1\r\nHost: ");
    let began = Instant::now();
    for client in [&mut silent, &mut slow] {
        client.read_to_end();
    }
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_failed_reload_is_a_warning_and_a_number() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    eventually("it is ready", || {
        get(admin(&proxy), "/readyz").status == 200
    });
    let good = watched("", "127.0.0.1:0");
    proxy.configure(&registry, good.to_string().replace("[listen]", "[listne]"));
    proxy.reload().unwrap_err();
    let ready = get(admin(&proxy), "/readyz");
    assert_eq!(ready.status, 200);
    let said = ready.text();
    assert!(
        said.starts_with("ready\nwarning: the reload at ") && said.contains("proxy.toml:"),
        "{said}"
    );
    let metrics = get(admin(&proxy), "/metrics");
    let last = "tidegate_config_last_reload_successful";
    let failed = "tidegate_config_reloads_total{outcome=\"failed\"}";
    assert_eq!(number(&metrics, last).to_string(), "0");
    assert_eq!(number(&metrics, failed).to_string(), "1");
    proxy.configure(&registry, &good);
    proxy.reload().unwrap();
    assert_eq!(get(admin(&proxy), "/readyz").text(), "ready\n");
    let metrics = get(admin(&proxy), "/metrics");
    assert_eq!(number(&metrics, last).to_string(), "1");
}

#[test]
fn a_gate_whose_registries_are_all_down_is_not_ready() {
    let (port, _kept) = kept_port();
    let registry = Registry::accepting_all();
    let text = watched("", "127.0.0.1:0").set(
        "upstream",
        format!("{{ urls = [\"http://127.0.0.1:{port}\"], connect_retry = \"50ms\" }}"),
    );
    let proxy = Proxy::start(&registry, &text);
    // No request is needed for that, and it is never ready before.
    eventually("it is down", || {
        let answer = get(admin(&proxy), "/readyz");
        assert_eq!(answer.status, 503);
        answer.text().contains("no endpoint of any upstream is up")
    });
    let said = get(admin(&proxy), "/readyz").text();
    let since = format!("http://127.0.0.1:{port} is down since 2");
    let error = format!("error: site localhost cannot serve /v2/: {since}");
    assert!(
        said.contains(&error) && said.contains(&format!("warning: {since}")),
        "{said}"
    );
    assert!(said.contains("refused"), "{said}");
    let page = get(admin(&proxy), "/").text();
    assert!(
        page.contains("<span class=\"pill bad\">Not ready</span>"),
        "{page}"
    );
    assert!(
        page.contains("<span class=\"pill bad\">down</span>"),
        "{page}"
    );
    let available = "tidegate_site_available{site=\"localhost\"}";
    assert_eq!(number(&get(admin(&proxy), "/metrics"), available), 0.0);
    // The last endpoint stays in rotation.
    let refused = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/"),
    );
    assert_eq!(refused.status, 502);
    assert_eq!(get(admin(&proxy), "/healthz").status, 200);
    let up = format!("tidegate_upstream_endpoint_up{{endpoint=\"http://127.0.0.1:{port}\"}}");
    assert_eq!(
        number(&get(admin(&proxy), "/metrics"), &up).to_string(),
        "0"
    );
    let _back = Registry::start_at(SocketAddr::from(([127, 0, 0, 1], port)), |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    eventually("it is back", || {
        get(admin(&proxy), "/readyz").text() == "ready\n"
    });
    assert_eq!(number(&get(admin(&proxy), "/metrics"), available), 1.0);
}

#[test]
fn an_endpoint_that_has_not_responded_yet_is_not_up() {
    let registry = Registry::start(|exchange| exchange.wait_closed()).recording_health_checks();
    let proxy = start(&registry, "");
    registry.wait_for_requests(|seen| !seen.is_empty());
    let answer = get(admin(&proxy), "/readyz");
    let expected = "not ready: no endpoint of an upstream has responded yet\n";
    assert_eq!((answer.status, answer.text().as_str()), (503, expected));
    let page = get(admin(&proxy), "/").text();
    assert!(
        page.contains("<span class=\"pill warn\">not checked yet</span>"),
        "{page}"
    );
    let metrics = get(admin(&proxy), "/metrics");
    let up = format!(
        "tidegate_upstream_endpoint_up{{endpoint=\"{}\"}}",
        registry.url()
    );
    assert_eq!(number(&metrics, &up), 0.0);
    assert_eq!(
        number(&metrics, "tidegate_site_available{site=\"localhost\"}"),
        1.0
    );
}

#[test]
fn a_site_without_an_endpoint_is_an_error_of_a_gate_that_serves_others() {
    let (port, _kept) = kept_port();
    let registry = Registry::accepting_all();
    let other = format!(
        "[[site]]\nhosts = [\"dead.test\"]\ntls = \"self-signed\"\n[[site.route]]\npath = \"/v2/\"\n\
         upstream = \"http://127.0.0.1:{port}\"\nauth = {{ mode = \"none\" }}\n"
    );
    let text = format!(
        "{}{other}",
        watched("[state]\ndir = \"state\"\n", "127.0.0.1:0")
    );
    let proxy = Proxy::start(&registry, &text);
    eventually("it is ready", || {
        get(admin(&proxy), "/readyz").status == 200
    });
    eventually("the site is told", || {
        get(admin(&proxy), "/readyz")
            .text()
            .contains("error: site dead.test cannot serve /v2/: ")
    });
    let page = get(admin(&proxy), "/").text();
    assert!(
        page.contains("<span class=\"pill bad\">Ready, with errors</span>"),
        "{page}"
    );
    assert!(
        page.contains("<b>Error:</b> site dead.test cannot serve /v2/: "),
        "{page}"
    );
    let metrics = get(admin(&proxy), "/metrics");
    assert_eq!(
        number(&metrics, "tidegate_site_available{site=\"dead.test\"}"),
        0.0
    );
    assert_eq!(
        number(&metrics, "tidegate_site_available{site=\"localhost\"}"),
        1.0
    );
}

#[test]
fn a_gate_that_drains_says_so_to_its_end() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    let mut client = Client::connect(&proxy);
    client.send(
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    client.send(chunk(b"first"));
    registry.wait_for_requests(|seen| seen.first().is_some_and(|seen| seen.body == b"first"));
    let metrics = get(admin(&proxy), "/metrics");
    assert_eq!(
        number(&metrics, "tidegate_active_transfers").to_string(),
        "1"
    );
    proxy.send_command(Command::Stop);
    eventually("it drains", || get(admin(&proxy), "/readyz").status == 503);
    assert!(get(admin(&proxy), "/readyz").text().contains("drains"));
    assert_eq!(get(admin(&proxy), "/healthz").status, 200);
    assert_eq!(get(admin(&proxy), "/metrics").status, 200);
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    proxy.wait();
}

#[test]
fn a_reload_adds_moves_and_removes_it_and_touches_nothing_else() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut kept = Client::connect(&proxy);
    assert_eq!(
        kept.exchange(&TestRequest::alice("GET", "/v2/")).status,
        200
    );
    let (first, _one) = kept_port();
    let (second, _two) = kept_port();
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let path = proxy.path("admin.sock");
    let mut take = |admin: &str| {
        proxy.configure(&registry, watched("", admin));
        proxy.reload().unwrap();
        assert_eq!(
            kept.exchange(&TestRequest::alice("GET", "/v2/")).status,
            200
        );
    };
    take(&at(first).to_string());
    eventually("it is ready", || get(at(first), "/readyz").status == 200);
    take(&at(second).to_string());
    assert_eq!(get(at(second), "/readyz").status, 200);
    eventually("the first is closed", || {
        std::net::TcpStream::connect(at(first)).is_err()
    });
    take(&format!("unix:{}", path.display()));
    assert_eq!(get_unix(&path, "/readyz").text(), "ready\n");
    take(&format!("unix:{}", path.display()));
    assert_eq!(get_unix(&path, "/healthz").status, 200);
    // One that cannot be had leaves what there is.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = taken.local_addr().unwrap().to_string();
    proxy.configure(&registry, watched("", &other));
    assert!(proxy.reload().unwrap_err().to_string().contains(&other));
    let said = get_unix(&path, "/readyz").text();
    assert!(said.contains(&other), "{said}");
    proxy.configure(&registry, config("", ""));
    proxy.reload().unwrap();
    eventually("its file is gone", || !path.exists());
    assert_eq!(
        kept.exchange(&TestRequest::alice("GET", "/v2/")).status,
        200
    );
}

#[test]
fn a_socket_in_the_file_system_goes_with_the_gate() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, watched("", "unix:{dir}/admin.sock"));
    let path = proxy.path("admin.sock");
    eventually("it listens", || path.exists());
    assert_eq!(get_unix(&path, "/healthz").status, 200);
    proxy.send_command(Command::Stop);
    proxy.wait();
    eventually("it is gone", || !path.exists());
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let registry = Registry::accepting_all();
    for (admin, words) in [
        ("127.0.0.1", "listen.admin"),
        ("unix:admin.sock", "listen.admin"),
        ("unix:{dir}/proxy.toml", "is not a socket"),
        ("unix:{dir}/absent/admin.sock", "cannot listen on unix:"),
    ] {
        let dir = crate::support::proxy::directory();
        let problems = Proxy::try_start(dir, &registry.url(), watched("", admin));
        let problems = problems.err().expect("a refusal").to_string();
        assert!(problems.contains(words), "{words} in {problems}");
    }
}
