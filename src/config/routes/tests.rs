//! Routes with each key: what is accepted, and what is rejected with which message.

use std::path::Path;

use crate::config::{Site, parse};

const UPSTREAM: &str = "upstream = \"http://b\"";
const BASIC: &str = "auth = { mode = \"basic\", htpasswd = \"h\" }";
const TOKEN: &str = "auth = { mode = \"token\", htpasswd = \"h\" }";

/// Parses a site with one route that has these lines. Returns the problems and the site.
fn read(lines: &[&str]) -> (String, Option<Site>) {
    let route = lines.join("\n");
    let text = format!(
        "[listen]\nhttps = [\"[::]:443\"]\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n\
         [[site.route]]\npath = \"/v2/\"\n{route}\n"
    );
    let (config, problems) = parse(Path::new("x"), text.as_bytes());
    (
        problems.to_string(),
        config.and_then(|config| config.sites.into_iter().next()),
    )
}

#[track_caller]
fn assert_rejected(lines: &[&str], words: &str) {
    let (problems, _) = read(lines);
    assert!(problems.contains(words), "{problems}");
}

#[test]
fn a_route_has_an_upstream_or_a_response() {
    let (problems, site) = read(&["respond = 404"]);
    assert_eq!(problems, "");
    let site = site.unwrap();
    assert!(site.routes.is_empty());
    assert_eq!(site.responses[0].path, "/v2/");
    assert_eq!(site.responses[0].status.as_u16(), 404);
    assert_rejected(&["respond = 404", UPSTREAM], "both respond and upstream");
    assert_rejected(&[BASIC], "missing key \"upstream\"");
    for status in ["301", "401", "407"] {
        assert_rejected(
            &[&format!("respond = {status}")],
            &format!("respond is {status}"),
        );
    }
    for status in ["100", "600", "\"404\""] {
        assert_rejected(&[&format!("respond = {status}")], "respond");
    }
    for useless in [
        BASIC,
        "registry = true",
        "allow = [\"all\"]",
        "cors = []",
        "max_body = 1",
    ] {
        assert_rejected(&["respond = 404", useless], "in a route with respond");
    }
}

#[test]
fn networks_are_checked_together_with_auth_and_grants() {
    let allow = "allow = [\"10.0.0.0/8\", \"::1\", \"all\"]";
    let some = "allow = [\"10.0.0.0/8\", \"::1\"]";
    let any = "satisfy = \"any\"";
    for fine in [
        &[
            UPSTREAM,
            BASIC,
            allow,
            "deny = [\"10.1.2.3\"]",
            "satisfy = \"all\"",
        ][..],
        &[UPSTREAM, BASIC, some, any],
        &[UPSTREAM, "auth = { mode = \"upstream\" }", allow],
    ] {
        assert_eq!(read(fine).0, "");
    }
    assert_rejected(&[UPSTREAM, BASIC, any], "without allow");
    assert_rejected(&[UPSTREAM, BASIC, "allow = []"], "allow is empty");
    assert_rejected(&[UPSTREAM, BASIC, "allow = [\"10.1.2.3/8\"]"], "10.0.0.0/8");
    assert_rejected(&[UPSTREAM, BASIC, "deny = [\"office\"]"], "not a network");
    for mode in ["none", "upstream"] {
        let auth = format!("auth = {{ mode = \"{mode}\" }}");
        assert_rejected(&[UPSTREAM, &auth, allow, any], "requires no password");
    }
    let grant = |to| {
        format!(
            "[[site.route.grant]]\nto = [\"{to}\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]"
        )
    };
    let (network, users) = (grant("@network"), grant("@users"));
    assert_eq!(read(&[UPSTREAM, TOKEN, some, any, &network]).0, "");
    assert_rejected(
        &[UPSTREAM, BASIC, allow, any, &users],
        "grants and mode = \"basic\"",
    );
    assert_rejected(
        &[UPSTREAM, TOKEN, allow, any, &users],
        "none of which is to \"@network\"",
    );
    assert_rejected(&[UPSTREAM, TOKEN, allow, &network], "without satisfy");
}

#[test]
fn nearly_every_address_without_a_password_is_a_warning() {
    let any = "satisfy = \"any\"";
    for everyone in [
        "allow = [\"all\"]",
        "allow = [\"0.0.0.0/0\"]",
        "allow = [\"::/0\"]",
        "allow = [\"2000::/3\"]",
        "allow = [\"0.0.0.0/1\", \"128.0.0.0/1\"]",
        "allow = [\"64.0.0.0/2\", \"0.0.0.0/2\", \"10.0.0.0/8\"]",
    ] {
        let (problems, _) = read(&[UPSTREAM, BASIC, everyone, any]);
        assert!(
            problems
                .contains("warning: satisfy = \"any\" where allow contains nearly every address"),
            "{everyone}: {problems}"
        );
    }
    for some in [
        "allow = [\"10.0.0.0/8\", \"172.16.0.0/12\", \"192.168.0.0/16\", \"fc00::/7\"]",
        "allow = [\"all\"]\ndeny = [\"all\"]",
    ] {
        assert_eq!(read(&[UPSTREAM, BASIC, some, any]).0, "", "{some}");
    }
}

#[test]
fn header_fields_of_the_proxy_cannot_be_set() {
    for name in [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "TE",
        "Upgrade",
        "X-Forwarded-For",
        "X-Forwarded-Anything",
        "X-Real-IP",
        "X-Request-ID",
        "Forwarded",
        "X_Name",
        "Proxy-Authorization",
    ] {
        for key in ["request_headers", "response_headers"] {
            for value in ["", "x"] {
                let edit = format!("{key} = {{ \"{name}\" = \"{value}\" }}");
                assert_rejected(&[UPSTREAM, BASIC, &edit], "belong to the proxy");
            }
        }
    }
    assert_rejected(
        &[UPSTREAM, BASIC, "request_headers = { \"a b\" = \"x\" }"],
        "no header name",
    );
    assert_rejected(
        &[UPSTREAM, BASIC, "request_headers = { a = \"x\\ny\" }"],
        "is not valid in a header field",
    );
}

#[test]
fn origins_have_no_wildcards() {
    let origins = "[\"https://UI.example:443\", \"http://localhost:8080\"]";
    let lines = [
        format!("cors = {origins}"),
        format!("internal_origins = {origins}"),
    ];
    let (problems, site) = read(&[UPSTREAM, BASIC, &lines[0], &lines[1]]);
    assert_eq!(problems, "");
    let route = &site.unwrap().routes[0];
    let expected = ["https://ui.example", "http://localhost:8080"].map(str::to_owned);
    assert_eq!(route.cors, crate::site::Cors::new(expected.clone()));
    let internal = route.internal_origins.iter();
    let shown: Vec<_> = internal
        .map(|origin| format!("{}://{}", origin.scheme, origin.authority))
        .collect();
    assert_eq!(shown, expected);
    for key in ["cors", "internal_origins"] {
        assert_rejected(
            &[UPSTREAM, BASIC, &format!("{key} = [\"*\"]")],
            "name each origin",
        );
        assert_rejected(
            &[UPSTREAM, BASIC, &format!("{key} = [\"ui.example\"]")],
            key,
        );
        assert_rejected(
            &[
                UPSTREAM,
                BASIC,
                &format!("{key} = [\"https://ui.example/x\"]"),
            ],
            key,
        );
    }
}

#[test]
fn a_redirect_names_its_host_in_the_file() {
    let respond = |inner: &str| format!("respond = {{ {inner} }}");
    for location in [
        "https://ui.example.com",
        "https://ui.example.com{path}{query}",
        "https://{host}:8443/{path}",
        "http://[::1]:80{query}",
        "/ui/?next={path}",
        "{path}{query}",
    ] {
        let lines = respond(&format!("status = 308, location = \"{location}\""));
        assert_eq!(read(&[&lines]).0, "", "{location}");
    }
    for location in [
        "",
        "ui",
        "//ui.example.com",
        "https://{path}",
        "https://{query}",
        "https://ui.{host}",
        "https://{host}.evil.example/",
        "https://a@{host}/",
        "https://ui example.com/",
        "javascript:x",
        "{host}{path}",
        "{query}",
        "/\\\\x",
        "/\\r\\nA: b",
    ] {
        let lines = respond(&format!("status = 308, location = \"{location}\""));
        assert_rejected(&[&lines], "respond.location");
    }
    for (inner, words) in [
        ("status = 308", "respond.status is 308"),
        ("location = \"/\"", "missing key \"status\""),
        ("status = 200, location = \"/\"", "respond.status is 200"),
        ("status = 304, location = \"/\"", "respond.status is 304"),
        ("status = 204, text = \"x\"", "respond.status is 204"),
        ("status = 401, text = \"x\"", "respond.status is 401"),
        (
            "status = 301, location = \"/\", text = \"x\"",
            "both location and text",
        ),
        (
            "status = 200, text = \"{user}\"",
            "there is no placeholder {user}",
        ),
        ("status = 404, body = \"x\"", "unknown key \"body\""),
    ] {
        assert_rejected(&[&respond(inner)], words);
    }
    assert_eq!(read(&[&respond("status = 404")]).0, "");
    assert_rejected(
        &["respond = 404", "forwarded = [\"host\"]"],
        "in a route with respond",
    );
}

#[test]
fn placeholders_of_fields_are_those_that_have_a_value() {
    let field = |value: &str| format!("request_headers = {{ \"X-A\" = \"{value}\" }}");
    let none = "auth = { mode = \"none\" }\nallow = [\"10.0.0.0/8\"]";
    assert_eq!(read(&[UPSTREAM, BASIC, &field("{user} {client}")]).0, "");
    assert_eq!(read(&[UPSTREAM, none, &field("{scheme}://{host}")]).0, "");
    assert_eq!(
        read(&[UPSTREAM, BASIC, "response_headers = { \"X-A\" = \"{a}\" }"]).0,
        ""
    );
    assert_rejected(
        &[UPSTREAM, BASIC, &field("{path}")],
        "no placeholder {path}",
    );
    assert_rejected(&[UPSTREAM, none, &field("{user}")], "verifies no user");
    assert_rejected(
        &[UPSTREAM, "auth = { mode = \"upstream\" }", &field("{user}")],
        "verifies no user",
    );
    assert_rejected(
        &[UPSTREAM, BASIC, "forwarded = [\"proto\"]"],
        "there is no \"proto\"",
    );
}

#[test]
fn only_a_route_without_a_registry_has_an_upstream_path() {
    let other = "registry = false";
    let urls = |urls: &str| format!("upstream = {{ urls = [{urls}] }}");
    for upstream in [
        "upstream = \"http://b/app/\"".to_owned(),
        "upstream = \"http://b/\"".to_owned(),
        urls("\"http://b/app\", \"http://c/app\""),
    ] {
        assert_eq!(read(&[&upstream, BASIC, other]).0, "", "{upstream}");
        assert_rejected(&[&upstream, BASIC], "has no place in it");
    }
    for (upstream, words) in [
        ("upstream = \"http://b/a/../c\"".to_owned(), "a plain path"),
        ("upstream = \"http://b/app?x\"".to_owned(), "a query"),
        (urls("\"http://b/app\", \"http://c\""), "different paths"),
    ] {
        assert_rejected(&[&upstream, BASIC, other], words);
    }
    for host in ["client", "upstream", "reg.internal", "reg.internal:5000"] {
        let upstream = format!("upstream = {{ urls = [\"http://b\"], host = \"{host}\" }}");
        assert_eq!(read(&[&upstream, BASIC]).0, "", "{host}");
    }
    for host in ["", "a b", "http://a", "a/b", "a:x"] {
        let upstream = format!("upstream = {{ urls = [\"http://b\"], host = \"{host}\" }}");
        assert_rejected(&[&upstream, BASIC], "upstream.host");
    }
}

#[test]
fn a_client_certificate_has_a_key_and_an_https_address() {
    let upstream =
        |scheme: &str, rest: &str| format!("upstream = {{ urls = [\"{scheme}://b\"], {rest} }}");
    let both = "cert = \"c.pem\", key = \"c.key\"";
    assert_eq!(read(&[&upstream("https", both), BASIC]).0, "");
    for (scheme, rest, words) in [
        ("https", "cert = \"c.pem\"", "missing key \"key\""),
        ("https", "key = \"c.key\"", "missing key \"cert\""),
        ("http", both, "of no use without an https:// address"),
        (
            "https",
            "cert = \"credential:x\", key = \"c.key\"",
            "credential",
        ),
    ] {
        assert_rejected(&[&upstream(scheme, rest), BASIC], words);
    }
}
