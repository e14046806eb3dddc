//! Responses of the proxy's own on a route: redirects and texts with placeholders.

use crate::support::{Ask, Http, Proxy, Registry, ask, config};

fn redirecting(location: &str) -> String {
    format!("[[site.route]]\npath = \"/\"\nrespond = {{ status = 308, location = \"{location}\" }}")
}

/// The `Location` of the response to a GET of the target, in both protocols.
fn locations(proxy: &Proxy, target: &str) -> Vec<String> {
    let answers = Http::BOTH.map(|http| ask(proxy, http, &Ask::new("GET", target)));
    answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 308, "{answer:?}");
            assert_eq!(answer.one("content-length"), "0");
            answer.one("location").to_owned()
        })
        .collect()
}

#[test]
fn a_redirect_takes_path_and_query_along() {
    let registry = Registry::obliging();
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
    let registry = Registry::obliging();
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
        let answer = ask(&proxy, Http::One, &Ask::new("GET", target));
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
    }
}

#[test]
fn a_text_is_plain_text_for_everyone() {
    let registry = Registry::obliging();
    let more = "[[site.route]]\npath = \"/robots.txt\"\n\
                respond = { status = 200, text = \"User-agent: *\\n\" }\n\
                [[site.route]]\npath = \"/down/\"\nrespond = { status = 503, text = \"{host}{path}{query}: {\\\"a\\\":1}\" }\n\
                [[site.route]]\npath = \"/v2/old/\"\nrespond = { status = 410, text = \"moved to new.example.com\" }\n\
                [[site.route]]\npath = \"/v2/other/\"\nrespond = { status = 421, text = \"served elsewhere\" }";
    let proxy = Proxy::start(&registry, config("", more));
    for http in Http::BOTH {
        let robots = ask(&proxy, http, &Ask::new("GET", "/robots.txt"));
        assert_eq!(
            (robots.status, robots.text().as_str()),
            (200, "User-agent: *\n")
        );
        assert_eq!(robots.one("content-type"), "text/plain; charset=utf-8");
        assert_eq!(robots.one("x-content-type-options"), "nosniff");
        let head = ask(&proxy, http, &Ask::new("HEAD", "/robots.txt"));
        assert_eq!((head.one("content-length"), head.body.len()), ("14", 0));
        let page = Ask::new("GET", "/down/a?x").header("accept", "text/html");
        let down = ask(&proxy, http, &page);
        assert_eq!(
            (down.status, down.text().as_str()),
            (503, "localhost/down/a?x: {\"a\":1}")
        );
        assert_eq!(down.one("content-type"), "text/plain; charset=utf-8");
        // A registry client prints the message of an OCI error only.
        let old = ask(&proxy, http, &Ask::new("GET", "/v2/old/tags/list"));
        old.is_refusal(410, "UNSUPPORTED");
        assert!(old.text().contains("moved to new.example.com"), "{old:?}");
        let other = ask(&proxy, http, &Ask::new("GET", "/v2/other/tags/list"));
        other.is_refusal(421, "UNSUPPORTED");
        assert!(other.text().contains("served elsewhere"), "{other:?}");
    }
    assert!(registry.requests().is_empty());
}
