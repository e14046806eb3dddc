//! Certificates are live: however a renewal writes its files, new connections get the new one within seconds, without a
//! reload, and nobody ever gets a certificate with another's key.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use crate::binary::{Gate, command, configured};
use crate::support::client::connect_tcp;
use crate::support::proxy::directory;
use crate::support::{Client, PATIENCE, Proxy, Registry, TestRequest, certs, config, pause};

/// A handshake, which fails unless the key is the certificate's, and the certificate it showed.
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

fn shown(proxy: &Proxy) -> Vec<u8> {
    shake(proxy.https(), &certs::default_client_config("http/1.1")).0
}

/// Shakes hands until another certificate is shown, which must be soon after `since`.
fn wait_for_another_certificate(proxy: &Proxy, before: &[u8], since: Instant) {
    while shown(proxy) == before {
        assert!(since.elapsed() < PATIENCE, "never another");
        pause(Duration::from_millis(5));
    }
    let took = since.elapsed();
    assert!(took < SOON, "after {took:?}");
}

/// What is promised; a second and a half is what it takes.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_renewal_in_place_is_shown_to_new_connections_alone() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let mut open = Client::connect(&proxy);
    let before = shown(&proxy);
    let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
    proxy.write("cert.pem", cert);
    // The key comes when the certificate may have been seen alone.
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(700) {
        assert_eq!(shown(&proxy), before);
    }
    proxy.write("key.pem", key);
    wait_for_another_certificate(&proxy, &before, Instant::now());
    assert_eq!(
        open.exchange(&TestRequest::alice("GET", "/v2/")).status,
        200
    );
}

#[test]
fn links_are_set_anew_one_after_the_other_as_certbot_does_it() {
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
    let before = shown(&proxy);
    let path = |name: &str| root.join(name);
    let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
    fs::write(path("fullchain2.pem"), cert).unwrap();
    fs::write(path("privkey2.pem"), key).unwrap();
    for (name, to) in [("key.pem", "privkey2.pem"), ("cert.pem", "fullchain2.pem")] {
        fs::remove_file(path(name)).unwrap();
        assert_eq!(shown(&proxy), before);
        symlink(to, path(name)).unwrap();
        assert_eq!(shown(&proxy), before);
    }
    wait_for_another_certificate(&proxy, &before, Instant::now());
}

#[test]
fn a_folder_is_swapped_while_clients_come() {
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
                shown(&proxy);
            }
        });
        for target in ["b", "a", "b"] {
            let before = shown(&proxy);
            symlink(target, root.join("next")).unwrap();
            fs::rename(root.join("next"), root.join("now")).unwrap();
            wait_for_another_certificate(&proxy, &before, Instant::now());
        }
        is_over.store(true, Ordering::Relaxed);
        clients.join().unwrap();
    });
}

#[test]
fn sessions_go_on_after_a_renewal_and_after_a_reload() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for version in [&TLS12, &TLS13] {
        let config = certs::client_config(certs::root_certificate(), &[version], &["http/1.1"]);
        // Of TLS 1.3 the ticket comes after the handshake, with the first answer at the latest, and serves once.
        let stock = || {
            let mut client = Client::tls(proxy.https(), "localhost", Arc::clone(&config));
            assert_eq!(
                client.exchange(&TestRequest::alice("GET", "/v2/")).status,
                200
            );
        };
        let kind = || shake(proxy.https(), &config).1;
        assert_eq!(kind(), HandshakeKind::Full);
        stock();
        assert_eq!(kind(), HandshakeKind::Resumed);
        stock();
        let before = shown(&proxy);
        let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
        proxy.write("cert.pem", cert);
        proxy.write("key.pem", key);
        wait_for_another_certificate(&proxy, &before, Instant::now());
        assert_eq!(kind(), HandshakeKind::Resumed);
        stock();
        proxy.reload().unwrap();
        assert_eq!(kind(), HandshakeKind::Resumed);
    }
}

#[test]
fn a_reload_right_after_a_renewal_takes_it() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    let before = shown(&proxy);
    let (cert, key) = certs::AUTHORITY.issue(&["localhost"]);
    proxy.write("cert.pem", cert);
    proxy.write("key.pem", key);
    proxy.reload().unwrap();
    assert_ne!(shown(&proxy), before);
}

#[test]
fn the_log_tells_once_what_became_of_a_certificate() {
    let registry = Registry::accepting_all();
    let text = config("[log]\naccess = false\n", "");
    let (dir, file) = configured(text.upstream(&registry.url()));
    let path = |name: &str| dir.path().join(name);
    let replace = |name: &str, text: &str| {
        fs::write(path("draft"), text).unwrap();
        fs::rename(path("draft"), path(name)).unwrap();
    };
    let old = fs::read_to_string(path("cert.pem")).unwrap();
    let gate = Gate::spawn(&mut command(&["serve", "-c", &file]));
    let (cert, key) = certs::AUTHORITY.issue(&["other.test"]);
    replace("cert.pem", &cert);
    let line = gate.line("does not belong to the certificate");
    assert!(
        line.contains("the certificate as last read stays"),
        "{line}"
    );
    replace("cert.pem", &old);
    // Nothing lies between: it was told once.
    assert!(
        gate.next_line()
            .contains("certificate and key can be used again")
    );
    replace("cert.pem", &cert);
    gate.line("does not belong to the certificate");
    let key_file = path("key.pem");
    replace("key.pem", &key);
    protect(&key_file);
    let renewed = gate.line("certificate renewed");
    assert!(
        renewed.contains(" hosts=other.test until=4000-01-01"),
        "{renewed}"
    );
    let uncovered = gate.line("does not cover");
    assert!(uncovered.contains("\"localhost\""), "{uncovered}");
}

fn protect(key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
}
