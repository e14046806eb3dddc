//! The real server in this process: a configuration in a fresh directory, a thread, and commands.

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

/// A running gate. Dropped, it is stopped at once, and a panic in it is passed on.
pub(crate) struct Proxy {
    dir: TempDir,
    addresses: Vec<Address>,
    commands: mpsc::Sender<Command>,
    ended: Mutex<std_mpsc::Receiver<usize>>,
    thread: Option<JoinHandle<()>>,
}

/// The configuration of a test: one site, `localhost`, with one route in basic mode; alice has the password `pw`.
///
/// Each key has a line of its own, which a test replaces by the key's name, so that no test depends on how the line is
/// written. `Display` is the file's text, in which [`Proxy::start`] fills in `{upstream}` and `{dir}`.
#[derive(Clone, Debug)]
pub(crate) struct TestConfig {
    /// Tables before `[listen]`.
    tables: String,
    listen: Vec<(&'static str, String)>,
    site: Vec<(&'static str, String)>,
    route: Vec<(&'static str, String)>,
    /// Further keys of the route, and tables after it.
    rest: String,
}

/// A [`TestConfig`] with `tables` before `[listen]`, and `route` as further keys of the route.
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
    /// Gives a key another value, written as TOML.
    #[track_caller]
    pub(crate) fn set(self, key: &str, value: impl fmt::Display) -> Self {
        let line = format!("{key} = {value}");
        self.lines(key, line)
    }

    /// Puts these lines in place of the key's line, for several keys of its table.
    #[track_caller]
    pub(crate) fn lines(mut self, key: &str, lines: impl fmt::Display) -> Self {
        let tables = [&mut self.listen, &mut self.site, &mut self.route];
        let line = tables.into_iter().flatten().find(|(own, _)| *own == key);
        let (_, line) = line.unwrap_or_else(|| panic!("{key} is no key of a test's configuration"));
        *line = lines.to_string();
        self
    }

    /// Adds lines after the key's line, in its table.
    #[track_caller]
    pub(crate) fn after(self, key: &str, lines: impl fmt::Display) -> Self {
        let tables = [&self.listen, &self.site, &self.route];
        let line = tables.into_iter().flatten().find(|(own, _)| *own == key);
        let (_, line) = line.unwrap_or_else(|| panic!("{key} is no key of a test's configuration"));
        let lines = format!("{line}\n{lines}");
        self.lines(key, lines)
    }

    /// The URL of the route's only endpoint, for a test that writes the file itself.
    pub(crate) fn upstream(self, url: &str) -> Self {
        self.set("upstream", format_args!("\"{url}\""))
    }

    /// The only address with TLS.
    pub(crate) fn https(self, address: impl fmt::Display) -> Self {
        self.set("https", format_args!("[\"{address}\"]"))
    }

    /// The text, with `{dir}` filled in, for a test that writes the file itself.
    pub(crate) fn in_dir(&self, dir: &str) -> String {
        self.to_string().replace("{dir}", dir)
    }

    /// `mode` of the route's authentication.
    pub(crate) fn mode(self, mode: &str) -> Self {
        self.auth(&format!("mode = \"{mode}\", htpasswd = \"htpasswd\""))
    }

    /// Another password file.
    pub(crate) fn htpasswd(self, file: &str) -> Self {
        self.auth(&format!("mode = \"basic\", htpasswd = \"{file}\""))
    }

    /// The keys of the route's authentication but the realm.
    pub(crate) fn auth(self, keys: &str) -> Self {
        self.set(
            "auth",
            format_args!("{{ {keys}, realm = \"Registry realm\" }}"),
        )
    }

    /// Other files of the site's certificate.
    pub(crate) fn certificate(self, cert: &str, key: &str) -> Self {
        let files = format!("{{ cert = \"{cert}\", key = \"{key}\" }}");
        self.set("tls", files)
    }

    /// Adds text to the end, such as a further route or site.
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

/// `alice:pw`
pub(crate) const ALICE: &str =
    "alice:$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n";

/// Writes a file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A fresh directory with `cert.pem` and `key.pem` for localhost and `htpasswd` for alice.
pub(crate) fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = AUTHORITY.issue(&["localhost", "127.0.0.1"]);
    fs::write(dir.path().join("cert.pem"), certificate).unwrap();
    let file = dir.path().join("key.pem");
    fs::write(&file, key).unwrap();
    // Whose key can be read by everybody is warned.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    write_private(&dir.path().join("htpasswd"), ALICE);
    dir
}

impl Proxy {
    /// The gate of [`config`] with nothing more.
    pub(crate) fn with_defaults(registry: &Registry) -> Self {
        Self::start(registry, config("", ""))
    }

    /// `{upstream}` is the registry's URL, `{dir}` the directory of all files.
    pub(crate) fn start(registry: &Registry, config: impl fmt::Display) -> Self {
        Self::start_in(directory(), &registry.url(), config)
    }

    /// In a directory that is prepared, before an upstream of any kind.
    pub(crate) fn start_in(dir: TempDir, upstream: &str, config: impl fmt::Display) -> Self {
        let proxy = Self::try_start(dir, upstream, config);
        proxy.unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Gives back why it does not start.
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
        let (commands, obeyed) = mpsc::channel(16);
        let (end, ended) = std_mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let cut = runtime.block_on(server.run(obeyed));
            let _ = end.send(cut);
        });
        Ok(Self {
            dir,
            addresses,
            commands,
            ended: Mutex::new(ended),
            thread: Some(thread),
        })
    }

    /// The first listener with TLS.
    pub(crate) fn https(&self) -> SocketAddr {
        self.listener(Scheme::Https)
    }

    /// The first listener without.
    pub(crate) fn http(&self) -> SocketAddr {
        self.listener(Scheme::Http)
    }

    pub(crate) fn listener(&self, scheme: Scheme) -> SocketAddr {
        let mut all = self.addresses.iter();
        all.find(|address| address.scheme == scheme)
            .unwrap()
            .address
    }

    /// The listener at this address.
    pub(crate) fn listener_on(&self, scheme: Scheme, ip: Ipv4Addr) -> SocketAddr {
        let mut all = self.addresses.iter();
        all.find(|address| address.scheme == scheme && address.address.ip() == ip)
            .unwrap()
            .address
    }

    /// A file of the gate's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes another configuration, for the next reload.
    pub(crate) fn configure(&self, registry: &Registry, config: impl fmt::Display) {
        self.write("proxy.toml", substitute(config, &registry.url(), &self.dir));
    }

    pub(crate) fn send_command(&self, command: Command) {
        self.commands.try_send(command).expect("a gate that runs");
    }

    /// Reloads, and waits for the verdict.
    pub(crate) fn reload(&self) -> Result<(), Problems> {
        let (verdict, told) = oneshot::channel();
        self.send_command(Command::Reload(Some(verdict)));
        let (pass, passed) = std_mpsc::channel();
        // A thread of its own, since the caller may be in a runtime.
        thread::spawn(move || pass.send(told.blocking_recv()));
        passed
            .recv_timeout(PATIENCE)
            .expect("a verdict in time")
            .expect("a gate that runs")
    }

    /// Waits for the end that was asked for; how many connections were cut.
    pub(crate) fn wait(&self) -> usize {
        self.ended
            .lock()
            .unwrap()
            .recv_timeout(PATIENCE)
            .expect("an end in time")
    }

    /// Drains, and returns the access log. The clients must have gone, or they are waited for.
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
        // It may have ended already.
        let _ = self.commands.try_send(Command::Stop);
        let _ = self.commands.try_send(Command::Stop);
        self.join();
    }
}

/// A configuration of a test names its own `state.dir`: the default is that of a tidegate that is installed on this machine,
/// and what this process has in its environment is the same for all tests.
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
    // At the end, where it moves no line of the test's.
    let state = if config.contains("[state]") {
        ""
    } else {
        "\n[state]\ndir = \"{dir}/state\"\n"
    };
    let config = config.replace("{upstream}", upstream);
    format!("{config}{state}").replace("{dir}", dir)
}
