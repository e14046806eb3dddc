//! Routes as they are written: what is understood, and what is refused.

use std::path::Path;

use crate::config::{Site, parse};

const UPSTREAM: &str = "upstream = \"http://b\"";
const BASIC: &str = "auth = { mode = \"basic\", htpasswd = \"h\" }";
const TOKEN: &str = "auth = { mode = \"token\", htpasswd = \"h\" }";

/// A site with one route of these lines; its problems, and the site.
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
fn is_refused(lines: &[&str], words: &str) {
    let (problems, _) = read(lines);
    assert!(problems.contains(words), "{problems}");
}

#[test]
fn a_route_leads_somewhere_or_answers() {
    let (problems, site) = read(&["respond = 404"]);
    assert_eq!(problems, "");
    let site = site.unwrap();
    assert!(site.routes.is_empty());
    assert_eq!(site.responses[0].path, "/v2/");
    assert_eq!(site.responses[0].status.as_u16(), 404);
    is_refused(&["respond = 404", UPSTREAM], "both respond and upstream");
    is_refused(&[BASIC], "missing key \"upstream\"");
    for status in ["301", "401", "407"] {
        is_refused(
            &[&format!("respond = {status}")],
            &format!("respond is {status}"),
        );
    }
    for status in ["100", "600", "\"404\""] {
        is_refused(&[&format!("respond = {status}")], "respond");
    }
    for useless in [
        BASIC,
        "registry = true",
        "allow = [\"all\"]",
        "cors = []",
        "max_body = 1",
    ] {
        is_refused(&["respond = 404", useless], "in a route with respond");
    }
}

#[test]
fn networks_are_held_against_passwords() {
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
    is_refused(&[UPSTREAM, BASIC, any], "without allow");
    is_refused(&[UPSTREAM, BASIC, "allow = []"], "allow is empty");
    is_refused(&[UPSTREAM, BASIC, "allow = [\"10.1.2.3/8\"]"], "10.0.0.0/8");
    is_refused(&[UPSTREAM, BASIC, "deny = [\"office\"]"], "not a network");
    for mode in ["none", "upstream"] {
        let auth = format!("auth = {{ mode = \"{mode}\" }}");
        is_refused(&[UPSTREAM, &auth, allow, any], "asks for no password");
    }
    let grant = |to| {
        format!(
            "[[site.route.grant]]\nto = [\"{to}\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]"
        )
    };
    let (network, users) = (grant("@network"), grant("@users"));
    assert_eq!(read(&[UPSTREAM, TOKEN, some, any, &network]).0, "");
    is_refused(
        &[UPSTREAM, BASIC, allow, any, &users],
        "grants and mode = \"basic\"",
    );
    is_refused(
        &[UPSTREAM, TOKEN, allow, any, &users],
        "none of which is to \"@network\"",
    );
    is_refused(&[UPSTREAM, TOKEN, allow, &network], "without satisfy");
}

#[test]
fn networks_that_hold_nearly_every_client_stand_in_for_no_password() {
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
            problems.contains("warning: satisfy = \"any\" where allow holds nearly every address"),
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
fn fields_of_the_gates_own_cannot_be_set() {
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
                is_refused(&[UPSTREAM, BASIC, &edit], "are the gate's own");
            }
        }
    }
    is_refused(
        &[UPSTREAM, BASIC, "request_headers = { \"a b\" = \"x\" }"],
        "no header name",
    );
    is_refused(
        &[UPSTREAM, BASIC, "request_headers = { a = \"x\\ny\" }"],
        "cannot stand in a header",
    );
}

#[test]
fn origins_are_named_one_by_one() {
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
    let internal = route.internal.iter();
    let shown: Vec<_> = internal
        .map(|origin| format!("{}://{}", origin.scheme, origin.authority))
        .collect();
    assert_eq!(shown, expected);
    for key in ["cors", "internal_origins"] {
        is_refused(
            &[UPSTREAM, BASIC, &format!("{key} = [\"*\"]")],
            "name each origin",
        );
        is_refused(
            &[UPSTREAM, BASIC, &format!("{key} = [\"ui.example\"]")],
            key,
        );
        is_refused(
            &[
                UPSTREAM,
                BASIC,
                &format!("{key} = [\"https://ui.example/x\"]"),
            ],
            key,
        );
    }
}
