//! Registries over https: verified, or not spoken to.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::support::certs::{AUTHORITY, Authority};
use crate::support::eventually;
use crate::support::proxy::directory;
use crate::support::{
    Client, HttpVersion, OK, Proxy, Registry, TestRequest, TlsFront, config, exchange, pattern,
};

const MANIFEST: &str = "/v2/a/manifests/x";
const UPLOAD: &str = "/v2/a/blobs/uploads/u";

/// A gate that trusts [`AUTHORITY`] and leads to `https://localhost`.
fn gate(port: u16) -> Proxy {
    let dir = directory();
    std::fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
    let full = format!("{{ urls = [\"https://localhost:{port}\"], ca = \"ca.pem\" }}");
    let config = config("", "").set("upstream", &full);
    Proxy::start_in(dir, "", &config)
}

#[test]
fn an_upstream_with_the_right_certificate_is_used() {
    let registry = Registry::start(|exchange| {
        let body = exchange.body();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        exchange.send(head);
        exchange.send(body);
    });
    let front = TlsFront::start(&registry, &AUTHORITY.issue(&["localhost"]));
    let proxy = gate(front.port());
    let body = pattern(3_000_000);
    for http in HttpVersion::BOTH {
        for is_chunked in [false, true] {
            let mut request = TestRequest::alice("PATCH", UPLOAD).body(body.clone());
            request.is_chunked = is_chunked;
            let answer = exchange(&proxy, http, &request);
            assert_eq!(answer.status, 200);
            assert!(answer.is_whole && answer.body == body, "{http:?}");
        }
    }
    let name = Some("localhost".to_owned());
    assert!(
        front
            .client_hellos()
            .iter()
            .all(|(asked, _)| *asked == name)
    );
    // The registry sees what the client asked for, not the name of the upstream.
    assert!(
        registry
            .requests()
            .iter()
            .all(|seen| seen.header("host") == "localhost")
    );
}

#[test]
fn a_certificate_must_be_valid_for_the_server_name_of_the_configuration() {
    let registry = Registry::accepting_all();
    let front = TlsFront::start(&registry, &AUTHORITY.issue(&["registry.internal"]));
    let of = |name: &str| {
        let dir = directory();
        std::fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
        let port = front.port();
        let full = format!("{{ urls = [\"https://127.0.0.1:{port}\"], ca = \"ca.pem\"{name} }}");
        Proxy::start_in(dir, "", config("", "").set("upstream", full))
    };
    for (name, status) in [
        (", server_name = \"registry.internal\"", 200),
        (", server_name = \"other.internal\"", 502),
        ("", 502),
    ] {
        let answer = exchange(
            &of(name),
            HttpVersion::Http1,
            &TestRequest::alice("GET", MANIFEST),
        );
        assert_eq!(answer.status, status, "{name}");
    }
    let sent = front.client_hellos().into_iter().map(|(name, _)| name);
    assert!(
        sent.into_iter()
            .any(|name| name.as_deref() == Some("registry.internal"))
    );
}

/// A gate like [`gate`], which presents the certificate in `client.pem`.
fn gate_with_client_certificate(port: u16, pair: &(String, String)) -> Proxy {
    let dir = directory();
    std::fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
    write_client_files(dir.path(), pair);
    let full = format!(
        "{{ urls = [\"https://localhost:{port}\"], ca = \"ca.pem\", cert = \"client.pem\", key = \"client.key\" }}"
    );
    Proxy::start_in(dir, "", config("", "").set("upstream", &full))
}

fn write_client_files(dir: &Path, (cert, key): &(String, String)) {
    std::fs::write(dir.join("client.pem"), cert).unwrap();
    let path = dir.join("client.key");
    std::fs::write(&path, key).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn a_client_certificate_is_presented_and_renewed_without_a_reload() {
    // Every request has a connection of its own, so that each one has a handshake.
    let closing = OK.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let registry = Registry::responding(closing);
    let server = AUTHORITY.issue(&["localhost"]);
    let front = TlsFront::requiring(&registry, &server, &AUTHORITY.pem());
    let first = AUTHORITY.issue(&["gate.example"]);
    let proxy = gate_with_client_certificate(front.port(), &first);
    let request = TestRequest::alice("GET", MANIFEST);
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    assert!(front.clients().iter().all(|shown| *shown == der(&first.0)));
    let second = AUTHORITY.issue(&["gate.example"]);
    write_client_files(&proxy.path(""), &second);
    eventually("the new certificate is presented", || {
        assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
        front.clients().last() == Some(&der(&second.0))
    });
    // A reload with unusable files keeps the certificate, and says so.
    proxy.write("client.pem", "nothing");
    proxy.reload().unwrap();
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
}

#[test]
fn without_a_client_certificate_such_an_upstream_is_not_used() {
    let registry = Registry::accepting_all();
    let server = AUTHORITY.issue(&["localhost"]);
    let front = TlsFront::requiring(&registry, &server, &AUTHORITY.pem());
    let proxy = gate(front.port());
    let answer = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", MANIFEST),
    );
    answer.assert_rejection(502, "UNAVAILABLE");
    assert!(registry.requests().is_empty());
}

#[test]
fn connections_are_used_again_and_sessions_resumed() {
    let closing = OK.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    for (answer, handshakes) in [(OK.to_owned(), 1), (closing, 10)] {
        let registry = Registry::responding(answer);
        let front = TlsFront::start(&registry, &AUTHORITY.issue(&["localhost"]));
        let proxy = gate(front.port());
        // The check at start has a connection of its own.
        eventually("it is checked", || front.client_hellos().len() == 1);
        let mut client = Client::connect(&proxy);
        for number in 0..10 {
            let method = if number % 2 == 0 { "GET" } else { "DELETE" };
            assert_eq!(
                client
                    .exchange(&TestRequest::alice(method, MANIFEST))
                    .status,
                200
            );
        }
        let hellos = front.client_hellos();
        assert_eq!(hellos.len(), 1 + handshakes);
        let resumed = hellos.iter().filter(|(_, is_resumed)| *is_resumed).count();
        assert!(
            (handshakes - 1..=handshakes).contains(&resumed),
            "{resumed}"
        );
    }
}

#[test]
fn an_idle_connection_that_was_closed_costs_no_request() {
    let registry = Registry::start(|exchange| {
        exchange.body();
        exchange.send(OK);
        exchange.close();
    });
    let front = TlsFront::start(&registry, &AUTHORITY.issue(&["localhost"]));
    let proxy = gate(front.port());
    let mut client = Client::connect(&proxy);
    for _ in 0..10 {
        assert_eq!(
            client.exchange(&TestRequest::alice("GET", MANIFEST)).status,
            200
        );
    }
    assert_eq!(registry.requests().len(), 10);
}

#[test]
fn an_upstream_that_cannot_be_verified_gets_no_request() {
    let stranger = Authority::generate();
    for shown in [
        stranger.issue(&["localhost"]),
        AUTHORITY.issue(&["elsewhere.example"]),
        AUTHORITY.issue_until(&["localhost"], 2001),
    ] {
        let registry = Registry::accepting_all();
        let front = TlsFront::start(&registry, &shown);
        let proxy = gate(front.port());
        for http in HttpVersion::BOTH {
            for request in [
                TestRequest::alice("GET", MANIFEST),
                TestRequest::alice("PATCH", UPLOAD).body("secret"),
            ] {
                let answer = exchange(&proxy, http, &request);
                answer.assert_rejection(502, "UNAVAILABLE");
                assert!(!answer.text().contains("certificate"), "{answer:?}");
            }
        }
        assert_eq!(registry.connections(), 0);
    }
}

#[test]
fn an_upstream_without_tls_is_not_fallen_back_to() {
    let registry = Registry::start(|_| panic!("a request in the clear"));
    let port = registry.authority().rsplit_once(':').unwrap().1;
    // What it says to the hello, which is no request, is for the log.
    let proxy = gate(port.parse().unwrap());
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST))
            .assert_rejection(502, "UNAVAILABLE");
    }
}

#[test]
fn the_system_vouches_for_no_stranger() {
    let registry = Registry::accepting_all();
    let front = TlsFront::start(&registry, &AUTHORITY.issue(&["localhost"]));
    let url = format!("https://localhost:{}", front.port());
    match Proxy::try_start(directory(), &url, config("", "")) {
        Ok(proxy) => {
            exchange(
                &proxy,
                HttpVersion::Http1,
                &TestRequest::alice("GET", MANIFEST),
            )
            .assert_rejection(502, "UNAVAILABLE");
        }
        // A machine without any CA is told so at the start.
        Err(problems) => {
            assert!(
                problems.to_string().contains("the system has no CA"),
                "{problems}"
            );
        }
    }
    assert_eq!(registry.connections(), 0);
}

#[test]
fn an_upstream_that_makes_no_sense_is_refused_with_words() {
    let a = "http://127.0.0.1:5000";
    for (written, said) in [
        (
            "{ urls = [\"https://localhost:1\"], ca = \"missing.pem\" }",
            "missing.pem",
        ),
        (
            "{ urls = [\"https://localhost:1\"], ca = \"htpasswd\" }",
            "holds no CA certificate",
        ),
        (
            &format!("{{ urls = [\"{a}\"], ca = \"cert.pem\" }}"),
            "upstream.ca is of no use",
        ),
        (
            &format!("{{ urls = [\"{a}\", \"https://127.0.0.1:5001\"] }}"),
            "mixes http:// and https://",
        ),
        (
            &format!(
                "{{ urls = [\"{a}\", \"http://127.0.0.1:5001\", \"HTTP://127.0.0.1:5000\"] }}"
            ),
            "is in upstream.urls twice",
        ),
        (
            &format!("{{ urls = [\"{a}/v2/\"] }}"),
            "a path has no place in it",
        ),
        ("{ urls = [] }", "upstream.urls is empty"),
        (
            &format!("{{ urls = [\"{a}\"], connect_timeout = \"0s\" }}"),
            "upstream.connect_timeout is zero",
        ),
        (
            &format!("{{ urls = [\"{a}\"], conect_retry = \"1s\" }}"),
            "did you mean \"connect_retry\"?",
        ),
    ] {
        let config = config("", "").set("upstream", written);
        let problems = Proxy::try_start(directory(), "", &config).err();
        let problems = problems.unwrap_or_else(|| panic!("{written} is accepted"));
        assert!(
            problems.to_string().contains(said),
            "{written}:\n{problems}"
        );
    }
}

#[test]
fn a_new_ca_counts_from_the_next_reload() {
    let stranger = Authority::generate();
    let registry = Registry::accepting_all();
    let front = TlsFront::start(&registry, &stranger.issue(&["localhost"]));
    let proxy = gate(front.port());
    let request = TestRequest::alice("GET", MANIFEST);
    exchange(&proxy, HttpVersion::Http1, &request).assert_rejection(502, "UNAVAILABLE");
    proxy.write("ca.pem", format!("{}{}", AUTHORITY.pem(), stranger.pem()));
    proxy.reload().unwrap();
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    // A connection that the old CAs vouched for is not used by those who trust others.
    proxy.write("ca.pem", AUTHORITY.pem());
    proxy.reload().unwrap();
    exchange(&proxy, HttpVersion::Http1, &request).assert_rejection(502, "UNAVAILABLE");
}
