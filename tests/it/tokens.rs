//! Mode token: the gate's own token service, asked as clients ask it, and what its tokens are worth.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::Value;
use tidegate::config as configuration;
use tidegate::net::addr::PeerAddr;
use tidegate::registry::Scope;
use tidegate::snapshot::{BuildMode, Snapshot};

use crate::support::proxy::TestConfig;
use crate::support::proxy::{ALICE, directory};
use crate::support::{
    Client, DIGEST, HttpVersion, OK, Proxy, Registry, TestRequest, TestResponse, config, exchange,
};

const TOKEN: &str =
    "auth = { mode = \"token\", htpasswd = \"htpasswd\", realm = \"Registry realm\" }";
const STATE: &str = "[state]\ndir = \"{dir}/state\"\n";
const MANIFEST: &str = "/v2/team/app/manifests/latest";
const SECRET: &str = "q8vX0m3nT5kL7pR9sW1yZ2bC4dF6gH8jK0lM2nP4qS6=";
const OTHER: &str = "0123456789abcdef0123456789abcdef";

fn token_config(auth: &str) -> TestConfig {
    config(STATE, "").lines("auth", auth)
}

fn gate(registry: &Registry) -> Proxy {
    Proxy::start(registry, token_config(TOKEN))
}

/// With a secret in a file.
fn with_secret(text: &str) -> (tempfile::TempDir, TestConfig) {
    let dir = directory();
    std::fs::write(dir.path().join("secret"), text).unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.path().join("secret"), private).unwrap();
    (dir, token_keys("secret = \"secret\""))
}

/// Mode "token" with further keys.
fn token_keys(keys: &str) -> TestConfig {
    config(STATE, "").auth(&format!(
        "mode = \"token\", htpasswd = \"htpasswd\", {keys}"
    ))
}

fn with(token: &str, method: &str, target: &str) -> TestRequest {
    TestRequest::new(method, target).header("authorization", format!("Bearer {token}"))
}

fn endpoint(scope: &str) -> String {
    format!("/v2/_token?service=localhost&scope={scope}")
}

/// The token in an answer of the endpoint, which must be a good one.
#[track_caller]
fn token_of(answer: &TestResponse) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(
        answer.header("content-length"),
        answer.body.len().to_string()
    );
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said["token"], said["access_token"]);
    assert_eq!(said["expires_in"], 900);
    let issued = said["issued_at"].as_str().unwrap();
    assert!(issued.ends_with('Z') && issued.contains('T'), "{issued}");
    said["token"].as_str().unwrap().to_owned()
}

/// Alice's token for a scope.
#[track_caller]
fn alices(proxy: &Proxy, scope: &str) -> String {
    token_of(&exchange(
        proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", &endpoint(scope)),
    ))
}

#[track_caller]
fn challenge(answer: &TestResponse) -> &str {
    answer.assert_rejection(401, "UNAUTHORIZED");
    answer.header("www-authenticate")
}

#[test]
fn docker_pings_fetches_a_token_and_uses_it() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    for http in HttpVersion::BOTH {
        let ping = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        let realm = "Bearer realm=\"https://localhost/v2/_token\",service=\"localhost\"";
        assert_eq!(challenge(&ping), realm);
        // docker login: no scope, and then the ping again.
        let login =
            "/v2/_token?account=alice&client_id=docker&offline_token=true&service=localhost";
        let token = token_of(&exchange(&proxy, http, &TestRequest::alice("GET", login)));
        assert_eq!(
            exchange(&proxy, http, &with(&token, "GET", "/v2/")).status,
            200
        );
        // docker push
        let scope = endpoint("repository%3Ateam%2Fapp%3Apull%2Cpush");
        let token = token_of(&exchange(&proxy, http, &TestRequest::alice("GET", &scope)));
        for (method, target) in [
            ("HEAD", MANIFEST),
            ("POST", "/v2/team/app/blobs/uploads/"),
            ("PUT", MANIFEST),
        ] {
            let answer = exchange(&proxy, http, &with(&token, method, target));
            assert_eq!(answer.status, 200, "{method}");
        }
    }
    // The registry behind has no authentication, and learns nothing of the gate's.
    let seen = registry.requests();
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(|seen| seen.all("authorization").is_empty()));
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.matches("user=alice").count(), 12, "{log}");
    assert!(!log.contains("scope="), "{log}");
}

#[test]
fn containerd_asks_by_form_after_the_first_401() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    for http in HttpVersion::BOTH {
        let refused = exchange(
            &proxy,
            http,
            &TestRequest::new("POST", "/v2/team/app/blobs/uploads/"),
        );
        let scope = "scope=\"repository:team/app:pull,push\"";
        assert!(challenge(&refused).ends_with(scope), "{refused:?}");
        let form = "client_id=containerd-client&grant_type=password&password=pw&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&service=localhost&username=alice";
        let post = |body: &str| {
            TestRequest::new("POST", "/v2/_token")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body)
        };
        let token = token_of(&exchange(&proxy, http, &post(form)));
        assert_eq!(
            exchange(&proxy, http, &with(&token, "PUT", MANIFEST)).status,
            200
        );
        // What it then tries by GET.
        let wrong = exchange(&proxy, http, &post(&form.replace("=pw", "=no")));
        assert_eq!(challenge(&wrong), "Basic realm=\"Registry realm\"");
        let refresh = "grant_type=refresh_token&refresh_token=x&service=localhost";
        for body in [refresh, "", "grant_type=password&username=%zz"] {
            exchange(&proxy, http, &post(body)).assert_rejection(400, "UNSUPPORTED");
        }
        exchange(&proxy, http, &post(&"x".repeat(30_000))).assert_rejection(413, "SIZE_INVALID");
    }
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn each_operation_names_its_scope_and_a_ping_none() {
    let proxy = gate(&Registry::accepting_all());
    let mount = format!("/v2/a/blobs/uploads/?mount={DIGEST}&from=b");
    for (method, target, scope) in [
        ("GET", "/v2/", ""),
        ("GET", "/v2/_catalog", ",scope=\"registry:catalog:*\""),
        ("GET", "/v2/a/tags/list", ",scope=\"repository:a:pull\""),
        (
            "PUT",
            "/v2/a/manifests/x",
            ",scope=\"repository:a:pull,push\"",
        ),
        (
            "DELETE",
            "/v2/a/manifests/x",
            ",scope=\"repository:a:delete\"",
        ),
        (
            "POST",
            &mount,
            ",scope=\"repository:a:pull,push repository:b:pull\"",
        ),
        ("GET", "/v2/NO", ""),
    ] {
        for http in HttpVersion::BOTH {
            let answer = exchange(&proxy, http, &TestRequest::new(method, target));
            let said = challenge(&answer);
            let rest = said
                .strip_prefix("Bearer realm=\"https://localhost/v2/_token\",service=\"localhost\"");
            assert_eq!(rest, Some(scope), "{method} {target}");
        }
    }
}

#[test]
fn the_realm_is_where_the_client_came_to_or_the_external_url() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let answer = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/v2/").host("localhost:8443"),
    );
    assert!(
        challenge(&answer)
            .contains("\"https://localhost:8443/v2/_token\",service=\"localhost:8443\"")
    );
    let external = token_config(TOKEN).lines(
        "hosts",
        "hosts = [\"localhost\"]\nexternal_url = \"https://registry.example.com\"",
    );
    let proxy = Proxy::start(&registry, &external);
    let answer = exchange(&proxy, HttpVersion::Http1, &TestRequest::new("GET", "/v2/"));
    assert!(challenge(&answer).contains("\"https://registry.example.com/v2/_token\""));
}

#[test]
fn nobody_in_particular_gets_a_token_too_and_it_opens_nothing() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let scope = endpoint("repository:team/app:pull");
    let nobody = [
        TestRequest::new("GET", &scope),
        TestRequest::new("GET", &scope).header("authorization", "Basic Og=="),
    ];
    for http in HttpVersion::BOTH {
        for request in &nobody {
            let token = token_of(&exchange(&proxy, http, request));
            let refused = exchange(&proxy, http, &with(&token, "GET", MANIFEST));
            assert!(challenge(&refused).ends_with(",error=\"insufficient_scope\""));
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_wrong_password_is_refused_at_the_endpoint() {
    let proxy = gate(&Registry::accepting_all());
    for credentials in [&b"alice:no"[..], b"bob:pw", b"nocolon"] {
        for http in HttpVersion::BOTH {
            let request = TestRequest::new("GET", "/v2/_token").basic_auth(credentials);
            let answer = exchange(&proxy, http, &request);
            assert_eq!(challenge(&answer), "Basic realm=\"Registry realm\"");
        }
    }
    let twice = TestRequest::alice("GET", "/v2/_token").basic_auth(b"alice:pw");
    exchange(&proxy, HttpVersion::Http1, &twice).assert_rejection(400, "UNAUTHORIZED");
}

#[test]
fn a_token_begets_no_token() {
    let proxy = gate(&Registry::accepting_all());
    let token = alices(&proxy, "repository:a:pull");
    let answer = exchange(
        &proxy,
        HttpVersion::Http1,
        &with(&token, "GET", "/v2/_token"),
    );
    assert_eq!(challenge(&answer), "Basic realm=\"Registry realm\"");
}

#[test]
fn the_endpoint_knows_get_and_post() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice(method, "/v2/_token"),
        );
        answer.assert_rejection(405, "UNSUPPORTED");
        assert_eq!(answer.header("allow"), "GET, POST");
    }
    // Its neighbours belong to the registry's grammar, as everywhere.
    for target in ["/v2/_token/", "/v2/a/_token"] {
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", target),
        )
        .assert_rejection(404, "UNSUPPORTED");
    }
    assert!(registry.requests().is_empty());
    // In mode basic it is no endpoint.
    let proxy = Proxy::with_defaults(&registry);
    exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/_token"),
    )
    .assert_rejection(404, "UNSUPPORTED");
}

#[test]
fn a_password_in_front_of_every_request_is_taken_as_ever() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    for http in HttpVersion::BOTH {
        assert_eq!(
            exchange(&proxy, http, &TestRequest::alice("GET", "/v2/")).status,
            200
        );
        assert_eq!(
            exchange(&proxy, http, &TestRequest::alice("PUT", MANIFEST)).status,
            200
        );
        let wrong = TestRequest::new("GET", "/v2/").basic_auth(b"alice:no");
        let answer = exchange(&proxy, http, &wrong);
        assert!(!challenge(&answer).contains("error="), "{answer:?}");
    }
}

#[test]
fn an_empty_user_is_nobody_and_is_asked_for_a_token() {
    let proxy = gate(&Registry::accepting_all());
    for target in ["/v2/", MANIFEST] {
        let empty = TestRequest::new("GET", target).header("authorization", "Basic Og==");
        let none = exchange(&proxy, HttpVersion::Http1, &TestRequest::new("GET", target));
        let answer = exchange(&proxy, HttpVersion::Http1, &empty);
        assert!(challenge(&answer).starts_with("Bearer realm="));
        assert_eq!(answer.without_request_id(), none.without_request_id());
    }
}

#[test]
fn a_route_for_everything_has_its_endpoint_at_the_top() {
    let registry = Registry::accepting_all();
    let everything = token_config(TOKEN).lines("path", "path = \"/\"");
    let proxy = Proxy::start(&registry, &everything);
    let refused = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", MANIFEST),
    );
    assert!(challenge(&refused).contains("\"https://localhost/_token\""));
    let scope = "/_token?scope=repository:team/app:pull";
    let token = token_of(&exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", scope),
    ));
    assert_eq!(
        exchange(&proxy, HttpVersion::Http1, &with(&token, "GET", MANIFEST)).status,
        200
    );
    // A scope says nothing of paths that are no registry's; a password opens them.
    let beside = exchange(&proxy, HttpVersion::Http1, &with(&token, "GET", "/stats"));
    assert_eq!(beside.status, 401);
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", "/stats")
        )
        .status,
        200
    );
}

#[test]
fn what_is_no_token_of_ours_is_invalid() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let good = alices(&proxy, "repository:team/app:pull");
    let (said, mac) = good.split_once('.').unwrap();
    let mut flipped = good.clone().into_bytes();
    flipped[40] = if flipped[40] == b'A' { b'B' } else { b'A' };
    let bad = [
        "Bearer ".to_owned(),
        "Bearer x".to_owned(),
        format!("Bearer {said}"),
        format!("Bearer {said}."),
        format!("Bearer {said}.{said}"),
        format!("Bearer {mac}.{said}"),
        format!("Bearer {good}="),
        format!("Bearer {}", String::from_utf8(flipped).unwrap()),
        format!("Bearer {}", "A".repeat(20_000)),
        format!("Digest {good}"),
        good.clone(),
    ];
    let scope = ",scope=\"repository:team/app:pull\",error=\"invalid_token\"";
    for field in bad {
        for http in HttpVersion::BOTH {
            let request = TestRequest::new("GET", MANIFEST).header("authorization", &field);
            let answer = exchange(&proxy, http, &request);
            assert!(challenge(&answer).ends_with(scope), "{field}");
        }
    }
    assert!(registry.requests().is_empty());
    let spaced =
        TestRequest::new("GET", MANIFEST).header("authorization", format!("bEARER  {good}"));
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &spaced).status, 200);
}

#[test]
fn a_token_is_good_for_its_scope_alone() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let two = "/v2/_token?scope=repository:a:pull&scope=repository(plugin):b:pull,push+registry:catalog:*";
    let token = token_of(&exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", two),
    ));
    let mut client = Client::connect(&proxy);
    for (method, target, allowed) in [
        ("GET", "/v2/", true),
        ("GET", "/v2/a/tags/list", true),
        ("GET", "/v2/a/tags/list/", true),
        ("PUT", "/v2/a/manifests/x", false),
        ("PUT", "/v2/b/manifests/x", true),
        ("GET", "/v2/b/manifests/x", true),
        ("DELETE", "/v2/b/manifests/x", false),
        ("GET", "/v2/b/b/manifests/x", false),
        ("GET", "/v2/_catalog", true),
    ] {
        let answer = client.exchange(&with(&token, method, target));
        if allowed {
            assert!(
                matches!(answer.status, 200 | 301),
                "{method} {target}: {answer:?}"
            );
        } else {
            let said = challenge(&answer);
            assert!(said.contains(",scope=\"repository:"), "{said}");
            assert!(said.ends_with(",error=\"insufficient_scope\""), "{said}");
        }
    }
    assert_eq!(registry.requests().len(), 5);
    let none = alices(&proxy, "repository:UPPER:pull");
    assert_eq!(client.exchange(&with(&none, "GET", "/v2/")).status, 200);
    challenge(&client.exchange(&with(&none, "GET", "/v2/_catalog")));
}

#[test]
fn a_mount_whose_token_lacks_its_source_asks_for_another_token() {
    let registry = Registry::responding("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    let proxy = gate(&registry);
    let mount = format!("/v2/a/blobs/uploads/?mount={DIGEST}&from=secret%2Fb");
    let alone = alices(&proxy, "repository:a:pull,push");
    for http in HttpVersion::BOTH {
        // As clients do it: the challenge names both scopes, and the token that it leads to mounts.
        let before = registry.requests().len();
        let refused = exchange(&proxy, http, &with(&alone, "POST", &mount));
        let said = challenge(&refused);
        let scope = "repository:a:pull,push repository:secret/b:pull";
        assert!(said.contains(&format!(",scope=\"{scope}\"")), "{said}");
        assert!(said.ends_with(",error=\"insufficient_scope\""), "{said}");
        assert_eq!(registry.requests().len(), before);
        let both = alices(&proxy, &scope.replace(' ', "%20"));
        assert_eq!(
            exchange(&proxy, http, &with(&both, "POST", &mount)).status,
            201
        );
        assert_eq!(registry.requests().pop().unwrap().target, mount);
        // A source that the registry chooses is in no scope.
        let any = format!("/v2/a/blobs/uploads/?mount={DIGEST}");
        assert_eq!(
            exchange(&proxy, http, &with(&both, "POST", &any)).status,
            201
        );
        let sent = registry.requests().pop().unwrap().target;
        assert_eq!(sent, "/v2/a/blobs/uploads/");
    }
}

#[test]
fn a_read_of_an_invalid_reference_asks_for_the_right_to_read() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let invalid = "/v2/a/manifests/.INVALID";
    let said = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", invalid),
    );
    assert!(challenge(&said).ends_with(",scope=\"repository:a:pull\""));
    let other = alices(&proxy, "repository:b:pull");
    let said = exchange(&proxy, HttpVersion::Http1, &with(&other, "GET", invalid));
    assert!(challenge(&said).contains("scope=\"repository:a:pull\""));
    let own = alices(&proxy, "repository:a:pull");
    let found = exchange(&proxy, HttpVersion::Http1, &with(&own, "GET", invalid));
    found.assert_rejection(404, "MANIFEST_UNKNOWN");
    assert!(registry.requests().is_empty());
}

#[test]
fn a_token_of_another_route_or_site_is_worth_nothing() {
    let registry = Registry::accepting_all();
    let other = format!(
        "[[site.route]]\npath = \"/v2/other/\"\nupstream = \"{{upstream}}\"\n{TOKEN}\n\
         [[site]]\nhosts = [\"127.0.0.1\"]\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"{{upstream}}\"\n{TOKEN}\n"
    );
    let proxy = Proxy::start(&registry, config(STATE, &other).lines("auth", TOKEN));
    let scope = "?scope=repository:other/x:pull";
    let here = token_of(&exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", &format!("/v2/_token{scope}")),
    ));
    let there = token_of(&exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", &format!("/v2/other/_token{scope}")),
    ));
    let tags = "/v2/other/x/tags/list";
    assert_eq!(
        exchange(&proxy, HttpVersion::Http1, &with(&there, "GET", tags)).status,
        200
    );
    let refused = exchange(&proxy, HttpVersion::Http1, &with(&here, "GET", tags));
    let said = challenge(&refused);
    assert!(
        said.contains("/v2/other/_token") && said.contains("invalid_token"),
        "{said}"
    );
    challenge(&exchange(
        &proxy,
        HttpVersion::Http1,
        &with(&there, "GET", "/v2/"),
    ));
    let elsewhere = with(&here, "GET", "/v2/").host("127.0.0.1");
    assert!(challenge(&exchange(&proxy, HttpVersion::Http1, &elsewhere)).contains("invalid_token"));
    assert_eq!(
        exchange(&proxy, HttpVersion::Http1, &with(&here, "GET", "/v2/")).status,
        200
    );
}

#[test]
fn a_changed_line_ends_the_tokens_of_that_user_at_the_reload() {
    let registry = Registry::accepting_all();
    let proxy = gate(&registry);
    let bob = format!("bob:{}\n", bcrypt::hash("pw", 4).unwrap());
    proxy.write("htpasswd", format!("{ALICE}{bob}"));
    proxy.reload().unwrap();
    let token = alices(&proxy, "repository:team/app:pull");
    let bobs = TestRequest::new("GET", &endpoint("repository:team/app:pull")).basic_auth(b"bob:pw");
    let bobs = token_of(&exchange(&proxy, HttpVersion::Http1, &bobs));
    let mut client = Client::connect(&proxy);
    let statuses = |client: &mut Client| {
        [&token, &bobs].map(|token| client.exchange(&with(token, "GET", MANIFEST)).status)
    };
    assert_eq!(statuses(&mut client), [200, 200]);
    // The same password, another line.
    let again = format!("alice:{}\n", bcrypt::hash("pw", 4).unwrap());
    proxy.write("htpasswd", format!("{again}{bob}"));
    proxy.reload().unwrap();
    assert_eq!(statuses(&mut client), [401, 200]);
    proxy.write("htpasswd", again);
    proxy.reload().unwrap();
    assert_eq!(statuses(&mut client), [401, 401]);
    assert_eq!(
        client.exchange(&TestRequest::alice("GET", MANIFEST)).status,
        200
    );
}

#[test]
fn tokens_outlive_a_restart_and_the_secret_is_nobody_elses() {
    let registry = Registry::accepting_all();
    let state = tempfile::tempdir().unwrap();
    let kept = format!("[state]\ndir = \"{}/new\"\n", state.path().display());
    let configured = config(&kept, "").lines("auth", TOKEN);
    let first = Proxy::start(&registry, &configured);
    let token = alices(&first, "repository:team/app:pull");
    let file = state.path().join("new/token-secret");
    let secret = std::fs::read_to_string(&file).unwrap();
    assert_eq!(Base64::decode_vec(secret.trim_end()).unwrap().len(), 32);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    drop(first);
    let second = Proxy::start(&registry, &configured);
    for http in HttpVersion::BOTH {
        assert_eq!(
            exchange(&second, http, &with(&token, "GET", MANIFEST)).status,
            200
        );
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), secret);
    drop(second);
    std::fs::remove_file(&file).unwrap();
    let third = Proxy::start(&registry, &configured);
    challenge(&exchange(
        &third,
        HttpVersion::Http1,
        &with(&token, "GET", MANIFEST),
    ));
}

#[test]
fn a_secret_is_changed_in_two_steps_and_no_token_is_lost() {
    let registry = Registry::accepting_all();
    let (dir, configured) = with_secret(SECRET);
    let proxy = Proxy::start_in(dir, &registry.url(), &configured);
    let status =
        |token: &str| exchange(&proxy, HttpVersion::Http2, &with(token, "GET", MANIFEST)).status;
    let old = alices(&proxy, "repository:team/app:pull");
    proxy.write("secret", format!("{OTHER}\n{SECRET}\n"));
    proxy.reload().unwrap();
    let new = alices(&proxy, "repository:team/app:pull");
    assert_eq!([status(&old), status(&new)], [200, 200]);
    proxy.write("secret", OTHER);
    proxy.reload().unwrap();
    assert_eq!([status(&old), status(&new)], [401, 200]);
    // A bad one changes nothing.
    proxy.write("secret", "hunter2");
    let problems = proxy.reload().unwrap_err().to_string();
    assert!(problems.contains("shorter than 32"), "{problems}");
    assert!(!problems.contains("hunter2"), "{problems}");
    assert_eq!(status(&new), 200);
    assert!(!proxy.path("state").exists());
}

/// A token as the gate gave it out some time ago, made with its configuration and its secret.
fn given_out(proxy: &Proxy, scope: &str, ago: Duration) -> String {
    let (config, mut problems) = configuration::load(&proxy.path("proxy.toml"));
    let snapshot = Snapshot::build(&config.unwrap(), None, BuildMode::Check, &mut problems);
    let snapshot = snapshot.unwrap_or_else(|| panic!("{problems}"));
    let route = snapshot.service.sites.find("localhost").unwrap();
    let service = route
        .route("/v2/")
        .unwrap()
        .authenticator
        .token_service("/v2/_token");
    let service = service.unwrap();
    let mut headers = HeaderMap::new();
    let login = format!("Basic {}", Base64::encode_string(b"alice:pw"));
    headers.insert(AUTHORIZATION, login.parse().unwrap());
    let client = PeerAddr::new(SocketAddr::from(([127, 0, 0, 1], 1))).client();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let identity = runtime
        .block_on(service.authenticate(&headers, client))
        .unwrap();
    let now = SystemTime::now() - ago;
    service
        .issue(&identity, &Scope::parse([scope]), now)
        .unwrap()
        .token
}

#[test]
fn a_token_that_is_over_is_invalid_and_a_fresh_one_works() {
    let registry = Registry::accepting_all();
    let (dir, _) = with_secret(SECRET);
    let short = token_keys("lifetime = \"1m\", secret = \"secret\"");
    let proxy = Proxy::start_in(dir, &registry.url(), &short);
    let scope = "repository:team/app:pull";
    let ago = |seconds| given_out(&proxy, scope, Duration::from_secs(seconds));
    // A minute of life and one of skew; what is between is for a slow machine.
    for (seconds, is_good) in [(0, true), (90, true), (121, false), (86_400, false)] {
        let token = ago(seconds);
        for http in HttpVersion::BOTH {
            let answer = exchange(&proxy, http, &with(&token, "GET", MANIFEST));
            if is_good {
                assert_eq!(answer.status, 200, "{seconds} s: {answer:?}");
            } else {
                let words = format!(",scope=\"{scope}\",error=\"invalid_token\"");
                assert!(challenge(&answer).ends_with(&words), "{seconds} s");
            }
        }
    }
    // The client asks again where the challenge sends it.
    let answer = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", &endpoint(scope)),
    );
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    let fresh = said["token"].as_str().unwrap();
    assert_eq!(said["expires_in"], 60);
    assert_eq!(
        exchange(&proxy, HttpVersion::Http2, &with(fresh, "GET", MANIFEST)).status,
        200
    );
}

#[test]
fn what_makes_no_sense_is_refused_at_the_start() {
    let started = |text: TestConfig, secret: &str| {
        let (dir, _) = with_secret(secret);
        Proxy::try_start(dir, "http://127.0.0.1:1", &text)
            .map(|_| ())
            .map_err(|problems| problems.to_string())
    };
    let named = token_keys("secret = \"secret\"");
    assert_eq!(started(named.clone(), SECRET), Ok(()));
    for (text, secret, words) in [
        (named.clone(), "short", "shorter than 32"),
        (named.clone(), "", "0 lines"),
        (
            token_keys("secret = \"none\""),
            SECRET,
            "cannot read the token secret",
        ),
        (
            config(STATE, "")
                .auth("mode = \"basic\", htpasswd = \"htpasswd\", secret = \"secret\""),
            SECRET,
            "without mode = \"token\"",
        ),
        (
            token_config("auth = { mode = \"none\", lifetime = \"5m\" }"),
            SECRET,
            "without mode = \"token\"",
        ),
        (
            token_keys("lifetime = \"5s\", secret = \"secret\""),
            SECRET,
            "lifetime is out of range",
        ),
        (
            named.after("path", "registry = false"),
            SECRET,
            "no registry",
        ),
    ] {
        let problems = started(text, secret).unwrap_err();
        assert!(problems.contains(words), "{words} in {problems}");
    }
}

#[test]
fn a_life_of_its_own_is_told_to_the_client() {
    let registry = Registry::responding(OK);
    let proxy = Proxy::start(&registry, token_keys("lifetime = \"1h\""));
    let answer = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/_token"),
    );
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said["expires_in"], 3600);
}
