//! Upstreams over https: verification of their certificates, client certificates, and session resumption.

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

/// Starts a proxy whose upstream is `https://localhost:PORT`, and whose upstream CA is [`AUTHORITY`].
fn start(port: u16) -> Proxy {
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
    let proxy = start(front.port());
    let body = pattern(3_000_000);
    for http in HttpVersion::BOTH {
        for is_chunked in [false, true] {
            let mut request = TestRequest::alice("PATCH", UPLOAD).body(body.clone());
            request.is_chunked = is_chunked;
            let response = exchange(&proxy, http, &request);
            assert_eq!(response.status, 200);
            assert!(response.is_whole && response.body == body, "{http:?}");
        }
    }
    let name = Some("localhost".to_owned());
    assert!(front.client_hellos().iter().all(|(sni, _)| *sni == name));
    // The `Host` at the registry is that of the client, not the name of the upstream.
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
    let start_with = |name: &str| {
        let dir = directory();
        std::fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
        let port = front.port();
        let upstream =
            format!("{{ urls = [\"https://127.0.0.1:{port}\"], ca = \"ca.pem\"{name} }}");
        Proxy::start_in(dir, "", config("", "").set("upstream", upstream))
    };
    for (name, status) in [
        (", server_name = \"registry.internal\"", 200),
        (", server_name = \"other.internal\"", 502),
        ("", 502),
    ] {
        let request = TestRequest::alice("GET", MANIFEST);
        let response = exchange(&start_with(name), HttpVersion::Http1, &request);
        assert_eq!(response.status, status, "{name}");
    }
    let mut names = front.client_hellos().into_iter().map(|(name, _)| name);
    assert!(names.any(|name| name.as_deref() == Some("registry.internal")));
}

/// Starts a proxy like [`start`] that presents the client certificate in `client.pem`.
fn start_with_client_certificate(port: u16, pair: &(String, String)) -> Proxy {
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
    // The registry closes the connection after each response, so that each request has a handshake of its own.
    let closing = OK.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let registry = Registry::responding(closing);
    let server = AUTHORITY.issue(&["localhost"]);
    let front = TlsFront::requiring(&registry, &server, &AUTHORITY.pem());
    let first = AUTHORITY.issue(&["gate.example"]);
    let proxy = start_with_client_certificate(front.port(), &first);
    let request = TestRequest::alice("GET", MANIFEST);
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    assert!(
        front
            .clients()
            .iter()
            .all(|certificate| *certificate == der(&first.0))
    );
    let second = AUTHORITY.issue(&["gate.example"]);
    write_client_files(&proxy.path(""), &second);
    eventually("the new certificate is presented", || {
        assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
        front.clients().last() == Some(&der(&second.0))
    });
    // A reload with unusable files keeps the certificate.
    proxy.write("client.pem", "nothing");
    proxy.reload().unwrap();
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
}

#[test]
fn without_a_required_client_certificate_the_status_is_502() {
    let registry = Registry::accepting_all();
    let server = AUTHORITY.issue(&["localhost"]);
    let front = TlsFront::requiring(&registry, &server, &AUTHORITY.pem());
    let proxy = start(front.port());
    let response = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", MANIFEST),
    );
    response.assert_rejection(502, "UNAVAILABLE");
    assert!(registry.requests().is_empty());
}

#[test]
fn connections_are_reused_and_sessions_are_resumed() {
    let closing = OK.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    for (response, handshakes) in [(OK.to_owned(), 1), (closing, 10)] {
        let registry = Registry::responding(response);
        let front = TlsFront::start(&registry, &AUTHORITY.issue(&["localhost"]));
        let proxy = start(front.port());
        // The health check at start has a connection of its own.
        eventually("the upstream is checked", || {
            front.client_hellos().len() == 1
        });
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
fn no_request_fails_because_an_idle_connection_was_closed() {
    let registry = Registry::start(|exchange| {
        exchange.body();
        exchange.send(OK);
        exchange.close();
    });
    let front = TlsFront::start(&registry, &AUTHORITY.issue(&["localhost"]));
    let proxy = start(front.port());
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
    let untrusted = Authority::generate();
    for certificate in [
        untrusted.issue(&["localhost"]),
        AUTHORITY.issue(&["elsewhere.example"]),
        AUTHORITY.issue_until(&["localhost"], 2001),
    ] {
        let registry = Registry::accepting_all();
        let front = TlsFront::start(&registry, &certificate);
        let proxy = start(front.port());
        for http in HttpVersion::BOTH {
            for request in [
                TestRequest::alice("GET", MANIFEST),
                TestRequest::alice("PATCH", UPLOAD).body("secret"),
            ] {
                let response = exchange(&proxy, http, &request);
                response.assert_rejection(502, "UNAVAILABLE");
                assert!(!response.text().contains("certificate"), "{response:?}");
            }
        }
        assert_eq!(registry.connections(), 0);
    }
}

#[test]
fn there_is_no_fallback_to_plain_http() {
    let registry = Registry::start(|_| panic!("a request without TLS"));
    let port = registry.authority().rsplit_once(':').unwrap().1;
    // The ClientHello is no HTTP request. How the registry responds to it does not matter.
    let proxy = start(port.parse().unwrap());
    for http in HttpVersion::BOTH {
        exchange(&proxy, http, &TestRequest::alice("GET", MANIFEST))
            .assert_rejection(502, "UNAVAILABLE");
    }
}

#[test]
fn the_system_cas_do_not_verify_a_test_certificate() {
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
        // On a machine without CA certificates the proxy does not start.
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
fn an_invalid_upstream_is_rejected_with_a_message() {
    let a = "http://127.0.0.1:5000";
    for (written, message) in [
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
            problems.to_string().contains(message),
            "{written}:\n{problems}"
        );
    }
}

#[test]
fn a_new_ca_takes_effect_with_the_next_reload() {
    let untrusted = Authority::generate();
    let registry = Registry::accepting_all();
    let front = TlsFront::start(&registry, &untrusted.issue(&["localhost"]));
    let proxy = start(front.port());
    let request = TestRequest::alice("GET", MANIFEST);
    exchange(&proxy, HttpVersion::Http1, &request).assert_rejection(502, "UNAVAILABLE");
    proxy.write("ca.pem", format!("{}{}", AUTHORITY.pem(), untrusted.pem()));
    proxy.reload().unwrap();
    assert_eq!(exchange(&proxy, HttpVersion::Http1, &request).status, 200);
    // After the reload, the proxy does not use a connection that was verified with the old CAs.
    proxy.write("ca.pem", AUTHORITY.pem());
    proxy.reload().unwrap();
    exchange(&proxy, HttpVersion::Http1, &request).assert_rejection(502, "UNAVAILABLE");
}
