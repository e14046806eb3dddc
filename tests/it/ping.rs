//! The ping `/v2/`, by which clients learn whether there is a registry and how to log in.

use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, config, exchange, registry,
};

#[test]
fn without_credentials_there_is_one_challenge() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let answer = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        answer.assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(
            answer.header("www-authenticate"),
            "Basic realm=\"Registry realm\""
        );
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn head_has_the_same_fields_and_no_body() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    let get = client.exchange(&TestRequest::new("GET", "/v2/"));
    // The same connection, three times: no byte of a body is left over.
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
fn with_credentials_the_registry_answers() {
    let registry = Registry::responding(
        "HTTP/1.1 200 OK\r\nDocker-Distribution-Api-Version: registry/2.0\r\nContent-Length: 2\r\n\r\n{}",
    );
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let answer = exchange(&proxy, http, &TestRequest::alice("GET", "/v2/"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
        assert_eq!(
            answer.header("docker-distribution-api-version"),
            "registry/2.0"
        );
        assert!(!answer.has_header("www-authenticate"));
    }
    let targets: Vec<_> = registry
        .requests()
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(targets, ["/v2/", "/v2/"]);
}

#[test]
fn wrong_credentials_are_no_credentials() {
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
fn a_realm_is_quoted() {
    let registry = Registry::accepting_all();
    let config = config("", "").set(
        "auth",
        r#"{ mode = "basic", htpasswd = "htpasswd", realm = 'a"b\c' }"#,
    );
    let proxy = Proxy::start(&registry, &config);
    let answer = exchange(&proxy, HttpVersion::Http1, &TestRequest::new("GET", "/v2/"));
    assert_eq!(
        answer.header("www-authenticate"),
        r#"Basic realm="a\"b\\c""#
    );
}

#[test]
fn v2_without_its_slash_is_redirected_after_the_login() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::new("GET", "/v2"))
            .assert_rejection(401, "UNAUTHORIZED");
        for method in ["GET", "HEAD"] {
            let answer = exchange(&proxy, http, &TestRequest::alice(method, "/v2?a=%2F&b"));
            assert_eq!(answer.status, 301);
            assert_eq!(answer.header("location"), "/v2/?a=%2F&b");
            assert_eq!(
                answer.header("docker-distribution-api-version"),
                "registry/2.0"
            );
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn other_methods_are_not_allowed() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "FOO", "get"] {
            let answer = exchange(&proxy, http, &TestRequest::alice(method, "/v2/"));
            answer.assert_rejection(405, "UNSUPPORTED");
            assert_eq!(answer.header("allow"), "GET, HEAD, OPTIONS");
            // Which methods there are is told to nobody unknown.
            exchange(&proxy, http, &TestRequest::new(method, "/v2/"))
                .assert_rejection(401, "UNAUTHORIZED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn version_1_is_not_here() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for target in ["/v1/_ping", "/v1/search?q=x", "/", "/v20/"] {
            let answer = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(answer.status, 404, "{target}");
            assert!(!answer.has_header("www-authenticate"));
            assert!(!answer.has_header("docker-distribution-api-version"));
            assert!(answer.header("content-type").starts_with("text/plain"));
        }
        let page = TestRequest::new("GET", "/").header("accept", "text/html,*/*");
        let page = exchange(&proxy, http, &page);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert!(page.text().starts_with("<!doctype html>"));
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn the_api_version_comes_exactly_once() {
    let answers = [
        ("", "registry/2.0"),
        ("Docker-Distribution-Api-Version: \r\n", "registry/2.0"),
        (
            "docker-distribution-api-version: registry/2.0\r\nDOCKER-Distribution-Api-Version: registry/2.0\r\n",
            "registry/2.0",
        ),
        ("Docker-Distribution-API-Version: other/3\r\n", "other/3"),
    ];
    for (fields, expected) in answers {
        for status in ["200 OK", "202 Accepted", "404 Not Found", "503 Busy"] {
            let answer = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\n\r\n");
            let registry = Registry::responding(answer);
            let proxy = Proxy::with_defaults(&registry);
            let answer = exchange(
                &proxy,
                HttpVersion::Http1,
                &TestRequest::alice("GET", "/v2/"),
            );
            assert_eq!(answer.status.to_string(), status[..3]);
            assert_eq!(answer.header("docker-distribution-api-version"), expected);
        }
    }
}

#[test]
fn a_dead_registry_still_asks_for_a_password() {
    let config = config("", "");
    let upstream = format!("http://{}", registry::refusing_address());
    let proxy = Proxy::start_in(crate::support::proxy::directory(), &upstream, &config);
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::new("GET", "/v2/"))
            .assert_rejection(401, "UNAUTHORIZED");
        let answer = exchange(&proxy, http, &TestRequest::alice("GET", "/v2/"));
        answer.assert_rejection(502, "UNAVAILABLE");
        assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    }
}
