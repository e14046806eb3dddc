//! The proxy watches certificate files. However a renewal writes the files, new connections get the new certificate within
//! seconds and without a reload, and no connection gets a certificate with the key of another one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use crate::binary::{ServeProcess, command, configured};
use crate::support::client::connect_tcp;
use crate::support::proxy::directory;
use crate::support::{Client, PATIENCE, Proxy, Registry, certs, config, pause};

/// Performs a TLS handshake, which fails if the key does not belong to the certificate. Returns the certificate of the server
/// and the kind of the handshake.
pub(crate) fn shake(
    address: std::net::SocketAddr,
    config: &Arc<ClientConfig>,
) -> (Vec<u8>, HandshakeKind) {
    let name = "localhost".try_into().unwrap();
    let mut tls = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut socket = connect_tcp(address);
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).unwrap();
    }
    let certificate = tls.peer_certificates().unwrap()[0].to_vec();
    (certificate, tls.handshake_kind().unwrap())
}

fn served_certificate(proxy: &Proxy) -> Vec<u8> {
    shake(proxy.https(), &certs::default_client_config("http/1.1")).0
}

/// Waits until the proxy serves another certificate than `before`, and asserts that this happens within [`SOON`] after `since`.
fn wait_for_another_certificate(proxy: &Proxy, before: &[u8], since: Instant) {
    while served_certificate(proxy) == before {
        assert!(
            since.elapsed() < PATIENCE,
            "the proxy still serves the old certificate"
        );
        pause(Duration::from_millis(5));
    }
    let took = since.elapsed();
    assert!(took < SOON, "after {took:?}");
}

/// The documented bound. The proxy usually takes 1.5 seconds.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_renewal_in_place_reaches_new_connections_and_keeps_open_ones() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut open = Client::connect(&proxy);
    let before = served_certificate(&proxy);
    let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
    proxy.write("cert.pem", cert);
    // The proxy may read the new certificate before the key is there, and must not use it.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(700) {
        assert_eq!(served_certificate(&proxy), before);
    }
    proxy.write("key.pem", key);
    wait_for_another_certificate(&proxy, &before, Instant::now());
    assert_eq!(open.ping(), 200);
}

#[test]
fn a_renewal_that_replaces_one_link_after_the_other_is_used() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let path = |name: &str| dir.path().join(name);
    let archive = |number: u32| {
        let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
        fs::write(path(&format!("fullchain{number}.pem")), cert).unwrap();
        fs::write(path(&format!("privkey{number}.pem")), key).unwrap();
    };
    let link = |name: &str, to: &str| {
        let _ = fs::remove_file(path(name));
        symlink(to, path(name)).unwrap();
    };
    archive(1);
    link("cert.pem", "fullchain1.pem");
    link("key.pem", "privkey1.pem");
    let text = config("", "");
    let root = dir.path().to_owned();
    let proxy = Proxy::start_in(dir, &registry.url(), &text);
    let before = served_certificate(&proxy);
    let path = |name: &str| root.join(name);
    let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
    fs::write(path("fullchain2.pem"), cert).unwrap();
    fs::write(path("privkey2.pem"), key).unwrap();
    for (name, to) in [("key.pem", "privkey2.pem"), ("cert.pem", "fullchain2.pem")] {
        fs::remove_file(path(name)).unwrap();
        assert_eq!(served_certificate(&proxy), before);
        symlink(to, path(name)).unwrap();
        assert_eq!(served_certificate(&proxy), before);
    }
    wait_for_another_certificate(&proxy, &before, Instant::now());
}

#[test]
fn a_renewal_that_swaps_the_folder_is_used_under_load() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let root = dir.path().to_owned();
    for folder in ["a", "b"] {
        let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
        fs::create_dir(root.join(folder)).unwrap();
        fs::write(root.join(folder).join("cert.pem"), cert).unwrap();
        fs::write(root.join(folder).join("key.pem"), key).unwrap();
    }
    symlink("a", root.join("now")).unwrap();
    let text = config("", "").certificate("now/cert.pem", "now/key.pem");
    let proxy = Proxy::start_in(dir, &registry.url(), &text);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                served_certificate(&proxy);
            }
        });
        for target in ["b", "a", "b"] {
            let before = served_certificate(&proxy);
            symlink(target, root.join("next")).unwrap();
            fs::rename(root.join("next"), root.join("now")).unwrap();
            wait_for_another_certificate(&proxy, &before, Instant::now());
        }
        is_over.store(true, Ordering::Relaxed);
        clients.join().unwrap();
    });
}

#[test]
fn tls_sessions_are_resumed_after_a_renewal_and_after_a_reload() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for version in [&TLS12, &TLS13] {
        let config = certs::client_config(certs::root_certificate(), &[version], &["http/1.1"]);
        // In TLS 1.3 the ticket comes after the handshake, at the latest with the first response, and can be used once.
        let fetch_ticket = || {
            let mut client = Client::tls(proxy.https(), "localhost", Arc::clone(&config));
            assert_eq!(client.ping(), 200);
        };
        let kind = || shake(proxy.https(), &config).1;
        assert_eq!(kind(), HandshakeKind::Full);
        fetch_ticket();
        assert_eq!(kind(), HandshakeKind::Resumed);
        fetch_ticket();
        let before = served_certificate(&proxy);
        let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
        proxy.write("cert.pem", cert);
        proxy.write("key.pem", key);
        wait_for_another_certificate(&proxy, &before, Instant::now());
        assert_eq!(kind(), HandshakeKind::Resumed);
        fetch_ticket();
        proxy.reload().unwrap();
        assert_eq!(kind(), HandshakeKind::Resumed);
    }
}

#[test]
fn a_reload_right_after_a_renewal_uses_the_new_certificate() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let before = served_certificate(&proxy);
    let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
    proxy.write("cert.pem", cert);
    proxy.write("key.pem", key);
    proxy.reload().unwrap();
    assert_ne!(served_certificate(&proxy), before);
}

#[test]
fn the_log_reports_each_change_of_a_certificate_once() {
    let registry = Registry::accepting_all();
    let text = config("[log]\naccess = false\n", "");
    let (dir, file) = configured(text.upstream(&registry.url()));
    let path = |name: &str| dir.path().join(name);
    let replace = |name: &str, text: &str| {
        fs::write(path("draft"), text).unwrap();
        fs::rename(path("draft"), path(name)).unwrap();
    };
    let old = fs::read_to_string(path("cert.pem")).unwrap();
    let proxy = ServeProcess::spawn(&mut command(&["serve", "-c", &file]));
    let (cert, key) = certs::AUTHORITY.issue(&["other.test"]);
    replace("cert.pem", &cert);
    let line = proxy.line("does not belong to the certificate");
    assert!(
        line.contains("the certificate as last read stays"),
        "{line}"
    );
    replace("cert.pem", &old);
    // The next line shows that the problem was logged once.
    assert!(
        proxy
            .next_line()
            .contains("certificate and key can be used again")
    );
    replace("cert.pem", &cert);
    proxy.line("does not belong to the certificate");
    let key_file = path("key.pem");
    replace("key.pem", &key);
    protect(&key_file);
    let renewed = proxy.line("certificate renewed");
    assert!(
        renewed.contains(" hosts=other.test until=4000-01-01"),
        "{renewed}"
    );
    let uncovered = proxy.line("does not cover");
    assert!(uncovered.contains("\"localhost\""), "{uncovered}");
}

fn protect(key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
}
