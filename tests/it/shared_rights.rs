//! Grants with tokens: anyone pulls what is public, and who logs in pushes what is his.

use serde_json::Value;

use crate::support::proxy::TestConfig;
use crate::support::proxy::{ALICE, directory};
use crate::support::{
    DIGEST, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, exchange,
};

const TOKEN: &str = "auth = { mode = \"token\", htpasswd = \"htpasswd\" }";
const TOP: &str = "[state]\ndir = \"{dir}/state\"\n[groups]\nci = [\"bot\"]\n";
const PUBLIC: &str = r#"
[[site.route.grant]]
to = ["@anonymous"]
repositories = ["public/**"]
actions = ["pull", "catalog"]
"#;
const OWN: &str = r#"
[[site.route.grant]]
to = ["@ci"]
repositories = ["public/**", "team/**"]
actions = ["push"]

[[site.route.grant]]
to = ["@users"]
repositories = ["home/{user}/**"]
actions = ["push"]
"#;

fn with_grants(grants: &str) -> TestConfig {
    config(TOP, grants).lines("auth", TOKEN)
}

/// alice and bot, each with the password `pw`.
fn start(registry: &Registry) -> Proxy {
    let dir = directory();
    let bot = format!("bot:{}\n", bcrypt::hash("pw", 4).unwrap());
    std::fs::write(dir.path().join("htpasswd"), format!("{ALICE}{bot}")).unwrap();
    let config = with_grants(&[PUBLIC, OWN].concat());
    Proxy::start_in(dir, &registry.url(), &config)
}

/// A token for these scopes; nobody's without a user.
#[track_caller]
fn token(proxy: &Proxy, user: &str, scopes: &[&str]) -> String {
    let scopes: String = scopes
        .iter()
        .map(|scope| format!("&scope={scope}"))
        .collect();
    let request = TestRequest::new("GET", &format!("/v2/_token?service=localhost{scopes}"));
    let answer = match user {
        "" => exchange(proxy, HttpVersion::Http1, &request),
        _ => exchange(
            proxy,
            HttpVersion::Http1,
            &request.basic_auth(format!("{user}:pw").as_bytes()),
        ),
    };
    assert_eq!(answer.status, 200, "{answer:?}");
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    said["token"].as_str().unwrap().to_owned()
}

fn with(proxy: &Proxy, token: &str, method: &str, target: &str) -> TestResponse {
    let request =
        TestRequest::new(method, target).header("authorization", format!("Bearer {token}"));
    exchange(proxy, HttpVersion::Http1, &request)
}

#[test]
fn anyone_pulls_what_is_public_and_nothing_else() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        let ping = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        ping.assert_rejection(401, "UNAUTHORIZED");
        assert!(ping.header("www-authenticate").starts_with("Bearer realm="));
        // As curl asks, which fetches no token.
        let pull = TestRequest::new("GET", "/v2/public/a/manifests/x");
        assert_eq!(exchange(&proxy, http, &pull).status, 200);
        let private = exchange(
            &proxy,
            http,
            &TestRequest::new("GET", "/v2/team/a/manifests/x"),
        );
        private.assert_rejection(401, "UNAUTHORIZED");
        assert!(
            private
                .header("www-authenticate")
                .contains("scope=\"repository:team/a:pull\"")
        );
    }
    let nobodys = token(&proxy, "", &["repository:public/a:pull"]);
    assert_eq!(with(&proxy, &nobodys, "GET", "/v2/").status, 200);
    for target in ["/v2/public/a/manifests/x", "/v2/public/a/tags/list"] {
        assert_eq!(with(&proxy, &nobodys, "GET", target).status, 200);
    }
    let before = registry.requests().len();
    let all = token(
        &proxy,
        "",
        &["repository:public/a:pull,push", "repository:team/a:pull"],
    );
    for (method, target) in [
        ("PUT", "/v2/public/a/manifests/x"),
        ("POST", "/v2/public/a/blobs/uploads/"),
        ("GET", "/v2/team/a/manifests/x"),
        ("DELETE", "/v2/public/a/manifests/x"),
    ] {
        let refused = with(&proxy, &all, method, target);
        refused.assert_rejection(401, "UNAUTHORIZED");
        let challenge = refused.header("www-authenticate");
        assert!(
            challenge.contains("error=\"insufficient_scope\""),
            "{challenge}"
        );
    }
    // A token is for what it names.
    let other = with(&proxy, &nobodys, "GET", "/v2/public/b/manifests/x");
    other.assert_rejection(401, "UNAUTHORIZED");
    assert_eq!(registry.requests().len(), before);
}

#[test]
fn a_token_is_worth_its_scope_and_todays_rights() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let scopes = ["repository:team/a:pull,push", "repository:home/bot/x:push"];
    let bots = token(&proxy, "bot", &scopes);
    assert_eq!(
        with(&proxy, &bots, "PUT", "/v2/team/a/manifests/x").status,
        200
    );
    let beyond = with(&proxy, &bots, "PUT", "/v2/team/b/manifests/x");
    beyond.assert_rejection(401, "UNAUTHORIZED");
    // Where the user has no right no token would help, and the words do not tell what is there.
    let alices = token(&proxy, "alice", &scopes);
    let told = ["team/a", "team/none"].map(|name| {
        let refused = with(&proxy, &alices, "GET", &format!("/v2/{name}/manifests/x"));
        refused.assert_rejection(403, "DENIED");
        refused.without_request_id()
    });
    assert_eq!(told[0], told[1]);
    proxy.configure(&registry, with_grants(PUBLIC));
    proxy.reload().unwrap();
    let refused = with(&proxy, &bots, "PUT", "/v2/team/a/manifests/x");
    refused.assert_rejection(403, "DENIED");
}

#[test]
fn a_mount_needs_its_source_in_the_rights_and_in_the_scope() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let mount = |token: &str, from: &str| {
        let target = format!("/v2/team/a/blobs/uploads/?mount={DIGEST}&from={from}");
        with(&proxy, token, "POST", &target)
    };
    let is_mounted = |token: &str, from: &str| {
        let answer = mount(token, from);
        assert_eq!(answer.status, 200, "{answer:?}");
        let request = registry.requests().pop().unwrap();
        request.target.contains("mount=")
    };
    let both = ["repository:team/a:pull,push", "repository:team/b:pull"];
    let both = token(&proxy, "bot", &both);
    assert!(is_mounted(&both, "team/b"));
    // In the rights and not in the scope: the client is asked for a token that has both, be the right its own or anyone's.
    for source in ["team/c", "public/a"] {
        let refused = mount(&both, source);
        refused.assert_rejection(401, "UNAUTHORIZED");
        let said = refused.header("www-authenticate");
        let mut scopes = [
            "repository:team/a:pull,push".to_owned(),
            format!("repository:{source}:pull"),
        ];
        assert!(scopes.iter().all(|scope| said.contains(scope)), "{said}");
        scopes.reverse();
        let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
        assert!(is_mounted(&token(&proxy, "bot", &scopes), source));
    }
    // Not in the rights: a plain upload, whatever was asked for, and no second challenge without end.
    let alone = token(&proxy, "bot", &["repository:team/a:pull,push"]);
    let beyond = [
        "repository:team/a:pull,push",
        "repository:home/alice/x:pull",
    ];
    let beyond = token(&proxy, "bot", &beyond);
    for token in [alone, beyond] {
        for hidden in ["home/alice/x", "no/such"] {
            assert!(!is_mounted(&token, hidden), "{hidden} is not in the rights");
        }
    }
}

#[test]
fn anonymous_grants_need_tokens() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let basic = config(TOP, PUBLIC);
    let refused = Proxy::try_start(dir, &registry.url(), &basic);
    let problems = refused.err().expect("a refusal").to_string();
    assert!(problems.contains("mode = \"token\""), "{problems}");
}

/// What a 401 asks for, behind the realm and the service.
#[track_caller]
fn asked_for(answer: &TestResponse) -> String {
    answer.assert_rejection(401, "UNAUTHORIZED");
    let challenge = answer.header("www-authenticate");
    let realm = "Bearer realm=\"https://localhost/v2/_token\",service=\"localhost\"";
    challenge.strip_prefix(realm).unwrap().to_owned()
}

#[test]
fn every_credential_opens_what_it_opens() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let bearer = |token: String| format!("Bearer {token}");
    let basic = |login: &str| {
        let ask = TestRequest::new("GET", "/").basic_auth(login.as_bytes());
        String::from_utf8(ask.headers[0].1.clone()).unwrap()
    };
    let narrow = bearer(token(&proxy, "bot", &["repository:public/a:pull"]));
    let push = bearer(token(&proxy, "bot", &["repository:public/a:push"]));
    let nobodys = bearer(token(&proxy, "", &["repository:public/a:pull,push,delete"]));
    let alices = bearer(token(&proxy, "alice", &["repository:public/a:pull,push"]));
    let (bot, alice) = (basic("bot:pw"), basic("alice:pw"));
    let (wrong, empty) = (basic("alice:no"), "Basic Og==".to_owned());
    let pull = ",scope=\"repository:public/a:pull\"";
    let both = ",scope=\"repository:public/a:pull,push\"";
    let delete = ",scope=\"repository:public/a:delete\"";
    let team = ",scope=\"repository:team/a:pull\"";
    let (invalid, narrow_error) = (",error=\"invalid_token\"", ",error=\"insufficient_scope\"");
    let none = String::new();
    let with_error = |scope: &str, error: &str| (401, format!("{scope}{error}"));
    let asks = |scope: &str| (401, scope.to_owned());
    let fine = || (200, String::new());
    let plain = |status| (status, String::new());
    let manifest = "/v2/public/a/manifests/x";
    let uploads = "/v2/public/a/blobs/uploads/";
    let session = "/v2/public/a/blobs/uploads/u";
    let cases = [
        // Anonymous pull, in every form that a client gives it.
        (&none, "GET", manifest, fine()),
        (&none, "HEAD", manifest, fine()),
        (&none, "OPTIONS", "/v2/public/a/tags/list", fine()),
        (&none, "GET", "/v2/public/a/manifests/x/", plain(301)),
        (&empty, "GET", manifest, fine()),
        (&nobodys, "GET", manifest, fine()),
        // Nobody reads, writes or ends an upload of somebody.
        (&none, "GET", session, asks(both)),
        (&none, "PATCH", session, asks(both)),
        (&none, "DELETE", session, asks(both)),
        (&empty, "POST", uploads, asks(both)),
        (&nobodys, "POST", uploads, with_error(both, narrow_error)),
        (
            &nobodys,
            "DELETE",
            manifest,
            with_error(delete, narrow_error),
        ),
        (&none, "OPTIONS", "/v2/team/a/tags/list", asks(team)),
        (&none, "GET", "/v2/team/a/tags/list/", asks(team)),
        // A wrong password or a bad token is never taken for nobody.
        (&wrong, "GET", manifest, asks(pull)),
        (
            &"Bearer x".to_owned(),
            "GET",
            manifest,
            with_error(pull, invalid),
        ),
        (
            &"Negotiate x".to_owned(),
            "GET",
            manifest,
            with_error(pull, invalid),
        ),
        (
            &format!("{nobodys}x"),
            "GET",
            manifest,
            with_error(pull, invalid),
        ),
        // A token is worth less than its user.
        (&narrow, "GET", manifest, fine()),
        (&narrow, "PUT", manifest, with_error(both, narrow_error)),
        (&narrow, "POST", uploads, with_error(both, narrow_error)),
        (
            &narrow,
            "GET",
            "/v2/team/a/manifests/x",
            with_error(team, narrow_error),
        ),
        (&push, "PUT", manifest, fine()),
        (&push, "GET", manifest, fine()),
        (&push, "DELETE", session, fine()),
        (&bot, "PUT", manifest, fine()),
        (&bot, "OPTIONS", "/v2/team/a/tags/list", fine()),
        // Where the user has no right no token helps, and none is asked for.
        (&push, "DELETE", manifest, plain(403)),
        (&bot, "DELETE", manifest, plain(403)),
        (&alices, "GET", manifest, fine()),
        (&alices, "PUT", manifest, plain(403)),
        (&alice, "PUT", manifest, plain(403)),
        (&alice, "GET", "/v2/team/a/manifests/x/", plain(403)),
        // What is wrong with a request is told to those who came in, by a password or by any token.
        (&none, "GET", "/v2/Public/a/tags/list", asks("")),
        (&empty, "GET", "/v2/Public/a/tags/list", asks("")),
        (&wrong, "GET", "/v2/Public/a/tags/list", asks("")),
        (&nobodys, "GET", "/v2/Public/a/tags/list", plain(400)),
        (&alices, "GET", "/v2/Public/a/tags/list", plain(400)),
        (&alice, "GET", "/v2/Public/a/tags/list", plain(400)),
        (&none, "DELETE", "/v2/public/a/tags/list", asks("")),
        (&nobodys, "DELETE", "/v2/public/a/tags/list", plain(405)),
        (&nobodys, "GET", "/v2/", fine()),
    ];
    for http in HttpVersion::BOTH {
        for (credentials, method, target, (status, said)) in &cases {
            let mut request = TestRequest::new(method, target);
            if !credentials.is_empty() {
                request = request.header("authorization", credentials);
            }
            let before = registry.requests().len();
            let answer = exchange(&proxy, http, &request);
            let arrived = registry.requests().len() - before;
            let case = format!("{http:?} {credentials:.12} {method} {target}: {answer:?}");
            assert_eq!(answer.status, *status, "{case}");
            assert_eq!(arrived, usize::from(*status == 200), "{case}");
            if *status == 401 {
                assert_eq!(asked_for(&answer), *said, "{case}");
            }
        }
    }
}

#[test]
fn where_nothing_is_for_anyone_a_token_for_nobody_is_worth_nothing() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, with_grants(OWN));
    let nobodys = token(
        &proxy,
        "",
        &["repository:team/a:pull", "registry:catalog:*"],
    );
    for http in HttpVersion::BOTH {
        for (target, scope) in [
            ("/v2/", ""),
            ("/v2/team/a/tags/list", ",scope=\"repository:team/a:pull\""),
            ("/v2/_catalog", ",scope=\"registry:catalog:*\""),
        ] {
            let request = TestRequest::new("GET", target)
                .header("authorization", format!("Bearer {nobodys}"));
            let said = asked_for(&exchange(&proxy, http, &request));
            assert_eq!(said, format!("{scope},error=\"insufficient_scope\""));
        }
        // Not a word of what is wrong, and no scope that would help.
        let wrong = TestRequest::new("GET", "/v2/Team/a/tags/list");
        let without = exchange(&proxy, http, &wrong);
        let with = wrong.header("authorization", format!("Bearer {nobodys}"));
        assert_eq!(
            exchange(&proxy, http, &with).without_request_id(),
            without.without_request_id()
        );
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn no_spelling_leads_past_the_route_of_the_registry() {
    let registry = Registry::accepting_all();
    let open =
        "[[site.route]]\npath = \"/\"\nupstream = \"{upstream}\"\nauth = { mode = \"none\" }\n";
    let proxy = Proxy::start(&registry, with_grants(&[PUBLIC, open].concat()));
    for target in [
        "/v2/team/a/tags/list",
        "//v2/team/a/tags/list",
        "/v2//team/a/tags/list",
        "/%762/team/a/tags/list",
        "/v%32%2Fteam/a/tags/list",
        "/v2%2Fteam/a/tags/list",
        "/v2%2f_catalog%2f",
        "/%2Fv2%2Fteam/a/tags/list",
        "/./v2/team/a/tags/list",
        "/x/../v2/team/a/tags/list",
        "/x/%2e%2e/v2/team/a/tags/list",
        "/x%2F..%2Fv2/team/a/tags/list",
        "/x/..;y/v2/team/a/tags/list",
        "/x/..%5Cv2/team/a/tags/list",
        "/v2/public/../team/a/tags/list",
        "/v2/public%2F..%2Fteam/a/tags/list",
        "https://localhost//v2/team/a/tags/list",
        "https://localhost/v2%2Fteam/a/tags/list",
    ] {
        for http in HttpVersion::BOTH {
            if http == HttpVersion::Http2 && target.starts_with("https:") {
                continue;
            }
            let answer = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert!(matches!(answer.status, 400 | 401), "{target}: {answer:?}");
        }
    }
    assert!(registry.requests().is_empty());
    // The other route is there.
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::new("GET", "/v20/x")
        )
        .status,
        200
    );
}

#[test]
fn no_form_mounts_beside_a_query_that_may() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let scopes = ["repository:team/a:pull,push", "repository:public/a:pull"];
    let bots = token(&proxy, "bot", &scopes);
    let form = format!("mount={DIGEST}&from=home/alice/x&digest={DIGEST}");
    let good = format!("?mount={DIGEST}&from=public/a");
    for (method, target) in [
        ("POST", format!("/v2/team/a/blobs/uploads/{good}")),
        ("POST", "/v2/team/a/blobs/uploads/".to_owned()),
        ("POST", format!("/v2/team/a/blobs/uploads/u{good}")),
        ("PUT", format!("/v2/team/a/blobs/uploads/u?digest={DIGEST}")),
        ("PATCH", "/v2/team/a/blobs/uploads/u".to_owned()),
    ] {
        for kinds in [
            &["application/x-www-form-urlencoded"][..],
            &[
                "application/octet-stream",
                "multipart/form-data; boundary=x",
            ],
            &[" \tmultipart/form-data"],
        ] {
            for http in HttpVersion::BOTH {
                let mut request = TestRequest::new(method, &target)
                    .header("authorization", format!("Bearer {bots}"))
                    .body(form.as_bytes());
                for kind in kinds {
                    request = request.header("content-type", kind.trim());
                }
                exchange(&proxy, http, &request).assert_rejection(415, "UNSUPPORTED");
            }
        }
    }
    assert!(registry.requests().is_empty());
    // Under another name it is bytes, and the query alone counts.
    let request = TestRequest::new("POST", &format!("/v2/team/a/blobs/uploads/{good}"))
        .header("authorization", format!("Bearer {bots}"))
        .header("content-type", "x/y; application/x-www-form-urlencoded")
        .body(form);
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    let seen = registry.only_request();
    assert_eq!(seen.header("content-type"), "application/octet-stream");
    assert!(seen.target.ends_with("from=public%2Fa"), "{}", seen.target);
}
