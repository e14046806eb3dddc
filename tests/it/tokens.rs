//! Mode token: the token endpoint of the proxy, with the requests of real clients, and the requests that its tokens
//! authorize.

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

fn start(registry: &Registry) -> Proxy {
    Proxy::start(registry, token_config(TOKEN))
}

/// A directory and a configuration with `text` as the content of the secret file.
fn with_secret(text: &str) -> (tempfile::TempDir, TestConfig) {
    let dir = directory();
    std::fs::write(dir.path().join("secret"), text).unwrap();
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(dir.path().join("secret"), private).unwrap();
    (dir, token_keys("secret = \"secret\""))
}

/// A configuration in mode "token" with additional keys of `auth`.
fn token_keys(keys: &str) -> TestConfig {
    config(STATE, "").auth(&format!(
        "mode = \"token\", htpasswd = \"htpasswd\", {keys}"
    ))
}

fn with_token(token: &str, method: &str, target: &str) -> TestRequest {
    TestRequest::new(method, target).header("authorization", format!("Bearer {token}"))
}

fn token_target(scope: &str) -> String {
    format!("/v2/_token?service=localhost&scope={scope}")
}

/// Asserts that a response of the token endpoint is complete and correct, and returns its token.
#[track_caller]
fn token_of(response: &TestResponse) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(
        response.header("content-length"),
        response.body.len().to_string()
    );
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(body["token"], body["access_token"]);
    assert_eq!(body["expires_in"], 900);
    let issued = body["issued_at"].as_str().unwrap();
    assert!(issued.ends_with('Z') && issued.contains('T'), "{issued}");
    body["token"].as_str().unwrap().to_owned()
}

/// Requests a token for `scope` as alice.
#[track_caller]
fn token_for_alice(proxy: &Proxy, scope: &str) -> String {
    token_of(&exchange(
        proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", &token_target(scope)),
    ))
}

#[track_caller]
fn challenge(response: &TestResponse) -> &str {
    response.assert_rejection(401, "UNAUTHORIZED");
    response.header("www-authenticate")
}

#[test]
fn docker_pings_fetches_a_token_and_uses_it() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for http in HttpVersion::BOTH {
        let ping = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        let realm = "Bearer realm=\"https://localhost/v2/_token\",service=\"localhost\"";
        assert_eq!(challenge(&ping), realm);
        // `docker login` requests a token without a scope, and sends the ping again.
        let login =
            "/v2/_token?account=alice&client_id=docker&offline_token=true&service=localhost";
        let token = token_of(&exchange(&proxy, http, &TestRequest::alice("GET", login)));
        assert_eq!(
            exchange(&proxy, http, &with_token(&token, "GET", "/v2/")).status,
            200
        );
        // `docker push` requests a token with a scope.
        let scope = token_target("repository%3Ateam%2Fapp%3Apull%2Cpush");
        let token = token_of(&exchange(&proxy, http, &TestRequest::alice("GET", &scope)));
        for (method, target) in [
            ("HEAD", MANIFEST),
            ("POST", "/v2/team/app/blobs/uploads/"),
            ("PUT", MANIFEST),
        ] {
            let response = exchange(&proxy, http, &with_token(&token, method, target));
            assert_eq!(response.status, 200, "{method}");
        }
    }
    // The proxy does not forward the `Authorization` field to the registry.
    let seen = registry.requests();
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(|seen| seen.all("authorization").is_empty()));
    let log = proxy.stop_and_read_access_log();
    assert_eq!(log.matches("user=alice").count(), 12, "{log}");
    assert!(!log.contains("scope="), "{log}");
}

#[test]
fn containerd_requests_a_token_by_form_after_the_first_401() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
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
            exchange(&proxy, http, &with_token(&token, "PUT", MANIFEST)).status,
            200
        );
        // After this 401, containerd sends a GET request.
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
fn the_challenge_names_the_scope_of_the_operation_and_none_for_a_ping() {
    let proxy = start(&Registry::accepting_all());
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
            let response = exchange(&proxy, http, &TestRequest::new(method, target));
            let value = challenge(&response);
            let rest = value
                .strip_prefix("Bearer realm=\"https://localhost/v2/_token\",service=\"localhost\"");
            assert_eq!(rest, Some(scope), "{method} {target}");
        }
    }
}

#[test]
fn the_realm_has_the_host_of_the_request_or_the_external_url() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", "/v2/").host("localhost:8443"),
    );
    assert!(
        challenge(&response)
            .contains("\"https://localhost:8443/v2/_token\",service=\"localhost:8443\"")
    );
    let external = token_config(TOKEN).lines(
        "hosts",
        "hosts = [\"localhost\"]\nexternal_url = \"https://registry.example.com\"",
    );
    let proxy = Proxy::start(&registry, &external);
    let response = exchange(&proxy, HttpVersion::Http1, &TestRequest::new("GET", "/v2/"));
    assert!(challenge(&response).contains("\"https://registry.example.com/v2/_token\""));
}

#[test]
fn an_anonymous_client_gets_a_token_that_grants_nothing() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let scope = token_target("repository:team/app:pull");
    let anonymous = [
        TestRequest::new("GET", &scope),
        TestRequest::new("GET", &scope).header("authorization", "Basic Og=="),
    ];
    for http in HttpVersion::BOTH {
        for request in &anonymous {
            let token = token_of(&exchange(&proxy, http, request));
            let refused = exchange(&proxy, http, &with_token(&token, "GET", MANIFEST));
            assert!(challenge(&refused).ends_with(",error=\"insufficient_scope\""));
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_wrong_password_gets_401_at_the_token_endpoint() {
    let proxy = start(&Registry::accepting_all());
    for credentials in [&b"alice:no"[..], b"bob:pw", b"nocolon"] {
        for http in HttpVersion::BOTH {
            let request = TestRequest::new("GET", "/v2/_token").basic_auth(credentials);
            let response = exchange(&proxy, http, &request);
            assert_eq!(challenge(&response), "Basic realm=\"Registry realm\"");
        }
    }
    let twice = TestRequest::alice("GET", "/v2/_token").basic_auth(b"alice:pw");
    exchange(&proxy, HttpVersion::Http1, &twice).assert_rejection(400, "UNAUTHORIZED");
}

#[test]
fn a_token_is_not_accepted_at_the_token_endpoint() {
    let proxy = start(&Registry::accepting_all());
    let token = token_for_alice(&proxy, "repository:a:pull");
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &with_token(&token, "GET", "/v2/_token"),
    );
    assert_eq!(challenge(&response), "Basic realm=\"Registry realm\"");
}

#[test]
fn the_token_endpoint_accepts_only_get_and_post() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
        let response = exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice(method, "/v2/_token"),
        );
        response.assert_rejection(405, "UNSUPPORTED");
        assert_eq!(response.header("allow"), "GET, POST");
    }
    // Similar paths are subject to the grammar of the registry API.
    for target in ["/v2/_token/", "/v2/a/_token"] {
        exchange(
            &proxy,
            HttpVersion::Http1,
            &TestRequest::alice("GET", target),
        )
        .assert_rejection(404, "UNSUPPORTED");
    }
    assert!(registry.requests().is_empty());
    // In mode basic there is no token endpoint.
    let proxy = Proxy::with_defaults(&registry);
    exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/_token"),
    )
    .assert_rejection(404, "UNSUPPORTED");
}

#[test]
fn a_password_in_every_request_is_accepted_as_well() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
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
        let response = exchange(&proxy, http, &wrong);
        assert!(!challenge(&response).contains("error="), "{response:?}");
    }
}

#[test]
fn an_empty_user_counts_as_anonymous() {
    let proxy = start(&Registry::accepting_all());
    for target in ["/v2/", MANIFEST] {
        let empty = TestRequest::new("GET", target).header("authorization", "Basic Og==");
        let none = exchange(&proxy, HttpVersion::Http1, &TestRequest::new("GET", target));
        let response = exchange(&proxy, HttpVersion::Http1, &empty);
        assert!(challenge(&response).starts_with("Bearer realm="));
        assert_eq!(response.without_request_id(), none.without_request_id());
    }
}

#[test]
fn the_token_endpoint_of_a_route_for_all_paths_is_at_the_root() {
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
        exchange(
            &proxy,
            HttpVersion::Http1,
            &with_token(&token, "GET", MANIFEST)
        )
        .status,
        200
    );
    // No scope covers a path outside of the registry API; it requires a password.
    let outside = exchange(
        &proxy,
        HttpVersion::Http1,
        &with_token(&token, "GET", "/stats"),
    );
    assert_eq!(outside.status, 401);
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
fn a_malformed_or_forged_token_gets_401_with_invalid_token() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let good = token_for_alice(&proxy, "repository:team/app:pull");
    let (claims, mac) = good.split_once('.').unwrap();
    let mut flipped = good.clone().into_bytes();
    flipped[40] = if flipped[40] == b'A' { b'B' } else { b'A' };
    let bad = [
        "Bearer ".to_owned(),
        "Bearer x".to_owned(),
        format!("Bearer {claims}"),
        format!("Bearer {claims}."),
        format!("Bearer {claims}.{claims}"),
        format!("Bearer {mac}.{claims}"),
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
            let response = exchange(&proxy, http, &request);
            assert!(challenge(&response).ends_with(scope), "{field}");
        }
    }
    assert!(registry.requests().is_empty());
    let spaced =
        TestRequest::new("GET", MANIFEST).header("authorization", format!("bEARER  {good}"));
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &spaced).status, 200);
}

#[test]
fn a_token_grants_only_its_scope() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
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
        let response = client.exchange(&with_token(&token, method, target));
        if allowed {
            assert!(
                matches!(response.status, 200 | 301),
                "{method} {target}: {response:?}"
            );
        } else {
            let value = challenge(&response);
            assert!(value.contains(",scope=\"repository:"), "{value}");
            assert!(value.ends_with(",error=\"insufficient_scope\""), "{value}");
        }
    }
    assert_eq!(registry.requests().len(), 5);
    let none = token_for_alice(&proxy, "repository:UPPER:pull");
    assert_eq!(
        client.exchange(&with_token(&none, "GET", "/v2/")).status,
        200
    );
    challenge(&client.exchange(&with_token(&none, "GET", "/v2/_catalog")));
}

#[test]
fn a_mount_without_its_source_in_the_token_gets_a_challenge_with_both_scopes() {
    let registry = Registry::responding("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    let proxy = start(&registry);
    let mount = format!("/v2/a/blobs/uploads/?mount={DIGEST}&from=secret%2Fb");
    let target_only = token_for_alice(&proxy, "repository:a:pull,push");
    for http in HttpVersion::BOTH {
        // The challenge names both scopes. With a token for these scopes the mount succeeds.
        let before = registry.requests().len();
        let refused = exchange(&proxy, http, &with_token(&target_only, "POST", &mount));
        let value = challenge(&refused);
        let scope = "repository:a:pull,push repository:secret/b:pull";
        assert!(value.contains(&format!(",scope=\"{scope}\"")), "{value}");
        assert!(value.ends_with(",error=\"insufficient_scope\""), "{value}");
        assert_eq!(registry.requests().len(), before);
        let both = token_for_alice(&proxy, &scope.replace(' ', "%20"));
        assert_eq!(
            exchange(&proxy, http, &with_token(&both, "POST", &mount)).status,
            201
        );
        assert_eq!(registry.requests().pop().unwrap().target, mount);
        // Without `from`, the registry would choose the source, which no scope can cover: the proxy removes the mount.
        let any = format!("/v2/a/blobs/uploads/?mount={DIGEST}");
        assert_eq!(
            exchange(&proxy, http, &with_token(&both, "POST", &any)).status,
            201
        );
        let forwarded = registry.requests().pop().unwrap().target;
        assert_eq!(forwarded, "/v2/a/blobs/uploads/");
    }
}

#[test]
fn a_read_of_an_invalid_reference_requires_the_right_to_pull() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let invalid = "/v2/a/manifests/.INVALID";
    let refused = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::new("GET", invalid),
    );
    assert!(challenge(&refused).ends_with(",scope=\"repository:a:pull\""));
    let other = token_for_alice(&proxy, "repository:b:pull");
    let refused = exchange(
        &proxy,
        HttpVersion::Http1,
        &with_token(&other, "GET", invalid),
    );
    assert!(challenge(&refused).contains("scope=\"repository:a:pull\""));
    let own = token_for_alice(&proxy, "repository:a:pull");
    let unknown = exchange(
        &proxy,
        HttpVersion::Http1,
        &with_token(&own, "GET", invalid),
    );
    unknown.assert_rejection(404, "MANIFEST_UNKNOWN");
    assert!(registry.requests().is_empty());
}

#[test]
fn a_token_of_another_route_or_site_is_invalid() {
    let registry = Registry::accepting_all();
    let other = format!(
        "[[site.route]]\npath = \"/v2/other/\"\nupstream = \"{{upstream}}\"\n{TOKEN}\n\
         [[site]]\nhosts = [\"127.0.0.1\"]\ntls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"{{upstream}}\"\n{TOKEN}\n"
    );
    let proxy = Proxy::start(&registry, config(STATE, &other).lines("auth", TOKEN));
    let scope = "?scope=repository:other/x:pull";
    let first = token_of(&exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", &format!("/v2/_token{scope}")),
    ));
    let other_route = token_of(&exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", &format!("/v2/other/_token{scope}")),
    ));
    let tags = "/v2/other/x/tags/list";
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &with_token(&other_route, "GET", tags)
        )
        .status,
        200
    );
    let refused = exchange(&proxy, HttpVersion::Http1, &with_token(&first, "GET", tags));
    let value = challenge(&refused);
    assert!(
        value.contains("/v2/other/_token") && value.contains("invalid_token"),
        "{value}"
    );
    challenge(&exchange(
        &proxy,
        HttpVersion::Http1,
        &with_token(&other_route, "GET", "/v2/"),
    ));
    let other_site = with_token(&first, "GET", "/v2/").host("127.0.0.1");
    assert!(
        challenge(&exchange(&proxy, HttpVersion::Http1, &other_site)).contains("invalid_token")
    );
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http1,
            &with_token(&first, "GET", "/v2/")
        )
        .status,
        200
    );
}

#[test]
fn a_changed_password_line_invalidates_the_tokens_of_its_user() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry);
    let bob = format!("bob:{}\n", bcrypt::hash("pw", 4).unwrap());
    proxy.write("htpasswd", format!("{ALICE}{bob}"));
    proxy.reload().unwrap();
    let token = token_for_alice(&proxy, "repository:team/app:pull");
    let bob_request =
        TestRequest::new("GET", &token_target("repository:team/app:pull")).basic_auth(b"bob:pw");
    let bob_token = token_of(&exchange(&proxy, HttpVersion::Http1, &bob_request));
    let mut client = Client::connect(&proxy);
    let statuses = |client: &mut Client| {
        [&token, &bob_token]
            .map(|token| client.exchange(&with_token(token, "GET", MANIFEST)).status)
    };
    assert_eq!(statuses(&mut client), [200, 200]);
    // The new line has a different hash of the same password.
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
fn tokens_remain_valid_after_a_restart_and_the_secret_file_is_private() {
    let registry = Registry::accepting_all();
    let state = tempfile::tempdir().unwrap();
    let kept = format!("[state]\ndir = \"{}/new\"\n", state.path().display());
    let configured = config(&kept, "").lines("auth", TOKEN);
    let first = Proxy::start(&registry, &configured);
    let token = token_for_alice(&first, "repository:team/app:pull");
    let file = state.path().join("new/token-secret");
    let secret = std::fs::read_to_string(&file).unwrap();
    assert_eq!(Base64::decode_vec(secret.trim_end()).unwrap().len(), 32);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    drop(first);
    let second = Proxy::start(&registry, &configured);
    for http in HttpVersion::BOTH {
        assert_eq!(
            exchange(&second, http, &with_token(&token, "GET", MANIFEST)).status,
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
        &with_token(&token, "GET", MANIFEST),
    ));
}

#[test]
fn a_secret_can_be_replaced_without_invalidating_tokens() {
    let registry = Registry::accepting_all();
    let (dir, configured) = with_secret(SECRET);
    let proxy = Proxy::start_in(dir, &registry.url(), &configured);
    let status = |token: &str| {
        exchange(
            &proxy,
            HttpVersion::Http2,
            &with_token(token, "GET", MANIFEST),
        )
        .status
    };
    let old = token_for_alice(&proxy, "repository:team/app:pull");
    proxy.write("secret", format!("{OTHER}\n{SECRET}\n"));
    proxy.reload().unwrap();
    let new = token_for_alice(&proxy, "repository:team/app:pull");
    assert_eq!([status(&old), status(&new)], [200, 200]);
    proxy.write("secret", OTHER);
    proxy.reload().unwrap();
    assert_eq!([status(&old), status(&new)], [401, 200]);
    // A reload with an invalid secret changes nothing.
    proxy.write("secret", "hunter2");
    let problems = proxy.reload().unwrap_err().to_string();
    assert!(problems.contains("shorter than 32"), "{problems}");
    assert!(!problems.contains("hunter2"), "{problems}");
    assert_eq!(status(&new), 200);
    assert!(!proxy.path("state").exists());
}

/// Issues a token with the configuration and the secret of the proxy, as if the proxy had issued it `ago`.
fn token_issued(proxy: &Proxy, scope: &str, ago: Duration) -> String {
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
fn an_expired_token_is_invalid_and_a_new_one_is_accepted() {
    let registry = Registry::accepting_all();
    let (dir, _) = with_secret(SECRET);
    let short = token_keys("lifetime = \"1m\", secret = \"secret\"");
    let proxy = Proxy::start_in(dir, &registry.url(), &short);
    let scope = "repository:team/app:pull";
    let ago = |seconds| token_issued(&proxy, scope, Duration::from_secs(seconds));
    // The lifetime is one minute, and one minute of clock skew is tolerated. The gap between 90 s and 121 s is for slow machines.
    for (seconds, is_good) in [(0, true), (90, true), (121, false), (86_400, false)] {
        let token = ago(seconds);
        for http in HttpVersion::BOTH {
            let response = exchange(&proxy, http, &with_token(&token, "GET", MANIFEST));
            if is_good {
                assert_eq!(response.status, 200, "{seconds} s: {response:?}");
            } else {
                let words = format!(",scope=\"{scope}\",error=\"invalid_token\"");
                assert!(challenge(&response).ends_with(&words), "{seconds} s");
            }
        }
    }
    // The client requests a new token at the realm of the challenge.
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", &token_target(scope)),
    );
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    let fresh = body["token"].as_str().unwrap();
    assert_eq!(body["expires_in"], 60);
    assert_eq!(
        exchange(
            &proxy,
            HttpVersion::Http2,
            &with_token(fresh, "GET", MANIFEST)
        )
        .status,
        200
    );
}

#[test]
fn invalid_token_settings_are_rejected_at_start() {
    let try_start = |text: TestConfig, secret: &str| {
        let (dir, _) = with_secret(secret);
        Proxy::try_start(dir, "http://127.0.0.1:1", &text)
            .map(|_| ())
            .map_err(|problems| problems.to_string())
    };
    let named = token_keys("secret = \"secret\"");
    assert_eq!(try_start(named.clone(), SECRET), Ok(()));
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
        let problems = try_start(text, secret).unwrap_err();
        assert!(problems.contains(words), "{words} in {problems}");
    }
}

#[test]
fn a_configured_lifetime_is_in_the_token_response() {
    let registry = Registry::responding(OK);
    let proxy = Proxy::start(&registry, token_keys("lifetime = \"1h\""));
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/_token"),
    );
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(body["expires_in"], 3600);
}
