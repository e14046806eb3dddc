//! The list of repositories where a site has several routes, in token mode, and when too many ask for it.

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

/// A registry with these repositories, in their order, which gives as many at once as it is asked for.
fn listing(all: &'static [&'static str]) -> Registry {
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
    let seen = last.and_then(|last| all.iter().position(|name| *name == last));
    let rest = &all[seen.map_or(0, |at| at + 1)..];
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
fn names(answer: &TestResponse) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    let names = said["repositories"].as_array().unwrap().iter();
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

/// All pages of this size; no name, no `Link` and no error may hold `hidden`.
fn walked(proxy: &Proxy, request: &TestRequest, size: usize, hidden: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    let mut target = format!("/v2/_catalog?n={size}");
    loop {
        let mut request = request.clone();
        request.target.clone_from(&target);
        let answer = exchange(proxy, HttpVersion::Http2, &request);
        let said = format!("{:?}{}", answer.headers, answer.text());
        let told = hidden.iter().find(|name| said.contains(**name));
        assert_eq!(told, None, "{said}");
        all.extend(names(&answer));
        let Some(link) = answer.header_values("link").first().copied() else {
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

/// What lies under `/v2/`, with `/v2/up/` beside it.
const SHOWN: &[&str] = &["a", "upper", "zz"];
/// As a name or in a `Link`.
const HIDDEN: &[&str] = &["\"up\"", "up/x", "up%2F", "=up&", "Team", ".."];

#[test]
fn no_list_tells_of_what_lies_under_another_route() {
    let grants = "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"**\"]\nactions = [\"pull\", \"catalog\"]\n";
    let route = |path: &str, auth: &str| {
        format!("[[site.route]]\npath = \"{path}\"\nupstream = \"{{upstream}}\"\n{auth}\n")
    };
    let open = "auth = { mode = \"none\" }";
    for (config, request) in [
        // Every user may do everything, below this route.
        (
            config("", &route("/v2/up/", open)),
            TestRequest::alice("GET", ""),
        ),
        (
            config("", &[grants, &route("/v2/up/", open)].concat()),
            TestRequest::alice("GET", ""),
        ),
        // The longer path is the closed one.
        (
            config("", "")
                .lines("auth", open)
                .append(&route("/v2/up/", BASIC)),
            TestRequest::new("GET", ""),
        ),
        // Where nothing of a registry is.
        (
            config("", &route("/v2/up/", &format!("registry = false\n{open}"))),
            TestRequest::alice("GET", ""),
        ),
        // A route for everything, beside one for a part of the registry.
        (
            config("", &route("/v2/up/", open)).lines("path", "path = \"/\""),
            TestRequest::alice("GET", ""),
        ),
    ] {
        let registry = listing(ALL);
        let proxy = Proxy::start(&registry, &config);
        for size in [1, 2, 3, 100] {
            assert_eq!(
                walked(&proxy, &request, size, HIDDEN),
                SHOWN,
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
fn the_only_route_for_repositories_gives_the_list_as_it_is() {
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
        // Where no repository can lie.
        config("", &route("/v2/Team/", open)),
        // One for the list alone.
        config("", &route("/v2/up/", open))
            .lines("path", "path = \"/v2/_catalog\"")
            .append(&route("/v2/", open)),
        // The upstream knows who asks.
        config("", &route("/v2/up/", open)).lines("auth", upstream),
    ] {
        let registry = listing(ALL);
        let proxy = Proxy::start(&registry, &config);
        for (query, sent) in [
            ("", ""),
            ("?n=2&last=a", "?n=2&last=a"),
            // What is wrong with a number is the registry's to say.
            ("?last=a&n=abc", "?n=abc&last=a"),
        ] {
            let answer = exchange(
                &proxy,
                HttpVersion::Http1,
                &TestRequest::alice("GET", &format!("/v2/_catalog{query}")),
            );
            assert!(answer.text().contains("up/x"), "{config}");
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
fn a_route_for_the_list_alone_has_rights_of_its_own() {
    let registry = listing(ALL);
    let grants = "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"up/**\"]\nactions = [\"pull\", \"catalog\"]\n";
    let all = format!("[[site.route]]\npath = \"/v2/\"\nupstream = \"{{upstream}}\"\n{BASIC}\n");
    let listed = config("", &[grants, &all].concat()).set("path", "\"/v2/_catalog\"");
    let proxy = Proxy::start(&registry, &listed);
    let shown = walked(&proxy, &TestRequest::alice("GET", ""), 1, &["zz", "Team"]);
    assert_eq!(shown, ["up/x", "up/x/y"]);
}

#[test]
fn a_mount_without_a_source_needs_the_only_route_for_repositories() {
    let registry = Registry::accepting_all();
    let web =
        "[[site.route]]\npath = \"/\"\nupstream = \"{upstream}\"\nauth = { mode = \"none\" }\n";
    let part = config("", "").lines("path", "path = \"/v2/a/\"");
    for (config, mounts) in [
        (config("", web), true),
        (config("", &web.replace("\"/\"", "\"/v2/up/\"")), false),
        // The registry has more than lies below the only route.
        (part, false),
    ] {
        let proxy = Proxy::start(&registry, &config);
        let target = format!("/v2/a/blobs/uploads/?mount={DIGEST}");
        let answer = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("POST", &target),
        );
        assert_eq!(answer.status, 200);
        let seen = registry.requests().pop().unwrap().target;
        assert_eq!(seen.contains("mount="), mounts, "{config}");
    }
}

const TOKEN: &str = "auth = { mode = \"token\", htpasswd = \"htpasswd\" }";
const STATE: &str = "[state]\ndir = \"{dir}/state\"\n";
/// Anyone reads the list and what is public; alice pulls more.
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
fn in_token_mode_each_sees_what_he_may_pull() {
    let registry = listing(MIXED);
    let proxy = Proxy::start(&registry, config(STATE, GRANTS).lines("auth", TOKEN));
    let token = |request: TestRequest, scope: &str| {
        let mut request = request;
        request.target = format!("/v2/_token?scope={scope}");
        let said: Value =
            serde_json::from_slice(&exchange(&proxy, HttpVersion::Http1, &request).body).unwrap();
        let token = said["token"].as_str().unwrap();
        TestRequest::new("GET", "").header("authorization", format!("Bearer {token}"))
    };
    let public = &["public/a", "public/b"][..];
    let more = &["public/a", "public/b", "team/a"][..];
    let catalog = "registry:catalog:*";
    for (request, shown) in [
        (TestRequest::new("GET", ""), public),
        (token(TestRequest::new("GET", ""), catalog), public),
        (TestRequest::alice("GET", ""), more),
        // A token for the list shows what its user may pull, as the list has no scope of its own for each name.
        (token(TestRequest::alice("GET", ""), catalog), more),
    ] {
        for size in [1, 2, 3, 1000] {
            assert_eq!(
                walked(&proxy, &request, size, &["secret", "home"]),
                shown,
                "{size}"
            );
        }
        // What is wrong with a request is told to those who have come in, by a password or by a token.
        let is_stranger = request.headers.is_empty();
        for (method, target, status, strangers) in [
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
            let answer = exchange(&proxy, HttpVersion::Http1, &request);
            let expected = if is_stranger { strangers } else { status };
            assert_eq!(answer.status, expected, "{method} {target}: {answer:?}");
        }
    }
    // A token without the list in its scope names what is missing.
    let narrow = token(TestRequest::alice("GET", ""), "repository:team/a:pull");
    let mut narrow = narrow;
    narrow.target = "/v2/_catalog".to_owned();
    let refused = exchange(&proxy, HttpVersion::Http1, &narrow);
    refused.assert_rejection(401, "UNAUTHORIZED");
    let said = refused.header("www-authenticate");
    assert!(
        said.ends_with("scope=\"registry:catalog:*\",error=\"insufficient_scope\""),
        "{said}"
    );
}

#[test]
fn a_long_list_is_walked_page_by_page() {
    // 60 000 hidden names in front of the one that is shown.
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
    let answer = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/_catalog"),
    );
    assert_eq!(names(&answer), ["team/a"]);
    assert_eq!(registry.requests().len(), 60);
}

/// Which of these come after a place, as registries have it that know the place: one that is not there is the end of the
/// list, or none at all and the list begins anew.
fn particular(begins_anew: bool) -> Registry {
    Registry::start(move |exchange: &mut Exchange<'_>| {
        let all = &["pub/a", "secret/repo", "team/a"][..];
        let target = exchange.head.target.replace("%2F", "/");
        let mut pairs = target.split(['?', '&']);
        let last = pairs.find_map(|pair| pair.strip_prefix("last="));
        let known = last.map(|last| all.iter().position(|name| *name == last));
        let rest = match known {
            Some(Some(at)) => &all[at + 1..],
            Some(None) if !begins_anew => &[],
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
fn a_place_in_the_list_does_not_tell_what_is_there() {
    let grants = "[[site.route.grant]]\nto = [\"alice\"]\nrepositories = [\"pub/*\", \"team/*\"]\nactions = [\"pull\", \"catalog\"]\n";
    for begins_anew in [true, false] {
        let registry = particular(begins_anew);
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
fn tags_pass_as_they_are() {
    let body = "{\"name\":\"a\",\"tags\":null}";
    let registry = Registry::responding(format!(
        "HTTP/1.1 200 OK\r\nLink: </v2/a/tags/list?last=x&n=1>; rel=\"next\"\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        let answer = exchange(
            &proxy,
            http,
            &TestRequest::alice("GET", "/v2/a/tags/list?n=1"),
        );
        assert_eq!(answer.text(), body);
        assert_eq!(
            answer.header("link"),
            "</v2/a/tags/list?last=x&n=1>; rel=\"next\""
        );
    }
}

/// Open or not; waits and opens.
#[derive(Default)]
struct Door(Mutex<bool>, Condvar);

impl Door {
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
fn strangers_who_walk_the_list_leave_room_for_others() {
    let door = Arc::new(Door::default());
    let held = Arc::clone(&door);
    let registry = Registry::start(move |exchange: &mut Exchange<'_>| {
        if exchange.head.target.contains("_catalog") {
            held.wait();
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
    let begin = |from: Ipv4Addr, request: &TestRequest| {
        let mut client = Client::connect_from(from, &proxy);
        client.send(request.head());
        client
    };
    let mut inside = Vec::new();
    for host in 1..=4 {
        for _ in 0..4 {
            inside.push(begin(Ipv4Addr::new(127, 0, 1, host), &list));
            registry.wait_for_requests(|seen| seen.len() == inside.len());
        }
        // A network has its share.
        let refused = Client::connect_from(Ipv4Addr::new(127, 0, 1, host), &proxy).exchange(&list);
        refused.assert_rejection(503, "UNAVAILABLE");
        assert_eq!(refused.header("retry-after"), "2");
    }
    // All strangers have theirs.
    let fifth = Client::connect_from(Ipv4Addr::new(127, 0, 1, 5), &proxy).exchange(&list);
    fifth.assert_rejection(503, "UNAVAILABLE");
    assert_eq!(registry.requests().len(), 16);
    // Who leaves makes room, though the registry has not answered yet.
    inside.pop();
    let until = Instant::now() + PATIENCE;
    let next = loop {
        let mut next = begin(Ipv4Addr::new(127, 0, 1, 5), &list);
        let soon = Duration::from_millis(100);
        next.socket.set_read_timeout(Some(soon)).unwrap();
        match next.try_read_response("GET") {
            Ok(refused) => refused.assert_rejection(503, "UNAVAILABLE"),
            Err(_) => break next,
        }
        assert!(Instant::now() < until, "no room");
    };
    next.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    registry.wait_for_requests(|seen| seen.len() == 17);
    inside.push(next);
    // What they wait for is no reason to refuse anything else, nor a user's list.
    let pull = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/v2/public/a/manifests/x"),
    );
    assert_eq!(pull.status, 200);
    let mut alice = begin(
        Ipv4Addr::new(127, 0, 1, 1),
        &TestRequest::alice("GET", "/v2/_catalog"),
    );
    registry.wait_for_requests(|seen| seen.len() == 19);
    // A reload forgets nobody who is inside.
    proxy.reload().unwrap();
    Client::connect_from(Ipv4Addr::new(127, 0, 1, 5), &proxy)
        .exchange(&list)
        .assert_rejection(503, "UNAVAILABLE");
    door.open();
    assert_eq!(
        names(&alice.read_response("GET")),
        ["public/a", "public/b", "team/a"]
    );
    for client in &mut inside {
        assert_eq!(
            names(&client.read_response("GET")),
            ["public/a", "public/b"]
        );
    }
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &list).status, 200);
}

#[test]
fn forms_that_never_come_leave_room_for_others() {
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
        // It is asked for its form: it is inside.
        assert_eq!(client.read_head().unwrap().status, 100);
    }
    let mut late = Client::connect(&proxy);
    post(&mut late);
    let refused = late.read_response("POST");
    refused.assert_rejection(503, "UNAVAILABLE");
    assert!(refused.interim.is_empty() && refused.has_header("retry-after"));
    // By GET, and from elsewhere, tokens are to be had.
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
    // One who ends makes room, and so does one who leaves.
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
        assert!(Instant::now() < until, "{} are inside", slow.len());
    }
}
