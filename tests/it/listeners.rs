//! The plain HTTP listener: people are sent on to https, registry clients are told in words.

use std::net::TcpListener;

pub(crate) use crate::support::kept_port;
use crate::support::proxy::TestConfig;
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, exchange,
};

#[test]
fn people_are_sent_on_to_https() {
    let registry = Registry::accepting_all();
    let (port, _kept) = kept_port();
    let proxy = Proxy::start(&registry, plain(&format!("127.0.0.1:{port}"), ""));
    for (target, host) in [
        ("/", "localhost"),
        ("/some/path?a=1&b=%2F;c", "localhost:8080"),
        ("/v20/", "LOCALHOST"),
    ] {
        for method in ["GET", "POST", "HEAD"] {
            let answer = over_http(&proxy, &TestRequest::new(method, target).host(host));
            assert_eq!(answer.status, 308, "{method} {target}");
            let expected = format!("https://localhost:{port}{target}");
            assert_eq!(answer.header("location"), expected);
            assert!(!answer.header("x-request-id").is_empty());
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn the_external_url_is_where_people_are_sent() {
    let registry = Registry::accepting_all();
    let site = "external_url = \"https://pub.example:444\"";
    let proxy = Proxy::start(&registry, plain("127.0.0.1:0", site));
    let answer = over_http(&proxy, &TestRequest::new("GET", "/x?y"));
    assert_eq!(
        (answer.status, answer.header("location")),
        (308, "https://pub.example:444/x?y")
    );
}

#[test]
fn a_registry_client_is_told_in_words() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, plain("127.0.0.1:0", ""));
    for target in ["/v2/", "/v2", "/v2/a/tags/list", "//v2/", "/%76%32/"] {
        for request in [
            TestRequest::new("GET", target),
            TestRequest::alice("PUT", target).body("x"),
        ] {
            let answer = over_http(&proxy, &request);
            answer.assert_rejection(400, "UNSUPPORTED");
            assert!(answer.text().contains("https"), "{}", answer.text());
            assert!(!answer.has_header("location"));
        }
    }
    over_http(&proxy, &TestRequest::new("HEAD", "/v2/")).assert_rejection_head(400);
    assert!(registry.requests().is_empty());
}

#[test]
fn a_host_of_no_site_is_not_sent_anywhere() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, plain("127.0.0.1:0", ""));
    for target in ["/", "/v2/"] {
        let answer = over_http(&proxy, &TestRequest::new("GET", target).host("evil.test"));
        assert_eq!(answer.status, 421);
        assert!(!answer.has_header("location"));
    }
    let nobody = over_http(&proxy, &TestRequest::new("GET", "/").host(""));
    assert_eq!(nobody.status, 400);
}

#[test]
fn a_plain_connection_is_kept() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, plain("127.0.0.1:0", ""));
    let mut client = Client::plain(proxy.http());
    for _ in 0..3 {
        assert_eq!(client.exchange(&TestRequest::new("GET", "/")).status, 308);
        client
            .exchange(&TestRequest::new("GET", "/v2/"))
            .assert_rejection(400, "UNSUPPORTED");
    }
    // Beside it TLS is served as ever.
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", "/v2/")
        )
        .status,
        200
    );
}

#[test]
fn an_address_in_use_is_a_refusal_to_start() {
    let registry = Registry::accepting_all();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = plain(&address, "");
    let dir = crate::support::proxy::directory();
    let problems = Proxy::try_start(dir, &registry.url(), &text)
        .err()
        .expect("a refusal");
    assert!(problems.to_string().contains(&address), "{problems}");
}

fn plain(https: &str, site: &str) -> TestConfig {
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
        let text = plain("127.0.0.1:0", "").after("workers", format_args!("public_port = {port}"));
        let proxy = Proxy::start(&registry, text);
        let answer = over_http(
            &proxy,
            &TestRequest::new("GET", "/x?y").host("localhost:8080"),
        );
        assert_eq!((answer.status, answer.header("location")), (308, expected));
    }
}

fn over_http(proxy: &Proxy, ask: &TestRequest) -> TestResponse {
    Client::plain(proxy.http()).exchange(ask)
}
