//! The ping `/v2/`, by which clients learn whether there is a registry and how to log in.

use crate::support::{Ask, Client, Http, Proxy, Registry, ask, config, registry};

#[test]
fn without_credentials_there_is_one_challenge() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        let answer = ask(&proxy, http, &Ask::new("GET", "/v2/"));
        answer.is_refusal(401, "UNAUTHORIZED");
        assert_eq!(
            answer.one("www-authenticate"),
            "Basic realm=\"Registry realm\""
        );
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn head_has_the_same_fields_and_no_body() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    let mut client = Client::connect(&proxy);
    let get = client.ask(&Ask::new("GET", "/v2/"));
    // The same connection, three times: no byte of a body is left over.
    for _ in 0..2 {
        let head = client.ask(&Ask::new("HEAD", "/v2/"));
        head.is_refused_head(401);
        assert_eq!(head.without_id().1, get.without_id().1);
    }
    let head = ask(&proxy, Http::Two, &Ask::new("HEAD", "/v2/"));
    head.is_refused_head(401);
    assert!(head.body.is_empty());
}

#[test]
fn with_credentials_the_registry_answers() {
    let registry = Registry::answering(
        "HTTP/1.1 200 OK\r\nDocker-Distribution-Api-Version: registry/2.0\r\nContent-Length: 2\r\n\r\n{}",
    );
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        let answer = ask(&proxy, http, &Ask::alice("GET", "/v2/"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
        assert_eq!(
            answer.one("docker-distribution-api-version"),
            "registry/2.0"
        );
        assert!(!answer.has("www-authenticate"));
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
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        let without = ask(&proxy, http, &Ask::new("GET", "/v2/"));
        let wrong = ask(&proxy, http, &Ask::new("GET", "/v2/").login(b"alice:wrong"));
        wrong.is_refusal(401, "UNAUTHORIZED");
        assert_eq!(wrong.without_id(), without.without_id());
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_realm_is_quoted() {
    let registry = Registry::obliging();
    let config = config("", "").set(
        "auth",
        r#"{ mode = "basic", htpasswd = "htpasswd", realm = 'a"b\c' }"#,
    );
    let proxy = Proxy::start(&registry, &config);
    let answer = ask(&proxy, Http::One, &Ask::new("GET", "/v2/"));
    assert_eq!(answer.one("www-authenticate"), r#"Basic realm="a\"b\\c""#);
}

#[test]
fn v2_without_its_slash_is_redirected_after_the_login() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        ask(&proxy, http, &Ask::new("GET", "/v2")).is_refusal(401, "UNAUTHORIZED");
        for method in ["GET", "HEAD"] {
            let answer = ask(&proxy, http, &Ask::alice(method, "/v2?a=%2F&b"));
            assert_eq!(answer.status, 301);
            assert_eq!(answer.one("location"), "/v2/?a=%2F&b");
            assert_eq!(
                answer.one("docker-distribution-api-version"),
                "registry/2.0"
            );
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn other_methods_are_not_allowed() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "FOO", "get"] {
            let answer = ask(&proxy, http, &Ask::alice(method, "/v2/"));
            answer.is_refusal(405, "UNSUPPORTED");
            assert_eq!(answer.one("allow"), "GET, HEAD, OPTIONS");
            // Which methods there are is told to nobody unknown.
            ask(&proxy, http, &Ask::new(method, "/v2/")).is_refusal(401, "UNAUTHORIZED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn version_1_is_not_here() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        for target in ["/v1/_ping", "/v1/search?q=x", "/", "/v20/"] {
            let answer = ask(&proxy, http, &Ask::new("GET", target));
            assert_eq!(answer.status, 404, "{target}");
            assert!(!answer.has("www-authenticate"));
            assert!(!answer.has("docker-distribution-api-version"));
            assert!(answer.one("content-type").starts_with("text/plain"));
        }
        let page = Ask::new("GET", "/").header("accept", "text/html,*/*");
        let page = ask(&proxy, http, &page);
        assert_eq!(page.one("content-type"), "text/html; charset=utf-8");
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
            let registry = Registry::answering(answer);
            let proxy = Proxy::usual(&registry);
            let answer = ask(&proxy, Http::One, &Ask::alice("GET", "/v2/"));
            assert_eq!(answer.status.to_string(), status[..3]);
            assert_eq!(answer.one("docker-distribution-api-version"), expected);
        }
    }
}

#[test]
fn a_dead_registry_still_asks_for_a_password() {
    let config = config("", "");
    let upstream = format!("http://{}", registry::nowhere());
    let proxy = Proxy::start_in(crate::support::proxy::directory(), &upstream, &config);
    for http in Http::BOTH {
        ask(&proxy, http, &Ask::new("GET", "/v2/")).is_refusal(401, "UNAUTHORIZED");
        let answer = ask(&proxy, http, &Ask::alice("GET", "/v2/"));
        answer.is_refusal(502, "UNAVAILABLE");
        assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    }
}
