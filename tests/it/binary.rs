//! The executable itself: its commands, their exit codes and output, and its signals. Other tests start the executable with
//! the helpers below.

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
use crate::support::{
    Client, PATIENCE, Registry, TestRequest, assert_contains, certs, config, eventually, pause,
};

#[test]
fn check_reports_that_a_valid_configuration_is_good() {
    let (dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output_text = text(&output.stdout);
    assert!(
        output_text.contains("the configuration is good"),
        "{output_text}"
    );
    assert!(
        !dir.path().join("access.log").exists(),
        "check must not write files"
    );
}

#[test]
fn a_password_file_that_everyone_can_read_is_a_warning() {
    let (dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    let passwords = dir.path().join("htpasswd");
    std::fs::set_permissions(&passwords, Permissions::from_mode(0o644)).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output_text = text(&output.stdout);
    assert!(
        output_text.contains("every user of this machine can read the file (mode 0644)"),
        "{output_text}"
    );
    std::fs::set_permissions(&passwords, Permissions::from_mode(0o640)).unwrap();
    let output_text = text(&run(&["check", "-c", &file]).stdout);
    assert!(
        output_text.contains("the configuration is good"),
        "{output_text}"
    );
}

#[test]
fn check_prints_warnings_and_exits_with_0() {
    let (dir, file) = configured(config("", "").upstream("http://127.0.0.1:1"));
    let weak = "bob:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\nplain:secretword\n";
    std::fs::write(dir.path().join("htpasswd"), weak).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output_text = text(&output.stdout);
    assert_contains(
        &output_text,
        &["line 1", "bob", "line 2", "plain", "would start"],
    );
    assert!(
        !output_text.contains("secretword") && !output_text.contains("Xxd1"),
        "{output_text}"
    );
}

#[test]
fn check_creates_no_token_secret_and_warns_about_a_readable_one() {
    let state = "[state]\ndir = \"{dir}/state\"\n";
    let text = config(state, "")
        .mode("token")
        .upstream("http://127.0.0.1:1");
    let dir = directory();
    let dir_path = dir.path().to_str().unwrap();
    let file = format!("{dir_path}/proxy.toml");
    std::fs::write(&file, text.in_dir(dir_path)).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        !dir.path().join("state").exists(),
        "check must not write files"
    );
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let secret = dir.path().join("state/token-secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef\n").unwrap();
    let public = Permissions::from_mode(0o644);
    std::fs::set_permissions(&secret, public).unwrap();
    let output = run(&["check", "-c", &file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output_text = text_of(&output);
    assert!(
        output_text.contains("every user of this machine") && output_text.contains("0644"),
        "{output_text}"
    );
    assert!(!output_text.contains("0123456789"), "{output_text}");
}

fn text_of(output: &Output) -> String {
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn all_problems_are_reported_in_one_run() {
    let bad = config(
        "[limits]\nhaed = \"1s\"\nidle = \"soon\"\n",
        "max_body = \"1XB\"",
    );
    let (_dir, file) = configured(bad.upstream("ftp://x"));
    for command in ["check", "serve"] {
        let output = run(&[command, "-c", &file]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let output_text = text(&output.stderr);
        assert!(output.stdout.is_empty(), "{output:?}");
        let place = |line: usize| format!("{file}:{line}:");
        assert_contains(
            &output_text,
            &[
                "\"haed\" in limits",
                "did you mean \"head\"",
                "limits.idle",
                "XB",
                "site.route.upstream",
                &place(4),
                &place(5),
            ],
        );
    }
}

#[test]
fn a_missing_file_is_named_in_the_error() {
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
fn help_version_and_usage_errors_are_printed() {
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let output_text = text(&help.stdout);
    assert_contains(
        &output_text,
        &["serve", "check", "Examples", "tidegate check -c"],
    );
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
fn the_server_serves_reloads_reopens_logs_and_stops_gracefully() {
    let registry = Registry::accepting_all();
    let (dir, file) = configured(config("", "").upstream(&registry.url()));
    let mut server = ServeProcess::start(&file);
    assert_eq!(server.login("alice:pw"), 200);
    let carol = format!("carol:{}\n", bcrypt::hash("new", 4).unwrap());
    std::fs::write(dir.path().join("htpasswd"), carol).unwrap();
    server.signal(Signal::HUP);
    server.line("reloaded");
    assert_eq!(
        (server.login("carol:new"), server.login("alice:pw")),
        (200, 401)
    );

    std::fs::write(dir.path().join("proxy.toml"), "nonsense").unwrap();
    server.signal(Signal::HUP);
    server.line("not reloaded");
    assert_eq!(server.login("carol:new"), 200);

    server.signal(Signal::USR1);
    server.line("opening the log files again");
    server.signal(Signal::TERM);
    server.line("stopped");
    assert_eq!(server.end(), Some(0));
    let log = std::fs::read_to_string(dir.path().join("access.log")).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
}

#[test]
fn a_log_file_that_cannot_be_opened_again_is_reported() {
    let registry = Registry::accepting_all();
    let (dir, file) = configured(config("", "").upstream(&registry.url()));
    let server = ServeProcess::start(&file);
    let [log, rotated] = ["access.log", "access.log.1"].map(|name| dir.path().join(name));
    std::fs::rename(&log, &rotated).unwrap();
    std::fs::create_dir(&log).unwrap();
    server.signal(Signal::USR1);
    let line = server.line("cannot be opened again");
    for words in [" ERROR ", "access.log", "send USR1 again"] {
        assert!(line.contains(words), "{words} in {line}");
    }
    assert_eq!(server.login("alice:pw"), 200);
    eventually("the line is in the renamed file", || {
        std::fs::read_to_string(&rotated)
            .unwrap()
            .contains("action=ping")
    });
    // The remedy works.
    std::fs::remove_dir(&log).unwrap();
    server.signal(Signal::USR1);
    eventually("the log is opened", || log.is_file());
}

/// With a limit of 0 bytes, every file that the process creates stays empty, as on a full disk.
#[test]
fn a_secret_that_cannot_be_written_leaves_no_draft_behind() {
    let auth = "mode = \"token\", htpasswd = \"htpasswd\"";
    let text = config("", "").upstream("http://127.0.0.1:1").auth(auth);
    let (dir, file) = configured(text);
    let mut serve = Command::new("bash");
    let script = format!(
        "trap '' XFSZ; ulimit -f 0; exec {} serve -c {file}",
        env!("CARGO_BIN_EXE_tidegate")
    );
    with_own_directories(serve.args(["-c", &script]), dir.path());
    for _ in 0..3 {
        let output = serve.output().unwrap();
        let stderr = self::text(&output.stderr);
        assert!(
            stderr.contains("cannot create the token secret"),
            "{stderr}"
        );
    }
    let entries = std::fs::read_dir(dir.path().join("state")).unwrap();
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    let drafts = names
        .iter()
        .filter(|name| name.to_string_lossy().contains("draft"));
    assert_eq!(drafts.count(), 0, "{names:?}");
}

#[test]
fn connections_survive_sigstop_and_sigcont() {
    let registry = Registry::accepting_all();
    let limits = "[limits]\nidle = \"60s\"\nbody_idle = \"60s\"\n";
    let (_dir, file) = configured(config(limits, "").upstream(&registry.url()));
    let mut server = ServeProcess::start(&file);
    let (mut kept, mut uploading) = (server.client(), server.client());
    assert_eq!(kept.ping(), 200);
    let upload =
        TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u").header("Content-Length", "10");
    uploading.send(upload.head());
    uploading.send("first");
    registry.wait_for_requests(|seen| seen.iter().any(|seen| seen.body == b"first"));
    server.signal(Signal::STOP);
    // The bytes wait in the sockets, for so long that every timer of the server is late.
    uploading.send(" last");
    kept.send(TestRequest::alice("GET", "/v2/").head());
    pause(Duration::from_secs(3));
    server.signal(Signal::CONT);
    assert_eq!(kept.read_response("GET").status, 200);
    assert_eq!(uploading.read_response("PATCH").status, 200);
    // SIGPIPE must not end the process: writing to a closed pipe is an error of the write.
    server.signal(Signal::PIPE);
    assert_eq!(server.login("alice:pw"), 200);
    server.signal(Signal::TERM);
    assert_eq!(server.end(), Some(0));
}

#[test]
fn the_server_starts_after_it_was_killed_during_its_start() {
    let registry = Registry::accepting_all();
    let text = config("[state]\ndir = \"{dir}/state\"\n", "").mode("token");
    let text = text.upstream(&registry.url());
    let (dir, file) = configured(&text);
    let dir_path = path(dir.path());
    std::fs::write(&file, text.in_dir(&dir_path)).unwrap();
    for round in 0..40 {
        let mut child = command(&["serve", "-c", &file]).spawn().unwrap();
        // Kills the process at a different moment of its start in each round.
        pause(Duration::from_millis(round * 3));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let server = ServeProcess::start(&file);
    assert_eq!(server.login("alice:pw"), 200);
}

#[test]
fn a_changed_password_file_is_logged() {
    let registry = Registry::accepting_all();
    let text = config("", "").upstream(&registry.url());
    let (dir, file) = configured(&text);
    let server = ServeProcess::start(&file);
    let users = dir.path().join("htpasswd");
    let hash = bcrypt::hash("new", 4).unwrap();
    std::fs::write(&users, format!("carol:{hash}\nplain:secretword\n")).unwrap();
    let users_path = path(&users);
    let warning = server.line("line 2");
    assert_contains(
        &warning,
        &[
            &users_path,
            "WARN",
            "plain",
            "no user can log in with this line",
        ],
    );
    let reloaded = server.line("password file reloaded");
    assert_contains(
        &reloaded,
        &[&users_path, "users=1", "added=1", "removed=1", "changed=0"],
    );
    for line in [&warning, &reloaded] {
        assert!(
            !line.contains("secretword") && !line.contains(&hash),
            "{line}"
        );
    }
    // The valid lines of the file are in use.
    assert_eq!(server.login("carol:new"), 200);
    std::fs::rename(&users, dir.path().join("aside")).unwrap();
    let failed = server.line("cannot read the password file");
    assert!(failed.contains("as last read stay"), "{failed}");
    server.signal(Signal::HUP);
    let kept = server.line("cannot read the password file");
    assert!(kept.contains("as last read stay"), "{kept}");
    server.line("reloaded");
    assert_eq!(server.login("carol:new"), 200);
    std::fs::rename(dir.path().join("aside"), &users).unwrap();
    server.line("password file can be read again");
    std::fs::write(&users, "").unwrap();
    server.line("there is no usable user");
    assert_eq!(server.login("carol:new"), 401);
}

#[test]
fn an_endpoint_that_goes_down_and_comes_up_is_logged_once_each() {
    let stable = Registry::accepting_all();
    let unstable = Registry::accepting_all();
    let (address, url) = (unstable.authority().parse().unwrap(), unstable.url());
    let _held = unstable.held_port();
    let urls = format!("{{ urls = [{:?}, {url:?}] }}", stable.url());
    let (_dir, file) = configured(config("", "").set("upstream", &urls));
    let mut server = ServeProcess::start(&file);
    // Once the endpoint has responded, only refused connections can mark it down.
    while unstable.requests().len() < 2 {
        assert_eq!(server.login("alice:pw"), 200);
    }
    drop(unstable);
    for _ in 0..50 {
        assert_eq!(server.login("alice:pw"), 200);
    }
    let line = server.line("endpoint is down");
    assert!(line.contains(&url) && line.contains("refused"), "{line}");
    let _back = Registry::start_at(address, |exchange| {
        exchange.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    });
    let line = server.line("endpoint is");
    assert!(line.contains(&url) && line.contains("back"), "{line}");
    server.signal(Signal::TERM);
    server.line("stopped");
    assert_eq!(server.end(), Some(0));
}

#[test]
fn the_shutdown_waits_for_a_transfer_unless_a_second_signal_arrives() {
    let registry = Registry::accepting_all();
    for is_graceful in [true, false] {
        let text = config("", "").upstream(&registry.url());
        let (_dir, file) = configured(&text);
        let mut server = ServeProcess::start(&file);
        let mut client = server.client();
        let before = registry.requests().len();
        client.send(
            TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u")
                .chunked()
                .head(),
        );
        registry.wait_for_requests(|seen| seen.len() > before);
        server.signal(if is_graceful {
            Signal::TERM
        } else {
            Signal::INT
        });
        server.line("draining");
        if is_graceful {
            client.send("0\r\n\r\n");
            assert_eq!(client.read_response("PATCH").status, 200);
        } else {
            server.signal(Signal::TERM);
        }
        assert_eq!(server.end(), Some(0));
    }
}

#[test]
fn an_address_in_use_is_named_in_the_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let config = config("", "")
        .upstream("http://127.0.0.1:1")
        .https(&address);
    let (_dir, file) = configured(&config);
    let output = run(&["serve", "-c", &file]);
    // The exit code differs from that of an invalid configuration: the configuration is valid, but the address is in use.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains(&address), "{output:?}");
}

/// A running executable. Dropping it kills the process.
pub(crate) struct ServeProcess {
    pub(crate) child: Child,
    lines: Receiver<String>,
    pub(crate) address: SocketAddr,
}

impl ServeProcess {
    pub(crate) fn start(file: &str) -> Self {
        Self::spawn(&mut command(&["serve", "-c", file]))
    }

    /// Starts a command that serves, and waits until the server listens.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let is_apart = |name| {
            let mut set = command.get_envs();
            set.any(|(key, value)| key == name && value.is_some())
        };
        assert!(
            is_apart("STATE_DIRECTORY"),
            "the process would use /var/lib/tidegate"
        );
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (line_sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = line_sender.send(line);
            }
        });
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self {
            child,
            lines,
            address: any,
        };
        let line = server.line("listening on https://");
        let (_, address) = line.split_once("https://").unwrap();
        server.address = address.parse().unwrap();
        server
    }

    /// The next line of the log that contains these words.
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

    /// The numbers of open file descriptors and of threads.
    pub(crate) fn holds(&self) -> (usize, usize) {
        let count = |what: &str| {
            let dir_path = format!("/proc/{}/{what}", self.child.id());
            std::fs::read_dir(dir_path).unwrap().count()
        };
        (count("fd"), count("task"))
    }

    /// The resident memory in KiB.
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

    /// Waits for the end of the process and returns its exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "the process does not end");
            pause(Duration::from_millis(5));
        }
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Some(mut stderr) = self.child.stderr.take()
        {
            // A process that succeeds this one may hold the pipe open, so only what is in it is read.
            let _ = rustix::io::ioctl_fionbio(&stderr, true);
            let mut output = Vec::new();
            let _ = stderr.read_to_end(&mut output);
            println!("{}", String::from_utf8_lossy(&output));
        }
    }
}

/// Writes a configuration into a fresh directory, and returns the directory and the path of the file.
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

/// Gives the process directories of its own in `dir`, so that it does not use those of a tidegate that is installed on this
/// machine.
pub(crate) fn with_own_directories<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    command
        .env("RUNTIME_DIRECTORY", dir)
        .env("STATE_DIRECTORY", dir.join("state"))
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).stdin(Stdio::null());
    let file = arguments.last().map(Path::new);
    let dir = file.and_then(Path::parent);
    with_own_directories(
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
