//! TLS termination: versions, ALPN, the selection of certificates, and clients that send no valid TLS handshake.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;

use rustls::ClientConnection;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::support::certs::{self, AUTHORITY};
use crate::support::client::{connect_tcp, is_timeout};
use crate::support::proxy::directory;
use crate::support::{Client, HttpVersion, Proxy, Registry, TestRequest, config, exchange, ping};

#[test]
fn tls_1_2_and_1_3_are_accepted() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for version in [&TLS12, &TLS13] {
        let config = certs::client_config(certs::root_certificate(), &[version], &["http/1.1"]);
        let mut client = Client::tls(proxy.https(), "localhost", config);
        assert_eq!(client.ping(), 200);
    }
}

#[test]
fn min_version_1_3_rejects_tls_1_2() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("[tls]\nmin_version = \"1.3\"\n", ""));
    let old = certs::client_config(certs::root_certificate(), &[&TLS12], &["http/1.1"]);
    assert!(Client::try_tls(proxy.https(), "localhost", old).is_err());
    let new = certs::client_config(certs::root_certificate(), &[&TLS13], &["http/1.1"]);
    let mut client = Client::tls(proxy.https(), "localhost", new);
    client
        .exchange(&TestRequest::new("GET", "/v2/"))
        .assert_rejection(401, "UNAUTHORIZED");
}

#[test]
fn alpn_selects_the_http_version() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for (offered, selected) in [
        (vec!["h2", "http/1.1"], Some("h2")),
        (vec!["http/1.1"], Some("http/1.1")),
        (vec!["http/1.0", "http/1.1"], Some("http/1.1")),
        (vec![], None),
    ] {
        let config =
            certs::client_config(certs::root_certificate(), rustls::ALL_VERSIONS, &offered);
        let name = "localhost".try_into().unwrap();
        let mut tls = ClientConnection::new(config.clone(), name).unwrap();
        let mut socket = connect_tcp(proxy.https());
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).unwrap();
        }
        assert_eq!(
            tls.alpn_protocol(),
            selected.map(str::as_bytes),
            "{offered:?}"
        );
        if selected != Some("h2") {
            let mut client = Client::tls(proxy.https(), "localhost", config);
            assert_eq!(client.ping(), 200);
        }
    }
}

#[test]
fn a_client_hello_in_single_bytes_is_accepted() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let config = certs::default_client_config("http/1.1");
    let mut tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut hello).unwrap();
    }
    let mut socket = connect_tcp(proxy.https());
    for byte in hello {
        socket.write_all(&[byte]).unwrap();
    }
    let mut client = Client::start_tls(tls, socket).unwrap();
    assert_eq!(client.ping(), 200);
}

#[test]
fn plain_http_on_a_tls_port_gets_400() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for method in ["GET", "POST", "OPTIONS"] {
        let mut client = Client::plain(proxy.https());
        let response = client.exchange(&TestRequest::alice(method, "/v2/"));
        assert_eq!(response.status, 400);
        assert_eq!(response.header("content-type"), "application/json");
        assert_eq!(
            response.header("docker-distribution-api-version"),
            "registry/2.0"
        );
        assert_eq!(response.header("connection"), "close");
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(body["errors"][0]["code"], "UNSUPPORTED");
        assert!(response.text().contains("https"));
        assert!(client.read_to_end().0.is_empty());
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_connection_with_neither_tls_nor_http_is_closed() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for bytes in [
        &b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"[..],
        b"SSH-2.0-x\r\n",
        &[0; 64],
    ] {
        let mut socket = connect_tcp(proxy.https());
        socket.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        match socket.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert!(
                !is_timeout(&error),
                "the proxy does not close the connection after {bytes:?}"
            ),
        }
    }
    // The proxy still serves other connections.
    assert_eq!(ping(&proxy, HttpVersion::Http1), 200);
}

#[test]
fn a_slow_handshake_is_closed_after_the_timeout() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, config("[limits]\nhandshake = \"200ms\"\n", ""));
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01"] {
        let mut socket = connect_tcp(proxy.https());
        socket.write_all(bytes).unwrap();
        let end = socket.read_to_end(&mut Vec::new());
        assert!(
            !end.is_err_and(|error| is_timeout(&error)),
            "the proxy does not close the connection after {bytes:?}"
        );
    }
}

/// Starts a proxy with two sites, which have different certificates and different realms.
fn two_sites(registry: &Registry) -> Proxy {
    let dir = directory();
    for name in ["a", "b"] {
        let (certificate, key) =
            AUTHORITY.issue(&[&format!("{name}.test"), &format!("*.{name}.test")]);
        std::fs::write(dir.path().join(format!("{name}.pem")), certificate).unwrap();
        std::fs::write(dir.path().join(format!("{name}-key.pem")), key).unwrap();
    }
    let site = |name: &str| {
        format!(
            "[[site]]\nhosts = [\"{name}.test\", \"*.{name}.test\"]\n\
             tls = {{ cert = \"{name}.pem\", key = \"{name}-key.pem\" }}\n[[site.route]]\npath = \"/v2/\"\n\
             upstream = \"{{upstream}}\"\n\
             auth = {{ mode = \"basic\", htpasswd = \"htpasswd\", realm = \"{name}\" }}\n"
        )
    };
    let all = format!(
        "[listen]\nhttps = [\"127.0.0.1:0\"]\nworkers = 1\n{}{}",
        site("a"),
        site("b")
    );
    Proxy::start_in(
        dir,
        &registry.url(),
        format!("[log]\naccess = false\n{all}"),
    )
}

#[test]
fn sni_selects_the_certificate_and_host_selects_the_site() {
    let registry = Registry::accepting_all();
    let proxy = two_sites(&registry);
    for name in ["a.test", "b.test", "x.b.test", "B.TEST"] {
        for (host, realm) in [
            ("a.test", "a"),
            ("A.Test:8443", "a"),
            ("y.a.test", "a"),
            ("b.test", "b"),
        ] {
            let config = certs::default_client_config("http/1.1");
            let mut client = Client::tls(proxy.https(), name, config);
            let response = client.exchange(&TestRequest::new("GET", "/v2/").host(host));
            assert_eq!(
                response.header("www-authenticate"),
                format!("Basic realm=\"{realm}\"")
            );
        }
    }
}

#[test]
fn an_unknown_sni_gets_the_certificate_of_the_first_site() {
    let registry = Registry::accepting_all();
    let proxy = two_sites(&registry);
    for name in ["other.test", "x.y.b.test"] {
        let config = certs::default_client_config("http/1.1");
        let error = Client::try_tls(proxy.https(), name, config).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let message = error.to_string();
        assert!(
            message.contains("a.test") && !message.contains("b.test\")"),
            "{message}"
        );
    }
}

#[test]
fn a_host_of_no_site_gets_421() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for host in ["other.test", "x.localhost", "127.0.0.1", "localhost.evil"] {
            let response = exchange(&proxy, http, &TestRequest::alice("GET", "/v2/").host(host));
            response.assert_rejection(421, "UNSUPPORTED");
            let elsewhere = exchange(&proxy, http, &TestRequest::alice("GET", "/").host(host));
            assert_eq!(elsewhere.status, 421);
            assert!(!elsewhere.has_header("www-authenticate"));
        }
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn the_ca_of_a_self_signed_site_survives_a_restart() {
    let registry = Registry::accepting_all();
    let text = config("[state]\ndir = \"state\"\n", "").set("tls", "\"self-signed\"");
    let mut dir = directory();
    for _ in 0..2 {
        let state = dir.path().join("state");
        let proxy = Proxy::start_in(dir, &registry.url(), &text);
        let root = CertificateDer::from_pem_file(state.join("ca.pem")).unwrap();
        let config = certs::client_config(root, rustls::ALL_VERSIONS, &["http/1.1"]);
        let mut client = Client::tls(proxy.https(), "localhost", config);
        assert_eq!(client.ping(), 200);
        for (file, expected) in [("ca.pem", 0o644), ("ca-key.pem", 0o600)] {
            let mode = std::fs::metadata(state.join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, expected, "{file}");
        }
        // The next proxy starts with the same CA in its state directory.
        dir = directory();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        for file in ["ca.pem", "ca-key.pem"] {
            std::fs::copy(state.join(file), dir.path().join("state").join(file)).unwrap();
        }
    }
}

#[test]
fn an_unusable_certificate_prevents_the_start() {
    let registry = Registry::accepting_all();
    let (other, _) = AUTHORITY.issue(&["localhost"]);
    for (file, text) in [
        ("cert.pem", other.as_str()),
        ("cert.pem", "no PEM"),
        ("key.pem", ""),
    ] {
        let dir = directory();
        std::fs::write(dir.path().join(file), text).unwrap();
        let refused = Proxy::try_start(dir, &registry.url(), config("", ""));
        let problems = refused
            .err()
            .expect("the configuration is rejected")
            .to_string();
        assert!(
            problems.contains("cert.pem") || problems.contains("key.pem"),
            "{problems}"
        );
    }
}
