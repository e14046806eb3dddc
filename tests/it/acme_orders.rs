//! Orders at an ACME directory that fails as it is told, by a clock of the tests' own; and a gate meanwhile.

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

use crate::binary::Gate;
use crate::supervised::{Manager, Successor, serve};
use crate::support::acme::Directory;
use crate::support::certs::{self, AUTHORITY};
use crate::support::client::connect_tcp;
use crate::support::proxy::directory as folder;
use crate::support::{Client, PATIENCE, Proxy, Registry, TestRequest, eventually_some};

/// A folder, whoever orders there, and the time by which that is done.
struct World {
    directory: Directory,
    runtime: Runtime,
    renewals: Renewals,
    acme: Arc<Acme>,
    hosts: Vec<Arc<ManagedHost>>,
    start: OffsetDateTime,
    dir: TempDir,
}

impl World {
    fn new(hosts: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
        let directory = Directory::start();
        let start = OffsetDateTime::now_utc();
        let (acme, hosts) = acme(&directory, &dir, hosts, None);
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

    /// As a reload does it.
    fn reload(&mut self, hosts: &[&str]) {
        (self.acme, self.hosts) = acme(&self.directory, &self.dir, hosts, Some(&self.acme));
    }

    /// Turns, so many seconds after the start, until it is so.
    #[track_caller]
    fn until(&mut self, seconds: u64, is_so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < until, "never so");
            self.turn(seconds);
        }
    }

    /// Turns until what was begun has ended, what that began has, too, and all of it has been noted.
    #[track_caller]
    fn settle(&mut self, seconds: u64) {
        let until = Instant::now() + PATIENCE;
        for _ in 0..3 {
            self.turn(seconds);
            while self.runtime.metrics().num_alive_tasks() > 0 {
                assert!(Instant::now() < until, "it never ends");
                self.step();
            }
        }
    }

    fn turn(&mut self, seconds: u64) {
        let now = self.start + Duration::from_secs(seconds);
        let _in_runtime = self.runtime.enter();
        self.renewals.tick(Some(&self.acme), now);
        self.step();
    }

    /// Lets orders run for a moment.
    fn step(&self) {
        let moment = async { tokio::time::sleep(Duration::from_millis(10)).await };
        self.runtime.block_on(moment);
    }

    fn has(&self, host: usize) -> bool {
        self.hosts[host].slot().current().is_some()
    }

    fn orders(&self) -> usize {
        self.directory.state().orders.len()
    }
}

fn acme(
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
fn a_wait_that_the_authority_asks_for_is_waited_out_by_reloads_too() {
    let mut world = World::new(&["gate.test"]);
    let refusal = (
        "429 Too Many Requests",
        "Retry-After: 7200\r\n",
        "rateLimited",
    );
    let refused = [("gate.test".to_owned(), refusal)];
    world.directory.state().refused.extend(refused);
    world.until(0, |world| world.orders() == 1);
    world.settle(0);
    world.directory.state().refused.clear();
    world.settle(2 * HOUR - 60);
    world.reload(&["gate.test"]);
    world.settle(2 * HOUR - 60);
    assert_eq!(world.orders(), 1);
    world.until(2 * HOUR + 60, |world| world.has(0));
    assert_eq!(world.orders(), 2);
}

#[test]
fn a_refusal_is_waited_out_longer_each_time_and_a_reload_tries_again() {
    let mut world = World::new(&["gate.test"]);
    let refusal = ("403 Forbidden", "", "rejectedIdentifier");
    let refused = [("gate.test".to_owned(), refusal)];
    world.directory.state().refused.extend(refused);
    world.until(0, |world| world.orders() == 1);
    world.settle(0);
    world.settle(230);
    assert_eq!(world.orders(), 1, "five minutes, less a fifth");
    world.until(361, |world| world.orders() == 2);
    world.settle(361);
    world.settle(361 + 470);
    assert_eq!(world.orders(), 2, "ten minutes, less a fifth");
    world.reload(&["gate.test"]);
    world.until(361 + 470, |world| world.orders() == 3);
}

#[test]
fn the_failure_of_one_host_costs_the_others_nothing() {
    let mut world = World::new(&["bad.test", "good.test", "fine.test"]);
    let refusal = ("403 Forbidden", "", "rejectedIdentifier");
    let refused = [("bad.test".to_owned(), refusal)];
    world.directory.state().refused.extend(refused);
    world.until(0, |world| {
        world.has(1) && world.has(2) && world.orders() == 3
    });
    world.settle(61);
    assert!(!world.has(0));
    let state = world.directory.state();
    let mut hosts = state.hosts();
    hosts.sort_unstable();
    assert_eq!(hosts, ["bad.test", "fine.test", "good.test"]);
    assert_eq!(state.accounts, 1, "one for all hosts");
}

#[test]
fn an_account_that_the_authority_has_lost_is_made_anew() {
    let mut world = World::new(&["gate.test"]);
    world.until(0, |world| world.has(0));
    world.directory.state().forget();
    world.reload(&["gate.test", "other.test"]);
    world.until(0, |world| world.has(1));
    assert_eq!(world.directory.state().accounts, 2);
    let names = fs::read_dir(world.dir.path().join("state/acme")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".lost")).count(), 1);
    // The one that is stored now is good.
    world.reload(&["gate.test", "other.test", "third.test"]);
    world.until(0, |world| world.has(2));
    assert_eq!(world.directory.state().accounts, 2);
}

#[test]
fn nonces_that_are_rejected_are_replaced_at_once_and_again_after_seconds() {
    let mut world = World::new(&["gate.test"]);
    world.directory.state().bad_nonces = 5;
    world.until(0, |world| world.has(0));
    let mut world = World::new(&["gate.test"]);
    world.directory.state().bad_nonces = 1000;
    world.settle(0);
    world.until(0, |world| world.directory.state().bad_nonces < 1000);
    world.settle(0);
    world.directory.state().bad_nonces = 0;
    world.until(20, |world| world.has(0));
}

#[test]
fn a_certificate_is_renewed_when_the_authority_wants_it() {
    let mut world = World::new(&["gate.test"]);
    let day = Duration::from_secs(24 * HOUR);
    let window = |from: OffsetDateTime| {
        let text = |at: OffsetDateTime| at.format(&Rfc3339).unwrap();
        Some((text(from), text(from + day)))
    };
    world.directory.state().window = window(world.start + 30 * day);
    world.until(0, |world| world.has(0));
    let first = world.hosts[0].slot().current().unwrap();
    world.settle(0);
    world.until(61, |world| world.directory.state().asked.len() == 1);
    // Not asked again before the hour that the authority set is over.
    world.settle(HOUR / 2);
    assert_eq!(
        (world.orders(), world.directory.state().asked.len()),
        (1, 1)
    );
    world.directory.state().window = window(world.start - 2 * day);
    world.until(HOUR + 120, |world| {
        world.hosts[0].slot().current().unwrap().chain() != first.chain()
    });
    let state = world.directory.state();
    assert_eq!(state.orders.len(), 2);
    assert_eq!(state.orders[1]["replaces"], state.asked[0].as_str());
}

/// `gate.test` over ACME, beside `localhost` with a certificate from files.
fn text(directory: &Directory) -> String {
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

fn with_ca() -> TempDir {
    let dir = folder();
    fs::write(dir.path().join("ca.pem"), AUTHORITY.pem()).unwrap();
    dir
}

/// The certificate that is shown for `gate.test`; `None` when the handshake fails.
fn shown(address: SocketAddr) -> Option<Vec<u8>> {
    let name = "gate.test".try_into().unwrap();
    let mut tls = ClientConnection::new(certs::default_client_config("http/1.1"), name).unwrap();
    let mut socket = connect_tcp(address);
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).ok()?;
    }
    Some(tls.peer_certificates().unwrap()[0].to_vec())
}

#[track_caller]
fn wait<T>(found: impl Fn() -> Option<T>) -> T {
    eventually_some("what the test waits for", found)
}

#[test]
fn other_sites_are_served_while_an_order_runs_and_a_reload_orders_nothing() {
    let (directory, registry) = (Directory::start(), Registry::accepting_all());
    directory.state().is_held = true;
    let proxy = Proxy::start_in(with_ca(), &registry.url(), text(&directory));
    wait(|| (directory.state().orders.len() == 1).then_some(()));
    let mut client = Client::connect(&proxy);
    assert_eq!(
        client.exchange(&TestRequest::new("GET", "/v2/")).status,
        200
    );
    assert_eq!(shown(proxy.https()), None);
    directory.release();
    let first = wait(|| shown(proxy.https()));
    for _ in 0..3 {
        proxy.reload().unwrap();
        assert_eq!(shown(proxy.https()).as_ref(), Some(&first));
    }
    // Another name in the same site leaves the first one's certificate alone.
    let more = text(&directory).replace("[\"gate.test\"]", "[\"gate.test\", \"more.test\"]");
    proxy.configure(&registry, &more);
    proxy.reload().unwrap();
    assert_eq!(shown(proxy.https()).as_ref(), Some(&first));
    wait(|| (directory.state().orders.len() == 2).then_some(()));
    assert_eq!(directory.state().hosts(), ["gate.test", "more.test"]);
    assert_eq!(shown(proxy.https()), Some(first));
}

#[test]
fn a_site_that_turns_to_acme_or_to_another_authority_goes_on_showing_what_it_has() {
    let (directory, next) = (Directory::start(), Directory::start());
    let registry = Registry::accepting_all();
    for directory in [&directory, &next] {
        directory.state().is_held = true;
    }
    let dir = with_ca();
    let (cert, key) = AUTHORITY.issue(&["gate.test"]);
    fs::write(dir.path().join("gate.pem"), cert).unwrap();
    crate::support::proxy::write_private(&dir.path().join("gate-key.pem"), &key);
    let files = "tls = { cert = \"gate.pem\", key = \"gate-key.pem\" }";
    let from_files = text(&directory).replace("tls = \"acme\"", files);
    let proxy = Proxy::start_in(dir, &registry.url(), &from_files);
    let mut last = shown(proxy.https()).expect("the one from files");
    for directory in [&directory, &next] {
        proxy.configure(&registry, text(directory));
        proxy.reload().unwrap();
        assert_eq!(shown(proxy.https()).as_ref(), Some(&last));
        wait(|| (directory.state().orders.len() == 1).then_some(()));
        directory.release();
        last = wait(|| shown(proxy.https()).filter(|shown| *shown != last));
    }
}

#[test]
fn a_successor_shows_the_same_and_orders_nothing() {
    let (directory, registry) = (Directory::start(), Registry::accepting_all());
    let dir = with_ca();
    let file = dir.path().join("proxy.toml");
    let text = text(&directory).replace("{upstream}", &registry.url());
    fs::write(&file, text).unwrap();
    let manager = Manager::new(dir.path());
    let mut gate = Gate::spawn(&mut serve(file.to_str().unwrap(), &manager));
    assert!(manager.told().starts_with("READY=1"));
    let first = wait(|| shown(gate.address));
    gate.signal(Signal::USR2);
    let _successor = Successor::of(&manager.told());
    assert!(manager.told().starts_with("READY=1"));
    assert_eq!(gate.end(), Some(0), "its successor serves");
    assert_eq!(shown(gate.address), Some(first));
    assert_eq!(directory.state().orders.len(), 1);
}
