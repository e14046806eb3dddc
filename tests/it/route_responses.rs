//! Responses of the proxy's own on a route: redirects and texts with placeholders.

use crate::support::{HttpVersion, Proxy, Registry, TestRequest, config, exchange};

fn redirecting(location: &str) -> String {
    format!("[[site.route]]\npath = \"/\"\nrespond = {{ status = 308, location = \"{location}\" }}")
}

/// The `Location` of the response to a GET of the target, in both protocols.
fn locations(proxy: &Proxy, target: &str) -> Vec<String> {
    let answers =
        HttpVersion::BOTH.map(|http| exchange(proxy, http, &TestRequest::new("GET", target)));
    answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 308, "{answer:?}");
            assert_eq!(answer.header("content-length"), "0");
            answer.header("location").to_owned()
        })
        .collect()
}

#[test]
fn a_redirect_takes_path_and_query_along() {
    let registry = Registry::accepting_all();
    for (location, target, expected) in [
        (
            "https://ui.example.com{path}{query}",
            "/a%20b/c?x=%0d%0a",
            "https://ui.example.com/a%20b/c?x=%0d%0a",
        ),
        (
            "https://ui.example.com{path}{query}",
            "/a",
            "https://ui.example.com/a",
        ),
        (
            "https://{host}:8443{path}",
            "/a?b",
            "https://localhost:8443/a",
        ),
        ("/ui/{query}", "/x?a=b", "/ui/?a=b"),
        ("/ui{path}", "/x", "/ui/x"),
    ] {
        let proxy = Proxy::start(&registry, config("", &redirecting(location)));
        assert_eq!(locations(&proxy, target), [expected; 2], "{location}");
    }
    assert!(registry.requests().is_empty());
}

/// A browser reads what follows two slashes as a host, so a link to the proxy must not lead there.
#[test]
fn no_part_of_the_path_becomes_the_host_of_a_redirect() {
    let registry = Registry::accepting_all();
    for (location, expected) in [
        ("{path}", "/evil.example/x"),
        ("/{path}", "/evil.example/x"),
        (
            "https://ui.example.com{path}",
            "https://ui.example.com//evil.example/x",
        ),
        ("https://{host}{path}", "https://localhost//evil.example/x"),
    ] {
        let proxy = Proxy::start(&registry, config("", &redirecting(location)));
        assert_eq!(
            locations(&proxy, "//evil.example/x"),
            [expected; 2],
            "{location}"
        );
    }
    let proxy = Proxy::start(&registry, config("", &redirecting("{path}")));
    assert_eq!(locations(&proxy, "/@evil.example"), ["/@evil.example"; 2]);
    for target in ["/\\evil.example", "/%5Cevil.example", "/x%0d%0aA:b"] {
        let answer = exchange(&proxy, HttpVersion::Http1, &TestRequest::new("GET", target));
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
    }
}

#[test]
fn a_text_is_plain_text_for_everyone() {
    let registry = Registry::accepting_all();
    let more = "[[site.route]]\npath = \"/robots.txt\"\n\
                respond = { status = 200, text = \"User-agent: *\\n\" }\n\
                [[site.route]]\npath = \"/down/\"\nrespond = { status = 503, text = \"{host}{path}{query}: {\\\"a\\\":1}\" }\n\
                [[site.route]]\npath = \"/v2/old/\"\nrespond = { status = 410, text = \"moved to new.example.com\" }\n\
                [[site.route]]\npath = \"/v2/other/\"\nrespond = { status = 421, text = \"served elsewhere\" }";
    let proxy = Proxy::start(&registry, config("", more));
    for http in HttpVersion::BOTH {
        let robots = exchange(&proxy, http, &TestRequest::new("GET", "/robots.txt"));
        assert_eq!(
            (robots.status, robots.text().as_str()),
            (200, "User-agent: *\n")
        );
        assert_eq!(robots.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(robots.header("x-content-type-options"), "nosniff");
        let head = exchange(&proxy, http, &TestRequest::new("HEAD", "/robots.txt"));
        assert_eq!((head.header("content-length"), head.body.len()), ("14", 0));
        let page = TestRequest::new("GET", "/down/a?x").header("accept", "text/html");
        let down = exchange(&proxy, http, &page);
        assert_eq!(
            (down.status, down.text().as_str()),
            (503, "localhost/down/a?x: {\"a\":1}")
        );
        assert_eq!(down.header("content-type"), "text/plain; charset=utf-8");
        // A registry client prints the message of an OCI error only.
        let old = exchange(&proxy, http, &TestRequest::new("GET", "/v2/old/tags/list"));
        old.assert_rejection(410, "UNSUPPORTED");
        assert!(old.text().contains("moved to new.example.com"), "{old:?}");
        let other = exchange(
            &proxy,
            http,
            &TestRequest::new("GET", "/v2/other/tags/list"),
        );
        other.assert_rejection(421, "UNSUPPORTED");
        assert!(other.text().contains("served elsewhere"), "{other:?}");
    }
    assert!(registry.requests().is_empty());
}
