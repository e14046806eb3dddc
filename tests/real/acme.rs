//! Certificates from a real ACME authority: Pebble, with a DNS of its own, that asks the gate over loopback.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tidegate::acme::{Acme, Renewals, Settings};
use tidegate::upstream::ServerRoots;
use time::OffsetDateTime;

use crate::lab::{Certs, Outcome, Service, command, free_port, is_listening, print_logs, run};
use crate::lab::{wait_until, wait_up_to};

/// A folder, an authority, and where it looks for the gate.
struct World {
    authority: Option<(Service, Service)>,
    certs: Certs,
    ports: Ports,
    dir: TempDir,
}

struct Ports {
    directory: u16,
    management: u16,
    dns: u16,
    dns_management: u16,
    /// Where tls-alpn-01 and http-01 are asked.
    https: u16,
    http: u16,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::with_prefix("acme-").unwrap();
        let certs = Certs::make(&dir.path().join("certs"));
        fs::create_dir(dir.path().join("home")).unwrap();
        let ports = Ports {
            directory: free_port(),
            management: free_port(),
            dns: free_port(),
            dns_management: free_port(),
            https: free_port(),
            http: free_port(),
        };
        Self {
            authority: None,
            certs,
            ports,
            dir,
        }
    }

    /// With an authority that rejects this share of good nonces.
    fn with_authority(rejected_nonces: u8) -> Self {
        let mut world = Self::new();
        world.start_authority(rejected_nonces);
        world
    }

    fn start_authority(&mut self, rejected_nonces: u8) {
        let Ports {
            directory,
            management,
            dns,
            dns_management,
            https,
            http,
        } = self.ports;
        let mut names = self.command("pebble-challtestsrv");
        names.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        names.args(["-dns01", &format!("127.0.0.1:{dns}")]);
        names.args(["-management", &format!("127.0.0.1:{dns_management}")]);
        let mut names = Service::start("names", &names, self.dir.path());
        names.wait_until(|| is_listening(dns_management));
        let config = format!(
            r#"{{"pebble": {{"listenAddress": "127.0.0.1:{directory}", "managementListenAddress": "127.0.0.1:{management}",
                "certificate": "{}", "privateKey": "{}", "httpPort": {http}, "tlsPort": {https},
                "ocspResponderURL": "", "externalAccountBindingRequired": false}}}}"#,
            self.certs.cert().display(),
            self.certs.key().display()
        );
        fs::write(self.path("pebble.json"), config).unwrap();
        let mut pebble = self.command("pebble");
        pebble.args(["-strict", "-dnsserver", &format!("127.0.0.1:{dns}")]);
        pebble.arg("-config").arg(self.path("pebble.json"));
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        pebble.env("PEBBLE_AUTHZREUSE", "0");
        pebble.env("PEBBLE_WFE_NONCEREJECT", rejected_nonces.to_string());
        let mut pebble = Service::start("pebble", &pebble, self.dir.path());
        pebble.wait_until(|| is_listening(directory) && is_listening(management));
        let root = self.fetch(&format!("https://localhost:{management}/roots/0"));
        fs::write(self.path("root.pem"), root).unwrap();
        self.authority = Some((pebble, names));
    }

    /// Whither every name leads from now on.
    fn resolve_to(&self, address: &str) {
        let url = format!(
            "http://127.0.0.1:{}/set-default-ipv4",
            self.ports.dns_management
        );
        let mut curl = self.command("curl");
        curl.args([
            "-sS",
            "--fail",
            "-d",
            &format!("{{\"ip\":\"{address}\"}}"),
            &url,
        ]);
        let _ = run(&curl).succeeds();
    }

    fn fetch(&self, url: &str) -> String {
        let mut curl = self.command("curl");
        curl.args(["-sS", "--fail", "--cacert"])
            .arg(self.certs.ca());
        run(curl.arg(url)).succeeds()
    }

    /// A gate for `gate.test`, and with the certificate of the lab's own CA for `localhost`.
    fn gate(&self, name: &'static str, https: u16, http: Option<u16>) -> Service {
        let http = http.map_or(String::new(), |port| {
            format!("http = [\"127.0.0.1:{port}\"]")
        });
        let text = format!(
            r#"[listen]
https = ["127.0.0.1:{https}"]
{http}
[state]
dir = "state"
[acme]
email = "admin@example.com"
directory = "{}"
directory_ca = "{}"
[[site]]
hosts = ["gate.test"]
tls = "acme"
auth = {{ mode = "none" }}
[[site.route]]
path = "/v2/"
upstream = "http://127.0.0.1:1"
[[site]]
hosts = ["localhost"]
tls = {{ cert = "{}", key = "{}" }}
auth = {{ mode = "none" }}
[[site.route]]
path = "/v2/"
upstream = "http://127.0.0.1:1"
"#,
            self.directory(),
            self.certs.ca().display(),
            self.certs.cert().display(),
            self.certs.key().display(),
        );
        let file = self.path(&format!("{name}.toml"));
        fs::write(&file, text).unwrap();
        let mut gate = self.command(env!("CARGO_BIN_EXE_tidegate"));
        gate.args(["serve", "-c"]).arg(file);
        let mut gate = Service::start(name, &gate, self.dir.path());
        gate.wait_until(|| is_listening(https));
        gate
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.ports.directory)
    }

    /// A request that trusts nothing but `ca`.
    fn ask(&self, host: &str, port: u16, ca: &Path) -> Outcome {
        let mut curl = self.command("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
        curl.args(["--resolve", &format!("{host}:{port}:127.0.0.1")]);
        run(curl
            .arg("--cacert")
            .arg(ca)
            .arg(format!("https://{host}:{port}/v2/")))
    }

    fn has_certificate(&self, port: u16) -> bool {
        self.ask("gate.test", port, &self.path("root.pem"))
            .is_success()
    }

    /// What a handshake shows.
    fn serial(&self, port: u16) -> String {
        let mut openssl = self.command("sh");
        openssl.arg("-c").arg(format!(
            "openssl s_client -connect 127.0.0.1:{port} -servername gate.test </dev/null 2>/dev/null | openssl x509 -noout -serial"
        ));
        run(&openssl).succeeds()
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    fn orders(&self, name: &str) -> usize {
        self.log(name).matches("ordering a certificate").count()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program, &self.path("home"));
        command.current_dir(self.dir.path());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(self.dir.path());
        }
    }
}

fn hang_up(gate: &Service) {
    let id = i32::try_from(gate.id()).ok().and_then(Pid::from_raw);
    kill_process(id.unwrap(), Signal::HUP).unwrap();
}

#[test]
fn a_certificate_comes_over_tls_and_a_restart_orders_nothing() {
    let world = World::with_authority(0);
    let port = world.ports.https;
    let began = Instant::now();
    let gate = world.gate("gate", port, None);
    wait_until("a certificate", || world.has_certificate(port));
    eprintln!("from start to certificate: {:?}", began.elapsed());
    let log = world.log("gate");
    assert!(log.contains("by=tls-alpn-01") && log.contains("answered a certificate authority"));
    assert_eq!(world.orders("gate"), 1, "{log}");
    check_modes(&world.path("state/acme"));
    assert_eq!(
        fs::read_dir(world.path("state/acme/challenges"))
            .unwrap()
            .count(),
        0
    );
    let serial = world.serial(port);
    drop(gate);
    wait_until("the gate ends", || !is_listening(port));
    let again = world.gate("again", port, None);
    assert!(world.has_certificate(port));
    hang_up(&again);
    wait_until("a reload", || world.log("again").contains("reloaded"));
    assert_eq!(world.serial(port), serial);
    assert_eq!(world.orders("again"), 0);
}

#[test]
fn nonces_that_are_rejected_are_no_obstacle() {
    let world = World::with_authority(25);
    let port = world.ports.https;
    let _gate = world.gate("gate", port, None);
    // After three tries in a row that are rejected the order begins anew, perhaps after a wait of seconds.
    wait_up_to(Duration::from_secs(120), "a certificate", || {
        world.has_certificate(port)
    });
}

/// Files 0600, folders 0700.
fn check_modes(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        let wanted = if about.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(
            about.permissions().mode() & 0o777,
            wanted,
            "{}",
            entry.path().display()
        );
        if about.is_dir() {
            check_modes(&entry.path());
        }
    }
}

#[test]
fn where_tls_does_not_reach_the_gate_a_certificate_comes_over_http() {
    let world = World::with_authority(0);
    // The authority asks another port over TLS, where nobody listens.
    let port = free_port();
    let began = Instant::now();
    let _gate = world.gate("gate", port, Some(world.ports.http));
    wait_until("a certificate", || world.has_certificate(port));
    eprintln!(
        "from start to certificate, second way: {:?}",
        began.elapsed()
    );
    let log = world.log("gate");
    for words in ["tls-alpn-01 failed", "trying http-01", "by=http-01"] {
        assert!(log.contains(words), "{words} in {log}");
    }
}

#[test]
fn a_refusal_is_told_and_a_reload_tries_again() {
    let world = World::with_authority(0);
    world.resolve_to("127.0.0.9");
    let port = world.ports.https;
    let gate = world.gate("gate", port, None);
    wait_until("a refusal", || {
        world.log("gate").contains("no new certificate")
    });
    let log = world.log("gate");
    assert!(log.contains("(urn:ietf:params:acme:error:"), "{log}");
    assert!(log.contains("handshakes are refused"), "{log}");
    let said = world
        .ask("gate.test", port, &world.path("root.pem"))
        .fails();
    assert!(said.contains("unrecognized name"), "{said}");
    // The other site does not care.
    let other = world.ask("localhost", port, &world.certs.ca());
    assert_eq!(other.succeeds(), "502");
    world.resolve_to("127.0.0.1");
    hang_up(&gate);
    wait_until("a certificate", || world.has_certificate(port));
    assert_eq!(world.orders("gate"), 2);
}

#[test]
fn two_gates_order_once_and_the_other_one_can_answer() {
    let mut world = World::new();
    let (asked, other) = (world.ports.https, free_port());
    // Nobody to order from yet, so this one waits.
    let _first = world.gate("first", asked, None);
    wait_until("a failure", || {
        world.log("first").contains("no new certificate")
    });
    world.start_authority(0);
    let _second = world.gate("second", other, None);
    wait_until("a certificate", || world.has_certificate(other));
    wait_until("the same certificate", || world.has_certificate(asked));
    assert_eq!(world.serial(asked), world.serial(other));
    assert_eq!(world.orders("second"), 1);
    assert!(
        world
            .log("first")
            .contains("answered a certificate authority"),
        "{}",
        world.log("first")
    );
    assert!(
        world.log("first").contains("certificate taken over"),
        "{}",
        world.log("first")
    );
}

#[test]
fn a_certificate_is_renewed_before_it_ends_and_put_to_use_without_a_reload() {
    let world = World::with_authority(0);
    let port = world.ports.https;
    let _gate = world.gate("gate", port, None);
    wait_until("a certificate", || world.has_certificate(port));
    let before = world.serial(port);
    renew(&world);
    wait_up_to(Duration::from_secs(90), "the new certificate", || {
        world.serial(port) != before
    });
    assert!(world.has_certificate(port));
    assert_eq!(world.orders("gate"), 1);
}

/// Another gate of the same folder, whose clock is years ahead; the authority still asks the one that listens.
fn renew(world: &World) {
    let settings = Settings {
        directory: world.directory(),
        email: Some("admin@example.com".to_owned()),
        roots: ServerRoots::of_file(&world.certs.ca()).unwrap(),
        has_http_listener: false,
    };
    let now = OffsetDateTime::now_utc();
    let mut acme = Acme::new(settings, &world.path("state"), None);
    let (kept, _) = acme.add("gate.test", None, None, now);
    let first = kept.slot().current().unwrap();
    let (acme, mut renewals) = (Arc::new(acme), Renewals::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let is_old = || kept.slot().current().unwrap().chain() == first.chain();
        let life = first.not_after() - now;
        renewals.tick(Some(&acme), now + life / 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        renewals.tick(Some(&acme), now + life / 2);
        assert!(is_old(), "half of its life is left");
        let deadline = Instant::now() + Duration::from_secs(30);
        while is_old() && Instant::now() < deadline {
            renewals.tick(Some(&acme), now + life * 7 / 10);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!is_old(), "a third of its life was left");
    });
}
