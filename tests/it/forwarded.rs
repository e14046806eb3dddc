//! The header fields that the proxy forwards, removes and adds, in each direction.

use crate::support::{Client, HttpVersion, OK, Proxy, Registry, TestRequest, config, exchange};

#[test]
fn the_registry_receives_exactly_these_fields() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let forged = [
        ("forwarded", "host=evil.test;proto=http"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/evil"),
        ("x-forwarded-server", "evil"),
        ("x-forwarded-ssl", "off"),
        ("x-real-ip", "6.6.6.6"),
        ("x_forwarded_proto", "http"),
        ("some_name", "x"),
        ("x-original-url", "/evil"),
        ("x-rewrite-url", "/evil"),
        ("x-http-method-override", "DELETE"),
        ("x-request-id", "forged"),
        ("proxy", "evil:1"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "trailers"),
        ("accept", "application/json, text/plain;q=0.5"),
        ("accept", "*/*"),
        ("user-agent", "docker/1"),
        ("accept-encoding", "gzip"),
        ("range", "bytes=0-9"),
        ("x-custom", "caf\u{e9}"),
    ];
    for http in HttpVersion::BOTH {
        let mut request = TestRequest::alice("GET", "/v2/");
        for (name, value) in forged {
            request = request.header(name, value);
        }
        assert_eq!(exchange(&proxy, http, &request).status, 200);
        let seen = registry.requests().pop().unwrap();
        let expected = [
            "accept",
            "accept",
            "accept-encoding",
            "host",
            "range",
            "user-agent",
            "x-custom",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
            "x-request-id",
        ];
        assert_eq!(seen.header_names(), expected, "{http:?}");
        assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
        assert_eq!(seen.header("x-real-ip"), "127.0.0.1");
        assert_eq!(seen.header("x-forwarded-proto"), "https");
        assert_eq!(seen.header("host"), "localhost");
        assert_eq!(
            seen.all("accept"),
            ["application/json, text/plain;q=0.5", "*/*"]
        );
        assert_eq!(
            seen.header("x-custom").as_bytes(),
            "caf\u{c3}\u{a9}".as_bytes()
        );
        assert_ne!(seen.header("x-request-id"), "forged");
    }
}

#[test]
fn a_connection_field_cannot_remove_end_to_end_fields() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let request = TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
        .header(
            "Connection",
            "X-Forwarded-For, Host, content-length, X-Nominated",
        )
        .header(
            "connection",
            "AUTHORIZATION,x-forwarded-proto,x-real-ip , x-second,content-type",
        )
        .header("X-Nominated", "1")
        .header("x-second", "2")
        .header("x-third", "3")
        .header("Keep-Alive", "timeout=1")
        .header("Upgrade", "websocket")
        .header("Proxy-Connection", "keep-alive")
        .body("body");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    let seen = registry.only_request();
    let expected = [
        "content-length",
        "content-type",
        "host",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
        "x-third",
    ];
    assert_eq!(seen.header_names(), expected);
    assert_eq!(seen.body, b"body");
}

#[test]
fn several_cookie_fields_become_one() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let request = TestRequest::alice("GET", "/v2/")
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3");
        assert_eq!(exchange(&proxy, http, &request).status, 200);
        assert_eq!(
            registry.requests().pop().unwrap().header("cookie"),
            "a=1; b=2; c=3"
        );
    }
}

#[test]
fn the_client_receives_all_fields_except_hop_by_hop_fields() {
    let registry = Registry::responding(
        "HTTP/1.1 200 OK\r\nConnection: X-Nominated, keep-alive\r\nX-Nominated: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h3\r\nTrailer: x\r\n\
         X-Accel-Redirect: /secret\r\nX-Accel-Buffering: no\r\nX-Request-Id: theirs\r\n\
         ETag: \"sha256:abc\"\r\nDocker-Content-Digest: sha256:abc\r\nSet-Cookie: a=1\r\n\
         Set-Cookie: b=2\r\nContent-Encoding: gzip\r\nOCI-Chunk-Min-Length: 5\r\n\
         Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\n{}",
    );
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let response = exchange(&proxy, http, &TestRequest::alice("GET", "/v2/"));
        let mut names: Vec<_> = response
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        let expected = [
            "content-encoding",
            "content-length",
            "date",
            "docker-content-digest",
            "docker-distribution-api-version",
            "etag",
            "oci-chunk-min-length",
            "set-cookie",
            "set-cookie",
            "x-request-id",
        ];
        assert_eq!(names, expected, "{http:?}");
        assert_eq!(response.header_values("set-cookie"), ["a=1", "b=2"]);
        let sent = registry.requests().pop().unwrap();
        assert_eq!(response.header("x-request-id"), sent.header("x-request-id"));
    }
}

#[test]
fn a_request_has_one_id_in_the_request_the_response_and_the_log() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let ids: Vec<String> = HttpVersion::BOTH
        .iter()
        .map(|http| exchange(&proxy, *http, &TestRequest::alice("GET", "/v2/")))
        .map(|response| response.header("x-request-id").to_owned())
        .collect();
    assert_ne!(ids[0], ids[1]);
    for (id, seen) in ids.iter().zip(registry.requests()) {
        assert_eq!(seen.header("x-request-id"), id);
    }
    let log = proxy.stop_and_read_access_log();
    for id in ids {
        assert_eq!(log.matches(&format!("request_id={id}")).count(), 1, "{log}");
    }
}

#[test]
fn configured_fields_are_set_and_removed() {
    let registry = Registry::responding(
        "HTTP/1.1 200 OK\r\nServer: x\r\nX-Old: 1\r\nX-Both: up\r\nContent-Length: 0\r\n\r\n",
    );
    let route = r#"
request_headers = { "X-Team" = "a", "User-Agent" = "", "X-Both" = "gate" }
response_headers = { "Strict-Transport-Security" = "max-age=1", "x-old" = "", "Server" = "", "X-Both" = "gate" }
"#;
    let proxy = Proxy::start(&registry, config("", route));
    for http in HttpVersion::BOTH {
        let request = TestRequest::alice("GET", "/v2/")
            .header("user-agent", "x")
            .header("x-both", "client");
        let response = exchange(&proxy, http, &request);
        assert_eq!(response.header("strict-transport-security"), "max-age=1");
        assert_eq!(response.header("x-both"), "gate");
        assert!(!response.has_header("x-old") && !response.has_header("server"));
        let seen = registry.requests().pop().unwrap();
        assert_eq!(
            (seen.header("x-team"), seen.header("x-both")),
            ("a", "gate")
        );
        assert!(seen.all("user-agent").is_empty());
    }
}

#[test]
fn the_host_is_forwarded_byte_for_byte() {
    let registry = Registry::responding(OK);
    let proxy = Proxy::with_defaults(&registry);
    for host in ["localhost", "LOCALhost:1", "localhost.", "localhost.:8443"] {
        let mut client = Client::connect(&proxy);
        assert_eq!(
            client
                .exchange(&TestRequest::alice("GET", "/v2/").host(host))
                .status,
            200
        );
        assert_eq!(registry.requests().pop().unwrap().header("host"), host);
    }
}
