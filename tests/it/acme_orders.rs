//! ACME orders at a server that fails as a test says, with a clock that the tests control; and what a proxy serves
//! meanwhile.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::ClientConnection;
use tempfile::TempDir;
use tidegate::acme::{Acme, ManagedHost, Renewals, Settings};
use tidegate::upstream::ServerRoots;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Runtime;

use crate::binary::ServeProcess;
use crate::supervised::{Manager, Successor, serve};
use crate::support::acme::Directory;
use crate::support::certs::{self, AUTHORITY};
use crate::support::client::connect_tcp;
use crate::support::proxy::directory as test_directory;
use crate::support::{Client, PATIENCE, Proxy, Registry, TestRequest, eventually_some};

/// An ACME server, the part of the proxy that orders certificates there, and the clock of the test.
struct TestAcme {
    directory: Directory,
    runtime: Runtime,
    renewals: Renewals,
    acme: Arc<Acme>,
    hosts: Vec<Arc<ManagedHost>>,
    start: OffsetDateTime,
    dir: TempDir,
}

impl TestAcme {
    fn new(hosts: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
        let directory = Directory::start();
        let start = OffsetDateTime::now_utc();
        let (acme, hosts) = build_acme(&directory, &dir, hosts, None);
        Self {
            directory,
            runtime,
            renewals: Renewals::default(),
            acme,
            hosts,
            start,
            dir,
        }
    }

    /// Builds the ACME state for these hosts from the present state, as a reload does.
    fn reload(&mut self, hosts: &[&str]) {
        (self.acme, self.hosts) = build_acme(&self.directory, &self.dir, hosts, Some(&self.acme));
    }

    /// Ticks at this many seconds after the start until the condition holds.
    #[track_caller]
    fn tick_until(&mut self, seconds: u64, is_satisfied: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_satisfied(self) {
            assert!(Instant::now() < deadline, "the condition never held");
            self.tick(seconds);
        }
    }

    /// Ticks until the running orders have ended, the tasks that they spawned have ended, too, and their results were
    /// recorded.
    #[track_caller]
    fn settle(&mut self, seconds: u64) {
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..3 {
            self.tick(seconds);
            while self.runtime.metrics().num_alive_tasks() > 0 {
                assert!(Instant::now() < deadline, "the orders did not end");
                self.step();
            }
        }
    }

    fn tick(&mut self, seconds: u64) {
        let now = self.start + Duration::from_secs(seconds);
        let _in_runtime = self.runtime.enter();
        self.renewals.tick(Some(&self.acme), now);
        self.step();
    }

    /// Lets the orders run for 10 ms.
    fn step(&self) {
        let moment = async { tokio::time::sleep(Duration::from_millis(10)).await };
        self.runtime.block_on(moment);
    }

    fn has_certificate(&self, host: usize) -> bool {
        self.hosts[host].slot().current().is_some()
    }

    fn orders(&self) -> usize {
        self.directory.state().orders.len()
    }
}

fn build_acme(
    directory: &Directory,
    dir: &TempDir,
    hosts: &[&str],
    old: Option<&Acme>,
) -> (Arc<Acme>, Vec<Arc<ManagedHost>>) {
    let settings = Settings {
        directory: directory.url(),
        email: None,
        roots: ServerRoots::of_file(&dir.path().join("ca.pem")).unwrap(),
        has_http_listener: false,
    };
    let mut acme = Acme::new(settings, &dir.path().join("state"), old);
    let now = OffsetDateTime::now_utc();
    let add = |host: &&str| acme.add(host, old, None, now).0;
    let hosts = hosts.iter().map(add).collect();
    (Arc::new(acme), hosts)
}

const HOUR: u64 = 3600;

#[test]
fn a_retry_after_of_the_acme_server_is_obeyed_across_reloads() {
    let mut acme = TestAcme::new(&["gate.test"]);
    let rejection = (
        "429 Too Many Requests",
        "Retry-After: 7200\r\n",
        "rateLimited",
    );
    let rejected = [("gate.test".to_owned(), rejection)];
    acme.directory.state().rejected_hosts.extend(rejected);
    acme.tick_until(0, |acme| acme.orders() == 1);
    acme.settle(0);
    acme.directory.state().rejected_hosts.clear();
    acme.settle(2 * HOUR - 60);
    acme.reload(&["gate.test"]);
    acme.settle(2 * HOUR - 60);
    assert_eq!(acme.orders(), 1);
    acme.tick_until(2 * HOUR + 60, |acme| acme.has_certificate(0));
    assert_eq!(acme.orders(), 2);
}

#[test]
fn nothing_is_ordered_while_a_certificate_cannot_be_stored() {
    let mut acme = TestAcme::new(&["gate.test"]);
    let file = acme.acme.certificate_file(&acme.hosts[0]);
    // A directory in the place of the draft stands for a full disk: no file of this name can be written.
    let obstacle = file.with_extension("draft");
    fs::create_dir_all(&obstacle).unwrap();
    for hours in 0..6 {
        acme.settle(hours * HOUR);
    }
    assert_eq!(acme.orders(), 0);
    fs::remove_dir(&obstacle).unwrap();
    acme.tick_until(12 * HOUR, |acme| acme.has_certificate(0));
    assert_eq!(acme.orders(), 1);
}

#[test]
fn rejected_orders_are_repeated_with_growing_delays_and_at_once_after_a_reload() {
    let mut acme = TestAcme::new(&["gate.test"]);
    let rejection = ("403 Forbidden", "", "rejectedIdentifier");
    let rejected = [("gate.test".to_owned(), rejection)];
    acme.directory.state().rejected_hosts.extend(rejected);
    acme.tick_until(0, |acme| acme.orders() == 1);
    acme.settle(0);
    acme.settle(230);
    assert_eq!(
        acme.orders(),
        1,
        "no second order before five minutes less 20 %"
    );
    acme.tick_until(361, |acme| acme.orders() == 2);
    acme.settle(361);
    acme.settle(361 + 470);
    assert_eq!(
        acme.orders(),
        2,
        "no third order before ten minutes less 20 %"
    );
    acme.reload(&["gate.test"]);
    acme.tick_until(361 + 470, |acme| acme.orders() == 3);
}

#[test]
fn a_rejected_host_does_not_affect_the_orders_of_other_hosts() {
    let mut acme = TestAcme::new(&["bad.test", "good.test", "fine.test"]);
    let rejection = ("403 Forbidden", "", "rejectedIdentifier");
    let rejected = [("bad.test".to_owned(), rejection)];
    acme.directory.state().rejected_hosts.extend(rejected);
    acme.tick_until(0, |acme| {
        acme.has_certificate(1) && acme.has_certificate(2) && acme.orders() == 3
    });
    acme.settle(61);
    assert!(!acme.has_certificate(0));
    let state = acme.directory.state();
    let mut hosts = state.hosts();
    hosts.sort_unstable();
    assert_eq!(hosts, ["bad.test", "fine.test", "good.test"]);
    assert_eq!(state.accounts, 1, "all hosts use one account");
}

#[test]
fn an_account_that_the_acme_server_has_lost_is_created_again() {
    let mut acme = TestAcme::new(&["gate.test"]);
    acme.tick_until(0, |acme| acme.has_certificate(0));
    acme.directory.state().forget();
    acme.reload(&["gate.test", "other.test"]);
    acme.tick_until(0, |acme| acme.has_certificate(1));
    assert_eq!(acme.directory.state().accounts, 2);
    let names = fs::read_dir(acme.dir.path().join("state/acme")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".lost")).count(), 1);
    // The account that is stored now is valid.
    acme.reload(&["gate.test", "other.test", "third.test"]);
    acme.tick_until(0, |acme| acme.has_certificate(2));
    assert_eq!(acme.directory.state().accounts, 2);
}

#[test]
fn a_request_with_a_bad_nonce_is_repeated_at_once_and_later_again() {
    let mut acme = TestAcme::new(&["gate.test"]);
    acme.directory.state().bad_nonces = 5;
    acme.tick_until(0, |acme| acme.has_certificate(0));
    let mut acme = TestAcme::new(&["gate.test"]);
    acme.directory.state().bad_nonces = 1000;
    acme.settle(0);
    acme.tick_until(0, |acme| acme.directory.state().bad_nonces < 1000);
    acme.settle(0);
    acme.directory.state().bad_nonces = 0;
    acme.tick_until(20, |acme| acme.has_certificate(0));
}

#[test]
fn a_certificate_is_renewed_in_the_window_that_the_acme_server_suggests() {
    let mut acme = TestAcme::new(&["gate.test"]);
    let day = Duration::from_secs(24 * HOUR);
    let window = |from: OffsetDateTime| {
        let rfc3339 = |at: OffsetDateTime| at.format(&Rfc3339).unwrap();
        Some((rfc3339(from), rfc3339(from + day)))
    };
    acme.directory.state().window = window(acme.start + 30 * day);
    acme.tick_until(0, |acme| acme.has_certificate(0));
    let first = acme.hosts[0].slot().current().unwrap();
    acme.settle(0);
    acme.tick_until(61, |acme| {
        acme.directory.state().renewal_info_requests.len() == 1
    });
    // The proxy must not ask again before the hour of the server's Retry-After is over.
    acme.settle(HOUR / 2);
    assert_eq!(
        (
            acme.orders(),
            acme.directory.state().renewal_info_requests.len()
        ),
        (1, 1)
    );
    acme.directory.state().window = window(acme.start - 2 * day);
    acme.tick_until(HOUR + 120, |acme| {
        acme.hosts[0].slot().current().unwrap().chain() != first.chain()
    });
    let state = acme.directory.state();
    assert_eq!(state.orders.len(), 2);
    assert_eq!(
        state.orders[1]["replaces"],
        state.renewal_info_requests[0].as_str()
    );
}

/// A configuration with two sites: `gate.test` with a certificate over ACME, and `localhost` with a certificate from files.
fn config_text(directory: &Directory) -> String {
    format!(
        r#"
[log]
access = false
[listen]
https = ["127.0.0.1:0"]
workers = 1
[state]
dir = "state"
[acme]
directory = "{}"
directory_ca = "ca.pem"
[[site]]
hosts = ["gate.test"]
tls = "acme"
auth = {{ mode = "none" }}
[[site.route]]
path = "/v2/"
upstream = "{{upstream}}"
[[site]]
hosts = ["localhost"]
tls = {{ cert = "cert.pem", key = "key.pem" }}
auth = {{ mode = "none" }}
[[site.route]]
path = "/v2/"
upstream = "{{upstream}}"
"#,
        directory.url()
    )
}

fn directory_with_ca() -> TempDir {
    let dir = test_directory();
    fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
    dir
}

/// The certificate that the proxy presents for `gate.test`, or `None` if the handshake fails.
fn presented_certificate(address: SocketAddr) -> Option<Vec<u8>> {
    let name = "gate.test".try_into().unwrap();
    let mut tls = ClientConnection::new(certs::default_client_config("http/1.1"), name).unwrap();
    let mut socket = connect_tcp(address);
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).ok()?;
    }
    Some(tls.peer_certificates().unwrap()[0].to_vec())
}

#[track_caller]
fn wait_for<T>(found: impl Fn() -> Option<T>) -> T {
    eventually_some("what the test waits for", found)
}

#[test]
fn other_sites_are_served_during_an_order_and_a_reload_places_no_order() {
    let (directory, registry) = (Directory::start(), Registry::accepting_all());
    directory.state().is_held = true;
    let proxy = Proxy::start_in(
        directory_with_ca(),
        &registry.url(),
        config_text(&directory),
    );
    wait_for(|| (directory.state().orders.len() == 1).then_some(()));
    let mut client = Client::connect(&proxy);
    assert_eq!(
        client.exchange(&TestRequest::new("GET", "/v2/")).status,
        200
    );
    assert_eq!(presented_certificate(proxy.https()), None);
    directory.release();
    let first = wait_for(|| presented_certificate(proxy.https()));
    for _ in 0..3 {
        proxy.reload().unwrap();
        assert_eq!(presented_certificate(proxy.https()).as_ref(), Some(&first));
    }
    // Adding another name to the site keeps the certificate of the first name.
    let more = config_text(&directory).replace("[\"gate.test\"]", "[\"gate.test\", \"more.test\"]");
    proxy.configure(&registry, &more);
    proxy.reload().unwrap();
    assert_eq!(presented_certificate(proxy.https()).as_ref(), Some(&first));
    wait_for(|| (directory.state().orders.len() == 2).then_some(()));
    assert_eq!(directory.state().hosts(), ["gate.test", "more.test"]);
    assert_eq!(presented_certificate(proxy.https()), Some(first));
}

#[test]
fn a_site_that_changes_to_acme_or_to_another_acme_server_keeps_its_certificate_meanwhile() {
    let (directory, next) = (Directory::start(), Directory::start());
    let registry = Registry::accepting_all();
    for directory in [&directory, &next] {
        directory.state().is_held = true;
    }
    let dir = directory_with_ca();
    let (cert, key) = AUTHORITY.issue(&["gate.test"]);
    fs::write(dir.path().join("gate.pem"), cert).unwrap();
    crate::support::proxy::write_private(&dir.path().join("gate-key.pem"), &key);
    let files = "tls = { cert = \"gate.pem\", key = \"gate-key.pem\" }";
    let from_files = config_text(&directory).replace("tls = \"acme\"", files);
    let proxy = Proxy::start_in(dir, &registry.url(), &from_files);
    let mut last = presented_certificate(proxy.https()).expect("the certificate from files");
    for directory in [&directory, &next] {
        proxy.configure(&registry, config_text(directory));
        proxy.reload().unwrap();
        assert_eq!(presented_certificate(proxy.https()).as_ref(), Some(&last));
        wait_for(|| (directory.state().orders.len() == 1).then_some(()));
        directory.release();
        last = wait_for(|| {
            presented_certificate(proxy.https()).filter(|certificate| *certificate != last)
        });
    }
}

#[test]
fn a_successor_presents_the_same_certificate_and_places_no_order() {
    let (directory, registry) = (Directory::start(), Registry::accepting_all());
    let dir = directory_with_ca();
    let file = dir.path().join("proxy.toml");
    let config_text = config_text(&directory).replace("{upstream}", &registry.url());
    fs::write(&file, config_text).unwrap();
    let manager = Manager::new(dir.path());
    let mut server = ServeProcess::spawn(&mut serve(file.to_str().unwrap(), &manager));
    assert!(manager.next_message().starts_with("READY=1"));
    let first = wait_for(|| presented_certificate(server.address));
    server.signal(Signal::USR2);
    let _successor = Successor::of(&manager.next_message());
    assert!(manager.next_message().starts_with("READY=1"));
    assert_eq!(server.end(), Some(0), "the successor serves");
    assert_eq!(presented_certificate(server.address), Some(first));
    assert_eq!(directory.state().orders.len(), 1);
}
