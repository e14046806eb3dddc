//! TLS handshakes that fail: what the log and the metrics say about them.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::admin::{admin, get, number, watched};
use crate::binary::{Gate, configured};
use crate::support::client::connect_tcp;
use crate::support::eventually;
use crate::support::{Client, Proxy, Registry, certs, config};

/// No access log, so that every line is the process's own.
const LOG: &str = "[log]\naccess = false\n";

/// A client that knows another authority than the site's.
fn stranger() -> Arc<ClientConfig> {
    let other = certs::Authority::another().pem();
    let root = CertificateDer::from_pem_slice(other.as_bytes()).unwrap();
    certs::client_config(root, rustls::ALL_VERSIONS, &["http/1.1"])
}

/// What comes back over plain TCP for these bytes.
fn answer_to(address: std::net::SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = connect_tcp(address);
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    answer
}

fn gate(registry: &Registry) -> (tempfile::TempDir, Gate) {
    let text = config(LOG, "").upstream(&registry.url());
    let (dir, file) = configured(&text);
    let gate = Gate::start(&file);
    (dir, gate)
}

#[test]
fn a_failed_handshake_is_logged_with_its_alert_in_words() {
    let registry = Registry::accepting_all();
    let (_dir, gate) = gate(&registry);
    assert!(Client::try_tls(gate.address, "localhost", stranger()).is_err());
    let line = gate.line("TLS handshake failed");
    for words in [
        " INFO TLS handshake failed: the client does not trust the certificate client=127.0.0.1",
        "server_name=localhost",
        "alert=unknown_ca",
        "sent_by=client",
    ] {
        assert!(line.contains(words), "{words} in {line}");
    }
    // Bytes that are no ClientHello.
    let answer = answer_to(gate.address, b"\x17\x03\x03\x00\x05hello");
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 10]);
    let line = gate.line("TLS handshake failed");
    assert!(
        line.contains("alert=unexpected_message sent_by=proxy"),
        "{line}"
    );
    // A server name with a port, as hey sends it.
    let answer = answer_to(gate.address, &hello_with_a_port());
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 47]);
    let line = gate.line("TLS handshake failed");
    assert!(
        line.contains("is no host name") && line.contains("server_name=localhost:8443"),
        "{line}"
    );
    let answer = answer_to(gate.address, b"GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 400 "));
    gate.line(" INFO plain HTTP on a TLS port client=127.0.0.1");
}

/// A hello of rustls' client whose name was changed on the way.
fn hello_with_a_port() -> Vec<u8> {
    let config = certs::default_client_config("http/1.1");
    let stand_in = "localhostx8443";
    let name = stand_in.try_into().unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut windows = hello.windows(stand_in.len());
    let at = windows
        .position(|bytes| bytes == stand_in.as_bytes())
        .unwrap();
    hello[at + "localhost".len()] = b':';
    hello
}

#[test]
fn a_flood_of_failed_handshakes_does_not_fill_the_log() {
    let registry = Registry::accepting_all();
    let (_dir, gate) = gate(&registry);
    for _ in 0..50 {
        answer_to(gate.address, b"\x17\x03\x03\x00\x05hello");
    }
    // Another kind of failure has lines of its own.
    assert!(Client::try_tls(gate.address, "localhost", stranger()).is_err());
    let mut lines = 0;
    loop {
        let line = gate.next_line();
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
        assert!(Client::try_tls(proxy.https(), "localhost", stranger()).is_err());
        answer_to(proxy.https(), b"\x17\x03\x03\x00\x05hello");
    }
    eventually("they are counted", || count("unknown_ca", "client") == 3.0);
    eventually("they are counted", || {
        count("unexpected_message", "proxy") == 3.0
    });
    assert_eq!(count("unknown_ca", "proxy"), 0.0);
}
