//! TLS handshakes that fail: how the proxy logs and counts them.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::admin::{admin, get, number, watched};
use crate::binary::{ServeProcess, configured};
use crate::support::client::connect_tcp;
use crate::support::eventually;
use crate::support::{Client, Proxy, Registry, assert_contains, certs, config};

/// Turns the access log off, so that every line on standard output comes from the process log.
const LOG: &str = "[log]\naccess = false\n";

/// The TLS configuration of a client that does not trust the authority of the site's certificate.
fn distrusting_client() -> Arc<ClientConfig> {
    let other = certs::Authority::another().pem();
    let root = CertificateDer::from_pem_slice(other.as_bytes()).unwrap();
    certs::client_config(root, rustls::ALL_VERSIONS, &["http/1.1"])
}

/// Sends these bytes over plain TCP, and returns everything that the proxy sends until it closes the connection.
fn send_raw(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = connect_tcp(address);
    socket.write_all(bytes).unwrap();
    let mut received = Vec::new();
    socket.read_to_end(&mut received).unwrap();
    received
}

fn start(registry: &Registry) -> (tempfile::TempDir, ServeProcess) {
    let text = config(LOG, "").upstream(&registry.url());
    let (dir, file) = configured(&text);
    let proxy = ServeProcess::start(&file);
    (dir, proxy)
}

#[test]
fn a_failed_handshake_is_logged_with_its_alert_and_an_explanation() {
    let registry = Registry::accepting_all();
    let (_dir, proxy) = start(&registry);
    assert!(Client::try_tls(proxy.address, "localhost", distrusting_client()).is_err());
    let line = proxy.line("TLS handshake failed");
    assert_contains(
        &line,
        &[
            " INFO TLS handshake failed: the client does not trust the certificate client=127.0.0.1",
            "server_name=localhost",
            "alert=unknown_ca",
            "sent_by=client",
        ],
    );
    // The record type says application data, not handshake.
    let received = send_raw(proxy.address, b"\x17\x03\x03\x00\x05hello");
    assert_eq!(received, [21, 3, 3, 0, 2, 2, 10]);
    let line = proxy.line("TLS handshake failed");
    assert!(
        line.contains("alert=unexpected_message sent_by=proxy"),
        "{line}"
    );
    // The server name has a port, as the client `hey` sends it.
    let received = send_raw(proxy.address, &hello_with_a_port());
    assert_eq!(received, [21, 3, 3, 0, 2, 2, 47]);
    let line = proxy.line("TLS handshake failed");
    assert!(
        line.contains("is no host name") && line.contains("server_name=localhost:8443"),
        "{line}"
    );
    let received = send_raw(proxy.address, b"GET / HTTP/1.0\r\n\r\n");
    assert!(received.starts_with(b"HTTP/1.1 400 "));
    proxy.line(" INFO plain HTTP on a TLS port client=127.0.0.1");
}

/// A ClientHello whose server name contains a port. rustls does not produce such a name, so the test changes the bytes.
fn hello_with_a_port() -> Vec<u8> {
    let config = certs::default_client_config("http/1.1");
    let placeholder = "localhostx8443";
    let name = placeholder.try_into().unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut windows = hello.windows(placeholder.len());
    let at = windows
        .position(|bytes| bytes == placeholder.as_bytes())
        .unwrap();
    hello[at + "localhost".len()] = b':';
    hello
}

#[test]
fn a_flood_of_failed_handshakes_is_logged_at_a_limited_rate() {
    let registry = Registry::accepting_all();
    let (_dir, proxy) = start(&registry);
    for _ in 0..50 {
        send_raw(proxy.address, b"\x17\x03\x03\x00\x05hello");
    }
    // The rate limit is separate for each kind of failure, so this failure is logged.
    assert!(Client::try_tls(proxy.address, "localhost", distrusting_client()).is_err());
    let mut lines = 0;
    loop {
        let line = proxy.next_line();
        if line.contains("alert=unknown_ca") {
            break;
        }
        lines += usize::from(line.contains("alert=unexpected_message"));
    }
    assert!((1..=10).contains(&lines), "{lines} lines");
}

#[test]
fn failed_handshakes_are_counted_by_alert_and_sender() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, watched(LOG, "127.0.0.1:0"));
    let count = |alert: &str, sender: &str| {
        let name = format!(
            "tidegate_tls_handshake_alerts_total{{alert=\"{alert}\",sent_by=\"{sender}\"}}"
        );
        number(&get(admin(&proxy), "/metrics"), &name)
    };
    assert_eq!(count("unknown_ca", "client"), 0.0);
    for _ in 0..3 {
        assert!(Client::try_tls(proxy.https(), "localhost", distrusting_client()).is_err());
        send_raw(proxy.https(), b"\x17\x03\x03\x00\x05hello");
    }
    eventually("the alerts of the client are counted", || {
        count("unknown_ca", "client") == 3.0
    });
    eventually("the alerts of the proxy are counted", || {
        count("unexpected_message", "proxy") == 3.0
    });
    assert_eq!(count("unknown_ca", "proxy"), 0.0);
}
