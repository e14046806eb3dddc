//! The modes `none` and `upstream` of `auth`, and routes that do not lead to a registry.

use crate::support::{HttpVersion, Proxy, Registry, TestRequest, config, exchange, ping};

fn start_with_mode(registry: &Registry, mode: &str) -> Proxy {
    let auth = format!("auth = {{ mode = \"{mode}\" }}");
    Proxy::start(registry, config("", "").lines("auth", &auth))
}

#[test]
fn in_mode_none_every_request_passes_without_a_password() {
    let registry = Registry::accepting_all();
    let proxy = start_with_mode(&registry, "none");
    for http in HttpVersion::BOTH {
        for request in [
            TestRequest::new("GET", "/v2/"),
            TestRequest::new("PATCH", "/v2/a/blobs/uploads/u").body("x"),
            TestRequest::alice("GET", "/v2/"),
            TestRequest::new("GET", "/v2/").header("authorization", "nonsense"),
        ] {
            assert_eq!(exchange(&proxy, http, &request).status, 200);
            // The proxy has no use for the credentials, and does not forward them.
            assert!(
                registry
                    .requests()
                    .pop()
                    .unwrap()
                    .all("authorization")
                    .is_empty()
            );
        }
        // The grammar of the registry API applies in mode `none`, too.
        exchange(&proxy, http, &TestRequest::new("GET", "/v2/A/tags/list"))
            .assert_rejection(400, "NAME_INVALID");
    }
}

#[test]
fn in_mode_upstream_the_credentials_are_forwarded_unchanged() {
    let registry = Registry::responding(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"harbor\"\r\nContent-Length: 2\r\n\r\n{}",
    );
    let proxy = start_with_mode(&registry, "upstream");
    for http in HttpVersion::BOTH {
        for value in [
            "Bearer abc.def",
            "Basic  YWxpY2U6cHc=",
            "Anything at=\"all\"",
        ] {
            let request = TestRequest::new("GET", "/v2/").header("authorization", value);
            let response = exchange(&proxy, http, &request);
            assert_eq!((response.status, response.text().as_str()), (401, "{}"));
            assert_eq!(
                response.header("www-authenticate"),
                "Basic realm=\"harbor\""
            );
            let seen = registry.requests().pop().unwrap();
            assert_eq!(seen.header("authorization"), value);
        }
        let response = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        assert_eq!(
            response.header("www-authenticate"),
            "Basic realm=\"harbor\""
        );
        assert!(
            registry
                .requests()
                .pop()
                .unwrap()
                .all("authorization")
                .is_empty()
        );
    }
}

#[test]
fn in_mode_upstream_the_proxy_sends_no_challenge_of_its_own() {
    let registry = Registry::responding("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let proxy = start_with_mode(&registry, "upstream");
    for http in HttpVersion::BOTH {
        let response = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        assert_eq!(response.status, 403);
        assert!(!response.has_header("www-authenticate"));
        exchange(&proxy, http, &TestRequest::new("GET", "/v2/A/tags/list"))
            .assert_rejection(400, "NAME_INVALID");
        let twice = TestRequest::new("GET", "/v2/")
            .header("authorization", "a b")
            .header("authorization", "c d");
        exchange(&proxy, http, &twice).assert_rejection(400, "UNAUTHORIZED");
    }
}

#[test]
fn connection_authorization_does_not_remove_the_credentials() {
    let registry = Registry::accepting_all();
    let proxy = start_with_mode(&registry, "upstream");
    let request = TestRequest::new("GET", "/v2/")
        .header("authorization", "Bearer x")
        .header("connection", "authorization");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    assert_eq!(registry.only_request().header("authorization"), "Bearer x");
}

/// A site with the registry at `/v2/` and a portal at `/`.
fn start_with_portal(registry: &Registry) -> Proxy {
    let more =
        "[[site.route]]\npath = \"/\"\nupstream = \"{upstream}\"\nauth = { mode = \"upstream\" }";
    Proxy::start(registry, config("", more))
}

#[test]
fn a_portal_gets_each_target_byte_for_byte() {
    let registry = Registry::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let proxy = start_with_portal(&registry);
    for http in HttpVersion::BOTH {
        for target in [
            "/",
            "/c/login?next=%2F&a=b+c;d",
            "/api/v2.0/projects?q=name%3D~x&page=1&page=2",
            "/service/token?service=harbor&scope=repository:a/b:pull",
            "/a//b/%41%2fb/~x",
            "/v20/",
            "/V2/",
            "/x?",
        ] {
            let response = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(
                (response.status, response.text().as_str()),
                (200, "hi"),
                "{target}"
            );
            assert!(!response.has_header("docker-distribution-api-version"));
            assert_eq!(
                registry.requests().pop().unwrap().target,
                target,
                "{http:?}"
            );
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
            let kind = "application/x-www-form-urlencoded";
            let request = TestRequest::new(method, "/c/login")
                .header("content-type", kind)
                .body("a=b");
            assert_eq!(exchange(&proxy, http, &request).status, 200);
            let seen = registry.requests().pop().unwrap();
            assert_eq!(
                (seen.header("content-type"), seen.body.as_slice()),
                (kind, &b"a=b"[..])
            );
        }
        assert_eq!(
            exchange(&proxy, http, &TestRequest::new("TRACE", "/")).status,
            405
        );
    }
}

#[test]
fn no_spelling_of_v2_reaches_the_portal() {
    let registry = Registry::accepting_all();
    let proxy = start_with_portal(&registry);
    for http in HttpVersion::BOTH {
        for target in [
            "/v2/",
            "/v2",
            "//v2/",
            "///v2//a/tags/list",
            "/%76%32/a/tags/list",
            "/v2%2Fa/tags/list",
            "/%2Fv2/a/tags/list",
        ] {
            let anonymous = exchange(&proxy, http, &TestRequest::new("GET", target));
            anonymous.assert_rejection(401, "UNAUTHORIZED");
        }
        for target in [
            "/x/../v2/",
            "/./v2/",
            "/x/%2e%2e/v2/",
            "/x/..%2fv2/",
            "/..;/v2/",
            "/x\\..\\v2/",
        ] {
            let response = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(response.status, 400, "{target}");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn credentials_are_removed_for_the_registry_and_forwarded_to_the_portal() {
    let registry = Registry::accepting_all();
    let proxy = start_with_portal(&registry);
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
    assert!(
        registry
            .requests()
            .pop()
            .unwrap()
            .all("authorization")
            .is_empty()
    );
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", "/c/")
        )
        .status,
        200
    );
    assert_eq!(
        registry.requests().pop().unwrap().header("authorization"),
        "Basic YWxpY2U6cHc="
    );
}

#[test]
fn a_route_with_registry_false_applies_no_grammar() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("", "registry = false"));
    for http in HttpVersion::BOTH {
        let response = exchange(
            &proxy,
            http,
            &TestRequest::alice("GET", "/v2/Any/Thing?x=1;2"),
        );
        assert_eq!(response.status, 200);
        assert!(!response.has_header("docker-distribution-api-version"));
        assert_eq!(
            registry.requests().pop().unwrap().target,
            "/v2/Any/Thing?x=1;2"
        );
        let anonymous = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        assert_eq!(anonymous.status, 401);
        assert!(
            anonymous.has_header("www-authenticate")
                && anonymous.header("content-type").starts_with("text/plain")
        );
    }
}
