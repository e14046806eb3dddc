//! The executable itself: its commands, their exit codes and words, and its signals.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::proxy::directory;
use crate::support::{Client, PATIENCE, Registry, TestRequest, certs, config, pause};

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let (dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("the configuration is good"), "{said}");
    assert!(
        !dir.path().join("access.log").exists(),
        "check writes nothing"
    );
}

#[test]
fn a_password_file_that_everyone_may_read_is_told() {
    let (dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    let passwords = dir.path().join("htpasswd");
    std::fs::set_permissions(&passwords, Permissions::from_mode(0o644)).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    assert!(
        said.contains("every user of this machine can read or write the file (mode 0644)"),
        "{said}"
    );
    std::fs::set_permissions(&passwords, Permissions::from_mode(0o640)).unwrap();
    let said = text(&run(&["check", "-c", &file]).stdout);
    assert!(said.contains("the configuration is good"), "{said}");
}

#[test]
fn warnings_are_told_and_are_no_failure() {
    let (dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    let weak = "bob:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\nplain:secretword\n";
    std::fs::write(dir.path().join("htpasswd"), weak).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text(&output.stdout);
    for word in ["line 1", "bob", "line 2", "plain", "would start"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert!(
        !said.contains("secretword") && !said.contains("Xxd1"),
        "{said}"
    );
}

#[test]
fn check_makes_no_token_secret_and_warns_of_one_that_all_may_read() {
    let state = "[state]\ndir = \"{dir}/state\"\n";
    let text = config(state, "")
        .mode("token")
        .upstream("http://127.0.0.1:1");
    let dir = directory();
    let folder = dir.path().to_str().unwrap();
    let file = format!("{folder}/proxy.toml");
    std::fs::write(&file, text.in_dir(folder)).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!dir.path().join("state").exists(), "check writes nothing");
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let secret = dir.path().join("state/token-secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let public = Permissions::from_mode(0o644);
    std::fs::set_permissions(&secret, public).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = text_of(&output);
    assert!(
        said.contains("every user of this machine") && said.contains("0644"),
        "{said}"
    );
    assert!(!said.contains("0123456789"), "{said}");
}

fn text_of(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_problem_is_told_in_one_run() {
    let bad = config(
        "[limits]\nhaed = \"1s\"\nidle = \"soon\"\n",
        "max_body = \"1XB\"",
    );
    let (_dir, file) = configured(bad.upstream("ftp://x"));
    for command in ["check", "serve"] {
        let output = run(&[command, "-c", &file]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let said = text(&output.stderr);
        assert!(output.stdout.is_empty(), "{output:?}");
        let place = |line: usize| format!("{file}:{line}:");
        for word in [
            "\"haed\" in limits",
            "did you mean \"head\"",
            "limits.idle",
            "XB",
            "site.route.upstream",
            &place(4),
            &place(5),
        ] {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    for command in ["check", "serve"] {
        let output = run(&[command, "-c", "/nonexistent/proxy.toml"]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(text(&output.stderr).contains("/nonexistent/proxy.toml"));
    }
    let (dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    std::fs::remove_file(dir.path().join("htpasswd")).unwrap();
    let output = run(&["serve", "-c", &file]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(text(&output.stderr).contains(dir.path().join("htpasswd").to_str().unwrap()));
}

#[test]
fn the_command_line_explains_itself() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let said = text(&help.stdout);
    for word in ["serve", "check", "Examples", "tidegate check -c"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    let expected = format!("tidegate {} (commit ", env!("CARGO_PKG_VERSION"));
    assert!(text(&version.stdout).starts_with(&expected), "{version:?}");
    for wrong in [&["sevre"][..], &["check", "--nothing"], &[]] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stderr).contains("Usage"), "{output:?}");
    }
}

#[test]
fn it_serves_reloads_and_drains() {
    let registry = Registry::accepting_all();
    let (dir, file) = configured(config("", "").upstream(&registry.url()));
    let mut gate = Gate::start(&file);
    assert_eq!(gate.login("alice:pw"), 200);
    let carol = format!("carol:{}\n", bcrypt::hash("new", 4).unwrap());
    std::fs::write(dir.path().join("htpasswd"), carol).unwrap();
    gate.signal(Signal::HUP);
    gate.line("reloaded");
    assert_eq!(
        (gate.login("carol:new"), gate.login("alice:pw")),
        (200, 401)
    );

    std::fs::write(dir.path().join("proxy.toml"), "nonsense").unwrap();
    gate.signal(Signal::HUP);
    gate.line("not reloaded");
    assert_eq!(gate.login("carol:new"), 200);

    gate.signal(Signal::USR1);
    gate.line("log files reopened");
    gate.signal(Signal::TERM);
    gate.line("stopped");
    assert_eq!(gate.end(), Some(0));
    let log = std::fs::read_to_string(dir.path().join("access.log")).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
}

#[test]
fn a_gate_that_was_stopped_for_a_while_goes_on() {
    let registry = Registry::accepting_all();
    let limits = "[limits]\nidle = \"60s\"\nbody_idle = \"60s\"\n";
    let (_dir, file) = configured(config(limits, "").upstream(&registry.url()));
    let mut gate = Gate::start(&file);
    let (mut kept, mut uploading) = (gate.client(), gate.client());
    assert_eq!(
        kept.exchange(&TestRequest::alice("GET", "/v2/")).status,
        200
    );
    let upload =
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u").header("Content-Length", "10");
    uploading.send(upload.head());
    uploading.send("first");
    registry.wait_for_requests(|seen| seen.iter().any(|seen| seen.body == b"first"));
    gate.signal(Signal::STOP);
    // Waits in the sockets meanwhile; long enough that every timer of the gate is late.
    uploading.send(" last");
    kept.send(TestRequest::alice("GET", "/v2/").head());
    pause(Duration::from_secs(3));
    gate.signal(Signal::CONT);
    assert_eq!(kept.read_response("GET").status, 200);
    assert_eq!(uploading.read_response("PATCH").status, 200);
    // A pipe that nobody reads is an error of the write, not the end of the gate.
    gate.signal(Signal::PIPE);
    assert_eq!(gate.login("alice:pw"), 200);
    gate.signal(Signal::TERM);
    assert_eq!(gate.end(), Some(0));
}

#[test]
fn a_gate_that_is_killed_again_and_again_starts_again() {
    let registry = Registry::accepting_all();
    let text = config("[state]\ndir = \"{dir}/state\"\n", "").mode("token");
    let text = text.upstream(&registry.url());
    let (dir, file) = configured(&text);
    let folder = path(dir.path());
    std::fs::write(&file, text.in_dir(&folder)).unwrap();
    for round in 0..40 {
        let mut child = command(&["serve", "-c", &file]).spawn().unwrap();
        // At another moment of its start each time.
        pause(Duration::from_millis(round * 3));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let gate = Gate::start(&file);
    assert_eq!(gate.login("alice:pw"), 200);
}

#[test]
fn a_password_file_that_changes_is_told() {
    let registry = Registry::accepting_all();
    let text = config("", "").upstream(&registry.url());
    let (dir, file) = configured(&text);
    let gate = Gate::start(&file);
    let users = dir.path().join("htpasswd");
    let hash = bcrypt::hash("new", 4).unwrap();
    std::fs::write(&users, format!("carol:{hash}\nplain:secretword\n")).unwrap();
    let shown = path(&users);
    let warning = gate.line("line 2");
    for word in [&shown, "WARN", "plain", "no user can log in with this line"] {
        assert!(warning.contains(word), "{word} in {warning}");
    }
    let told = gate.line("password file reloaded");
    for word in [&shown, "users=1", "added=1", "removed=1", "changed=0"] {
        assert!(told.contains(word), "{word} in {told}");
    }
    for line in [&warning, &told] {
        assert!(
            !line.contains("secretword") && !line.contains(&hash),
            "{line}"
        );
    }
    // The rest of the file is in use.
    assert_eq!(gate.login("carol:new"), 200);
    std::fs::rename(&users, dir.path().join("aside")).unwrap();
    let failed = gate.line("cannot read the password file");
    assert!(failed.contains("as last read stay"), "{failed}");
    gate.signal(Signal::HUP);
    let kept = gate.line("cannot read the password file");
    assert!(kept.contains("as last read stay"), "{kept}");
    gate.line("reloaded");
    assert_eq!(gate.login("carol:new"), 200);
    std::fs::rename(dir.path().join("aside"), &users).unwrap();
    gate.line("password file can be read again");
    std::fs::write(&users, "").unwrap();
    gate.line("there is no usable user");
    assert_eq!(gate.login("carol:new"), 401);
}

#[test]
fn an_endpoint_that_goes_and_comes_back_is_told_once_each() {
    let stays = Registry::accepting_all();
    let goes = Registry::accepting_all();
    let (place, url) = (goes.authority().parse().unwrap(), goes.url());
    let _held = goes.held_port();
    let urls = format!("{{ urls = [{:?}, {url:?}] }}", stays.url());
    let (_dir, file) = configured(config("", "").set("upstream", &urls));
    let mut gate = Gate::start(&file);
    // Its first check or a request has got a response, so that only refusals count.
    while goes.requests().len() < 2 {
        assert_eq!(gate.login("alice:pw"), 200);
    }
    drop(goes);
    for _ in 0..50 {
        assert_eq!(gate.login("alice:pw"), 200);
    }
    let line = gate.line("endpoint is down");
    assert!(line.contains(&url) && line.contains("refused"), "{line}");
    let _back = Registry::start_at(place, |exchange| {
        exchange.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    });
    let line = gate.line("endpoint is");
    assert!(line.contains(&url) && line.contains("back"), "{line}");
    gate.signal(Signal::TERM);
    gate.line("stopped");
    assert_eq!(gate.end(), Some(0));
}

#[test]
fn it_waits_for_a_transfer_and_a_second_signal_does_not() {
    let registry = Registry::accepting_all();
    for is_patient in [true, false] {
        let text = config("", "").upstream(&registry.url());
        let (_dir, file) = configured(&text);
        let mut gate = Gate::start(&file);
        let mut client = gate.client();
        let before = registry.requests().len();
        client.send(
            TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
                .chunked()
                .head(),
        );
        registry.wait_for_requests(|seen| seen.len() > before);
        gate.signal(if is_patient {
            Signal::TERM
        } else {
            Signal::INT
        });
        gate.line("draining");
        if is_patient {
            client.send("0\r\n\r\n");
            assert_eq!(client.read_response("PATCH").status, 200);
        } else {
            gate.signal(Signal::TERM);
        }
        assert_eq!(gate.end(), Some(0));
    }
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = config("", "")
        .upstream("http://127.0.0.1:1")
        .https(&address);
    let (_dir, file) = configured(&config);
    let output = run(&["serve", "-c", &file]);
    // The configuration is good; it only fails here and now.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains(&address), "{output:?}");
}

/// A running executable; killed when dropped.
pub(crate) struct Gate {
    pub(crate) child: Child,
    lines: Receiver<String>,
    pub(crate) address: SocketAddr,
}

impl Gate {
    pub(crate) fn start(file: &str) -> Self {
        Self::spawn(&mut command(&["serve", "-c", file]))
    }

    /// Starts a command that serves, and waits until it listens.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let is_apart = |name| {
            let mut set = command.get_envs();
            set.any(|(key, value)| key == name && value.is_some())
        };
        assert!(
            is_apart("STATE_DIRECTORY"),
            "it would use /var/lib/tidegate"
        );
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut gate = Self {
            child,
            lines,
            address: any,
        };
        let line = gate.line("listening on https://");
        let (_, address) = line.split_once("https://").unwrap();
        gate.address = address.parse().unwrap();
        gate
    }

    /// The next line of the log that holds these words.
    pub(crate) fn line(&self, words: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("no line with {words:?} in time"),
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {words:?}"),
            }
        }
    }

    /// The next line of the log.
    pub(crate) fn next_line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    /// Its descriptors and its threads.
    pub(crate) fn holds(&self) -> (usize, usize) {
        let count = |what: &str| {
            let folder = format!("/proc/{}/{what}", self.child.id());
            std::fs::read_dir(folder).unwrap().count()
        };
        (count("fd"), count("task"))
    }

    /// Memory in use, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let mut words = line.unwrap().split_whitespace();
        words.nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::tls(
            self.address,
            "localhost",
            certs::default_client_config("http/1.1"),
        )
    }

    pub(crate) fn login(&self, credentials: &str) -> u16 {
        let request = TestRequest::new("GET", "/v2/").basic_auth(credentials.as_bytes());
        self.client().exchange(&request).status
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end; its exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end");
            pause(Duration::from_millis(5));
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let mut said = String::new();
            let _ = self
                .child
                .stderr
                .take()
                .map(|mut stderr| stderr.read_to_string(&mut said));
            println!("{said}");
        }
    }
}

pub(crate) fn configured(text: impl std::fmt::Display) -> (TempDir, String) {
    let dir = directory();
    let file = dir.path().join("proxy.toml");
    std::fs::write(&file, text.to_string()).unwrap();
    let file = path(&file);
    (dir, file)
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Keeps a process of a test apart from a tidegate that is installed on this machine: what it keeps is in `dir`.
pub(crate) fn apart<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command
        .env("RUNTIME_DIRECTORY", dir)
        .env("STATE_DIRECTORY", dir.join("state"))
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).stdin(Stdio::null());
    let file = arguments.last().map(Path::new);
    let dir = file.and_then(Path::parent);
    apart(
        &mut command,
        dir.unwrap_or_else(|| Path::new("/nonexistent")),
    );
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
