//! `tls = "acme"` without an authority: what is refused, what is served meanwhile, and what an authority that asks is told.
//! What a real one makes of it is tested in `tests/real`.

use std::fs;

use rustls::ClientConnection;
use tempfile::TempDir;
use tidegate::config;
use tidegate::snapshot::{BuildMode, Snapshot};

use crate::support::certs::{self, AUTHORITY};
use crate::support::client::connect_tcp;
use crate::support::proxy::directory;
use crate::support::{Client, Proxy, Registry, TestRequest};

/// `gate.test` with a certificate that nobody issues, beside `localhost` with one from files.
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

fn folder() -> TempDir {
    let dir = directory();
    fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
    dir
}

fn said(text: &str) -> String {
    let dir = folder();
    let file = dir.path().join("proxy.toml");
    let text = text.replace("{upstream}", "http://127.0.0.1:1");
    let (config, mut problems) = config::parse(&file, text.as_bytes());
    if let Some(config) = config {
        Snapshot::build(&config, None, BuildMode::Check, &mut problems);
    }
    assert!(!dir.path().join("state").exists(), "a check writes nothing");
    problems.to_string()
}

#[test]
fn a_check_needs_neither_network_nor_folder() {
    assert_eq!(said(TEXT), "");
}

#[test]
fn hosts_that_no_authority_would_certify_are_refused_with_the_reason() {
    for (host, why) in [
        ("*.gate.test", "dns-01"),
        ("*", "at least one name"),
        ("192.0.2.1", "names only"),
        ("registry", "public DNS"),
    ] {
        let said = said(&TEXT.replace("\"gate.test\"", &format!("\"gate.test\", \"{host}\"")));
        assert!(
            said.contains(&format!("error: \"{host}\" is")) && said.contains(why),
            "{said}"
        );
    }
}

#[test]
fn a_table_that_makes_no_sense_is_refused() {
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
        let said = said(&TEXT.replace(old, new));
        assert!(
            said.contains("error") && said.contains(why),
            "{new}: {said}"
        );
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_a_refusal_to_start() {
    let dir = folder();
    fs::write(dir.path().join("state"), "in the way").unwrap();
    let problems = Proxy::try_start(dir, "http://127.0.0.1:1", TEXT)
        .err()
        .expect("a refusal");
    assert!(problems.to_string().contains("state/acme"), "{problems}");
}

#[test]
fn without_a_certificate_the_name_is_not_recognized_and_other_sites_are_served() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start_in(folder(), &registry.url(), TEXT);
    for name in ["gate.test", "other.test"] {
        let config = certs::default_client_config("http/1.1");
        let error = Client::try_tls(proxy.https(), name, config)
            .err()
            .expect("an alert");
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

/// As another gate that shares the folder would put it there.
fn put(proxy: &Proxy, name: &str, text: &str) {
    fs::write(proxy.path("state/acme/challenges").join(name), text).unwrap();
}

#[test]
fn a_token_is_answered_over_http_while_it_is_known() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start_in(folder(), &registry.url(), TEXT);
    let path = "/.well-known/acme-challenge/t0-ken_1";
    let ask = |method: &str, path: &str| {
        Client::plain(proxy.http()).exchange(&TestRequest::new(method, path).host("gate.test"))
    };
    assert_eq!(ask("GET", path).status, 308);
    put(&proxy, "http-t0-ken_1.txt", "t0-ken_1.thumbprint");
    let answer = ask("GET", path);
    assert_eq!(
        (answer.status, answer.text().as_ref()),
        (200, "t0-ken_1.thumbprint")
    );
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    assert_eq!(ask("HEAD", path).header("content-length"), "19");
    assert_eq!(ask("POST", path).status, 308);
    put(&proxy, "secret", "not an answer");
    for other in [
        "",
        "t0-ken_1/",
        "t0-ken_1.txt",
        "secret",
        "..%2fsecret",
        "t0-ken_2",
        "x%00",
    ] {
        let answer = ask("GET", &format!("/.well-known/acme-challenge/{other}"));
        assert_ne!(answer.status, 200, "{other}");
    }
    fs::remove_file(proxy.path("state/acme/challenges/http-t0-ken_1.txt")).unwrap();
    assert_eq!(ask("GET", path).status, 308);
}

#[test]
fn an_authority_is_answered_over_tls_while_the_host_is_in_question() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start_in(folder(), &registry.url(), TEXT);
    put(&proxy, "alpn-gate.test.txt", "token.thumbprint");
    put(&proxy, "alpn-localhost.txt", "token.thumbprint");
    let shake = |name: &str, offered: &[&str]| {
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
    // Self-signed, as it has to be: this client does not like what an authority would.
    let answered = shake("gate.test", &["acme-tls/1"]);
    assert!(answered.contains("invalid peer certificate"), "{answered}");
    for (name, offered, alert) in [
        ("gate.test", &["acme-tls/1", "h2"][..], "UnrecognisedName"),
        ("gate.test", &["h2"], "UnrecognisedName"),
        ("other.test", &["acme-tls/1"], "UnrecognisedName"),
        ("localhost", &["acme-tls/1"], "NoApplicationProtocol"),
        ("localhost", &["spdy/3"], "NoApplicationProtocol"),
    ] {
        let said = shake(name, offered);
        assert!(said.contains(alert), "{name} {offered:?}: {said}");
    }
}
