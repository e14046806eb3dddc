//! Several instances of the proxy as one service: what they share, and how one of them leaves.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tidegate::server::Command;

use crate::admin::{admin, get, watched};
use crate::binary::{ServeProcess, command, run, text};
use crate::live_certificates::shake;
use crate::support::certs::AUTHORITY;
use crate::support::proxy::{TestConfig, directory};
use crate::support::{Client, Proxy, Registry, TestRequest, certs, config, eventually, pause};

/// Asks once, so that the client has read the ticket of TLS 1.3, which comes after the handshake.
fn stock(proxy: &Proxy, config: &Arc<ClientConfig>) {
    let mut client = Client::tls(proxy.https(), "localhost", Arc::clone(config));
    assert_eq!(client.ping(), 200);
}

fn with_keys(dir: &tempfile::TempDir) -> TestConfig {
    let dir = dir.path().join("tickets");
    config(&format!("[tls]\nticket_keys = \"{}\"\n", dir.display()), "")
}

#[test]
fn a_client_resumes_at_any_instance_that_shares_the_ticket_keys() {
    let registry = Registry::accepting_all();
    let shared = tempfile::tempdir().unwrap();
    let one = Proxy::start(&registry, with_keys(&shared));
    let other = Proxy::start(&registry, with_keys(&shared));
    let alone = Proxy::with_defaults(&registry);
    for version in [&TLS12, &TLS13] {
        let client = certs::client_config(certs::root_certificate(), &[version], &["http/1.1"]);
        stock(&one, &client);
        assert_eq!(shake(other.https(), &client).1, HandshakeKind::Resumed);
        stock(&other, &client);
        assert_eq!(shake(one.https(), &client).1, HandshakeKind::Resumed);
        stock(&one, &client);
        assert_ne!(shake(alone.https(), &client).1, HandshakeKind::Resumed);
    }
    // A restart keeps the sessions as well.
    let client = certs::client_config(certs::root_certificate(), &[&TLS13], &["http/1.1"]);
    stock(&one, &client);
    drop((one, other));
    let restarted = Proxy::start(&registry, with_keys(&shared));
    assert_eq!(shake(restarted.https(), &client).1, HandshakeKind::Resumed);
    for entry in fs::read_dir(shared.path().join("tickets")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_session_is_worth_nothing_at_an_instance_that_asks_for_certificates() {
    let registry = Registry::accepting_all();
    let shared = tempfile::tempdir().unwrap();
    let open = Proxy::start(&registry, with_keys(&shared));
    let dir = directory();
    fs::write(dir.path().join("clients.pem"), AUTHORITY.pem()).unwrap();
    let asking = with_keys(&shared).after(
        "tls",
        "client_ca = \"clients.pem\"\nclient_auth = \"optional\"",
    );
    let asking = Proxy::start_in(dir, &registry.url(), asking);
    for version in [&TLS12, &TLS13] {
        let client = certs::client_config(certs::root_certificate(), &[version], &["http/1.1"]);
        stock(&open, &client);
        assert_ne!(shake(asking.https(), &client).1, HandshakeKind::Resumed);
        stock(&asking, &client);
        assert_ne!(shake(open.https(), &client).1, HandshakeKind::Resumed);
    }
}

#[test]
fn a_reload_turns_shared_keys_on_and_keeps_them() {
    let registry = Registry::accepting_all();
    let shared = tempfile::tempdir().unwrap();
    let one = Proxy::with_defaults(&registry);
    let other = Proxy::start(&registry, with_keys(&shared));
    one.configure(&registry, with_keys(&shared));
    one.reload().unwrap();
    one.reload().unwrap();
    let client = certs::client_config(certs::root_certificate(), &[&TLS13], &["http/1.1"]);
    stock(&one, &client);
    assert_eq!(shake(other.https(), &client).1, HandshakeKind::Resumed);
}

#[test]
fn a_folder_that_cannot_be_used_is_rejected_and_check_writes_nothing() {
    let registry = Registry::accepting_all();
    let shared = tempfile::tempdir().unwrap();
    let file = shared.path().join("proxy.toml");
    let dir = directory();
    for name in ["cert.pem", "key.pem", "htpasswd"] {
        fs::rename(dir.path().join(name), shared.path().join(name)).unwrap();
    }
    let good = with_keys(&shared).upstream(&registry.url());
    fs::write(&file, good.to_string()).unwrap();
    let shown = file.display().to_string();
    assert_eq!(run(&["check", "-c", &shown]).status.code(), Some(0));
    let tickets = shared.path().join("tickets");
    assert!(!tickets.exists(), "check writes nothing");
    fs::write(&tickets, "a file in the place of the folder").unwrap();
    for command in ["check", "serve"] {
        let output = run(&[command, "-c", &shown]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let report = text(&output.stderr);
        assert!(report.contains("error: tls.ticket_keys: "), "{report}");
    }
}

#[test]
fn two_processes_that_start_together_share_one_ca() {
    let registry = Registry::accepting_all();
    let state = tempfile::tempdir().unwrap();
    let state = state.path().join("state");
    let text = format!("[state]\ndir = \"{}\"\n", state.display());
    let text = config(&text, "")
        .set("tls", "\"self-signed\"")
        .upstream(&registry.url())
        .to_string();
    let dirs = [directory(), directory()];
    let processes = std::thread::scope(|scope| {
        let starting = dirs.each_ref().map(|dir| {
            let file = dir.path().join("proxy.toml");
            fs::write(&file, &text).unwrap();
            scope.spawn(move || {
                let file = file.to_str().unwrap();
                ServeProcess::spawn(&mut command(&["serve", "-c", file]))
            })
        });
        starting.map(|process| process.join().unwrap())
    });
    let root = CertificateDer::from_pem_file(state.join("ca.pem")).unwrap();
    let client = certs::client_config(root, rustls::ALL_VERSIONS, &["http/1.1"]);
    for process in &processes {
        let mut client = Client::tls(process.address, "localhost", Arc::clone(&client));
        assert_eq!(client.ping(), 200);
    }
}

const DELAYED: &str = "[limits]\ndrain_delay = \"2s\"\n";

#[test]
fn readiness_is_false_before_the_listener_stops_accepting() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, watched(DELAYED, "127.0.0.1:0"));
    eventually("it is ready", || {
        get(admin(&proxy), "/readyz").status == 200
    });
    let told = Instant::now();
    proxy.send_command(Command::Stop);
    eventually("it is not ready", || {
        get(admin(&proxy), "/readyz").status == 503
    });
    let reason = get(admin(&proxy), "/readyz").text();
    assert!(
        reason.contains("accepts connections until then"),
        "{reason}"
    );
    // New connections are served as before, and are not closed.
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        let answer = client.exchange(&TestRequest::alice("GET", "/v2/"));
        assert_eq!(
            (answer.status, answer.header_values("connection").len()),
            (200, 0)
        );
        pause(Duration::from_millis(100));
    }
    eventually("the listener is closed", || {
        TcpStream::connect(proxy.https()).is_err()
    });
    assert!(
        told.elapsed() >= Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    drop(client);
    assert_eq!(proxy.wait(), 0);
}

#[test]
fn a_second_stop_ends_the_delay_and_the_drain() {
    let registry = Registry::accepting_all();
    let delayed = "[limits]\ndrain_delay = \"60s\"\n";
    let text = config(delayed, "").upstream(&registry.url()).to_string();
    let (_dir, file) = crate::binary::configured(text);
    let mut process = ServeProcess::start(&file);
    let mut client = process.client();
    assert_eq!(client.ping(), 200);
    let began = Instant::now();
    process.signal(Signal::TERM);
    process.line("not ready from now on");
    assert_eq!(process.login("alice:pw"), 200, "it still accepts");
    process.signal(Signal::TERM);
    process.line("stopped");
    assert_eq!(process.end(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20));
}
