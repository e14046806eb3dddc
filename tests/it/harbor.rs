//! Harbor behind the gate of `examples/harbor.toml`, with nothing edited in it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::harbor::{self, PACKED, ROBOT, Release, STORE, TOKEN};
use crate::support::registry::Registry;
use crate::support::{DIGEST, HttpVersion, Proxy, TestRequest, exchange};

const HOST: &str = "localhost:8443";

/// The example, at a port of the system's choice.
fn gate(harbor: &Registry) -> Proxy {
    gate_with(harbor, "")
}

fn gate_with(harbor: &Registry, top: &str) -> Proxy {
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
fn a_login_finds_the_token_service_at_https_whatever_harbor_believes() {
    for release in Release::ALL {
        let harbor = harbor::start(release);
        let proxy = gate(&harbor);
        for http in HttpVersion::BOTH {
            let asked = exchange(&proxy, http, &get("/v2/"));
            assert_eq!(asked.status, 401);
            assert_eq!(
                asked.header("www-authenticate"),
                "Bearer realm=\"https://localhost:8443/service/token\",service=\"harbor-registry\"",
                "{release:?}"
            );
            assert_eq!(
                asked.header("docker-distribution-api-version"),
                "registry/2.0"
            );
            assert_eq!(asked.text(), "{\"errors\":[{\"code\":\"UNAUTHORIZED\"}]}");
            let token = get(
                "/service/token?account=robot%24ci&scope=repository%3Aa%2Fb%3Apull&service=harbor-registry",
            );
            let given = exchange(&proxy, http, &token.clone().basic_auth(ROBOT));
            assert_eq!(given.status, 200, "{given:?}");
            assert!(TOKEN.ends_with(given.text().split('"').nth(3).unwrap()));
            let seen = harbor.requests().pop().unwrap();
            assert_eq!(
                (seen.target.as_str(), seen.header("host")),
                (token.target.as_str(), HOST)
            );
            let refused = exchange(&proxy, http, &token.basic_auth(b"robot$ci:wrong"));
            assert_eq!(
                (refused.status, refused.has_header("www-authenticate")),
                (401, false)
            );
            let pull = robot("GET", "/v2/a/b/manifests/latest");
            assert_eq!(exchange(&proxy, http, &pull).status, 200);
        }
    }
}

#[test]
fn a_push_stays_at_the_origin_it_began_at() {
    for release in Release::ALL {
        let harbor = harbor::start(release);
        let proxy = gate(&harbor);
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
                    let answer = exchange(&proxy, http, &robot(method, target).host(host).body(""));
                    assert_eq!(answer.status, status, "{answer:?}");
                    let location = answer.header("location");
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
fn the_gate_asks_for_nothing_of_its_own() {
    let harbor = harbor::start(Release::Listening);
    let proxy = gate(&harbor);
    for http in HttpVersion::BOTH {
        let catalog = exchange(&proxy, http, &get("/v2/_catalog"));
        assert_eq!(catalog.header("www-authenticate"), "Basic realm=\"harbor\"");
        let wrong = get("/v2/").header("authorization", "Bearer no.such.token");
        let answer = exchange(&proxy, http, &wrong);
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"harbor\"");
        // A script's request for the portal: a challenge would open the browser's own window.
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
    let harbor = harbor::start(Release::Listening);
    let proxy = gate(&harbor);
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
        // HTTP/2 may send a field for each cookie.
        let cookies = ["sid=abc", "_gorilla_csrf=MTIz", "lang=en-us"];
        login = match http {
            HttpVersion::Http1 => login.header("cookie", cookies.join("; ")),
            HttpVersion::Http2 => cookies
                .iter()
                .fold(login, |ask, one| ask.header("cookie", one)),
        };
        let answer = exchange(&proxy, http, &login);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = harbor.requests().pop().unwrap();
        assert_eq!(seen.header("cookie"), cookies.join("; "));
        assert_eq!(seen.body, b"principal=admin&password=Harbor12345");
    }
}

#[test]
fn portal_paths_and_pages_pass_byte_for_byte() {
    let harbor = harbor::start(Release::Listening);
    let proxy = gate(&harbor);
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
fn what_is_inside_stays_inside() {
    let harbor = harbor::start(Release::Listening);
    let proxy = gate(&harbor);
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
                let ask_for = TestRequest::new(method, target)
                    .host(HOST)
                    .basic_auth(b"admin:x");
                let answer = exchange(&proxy, http, &ask_for);
                assert_eq!(answer.status, 404, "{method} {target}");
                assert!(!answer.has_header("www-authenticate"));
            }
        }
    }
    assert!(harbor.requests().is_empty(), "{:?}", harbor.requests());
}

#[test]
fn a_form_mounts_nothing_through_harbor_either() {
    let harbor = harbor::start(Release::Listening);
    let proxy = gate(&harbor);
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
        // All repositories are Harbor's, and the paths that are closed are none of them.
        assert!(seen.target.contains("from=other"), "{}", seen.target);
        let any = format!("/v2/a/b/blobs/uploads/?mount={DIGEST}");
        assert_eq!(exchange(&proxy, http, &robot("POST", &any)).status, 202);
        assert!(harbor.requests().pop().unwrap().target.contains("mount="));
    }
}

#[test]
fn silence_while_a_blob_is_committed_is_waited_for() {
    let harbor = Registry::start(|exchange| {
        exchange.body();
        exchange.patience(Duration::from_millis(800));
        exchange.wait_closed();
        exchange.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    });
    // Each of the other waits is long over by then.
    let limits = "[limits]\nbody_idle = \"100ms\"\nwrite_idle = \"100ms\"\nidle = \"100ms\"\nhead = \"100ms\"\nupstream_wait = \"100ms\"";
    let proxy = gate_with(&harbor, limits);
    for http in HttpVersion::BOTH {
        let target = format!("/v2/a/b/blobs/uploads/u?digest={DIGEST}");
        let answer = exchange(&proxy, http, &robot("PUT", &target).body("layer"));
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}
