//! The plain HTTP listener `listen.http`: it redirects to https, and sends registry clients a JSON error.

use std::net::TcpListener;

pub(crate) use crate::support::kept_port;
use crate::support::proxy::TestConfig;
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, ping,
};

#[test]
fn outside_v2_a_request_gets_308_to_https() {
    let registry = Registry::accepting_all();
    let (port, _kept) = kept_port();
    let proxy = Proxy::start(
        &registry,
        with_http_listener(&format!("127.0.0.1:{port}"), ""),
    );
    for (target, host) in [
        ("/", "localhost"),
        ("/some/path?a=1&b=%2F;c", "localhost:8080"),
        ("/v20/", "LOCALHOST"),
    ] {
        for method in ["GET", "POST", "HEAD"] {
            let response = exchange_over_http(&proxy, &TestRequest::new(method, target).host(host));
            assert_eq!(response.status, 308, "{method} {target}");
            let expected = format!("https://localhost:{port}{target}");
            assert_eq!(response.header("location"), expected);
            assert!(!response.header("x-request-id").is_empty());
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn the_redirect_goes_to_the_external_url() {
    let registry = Registry::accepting_all();
    let site = "external_url = \"https://pub.example:444\"";
    let proxy = Proxy::start(&registry, with_http_listener("127.0.0.1:0", site));
    let response = exchange_over_http(&proxy, &TestRequest::new("GET", "/x?y"));
    assert_eq!(
        (response.status, response.header("location")),
        (308, "https://pub.example:444/x?y")
    );
}

#[test]
fn under_v2_a_request_gets_a_json_400() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, with_http_listener("127.0.0.1:0", ""));
    for target in ["/v2/", "/v2", "/v2/a/tags/list", "//v2/", "/%76%32/"] {
        for request in [
            TestRequest::new("GET", target),
            TestRequest::alice("PUT", target).body("x"),
        ] {
            let response = exchange_over_http(&proxy, &request);
            response.assert_rejection(400, "UNSUPPORTED");
            assert!(response.text().contains("https"), "{}", response.text());
            assert!(!response.has_header("location"));
        }
    }
    exchange_over_http(&proxy, &TestRequest::new("HEAD", "/v2/")).assert_rejection_head(400);
    assert!(registry.requests().is_empty());
}

#[test]
fn a_host_without_a_site_gets_421_and_no_redirect() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, with_http_listener("127.0.0.1:0", ""));
    for target in ["/", "/v2/"] {
        let response =
            exchange_over_http(&proxy, &TestRequest::new("GET", target).host("evil.test"));
        assert_eq!(response.status, 421);
        assert!(!response.has_header("location"));
    }
    let empty_host = exchange_over_http(&proxy, &TestRequest::new("GET", "/").host(""));
    assert_eq!(empty_host.status, 400);
}

#[test]
fn a_plain_http_connection_is_kept_alive() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, with_http_listener("127.0.0.1:0", ""));
    let mut client = Client::plain(proxy.http());
    for _ in 0..3 {
        assert_eq!(client.exchange(&TestRequest::new("GET", "/")).status, 308);
        client
            .exchange(&TestRequest::new("GET", "/v2/"))
            .assert_rejection(400, "UNSUPPORTED");
    }
    // The https listener serves requests meanwhile.
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
}

#[test]
fn an_address_in_use_makes_the_start_fail() {
    let registry = Registry::accepting_all();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = with_http_listener(&address, "");
    let dir = crate::support::proxy::directory();
    let problems = Proxy::try_start(dir, &registry.url(), &text)
        .err()
        .expect("the start fails");
    assert!(problems.to_string().contains(&address), "{problems}");
}

/// A configuration with an http listener, the https address `https`, and the keys `site` in the site.
fn with_http_listener(https: &str, site: &str) -> TestConfig {
    config("", "")
        .https(https)
        .after("https", "http = [\"127.0.0.1:0\"]")
        .after("hosts", site)
}

#[test]
fn a_redirect_names_the_port_that_clients_use() {
    let registry = Registry::accepting_all();
    for (port, expected) in [
        ("443", "https://localhost/x?y"),
        ("8443", "https://localhost:8443/x?y"),
    ] {
        let text = with_http_listener("127.0.0.1:0", "")
            .after("workers", format_args!("public_port = {port}"));
        let proxy = Proxy::start(&registry, text);
        let request = TestRequest::new("GET", "/x?y").host("localhost:8080");
        let response = exchange_over_http(&proxy, &request);
        assert_eq!(
            (response.status, response.header("location")),
            (308, expected)
        );
    }
}

fn exchange_over_http(proxy: &Proxy, request: &TestRequest) -> TestResponse {
    Client::plain(proxy.http()).exchange(request)
}
