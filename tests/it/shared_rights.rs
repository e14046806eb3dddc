//! Grants in mode token: anonymous clients pull from public repositories, and users push to the repositories for which they have
//! grants.

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

/// Starts a proxy with the users alice and bot, both with the password `pw`.
fn start(registry: &Registry) -> Proxy {
    let dir = directory();
    let bot = format!("bot:{}\n", bcrypt::hash("pw", 4).unwrap());
    std::fs::write(dir.path().join("htpasswd"), format!("{ALICE}{bot}")).unwrap();
    let config = with_grants(&[PUBLIC, OWN].concat());
    Proxy::start_in(dir, &registry.url(), &config)
}

/// Requests a token for these scopes. An empty `user` requests an anonymous token.
#[track_caller]
fn token(proxy: &Proxy, user: &str, scopes: &[&str]) -> String {
    let scopes: String = scopes
        .iter()
        .map(|scope| format!("&scope={scope}"))
        .collect();
    let request = TestRequest::new("GET", &format!("/v2/_token?service=localhost{scopes}"));
    let response = match user {
        "" => exchange(proxy, HttpVersion::Http1, &request),
        _ => exchange(
            proxy,
            HttpVersion::Http1,
            &request.basic_auth(format!("{user}:pw").as_bytes()),
        ),
    };
    assert_eq!(response.status, 200, "{response:?}");
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    body["token"].as_str().unwrap().to_owned()
}

fn exchange_with_token(proxy: &Proxy, token: &str, method: &str, target: &str) -> TestResponse {
    let request =
        TestRequest::new(method, target).header("authorization", format!("Bearer {token}"));
    exchange(proxy, HttpVersion::Http1, &request)
}

#[test]
fn an_anonymous_client_pulls_public_repositories_only() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        let ping = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        ping.assert_rejection(401, "UNAUTHORIZED");
        assert!(ping.header("www-authenticate").starts_with("Bearer realm="));
        // A client such as curl sends the request without a token.
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
    let anonymous_token = token(&proxy, "", &["repository:public/a:pull"]);
    assert_eq!(
        exchange_with_token(&proxy, &anonymous_token, "GET", "/v2/").status,
        200
    );
    for target in ["/v2/public/a/manifests/x", "/v2/public/a/tags/list"] {
        assert_eq!(
            exchange_with_token(&proxy, &anonymous_token, "GET", target).status,
            200
        );
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
        let refused = exchange_with_token(&proxy, &all, method, target);
        refused.assert_rejection(401, "UNAUTHORIZED");
        let challenge = refused.header("www-authenticate");
        assert!(
            challenge.contains("error=\"insufficient_scope\""),
            "{challenge}"
        );
    }
    // The token does not grant a repository that is not in its scope.
    let other = exchange_with_token(&proxy, &anonymous_token, "GET", "/v2/public/b/manifests/x");
    other.assert_rejection(401, "UNAUTHORIZED");
    assert_eq!(registry.requests().len(), before);
}

#[test]
fn a_token_grants_what_is_in_its_scope_and_in_the_current_grants() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let scopes = ["repository:team/a:pull,push", "repository:home/bot/x:push"];
    let bot_token = token(&proxy, "bot", &scopes);
    assert_eq!(
        exchange_with_token(&proxy, &bot_token, "PUT", "/v2/team/a/manifests/x").status,
        200
    );
    let beyond = exchange_with_token(&proxy, &bot_token, "PUT", "/v2/team/b/manifests/x");
    beyond.assert_rejection(401, "UNAUTHORIZED");
    // Without the right, the user gets 403, because no token would help. The response does not reveal whether the repository
    // exists.
    let alice_token = token(&proxy, "alice", &scopes);
    let rejections = ["team/a", "team/none"].map(|name| {
        let refused = exchange_with_token(
            &proxy,
            &alice_token,
            "GET",
            &format!("/v2/{name}/manifests/x"),
        );
        refused.assert_rejection(403, "DENIED");
        refused.without_request_id()
    });
    assert_eq!(rejections[0], rejections[1]);
    proxy.configure(&registry, with_grants(PUBLIC));
    proxy.reload().unwrap();
    let refused = exchange_with_token(&proxy, &bot_token, "PUT", "/v2/team/a/manifests/x");
    refused.assert_rejection(403, "DENIED");
}

#[test]
fn a_mount_requires_its_source_in_the_rights_and_in_the_scope() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let mount = |token: &str, from: &str| {
        let target = format!("/v2/team/a/blobs/uploads/?mount={DIGEST}&from={from}");
        exchange_with_token(&proxy, token, "POST", &target)
    };
    let is_mounted = |token: &str, from: &str| {
        let response = mount(token, from);
        assert_eq!(response.status, 200, "{response:?}");
        let request = registry.requests().pop().unwrap();
        request.target.contains("mount=")
    };
    let both = ["repository:team/a:pull,push", "repository:team/b:pull"];
    let both = token(&proxy, "bot", &both);
    assert!(is_mounted(&both, "team/b"));
    // The source is in the rights and not in the scope: the challenge names both scopes, whether the right belongs to the user
    // or to anonymous clients.
    for source in ["team/c", "public/a"] {
        let refused = mount(&both, source);
        refused.assert_rejection(401, "UNAUTHORIZED");
        let challenge = refused.header("www-authenticate");
        let mut scopes = [
            "repository:team/a:pull,push".to_owned(),
            format!("repository:{source}:pull"),
        ];
        assert!(
            scopes.iter().all(|scope| challenge.contains(scope)),
            "{challenge}"
        );
        scopes.reverse();
        let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
        assert!(is_mounted(&token(&proxy, "bot", &scopes), source));
    }
    // The source is not in the rights: the proxy forwards a plain upload without the mount, whatever the scope is. A
    // challenge would make the client request tokens in an endless loop.
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
fn anonymous_grants_require_mode_token() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let basic = config(TOP, PUBLIC);
    let refused = Proxy::try_start(dir, &registry.url(), &basic);
    let problems = refused
        .err()
        .expect("the configuration is rejected")
        .to_string();
    assert!(problems.contains("mode = \"token\""), "{problems}");
}

/// The part of the challenge of a 401 that follows the realm and the service.
#[track_caller]
fn challenge_scope(response: &TestResponse) -> String {
    response.assert_rejection(401, "UNAUTHORIZED");
    let challenge = response.header("www-authenticate");
    let realm = "Bearer realm=\"https://localhost/v2/_token\",service=\"localhost\"";
    challenge.strip_prefix(realm).unwrap().to_owned()
}

#[test]
fn each_credential_gets_the_expected_status_for_each_request() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let bearer = |token: String| format!("Bearer {token}");
    let basic = |login: &str| {
        let request = TestRequest::new("GET", "/").basic_auth(login.as_bytes());
        String::from_utf8(request.headers[0].1.clone()).unwrap()
    };
    let narrow = bearer(token(&proxy, "bot", &["repository:public/a:pull"]));
    let push = bearer(token(&proxy, "bot", &["repository:public/a:push"]));
    let anonymous_token = bearer(token(&proxy, "", &["repository:public/a:pull,push,delete"]));
    let alice_token = bearer(token(&proxy, "alice", &["repository:public/a:pull,push"]));
    let (bot, alice) = (basic("bot:pw"), basic("alice:pw"));
    let (wrong, empty) = (basic("alice:no"), "Basic Og==".to_owned());
    let pull = ",scope=\"repository:public/a:pull\"";
    let both = ",scope=\"repository:public/a:pull,push\"";
    let delete = ",scope=\"repository:public/a:delete\"";
    let team = ",scope=\"repository:team/a:pull\"";
    let (invalid, narrow_error) = (",error=\"invalid_token\"", ",error=\"insufficient_scope\"");
    let none = String::new();
    let with_error = |scope: &str, error: &str| (401, format!("{scope}{error}"));
    let challenged = |scope: &str| (401, scope.to_owned());
    let allowed = || (200, String::new());
    let status_only = |status| (status, String::new());
    let manifest = "/v2/public/a/manifests/x";
    let uploads = "/v2/public/a/blobs/uploads/";
    let session = "/v2/public/a/blobs/uploads/u";
    let cases = [
        // Anonymous pulls, without credentials, with empty credentials and with an anonymous token.
        (&none, "GET", manifest, allowed()),
        (&none, "HEAD", manifest, allowed()),
        (&none, "OPTIONS", "/v2/public/a/tags/list", allowed()),
        (&none, "GET", "/v2/public/a/manifests/x/", status_only(301)),
        (&empty, "GET", manifest, allowed()),
        (&anonymous_token, "GET", manifest, allowed()),
        // An anonymous client may not read, continue or cancel an upload.
        (&none, "GET", session, challenged(both)),
        (&none, "PATCH", session, challenged(both)),
        (&none, "DELETE", session, challenged(both)),
        (&empty, "POST", uploads, challenged(both)),
        (
            &anonymous_token,
            "POST",
            uploads,
            with_error(both, narrow_error),
        ),
        (
            &anonymous_token,
            "DELETE",
            manifest,
            with_error(delete, narrow_error),
        ),
        (&none, "OPTIONS", "/v2/team/a/tags/list", challenged(team)),
        (&none, "GET", "/v2/team/a/tags/list/", challenged(team)),
        // A wrong password or an invalid token is rejected, even if an anonymous client has the right.
        (&wrong, "GET", manifest, challenged(pull)),
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
            &format!("{anonymous_token}x"),
            "GET",
            manifest,
            with_error(pull, invalid),
        ),
        // A token grants less than its user may do.
        (&narrow, "GET", manifest, allowed()),
        (&narrow, "PUT", manifest, with_error(both, narrow_error)),
        (&narrow, "POST", uploads, with_error(both, narrow_error)),
        (
            &narrow,
            "GET",
            "/v2/team/a/manifests/x",
            with_error(team, narrow_error),
        ),
        (&push, "PUT", manifest, allowed()),
        (&push, "GET", manifest, allowed()),
        (&push, "DELETE", session, allowed()),
        (&bot, "PUT", manifest, allowed()),
        (&bot, "OPTIONS", "/v2/team/a/tags/list", allowed()),
        // Without the right, the user gets 403 and no challenge, because no token would help.
        (&push, "DELETE", manifest, status_only(403)),
        (&bot, "DELETE", manifest, status_only(403)),
        (&alice_token, "GET", manifest, allowed()),
        (&alice_token, "PUT", manifest, status_only(403)),
        (&alice, "PUT", manifest, status_only(403)),
        (&alice, "GET", "/v2/team/a/manifests/x/", status_only(403)),
        // Only an authenticated client learns why a request is invalid; a password or any token is sufficient.
        (&none, "GET", "/v2/Public/a/tags/list", challenged("")),
        (&empty, "GET", "/v2/Public/a/tags/list", challenged("")),
        (&wrong, "GET", "/v2/Public/a/tags/list", challenged("")),
        (
            &anonymous_token,
            "GET",
            "/v2/Public/a/tags/list",
            status_only(400),
        ),
        (
            &alice_token,
            "GET",
            "/v2/Public/a/tags/list",
            status_only(400),
        ),
        (&alice, "GET", "/v2/Public/a/tags/list", status_only(400)),
        (&none, "DELETE", "/v2/public/a/tags/list", challenged("")),
        (
            &anonymous_token,
            "DELETE",
            "/v2/public/a/tags/list",
            status_only(405),
        ),
        (&anonymous_token, "GET", "/v2/", allowed()),
    ];
    for http in HttpVersion::BOTH {
        for (credentials, method, target, (status, scope)) in &cases {
            let mut request = TestRequest::new(method, target);
            if !credentials.is_empty() {
                request = request.header("authorization", credentials);
            }
            let before = registry.requests().len();
            let response = exchange(&proxy, http, &request);
            let forwarded = registry.requests().len() - before;
            let case = format!("{http:?} {credentials:.12} {method} {target}: {response:?}");
            assert_eq!(response.status, *status, "{case}");
            assert_eq!(forwarded, usize::from(*status == 200), "{case}");
            if *status == 401 {
                assert_eq!(challenge_scope(&response), *scope, "{case}");
            }
        }
    }
}

#[test]
fn an_anonymous_token_grants_nothing_without_anonymous_grants() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, with_grants(OWN));
    let anonymous_token = token(
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
                .header("authorization", format!("Bearer {anonymous_token}"));
            let challenge = challenge_scope(&exchange(&proxy, http, &request));
            assert_eq!(challenge, format!("{scope},error=\"insufficient_scope\""));
        }
        // An invalid request gets the same response with the anonymous token as without it: the response does not describe the
        // error, and the challenge has no scope.
        let invalid = TestRequest::new("GET", "/v2/Team/a/tags/list");
        let without_token = exchange(&proxy, http, &invalid);
        let with_token = invalid.header("authorization", format!("Bearer {anonymous_token}"));
        assert_eq!(
            exchange(&proxy, http, &with_token).without_request_id(),
            without_token.without_request_id()
        );
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn no_spelling_of_the_path_bypasses_the_registry_route() {
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
            let response = exchange(&proxy, http, &TestRequest::new("GET", target));
            assert!(
                matches!(response.status, 400 | 401),
                "{target}: {response:?}"
            );
        }
    }
    assert!(registry.requests().is_empty());
    // The route `/` serves other paths without credentials.
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
fn a_form_body_is_rejected_for_uploads() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let scopes = ["repository:team/a:pull,push", "repository:public/a:pull"];
    let bot_token = token(&proxy, "bot", &scopes);
    let form = format!("mount={DIGEST}&from=home/alice/x&digest={DIGEST}");
    let allowed = format!("?mount={DIGEST}&from=public/a");
    for (method, target) in [
        ("POST", format!("/v2/team/a/blobs/uploads/{allowed}")),
        ("POST", "/v2/team/a/blobs/uploads/".to_owned()),
        ("POST", format!("/v2/team/a/blobs/uploads/u{allowed}")),
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
                    .header("authorization", format!("Bearer {bot_token}"))
                    .body(form.as_bytes());
                for kind in kinds {
                    request = request.header("content-type", kind.trim());
                }
                exchange(&proxy, http, &request).assert_rejection(415, "UNSUPPORTED");
            }
        }
    }
    assert!(registry.requests().is_empty());
    // With another media type the proxy forwards the body as bytes, and only the query has the parameters of the mount.
    let request = TestRequest::new("POST", &format!("/v2/team/a/blobs/uploads/{allowed}"))
        .header("authorization", format!("Bearer {bot_token}"))
        .header("content-type", "x/y; application/x-www-form-urlencoded")
        .body(form);
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    let seen = registry.only_request();
    assert_eq!(seen.header("content-type"), "application/octet-stream");
    assert!(seen.target.ends_with("from=public%2Fa"), "{}", seen.target);
}
