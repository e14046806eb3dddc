//! `tls = "acme"` without a reachable ACME server: which configurations are rejected, what is served without a certificate,
//! and how the proxy responds to challenges. `tests/real` runs orders at a real ACME server.

use std::fs;

use rustls::ClientConnection;
use tempfile::TempDir;
use tidegate::config;
use tidegate::snapshot::{BuildMode, Snapshot};

use crate::support::certs::{self, AUTHORITY};
use crate::support::client::connect_tcp;
use crate::support::proxy::directory;
use crate::support::{Client, Proxy, Registry, TestRequest};

/// A configuration with two sites: `gate.test`, for which the ACME server issues no certificate, and `localhost` with a
/// certificate from files.
const TEXT: &str = r#"
[log]
access = false
[listen]
https = ["127.0.0.1:0"]
http = ["127.0.0.1:0"]
workers = 1
[state]
dir = "state"
[acme]
directory = "https://127.0.0.1:1/dir"
directory_ca = "ca.pem"
[[site]]
hosts = ["gate.test"]
tls = "acme"
auth = { mode = "none" }
[[site.route]]
path = "/v2/"
upstream = "{upstream}"
[[site]]
hosts = ["localhost"]
tls = { cert = "cert.pem", key = "key.pem" }
auth = { mode = "none" }
[[site.route]]
path = "/v2/"
upstream = "{upstream}"
"#;

fn directory_with_ca() -> TempDir {
    let dir = directory();
    fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
    dir
}

fn check(text: &str) -> String {
    let dir = directory_with_ca();
    let file = dir.path().join("proxy.toml");
    let text = text.replace("{upstream}", "http://127.0.0.1:1");
    let (config, mut problems) = config::parse(&file, text.as_bytes());
    if let Some(config) = config {
        Snapshot::build(&config, None, BuildMode::Check, &mut problems);
    }
    assert!(
        !dir.path().join("state").exists(),
        "a check must not write files"
    );
    problems.to_string()
}

#[test]
fn a_check_needs_neither_network_nor_state_directory() {
    assert_eq!(check(TEXT), "");
}

#[test]
fn hosts_that_no_acme_server_would_certify_are_rejected_with_the_reason() {
    for (host, why) in [
        ("*.gate.test", "dns-01"),
        ("*", "at least one name"),
        ("192.0.2.1", "names only"),
        ("registry", "public DNS"),
    ] {
        let problems = check(&TEXT.replace("\"gate.test\"", &format!("\"gate.test\", \"{host}\"")));
        assert!(
            problems.contains(&format!("error: \"{host}\" is")) && problems.contains(why),
            "{problems}"
        );
    }
}

#[test]
fn invalid_values_of_the_acme_table_are_rejected() {
    for (old, new, why) in [
        (
            "https://127.0.0.1:1/dir",
            "http://ca.test/dir",
            "over https",
        ),
        ("https://127.0.0.1:1/dir", "letsencrypt", "over https"),
        ("ca.pem", "htpasswd", "CERTIFICATE"),
        ("ca.pem", "nowhere.pem", "cannot read"),
        (
            "[acme]",
            "[acme]\nemail = \"mailto:a@b.test\"",
            "mail address",
        ),
        ("[acme]", "[acme]\nemail = \"a\"", "mail address"),
        ("tls = \"acme\"", "tls = \"acne\"", "\"acme\""),
    ] {
        let problems = check(&TEXT.replace(old, new));
        assert!(
            problems.contains("error") && problems.contains(why),
            "{new}: {problems}"
        );
    }
}

#[test]
fn a_state_directory_that_cannot_be_created_fails_the_start() {
    let dir = directory_with_ca();
    fs::write(dir.path().join("state"), "in the way").unwrap();
    let problems = Proxy::try_start(dir, "http://127.0.0.1:1", TEXT)
        .err()
        .expect("the start fails");
    assert!(problems.to_string().contains("state/acme"), "{problems}");
}

#[test]
fn without_a_certificate_the_client_gets_unrecognized_name_and_other_sites_are_served() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start_in(directory_with_ca(), &registry.url(), TEXT);
    for name in ["gate.test", "other.test"] {
        let config = certs::default_client_config("http/1.1");
        let error = Client::try_tls(proxy.https(), name, config)
            .err()
            .expect("a TLS alert");
        assert!(
            error.to_string().contains("UnrecognisedName"),
            "{name}: {error}"
        );
    }
    let mut client = Client::connect(&proxy);
    assert_eq!(
        client.exchange(&TestRequest::new("GET", "/v2/")).status,
        200
    );
}

/// Writes a challenge file as another proxy that shares the directory would write it.
fn write_challenge(proxy: &Proxy, name: &str, text: &str) {
    fs::write(proxy.path("state/acme/challenges").join(name), text).unwrap();
}

#[test]
fn an_http_01_challenge_gets_its_response_while_the_token_file_exists() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start_in(directory_with_ca(), &registry.url(), TEXT);
    let path = "/.well-known/acme-challenge/t0-ken_1";
    let request_gate_test = |method: &str, path: &str| {
        Client::plain(proxy.http()).exchange(&TestRequest::new(method, path).host("gate.test"))
    };
    assert_eq!(request_gate_test("GET", path).status, 308);
    write_challenge(&proxy, "http-t0-ken_1.txt", "t0-ken_1.thumbprint");
    let response = request_gate_test("GET", path);
    assert_eq!(
        (response.status, response.text().as_ref()),
        (200, "t0-ken_1.thumbprint")
    );
    assert_eq!(response.header("content-type"), "application/octet-stream");
    assert_eq!(
        request_gate_test("HEAD", path).header("content-length"),
        "19"
    );
    assert_eq!(request_gate_test("POST", path).status, 308);
    write_challenge(&proxy, "secret", "not an answer");
    for other in [
        "",
        "t0-ken_1/",
        "t0-ken_1.txt",
        "secret",
        "..%2fsecret",
        "t0-ken_2",
        "x%00",
    ] {
        let response = request_gate_test("GET", &format!("/.well-known/acme-challenge/{other}"));
        assert_ne!(response.status, 200, "{other}");
    }
    fs::remove_file(proxy.path("state/acme/challenges/http-t0-ken_1.txt")).unwrap();
    assert_eq!(request_gate_test("GET", path).status, 308);
}

#[test]
fn a_tls_alpn_01_challenge_gets_its_certificate_while_the_host_has_a_challenge() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start_in(directory_with_ca(), &registry.url(), TEXT);
    write_challenge(&proxy, "alpn-gate.test.txt", "token.thumbprint");
    write_challenge(&proxy, "alpn-localhost.txt", "token.thumbprint");
    let handshake = |name: &str, offered: &[&str]| {
        let config = certs::client_config(certs::root_certificate(), rustls::ALL_VERSIONS, offered);
        let name = name.to_owned().try_into().unwrap();
        let mut tls = ClientConnection::new(config, name).unwrap();
        let mut socket = connect_tcp(proxy.https());
        while tls.is_handshaking() {
            if let Err(error) = tls.complete_io(&mut socket) {
                return error.to_string();
            }
        }
        "trusted".to_owned()
    };
    // The certificate of tls-alpn-01 is self-signed (RFC 8737 section 3), which this client rejects.
    let error = handshake("gate.test", &["acme-tls/1"]);
    assert!(error.contains("invalid peer certificate"), "{error}");
    for (name, offered, alert) in [
        ("gate.test", &["acme-tls/1", "h2"][..], "UnrecognisedName"),
        ("gate.test", &["h2"], "UnrecognisedName"),
        ("other.test", &["acme-tls/1"], "UnrecognisedName"),
        ("localhost", &["acme-tls/1"], "NoApplicationProtocol"),
        ("localhost", &["spdy/3"], "NoApplicationProtocol"),
    ] {
        let error = handshake(name, offered);
        assert!(error.contains(alert), "{name} {offered:?}: {error}");
    }
}
