//! The grammar of the registry API: the proxy rejects a request that is no operation, and forwards every operation in one
//! canonical form.

use crate::support::{Client, DIGEST, HttpVersion, Proxy, Registry, TestRequest, config, exchange};

#[test]
fn a_request_that_is_no_operation_is_rejected() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let long = format!("/v2/{}/tags/list", "a".repeat(256));
    let cases = [
        ("GET", "/v2/secret/repo/tags%2flist", 400, "NAME_INVALID"),
        ("GET", "/v2/secret%2Frepo%2Ftags/list", 400, "NAME_INVALID"),
        ("GET", "/v2%2Fsecret/repo/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/secret%2F%2Frepo/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/secret%2F/repo/tags/list", 400, "NAME_INVALID"),
        ("PUT", "//v2/secret/repo/manifests/x", 400, "NAME_INVALID"),
        ("POST", "/v2//a/blobs/uploads/", 400, "NAME_INVALID"),
        ("GET", "/v2//a/blobs/uploads/u", 400, "NAME_INVALID"),
        ("GET", "/v2/secret%252Frepo/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/Secret/repo/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/localhost:5000/x/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a_-b/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/-a/tags/list", 400, "NAME_INVALID"),
        ("GET", &long, 400, "NAME_INVALID"),
        ("GET", "/v2/a;b/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a%3Bb/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a%20b/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/%C3%A4/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a/manifests/.INVALID", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/a/manifests/.INVALID/", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/a/manifests/sha256:abc", 404, "MANIFEST_UNKNOWN"),
        ("PUT", "/v2/a/manifests/.INVALID", 400, "TAG_INVALID"),
        ("DELETE", "/v2/a/manifests/.INVALID", 400, "TAG_INVALID"),
        ("PUT", "/v2/a/manifests/sha256:abc", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/latest", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/referrers/latest", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a", 404, "UNSUPPORTED"),
        ("GET", "/v2/a/Tags/list", 404, "UNSUPPORTED"),
        ("GET", "/v2/a/tags/lists", 404, "UNSUPPORTED"),
        ("GET", "/v2/a/blobs/uploads/u/x", 404, "UNSUPPORTED"),
        ("GET", "/v2/a/blobs/uploads/u%3Ax", 404, "UNSUPPORTED"),
        ("PUT", "/v2/a/manifests/latest/", 404, "UNSUPPORTED"),
        ("get", "/v2/a/tags/list", 405, "UNSUPPORTED"),
        ("TRACE", "/v2/a/tags/list", 405, "UNSUPPORTED"),
        ("DELETE", "/v2/a/tags/list", 405, "UNSUPPORTED"),
        ("PUT", "/v2/_catalog", 405, "UNSUPPORTED"),
        ("GET", "/v2/a/blobs/uploads/", 405, "UNSUPPORTED"),
    ];
    for http in HttpVersion::BOTH {
        for (method, target, status, code) in cases {
            let response = exchange(&proxy, http, &TestRequest::alice(method, target));
            println!("{http:?} {method} {target}");
            response.assert_rejection(status, code);
            assert_eq!(response.has_header("allow"), status == 405);
            // Only an authenticated client learns what is wrong.
            let anonymous = exchange(&proxy, http, &TestRequest::new(method, target));
            anonymous.assert_rejection(401, "UNAUTHORIZED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_target_with_dot_segments_bad_escapes_or_backslashes_gets_400() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let cases = [
        "/v2/./a/tags/list",
        "/v2/../v2/a/tags/list",
        "/v2/a/%2e%2e/b/tags/list",
        "/v2/a%2F..%2Fb/tags/list",
        "/v2/..;x/a/tags/list",
        "/v2/a/%zz/tags/list",
        "/v2/a/%",
        "/v2/a%00/tags/list",
        "/v2/a\\b/tags/list",
        "/v2/a%2F%2e%2e/b/tags/list",
        "/v2/a%5C..%5Cb/tags/list",
    ];
    for http in HttpVersion::BOTH {
        for target in cases {
            let response = exchange(&proxy, http, &TestRequest::alice("GET", target));
            response.assert_rejection(400, "UNSUPPORTED");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_rejected_head_request_has_the_content_length_of_get_and_no_body() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut client = Client::connect(&proxy);
    for (target, status) in [
        ("/v2/A/manifests/x", 400),
        ("/v2/a", 404),
        ("/v2/a/manifests/.INVALID", 404),
        ("/v2/_catalog", 405),
    ] {
        let head = client.exchange(&TestRequest::alice("HEAD", target));
        head.assert_rejection_head(status);
        let over_h2 = exchange(
            &proxy,
            HttpVersion::Http2,
            &TestRequest::alice("HEAD", target),
        );
        over_h2.assert_rejection_head(status);
        assert!(over_h2.body.is_empty());
        if status != 405 {
            let get = client.exchange(&TestRequest::alice("GET", target));
            get.assert_rejection(
                status,
                match target {
                    "/v2/a" => "UNSUPPORTED",
                    "/v2/A/manifests/x" => "NAME_INVALID",
                    _ => "MANIFEST_UNKNOWN",
                },
            );
            assert_eq!(head.header("content-length"), get.header("content-length"));
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_forwarded_target_is_in_canonical_form() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let (blob, escaped) = (format!("/v2/a/blobs/{DIGEST}"), DIGEST.replace(':', "%3A"));
    let name = format!("/v2/{}/tags/list", "a".repeat(255));
    let referrers = format!("/v2/a/referrers/{DIGEST}");
    let cases = [
        ("GET", "/v2/", "/v2/"),
        ("GET", "/v2/_catalog?last=x&n=2", "/v2/_catalog?n=2&last=x"),
        (
            "GET",
            "/v2/a/manifests/tags/list",
            "/v2/a/manifests/tags/list",
        ),
        (
            "GET",
            "/v2/a/tags/list/tags/list",
            "/v2/a/tags/list/tags/list",
        ),
        (
            "GET",
            "/v2/a/blobs/uploads/manifests/x",
            "/v2/a/blobs/uploads/manifests/x",
        ),
        (
            "GET",
            "/v2/secr%65t/repo/tags/list",
            "/v2/secret/repo/tags/list",
        ),
        ("GET", "/v2/a/manifests/lat%65st", "/v2/a/manifests/latest"),
        // Portainer escapes the slash in a repository name.
        (
            "GET",
            "/v2/team%2Fapp/tags/list?n=5",
            "/v2/team/app/tags/list?n=5",
        ),
        (
            "HEAD",
            "/v2/team%2fapp%2fx/manifests/latest",
            "/v2/team/app/x/manifests/latest",
        ),
        (
            "DELETE",
            "/v2/team%2Fapp/manifests/v1%2E0",
            "/v2/team/app/manifests/v1.0",
        ),
        (
            "GET",
            "/v2/a%2Db%5fc%2Ed/tags/list",
            "/v2/a-b_c.d/tags/list",
        ),
        ("HEAD", &format!("/v2/a/blobs/{escaped}"), &blob),
        ("GET", &blob, &blob),
        ("DELETE", &blob, &blob),
        ("GET", &referrers, &referrers),
        ("GET", &name, &name),
        ("OPTIONS", "/v2/a/tags/list", "/v2/a/tags/list"),
        ("PUT", "/v2/a/manifests/latest", "/v2/a/manifests/latest"),
        ("POST", "/v2/a/blobs/uploads", "/v2/a/blobs/uploads/"),
        ("POST", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/"),
        (
            "PATCH",
            "/v2/a/blobs/uploads/u-1=._",
            "/v2/a/blobs/uploads/u-1=._",
        ),
        ("DELETE", "/v2/a/blobs/uploads/u", "/v2/a/blobs/uploads/u"),
        (
            "GET",
            "/v2/a/tags/list?unknown=1&n=3",
            "/v2/a/tags/list?n=3",
        ),
    ];
    for http in HttpVersion::BOTH {
        for (method, target, expected) in cases {
            let before = registry.requests().len();
            let response = exchange(&proxy, http, &TestRequest::alice(method, target));
            assert_eq!(
                response.status,
                200,
                "{method} {target}: {}",
                response.text()
            );
            let seen = registry.requests();
            assert_eq!(seen.len(), before + 1);
            let last = seen.last().unwrap();
            assert_eq!(
                (last.method.as_str(), last.target.as_str()),
                (method, expected)
            );
        }
    }
}

#[test]
fn a_target_with_surplus_slashes_is_redirected_after_authentication() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for (target, location) in [
            ("/v2/a/manifests/latest/", "/v2/a/manifests/latest"),
            ("/v2/a/tags/list/?n=1&x=%2F", "/v2/a/tags/list?n=1&x=%2F"),
            ("/v2/_catalog/", "/v2/_catalog"),
            ("//v2/", "/v2/"),
            ("/v2//", "/v2/"),
            ("/v2//a/b/tags/list", "/v2/a/b/tags/list"),
            (
                "//v2/a%2Fb//manifests///latest?x=//",
                "/v2/a/b/manifests/latest?x=//",
            ),
        ] {
            exchange(&proxy, http, &TestRequest::new("GET", target))
                .assert_rejection(401, "UNAUTHORIZED");
            for method in ["GET", "HEAD"] {
                let response = exchange(&proxy, http, &TestRequest::alice(method, target));
                let actual = (response.status, response.header("location"));
                assert_eq!(actual, (301, location), "{target}");
                assert_eq!(
                    response.header("docker-distribution-api-version"),
                    "registry/2.0"
                );
            }
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn the_target_must_be_a_path_or_an_absolute_url_of_the_site() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let login = "Authorization: Basic YWxpY2U6cHc=\r\n";
    let cases = [
        ("OPTIONS *", "Host: localhost", 400),
        ("CONNECT localhost:443", "Host: localhost", 405),
        ("GET http://evil.test/v2/", "Host: localhost", 421),
        ("GET http://evil.test/v2/", "Host: evil.test", 421),
        ("GET https://localhost/v2/", "Host: evil.test", 421),
        ("GET https://localhost/v2/", "Host: user@localhost", 400),
        (
            "GET https://localhost/v2/",
            "Host: localhost\r\nHost: evil.test",
            400,
        ),
        ("GET https://localhost/v2/", "X: no host", 400),
        ("GET ftp://localhost/v2/", "Host: localhost", 400),
        ("GET /v2/", "Host: evil.test", 421),
        ("GET /v2/", "Host: localhost\r\nHost: localhost", 400),
        ("GET /v2/", "Host: user@localhost", 400),
        ("GET /v2/", "X: no host", 400),
        ("GET https://localhost/v2/", "Host: localhost", 200),
    ];
    for (line, host, status) in cases {
        let mut client = Client::connect(&proxy);
        client.send(format!("{line} HTTP/1.1\r\n{host}\r\n{login}\r\n"));
        assert_eq!(client.read_response("GET").status, status, "{line} {host}");
    }
    assert_eq!(registry.only_request().target, "/v2/");
}

/// The authority of the request comes from an absolute target (HTTP/1), from `Host`, or from `:authority` (HTTP/2), and may
/// have an empty port. The test checks which `Host` the registry gets, and which origin is in the `Location` for the client.
#[test]
fn host_and_location_follow_the_authority_of_the_request() {
    let registry = Registry::responding(
        "HTTP/1.1 202 Accepted\r\nLocation: http://localhost:/v2/a/blobs/uploads/u\r\nContent-Length: 0\r\n\r\n",
    );
    let two_names = config("", "").set("hosts", "[\"alias.example\", \"localhost\"]");
    let proxy = Proxy::start(&registry, &two_names);
    let login = "Authorization: Basic YWxpY2U6cHc=\r\nContent-Length: 0\r\n";
    for (target, host, sent, outer) in [
        ("/v2", "localhost", "localhost", "localhost"),
        ("/v2", "LocalHost:", "LocalHost:", "LocalHost"),
        ("/v2", "localhost:5000", "localhost:5000", "localhost:5000"),
        // Target and `Host` name the same origin: the proxy keeps the spelling of `Host`.
        (
            "https://localhost/v2",
            "LOCALHOST:443",
            "LOCALHOST:443",
            "LOCALHOST:443",
        ),
        (
            "https://localhost:/v2",
            "localhost",
            "localhost",
            "localhost",
        ),
        // Target and `Host` differ in the port or in the name: the target wins (RFC 9112 section 3.2.2).
        (
            "https://localhost:1/v2",
            "localhost:2",
            "localhost:1",
            "localhost:1",
        ),
        (
            "https://alias.example/v2",
            "localhost",
            "alias.example",
            "alias.example",
        ),
        (
            "http://localhost/v2",
            "alias.example:7",
            "localhost",
            "localhost",
        ),
    ] {
        let mut client = Client::connect(&proxy);
        client.send(format!(
            "POST {target}/a/blobs/uploads/ HTTP/1.1\r\nHost: {host}\r\n{login}\r\n"
        ));
        let response = client.read_response("POST");
        assert_eq!(response.status, 202, "{target} {host}: {}", response.text());
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.all("host"), [sent], "{target} {host}");
        assert_eq!(seen.target, "/v2/a/blobs/uploads/");
        let location = format!("https://{outer}/v2/a/blobs/uploads/u");
        assert_eq!(response.header("location"), location, "{target} {host}");
    }
    // HTTP/2 has the authority in `:authority`.
    for (host, outer) in [
        ("localhost:", "localhost"),
        ("alias.example:8", "alias.example:8"),
    ] {
        let request = TestRequest::alice("POST", "/v2/a/blobs/uploads/").host(host);
        let response = exchange(&proxy, HttpVersion::Http2, &request);
        assert_eq!(response.status, 202, "{host}: {}", response.text());
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.all("host"), [host]);
        let location = format!("https://{outer}/v2/a/blobs/uploads/u");
        assert_eq!(response.header("location"), location, "{host}");
    }
}
