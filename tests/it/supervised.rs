//! The executable under a service manager: messages to `NOTIFY_SOCKET`, socket activation, the watchdog, `tidegate reload`,
//! upgrades with SIGUSR2, and credentials.

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

use crate::binary::{ServeProcess, command, configured, run, text, with_own_directories};
use crate::support::client::StreamEnd;
use crate::support::proxy::write_private;
use crate::support::request::chunk;
use crate::support::{
    Client, PATIENCE, Registry, TestRequest, assert_contains, certs, config, pause,
};

/// The service manager's end of `NOTIFY_SOCKET`.
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

    /// Waits for the next message that is not a watchdog message.
    pub(crate) fn next_message(&self) -> String {
        loop {
            let message = self.receive().expect("a message arrives in time");
            if message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    fn receive(&self) -> Option<String> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(text(&bytes[..length]))
    }
}

fn default_config(registry: &Registry) -> (TempDir, String) {
    configured(config("", "").upstream(&registry.url()))
}

pub(crate) fn serve(file: &str, manager: &Manager) -> Command {
    let mut command = command(&["serve", "-c", file]);
    command.env("NOTIFY_SOCKET", &manager.place);
    command
}

/// A process that serves the default configuration, and has reported to its service manager that it is ready.
fn start_ready(registry: &Registry) -> (TempDir, String, Manager, ServeProcess) {
    let (dir, file) = default_config(registry);
    let manager = Manager::new(dir.path());
    let proxy = ServeProcess::spawn(&mut serve(&file, &manager));
    assert!(manager.next_message().starts_with("READY=1"));
    (dir, file, manager, proxy)
}

#[test]
fn the_service_manager_is_notified_of_start_reload_and_stop() {
    let registry = Registry::accepting_all();
    let (dir, file) = default_config(&registry);
    let manager = Manager::new(dir.path());
    let mut proxy = ServeProcess::spawn(&mut serve(&file, &manager));
    let ready = manager.next_message();
    let serving = format!("STATUS=serving on https://{}", proxy.address);
    assert!(
        ready.starts_with("READY=1\n") && ready.contains(&serving),
        "{ready}"
    );
    assert_eq!(proxy.login("alice:pw"), 200);

    proxy.signal(Signal::HUP);
    let reloading = manager.next_message();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(manager.next_message(), ready);

    std::fs::write(&file, "nonsense").unwrap();
    proxy.signal(Signal::HUP);
    assert!(manager.next_message().starts_with("RELOADING=1\n"));
    let failed = manager.next_message();
    assert_contains(
        &failed,
        &[
            "READY=1\n",
            &serving,
            "the last reload failed",
            "proxy.toml:1",
        ],
    );
    assert_eq!(failed.lines().count(), 2, "{failed}");

    proxy.signal(Signal::TERM);
    let stopping = manager.next_message();
    assert!(
        stopping.starts_with("STOPPING=1\nSTATUS=draining"),
        "{stopping}"
    );
    // The default of limits.drain is 30 s, and ten more are for the end of the process.
    assert!(
        stopping.contains("\nEXTEND_TIMEOUT_USEC=40000000"),
        "{stopping}"
    );
    assert_eq!(proxy.end(), Some(0));
}

#[test]
fn a_rejected_configuration_sends_no_notification() {
    let (dir, file) = configured("nonsense");
    let manager = Manager::new(dir.path());
    let output = serve(&file, &manager).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    manager.socket.set_nonblocking(true).unwrap();
    assert_eq!(manager.receive(), None);
}

#[test]
fn watchdog_messages_are_sent_while_the_workers_run() {
    let registry = Registry::accepting_all();
    let (dir, file) = default_config(&registry);
    let manager = Manager::new(dir.path());
    let mut serve = serve(&file, &manager);
    let proxy = ServeProcess::spawn(serve.env("WATCHDOG_USEC", "200000"));
    assert!(manager.next_message().starts_with("READY=1"));
    for _ in 0..4 {
        let since = Instant::now();
        assert_eq!(manager.receive().as_deref(), Some("WATCHDOG=1\n"));
        assert!(
            since.elapsed() < Duration::from_secs(2),
            "{:?}",
            since.elapsed()
        );
    }
    // WATCHDOG_PID names another process, so that the proxy sends no watchdog messages.
    drop(proxy);
    let proxy = ServeProcess::spawn(serve.env("WATCHDOG_PID", "1"));
    while manager.next_message().starts_with("WATCHDOG") {}
    proxy.signal(Signal::TERM);
    assert!(manager.next_message().starts_with("STOPPING=1"));
}

/// A command with the sockets that it inherits, which stay open until it is started.
struct Activated {
    command: Command,
    _sockets: Vec<OwnedFd>,
}

/// A command that starts the executable with socket activation as systemd does (sd_listen_fds(3)): the sockets are the
/// descriptors from 3 on, and `LISTEN_PID` is the process id of the executable.
fn activated(file: &str, sockets: &[&TcpListener], names: &str) -> Activated {
    let executable = env!("CARGO_BIN_EXE_tidegate");
    let mut moves = String::new();
    let mut high = Vec::new();
    for (index, socket) in sockets.iter().enumerate() {
        // The duplicate has a number above those of the inherited sockets, and stays open in the shell.
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
    with_own_directories(&mut command, Path::new(file).parent().unwrap());
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    Activated {
        command,
        _sockets: high,
    }
}

fn config_with_listen(registry: &Registry, listen: &str) -> (TempDir, String) {
    let text = config("", "").upstream(&registry.url());
    configured(text.lines("https", listen))
}

#[test]
fn sockets_from_systemd_are_assigned_by_name() {
    let registry = Registry::accepting_all();
    let listen = "https = [\"systemd:https\"]\nhttp = [\"systemd:plain\"]";
    let (_dir, file) = config_with_listen(&registry, listen);
    let sockets: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let all: Vec<_> = sockets.iter().collect();
    let proxy = ServeProcess::spawn(&mut activated(&file, &all, "https:plain:https").command);
    let plain = proxy.line("listening on http://");
    let address = |index: usize| sockets[index].local_addr().unwrap();
    assert!(plain.contains(&address(1).to_string()), "{plain}");
    for index in [0, 2] {
        let mut client = Client::tls(
            address(index),
            "localhost",
            certs::default_client_config("http/1.1"),
        );
        assert_eq!(client.ping(), 200);
    }
    let redirect = Client::plain(address(1)).exchange(&TestRequest::new("GET", "/"));
    assert_eq!(redirect.status, 308);
}

#[test]
fn a_socket_that_systemd_did_not_pass_is_an_error() {
    let registry = Registry::accepting_all();
    let (_dir, file) = config_with_listen(&registry, "https = [\"systemd:htps\"]");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = activated(&file, &[&socket], "https")
        .command
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = text(&output.stderr);
    assert_contains(
        &stderr,
        &[
            "systemd:htps",
            "passed were systemd:https",
            "FileDescriptorName=",
        ],
    );
}

#[test]
fn a_restart_with_an_inherited_socket_refuses_no_connection() {
    let registry = Registry::accepting_all();
    let (_dir, file) = config_with_listen(&registry, "https = [\"systemd:https\"]");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let load = Load::begin(address, 2);
    for _ in 0..5 {
        let mut proxy = ServeProcess::spawn(&mut activated(&file, &[&socket], "https").command);
        load.wait_for_more(20);
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.end(), Some(0));
    }
    let _last = ServeProcess::spawn(&mut activated(&file, &[&socket], "https").command);
    load.wait_for_more(20);
    load.end();
}

/// A process that the proxy started during an upgrade. It is killed when this value is dropped, so that it does not outlive the
/// test and does not keep the pipes of the test open.
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
        // The process may have ended already.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// Clients that each repeatedly open a connection, send one request and close the connection.
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
        let send_requests = {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let settings = certs::default_client_config("http/1.1");
                    let mut client = Client::tls(address, "localhost", settings);
                    assert_eq!(client.ping(), 200);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let threads = (0..clients)
            .map(|_| thread::spawn(send_requests.clone()))
            .collect();
        Self {
            stop,
            done,
            threads,
        }
    }

    /// Waits until the clients have got `responses` more responses.
    fn wait_for_more(&self, responses: usize) {
        let goal = self.done.load(Ordering::Relaxed) + responses;
        let until = Instant::now() + PATIENCE;
        while self.done.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < until, "no responses in time");
            assert!(self.threads.iter().all(|thread| !thread.is_finished()));
            pause(Duration::from_millis(2));
        }
    }

    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no client fails");
        }
        self.done.load(Ordering::Relaxed)
    }
}

#[test]
fn reload_reports_whether_the_process_has_reloaded() {
    let registry = Registry::accepting_all();
    let (dir, file) = default_config(&registry);
    let not_running = run(&["reload", "-c", &file]);
    assert_eq!(not_running.status.code(), Some(1), "{not_running:?}");
    assert!(
        text(&not_running.stderr).contains("no process serves with"),
        "{not_running:?}"
    );

    let proxy = ServeProcess::spawn(&mut command(&["serve", "-c", &file]));
    let process = proxy.child.id().to_string();
    for _ in 0..5 {
        let reloaded = run(&["reload", "-c", &file]);
        assert_eq!(reloaded.status.code(), Some(0), "{reloaded:?}");
        assert!(text(&reloaded.stdout).contains(&process), "{reloaded:?}");
        proxy.line("reloaded");
    }
    // The configuration is valid, but another process listens on the address. Only the running process detects this error.
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
    assert_eq!(proxy.login("alice:pw"), 200);
    drop(dir);
}

#[test]
fn a_second_process_with_the_same_configuration_does_not_start() {
    let registry = Registry::accepting_all();
    let (_dir, file) = default_config(&registry);
    let proxy = ServeProcess::spawn(&mut command(&["serve", "-c", &file]));
    let second = run(&["serve", "-c", &file]);
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let stderr = text(&second.stderr);
    assert!(
        stderr.contains(&format!("process {} serves", proxy.child.id())),
        "{stderr}"
    );
    drop(proxy);
    ServeProcess::spawn(&mut command(&["serve", "-c", &file]));
}

#[test]
fn an_upgrade_loses_no_request() {
    let registry = Registry::accepting_all();
    let (_dir, file, manager, mut proxy) = start_ready(&registry);
    let load = Load::begin(proxy.address, 2);
    let mut upload = proxy.client();
    upload.send(
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    upload.send(chunk(b"first"));
    registry.wait_for_requests(|seen| seen.iter().any(|seen| seen.body == b"first"));

    let mut processes: Vec<Successor> = Vec::new();
    for round in 0..5 {
        load.wait_for_more(10);
        match processes.last() {
            None => proxy.signal(Signal::USR2),
            Some(last) => last.signal(Signal::USR2),
        }
        let successor = Successor::of(&manager.next_message());
        let number = successor.0.as_raw_nonzero().to_string();
        processes.push(successor);
        let ready = manager.next_message();
        assert!(ready.starts_with("READY=1\n"), "round {round}: {ready}");
        assert!(ready.contains(&proxy.address.to_string()), "{ready}");
        // `tidegate reload` finds the successor by the same configuration file.
        let reloaded = run(&["reload", "-c", &file]);
        assert!(text(&reloaded.stdout).contains(&number), "{reloaded:?}");
        assert!(manager.next_message().starts_with("RELOADING=1"));
        assert!(manager.next_message().starts_with("READY=1"));
    }
    load.wait_for_more(10);
    load.end();
    // The first process has waited for the upload.
    upload.send(chunk(b" last"));
    upload.send("0\r\n\r\n");
    assert_eq!(upload.read_response("PATCH").status, 200);
    assert_eq!(upload.read_to_end(), (Vec::new(), StreamEnd::Clean));
    assert_eq!(proxy.end(), Some(0), "the first process then ends");
    processes[4].signal(Signal::TERM);
    assert!(
        manager.next_message().starts_with("STOPPING=1"),
        "only the last process sends STOPPING"
    );
}

#[test]
fn an_upgrade_passes_on_the_unix_socket_of_behind_proxy() {
    let registry = Registry::accepting_all();
    let dir = crate::support::proxy::directory();
    let path = dir.path().join("http.sock");
    let listen = format!(
        "https = [\"127.0.0.1:0\"]\nbehind_proxy = [\"unix:{}\"]",
        path.display()
    );
    let (folder, file) = config_with_listen(&registry, &listen);
    let manager = Manager::new(folder.path());
    let mut proxy = ServeProcess::spawn(&mut serve(&file, &manager));
    assert!(manager.next_message().starts_with("READY=1"));
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    let request = TestRequest::alice("GET", "/v2/").header("X-Forwarded-Proto", "https");
    let status = || {
        let socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
        Client::from_socket(socket).exchange(&request).status
    };
    let first = inode();
    assert_eq!(status(), 200);
    proxy.signal(Signal::USR2);
    let successor = Successor::of(&manager.next_message());
    assert!(manager.next_message().starts_with("READY=1"));
    for _ in 0..50 {
        assert_eq!(status(), 200);
    }
    assert_eq!(proxy.end(), Some(0));
    assert_eq!((status(), inode()), (200, first));
    successor.signal(Signal::TERM);
    assert!(manager.next_message().starts_with("STOPPING=1"));
    crate::support::eventually("the file is removed", || !path.exists());
}

#[test]
fn an_upgrade_closes_the_addresses_that_the_configuration_names_no_more() {
    let registry = Registry::accepting_all();
    let dir = crate::support::proxy::directory();
    let path = dir.path().join("http.sock");
    let removed = format!(
        ", \"127.0.0.2:0\"]\nbehind_proxy = [\"unix:{}\"]",
        path.display()
    );
    let listen = format!("https = [\"127.0.0.1:0\"{removed}");
    let (folder, file) = config_with_listen(&registry, &listen);
    let manager = Manager::new(folder.path());
    let mut proxy = ServeProcess::spawn(&mut serve(&file, &manager));
    let line = proxy.line("https://127.0.0.2:");
    let (_, address) = line.split_once("https://").unwrap();
    let address: SocketAddr = address.parse().unwrap();
    assert!(manager.next_message().starts_with("READY=1"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&removed, "]")).unwrap();
    proxy.signal(Signal::USR2);
    let successor = Successor::of(&manager.next_message());
    assert!(manager.next_message().starts_with("READY=1"));
    assert_eq!(proxy.end(), Some(0));
    // A client would wait for ever if the port were open: no process accepts its connection.
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(!path.exists());
    assert_eq!(proxy.login("alice:pw"), 200);
    successor.signal(Signal::TERM);
    assert!(manager.next_message().starts_with("STOPPING=1"));
}

#[test]
fn signals_during_an_upgrade_reach_the_new_process() {
    // An upstream that never responds delays the new process, whose first health checks wait for it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("http://{}", silent.local_addr().unwrap());
    let (dir, file) = configured(config("", "").upstream(&upstream));
    let disabled = "dora:plain\n";
    let passwords = dir.path().join("htpasswd");
    let users = std::fs::read_to_string(&passwords).unwrap() + disabled;
    std::fs::write(&passwords, users).unwrap();
    let manager = Manager::new(dir.path());
    let mut proxy = ServeProcess::spawn(&mut serve(&file, &manager));
    assert!(manager.next_message().starts_with("READY=1"));
    proxy.signal(Signal::USR2);
    // The new process has read the configuration and the files, and has opened the logs.
    proxy.line("\"dora\"");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("Registry realm", "Another realm")).unwrap();
    let [log, rotated] = ["access.log", "access.log.1"].map(|name| dir.path().join(name));
    std::fs::rename(&log, &rotated).unwrap();
    proxy.signal(Signal::HUP);
    proxy.signal(Signal::USR1);
    let successor = Successor::of(&manager.next_message());
    assert!(manager.next_message().starts_with("READY=1"));
    assert!(manager.next_message().starts_with("RELOADING=1"));
    assert!(manager.next_message().starts_with("READY=1"));
    assert_eq!(proxy.end(), Some(0));
    let challenge = proxy.client().exchange(&TestRequest::new("GET", "/v2/"));
    let realm = challenge.header("www-authenticate");
    assert!(realm.contains("Another realm"), "{realm}");
    crate::support::eventually("the new process writes to the new file", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("action=ping"))
    });
    successor.signal(Signal::TERM);
    assert!(manager.next_message().starts_with("STOPPING=1"));
}

/// The reload waits up to ten seconds for a lock that another process holds.
#[test]
fn a_reload_that_is_blocked_does_not_delay_the_end_of_the_process() {
    let text = config("", "").set("tls", "\"self-signed\"");
    let (dir, file) = configured(text.upstream("http://127.0.0.1:1"));
    let manager = Manager::new(dir.path());
    let mut proxy = ServeProcess::spawn(&mut serve(&file, &manager));
    assert!(manager.next_message().starts_with("READY=1"));
    let state = dir.path().join("state");
    std::fs::remove_file(state.join("ca.pem")).unwrap();
    let lock = std::fs::File::open(state.join("ca.lock")).unwrap();
    lock.lock().unwrap();
    proxy.signal(Signal::HUP);
    assert!(manager.next_message().starts_with("RELOADING=1"));
    let began = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.end(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn an_upgrade_passes_on_the_admin_listener() {
    let registry = Registry::accepting_all();
    let dir = crate::support::proxy::directory();
    let path = dir.path().join("admin.sock");
    for place in ["127.0.0.1:0", &format!("unix:{}", path.display())] {
        let listen = format!("https = [\"127.0.0.1:0\"]\nadmin = \"{place}\"");
        let (folder, file) = config_with_listen(&registry, &listen);
        let manager = Manager::new(folder.path());
        let mut proxy = ServeProcess::spawn(&mut serve(&file, &manager));
        let line = proxy.line("(admin)");
        let metrics = || {
            let response = match line.split_once("http://") {
                Some((_, rest)) => {
                    let (address, _) = rest.split_once(' ').unwrap();
                    crate::admin::get(address.parse().unwrap(), "/metrics")
                }
                None => crate::admin::get_unix(&path, "/metrics"),
            };
            response.text()
        };
        let ready = || {
            let text = metrics();
            assert!(text.contains("\ntidegate_ready 1\n"), "{text}");
            let mut lines = text.lines();
            let started = lines.find_map(|line| line.strip_prefix("process_start_time_seconds "));
            started.unwrap().to_owned()
        };
        assert!(manager.next_message().starts_with("READY=1"));
        crate::support::eventually("the registry is checked", || {
            metrics().contains("\ntidegate_ready 1\n")
        });
        // From here on, every response reports that the process is ready, whichever process sends it.
        let first = ready();
        proxy.signal(Signal::USR2);
        let successor = Successor::of(&manager.next_message());
        assert!(manager.next_message().starts_with("READY=1"));
        let until = Instant::now() + PATIENCE;
        while ready() == first {
            assert!(Instant::now() < until, "the successor gets no request");
        }
        assert_eq!(proxy.end(), Some(0));
        assert_ne!(ready(), first);
        successor.signal(Signal::TERM);
        assert!(manager.next_message().starts_with("STOPPING=1"));
    }
}

#[test]
fn an_upgrade_that_fails_leaves_the_old_process_in_service() {
    let registry = Registry::accepting_all();
    let (_dir, file, manager, proxy) = start_ready(&registry);
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "nonsense").unwrap();
    proxy.signal(Signal::USR2);
    let line = proxy.line("not upgraded");
    assert!(line.contains("the configuration is rejected"), "{line}");
    let status = manager.next_message();
    assert!(status.contains("the last upgrade failed"), "{status}");
    assert!(!status.contains("MAINPID"), "{status}");
    assert_eq!(proxy.login("alice:pw"), 200);
    // The next upgrade succeeds.
    std::fs::write(&file, good).unwrap();
    proxy.signal(Signal::USR2);
    let successor = Successor::of(&manager.next_message());
    assert!(manager.next_message().starts_with("READY=1"));
    successor.signal(Signal::TERM);
    assert!(manager.next_message().starts_with("STOPPING=1"));
}

/// A link to the executable. A test replaces it, so that the next upgrade starts another program.
struct ReplaceableExecutable(std::path::PathBuf);

impl ReplaceableExecutable {
    fn in_dir(dir: &Path) -> Self {
        let executable = Self(dir.join("tidegate"));
        executable.restore();
        executable
    }

    fn serve(&self, file: &str, manager: &Manager) -> ServeProcess {
        let mut command = Command::new(&self.0);
        command
            .args(["serve", "-c", file])
            .env("NOTIFY_SOCKET", &manager.place);
        with_own_directories(&mut command, self.0.parent().unwrap());
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        ServeProcess::spawn(command.stdin(std::process::Stdio::null()))
    }

    /// Puts the executable back.
    fn restore(&self) {
        // There is no file yet at the first call.
        let _ = std::fs::remove_file(&self.0);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tidegate"), &self.0).unwrap();
    }

    /// Puts a script in the place of the executable, as a package update replaces the file.
    fn replace_by(&self, script: &str) {
        std::fs::remove_file(&self.0).unwrap();
        std::fs::write(&self.0, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&self.0, mode).unwrap();
    }
}

/// A process with a [`ReplaceableExecutable`], which has reported to its service manager that it is ready.
struct ReplaceableProxy {
    dir: TempDir,
    file: String,
    manager: Manager,
    executable: ReplaceableExecutable,
    proxy: ServeProcess,
}

impl ReplaceableProxy {
    fn start(registry: &Registry) -> Self {
        let (dir, file) = default_config(registry);
        let manager = Manager::new(dir.path());
        let executable = ReplaceableExecutable::in_dir(dir.path());
        let proxy = executable.serve(&file, &manager);
        assert!(manager.next_message().starts_with("READY=1"));
        Self {
            dir,
            file,
            manager,
            executable,
            proxy,
        }
    }
}

/// The beginning of a script that acts as the new process of an upgrade: it receives all messages of the old one.
const RECEIVE_HANDOVER: &str = "#!/bin/bash
while [ \"$(dd bs=8192 count=1 2>/dev/null)\" != end ]; do :; done
";

#[test]
fn an_upgrade_whose_process_ends_when_it_is_ready_leaves_the_old_one_in_service() {
    let registry = Registry::accepting_all();
    let ReplaceableProxy {
        dir: _dir,
        file,
        manager,
        executable,
        mut proxy,
    } = ReplaceableProxy::start(&registry);
    // The old process is stopped while the new one reports that it is ready and closes the channel.
    let script = "kill -STOP $PPID; printf ready >&0; exec 0</dev/null; kill -CONT $PPID; exit 9";
    executable.replace_by(&format!("{RECEIVE_HANDOVER}{script}\n"));
    proxy.signal(Signal::USR2);
    let successor = Successor::of(&manager.next_message());
    // The process is reaped, so its number may belong to another one.
    std::mem::forget(successor);
    let main = format!("MAINPID={}\n", proxy.child.id());
    assert_eq!(manager.next_message(), main);
    let status = manager.next_message();
    assert_contains(
        &status,
        &["the last upgrade failed", "ended before it served"],
    );
    assert_eq!(proxy.login("alice:pw"), 200);
    // The old process still has the pid file.
    let reloaded = run(&["reload", "-c", &file]);
    let number = proxy.child.id().to_string();
    assert!(text(&reloaded.stdout).contains(&number), "{reloaded:?}");
    assert!(manager.next_message().starts_with("RELOADING=1"));
    assert!(manager.next_message().starts_with("READY=1"));

    executable.restore();
    proxy.signal(Signal::USR2);
    let _successor = Successor::of(&manager.next_message());
    assert!(manager.next_message().starts_with("READY=1"));
    assert_eq!(proxy.end(), Some(0), "the next upgrade succeeds");
}

#[test]
fn a_stop_during_an_upgrade_ends_the_new_process_before_the_drain() {
    let registry = Registry::accepting_all();
    let ReplaceableProxy {
        dir,
        file: _file,
        manager,
        executable,
        mut proxy,
    } = ReplaceableProxy::start(&registry);
    let mut upload = proxy.client();
    upload.send(
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
            .chunked()
            .head(),
    );
    upload.send(chunk(b"first"));
    registry.wait_for_requests(|seen| seen.iter().any(|seen| seen.body == b"first"));

    // The new process is ready only when the old one drains. Then it waits for a message, and records the end of the channel.
    let file_named = |name: &str| dir.path().join(name);
    let (started, drains, answer) = (
        file_named("started"),
        file_named("drains"),
        file_named("answer"),
    );
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.01; done; printf ready >&0; dd bs=8192 count=1 of={} 2>/dev/null",
        started.display(),
        drains.display(),
        answer.display()
    );
    executable.replace_by(&format!(
        "{RECEIVE_HANDOVER}{script}\necho ended >>{}\n",
        answer.display()
    ));
    proxy.signal(Signal::USR2);
    crate::support::eventually("the new process starts", || started.exists());
    proxy.signal(Signal::TERM);
    assert!(manager.next_message().starts_with("STOPPING=1"));
    std::fs::write(&drains, "").unwrap();
    crate::support::eventually("the new process is told to end", || {
        std::fs::read_to_string(&answer).is_ok_and(|answer| answer == "ended\n")
    });
    // The old process was still draining.
    upload.send(chunk(b" last"));
    upload.send("0\r\n\r\n");
    assert_eq!(upload.read_response("PATCH").status, 200);
    assert_eq!(proxy.end(), Some(0));
}

#[test]
fn an_upgrade_waits_for_the_reload_in_progress() {
    let registry = Registry::accepting_all();
    let (dir, file, manager, mut proxy) = start_ready(&registry);
    // A long password file makes the reload slow. The new address would be bound by both processes.
    let users: String = (0..50_000)
        .map(|number| format!("user{number}:{{SHA}}VBPuJHI7uixaa6LQGWx4s+5GKNE=\n"))
        .collect();
    let passwords = dir.path().join("htpasswd");
    let mut lines = std::fs::read_to_string(&passwords).unwrap();
    lines += &users;
    std::fs::write(&passwords, lines).unwrap();
    // No other test uses this address, so its port stays free.
    let free = TcpListener::bind("127.77.0.1:0").unwrap();
    let added = free.local_addr().unwrap();
    drop(free);
    let config = std::fs::read_to_string(&file).unwrap();
    let addresses = format!("\"127.0.0.1:0\", \"{added}\"");
    std::fs::write(&file, config.replace("\"127.0.0.1:0\"", &addresses)).unwrap();
    proxy.signal(Signal::HUP);
    assert!(manager.next_message().starts_with("RELOADING=1"));
    proxy.signal(Signal::USR2);
    let reloaded = manager.next_message();
    assert!(
        reloaded.starts_with("READY=1") && reloaded.contains(&added.to_string()),
        "{reloaded}"
    );
    assert!(!reloaded.contains("failed"), "{reloaded}");
    let successor = Successor::of(&manager.next_message());
    let ready = manager.next_message();
    assert!(ready.contains(&added.to_string()), "{ready}");
    assert_eq!(proxy.end(), Some(0));
    successor.signal(Signal::TERM);
    assert!(manager.next_message().starts_with("STOPPING=1"));
}

#[test]
fn an_upgrade_starts_the_file_that_is_now_at_the_path() {
    let registry = Registry::accepting_all();
    let ReplaceableProxy {
        dir: _dir,
        file: _file,
        manager: _manager,
        executable,
        proxy,
    } = ReplaceableProxy::start(&registry);
    executable.replace_by("#!/bin/sh\necho the new program >&2; exit 3\n");
    proxy.signal(Signal::USR2);
    let line = proxy.line("not upgraded");
    assert!(line.contains("exit status: 3"), "{line}");
    assert_eq!(proxy.login("alice:pw"), 200);
}

fn with_credential() -> (TempDir, String) {
    let auth = "mode = \"token\", htpasswd = \"htpasswd\", secret = \"credential:tokens\"";
    let text = config("", "").auth(auth);
    let (dir, file) = configured(text.upstream("http://127.0.0.1:1"));
    std::fs::create_dir(dir.path().join("credentials")).unwrap();
    (dir, file)
}

#[test]
fn the_token_secret_may_be_a_credential() {
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
    for (directory, message) in [
        (None, "CREDENTIALS_DIRECTORY is not set"),
        (Some(credentials.as_path()), "credentials/tokens"),
    ] {
        let output = serve(directory).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains(message) && stderr.contains("tokens"),
            "{stderr}"
        );
    }
    write_private(
        &credentials.join("tokens"),
        "0123456789abcdef0123456789abcdef",
    );
    let proxy = ServeProcess::spawn(&mut serve(Some(&credentials)));
    let scope = "/v2/_token?service=localhost&scope=repository:a:pull";
    let token = |proxy: &ServeProcess| {
        let response = proxy.client().exchange(&TestRequest::alice("GET", scope));
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        body["token"].as_str().unwrap().to_owned()
    };
    let token = token(&proxy);
    drop(proxy);
    // Another process with the same credential accepts the token: the status is 502 because there is no upstream. An invalid
    // token gets 401.
    let proxy = ServeProcess::spawn(&mut serve(Some(&credentials)));
    let status = |token: &str| {
        let request =
            TestRequest::new("GET", "/v2/").header("authorization", format!("Bearer {token}"));
        proxy.client().exchange(&request).status
    };
    assert_eq!((status(&token), status("a.b")), (502, 401));
}

#[test]
fn a_check_outside_the_service_does_not_require_its_credentials() {
    let (dir, file) = with_credential();
    for credentials in [None, Some(dir.path().join("credentials"))] {
        let mut check = command(&["check", "-c", &file]);
        check.env_remove("CREDENTIALS_DIRECTORY");
        check.envs(credentials.map(|dir| ("CREDENTIALS_DIRECTORY", dir)));
        let output = check.output().unwrap();
        let stdout = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(stdout.contains("tokens was not checked"), "{stdout}");
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
fn live_files_may_not_be_credentials() {
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
        let stderr = text(&output.stderr);
        assert_contains(
            &stderr,
            &[name, "copies a credential when the service starts"],
        );
    }
}
