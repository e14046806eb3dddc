//! Foreign programs: found or named with their package, run with a deadline, ended with all their descendants.
//!
//! Called by the rest of `lab`; knows nothing of registries or the gate.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A program that runs until it is dropped, its output in a log file.
pub(crate) struct Service {
    name: &'static str,
    child: Child,
}

impl Service {
    /// Starts `command` in a process group of its own, with `DIR/NAME.log` for its output.
    ///
    /// The kernel kills it should the thread that started it end first, so that an interrupted run leaves nothing behind.
    pub(crate) fn start(name: &'static str, command: &Command, dir: &Path) -> Self {
        let log = open_log(dir, name);
        let mut command = wrap("setpriv", &["--pdeathsig", "KILL", "--"], command);
        let spawned = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let child = spawned.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name, child }
    }

    /// The process id; `setpriv` becomes the program, so it is the program's own.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `answers` says so; fails when the program ends or half a minute is over.
    pub(crate) fn wait_until(&mut self, mut answers: impl FnMut() -> bool) {
        let name = self.name;
        wait_until(&format!("{name} answers"), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{name} ended at once, {status}; its log is below");
            }
            answers()
        });
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        let _status = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // A group that is gone already is what was wanted.
        let _gone = kill_process_group(group.unwrap(), signal);
    }

    fn ends_within(&mut self, time: Duration) -> bool {
        poll(time, || matches!(self.child.try_wait(), Ok(Some(_))))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        if !self.ends_within(GRACE) {
            self.signal(Signal::KILL);
            let _status = self.child.wait();
        }
    }
}

/// What a program that ran to its end said.
#[must_use]
pub(crate) struct Outcome {
    /// Standard output, byte for byte.
    pub(crate) stdout: Vec<u8>,
    success: bool,
    story: String,
}

impl Outcome {
    /// Standard output of a program that must have succeeded.
    pub(crate) fn succeeds(self) -> String {
        assert!(self.success, "this should have succeeded:\n{}", self.story);
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// All that a program said that must have failed.
    pub(crate) fn fails(self) -> String {
        assert!(!self.success, "this should have failed:\n{}", self.story);
        self.story
    }

    /// Whether the program succeeded.
    pub(crate) fn is_success(&self) -> bool {
        self.success
    }

    /// All that was said, whatever the exit status.
    pub(crate) fn story(&self) -> &str {
        &self.story
    }
}

/// A command that keeps its files in a HOME of its own and knows neither proxies nor CAs of the machine.
pub(crate) fn command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(find(program));
    // skopeo and podman keep their logins under XDG_RUNTIME_DIR.
    for name in ["HOME", "XDG_RUNTIME_DIR", "TMPDIR"] {
        command.env(name, home);
    }
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.env("PATH", search_path());
    command
}

/// Runs a command to its end, at most two minutes.
pub(crate) fn run(command: &Command) -> Outcome {
    run_with_input(command, Stdio::null())
}

/// Runs a command to its end, at most this many seconds, for what is long also where the machine does much else.
pub(crate) fn run_within(seconds: &str, command: &Command) -> Outcome {
    run_limited(seconds, command, Stdio::null())
}

/// Runs a command to its end, at most two minutes, with something to read.
pub(crate) fn run_with_input(command: &Command, input: Stdio) -> Outcome {
    run_limited(TIME_LIMIT, command, input)
}

fn run_limited(seconds: &str, command: &Command, input: Stdio) -> Outcome {
    let words = words(command);
    let limited = wrap("timeout", &["--kill-after=5", seconds], command);
    let mut limited = wrap("setpriv", &["--pdeathsig", "TERM", "--"], &limited);
    let output = limited
        .stdin(input)
        .output()
        .unwrap_or_else(|error| panic!("{words}: {error}"));
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let story = format!("$ {words}\n{stdout}{stderr}({})\n", output.status);
    Outcome {
        success: output.status.success(),
        story,
        stdout: output.stdout,
    }
}

/// The SHA-256 of a file, in hex.
pub(crate) fn sha256(file: &Path) -> String {
    let mut command = Command::new(find("sha256sum"));
    let line = run(command.arg("-b").arg(file)).succeeds();
    line.split_whitespace().next().unwrap().to_owned()
}

/// Asks again and again, and fails when half a minute has passed.
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        poll(PATIENCE, condition),
        "waited for half a minute: {what}"
    );
}

/// The same, for what takes its time.
pub(crate) fn wait_up_to(time: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(poll(time, condition), "waited for {time:?}: {what}");
}

fn poll(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    true
}

/// A command as one would type it.
fn words(command: &Command) -> String {
    let arguments = command.get_args().map(|word| word.to_string_lossy());
    std::iter::once(command.get_program().to_string_lossy())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

/// `program options… inner…`, with the environment of `inner`.
fn wrap(program: &str, options: &[&str], inner: &Command) -> Command {
    let mut outer = Command::new(find(program));
    outer
        .args(options)
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(dir) = inner.get_current_dir() {
        outer.current_dir(dir);
    }
    outer
}

fn open_log(dir: &Path, name: &str) -> File {
    let path = dir.join(format!("{name}.log"));
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
}

fn find(program: &str) -> PathBuf {
    if program.contains('/') {
        return program.into();
    }
    let found = std::env::split_paths(&search_path())
        .map(|dir| dir.join(program))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        let package = PACKAGES
            .iter()
            .find(|(name, _)| *name == program)
            .map_or(program, |(_, package)| package);
        panic!(
            "{program} is missing: install the Debian package {package} (tests/run --install does)"
        )
    })
}

/// PATH and the folders of the system's own daemons, which a plain user's PATH lacks.
fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsStr::new(":/usr/sbin:/sbin:/usr/bin:/bin"));
    path
}

const PACKAGES: &[(&str, &str)] = &[
    ("chromedriver", "chromium-driver"),
    ("ctr", "containerd"),
    ("docker", "docker.io"),
    ("dockerd", "docker.io"),
    ("htpasswd", "apache2-utils"),
    ("kubectl", "kubernetes-client"),
    ("nsenter", "util-linux"),
    ("pebble-challtestsrv", "pebble"),
    ("setpriv", "util-linux"),
    ("sha256sum", "coreutils"),
    ("timeout", "coreutils"),
    ("unshare", "util-linux"),
];
const FOREIGN: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
];
const PATIENCE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(5);
const TIME_LIMIT: &str = "120";
