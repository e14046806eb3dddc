//! The facts and problems that `check --live` reports for upstreams of all kinds.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;

use crate::check::live::*;
use crate::config;
use crate::snapshot::BuildMode;

/// Starts a server at this address that sends these bytes on every connection. Returns its port.
fn server(address: &str, response: impl Into<Vec<u8>>) -> u16 {
    let response = response.into();
    let socket = TcpListener::bind(address).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&response);
        }
    });
    port
}

/// Starts an HTTP server with this status; header fields may follow the status.
fn registry(address: &str, status: &str) -> u16 {
    server(
        address,
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"),
    )
}

/// Starts a TLS server with a certificate of its own. Returns its port and the certificate. A client without TLS gets the
/// response `to_plain`, or an alert if there is none.
async fn tls_server(params: CertificateParams, to_plain: Option<&'static str>) -> (u16, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut first = [0];
                let _ = stream.peek(&mut first).await;
                match to_plain {
                    Some(response) if first != [22] => {
                        let _ = stream.write_all(response.as_bytes()).await;
                    }
                    _ => {
                        let Ok(mut stream) = acceptor.accept(stream).await else {
                            return;
                        };
                        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        let _ = stream.write_all(response).await;
                        let _ = stream.shutdown().await;
                    }
                }
            });
        }
    });
    (port, certificate.pem())
}

/// Builds a configuration with one route to `upstream`, which is TOML. The file `ca.pem` has the text `ca`.
fn built_with(upstream: &str, auth: &str, ca: &str) -> (tempfile::TempDir, Config, Snapshot) {
    let dir = tempfile::tempdir().unwrap();
    let line = "alice:$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n";
    std::fs::write(dir.path().join("htpasswd"), line).unwrap();
    std::fs::write(dir.path().join("ca.pem"), ca).unwrap();
    let text = format!(
        "[listen]\nhttps = [\"127.0.0.1:0\"]\n[state]\ndir = \"{}/state\"\n[[site]]\nhosts = [\"docker.example.com\"]\ntls = \"self-signed\"\n\
         external_url = \"https://docker.example.com\"\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = {upstream}\nauth = {{ {auth} }}\n\
         [[site.route]]\npath = \"/closed/\"\nrespond = 404\n\
         [[site.route]]\npath = \"/guarded/\"\nupstream = \"unix:/nowhere\"\nauth = {{ {BASIC} }}\n",
        dir.path().display()
    );
    let file = dir.path().join("proxy.toml");
    let (config, mut problems) = config::parse(&file, text.as_bytes());
    let mut config = config.unwrap_or_else(|| panic!("{problems}"));
    let snapshot = Snapshot::build(&config, None, BuildMode::Check, &mut problems);
    let snapshot = snapshot.unwrap_or_else(|| panic!("{problems}"));
    // The other routes matter only for their paths, so their endpoints are not probed.
    config.sites[0].routes.truncate(1);
    (dir, config, snapshot)
}

fn built(upstream: &str, auth: &str) -> (tempfile::TempDir, Config, Snapshot) {
    built_with(&format!("\"{upstream}\""), auth, "")
}

const BASIC: &str = "mode = \"basic\", htpasswd = \"htpasswd\", realm = \"r\"";
const UPSTREAM: &str = "mode = \"upstream\"";
const OPEN: &str = "mode = \"none\"";

async fn check(upstream: &str, auth: &str) -> (Vec<String>, Problems) {
    let (_dir, config, snapshot) = built(upstream, auth);
    check_built(&config, &snapshot).await
}

async fn check_built(config: &Config, snapshot: &Snapshot) -> (Vec<String>, Problems) {
    let mut problems = Problems::new(Path::new("proxy.toml"));
    let facts = run(config, snapshot, &mut problems, &|_| {}).await;
    (facts, problems)
}

/// Asserts that a problem has these texts, a reason and a remedy, and the position of the upstream.
#[track_caller]
fn assert_reported(problems: &Problems, texts: &[&str]) {
    let report = problems.to_string();
    for text in texts {
        assert!(report.contains(text), "{text} in {report}");
    }
    for part in ["proxy.toml:11:", "why: ", "fix: "] {
        assert!(report.contains(part), "{part} in {report}");
    }
}

#[tokio::test]
async fn the_response_of_a_registry_is_compared_with_the_mode() {
    let basic = "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"";
    let open = "200 OK\r\nDocker-Distribution-Api-Version: registry/2.0";
    for (status, auth) in [
        (open, BASIC),
        (open, OPEN),
        (basic, UPSTREAM),
        // A realm at another server, also one with the name of the site.
        (&bearer("https://sso.example/token"), UPSTREAM),
        (&bearer("https://docker.example.com:5001/auth"), UPSTREAM),
    ] {
        let port = registry("127.0.0.1:0", status);
        let (facts, problems) = check(&format!("http://127.0.0.1:{port}"), auth).await;
        assert!(problems.is_empty(), "{status}: {problems}");
        assert!(facts[0].contains("days"), "{facts:?}");
        assert!(facts[1].contains("as a registry"), "{facts:?}");
        assert_eq!(facts.len(), 2, "{facts:?}");
    }
    for (status, auth, words) in [
        (basic, BASIC, "password of its own (Basic realm"),
        (basic, OPEN, "every client is rejected"),
        ("401 Unauthorized", BASIC, "401 without a challenge"),
        (
            &bearer("https://docker.example.com/v2/_token"),
            BASIC,
            "realm leads back to this site",
        ),
        ("200 OK", UPSTREAM, "anyone may push"),
        ("401 Unauthorized", UPSTREAM, "401 without WWW-Authenticate"),
        ("200 OK\r\nContent-Type: text/html", BASIC, "web page"),
        (
            "301 Moved Permanently\r\nLocation: https://127.0.0.1:1/v2/",
            BASIC,
            "write the https://",
        ),
        (
            "302 Found\r\nLocation: /login",
            UPSTREAM,
            "redirects /v2/ to /login",
        ),
        ("400 Bad Request", BASIC, "bad request"),
        ("403 Forbidden", BASIC, "forbids /v2/"),
        ("404 Not Found", BASIC, "it is no registry"),
        ("404 Not Found", UPSTREAM, "it is no registry"),
        (
            "503 Service Unavailable",
            BASIC,
            "look at the log of the registry",
        ),
    ] {
        let port = registry("127.0.0.1:0", status);
        let (facts, problems) = check(&format!("http://127.0.0.1:{port}"), auth).await;
        assert!(problems.has_errors(), "{status}: {facts:?}");
        assert_reported(&problems, &[words]);
        assert_eq!(facts.len(), 1, "{facts:?}");
    }
    for (status, words) in [
        ("418 Teapot", "418"),
        ("200 OK", "without Docker-Distribution-Api-Version"),
    ] {
        let port = registry("127.0.0.1:0", status);
        let (_, problems) = check(&format!("http://127.0.0.1:{port}"), BASIC).await;
        assert!(!problems.has_errors(), "{problems}");
        assert_reported(&problems, &["warning", words]);
    }
}

fn bearer(realm: &str) -> String {
    format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"")
}

#[tokio::test]
async fn a_token_realm_that_leads_to_this_site_and_does_not_work_there_is_an_error() {
    for (realm, words) in [
        (
            "https://docker.example.com/v2/token",
            "below /v2/ of the proxy itself",
        ),
        // The proxy replaces the origins of the upstream by the site's.
        (
            "http://docker.example.com:5000/v2/auth",
            "below /v2/ of the proxy itself",
        ),
        (
            "https://docker.example.com/service/token",
            "path = \\\"/service/\\\"",
        ),
        ("https://docker.example.com/closed/token", "respond"),
        (
            "https://docker.example.com/guarded/token",
            "whose passwords the proxy checks",
        ),
    ] {
        let port = registry("127.0.0.1:0", &bearer(realm));
        let (_, problems) = check(&format!("http://127.0.0.1:{port}"), UPSTREAM).await;
        assert!(problems.has_errors(), "{realm}: {problems}");
        let words = words.replace("\\\"", "\"");
        assert_reported(&problems, &[realm, &words]);
    }
}

#[tokio::test]
async fn the_remedy_for_a_wrong_scheme_is_the_right_url() {
    let rejection =
        "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for to_plain in [None, Some(""), Some(rejection)] {
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let (port, _) = tls_server(params, to_plain).await;
        let (_, problems) = check(&format!("http://127.0.0.1:{port}"), BASIC).await;
        assert!(problems.has_errors(), "{problems}");
        let right = format!("write \"https://127.0.0.1:{port}\"");
        assert_reported(&problems, &["speaks TLS", &right]);
    }
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let (_, ca) = tls_server(params, None).await;
    for status in ["200 OK", "401 Unauthorized", "400 Bad Request"] {
        let port = registry("127.0.0.1:0", status);
        let upstream = format!("{{ urls = [\"https://127.0.0.1:{port}\"], ca = \"ca.pem\" }}");
        let (_dir, config, snapshot) = built_with(&upstream, BASIC, &ca);
        let (_, problems) = check_built(&config, &snapshot).await;
        assert!(problems.has_errors(), "{problems}");
        let right = format!("write \"http://127.0.0.1:{port}\"");
        assert_reported(&problems, &["speaks plain HTTP", &right]);
    }
}

#[tokio::test]
async fn an_untrusted_certificate_has_a_remedy_for_its_fault() {
    let params = |name: &str| CertificateParams::new([name.to_owned()]).unwrap();
    let mut expired = params("127.0.0.1");
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut early = params("127.0.0.1");
    early.not_before = rcgen::date_time_ymd(2999, 1, 1);
    early.not_after = rcgen::date_time_ymd(2999, 2, 1);
    let (_, other_ca) = tls_server(params("127.0.0.1"), None).await;
    for (params, ca, words) in [
        (params("127.0.0.1"), Some(&other_ca), "ca = \"FILE\""),
        (params("other.example"), None, "other.example"),
        (expired, None, "renew the certificate"),
        (early, None, "set the clocks"),
    ] {
        let (port, own) = tls_server(params, None).await;
        let upstream = format!("{{ urls = [\"https://127.0.0.1:{port}\"], ca = \"ca.pem\" }}");
        let (_dir, config, snapshot) = built_with(&upstream, BASIC, ca.unwrap_or(&own));
        let (_, problems) = check_built(&config, &snapshot).await;
        assert!(problems.has_errors(), "{problems}");
        assert_reported(&problems, &["no response", "cannot trust", words]);
    }
}

#[tokio::test]
async fn a_server_without_http_and_a_socket_without_a_server_are_reported() {
    for (response, words) in [
        ("", "closed the connection without a response"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP/1.1"),
    ] {
        let port = server("127.0.0.1:0", response);
        let (_, problems) = check(&format!("http://127.0.0.1:{port}"), BASIC).await;
        assert!(problems.has_errors(), "{problems}");
        assert_reported(&problems, &["no response", words]);
    }
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let missing = dir.path().join("missing");
    for (path, words) in [
        (missing, "there is no such socket file"),
        (stale, "no process listens on this file"),
    ] {
        let (_, problems) = check(&format!("unix:{}", path.display()), BASIC).await;
        assert!(problems.has_errors(), "{problems}");
        assert_reported(&problems, &["no response", words]);
    }
}

#[tokio::test]
async fn an_unreachable_endpoint_is_an_error_at_its_position() {
    // The socket is bound and does not listen, so that no other test's listener gets the port.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = bound.local_addr().unwrap().port();
    let (_, problems) = check(&format!("http://127.0.0.1:{port}"), BASIC).await;
    let report = problems.to_string();
    assert!(problems.has_errors(), "{report}");
    for words in [
        "proxy.toml:11",
        "cannot connect",
        "nothing listens there",
        "correct the address",
    ] {
        assert!(report.contains(words), "{words} in {report}");
    }
}

#[tokio::test]
async fn a_registry_that_clients_can_reach_directly_is_an_error() {
    // 127.0.0.2 represents an address that other machines can reach, and needs no network.
    let other = ["127.0.0.2".parse().unwrap()];
    for (address, status, count) in [
        ("0.0.0.0:0", "200 OK", 1),
        ("0.0.0.0:0", "401 Unauthorized", 0),
        ("127.0.0.1:0", "200 OK", 0),
    ] {
        let port = registry(address, status);
        let (_dir, config, snapshot) = built(&format!("http://127.0.0.1:{port}"), BASIC);
        let checks = endpoint_checks(&config, &snapshot);
        let found = exposures(&checks[0], &other).await;
        assert_eq!(found.len(), count, "{address} {status}: {found:?}");
        if count > 0 {
            let mut problems = Problems::new(Path::new("proxy.toml"));
            problems.push(found.into_iter().next().unwrap());
            let report = problems.to_string();
            assert!(
                problems.has_errors() && report.contains("127.0.0.2"),
                "{report}"
            );
            assert!(report.contains("bypass the proxy"), "{report}");
        }
    }
}
