//! Certificates from a real ACME authority, Pebble. It has a DNS server of its own, and validates challenges at the proxy over
//! loopback.

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

/// A directory, an ACME authority, and the ports at which it validates challenges.
struct AcmeLab {
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
    /// The port at which the authority validates tls-alpn-01.
    https: u16,
    /// The port at which the authority validates http-01.
    http: u16,
}

impl AcmeLab {
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

    /// Starts an authority that rejects `rejected_nonces` percent of the valid nonces.
    fn with_authority(rejected_nonces: u8) -> Self {
        let mut lab = Self::new();
        lab.start_authority(rejected_nonces);
        lab
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

    /// Makes every host name resolve to `address` at the authority.
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

    /// Starts a proxy with an ACME site for `gate.test` and a site for `localhost`, whose certificate is from the test CA.
    fn start_proxy(&self, name: &'static str, https: u16, http: Option<u16>) -> Service {
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
        let mut command = self.command(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "-c"]).arg(file);
        let mut proxy = Service::start(name, &command, self.dir.path());
        proxy.wait_until(|| is_listening(https));
        proxy
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.ports.directory)
    }

    /// Sends a request over TLS that trusts only `ca`, and prints the status of the response.
    fn request(&self, host: &str, port: u16, ca: &Path) -> Outcome {
        let mut curl = self.command("curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
        curl.args(["--resolve", &format!("{host}:{port}:127.0.0.1")]);
        run(curl
            .arg("--cacert")
            .arg(ca)
            .arg(format!("https://{host}:{port}/v2/")))
    }

    fn has_certificate(&self, port: u16) -> bool {
        self.request("gate.test", port, &self.path("root.pem"))
            .is_success()
    }

    /// The serial number of the certificate that the proxy presents for `gate.test`.
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

impl Drop for AcmeLab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(self.dir.path());
        }
    }
}

fn send_sighup(proxy: &Service) {
    let id = i32::try_from(proxy.id()).ok().and_then(Pid::from_raw);
    kill_process(id.unwrap(), Signal::HUP).unwrap();
}

#[test]
fn a_certificate_is_issued_over_tls_and_a_restart_orders_none() {
    let lab = AcmeLab::with_authority(0);
    let port = lab.ports.https;
    let began = Instant::now();
    let proxy = lab.start_proxy("proxy", port, None);
    wait_until("a certificate", || lab.has_certificate(port));
    eprintln!("from start to certificate: {:?}", began.elapsed());
    let log = lab.log("proxy");
    assert!(log.contains("by=tls-alpn-01") && log.contains("responded to a certificate authority"));
    assert_eq!(lab.orders("proxy"), 1, "{log}");
    assert_modes(&lab.path("state/acme"));
    assert_eq!(
        fs::read_dir(lab.path("state/acme/challenges"))
            .unwrap()
            .count(),
        0
    );
    let serial = lab.serial(port);
    drop(proxy);
    wait_until("the proxy ends", || !is_listening(port));
    let restarted = lab.start_proxy("restarted", port, None);
    assert!(lab.has_certificate(port));
    send_sighup(&restarted);
    wait_until("a reload", || lab.log("restarted").contains("reloaded"));
    assert_eq!(lab.serial(port), serial);
    assert_eq!(lab.orders("restarted"), 0);
}

#[test]
fn a_certificate_is_issued_although_nonces_are_rejected() {
    let lab = AcmeLab::with_authority(25);
    let port = lab.ports.https;
    let _proxy = lab.start_proxy("proxy", port, None);
    // After three rejected attempts in a row, the proxy begins a new order, possibly after a delay of seconds.
    wait_up_to(Duration::from_secs(120), "a certificate", || {
        lab.has_certificate(port)
    });
}

/// Asserts that every file below `dir` has mode 0600 and every directory mode 0700.
fn assert_modes(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(
            metadata.permissions().mode() & 0o777,
            expected,
            "{}",
            entry.path().display()
        );
        if metadata.is_dir() {
            assert_modes(&entry.path());
        }
    }
}

#[test]
fn a_certificate_is_issued_over_http_if_tls_validation_fails() {
    let lab = AcmeLab::with_authority(0);
    // The proxy listens on another port than the one at which the authority validates tls-alpn-01.
    let port = free_port();
    let began = Instant::now();
    let _proxy = lab.start_proxy("proxy", port, Some(lab.ports.http));
    wait_until("a certificate", || lab.has_certificate(port));
    eprintln!(
        "from start to certificate over http-01: {:?}",
        began.elapsed()
    );
    let log = lab.log("proxy");
    for words in ["tls-alpn-01 failed", "trying http-01", "by=http-01"] {
        assert!(log.contains(words), "{words} in {log}");
    }
}

#[test]
fn a_failed_order_is_logged_and_a_reload_orders_again() {
    let lab = AcmeLab::with_authority(0);
    lab.resolve_to("127.0.0.9");
    let port = lab.ports.https;
    let proxy = lab.start_proxy("proxy", port, None);
    wait_until("a failed order", || {
        lab.log("proxy").contains("no new certificate")
    });
    let log = lab.log("proxy");
    assert!(log.contains("(urn:ietf:params:acme:error:"), "{log}");
    assert!(log.contains("handshakes fail"), "{log}");
    let output = lab
        .request("gate.test", port, &lab.path("root.pem"))
        .fails();
    assert!(output.contains("unrecognized name"), "{output}");
    // The other site is not affected.
    let other = lab.request("localhost", port, &lab.certs.ca());
    assert_eq!(other.succeeds(), "502");
    lab.resolve_to("127.0.0.1");
    send_sighup(&proxy);
    wait_until("a certificate", || lab.has_certificate(port));
    assert_eq!(lab.orders("proxy"), 2);
}

#[test]
fn two_proxies_order_one_certificate_and_either_one_answers_the_challenge() {
    let mut lab = AcmeLab::new();
    let (validated, other) = (lab.ports.https, free_port());
    // The authority does not run yet, so that the first proxy waits before its next attempt.
    let _first = lab.start_proxy("first", validated, None);
    wait_until("a failure", || {
        lab.log("first").contains("no new certificate")
    });
    lab.start_authority(0);
    let _second = lab.start_proxy("second", other, None);
    wait_until("a certificate", || lab.has_certificate(other));
    wait_until("the same certificate", || lab.has_certificate(validated));
    assert_eq!(lab.serial(validated), lab.serial(other));
    assert_eq!(lab.orders("second"), 1);
    assert!(
        lab.log("first")
            .contains("responded to a certificate authority"),
        "{}",
        lab.log("first")
    );
    assert!(
        lab.log("first").contains("certificate taken over"),
        "{}",
        lab.log("first")
    );
}

#[test]
fn a_certificate_is_renewed_before_it_expires_and_used_without_a_reload() {
    let lab = AcmeLab::with_authority(0);
    let port = lab.ports.https;
    let _proxy = lab.start_proxy("proxy", port, None);
    wait_until("a certificate", || lab.has_certificate(port));
    let before = lab.serial(port);
    renew(&lab);
    wait_up_to(Duration::from_secs(90), "the new certificate", || {
        lab.serial(port) != before
    });
    assert!(lab.has_certificate(port));
    assert_eq!(lab.orders("proxy"), 1);
}

/// Renews the certificate as a second proxy with the same state directory would, at a time near the end of the certificate's
/// validity. The authority still validates the challenge at the proxy that listens.
fn renew(lab: &AcmeLab) {
    let settings = Settings {
        directory: lab.directory(),
        email: Some("admin@example.com".to_owned()),
        roots: ServerRoots::of_file(&lab.certs.ca()).unwrap(),
        has_http_listener: false,
    };
    let now = OffsetDateTime::now_utc();
    let mut acme = Acme::new(settings, &lab.path("state"), None);
    let (managed, _) = acme.add("gate.test", None, None, now);
    let first = managed.slot().current().unwrap();
    let (acme, mut renewals) = (Arc::new(acme), Renewals::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let is_unchanged = || managed.slot().current().unwrap().chain() == first.chain();
        let validity = first.not_after() - now;
        renewals.tick(Some(&acme), now + validity / 2);
        tokio::time::sleep(Duration::from_secs(2)).await;
        renewals.tick(Some(&acme), now + validity / 2);
        assert!(is_unchanged(), "half of the validity is left");
        let deadline = Instant::now() + Duration::from_secs(30);
        while is_unchanged() && Instant::now() < deadline {
            renewals.tick(Some(&acme), now + validity * 7 / 10);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!is_unchanged(), "less than a third of the validity is left");
    });
}
