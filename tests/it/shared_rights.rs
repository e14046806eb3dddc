//! Grants with tokens: anyone pulls what is public, and who logs in pushes what is his.

use serde_json::Value;

use crate::support::proxy::{ALICE, directory};
use crate::support::{Answer, Ask, DIGEST, Http, Proxy, Registry, ask, config};

const BASIC: &str =
    "auth = { mode = \"basic\", htpasswd = \"htpasswd\", realm = \"Registry realm\" }";
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

fn with_grants(grants: &str) -> String {
    config(TOP, grants).replace(BASIC, TOKEN)
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
    let request = Ask::new("GET", &format!("/v2/_token?service=localhost{scopes}"));
    let answer = match user {
        "" => ask(proxy, Http::One, &request),
        _ => ask(
            proxy,
            Http::One,
            &request.login(format!("{user}:pw").as_bytes()),
        ),
    };
    assert_eq!(answer.status, 200, "{answer:?}");
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    said["token"].as_str().unwrap().to_owned()
}

fn with(proxy: &Proxy, token: &str, method: &str, target: &str) -> Answer {
    let request = Ask::new(method, target).header("authorization", format!("Bearer {token}"));
    ask(proxy, Http::One, &request)
}

#[test]
fn anyone_pulls_what_is_public_and_nothing_else() {
    let registry = Registry::obliging();
    let proxy = start(&registry);
    for http in Http::BOTH {
        let ping = ask(&proxy, http, &Ask::new("GET", "/v2/"));
        ping.is_refusal(401, "UNAUTHORIZED");
        assert!(ping.one("www-authenticate").starts_with("Bearer realm="));
        // As curl asks, which fetches no token.
        let pull = Ask::new("GET", "/v2/public/a/manifests/x");
        assert_eq!(ask(&proxy, http, &pull).status, 200);
        let private = ask(&proxy, http, &Ask::new("GET", "/v2/team/a/manifests/x"));
        private.is_refusal(401, "UNAUTHORIZED");
        assert!(
            private
                .one("www-authenticate")
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
        refused.is_refusal(401, "UNAUTHORIZED");
        let challenge = refused.one("www-authenticate");
        assert!(
            challenge.contains("error=\"insufficient_scope\""),
            "{challenge}"
        );
    }
    // A token is for what it names.
    let other = with(&proxy, &nobodys, "GET", "/v2/public/b/manifests/x");
    other.is_refusal(401, "UNAUTHORIZED");
    assert_eq!(registry.requests().len(), before);
}

#[test]
fn a_token_is_worth_its_scope_and_todays_rights() {
    let registry = Registry::obliging();
    let proxy = start(&registry);
    let scopes = ["repository:team/a:pull,push", "repository:home/bot/x:push"];
    let bots = token(&proxy, "bot", &scopes);
    assert_eq!(
        with(&proxy, &bots, "PUT", "/v2/team/a/manifests/x").status,
        200
    );
    let beyond = with(&proxy, &bots, "PUT", "/v2/team/b/manifests/x");
    beyond.is_refusal(401, "UNAUTHORIZED");
    // Where the user has no right no token would help, and the words do not tell what is there.
    let alices = token(&proxy, "alice", &scopes);
    let told = ["team/a", "team/none"].map(|name| {
        let refused = with(&proxy, &alices, "GET", &format!("/v2/{name}/manifests/x"));
        refused.is_refusal(403, "DENIED");
        refused.without_id()
    });
    assert_eq!(told[0], told[1]);
    proxy.configure(&registry, &with_grants(PUBLIC));
    proxy.reload().unwrap();
    let refused = with(&proxy, &bots, "PUT", "/v2/team/a/manifests/x");
    refused.is_refusal(403, "DENIED");
}

#[test]
fn a_mount_needs_its_source_in_the_rights_and_in_the_scope() {
    let registry = Registry::obliging();
    let proxy = start(&registry);
    let mount = |token: &str, from: &str| {
        let target = format!("/v2/team/a/blobs/uploads/?mount={DIGEST}&from={from}");
        assert_eq!(with(&proxy, token, "POST", &target).status, 200);
        let request = registry.requests().pop().unwrap();
        request.target.contains("mount=")
    };
    let both = ["repository:team/a:pull,push", "repository:team/b:pull"];
    let both = token(&proxy, "bot", &both);
    assert!(mount(&both, "team/b"));
    assert!(!mount(&both, "team/c"), "not in the scope");
    let beyond = [
        "repository:team/a:pull,push",
        "repository:home/alice/x:pull",
    ];
    let beyond = token(&proxy, "bot", &beyond);
    assert!(!mount(&beyond, "home/alice/x"), "not in the rights");
}

#[test]
fn anonymous_grants_need_tokens() {
    let registry = Registry::obliging();
    let dir = directory();
    let basic = config(TOP, PUBLIC);
    let refused = Proxy::try_start(dir, &registry.url(), &basic);
    let problems = refused.err().expect("a refusal").to_string();
    assert!(problems.contains("mode = \"token\""), "{problems}");
}
