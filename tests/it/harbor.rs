//! Harbor behind a proxy that runs `examples/harbor.toml`. The tests change only addresses, file names and the host name.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::harbor::{self, PACKED, ROBOT, Release, STORE, TOKEN};
use crate::support::registry::Registry;
use crate::support::{DIGEST, HttpVersion, Proxy, TestRequest, exchange};

const HOST: &str = "localhost:8443";

/// Starts a proxy with the example configuration on a port that the system chooses.
fn start(harbor: &Registry) -> Proxy {
    start_with(harbor, "")
}

/// Starts a proxy with the example configuration and with the tables `top` before it.
fn start_with(harbor: &Registry, top: &str) -> Proxy {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/harbor.toml");
    let mut config = fs::read_to_string(file).unwrap();
    for (written, here) in [
        (
            "[listen]\n",
            format!("{top}\n[log]\naccess_file = \"access.log\"\n[listen]\n"),
        ),
        (
            "https = [\"[::]:443\"]",
            "https = [\"127.0.0.1:0\"]".to_owned(),
        ),
        ("http = [\"[::]:80\"]\n", String::new()),
        ("harbor.example.com\"]", "localhost\"]".to_owned()),
        ("fullchain.pem", "cert.pem".to_owned()),
        ("privkey.pem", "key.pem".to_owned()),
        ("http://127.0.0.1:8080", harbor.url()),
    ] {
        assert!(config.contains(written), "{written}");
        config = config.replacen(written, &here, 1);
    }
    Proxy::start(harbor, &config)
}

fn get(target: &str) -> TestRequest {
    TestRequest::new("GET", target).host(HOST)
}

fn robot(method: &str, target: &str) -> TestRequest {
    TestRequest::new(method, target)
        .host(HOST)
        .header("authorization", TOKEN)
}

#[test]
fn the_bearer_realm_has_the_external_origin_whatever_origin_harbor_writes() {
    for release in Release::ALL {
        let harbor = harbor::start(release);
        let proxy = start(&harbor);
        for http in HttpVersion::BOTH {
            let challenge = exchange(&proxy, http, &get("/v2/"));
            assert_eq!(challenge.status, 401);
            assert_eq!(
                challenge.header("www-authenticate"),
                "Bearer realm=\"https://localhost:8443/service/token\",service=\"harbor-registry\"",
                "{release:?}"
            );
            assert_eq!(
                challenge.header("docker-distribution-api-version"),
                "registry/2.0"
            );
            assert_eq!(
                challenge.text(),
                "{\"errors\":[{\"code\":\"UNAUTHORIZED\"}]}"
            );
            let token = get(
                "/service/token?account=robot%24ci&scope=repository%3Aa%2Fb%3Apull&service=harbor-registry",
            );
            let token_response = exchange(&proxy, http, &token.clone().basic_auth(ROBOT));
            assert_eq!(token_response.status, 200, "{token_response:?}");
            assert!(TOKEN.ends_with(token_response.text().split('"').nth(3).unwrap()));
            let seen = harbor.requests().pop().unwrap();
            assert_eq!(
                (seen.target.as_str(), seen.header("host")),
                (token.target.as_str(), HOST)
            );
            let rejected = exchange(&proxy, http, &token.basic_auth(b"robot$ci:wrong"));
            assert_eq!(
                (rejected.status, rejected.has_header("www-authenticate")),
                (401, false)
            );
            let pull = robot("GET", "/v2/a/b/manifests/latest");
            assert_eq!(exchange(&proxy, http, &pull).status, 200);
        }
    }
}

#[test]
fn the_locations_of_a_push_have_the_origin_that_the_client_addressed() {
    for release in Release::ALL {
        let harbor = harbor::start(release);
        let proxy = start(&harbor);
        for http in HttpVersion::BOTH {
            for host in [HOST, "localhost", "localhost:443", "LOCALhost:8443"] {
                for (method, target, status) in [
                    ("POST", "/v2/a/b/blobs/uploads/", 202),
                    ("PATCH", "/v2/a/b/blobs/uploads/u?_state=x", 202),
                    (
                        "PUT",
                        &format!("/v2/a/b/blobs/uploads/u?_state=x&digest={DIGEST}"),
                        201,
                    ),
                ] {
                    let response =
                        exchange(&proxy, http, &robot(method, target).host(host).body(""));
                    assert_eq!(response.status, status, "{response:?}");
                    let location = response.header("location");
                    let origin = format!("https://{host}/v2/a/b/blobs/");
                    assert!(location.starts_with(&origin), "{release:?} {location}");
                    assert_eq!(location.contains("?_state=x%2By%3D"), status == 202);
                }
            }
            let blob = exchange(
                &proxy,
                http,
                &robot("GET", &format!("/v2/a/b/blobs/{DIGEST}")),
            );
            assert_eq!((blob.status, blob.header("location")), (307, STORE));
        }
    }
}

#[test]
fn the_proxy_sends_no_challenge_of_its_own() {
    let harbor = harbor::start(Release::ReadsForwardedProto);
    let proxy = start(&harbor);
    for http in HttpVersion::BOTH {
        let catalog = exchange(&proxy, http, &get("/v2/_catalog"));
        assert_eq!(catalog.header("www-authenticate"), "Basic realm=\"harbor\"");
        let wrong = get("/v2/").header("authorization", "Bearer no.such.token");
        let response = exchange(&proxy, http, &wrong);
        assert_eq!(
            response.header("www-authenticate"),
            "Basic realm=\"harbor\""
        );
        // A script of the portal sends this request. A challenge would make the browser open its login dialog.
        let script = exchange(&proxy, http, &get("/api/v2.0/users/current"));
        assert_eq!(
            (script.status, script.has_header("www-authenticate")),
            (401, false)
        );
        let seen = harbor.requests();
        let credentials: Vec<_> = seen[seen.len() - 3..]
            .iter()
            .map(|seen| seen.all("authorization"))
            .collect();
        assert_eq!(credentials, [vec![], vec!["Bearer no.such.token"], vec![]]);
    }
}

#[test]
fn a_browser_logs_in_to_the_portal() {
    let harbor = harbor::start(Release::ReadsForwardedProto);
    let proxy = start(&harbor);
    for http in HttpVersion::BOTH {
        let page = exchange(&proxy, http, &get("/c/login"));
        assert_eq!(
            page.header_values("set-cookie"),
            [
                "sid=abc; Path=/; HttpOnly; Secure",
                "_gorilla_csrf=MTIz; Path=/; HttpOnly; SameSite=Strict; Secure"
            ]
        );
        assert_eq!(page.header("x-harbor-csrf-token"), "tok==");
        let mut login = TestRequest::new("POST", "/c/login")
            .host(HOST)
            .header("origin", "https://localhost:8443")
            .header(
                "referer",
                "https://localhost:8443/account/sign-in?redirect_url=%2Fharbor",
            )
            .header("sec-fetch-site", "same-origin")
            .header("sec-fetch-mode", "cors")
            .header("x-harbor-csrf-token", "tok==")
            .header("content-type", "application/x-www-form-urlencoded")
            .body("principal=admin&password=Harbor12345");
        // An HTTP/2 client may send one field for each cookie (RFC 9113 section 8.2.3).
        let cookies = ["sid=abc", "_gorilla_csrf=MTIz", "lang=en-us"];
        login = match http {
            HttpVersion::Http1 => login.header("cookie", cookies.join("; ")),
            HttpVersion::Http2 => cookies
                .iter()
                .fold(login, |login, cookie| login.header("cookie", cookie)),
        };
        let response = exchange(&proxy, http, &login);
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = harbor.requests().pop().unwrap();
        assert_eq!(seen.header("cookie"), cookies.join("; "));
        assert_eq!(seen.body, b"principal=admin&password=Harbor12345");
    }
}

#[test]
fn portal_paths_and_pages_pass_byte_for_byte() {
    let harbor = harbor::start(Release::ReadsForwardedProto);
    let proxy = start(&harbor);
    for http in HttpVersion::BOTH {
        for target in [
            "/",
            "/harbor/projects/1/repositories/a%252Fb/artifacts-tab",
            "/api/v2.0/projects/lib/repositories/a%252Fb/artifacts?q=tags%3D~x;y&page=1&with_tag=",
            "/api/v2.0/projects/lib/repositories/a%2Fb;v=1/artifacts/sha256:0/additions",
            "/c/oidc/callback?code=a/b+c%20d&state=%E2%82%AC",
            "/api/internals",
            "/service/notifications2",
        ] {
            let page = exchange(&proxy, http, &get(target).header("accept-encoding", "gzip"));
            assert_eq!(
                (page.status, page.body.as_slice()),
                (200, PACKED),
                "{target}"
            );
            assert_eq!(page.header("content-encoding"), "gzip");
            assert_eq!(page.header("vary"), "Accept-Encoding");
            assert!(!page.has_header("docker-distribution-api-version"));
            let seen = harbor.requests().pop().unwrap();
            assert_eq!(
                (seen.target.as_str(), seen.header("accept-encoding")),
                (target, "gzip")
            );
        }
    }
}

#[test]
fn internal_paths_get_404_without_a_challenge() {
    let harbor = harbor::start(Release::ReadsForwardedProto);
    let proxy = start(&harbor);
    for http in HttpVersion::BOTH {
        for target in [
            "/api/internal",
            "/api/internal/configurations",
            "/service/notifications/jobs/scan/1",
            "/service//notifications",
            "/%73ervice/notifications/x",
            "/api%2Finternal/x",
            "//api/internal",
        ] {
            for method in ["GET", "POST", "OPTIONS"] {
                let request = TestRequest::new(method, target)
                    .host(HOST)
                    .basic_auth(b"admin:x");
                let response = exchange(&proxy, http, &request);
                assert_eq!(response.status, 404, "{method} {target}");
                assert!(!response.has_header("www-authenticate"));
            }
        }
    }
    assert!(harbor.requests().is_empty(), "{:?}", harbor.requests());
}

#[test]
fn an_upload_with_a_form_as_its_body_gets_415() {
    let harbor = harbor::start(Release::ReadsForwardedProto);
    let proxy = start(&harbor);
    for http in HttpVersion::BOTH {
        for kind in [
            "application/x-www-form-urlencoded",
            "Multipart/form-data; boundary=x",
        ] {
            let form = robot("POST", "/v2/a/b/blobs/uploads/")
                .header("content-type", kind)
                .body(format!("mount={DIGEST}&from=secret/repo"));
            exchange(&proxy, http, &form).assert_rejection(415, "UNSUPPORTED");
        }
        let mount = format!("/v2/a/b/blobs/uploads/?mount={DIGEST}&from=other/x");
        assert_eq!(exchange(&proxy, http, &robot("POST", &mount)).status, 202);
        let seen = harbor.requests().pop().unwrap();
        // Harbor checks the rights to all its repositories, and no repository is below a closed path. The mount stays.
        assert!(seen.target.contains("from=other"), "{}", seen.target);
        let any = format!("/v2/a/b/blobs/uploads/?mount={DIGEST}");
        assert_eq!(exchange(&proxy, http, &robot("POST", &any)).status, 202);
        assert!(harbor.requests().pop().unwrap().target.contains("mount="));
    }
}

#[test]
fn the_proxy_waits_while_harbor_commits_a_blob_in_silence() {
    let harbor = Registry::start(|exchange| {
        exchange.body();
        exchange.set_timeout(Duration::from_millis(800));
        exchange.wait_closed();
        exchange.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    });
    // Every other timeout is shorter than the silence, so only `read_timeout` may apply.
    let limits = "[limits]\nbody_idle = \"100ms\"\nwrite_idle = \"100ms\"\nidle = \"100ms\"\nhead = \"100ms\"\nupstream_wait = \"100ms\"";
    let proxy = start_with(&harbor, limits);
    for http in HttpVersion::BOTH {
        let target = format!("/v2/a/b/blobs/uploads/u?digest={DIGEST}");
        let response = exchange(&proxy, http, &robot("PUT", &target).body("layer"));
        assert_eq!(response.status, 201, "{response:?}");
    }
}
