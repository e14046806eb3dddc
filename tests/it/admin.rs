//! The admin listener: which requests it accepts, what it responds, and that it keeps working during floods, reloads and
//! the shutdown.

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
    exchange, ping,
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
    let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
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
fn healthz_readyz_and_metrics_are_served() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
    assert_eq!(
        exchange(&proxy, HttpVersion::Http2, &TestRequest::new("GET", "/v2/")).status,
        401
    );
    let alive = get(admin(&proxy), "/healthz");
    assert_eq!((alive.status, alive.text().as_str()), (200, "alive\n"));
    assert_eq!(alive.header("cache-control"), "no-store");
    eventually("the proxy is ready", || {
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
fn methods_other_than_get_and_head_get_405() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    let head = Client::plain(admin(&proxy)).exchange(&TestRequest::new("HEAD", "/healthz"));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PURGE"] {
        let response =
            Client::plain(admin(&proxy)).exchange(&TestRequest::new(method, "/healthz").body("x"));
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.header("allow"), "GET, HEAD");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_foreign_host_gets_421_against_dns_rebinding() {
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
            // A request without Host is HTTP/1.0, as simple health checks of load balancers send it.
            let mut client = Client::plain(admin(&proxy));
            let response = if host.is_empty() {
                client.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
                client.read_response("GET")
            } else {
                client.exchange(&TestRequest::new("GET", path).host(host))
            };
            assert_eq!(response.status, status, "{host}");
            assert!(status == 200 || !response.text().contains("tidegate_"));
        }
    }
}

#[test]
fn a_flood_of_one_listener_does_not_close_the_other() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "[limits]\nconnections = 2\n");
    let elsewhere = Ipv4Addr::new(127, 0, 0, 3);
    let _flood: Vec<_> = (0..10)
        .map(|_| connect_tcp_from(elsewhere, proxy.https()))
        .collect();
    assert_eq!(get(admin(&proxy), "/healthz").status, 200);
    drop(_flood);
    let _flood: Vec<_> = (0..100).map(|_| connect_tcp(admin(&proxy))).collect();
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
    // A client at another address can still connect.
    let mut other = connect_tcp_from(Ipv4Addr::new(127, 0, 0, 2), admin(&proxy));
    other
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(Client::from_socket(other).read_response("GET").status, 200);
}

#[test]
fn a_silent_or_slow_client_is_disconnected() {
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
fn a_failed_reload_is_a_warning_and_a_metric() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "");
    eventually("the proxy is ready", || {
        get(admin(&proxy), "/readyz").status == 200
    });
    let good = watched("", "127.0.0.1:0");
    proxy.configure(&registry, good.to_string().replace("[listen]", "[listne]"));
    proxy.reload().unwrap_err();
    let ready = get(admin(&proxy), "/readyz");
    assert_eq!(ready.status, 200);
    let text = ready.text();
    assert!(
        text.starts_with("ready\nwarning: the reload at ") && text.contains("proxy.toml:"),
        "{text}"
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
fn a_proxy_is_not_ready_while_all_endpoints_are_down() {
    let (port, _kept) = kept_port();
    let registry = Registry::accepting_all();
    let text = watched("", "127.0.0.1:0").set(
        "upstream",
        format!("{{ urls = [\"http://127.0.0.1:{port}\"], connect_retry = \"50ms\" }}"),
    );
    let proxy = Proxy::start(&registry, &text);
    // Health checks find the endpoint down without any request, and the proxy is never ready before.
    eventually("the endpoint is down", || {
        let response = get(admin(&proxy), "/readyz");
        assert_eq!(response.status, 503);
        response
            .text()
            .contains("no endpoint of any upstream is up")
    });
    let text = get(admin(&proxy), "/readyz").text();
    let since = format!("http://127.0.0.1:{port} is down since 2");
    let error = format!("error: site localhost cannot serve /v2/: {since}");
    assert!(
        text.contains(&error) && text.contains(&format!("warning: {since}")),
        "{text}"
    );
    assert!(text.contains("refused"), "{text}");
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
    // The last endpoint stays in rotation, so that the request fails with 502.
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/"),
    );
    assert_eq!(response.status, 502);
    assert_eq!(get(admin(&proxy), "/healthz").status, 200);
    let up = format!("tidegate_upstream_endpoint_up{{endpoint=\"http://127.0.0.1:{port}\"}}");
    assert_eq!(
        number(&get(admin(&proxy), "/metrics"), &up).to_string(),
        "0"
    );
    let _restarted = Registry::start_at(SocketAddr::from(([127, 0, 0, 1], port)), |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    eventually("the endpoint is up again", || {
        get(admin(&proxy), "/readyz").text() == "ready\n"
    });
    assert_eq!(number(&get(admin(&proxy), "/metrics"), available), 1.0);
}

#[test]
fn an_endpoint_that_has_not_responded_yet_is_not_up() {
    let registry = Registry::start(|exchange| exchange.wait_closed()).recording_health_checks();
    let proxy = start(&registry, "");
    registry.wait_for_requests(|seen| !seen.is_empty());
    let response = get(admin(&proxy), "/readyz");
    let expected = "not ready: no endpoint of an upstream has responded yet\n";
    assert_eq!((response.status, response.text().as_str()), (503, expected));
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
fn a_site_whose_endpoints_are_down_is_an_error_of_a_proxy_that_serves_other_sites() {
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
    eventually("the proxy is ready", || {
        get(admin(&proxy), "/readyz").status == 200
    });
    eventually("/readyz names the site", || {
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
fn a_proxy_that_shuts_down_reports_it_on_readyz_until_the_end() {
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
    eventually("the proxy shuts down", || {
        get(admin(&proxy), "/readyz").status == 503
    });
    assert!(get(admin(&proxy), "/readyz").text().contains("drains"));
    assert_eq!(get(admin(&proxy), "/healthz").status, 200);
    assert_eq!(get(admin(&proxy), "/metrics").status, 200);
    client.send("0\r\n\r\n");
    assert_eq!(client.read_response("PATCH").status, 200);
    proxy.wait();
}

#[test]
fn a_reload_adds_moves_and_removes_the_admin_listener_and_keeps_connections() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut kept = Client::connect(&proxy);
    assert_eq!(kept.ping(), 200);
    let (first, _one) = kept_port();
    let (second, _two) = kept_port();
    let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let path = proxy.path("admin.sock");
    let mut take = |admin: &str| {
        proxy.configure(&registry, watched("", admin));
        proxy.reload().unwrap();
        assert_eq!(kept.ping(), 200);
    };
    take(&at(first).to_string());
    eventually("the proxy is ready", || {
        get(at(first), "/readyz").status == 200
    });
    take(&at(second).to_string());
    assert_eq!(get(at(second), "/readyz").status, 200);
    eventually("the first listener is closed", || {
        std::net::TcpStream::connect(at(first)).is_err()
    });
    take(&format!("unix:{}", path.display()));
    assert_eq!(get_unix(&path, "/readyz").text(), "ready\n");
    take(&format!("unix:{}", path.display()));
    assert_eq!(get_unix(&path, "/healthz").status, 200);
    // If the new listener cannot be bound, the old one stays.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = taken.local_addr().unwrap().to_string();
    proxy.configure(&registry, watched("", &other));
    assert!(proxy.reload().unwrap_err().to_string().contains(&other));
    let text = get_unix(&path, "/readyz").text();
    assert!(text.contains(&other), "{text}");
    proxy.configure(&registry, config("", ""));
    proxy.reload().unwrap();
    eventually("the socket file is removed", || !path.exists());
    assert_eq!(kept.ping(), 200);
}

#[test]
fn the_unix_socket_file_is_removed_when_the_proxy_ends() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, watched("", "unix:{dir}/admin.sock"));
    let path = proxy.path("admin.sock");
    eventually("the proxy listens", || path.exists());
    assert_eq!(get_unix(&path, "/healthz").status, 200);
    proxy.send_command(Command::Stop);
    proxy.wait();
    eventually("the socket file is removed", || !path.exists());
}

#[test]
fn the_path_of_the_socket_may_be_relative_to_the_file() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, watched("", "unix:admin.sock"));
    let path = proxy.path("admin.sock");
    eventually("the proxy listens", || path.exists());
    assert_eq!(get_unix(&path, "/healthz").status, 200);
}

#[test]
fn an_invalid_admin_address_is_rejected_with_the_reason() {
    let registry = Registry::accepting_all();
    for (admin, words) in [
        ("127.0.0.1", "listen.admin"),
        ("unix:", "listen.admin"),
        ("unix:{dir}/proxy.toml", "is not a socket"),
        ("unix:{dir}/absent/admin.sock", "cannot listen on unix:"),
    ] {
        let dir = crate::support::proxy::directory();
        let problems = Proxy::try_start(dir, &registry.url(), watched("", admin));
        let problems = problems.err().expect("the start fails").to_string();
        assert!(problems.contains(words), "{words} in {problems}");
    }
}
