//! The proxy rewrites the internal origins in `Location`, `Content-Location`, `Link` and the Bearer realm, and leaves every
//! other value unchanged.

use crate::support::{HttpVersion, Proxy, Registry, TestRequest, config, exchange};

#[test]
fn an_internal_origin_becomes_the_origin_that_the_client_addressed() {
    let registry = Registry::start(|exchange| {
        let location = exchange.head.header("x-location").to_owned();
        exchange.send(format!(
            "HTTP/1.1 202 Accepted\r\nLocation: {location}\r\nContent-Location: {location}\r\n\
             Link: <{location}>; rel=\"next\"\r\nContent-Length: 0\r\n\r\n"
        ));
    });
    let hosts = "hosts = [\"localhost\", \"reg.test\", \"[::1]\"]";
    let config = config("", "").lines("hosts", hosts);
    let proxy = Proxy::start(&registry, &config);
    let path = "/v2/a/blobs/uploads/u?_state=a%2Fb+c%3D%3D&x=#f";
    let upstream = registry.authority();
    for http in HttpVersion::BOTH {
        for host in [
            "localhost:8443",
            "localhost:443",
            "localhost",
            "REG.test:5000",
            "[::1]:8443",
        ] {
            for internal in [
                format!("http://{upstream}"),
                format!("HTTP://{upstream}"),
                format!("http://{host}"),
                format!("https://{host}"),
                "http://reg.test".to_owned(),
                "http://localhost:5000".to_owned(),
            ] {
                let request = TestRequest::alice("GET", "/v2/").host(host);
                let request = request.header("x-location", format!("{internal}{path}"));
                let response = exchange(&proxy, http, &request);
                let expected = format!("https://{host}{path}");
                assert_eq!(response.header("location"), expected, "{internal}");
                assert_eq!(response.header("content-location"), expected);
                assert_eq!(
                    response.header("link"),
                    format!("<{expected}>; rel=\"next\"")
                );
            }
        }
    }
}

#[test]
fn a_location_with_a_foreign_origin_stays_byte_for_byte() {
    let registry = Registry::start(|exchange| {
        let location = exchange.head.header("x-location").to_owned();
        exchange.send(format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        ));
    });
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for location in [
            "https://s3.example/bucket/x?X-Amz-Signature=ab%2Bc&X-Amz-Date=1",
            "/v2/a/blobs/uploads/u?_state=x",
            "u?_state=x",
            "//cdn.example/x",
            "https://localhost.evil.test/v2/",
            "https://user@localhost/v2/",
            "ftp://localhost/v2/",
        ] {
            let request = TestRequest::alice("GET", "/v2/").header("x-location", location);
            let response = exchange(&proxy, http, &request);
            assert_eq!(
                (response.status, response.header("location")),
                (307, location)
            );
        }
    }
}

#[test]
fn an_external_url_wins_over_the_origin_that_the_client_addressed() {
    let registry = Registry::start(|exchange| {
        let host = exchange.head.header("host").to_owned();
        exchange.send(format!(
            "HTTP/1.1 202 Accepted\r\nLocation: https://{host}/v2/x\r\nContent-Length: 0\r\n\r\n"
        ));
    });
    let external = "hosts = [\"localhost\"]\nexternal_url = \"https://pub.example:444\"";
    let config = config("", "").lines("hosts", external);
    let proxy = Proxy::start(&registry, &config);
    for http in HttpVersion::BOTH {
        let response = exchange(
            &proxy,
            http,
            &TestRequest::alice("GET", "/v2/").host("localhost:8443"),
        );
        assert_eq!(response.header("location"), "https://pub.example:444/v2/x");
        assert_eq!(
            registry.requests().pop().unwrap().header("host"),
            "localhost:8443"
        );
    }
}

#[test]
fn of_the_challenges_only_the_bearer_realm_is_rewritten() {
    let registry = Registry::start(|exchange| {
        let challenges: String = exchange
            .head
            .all("x-challenge")
            .iter()
            .map(|value| format!("WWW-Authenticate: {value}\r\n"))
            .collect();
        exchange.send(format!(
            "HTTP/1.1 401 Unauthorized\r\n{challenges}Content-Length: 0\r\n\r\n"
        ));
    });
    let auth = "auth = { mode = \"upstream\" }\ninternal_origins = [\"https://core\"]";
    let proxy = Proxy::start(&registry, config("", "").lines("auth", auth));
    let upstream = registry.authority();
    let bearer = |url: &str| {
        format!("Bearer service=\"a, \\\"b\\\"\" , Realm=\"{url}/t?x=%2F&y\",scope=\"\"")
    };
    for http in HttpVersion::BOTH {
        for (sent, expected) in [
            (
                vec![bearer("http://localhost:5080")],
                vec![bearer("https://localhost:8443")],
            ),
            (
                vec![bearer("http://LOCALHOST")],
                vec![bearer("https://localhost:8443")],
            ),
            (
                vec![bearer(&format!("http://{upstream}"))],
                vec![bearer("https://localhost:8443")],
            ),
            (
                vec![bearer("https://core:443")],
                vec![bearer("https://localhost:8443")],
            ),
            (
                vec![bearer("https://sso.example")],
                vec![bearer("https://sso.example")],
            ),
            (
                vec![bearer("https://localhost:5080")],
                vec![bearer("https://localhost:5080")],
            ),
            (
                vec!["Basic realm=\"http://localhost/\"".to_owned()],
                vec!["Basic realm=\"http://localhost/\"".to_owned()],
            ),
            (
                vec![
                    format!(
                        "Negotiate YQ==, {}, Basic realm=\"http://localhost/t\"",
                        bearer("http://localhost")
                    ),
                    bearer("http://core"),
                    bearer("http://localhost:1"),
                ],
                vec![
                    format!(
                        "Negotiate YQ==, {}, Basic realm=\"http://localhost/t\"",
                        bearer("https://localhost:8443")
                    ),
                    bearer("http://core"),
                    bearer("https://localhost:8443"),
                ],
            ),
        ] {
            let request = TestRequest::new("GET", "/v2/").host("localhost:8443");
            let request = sent.iter().fold(request, |request, value| {
                request.header("x-challenge", value)
            });
            let response = exchange(&proxy, http, &request);
            assert_eq!(
                response.header_values("www-authenticate"),
                expected,
                "{sent:?}"
            );
        }
    }
}
