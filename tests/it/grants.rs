//! `[[site.route.grant]]` through the whole proxy: which user may perform which action on which repository, cross-repository
//! mounts, and the filtered list of repositories (`/v2/_catalog`).

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

/// Starts a proxy with [`GRANTS`] and the users alice, bot, root and eve, each with the password `pw`.
fn start(registry: &Registry) -> Proxy {
    let dir = directory();
    let users = ["bot", "root", "eve"];
    let lines = users.map(|user| format!("{user}:{}\n", bcrypt::hash("pw", 4).unwrap()));
    let file = dir.path().join("htpasswd");
    std::fs::write(file, format!("{ALICE}{}", lines.concat())).unwrap();
    Proxy::start_in(dir, &registry.url(), config(GROUPS, GRANTS))
}

fn request_by(user: &str, method: &str, target: &str) -> TestRequest {
    let request = TestRequest::new(method, target);
    match user {
        "" => request,
        _ => request.basic_auth(format!("{user}:pw").as_bytes()),
    }
}

#[test]
fn each_grant_allows_its_actions_on_its_repositories_only() {
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
            let response = exchange(
                &proxy,
                http,
                &request_by(user, method, &format!("/v2/{target}")),
            );
            assert_eq!(response.status, status, "{http:?} {user} {method} {target}");
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
fn a_denial_does_not_reveal_whether_a_repository_exists() {
    let registry = Registry::start(|exchange: &mut Exchange<'_>| {
        let exists = exchange.head.target.contains("team/there");
        let status = if exists { "200 OK" } else { "404 Not Found" };
        exchange.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
    });
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        let responses = ["there", "missing"].map(|name| {
            let path = format!("/v2/team/{name}/manifests/x");
            let get = exchange(&proxy, http, &request_by("eve", "GET", &path));
            get.assert_rejection(403, "DENIED");
            let head = exchange(&proxy, http, &request_by("eve", "HEAD", &path));
            head.assert_rejection_head(403);
            assert_eq!(head.header("content-length"), get.header("content-length"));
            let slash = exchange(&proxy, http, &request_by("eve", "GET", &format!("{path}/")));
            slash.assert_rejection(403, "DENIED");
            let anonymous = exchange(&proxy, http, &request_by("", "GET", &path));
            anonymous.assert_rejection(401, "UNAUTHORIZED");
            [get, head, slash, anonymous].map(|response| response.without_request_id())
        });
        assert_eq!(responses[0], responses[1]);
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_user_without_grants_gets_400_for_a_malformed_request() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        let wrong = "/v2/Team/a/tags/list";
        exchange(&proxy, http, &request_by("eve", "GET", wrong))
            .assert_rejection(400, "NAME_INVALID");
        exchange(&proxy, http, &request_by("", "GET", wrong)).assert_rejection(401, "UNAUTHORIZED");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_mount_requires_the_right_to_pull_from_its_source() {
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
        // Without `from` the registry would choose the source among all repositories, so the proxy removes the mount.
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
            let response = exchange(
                &proxy,
                http,
                &request_by("alice", method, &format!("{path}{query}")),
            );
            assert_eq!((response.status, response.text().as_str()), (202, ""));
            let seen = registry.requests().pop().unwrap();
            assert_eq!(&seen.target, expected, "{method} {path}{query}");
        }
        // The proxy checks the right to push to the target before the source.
        let count = registry.requests().len();
        let elsewhere = format!("/v2/team/a/blobs/uploads/{}", from("home/alice/b"));
        exchange(&proxy, http, &request_by("alice", "POST", &elsewhere))
            .assert_rejection(403, "DENIED");
        assert_eq!(registry.requests().len(), count);
    }
}

#[test]
fn a_reload_changes_the_grants() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let request = request_by("alice", "GET", "/v2/team/a/tags/list");
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    let less = GRANTS.replace("\"team/**\", \"pub/*\"", "\"pub/*\"");
    proxy.configure(&registry, config(GROUPS, &less));
    proxy.reload().unwrap();
    exchange(&proxy, HttpVersion::Http1, &request).assert_rejection(403, "DENIED");
}

#[test]
fn outside_of_the_registry_api_a_route_with_grants_denies_everything() {
    let registry = Registry::accepting_all();
    let whole = config(GROUPS, GRANTS).lines("path", "path = \"/\"");
    let users = format!("{ALICE}bot:x\n");
    let dir = directory();
    std::fs::write(dir.path().join("htpasswd"), users).unwrap();
    let proxy = Proxy::start_in(dir, &registry.url(), &whole);
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/metrics"),
    );
    assert_eq!(response.status, 403);
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

const ALL_REPOSITORIES: [&str; 9] = [
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

/// A registry that has [`ALL_REPOSITORIES`]. One page of its list has at most `most` names. A page size above `limit` gets 400.
fn registry_with_catalog(most: usize, limit: usize) -> Registry {
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
        let mut rest = ALL_REPOSITORIES
            .into_iter()
            .filter(|name| *name > last.as_str());
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

/// Requests a page of the list, and returns the names and the target of the next page in `Link`.
fn fetch_catalog(
    proxy: &Proxy,
    http: HttpVersion,
    user: &str,
    target: &str,
) -> (Vec<String>, Option<String>) {
    let response = exchange(proxy, http, &request_by(user, "GET", target));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), "application/json");
    let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    let names = body["repositories"].as_array().unwrap();
    let names = names.iter().map(|name| name.as_str().unwrap().to_owned());
    let next = response.header_values("link").first().map(|link| {
        let target = link
            .strip_prefix('<')
            .unwrap()
            .strip_suffix(">; rel=\"next\"");
        target.unwrap().to_owned()
    });
    (names.collect(), next)
}

#[test]
fn the_list_contains_the_repositories_that_the_user_may_pull() {
    const VISIBLE: [&str; 4] = ["home/alice/x", "pub/a", "pub/b", "team/a"];
    for (most, limit) in [(1000, 1000), (3, 1000), (1, 1000), (2, 100)] {
        let registry = registry_with_catalog(most, limit);
        let proxy = start(&registry);
        for http in HttpVersion::BOTH {
            assert_eq!(
                fetch_catalog(&proxy, http, "alice", "/v2/_catalog"),
                (VISIBLE.map(str::to_owned).to_vec(), None)
            );
            for size in 1..=5 {
                let mut target = format!("/v2/_catalog?n={size}");
                let mut all = Vec::new();
                loop {
                    let (names, next) = fetch_catalog(&proxy, http, "alice", &target);
                    assert!(names.len() <= size && (next.is_none() || names.len() == size));
                    let last = names.last().unwrap().replace('/', "%2F");
                    all.extend(names);
                    let Some(next) = next else { break };
                    assert_eq!(next, format!("/v2/_catalog?last={last}&n={size}"));
                    target = next;
                }
                assert_eq!(all, VISIBLE, "{size} of {most}");
            }
            // `last` may be a name that does not exist, or the name of a repository that the user cannot see.
            let after = |last: &str| {
                fetch_catalog(&proxy, http, "alice", &format!("/v2/_catalog?last={last}"))
            };
            assert_eq!(after("pub/aa").0, ["pub/b", "team/a"]);
            assert_eq!(after("secret/repo"), (vec!["team/a".to_owned()], None));
            assert_eq!(after("team/a"), (vec![], None));
        }
    }
}

#[test]
fn a_user_with_pull_on_everything_gets_the_unfiltered_list() {
    let registry = registry_with_catalog(1000, 1000);
    let proxy = start(&registry);
    let (names, next) = {
        let response = exchange(
            &proxy,
            HttpVersion::Http1,
            &request_by("root", "GET", "/v2/_catalog?n=2"),
        );
        (response.text(), response.header("link").to_owned())
    };
    assert_eq!(names, "{\"repositories\":[\"a/hidden\",\"home/alice/x\"]}");
    assert!(next.contains("last=home/alice/x"), "{next}");
    assert_eq!(registry.only_request().target, "/v2/_catalog?n=2");
}

#[test]
fn a_page_size_beyond_1000_or_not_a_number_gets_400() {
    let registry = registry_with_catalog(1000, 1000);
    let proxy = start(&registry);
    assert_eq!(
        fetch_catalog(&proxy, HttpVersion::Http1, "alice", "/v2/_catalog?n=0"),
        (vec![], None)
    );
    for size in ["1001", "abc", "-1"] {
        let request = request_by("alice", "GET", &format!("/v2/_catalog?n={size}"));
        exchange(&proxy, HttpVersion::Http1, &request)
            .assert_rejection(400, "PAGINATION_NUMBER_INVALID");
    }
    for method in ["HEAD", "OPTIONS"] {
        let response = exchange(
            &proxy,
            HttpVersion::Http1,
            &request_by("alice", method, "/v2/_catalog"),
        );
        assert_eq!(response.status, 405, "{method}");
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn conditional_fields_and_accept_encoding_are_not_forwarded_for_a_filtered_list() {
    let registry = registry_with_catalog(1000, 1000);
    let proxy = start(&registry);
    let request = request_by("alice", "GET", "/v2/_catalog")
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
fn an_unusable_list_of_the_registry_is_an_error_without_repository_names() {
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
        let response = exchange(
            &proxy,
            HttpVersion::Http1,
            &request_by("alice", "GET", "/v2/_catalog"),
        );
        response.assert_rejection(status, code);
        assert!(!response.text().contains("secret"), "{}", response.text());
    }
    // The registry responds to every request with the same page and the same link to a next page.
    let registry = Registry::responding(list(more, names));
    let proxy = start(&registry);
    let (names, next) = fetch_catalog(&proxy, HttpVersion::Http1, "alice", "/v2/_catalog");
    assert_eq!((names, next), (vec!["pub/a".to_owned()], None));
}

#[test]
fn the_proxy_stops_reading_an_endless_list() {
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
    let (names, next) = fetch_catalog(&proxy, HttpVersion::Http1, "alice", "/v2/_catalog?n=5");
    assert_eq!(names, ["pub/a"]);
    assert_eq!(next.as_deref(), Some("/v2/_catalog?last=pub%2Fa&n=5"));
    let count = registry.requests().len();
    assert!(count <= 100, "{count} pages");
    // No visible name is found within the bound, so there is no name for `last` in a link. The proxy responds with an error,
    // because an empty page would look like the end of the list.
    let request = request_by("alice", "GET", "/v2/_catalog?last=secret/h1");
    let response = exchange(&proxy, HttpVersion::Http1, &request);
    response.assert_rejection(503, "UNAVAILABLE");
    assert!(!response.text().contains("secret") && response.has_header("retry-after"));
}

#[test]
fn grants_apply_to_the_decoded_repository_name() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        for (user, target, status) in [
            ("alice", "/v2/team%2Fapp/tags/list", 200),
            ("alice", "/v2/team%2fapp%2Fx/tags/list", 200),
            ("alice", "/v2/t%65am%2Fapp/manifests/v%31", 200),
            ("alice", "/v2/pub%2Fa/tags/list", 200),
            // `pub/*` matches one component, not two.
            ("alice", "/v2/pub%2Fa%2Fb/tags/list", 403),
            ("alice", "/v2/home%2Fbot%2Fx/tags/list", 403),
            ("alice", "/v2/secret%2Frepo/tags/list", 403),
            ("alice", "//v2//secret/repo/tags/list", 403),
            ("alice", "//v2//team/app/tags/list", 301),
            ("eve", "/v2/home%2Feve%2Fx/tags/list", 200),
            ("eve", "/v2/team%2Fapp/tags/list", 403),
            ("", "/v2/team%2Fapp/tags/list", 401),
            ("", "//v2/", 401),
            // A reference that no manifest can have: a user with the right to pull gets 404, any other user the usual denial.
            ("alice", "/v2/team/app/manifests/.INVALID", 404),
            ("alice", "/v2/team%2Fapp/manifests/sha256:x", 404),
            ("eve", "/v2/team/app/manifests/.INVALID", 403),
            ("eve", "/v2/no/such/manifests/.INVALID", 403),
            ("", "/v2/team/app/manifests/.INVALID", 401),
        ] {
            let before = registry.requests().len();
            let response = exchange(&proxy, http, &request_by(user, "GET", target));
            assert_eq!(
                response.status,
                status,
                "{user} {target}: {}",
                response.text()
            );
            let forwarded = registry.requests().len() - before;
            assert_eq!(forwarded, usize::from(status == 200), "{user} {target}");
            if status == 404 {
                response.assert_rejection(404, "MANIFEST_UNKNOWN");
            }
            if status == 200 {
                let sent = registry.requests().pop().unwrap().target;
                let plain = target.replace("%2F", "/").replace("%2f", "/");
                let plain = plain.replace("%65", "e").replace("%31", "1");
                assert_eq!(sent, plain);
            }
        }
        // A push by digest that also sets tags requires the right to push.
        let tagged = format!("/v2/team/app/manifests/{DIGEST}?tag=v1&tag=latest");
        for (user, status) in [("bot", 200), ("alice", 403), ("eve", 403), ("", 401)] {
            let response = exchange(&proxy, http, &request_by(user, "PUT", &tagged).body("{}"));
            assert_eq!(response.status, status, "{user}");
        }
        assert_eq!(registry.requests().pop().unwrap().target, tagged);
    }
}
