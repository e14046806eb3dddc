//! Runs foreign programs. A missing program is reported with the name of its Debian package. A command that runs to its end has a
//! deadline. A program that runs in the background is ended with all its descendants.
//!
//! The other modules of `lab` use this module. It knows nothing about registries or the proxy.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A program that runs in the background until this value is dropped. Its output goes to a log file.
pub(crate) struct Service {
    name: &'static str,
    child: Child,
}

impl Service {
    /// Starts `command` in a process group of its own, and appends its output to `DIR/NAME.log`.
    ///
    /// The kernel kills the process when the thread that started it ends (PR_SET_PDEATHSIG), so that an interrupted test run
    /// leaves no process behind.
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

    /// The process id of the program: `setpriv` replaces itself with the program.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `is_ready` returns true. Fails if the program ends or if 30 seconds have passed.
    pub(crate) fn wait_until(&mut self, mut is_ready: impl FnMut() -> bool) {
        let name = self.name;
        wait_until(&format!("{name} is ready"), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{name} ended at once, {status}; its log is below");
            }
            is_ready()
        });
    }

    /// Ends the program with SIGKILL, as a crash would.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        let _status = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // The process group may have ended already.
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

/// The result of a command that ran to its end.
#[must_use]
pub(crate) struct Outcome {
    /// The bytes that the program wrote to standard output.
    pub(crate) stdout: Vec<u8>,
    success: bool,
    story: String,
}

impl Outcome {
    /// Asserts that the program succeeded, and returns its standard output.
    pub(crate) fn succeeds(self) -> String {
        assert!(self.success, "this should have succeeded:\n{}", self.story);
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Asserts that the program failed, and returns its command line, its output and its exit status.
    pub(crate) fn fails(self) -> String {
        assert!(!self.success, "this should have failed:\n{}", self.story);
        self.story
    }

    /// Returns whether the program succeeded.
    pub(crate) fn is_success(&self) -> bool {
        self.success
    }

    /// The command line, the output and the exit status, whether or not the program succeeded.
    pub(crate) fn story(&self) -> &str {
        &self.story
    }
}

/// A command that keeps its files in `home` and does not use the proxy and CA settings of the environment.
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

/// Runs a command to its end, for at most two minutes.
pub(crate) fn run(command: &Command) -> Outcome {
    run_with_input(command, Stdio::null())
}

/// Runs a command to its end, for at most `seconds`. For commands that take longer than two minutes on a busy machine.
pub(crate) fn run_within(seconds: &str, command: &Command) -> Outcome {
    run_limited(seconds, command, Stdio::null())
}

/// Runs a command to its end, for at most two minutes, with `input` as its standard input.
pub(crate) fn run_with_input(command: &Command, input: Stdio) -> Outcome {
    run_limited(TIME_LIMIT, command, input)
}

fn run_limited(seconds: &str, command: &Command, input: Stdio) -> Outcome {
    let command_line = command_line(command);
    let limited = wrap("timeout", &["--kill-after=5", seconds], command);
    let mut limited = wrap("setpriv", &["--pdeathsig", "TERM", "--"], &limited);
    let output = limited
        .stdin(input)
        .output()
        .unwrap_or_else(|error| panic!("{command_line}: {error}"));
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let story = format!("$ {command_line}\n{stdout}{stderr}({})\n", output.status);
    Outcome {
        success: output.status.success(),
        story,
        stdout: output.stdout,
    }
}

/// The SHA-256 digest of a file, in hex.
pub(crate) fn sha256(file: &Path) -> String {
    let mut command = Command::new(find("sha256sum"));
    let line = run(command.arg("-b").arg(file)).succeeds();
    line.split_whitespace().next().unwrap().to_owned()
}

/// Waits until `condition` returns true. Fails after 30 seconds.
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        poll(PATIENCE, condition),
        "waited for half a minute: {what}"
    );
}

/// Waits until `condition` returns true. Fails after `time`.
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

/// The command line, for messages.
fn command_line(command: &Command) -> String {
    let arguments = command.get_args().map(|word| word.to_string_lossy());
    std::iter::once(command.get_program().to_string_lossy())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The command `program options… inner…`, with the environment and the working directory of `inner`.
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

/// PATH, extended by the directories of system daemons, which the PATH of an ordinary user may lack.
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
