//! The catalog (`GET /v2/_catalog`): on sites with several routes, in token mode, and with too many concurrent requests.

use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::proxy::{ALICE, directory};
use crate::support::{
    Client, DIGEST, Exchange, HttpVersion, PATIENCE, Proxy, Registry, TestRequest, TestResponse,
    config, exchange,
};

const BASIC: &str =
    "auth = { mode = \"basic\", htpasswd = \"htpasswd\", realm = \"Registry realm\" }";

/// A registry with these repositories in this order. A page has as many names as the request asks for.
fn catalog_registry(all: &'static [&'static str]) -> Registry {
    Registry::start(move |exchange: &mut Exchange<'_>| {
        exchange.send(page(&exchange.head.target, all))
    })
}

fn page(target: &str, all: &[&str]) -> String {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let value = |key: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(name, _)| *name == key);
        found.map(|(_, value)| value.replace("%2F", "/"))
    };
    let size = value("n").and_then(|n| n.parse().ok()).unwrap_or(100);
    let last = value("last");
    let position = last.and_then(|last| all.iter().position(|name| *name == last));
    let rest = &all[position.map_or(0, |at| at + 1)..];
    let page = &rest[..size.min(rest.len())];
    let link = match page.last() {
        Some(last) if page.len() < rest.len() => {
            format!("Link: </v2/_catalog?last={last}&n={size}>; rel=\"next\"\r\n")
        }
        _ => String::new(),
    };
    let body = json!({ "repositories": page }).to_string();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\n{link}Content-Length: {length}\r\n\r\n{body}")
}

#[track_caller]
fn names(response: &TestResponse) -> Vec<String> {
    assert_eq!(response.status, 200, "{}", response.text());
    let json: Value = serde_json::from_slice(&response.body).unwrap();
    let names = json["repositories"].as_array().unwrap().iter();
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

/// Reads all pages of this size and returns the names. No name, no `Link` and no error may contain a name of `hidden`.
fn read_all_pages(
    proxy: &Proxy,
    request: &TestRequest,
    size: usize,
    hidden: &[&str],
) -> Vec<String> {
    let mut all = Vec::new();
    let mut target = format!("/v2/_catalog?n={size}");
    loop {
        let mut request = request.clone();
        request.target.clone_from(&target);
        let response = exchange(proxy, HttpVersion::Http2, &request);
        let text = format!("{:?}{}", response.headers, response.text());
        let found = hidden.iter().find(|name| text.contains(**name));
        assert_eq!(found, None, "{text}");
        all.extend(names(&response));
        let Some(link) = response.header_values("link").first().copied() else {
            return all;
        };
        let next = link.strip_prefix('<').unwrap();
        let next = next.strip_suffix(">; rel=\"next\"").unwrap();
        target = next.to_owned();
    }
}

const ALL: &[&str] = &[
    "../up/x", "Team/x", "a", "up", "up/x", "up/x/y", "upper", "zz",
];

/// The repositories of the route `/v2/` if `/v2/up/` is another route.
const VISIBLE: &[&str] = &["a", "upper", "zz"];
/// What must not occur, neither as a name nor in a `Link`.
const HIDDEN: &[&str] = &["\"up\"", "up/x", "up%2F", "=up&", "Team", ".."];

#[test]
fn the_catalog_omits_repositories_of_other_routes() {
    let grants = "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\", \"catalog\"]\n";
    let route = |path: &str, auth: &str| {
        format!("[[site.route]]\npath = \"{path}\"\nupstream = \"{{upstream}}\"\n{auth}\n")
    };
    let open = "auth = { mode = \"none\" }";
    for (config, request) in [
        // The route of the catalog lets every user do everything, but only below this route.
        (
            config("", &route("/v2/up/", open)),
            TestRequest::alice("GET", ""),
        ),
        (
            config("", &[grants, &route("/v2/up/", open)].concat()),
            TestRequest::alice("GET", ""),
        ),
        // The other route requires a password, and the route of the catalog does not.
        (
            config("", "")
                .lines("auth", open)
                .append(&route("/v2/up/", BASIC)),
            TestRequest::new("GET", ""),
        ),
        // The other route is not for a registry.
        (
            config("", &route("/v2/up/", &format!("registry = false\n{open}"))),
            TestRequest::alice("GET", ""),
        ),
        // The route of the catalog is `/`, and the other route is for a part of the registry.
        (
            config("", &route("/v2/up/", open)).lines("path", "path = \"/\""),
            TestRequest::alice("GET", ""),
        ),
    ] {
        let registry = catalog_registry(ALL);
        let proxy = Proxy::start(&registry, &config);
        for size in [1, 2, 3, 100] {
            assert_eq!(
                read_all_pages(&proxy, &request, size, HIDDEN),
                VISIBLE,
                "{size}: {config}"
            );
        }
        for method in ["HEAD", "OPTIONS"] {
            let mut request = request.clone();
            (request.method, request.target) = (method.to_owned(), "/v2/_catalog".to_owned());
            assert_eq!(
                exchange(&proxy, HttpVersion::Http1, &request).status,
                405,
                "{method}"
            );
        }
    }
}

#[test]
fn the_catalog_passes_unchanged_if_one_route_has_all_repositories() {
    let route = |path: &str, auth: &str| {
        format!("[[site.route]]\npath = \"{path}\"\nupstream = \"{{upstream}}\"\n{auth}\n")
    };
    let open = "auth = { mode = \"none\" }";
    let upstream = "auth = { mode = \"upstream\" }";
    for config in [
        config("", ""),
        config("", "").lines("path", "path = \"/\""),
        config(
            "",
            &[
                route("/", open),
                route("/stats/", open),
                route("/v20/", open),
            ]
            .concat(),
        ),
        // No repository name can be below the other route, because names are in lower case.
        config("", &route("/v2/Team/", open)),
        // A route for the catalog alone.
        config("", &route("/v2/up/", open))
            .lines("path", "path = \"/v2/_catalog\"")
            .append(&route("/v2/", open)),
        // The upstream checks the credentials.
        config("", &route("/v2/up/", open)).lines("auth", upstream),
    ] {
        let registry = catalog_registry(ALL);
        let proxy = Proxy::start(&registry, &config);
        for (query, sent) in [
            ("", ""),
            ("?n=2&last=a", "?n=2&last=a"),
            // The registry validates the number.
            ("?last=a&n=abc", "?n=abc&last=a"),
        ] {
            let response = exchange(
                &proxy,
                HttpVersion::Http1,
                &TestRequest::alice("GET", &format!("/v2/_catalog{query}")),
            );
            assert!(response.text().contains("up/x"), "{config}");
            let seen = registry.requests().pop().unwrap();
            assert_eq!(seen.target, format!("/v2/_catalog{sent}"), "{config}");
            let passes = config.to_string().contains(upstream);
            assert_eq!(seen.all("authorization").is_empty(), !passes, "{config}");
        }
        let head = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("HEAD", "/v2/_catalog"),
        );
        assert_eq!(head.status, 405);
    }
}

#[test]
fn a_route_for_the_catalog_alone_has_grants_of_its_own() {
    let registry = catalog_registry(ALL);
    let grants = "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"up/**\"]\nactions = [\"pull\", \"catalog\"]\n";
    let all = format!("[[site.route]]\npath = \"/v2/\"\nupstream = \"{{upstream}}\"\n{BASIC}\n");
    let listed = config("", &[grants, &all].concat()).set("path", "\"/v2/_catalog\"");
    let proxy = Proxy::start(&registry, &listed);
    let names = read_all_pages(&proxy, &TestRequest::alice("GET", ""), 1, &["zz", "Team"]);
    assert_eq!(names, ["up/x", "up/x/y"]);
}

#[test]
fn a_mount_without_a_source_is_forwarded_only_if_one_route_has_all_repositories() {
    let registry = Registry::accepting_all();
    let web =
        "[[site.route]]\npath = \"/\"\nupstream = \"{upstream}\"\nauth = { mode = \"none\" }\n";
    let part = config("", "").lines("path", "path = \"/v2/a/\"");
    for (config, mounts) in [
        (config("", web), true),
        (config("", &web.replace("\"/\"", "\"/v2/up/\"")), false),
        // The registry has repositories that are not below the only route.
        (part, false),
    ] {
        let proxy = Proxy::start(&registry, &config);
        let target = format!("/v2/a/blobs/uploads/?mount={DIGEST}");
        let response = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("POST", &target),
        );
        assert_eq!(response.status, 200);
        let seen = registry.requests().pop().unwrap().target;
        assert_eq!(seen.contains("mount="), mounts, "{config}");
    }
}

const TOKEN: &str = "auth = { mode = \"token\", htpasswd = \"htpasswd\" }";
const STATE: &str = "[state]\ndir = \"{dir}/state\"\n";
/// Anonymous clients may read the catalog and pull public repositories; alice may pull others, too.
const GRANTS: &str = r#"
[[site.route.grant]]
to = ["@anonymous"]
repositories = ["public/**"]
actions = ["pull", "catalog"]

[[site.route.grant]]
to = ["alice"]
repositories = ["team/*"]
actions = ["pull"]
"#;
const MIXED: &[&str] = &[
    "home/a", "public/a", "public/b", "secret", "team/a", "team/a/b",
];

#[test]
fn in_token_mode_the_catalog_has_what_the_user_may_pull() {
    let registry = catalog_registry(MIXED);
    let proxy = Proxy::start(&registry, config(STATE, GRANTS).lines("auth", TOKEN));
    let token = |request: TestRequest, scope: &str| {
        let mut request = request;
        request.target = format!("/v2/_token?scope={scope}");
        let json: Value =
            serde_json::from_slice(&exchange(&proxy, HttpVersion::Http1, &request).body).unwrap();
        let token = json["token"].as_str().unwrap();
        TestRequest::new("GET", "").header("authorization", format!("Bearer {token}"))
    };
    let public = &["public/a", "public/b"][..];
    let more = &["public/a", "public/b", "team/a"][..];
    let catalog = "registry:catalog:*";
    for (request, expected_names) in [
        (TestRequest::new("GET", ""), public),
        (token(TestRequest::new("GET", ""), catalog), public),
        (TestRequest::alice("GET", ""), more),
        // The scope of the catalog does not name repositories, so that a token for the catalog shows what its user may
        // pull.
        (token(TestRequest::alice("GET", ""), catalog), more),
    ] {
        for size in [1, 2, 3, 1000] {
            assert_eq!(
                read_all_pages(&proxy, &request, size, &["secret", "home"]),
                expected_names,
                "{size}"
            );
        }
        // Only clients with a password or a token get the error for an invalid request; anonymous clients get 401.
        let is_anonymous = request.headers.is_empty();
        for (method, target, status, status_if_anonymous) in [
            ("HEAD", "/v2/_catalog", 405, 401),
            ("POST", "/v2/_catalog", 405, 401),
            ("GET", "/v2/_catalog?n=1&n=2", 400, 401),
            ("GET", "/v2/_catalog?n=1001", 400, 400),
            ("GET", "/v2/_catalog?n=-1", 400, 400),
            ("GET", "/v2/_catalog?n=0", 200, 200),
            ("GET", "/v2/_catalog/", 301, 301),
        ] {
            let mut request = request.clone();
            (request.method, request.target) = (method.to_owned(), target.to_owned());
            let response = exchange(&proxy, HttpVersion::Http1, &request);
            let expected = if is_anonymous {
                status_if_anonymous
            } else {
                status
            };
            assert_eq!(response.status, expected, "{method} {target}: {response:?}");
        }
    }
    // A token without the catalog in its scope gets a challenge with the missing scope.
    let narrow = token(TestRequest::alice("GET", ""), "repository:team/a:pull");
    let mut narrow = narrow;
    narrow.target = "/v2/_catalog".to_owned();
    let rejected = exchange(&proxy, HttpVersion::Http1, &narrow);
    rejected.assert_rejection(401, "UNAUTHORIZED");
    let text = rejected.header("www-authenticate");
    assert!(
        text.ends_with("scope=\"registry:catalog:*\",error=\"insufficient_scope\""),
        "{text}"
    );
}

#[test]
fn a_long_catalog_is_read_page_by_page() {
    // 60 000 hidden names come before the visible one.
    let registry = Registry::start(|exchange: &mut Exchange<'_>| {
        let target = exchange.head.target.clone();
        let from: usize = target
            .rsplit_once("%2Fh")
            .map_or(0, |(_, number)| number.parse().unwrap());
        let mut page: Vec<_> = (from + 1..=from + 1000)
            .map(|number| format!("secret/h{number}"))
            .collect();
        let goes_on = from < 59_000;
        if !goes_on {
            page.push("team/a".to_owned());
        }
        let link = if goes_on {
            "Link: </x>; rel=\"next\"\r\n"
        } else {
            ""
        };
        let body = json!({ "repositories": page }).to_string();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\n{link}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    });
    let proxy = Proxy::start(&registry, config(STATE, GRANTS).lines("auth", TOKEN));
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/_catalog"),
    );
    assert_eq!(names(&response), ["team/a"]);
    assert_eq!(registry.requests().len(), 60);
}

/// A registry that looks up the name in `last`, and returns the names after it. If there is no such repository, the
/// registry returns either an empty list or the whole list.
fn registry_that_looks_up_last(restarts_at_unknown_name: bool) -> Registry {
    Registry::start(move |exchange: &mut Exchange<'_>| {
        let all = &["pub/a", "secret/repo", "team/a"][..];
        let target = exchange.head.target.replace("%2F", "/");
        let mut pairs = target.split(['?', '&']);
        let last = pairs.find_map(|pair| pair.strip_prefix("last="));
        let known = last.map(|last| all.iter().position(|name| *name == last));
        let rest = match known {
            Some(Some(at)) => &all[at + 1..],
            Some(None) if !restarts_at_unknown_name => &[],
            Some(None) | None => all,
        };
        let body = json!({ "repositories": rest }).to_string();
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    })
}

#[test]
fn the_parameter_last_does_not_reveal_whether_a_hidden_repository_exists() {
    let grants = "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"pub/*\", \"team/*\"]\nactions = [\"pull\", \"catalog\"]\n";
    for restarts_at_unknown_name in [true, false] {
        let registry = registry_that_looks_up_last(restarts_at_unknown_name);
        let proxy = Proxy::start(&registry, config("", grants));
        for (last, rest) in [
            ("secret/repo", &["team/a"][..]),
            ("secret/none", &["team/a"]),
            ("Secret", &["pub/a", "team/a"]),
            ("pub/a", &["team/a"]),
            ("zz", &[]),
            ("", &["pub/a", "team/a"]),
        ] {
            let request = TestRequest::alice("GET", &format!("/v2/_catalog?last={last}"));
            assert_eq!(
                names(&exchange(&proxy, HttpVersion::Http1, &request)),
                rest,
                "{last}"
            );
            let seen = registry.requests().pop().unwrap().target;
            assert_eq!(seen.contains("last="), last == "pub/a", "{seen}");
        }
    }
}

#[test]
fn a_tag_list_passes_unchanged() {
    let body = "{\"name\":\"a\",\"tags\":null}";
    let registry = Registry::responding(format!(
        "HTTP/1.1 200 OK\r\nLink: </v2/a/tags/list?last=x&n=1>; rel=\"next\"\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let response = exchange(
            &proxy,
            http,
            &TestRequest::alice("GET", "/v2/a/tags/list?n=1"),
        );
        assert_eq!(response.text(), body);
        assert_eq!(
            response.header("link"),
            "</v2/a/tags/list?last=x&n=1>; rel=\"next\""
        );
    }
}

/// A latch that is closed at first: `wait` blocks until `open` is called.
#[derive(Default)]
struct Latch(Mutex<bool>, Condvar);

impl Latch {
    fn wait(&self) {
        let closed = self.0.lock().unwrap();
        let waited = self.1.wait_timeout_while(closed, PATIENCE, |open| !*open);
        drop(waited.unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

#[test]
fn anonymous_catalog_requests_leave_capacity_for_other_requests() {
    let latch = Arc::new(Latch::default());
    let handler_latch = Arc::clone(&latch);
    let registry = Registry::start(move |exchange: &mut Exchange<'_>| {
        if exchange.head.target.contains("_catalog") {
            handler_latch.wait();
        }
        exchange.send(page(&exchange.head.target, MIXED));
    });
    let dir = directory();
    std::fs::write(dir.path().join("htpasswd"), ALICE).unwrap();
    let proxy = Proxy::start_in(
        dir,
        &registry.url(),
        config(STATE, GRANTS).lines("auth", TOKEN),
    );
    let list = TestRequest::new("GET", "/v2/_catalog");
    let send_from = |from: Ipv4Addr, request: &TestRequest| {
        let mut client = Client::connect_from(from, &proxy);
        client.send(request.head());
        client
    };
    let mut in_progress = Vec::new();
    for host in 1..=4 {
        for _ in 0..4 {
            in_progress.push(send_from(Ipv4Addr::new(127, 0, 1, host), &list));
            registry.wait_for_requests(|seen| seen.len() == in_progress.len());
        }
        // Each client network has a limit.
        let rejected = Client::connect_from(Ipv4Addr::new(127, 0, 1, host), &proxy).exchange(&list);
        rejected.assert_rejection(503, "UNAVAILABLE");
        assert_eq!(rejected.header("retry-after"), "2");
    }
    // All anonymous clients together have a limit.
    let fifth = Client::connect_from(Ipv4Addr::new(127, 0, 1, 5), &proxy).exchange(&list);
    fifth.assert_rejection(503, "UNAVAILABLE");
    assert_eq!(registry.requests().len(), 16);
    // A client that disconnects frees its place, even though the registry has not responded yet.
    in_progress.pop();
    let until = Instant::now() + PATIENCE;
    let next = loop {
        let mut next = send_from(Ipv4Addr::new(127, 0, 1, 5), &list);
        let soon = Duration::from_millis(100);
        next.socket.set_read_timeout(Some(soon)).unwrap();
        match next.try_read_response("GET") {
            Ok(rejected) => rejected.assert_rejection(503, "UNAVAILABLE"),
            Err(_) => break next,
        }
        assert!(Instant::now() < until, "no free place");
    };
    next.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    registry.wait_for_requests(|seen| seen.len() == 17);
    in_progress.push(next);
    // The limit applies neither to other requests nor to the catalog requests of a user.
    let pull = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/v2/public/a/manifests/x"),
    );
    assert_eq!(pull.status, 200);
    let mut alice = send_from(
        Ipv4Addr::new(127, 0, 1, 1),
        &TestRequest::alice("GET", "/v2/_catalog"),
    );
    registry.wait_for_requests(|seen| seen.len() == 19);
    // After a reload, the requests in progress still count.
    proxy.reload().unwrap();
    Client::connect_from(Ipv4Addr::new(127, 0, 1, 5), &proxy)
        .exchange(&list)
        .assert_rejection(503, "UNAVAILABLE");
    latch.open();
    assert_eq!(
        names(&alice.read_response("GET")),
        ["public/a", "public/b", "team/a"]
    );
    for client in &mut in_progress {
        assert_eq!(
            names(&client.read_response("GET")),
            ["public/a", "public/b"]
        );
    }
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &list).status, 200);
}

#[test]
fn incomplete_token_forms_leave_capacity_for_other_requests() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config(STATE, GRANTS).lines("auth", TOKEN));
    let form = "grant_type=password&username=alice&password=pw&service=localhost";
    let post = |client: &mut Client| {
        let length = form.len();
        client.send(format!(
            "POST /v2/_token HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
    };
    let mut slow: Vec<_> = (0..32).map(|_| Client::connect(&proxy)).collect();
    for client in &mut slow {
        post(client);
        // The 100 response shows that the proxy has admitted the request.
        assert_eq!(client.read_head().unwrap().status, 100);
    }
    let mut late = Client::connect(&proxy);
    post(&mut late);
    let rejected = late.read_response("POST");
    rejected.assert_rejection(503, "UNAVAILABLE");
    assert!(rejected.interim.is_empty() && rejected.has_header("retry-after"));
    // Tokens by GET, and for clients at other addresses, are still available.
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", "/v2/_token")
        )
        .status,
        200
    );
    let mut elsewhere = Client::connect_from(Ipv4Addr::new(127, 0, 1, 9), &proxy);
    let whole = TestRequest::new("POST", "/v2/_token").body(form);
    assert_eq!(elsewhere.exchange(&whole).status, 200);
    // A complete request frees its place, and so does a client that disconnects.
    slow[0].send(form);
    assert_eq!(slow[0].read_response("POST").status, 200);
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &whole).status, 200);
    slow.clear();
    let until = Instant::now() + PATIENCE;
    while slow.len() < 32 {
        let mut again = Client::connect(&proxy);
        post(&mut again);
        if again.read_head().unwrap().status == 100 {
            slow.push(again);
        }
        assert!(
            Instant::now() < until,
            "only {} requests were admitted",
            slow.len()
        );
    }
}
