//! Grants end to end: who may do what where, mounts, and the list of repositories.

use crate::support::proxy::{ALICE, directory};
use crate::support::{
    DIGEST, Exchange, HttpVersion, Proxy, Registry, TestRequest, config, exchange,
};

const GROUPS: &str = "[groups]\nci = [\"bot\"]\n";

const GRANTS: &str = r#"
[[site.route.grant]]
to = ["@ci"]
repositories = ["team/**"]
actions = ["push"]

[[site.route.grant]]
to = ["@users"]
repositories = ["home/{user}/**"]
actions = ["push", "delete"]

[[site.route.grant]]
to = ["alice"]
repositories = ["team/**", "pub/*"]
actions = ["pull", "catalog"]

[[site.route.grant]]
to = ["root"]
repositories = ["**"]
actions = ["pull", "catalog"]
"#;

/// alice, bot, root and eve, each with the password `pw`.
fn start(registry: &Registry) -> Proxy {
    let dir = directory();
    let users = ["bot", "root", "eve"];
    let lines = users.map(|user| format!("{user}:{}\n", bcrypt::hash("pw", 4).unwrap()));
    let file = dir.path().join("htpasswd");
    std::fs::write(file, format!("{ALICE}{}", lines.concat())).unwrap();
    Proxy::start_in(dir, &registry.url(), config(GROUPS, GRANTS))
}

fn by(user: &str, method: &str, target: &str) -> TestRequest {
    let request = TestRequest::new(method, target);
    match user {
        "" => request,
        _ => request.basic_auth(format!("{user}:pw").as_bytes()),
    }
}

#[test]
fn each_right_opens_what_it_names() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let blob = format!("blobs/{DIGEST}");
    let cases = [
        ("bot", "PUT", "team/a/manifests/x", 200),
        ("bot", "GET", "team/a/b/manifests/x", 200),
        ("bot", "HEAD", "team/a/manifests/x", 200),
        ("bot", "POST", "team/a/blobs/uploads/", 200),
        ("bot", "PATCH", "team/a/blobs/uploads/u", 200),
        ("bot", "DELETE", "team/a/blobs/uploads/u", 200),
        ("bot", "DELETE", "team/a/manifests/x", 403),
        ("bot", "DELETE", &format!("team/a/{blob}"), 403),
        ("bot", "GET", "team/manifests/x", 403),
        ("bot", "GET", "pub/a/manifests/x", 403),
        ("bot", "PUT", "home/bot/a/manifests/x", 200),
        ("bot", "DELETE", "home/bot/a/manifests/x", 200),
        ("bot", "DELETE", &format!("home/bot/a/{blob}"), 200),
        ("bot", "GET", "home/alice/a/manifests/x", 403),
        ("alice", "GET", "team/a/manifests/x", 200),
        ("alice", "GET", &format!("team/a/{blob}"), 200),
        ("alice", "GET", "team/a/tags/list", 200),
        ("alice", "GET", &format!("team/a/referrers/{DIGEST}"), 200),
        ("alice", "OPTIONS", "team/a/tags/list", 200),
        ("alice", "PUT", "team/a/manifests/x", 403),
        ("alice", "POST", "team/a/blobs/uploads/", 403),
        ("alice", "GET", "team/a/blobs/uploads/u", 403),
        ("alice", "DELETE", "team/a/manifests/x", 403),
        ("alice", "GET", "pub/a/b/manifests/x", 403),
        ("alice", "GET", "te%61m/a/tags/list", 200),
        ("eve", "GET", "te%61m/a/tags/list", 403),
        (
            "eve",
            "GET",
            "team/a/referrers/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            403,
        ),
        ("eve", "GET", "_catalog", 403),
        ("bot", "GET", "_catalog", 403),
        ("root", "GET", "_catalog", 200),
        ("root", "GET", "home/eve/a/tags/list", 200),
        ("root", "PUT", "home/eve/a/manifests/x", 403),
        ("eve", "GET", "", 200),
        ("", "GET", "", 401),
        ("", "GET", "team/a/manifests/x", 401),
        ("", "GET", "_catalog", 401),
    ];
    let mut forwarded = 0;
    for http in HttpVersion::BOTH {
        for (user, method, target, status) in cases {
            let answer = exchange(&proxy, http, &by(user, method, &format!("/v2/{target}")));
            assert_eq!(answer.status, status, "{http:?} {user} {method} {target}");
            forwarded += usize::from(status == 200);
            assert_eq!(
                registry.requests().len(),
                forwarded,
                "{user} {method} {target}"
            );
        }
    }
}

#[test]
fn a_denial_says_nothing_of_what_exists() {
    let registry = Registry::start(|exchange: &mut Exchange<'_>| {
        let exists = exchange.head.target.contains("team/there");
        let status = if exists { "200 OK" } else { "404 Not Found" };
        exchange.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    });
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        let answers = ["there", "missing"].map(|name| {
            let path = format!("/v2/team/{name}/manifests/x");
            let get = exchange(&proxy, http, &by("eve", "GET", &path));
            get.assert_rejection(403, "DENIED");
            let head = exchange(&proxy, http, &by("eve", "HEAD", &path));
            head.assert_rejection_head(403);
            assert_eq!(head.header("content-length"), get.header("content-length"));
            let slash = exchange(&proxy, http, &by("eve", "GET", &format!("{path}/")));
            slash.assert_rejection(403, "DENIED");
            let stranger = exchange(&proxy, http, &by("", "GET", &path));
            stranger.assert_rejection(401, "UNAUTHORIZED");
            [get, head, slash, stranger].map(|answer| answer.without_request_id())
        });
        assert_eq!(answers[0], answers[1]);
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn who_may_nothing_still_hears_what_is_wrong_with_his_request() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        let wrong = "/v2/Team/a/tags/list";
        exchange(&proxy, http, &by("eve", "GET", wrong)).assert_rejection(400, "NAME_INVALID");
        exchange(&proxy, http, &by("", "GET", wrong)).assert_rejection(401, "UNAUTHORIZED");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_mount_needs_the_right_to_pull_at_its_source() {
    let registry = Registry::responding("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
    let proxy = start(&registry);
    let uploads = "/v2/home/alice/a/blobs/uploads/";
    let session = format!("{uploads}u");
    let from = |source: &str| format!("?mount={DIGEST}&from={source}");
    let kept = |source: &str| format!("{uploads}?mount={DIGEST}&from={source}");
    let cases = [
        ("POST", uploads, from("team/a"), kept("team%2Fa")),
        (
            "POST",
            uploads,
            from("home/alice/b"),
            kept("home%2Falice%2Fb"),
        ),
        ("POST", uploads, from("home/eve/b"), uploads.to_owned()),
        ("POST", uploads, from("secret/repo"), uploads.to_owned()),
        ("POST", uploads, from("s%65cret%2Frepo"), uploads.to_owned()),
        // The registry would choose among all it has.
        (
            "POST",
            uploads,
            format!("?mount={DIGEST}"),
            uploads.to_owned(),
        ),
        (
            "PATCH",
            &session,
            format!("{}&_state=s", from("secret/repo")),
            format!("{session}?_state=s"),
        ),
        (
            "PUT",
            &session,
            format!("{}&digest={DIGEST}", from("team/a")),
            format!("{session}?digest={DIGEST}"),
        ),
    ];
    for http in HttpVersion::BOTH {
        for (method, path, query, expected) in &cases {
            let answer = exchange(
                &proxy,
                http,
                &by("alice", method, &format!("{path}{query}")),
            );
            assert_eq!((answer.status, answer.text().as_str()), (202, ""));
            let seen = registry.requests().pop().unwrap();
            assert_eq!(&seen.target, expected, "{method} {path}{query}");
        }
        // Push at the target is asked first.
        let count = registry.requests().len();
        let elsewhere = format!("/v2/team/a/blobs/uploads/{}", from("home/alice/b"));
        exchange(&proxy, http, &by("alice", "POST", &elsewhere)).assert_rejection(403, "DENIED");
        assert_eq!(registry.requests().len(), count);
    }
}

#[test]
fn a_reload_changes_what_is_granted() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let request = by("alice", "GET", "/v2/team/a/tags/list");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    let less = GRANTS.replace("\"team/**\", \"pub/*\"", "\"pub/*\"");
    proxy.configure(&registry, config(GROUPS, &less));
    proxy.reload().unwrap();
    exchange(&proxy, HttpVersion::Http1, &request).assert_rejection(403, "DENIED");
}

#[test]
fn outside_of_the_registry_api_nothing_is_granted() {
    let registry = Registry::accepting_all();
    let whole = config(GROUPS, GRANTS).lines("path", "path = \"/\"");
    let users = format!("{ALICE}bot:x\n");
    let dir = directory();
    std::fs::write(dir.path().join("htpasswd"), users).unwrap();
    let proxy = Proxy::start_in(dir, &registry.url(), &whole);
    let answer = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/metrics"),
    );
    assert_eq!(answer.status, 403);
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::new("GET", "/metrics")
        )
        .status,
        401
    );
    assert!(registry.requests().is_empty());
}

const ALL: [&str; 9] = [
    "a/hidden",
    "home/alice/x",
    "home/eve/x",
    "pub/a",
    "pub/a/deep",
    "pub/b",
    "secret/repo",
    "team/a",
    "zz/hidden",
];

/// A registry with [`ALL`], which gives at most `most` of them at once and refuses to be asked for more than `limit`.
fn catalogue(most: usize, limit: usize) -> Registry {
    Registry::start(move |exchange: &mut Exchange<'_>| {
        let target = exchange.head.target.clone();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let value = |key: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let found = pairs.find(|(name, _)| *name == key);
            found.map(|(_, value)| value.replace("%2F", "/"))
        };
        let size = value("n").map_or(most, |n| n.parse().unwrap());
        if size > limit {
            let body =
                "{\"errors\":[{\"code\":\"PAGINATION_NUMBER_INVALID\",\"message\":\"a/hidden\"}]}";
            let length = body.len();
            exchange.send(format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            return;
        }
        let last = value("last").unwrap_or_default();
        let mut rest = ALL.into_iter().filter(|name| *name > last.as_str());
        let page: Vec<_> = rest.by_ref().take(size.min(most)).collect();
        let link = match (rest.next(), page.last()) {
            (Some(_), Some(last)) => {
                format!("Link: </v2/_catalog?last={last}&n={size}>; rel=\"next\"\r\n")
            }
            _ => String::new(),
        };
        let body = serde_json::json!({ "repositories": page }).to_string();
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\n{link}Content-Length: {length}\r\n\r\n{body}"
        ));
    })
}

/// The names, and where the list goes on.
fn listed(
    proxy: &Proxy,
    http: HttpVersion,
    user: &str,
    target: &str,
) -> (Vec<String>, Option<String>) {
    let answer = exchange(proxy, http, &by(user, "GET", target));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let names = body["repositories"].as_array().unwrap();
    let names = names.iter().map(|name| name.as_str().unwrap().to_owned());
    let next = answer.header_values("link").first().map(|link| {
        let target = link
            .strip_prefix('<')
            .unwrap()
            .strip_suffix(">; rel=\"next\"");
        target.unwrap().to_owned()
    });
    (names.collect(), next)
}

#[test]
fn the_list_holds_what_may_be_pulled() {
    const VISIBLE: [&str; 4] = ["home/alice/x", "pub/a", "pub/b", "team/a"];
    for (most, limit) in [(1000, 1000), (3, 1000), (1, 1000), (2, 100)] {
        let registry = catalogue(most, limit);
        let proxy = start(&registry);
        for http in HttpVersion::BOTH {
            assert_eq!(
                listed(&proxy, http, "alice", "/v2/_catalog"),
                (VISIBLE.map(str::to_owned).to_vec(), None)
            );
            for size in 1..=5 {
                let mut target = format!("/v2/_catalog?n={size}");
                let mut all = Vec::new();
                loop {
                    let (names, next) = listed(&proxy, http, "alice", &target);
                    assert!(names.len() <= size && (next.is_none() || names.len() == size));
                    let last = names.last().unwrap().replace('/', "%2F");
                    all.extend(names);
                    let Some(next) = next else { break };
                    assert_eq!(next, format!("/v2/_catalog?last={last}&n={size}"));
                    target = next;
                }
                assert_eq!(all, VISIBLE, "{size} of {most}");
            }
            // A place between names, and one that is hidden.
            let after =
                |last: &str| listed(&proxy, http, "alice", &format!("/v2/_catalog?last={last}"));
            assert_eq!(after("pub/aa").0, ["pub/b", "team/a"]);
            assert_eq!(after("secret/repo"), (vec!["team/a".to_owned()], None));
            assert_eq!(after("team/a"), (vec![], None));
        }
    }
}

#[test]
fn who_may_pull_everything_gets_the_list_as_it_is() {
    let registry = catalogue(1000, 1000);
    let proxy = start(&registry);
    let (names, next) = {
        let answer = exchange(
            &proxy,
            HttpVersion::Http1,
            &by("root", "GET", "/v2/_catalog?n=2"),
        );
        (answer.text(), answer.header("link").to_owned())
    };
    assert_eq!(names, "{\"repositories\":[\"a/hidden\",\"home/alice/x\"]}");
    assert!(next.contains("last=home/alice/x"), "{next}");
    assert_eq!(registry.only_request().target, "/v2/_catalog?n=2");
}

#[test]
fn page_sizes_of_a_filtered_list() {
    let registry = catalogue(1000, 1000);
    let proxy = start(&registry);
    assert_eq!(
        listed(&proxy, HttpVersion::Http1, "alice", "/v2/_catalog?n=0"),
        (vec![], None)
    );
    for size in ["1001", "abc", "-1"] {
        let request = by("alice", "GET", &format!("/v2/_catalog?n={size}"));
        exchange(&proxy, HttpVersion::Http1, &request)
            .assert_rejection(400, "PAGINATION_NUMBER_INVALID");
    }
    for method in ["HEAD", "OPTIONS"] {
        let answer = exchange(
            &proxy,
            HttpVersion::Http1,
            &by("alice", method, "/v2/_catalog"),
        );
        assert_eq!(answer.status, 405, "{method}");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn conditions_and_codings_of_the_client_do_not_reach_a_filtered_list() {
    let registry = catalogue(1000, 1000);
    let proxy = start(&registry);
    let request = by("alice", "GET", "/v2/_catalog")
        .header("if-none-match", "\"x\"")
        .header("accept-encoding", "gzip")
        .header("user-agent", "crane");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    let seen = registry.only_request();
    assert!(seen.all("if-none-match").is_empty() && seen.all("accept-encoding").is_empty());
    assert_eq!(
        (seen.header("user-agent"), seen.header("host")),
        ("crane", "localhost")
    );
    assert!(!seen.header("x-request-id").is_empty());
}

#[test]
fn a_list_that_cannot_be_read_is_an_error_and_names_nothing() {
    let list = |head: &str, body: &str| {
        format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let names = "{\"repositories\":[\"pub/a\",\"secret/repo\"]}";
    let more = "200 OK\r\nLink: </v2/_catalog?last=secret%2Frepo>; rel=\"next\"";
    let huge = format!("{{\"repositories\":[\"{}\"]}}", "a".repeat(2 << 20));
    let cases = [
        (list("500 Internal Server Error", names), 502, "UNAVAILABLE"),
        (list("401 Unauthorized", names), 502, "UNAVAILABLE"),
        (list("404 Not Found", names), 404, "UNSUPPORTED"),
        (list("400 Bad Request", names), 502, "UNAVAILABLE"),
        (list("200 OK", "secret/repo"), 502, "UNAVAILABLE"),
        (
            list("200 OK", "{\"repositories\":[\"secret/repo\",1]}"),
            502,
            "UNAVAILABLE",
        ),
        (list("200 OK", &huge), 502, "UNAVAILABLE"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_owned(),
            502,
            "UNAVAILABLE",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Le".to_owned(),
            502,
            "UNAVAILABLE",
        ),
    ];
    for (bytes, status, code) in cases {
        let registry = Registry::start(move |exchange: &mut Exchange<'_>| {
            exchange.send(&bytes);
            exchange.close();
        });
        let proxy = start(&registry);
        let answer = exchange(
            &proxy,
            HttpVersion::Http1,
            &by("alice", "GET", "/v2/_catalog"),
        );
        answer.assert_rejection(status, code);
        assert!(!answer.text().contains("secret"), "{}", answer.text());
    }
    // One that says for ever that it goes on, and does not.
    let registry = Registry::responding(list(more, names));
    let proxy = start(&registry);
    let (names, next) = listed(&proxy, HttpVersion::Http1, "alice", "/v2/_catalog");
    assert_eq!((names, next), (vec!["pub/a".to_owned()], None));
}

#[test]
fn an_endless_list_ends() {
    let registry = Registry::start(|exchange: &mut Exchange<'_>| {
        let target = &exchange.head.target;
        let number = target
            .rsplit_once("%2Fh")
            .map_or(0, |(_, number)| number.parse().unwrap());
        let first = if number == 0 { "\"pub/a\"," } else { "" };
        let body = format!("{{\"repositories\":[{first}\"secret/h{}\"]}}", number + 1);
        let link = "Link: </v2/_catalog?last=x>; rel=\"next\"";
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\n{link}\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    });
    let proxy = start(&registry);
    let (names, next) = listed(&proxy, HttpVersion::Http1, "alice", "/v2/_catalog?n=5");
    assert_eq!(names, ["pub/a"]);
    assert_eq!(next.as_deref(), Some("/v2/_catalog?last=pub%2Fa&n=5"));
    let count = registry.requests().len();
    assert!(count <= 100, "{count} pages");
    // Nothing to show, so no place to go on from: said, and not passed off as the end.
    let request = by("alice", "GET", "/v2/_catalog?last=secret/h1");
    let answer = exchange(&proxy, HttpVersion::Http1, &request);
    answer.assert_rejection(503, "UNAVAILABLE");
    assert!(!answer.text().contains("secret") && answer.has_header("retry-after"));
}

#[test]
fn rights_are_judged_on_the_decoded_name() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        for (user, target, status) in [
            ("alice", "/v2/team%2Fapp/tags/list", 200),
            ("alice", "/v2/team%2fapp%2Fx/tags/list", 200),
            ("alice", "/v2/t%65am%2Fapp/manifests/v%31", 200),
            ("alice", "/v2/pub%2Fa/tags/list", 200),
            // One component is granted, not two.
            ("alice", "/v2/pub%2Fa%2Fb/tags/list", 403),
            ("alice", "/v2/home%2Fbot%2Fx/tags/list", 403),
            ("alice", "/v2/secret%2Frepo/tags/list", 403),
            ("alice", "//v2//secret/repo/tags/list", 403),
            ("alice", "//v2//team/app/tags/list", 301),
            ("eve", "/v2/home%2Feve%2Fx/tags/list", 200),
            ("eve", "/v2/team%2Fapp/tags/list", 403),
            ("", "/v2/team%2Fapp/tags/list", 401),
            ("", "//v2/", 401),
            // What cannot be there is told to who may read there.
            ("alice", "/v2/team/app/manifests/.INVALID", 404),
            ("alice", "/v2/team%2Fapp/manifests/sha256:x", 404),
            ("eve", "/v2/team/app/manifests/.INVALID", 403),
            ("eve", "/v2/no/such/manifests/.INVALID", 403),
            ("", "/v2/team/app/manifests/.INVALID", 401),
        ] {
            let before = registry.requests().len();
            let answer = exchange(&proxy, http, &by(user, "GET", target));
            assert_eq!(answer.status, status, "{user} {target}: {}", answer.text());
            let arrived = registry.requests().len() - before;
            assert_eq!(arrived, usize::from(status == 200), "{user} {target}");
            if status == 404 {
                answer.assert_rejection(404, "MANIFEST_UNKNOWN");
            }
            if status == 200 {
                let sent = registry.requests().pop().unwrap().target;
                let plain = target.replace("%2F", "/").replace("%2f", "/");
                let plain = plain.replace("%65", "e").replace("%31", "1");
                assert_eq!(sent, plain);
            }
        }
        // A push that sets tags takes the right to push.
        let tagged = format!("/v2/team/app/manifests/{DIGEST}?tag=v1&tag=latest");
        for (user, status) in [("bot", 200), ("alice", 403), ("eve", 403), ("", 401)] {
            let answer = exchange(&proxy, http, &by(user, "PUT", &tagged).body("{}"));
            assert_eq!(answer.status, status, "{user}");
        }
        assert_eq!(registry.requests().pop().unwrap().target, tagged);
    }
}
