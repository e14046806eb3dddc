//! The proxy under test: the real server on a thread of this process, with its configuration in a temporary directory.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc as std_mpsc;
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use tidegate::config::problem::Problems;
use tidegate::server::{Address, Command, Scheme, Server};
use tokio::sync::{mpsc, oneshot};

use super::certs::AUTHORITY;
use super::{PATIENCE, Registry};

/// A running proxy. Dropping it stops the proxy at once and resumes a panic of its thread.
pub(crate) struct Proxy {
    dir: TempDir,
    addresses: Vec<Address>,
    commands: mpsc::Sender<Command>,
    ended: Mutex<std_mpsc::Receiver<usize>>,
    thread: Option<JoinHandle<()>>,
}

/// The configuration of a test: one site, `localhost`, with one route in mode `basic`; the password of alice is `pw`.
///
/// Each key has a line of its own, which a test replaces by the name of the key, so that no test depends on how the line is
/// written. `Display` writes the text of the file, in which [`Proxy::start`] fills in `{upstream}` and `{dir}`.
#[derive(Clone, Debug)]
pub(crate) struct TestConfig {
    /// The tables before `[listen]`.
    tables: String,
    listen: Vec<(&'static str, String)>,
    site: Vec<(&'static str, String)>,
    route: Vec<(&'static str, String)>,
    /// Further keys of the route, and the tables after it.
    rest: String,
}

/// Creates a [`TestConfig`] with the TOML text `tables` before the table `[listen]`, and with the lines `route` at the end of the
/// route.
pub(crate) fn config(tables: &str, route: &str) -> TestConfig {
    let log = if tables.contains("[log]") {
        ""
    } else {
        "[log]\naccess_file = \"access.log\"\n"
    };
    let line = |key: &'static str, value: &str| (key, format!("{key} = {value}"));
    TestConfig {
        tables: format!("{log}{tables}"),
        listen: vec![line("https", "[\"127.0.0.1:0\"]"), line("workers", "2")],
        site: vec![
            line("hosts", "[\"localhost\"]"),
            line("tls", "{ cert = \"cert.pem\", key = \"key.pem\" }"),
        ],
        route: vec![
            line("path", "\"/v2/\""),
            line("upstream", "\"{upstream}\""),
            line(
                "auth",
                "{ mode = \"basic\", htpasswd = \"htpasswd\", realm = \"Registry realm\" }",
            ),
        ],
        rest: route.to_owned(),
    }
}

impl TestConfig {
    /// Gives a key another value, which is written as TOML.
    #[track_caller]
    pub(crate) fn set(self, key: &str, value: impl fmt::Display) -> Self {
        let line = format!("{key} = {value}");
        self.lines(key, line)
    }

    /// Replaces the line of a key by these lines, which may have several keys of the same table.
    #[track_caller]
    pub(crate) fn lines(mut self, key: &str, lines: impl fmt::Display) -> Self {
        let tables = [&mut self.listen, &mut self.site, &mut self.route];
        let line = tables.into_iter().flatten().find(|(own, _)| *own == key);
        let (_, line) = line.unwrap_or_else(|| panic!("{key} is no key of a test's configuration"));
        *line = lines.to_string();
        self
    }

    /// Adds lines after the line of a key, in its table.
    #[track_caller]
    pub(crate) fn after(self, key: &str, lines: impl fmt::Display) -> Self {
        let tables = [&self.listen, &self.site, &self.route];
        let line = tables.into_iter().flatten().find(|(own, _)| *own == key);
        let (_, line) = line.unwrap_or_else(|| panic!("{key} is no key of a test's configuration"));
        let lines = format!("{line}\n{lines}");
        self.lines(key, lines)
    }

    /// Sets the URL of the only endpoint of the route, for a test that writes the file itself.
    pub(crate) fn upstream(self, url: &str) -> Self {
        self.set("upstream", format_args!("\"{url}\""))
    }

    /// Sets the only address with TLS.
    pub(crate) fn https(self, address: impl fmt::Display) -> Self {
        self.set("https", format_args!("[\"{address}\"]"))
    }

    /// The text with `{dir}` filled in, for a test that writes the file itself.
    pub(crate) fn in_dir(&self, dir: &str) -> String {
        self.to_string().replace("{dir}", dir)
    }

    /// Sets the `mode` of the route's authentication.
    pub(crate) fn mode(self, mode: &str) -> Self {
        self.auth(&format!("mode = \"{mode}\", htpasswd = \"htpasswd\""))
    }

    /// Sets another password file.
    pub(crate) fn htpasswd(self, file: &str) -> Self {
        self.auth(&format!("mode = \"basic\", htpasswd = \"{file}\""))
    }

    /// Sets the keys of the route's authentication, except the realm.
    pub(crate) fn auth(self, keys: &str) -> Self {
        self.set(
            "auth",
            format_args!("{{ {keys}, realm = \"Registry realm\" }}"),
        )
    }

    /// Sets the files of the site's certificate.
    pub(crate) fn certificate(self, cert: &str, key: &str) -> Self {
        let files = format!("{{ cert = \"{cert}\", key = \"{key}\" }}");
        self.set("tls", files)
    }

    /// Appends text, such as a further route or site.
    pub(crate) fn append(mut self, text: &str) -> Self {
        self.rest.push('\n');
        self.rest.push_str(text);
        self
    }
}

impl fmt::Display for TestConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = |f: &mut fmt::Formatter<'_>, header, lines: &[(&str, String)]| {
            writeln!(f, "{header}")?;
            lines.iter().try_for_each(|(_, line)| writeln!(f, "{line}"))
        };
        writeln!(f, "{}", self.tables)?;
        table(f, "[listen]", &self.listen)?;
        table(f, "[[site]]", &self.site)?;
        table(f, "[[site.route]]", &self.route)?;
        writeln!(f, "{}", self.rest)
    }
}

/// The line of alice in a password file; her password is `pw`.
pub(crate) const ALICE: &str =
    "alice:$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n";

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A fresh directory with `cert.pem` and `key.pem` for localhost, and with `htpasswd` for alice.
pub(crate) fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = AUTHORITY.issue(&["localhost", "127.0.0.1"]);
    fs::write(dir.path().join("cert.pem"), certificate).unwrap();
    let file = dir.path().join("key.pem");
    fs::write(&file, key).unwrap();
    // The proxy warns about a key that every user can read.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    write_private(&dir.path().join("htpasswd"), ALICE);
    dir
}

impl Proxy {
    /// Starts the proxy with an unchanged [`config`].
    pub(crate) fn with_defaults(registry: &Registry) -> Self {
        Self::start(registry, config("", ""))
    }

    /// Starts the proxy. In `config`, `{upstream}` stands for the registry's URL, and `{dir}` for the directory of all
    /// files.
    pub(crate) fn start(registry: &Registry, config: impl fmt::Display) -> Self {
        Self::start_in(directory(), &registry.url(), config)
    }

    /// Starts the proxy in a prepared directory, with any kind of upstream.
    pub(crate) fn start_in(dir: TempDir, upstream: &str, config: impl fmt::Display) -> Self {
        let proxy = Self::try_start(dir, upstream, config);
        proxy.unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Starts the proxy, or returns the problems of its configuration.
    pub(crate) fn try_start(
        dir: TempDir,
        upstream: &str,
        config: impl fmt::Display,
    ) -> Result<Self, Problems> {
        let file = dir.path().join("proxy.toml");
        fs::write(&file, substitute(config, upstream, &dir)).unwrap();
        assert_own_state_dir(&file);
        let (server, _warnings) = Server::open(&file)?;
        let addresses = server.addresses();
        let (commands, received_commands) = mpsc::channel(16);
        let (end, ended) = std_mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let connections_cut = runtime.block_on(server.run(received_commands));
            let _ = end.send(connections_cut.expect("no worker has panicked"));
        });
        Ok(Self {
            dir,
            addresses,
            commands,
            ended: Mutex::new(ended),
            thread: Some(thread),
        })
    }

    /// The address of the first listener with TLS.
    pub(crate) fn https(&self) -> SocketAddr {
        self.listener(Scheme::Https)
    }

    /// The address of the first listener without TLS.
    pub(crate) fn http(&self) -> SocketAddr {
        self.listener(Scheme::Http)
    }

    pub(crate) fn listener(&self, scheme: Scheme) -> SocketAddr {
        let mut all = self.addresses.iter();
        all.find(|address| address.scheme == scheme)
            .unwrap()
            .address
    }

    /// The port and address of the listener on this IP address.
    pub(crate) fn listener_on(&self, scheme: Scheme, ip: Ipv4Addr) -> SocketAddr {
        let mut all = self.addresses.iter();
        all.find(|address| address.scheme == scheme && address.address.ip() == ip)
            .unwrap()
            .address
    }

    /// The path of a file in the proxy's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes another configuration for the next reload.
    pub(crate) fn configure(&self, registry: &Registry, config: impl fmt::Display) {
        self.write("proxy.toml", substitute(config, &registry.url(), &self.dir));
    }

    pub(crate) fn send_command(&self, command: Command) {
        self.commands.try_send(command).expect("the server runs");
    }

    /// Reloads the configuration and waits for the result.
    pub(crate) fn reload(&self) -> Result<(), Problems> {
        let (result_sender, result_receiver) = oneshot::channel();
        self.send_command(Command::Reload(Some(result_sender)));
        let (done_sender, done) = std_mpsc::channel();
        // The caller may be in a runtime, where `blocking_recv` panics.
        thread::spawn(move || done_sender.send(result_receiver.blocking_recv()));
        done.recv_timeout(PATIENCE)
            .expect("a result in time")
            .expect("the server runs")
    }

    /// Waits until the server has ended after a stop command, and returns how many connections it cut.
    pub(crate) fn wait(&self) -> usize {
        self.ended
            .lock()
            .unwrap()
            .recv_timeout(PATIENCE)
            .expect("an end in time")
    }

    /// Stops the proxy gracefully and returns the access log. The shutdown waits for clients that are still connected.
    pub(crate) fn stop_and_read_access_log(mut self) -> String {
        self.send_command(Command::Stop);
        self.wait();
        self.join();
        fs::read_to_string(self.path("access.log")).unwrap_or_default()
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if let Err(panic) = thread.join()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The server may have ended already.
        let _ = self.commands.try_send(Command::Stop);
        let _ = self.commands.try_send(Command::Stop);
        self.join();
    }
}

/// Checks that the configuration of a test sets its own `state.dir`.
///
/// The default directory belongs to a tidegate that is installed on this machine, and the environment variables of this
/// process are the same for all tests.
fn assert_own_state_dir(file: &Path) {
    if let (Some(config), _) = tidegate::config::load(file) {
        let state_dir = &config.state_dir;
        assert!(
            state_dir.starts_with(std::env::temp_dir()),
            "state.dir is {}",
            state_dir.display()
        );
    }
}

fn substitute(config: impl fmt::Display, upstream: &str, dir: &TempDir) -> String {
    let (config, dir) = (config.to_string(), dir.path().to_str().unwrap());
    // The table is appended so that the line numbers of the test's configuration stay the same.
    let state = if config.contains("[state]") {
        ""
    } else {
        "\n[state]\ndir = \"{dir}/state\"\n"
    };
    let config = config.replace("{upstream}", upstream);
    format!("{config}{state}").replace("{dir}", dir)
}
