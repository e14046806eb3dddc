//! The ping `GET /v2/`, with which a client finds out whether the server is a registry and how to authenticate.

use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, config, exchange, registry,
};

#[test]
fn without_credentials_a_ping_gets_401_with_one_challenge() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let response = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        response.assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(
            response.header("www-authenticate"),
            "Basic realm=\"Registry realm\""
        );
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_head_request_gets_the_fields_of_get_and_no_body() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    let get = client.exchange(&TestRequest::new("GET", "/v2/"));
    // The requests share one connection, so bytes of a body after a HEAD response would break the next response.
    for _ in 0..2 {
        let head = client.exchange(&TestRequest::new("HEAD", "/v2/"));
        head.assert_rejection_head(401);
        assert_eq!(head.without_request_id().1, get.without_request_id().1);
    }
    let head = exchange(
        &proxy,
        HttpVersion::Http2,
        &TestRequest::new("HEAD", "/v2/"),
    );
    head.assert_rejection_head(401);
    assert!(head.body.is_empty());
}

#[test]
fn with_credentials_a_ping_is_forwarded() {
    let registry = Registry::responding(
        "HTTP/1.1 200 OK\r\nDocker-Distribution-Api-Version: registry/2.0\r\nContent-Length: 2\r\n\r\n{}",
    );
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let response = exchange(&proxy, http, &TestRequest::alice("GET", "/v2/"));
        assert_eq!((response.status, response.text().as_str()), (200, "{}"));
        assert_eq!(
            response.header("docker-distribution-api-version"),
            "registry/2.0"
        );
        assert!(!response.has_header("www-authenticate"));
    }
    let targets: Vec<_> = registry
        .requests()
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(targets, ["/v2/", "/v2/"]);
}

#[test]
fn wrong_credentials_get_the_same_401_as_no_credentials() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let without = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        let wrong = exchange(
            &proxy,
            http,
            &TestRequest::new("GET", "/v2/").basic_auth(b"alice:wrong"),
        );
        wrong.assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(wrong.without_request_id(), without.without_request_id());
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn quotes_and_backslashes_in_the_realm_are_escaped() {
    let registry = Registry::accepting_all();
    let config = config("", "").set(
        "auth",
        r#"{ mode = "basic", htpasswd = "htpasswd", realm = 'a"b\c' }"#,
    );
    let proxy = Proxy::start(&registry, &config);
    let response = exchange(&proxy, HttpVersion::Http1, &TestRequest::new("GET", "/v2/"));
    assert_eq!(
        response.header("www-authenticate"),
        r#"Basic realm="a\"b\\c""#
    );
}

#[test]
fn v2_without_its_slash_is_redirected_after_authentication() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::new("GET", "/v2"))
            .assert_rejection(401, "UNAUTHORIZED");
        for method in ["GET", "HEAD"] {
            let response = exchange(&proxy, http, &TestRequest::alice(method, "/v2?a=%2F&b"));
            assert_eq!(response.status, 301);
            assert_eq!(response.header("location"), "/v2/?a=%2F&b");
            assert_eq!(
                response.header("docker-distribution-api-version"),
                "registry/2.0"
            );
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_method_other_than_get_head_and_options_gets_405() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "FOO", "get"] {
            let response = exchange(&proxy, http, &TestRequest::alice(method, "/v2/"));
            response.assert_rejection(405, "UNSUPPORTED");
            assert_eq!(response.header("allow"), "GET, HEAD, OPTIONS");
            // An unauthenticated client does not learn which methods are allowed.
            exchange(&proxy, http, &TestRequest::new(method, "/v2/"))
                .assert_rejection(401, "UNAUTHORIZED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn the_registry_api_version_1_gets_404() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for target in ["/v1/_ping", "/v1/search?q=x", "/", "/v20/"] {
            let response = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(response.status, 404, "{target}");
            assert!(!response.has_header("www-authenticate"));
            assert!(!response.has_header("docker-distribution-api-version"));
            assert!(response.header("content-type").starts_with("text/plain"));
        }
        let page = TestRequest::new("GET", "/").header("accept", "text/html,*/*");
        let page = exchange(&proxy, http, &page);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert!(page.text().starts_with("<!doctype html>"));
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_response_has_exactly_one_api_version_field() {
    let cases = [
        ("", "registry/2.0"),
        ("Docker-Distribution-Api-Version: \r\n", "registry/2.0"),
        (
            "docker-distribution-api-version: registry/2.0\r\nDOCKER-Distribution-Api-Version: registry/2.0\r\n",
            "registry/2.0",
        ),
        ("Docker-Distribution-API-Version: other/3\r\n", "other/3"),
    ];
    for (fields, expected) in cases {
        for status in ["200 OK", "202 Accepted", "404 Not Found", "503 Busy"] {
            let upstream_response =
                format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\n\r\n");
            let registry = Registry::responding(upstream_response);
            let proxy = Proxy::with_defaults(&registry);
            let response = exchange(
                &proxy,
                HttpVersion::Http1,
                &TestRequest::alice("GET", "/v2/"),
            );
            assert_eq!(response.status.to_string(), status[..3]);
            assert_eq!(response.header("docker-distribution-api-version"), expected);
        }
    }
}

#[test]
fn an_unreachable_registry_gets_502_only_after_authentication() {
    let config = config("", "");
    let upstream = format!("http://{}", registry::refusing_address());
    let proxy = Proxy::start_in(crate::support::proxy::directory(), &upstream, &config);
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::new("GET", "/v2/"))
            .assert_rejection(401, "UNAUTHORIZED");
        let response = exchange(&proxy, http, &TestRequest::alice("GET", "/v2/"));
        response.assert_rejection(502, "UNAVAILABLE");
        assert!(
            !response.text().contains("127.0.0.1"),
            "{}",
            response.text()
        );
    }
}
