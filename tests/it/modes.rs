//! The other modes: nobody is asked for anything, or the upstream asks; and routes beside the registry's.

use crate::support::{HttpVersion, Proxy, Registry, TestRequest, config, exchange};

fn mode(registry: &Registry, mode: &str) -> Proxy {
    let auth = format!("auth = {{ mode = \"{mode}\" }}");
    Proxy::start(registry, config("", "").lines("auth", &auth))
}

#[test]
fn in_mode_none_nobody_is_asked() {
    let registry = Registry::accepting_all();
    let proxy = mode(&registry, "none");
    for http in HttpVersion::BOTH {
        for request in [
            TestRequest::new("GET", "/v2/"),
            TestRequest::new("PATCH", "/v2/a/blobs/uploads/u").body("x"),
            TestRequest::alice("GET", "/v2/"),
            TestRequest::new("GET", "/v2/").header("authorization", "nonsense"),
        ] {
            assert_eq!(exchange(&proxy, http, &request).status, 200);
            // Nobody asked for it, so nobody gets it.
            assert!(
                registry
                    .requests()
                    .pop()
                    .unwrap()
                    .all("authorization")
                    .is_empty()
            );
        }
        // The grammar holds all the same, and what is refused has no challenge.
        exchange(&proxy, http, &TestRequest::new("GET", "/v2/A/tags/list"))
            .assert_rejection(400, "NAME_INVALID");
    }
}

#[test]
fn in_mode_upstream_the_credentials_pass_untouched() {
    let registry = Registry::responding(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"harbor\"\r\nContent-Length: 2\r\n\r\n{}",
    );
    let proxy = mode(&registry, "upstream");
    for http in HttpVersion::BOTH {
        for value in [
            "Bearer abc.def",
            "Basic  YWxpY2U6cHc=",
            "Anything at=\"all\"",
        ] {
            let request = TestRequest::new("GET", "/v2/").header("authorization", value);
            let answer = exchange(&proxy, http, &request);
            assert_eq!((answer.status, answer.text().as_str()), (401, "{}"));
            assert_eq!(answer.header("www-authenticate"), "Basic realm=\"harbor\"");
            let seen = registry.requests().pop().unwrap();
            assert_eq!(seen.header("authorization"), value);
        }
        let answer = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"harbor\"");
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
fn in_mode_upstream_the_gate_has_no_challenge_of_its_own() {
    let registry = Registry::responding("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let proxy = mode(&registry, "upstream");
    for http in HttpVersion::BOTH {
        let answer = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        assert_eq!(answer.status, 403);
        assert!(!answer.has_header("www-authenticate"));
        exchange(&proxy, http, &TestRequest::new("GET", "/v2/A/tags/list"))
            .assert_rejection(400, "NAME_INVALID");
        let twice = TestRequest::new("GET", "/v2/")
            .header("authorization", "a b")
            .header("authorization", "c d");
        exchange(&proxy, http, &twice).assert_rejection(400, "UNAUTHORIZED");
    }
}

#[test]
fn a_client_cannot_name_its_credentials_away() {
    let registry = Registry::accepting_all();
    let proxy = mode(&registry, "upstream");
    let request = TestRequest::new("GET", "/v2/")
        .header("authorization", "Bearer x")
        .header("connection", "authorization");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    assert_eq!(registry.only_request().header("authorization"), "Bearer x");
}

/// A registry and, on the same site, a portal at `/`.
fn portal(registry: &Registry) -> Proxy {
    let more =
        "[[site.route]]\npath = \"/\"\nupstream = \"{upstream}\"\nauth = { mode = \"upstream\" }";
    Proxy::start(registry, config("", more))
}

#[test]
fn a_portal_gets_its_paths_byte_for_byte() {
    let registry = Registry::responding("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
    let proxy = portal(&registry);
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
            let answer = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (200, "hi"),
                "{target}"
            );
            assert!(!answer.has_header("docker-distribution-api-version"));
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
fn no_spelling_of_v2_slips_into_the_portal() {
    let registry = Registry::accepting_all();
    let proxy = portal(&registry);
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
            let nobody = exchange(&proxy, http, &TestRequest::new("GET", target));
            nobody.assert_rejection(401, "UNAUTHORIZED");
        }
        for target in [
            "/x/../v2/",
            "/./v2/",
            "/x/%2e%2e/v2/",
            "/x/..%2fv2/",
            "/..;/v2/",
            "/x\\..\\v2/",
        ] {
            let answer = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert_eq!(answer.status, 400, "{target}");
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn credentials_for_the_registry_stay_out_of_its_log_and_reach_the_portal_only() {
    let registry = Registry::accepting_all();
    let proxy = portal(&registry);
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", "/v2/")
        )
        .status,
        200
    );
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
fn a_route_that_is_no_registry_has_no_grammar() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("", "registry = false"));
    for http in HttpVersion::BOTH {
        let answer = exchange(
            &proxy,
            http,
            &TestRequest::alice("GET", "/v2/Any/Thing?x=1;2"),
        );
        assert_eq!(answer.status, 200);
        assert!(!answer.has_header("docker-distribution-api-version"));
        assert_eq!(
            registry.requests().pop().unwrap().target,
            "/v2/Any/Thing?x=1;2"
        );
        let nobody = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        assert_eq!(nobody.status, 401);
        assert!(
            nobody.has_header("www-authenticate")
                && nobody.header("content-type").starts_with("text/plain")
        );
    }
}
