//! The executable under a service manager: what it says and when, sockets that were there before it, its watchdog, the
//! reload that waits for a verdict, and the upgrade that loses nothing.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binary::{Gate, apart, command, configured, run, text};
use crate::support::client::StreamEnd;
use crate::support::proxy::write_private;
use crate::support::request::chunk;
use crate::support::{Client, PATIENCE, Registry, TestRequest, certs, config, pause};

/// The manager's end of `NOTIFY_SOCKET`.
pub(crate) struct Manager {
    socket: UnixDatagram,
    place: std::path::PathBuf,
}

impl Manager {
    pub(crate) fn new(dir: &Path) -> Self {
        let place = dir.join("notify");
        let socket = UnixDatagram::bind(&place).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, place }
    }

    /// The next message but those of the watchdog.
    pub(crate) fn told(&self) -> String {
        loop {
            let message = self.next().expect("a message in time");
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    fn next(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(text(&bytes[..length]))
    }
}

fn usual(registry: &Registry) -> (TempDir, String) {
    configured(config("", "").upstream(&registry.url()))
}

pub(crate) fn serve(file: &str, manager: &Manager) -> Command {
    let mut command = command(&["serve", "-c", file]);
    command.env("NOTIFY_SOCKET", &manager.place);
    command
}

#[test]
fn the_manager_is_told_of_each_turn() {
    let registry = Registry::accepting_all();
    let (dir, file) = usual(&registry);
    let manager = Manager::new(dir.path());
    let mut gate = Gate::spawn(&mut serve(&file, &manager));
    let ready = manager.told();
    let serving = format!("STATUS=serving on https://{}", gate.address);
    assert!(
        ready.starts_with("READY=1\n") && ready.contains(&serving),
        "{ready}"
    );
    assert_eq!(gate.login("alice:pw"), 200);

    gate.signal(Signal::HUP);
    let reloading = manager.told();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(manager.told(), ready);

    std::fs::write(&file, "nonsense").unwrap();
    gate.signal(Signal::HUP);
    assert!(manager.told().starts_with("RELOADING=1\n"));
    let failed = manager.told();
    for words in [
        "READY=1\n",
        &serving,
        "the last reload failed",
        "proxy.toml:1",
    ] {
        assert!(failed.contains(words), "{words} in {failed}");
    }
    assert_eq!(failed.lines().count(), 2, "{failed}");

    gate.signal(Signal::TERM);
    assert!(manager.told().starts_with("STOPPING=1\nSTATUS=draining"));
    assert_eq!(gate.end(), Some(0));
}

#[test]
fn nothing_is_said_before_the_configuration_is_good() {
    let (dir, file) = configured("nonsense");
    let manager = Manager::new(dir.path());
    let output = serve(&file, &manager).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    manager.socket.set_nonblocking(true).unwrap();
    assert_eq!(manager.next(), None);
}

#[test]
fn the_watchdog_is_fed_while_the_workers_run() {
    let registry = Registry::accepting_all();
    let (dir, file) = usual(&registry);
    let manager = Manager::new(dir.path());
    let mut serve = serve(&file, &manager);
    let gate = Gate::spawn(serve.env("WATCHDOG_USEC", "200000"));
    assert!(manager.told().starts_with("READY=1"));
    for _ in 0..4 {
        let since = Instant::now();
        assert_eq!(manager.next().as_deref(), Some("WATCHDOG=1\n"));
        assert!(
            since.elapsed() < Duration::from_secs(2),
            "{:?}",
            since.elapsed()
        );
    }
    // Of another process: none of ours.
    drop(gate);
    let gate = Gate::spawn(serve.env("WATCHDOG_PID", "1"));
    while manager.told().starts_with("WATCHDOG") {}
    gate.signal(Signal::TERM);
    assert!(manager.told().starts_with("STOPPING=1"));
}

/// A command, and the sockets until it is started.
struct Activated {
    command: Command,
    _sockets: Vec<OwnedFd>,
}

/// Starts the executable as systemd does: descriptors from 3 on, and the process's own number in the environment.
fn activated(file: &str, sockets: &[&TcpListener], names: &str) -> Activated {
    let executable = env!("CARGO_BIN_EXE_tidegate");
    let mut moves = String::new();
    let mut high = Vec::new();
    for (index, socket) in sockets.iter().enumerate() {
        // Out of the way of those that are to be taken, and left open for the shell.
        let descriptor = fcntl_dupfd_cloexec(socket, 100).unwrap();
        fcntl_setfd(&descriptor, FdFlags::empty()).unwrap();
        let (from, to) = (descriptor.as_raw_fd(), index + 3);
        moves += &format!("exec {to}<&{from} {from}<&-; ");
        high.push(descriptor);
    }
    let script = format!(
        "{moves}LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={names} exec {executable} serve -c {file}",
        sockets.len()
    );
    let mut command = Command::new("bash");
    command
        .arg("-c")
        .arg(script)
        .stdin(std::process::Stdio::null());
    apart(&mut command, Path::new(file).parent().unwrap());
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    Activated {
        command,
        _sockets: high,
    }
}

fn named(registry: &Registry, listen: &str) -> (TempDir, String) {
    let text = config("", "").upstream(&registry.url());
    configured(text.lines("https", listen))
}

#[test]
fn sockets_of_systemd_are_taken_by_name() {
    let registry = Registry::accepting_all();
    let listen = "https = [\"systemd:https\"]\nhttp = [\"systemd:plain\"]";
    let (_dir, file) = named(&registry, listen);
    let sockets: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let all: Vec<_> = sockets.iter().collect();
    let gate = Gate::spawn(&mut activated(&file, &all, "https:plain:https").command);
    let plain = gate.line("listening on http://");
    let address = |index: usize| sockets[index].local_addr().unwrap();
    assert!(plain.contains(&address(1).to_string()), "{plain}");
    for index in [0, 2] {
        let mut client = Client::tls(
            address(index),
            "localhost",
            certs::default_client_config("http/1.1"),
        );
        assert_eq!(
            client.exchange(&TestRequest::alice("GET", "/v2/")).status,
            200
        );
    }
    let redirect = Client::plain(address(1)).exchange(&TestRequest::new("GET", "/"));
    assert_eq!(redirect.status, 308);
}

#[test]
fn a_socket_that_was_not_passed_is_told_with_those_that_were() {
    let registry = Registry::accepting_all();
    let (_dir, file) = named(&registry, "https = [\"systemd:htps\"]");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = activated(&file, &[&socket], "https")
        .command
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    for words in [
        "systemd:htps",
        "passed were systemd:https",
        "FileDescriptorName=",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
}

#[test]
fn a_restart_behind_an_inherited_socket_refuses_nobody() {
    let registry = Registry::accepting_all();
    let (_dir, file) = named(&registry, "https = [\"systemd:https\"]");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let load = Load::begin(address, 2);
    for _ in 0..5 {
        let mut gate = Gate::spawn(&mut activated(&file, &[&socket], "https").command);
        load.more(20);
        gate.signal(Signal::TERM);
        assert_eq!(gate.end(), Some(0));
    }
    let _last = Gate::spawn(&mut activated(&file, &[&socket], "https").command);
    load.more(20);
    load.end();
}

/// A process that was started by another one: it must not outlive the test, nor hold its pipes.
pub(crate) struct Successor(Pid);

impl Successor {
    pub(crate) fn of(message: &str) -> Self {
        let number = message.trim().strip_prefix("MAINPID=");
        let number = number.unwrap_or_else(|| panic!("{message}"));
        Self(Pid::from_raw(number.parse().unwrap()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).unwrap();
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// Clients that each open a connection, ask once, and begin again.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn begin(address: SocketAddr, clients: usize) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let ask = {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let settings = certs::default_client_config("http/1.1");
                    let mut client = Client::tls(address, "localhost", settings);
                    assert_eq!(
                        client.exchange(&TestRequest::alice("GET", "/v2/")).status,
                        200
                    );
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let threads = (0..clients).map(|_| thread::spawn(ask.clone())).collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    /// Waits for this many more answers.
    fn more(&self, answers: usize) {
        let goal = self.done.load(Ordering::Relaxed) + answers;
        let until = Instant::now() + PATIENCE;
        while self.done.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < until, "no answers in time");
            assert!(self.threads.iter().all(|thread| !thread.is_finished()));
            pause(Duration::from_millis(2));
        }
    }

    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client without a failure");
        }
        self.done.load(Ordering::Relaxed)
    }
}

#[test]
fn reload_waits_for_the_verdict() {
    let registry = Registry::accepting_all();
    let (dir, file) = usual(&registry);
    let nobody = run(&["reload", "-c", &file]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    assert!(
        text(&nobody.stderr).contains("no process serves with"),
        "{nobody:?}"
    );

    let gate = Gate::spawn(&mut command(&["serve", "-c", &file]));
    let process = gate.child.id().to_string();
    for _ in 0..5 {
        let done = run(&["reload", "-c", &file]);
        assert_eq!(done.status.code(), Some(0), "{done:?}");
        assert!(text(&done.stdout).contains(&process), "{done:?}");
        gate.line("reloaded");
    }
    // Good in itself, and an address that another process holds: only the gate can find out.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("127.0.0.1:0", &address)).unwrap();
    let failed = run(&["reload", "-c", &file]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    for words in ["has not reloaded", &address] {
        assert!(
            text(&failed.stderr).contains(words),
            "{words} in {failed:?}"
        );
    }
    // The command finds the error itself, and the process reports the failed reload as well.
    std::fs::write(&file, "nonsense").unwrap();
    let refused = run(&["reload", "-c", &file]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        text(&refused.stderr).contains("proxy.toml:1"),
        "{refused:?}"
    );
    assert_eq!(gate.login("alice:pw"), 200);
    drop(dir);
}

#[test]
fn a_second_gate_with_the_same_configuration_is_refused() {
    let registry = Registry::accepting_all();
    let (_dir, file) = usual(&registry);
    let gate = Gate::spawn(&mut command(&["serve", "-c", &file]));
    let second = run(&["serve", "-c", &file]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let said = text(&second.stderr);
    assert!(
        said.contains(&format!("process {} serves", gate.child.id())),
        "{said}"
    );
    drop(gate);
    Gate::spawn(&mut command(&["serve", "-c", &file]));
}

#[test]
fn an_upgrade_loses_nothing() {
    let registry = Registry::accepting_all();
    let (dir, file) = usual(&registry);
    let manager = Manager::new(dir.path());
    let mut gate = Gate::spawn(&mut serve(&file, &manager));
    assert!(manager.told().starts_with("READY=1"));
    let load = Load::begin(gate.address, 2);
    let mut upload = gate.client();
    upload.send(
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    upload.send(chunk(b"first"));
    registry.wait_for_requests(|seen| seen.iter().any(|seen| seen.body == b"first"));

    let mut processes: Vec<Successor> = Vec::new();
    for round in 0..5 {
        load.more(10);
        match processes.last() {
            None => gate.signal(Signal::USR2),
            Some(last) => last.signal(Signal::USR2),
        }
        let successor = Successor::of(&manager.told());
        let number = successor.0.as_raw_nonzero().to_string();
        processes.push(successor);
        let ready = manager.told();
        assert!(ready.starts_with("READY=1\n"), "round {round}: {ready}");
        assert!(ready.contains(&gate.address.to_string()), "{ready}");
        // It is found by the same file.
        let reloaded = run(&["reload", "-c", &file]);
        assert!(text(&reloaded.stdout).contains(&number), "{reloaded:?}");
        assert!(manager.told().starts_with("RELOADING=1"));
        assert!(manager.told().starts_with("READY=1"));
    }
    load.more(10);
    load.end();
    // The first process has waited for it.
    upload.send(chunk(b" last"));
    upload.send("0\r\n\r\n");
    assert_eq!(upload.read_response("PATCH").status, 200);
    assert_eq!(upload.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert_eq!(gate.end(), Some(0), "and then ended");
    processes[4].signal(Signal::TERM);
    assert!(
        manager.told().starts_with("STOPPING=1"),
        "only the last one says so"
    );
}

#[test]
fn an_upgrade_hands_the_socket_behind_a_proxy_on() {
    let registry = Registry::accepting_all();
    let dir = crate::support::proxy::directory();
    let path = dir.path().join("http.sock");
    let listen = format!(
        "https = [\"127.0.0.1:0\"]\nbehind_proxy = [\"unix:{}\"]",
        path.display()
    );
    let (folder, file) = named(&registry, &listen);
    let manager = Manager::new(folder.path());
    let mut gate = Gate::spawn(&mut serve(&file, &manager));
    assert!(manager.told().starts_with("READY=1"));
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    let request = TestRequest::alice("GET", "/v2/").header("X-Forwarded-Proto", "https");
    let status = || {
        let socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
        Client::from_socket(socket).exchange(&request).status
    };
    let first = inode();
    assert_eq!(status(), 200);
    gate.signal(Signal::USR2);
    let successor = Successor::of(&manager.told());
    assert!(manager.told().starts_with("READY=1"));
    for _ in 0..50 {
        assert_eq!(status(), 200);
    }
    assert_eq!(gate.end(), Some(0));
    assert_eq!((status(), inode()), (200, first));
    successor.signal(Signal::TERM);
    assert!(manager.told().starts_with("STOPPING=1"));
    crate::support::eventually("the file is removed", || !path.exists());
}

#[test]
fn an_upgrade_hands_the_admin_listener_on() {
    let registry = Registry::accepting_all();
    let dir = crate::support::proxy::directory();
    let path = dir.path().join("admin.sock");
    for place in ["127.0.0.1:0", &format!("unix:{}", path.display())] {
        let listen = format!("https = [\"127.0.0.1:0\"]\nadmin = \"{place}\"");
        let (folder, file) = named(&registry, &listen);
        let manager = Manager::new(folder.path());
        let mut gate = Gate::spawn(&mut serve(&file, &manager));
        let line = gate.line("(admin)");
        let metrics = || {
            let answer = match line.split_once("http://") {
                Some((_, rest)) => {
                    let (address, _) = rest.split_once(' ').unwrap();
                    crate::admin::get(address.parse().unwrap(), "/metrics")
                }
                None => crate::admin::get_unix(&path, "/metrics"),
            };
            answer.text()
        };
        let ready = || {
            let text = metrics();
            assert!(text.contains("\ntidegate_ready 1\n"), "{text}");
            let mut lines = text.lines();
            let started = lines.find_map(|line| line.strip_prefix("process_start_time_seconds "));
            started.unwrap().to_owned()
        };
        assert!(manager.told().starts_with("READY=1"));
        crate::support::eventually("the registry is checked", || {
            metrics().contains("\ntidegate_ready 1\n")
        });
        // From here on it is always ready, whichever process is asked.
        let first = ready();
        gate.signal(Signal::USR2);
        let successor = Successor::of(&manager.told());
        assert!(manager.told().starts_with("READY=1"));
        let until = Instant::now() + PATIENCE;
        while ready() == first {
            assert!(Instant::now() < until, "the successor is never asked");
        }
        assert_eq!(gate.end(), Some(0));
        assert_ne!(ready(), first);
        successor.signal(Signal::TERM);
        assert!(manager.told().starts_with("STOPPING=1"));
    }
}

#[test]
fn an_upgrade_that_fails_leaves_the_old_process_in_service() {
    let registry = Registry::accepting_all();
    let (dir, file) = usual(&registry);
    let manager = Manager::new(dir.path());
    let gate = Gate::spawn(&mut serve(&file, &manager));
    assert!(manager.told().starts_with("READY=1"));
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "nonsense").unwrap();
    gate.signal(Signal::USR2);
    let line = gate.line("not upgraded");
    assert!(line.contains("the configuration is rejected"), "{line}");
    let status = manager.told();
    assert!(status.contains("the last upgrade failed"), "{status}");
    assert!(!status.contains("MAINPID"), "{status}");
    assert_eq!(gate.login("alice:pw"), 200);
    // And the next one is not hindered by it.
    std::fs::write(&file, good).unwrap();
    gate.signal(Signal::USR2);
    let successor = Successor::of(&manager.told());
    assert!(manager.told().starts_with("READY=1"));
    successor.signal(Signal::TERM);
    assert!(manager.told().starts_with("STOPPING=1"));
}

#[test]
fn the_program_is_started_by_its_path_anew() {
    let registry = Registry::accepting_all();
    let (dir, file) = usual(&registry);
    let manager = Manager::new(dir.path());
    let link = dir.path().join("tidegate");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tidegate"), &link).unwrap();
    let mut command = Command::new(&link);
    command
        .args(["serve", "-c", &file])
        .env("NOTIFY_SOCKET", &manager.place);
    apart(&mut command, dir.path());
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let gate = Gate::spawn(command.stdin(std::process::Stdio::null()));
    assert!(manager.told().starts_with("READY=1"));
    // What a package does: another file by the same name.
    let script = "#!/bin/sh\necho the new program >&2; exit 3\n";
    std::fs::remove_file(&link).unwrap();
    std::fs::write(&link, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&link, mode).unwrap();
    gate.signal(Signal::USR2);
    let line = gate.line("not upgraded");
    assert!(line.contains("exit status: 3"), "{line}");
    assert_eq!(gate.login("alice:pw"), 200);
}

fn with_credential() -> (TempDir, String) {
    let auth = "mode = \"token\", htpasswd = \"htpasswd\", secret = \"credential:tokens\"";
    let text = config("", "").auth(auth);
    let (dir, file) = configured(text.upstream("http://127.0.0.1:1"));
    std::fs::create_dir(dir.path().join("credentials")).unwrap();
    (dir, file)
}

#[test]
fn the_secret_of_tokens_may_be_a_credential() {
    let (dir, file) = with_credential();
    let credentials = dir.path().join("credentials");
    let serve = |credentials: Option<&Path>| {
        let mut serve = command(&["serve", "-c", &file]);
        serve.env_remove("CREDENTIALS_DIRECTORY");
        if let Some(credentials) = credentials {
            serve.env("CREDENTIALS_DIRECTORY", credentials);
        }
        serve
    };
    for (given, words) in [
        (None, "CREDENTIALS_DIRECTORY is not set"),
        (Some(credentials.as_path()), "credentials/tokens"),
    ] {
        let output = serve(given).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains(words) && said.contains("tokens"), "{said}");
    }
    write_private(
        &credentials.join("tokens"),
        "0123456789abcdef0123456789abcdef",
    );
    let gate = Gate::spawn(&mut serve(Some(&credentials)));
    let scope = "/v2/_token?service=localhost&scope=repository:a:pull";
    let token = |gate: &Gate| {
        let answer = gate.client().exchange(&TestRequest::alice("GET", scope));
        let token: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        token["token"].as_str().unwrap().to_owned()
    };
    let token = token(&gate);
    drop(gate);
    // Another process with the same credential takes it: 401 is for a token that is none.
    let gate = Gate::spawn(&mut serve(Some(&credentials)));
    let ask = |token: &str| {
        let ask =
            TestRequest::new("GET", "/v2/").header("authorization", format!("Bearer {token}"));
        gate.client().exchange(&ask).status
    };
    assert_eq!((ask(&token), ask("a.b")), (502, 401));
}

#[test]
fn a_check_outside_of_the_service_does_not_miss_its_credentials() {
    let (dir, file) = with_credential();
    for credentials in [None, Some(dir.path().join("credentials"))] {
        let mut check = command(&["check", "-c", &file]);
        check.env_remove("CREDENTIALS_DIRECTORY");
        check.envs(credentials.map(|dir| ("CREDENTIALS_DIRECTORY", dir)));
        let output = check.output().unwrap();
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(said.contains("tokens was not checked"), "{said}");
    }
    let secret = dir.path().join("credentials/tokens");
    write_private(&secret, "short");
    let mut check = command(&["check", "-c", &file]);
    check.env("CREDENTIALS_DIRECTORY", secret.parent().unwrap());
    let output = check.output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(text(&output.stderr).contains("shorter than 32"));
}

#[test]
fn what_is_live_is_no_credential() {
    let usual = config("", "").upstream("http://127.0.0.1:1");
    let (dir, file) = configured(&usual);
    let credential = "credential:x";
    for (name, config) in [
        ("htpasswd", usual.clone().htpasswd(credential)),
        ("cert", usual.clone().certificate(credential, "key.pem")),
        ("key", usual.certificate("cert.pem", credential)),
    ] {
        std::fs::write(&file, config.to_string()).unwrap();
        let mut check = command(&["check", "-c", &file]);
        let output = check
            .env("CREDENTIALS_DIRECTORY", dir.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = text(&output.stderr);
        for word in [name, "copies a credential when the service starts"] {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
}
