//! The environment of one test, set up as users run a registry: Debian's `docker-registry` without authentication of its own, the
//! tidegate executable in front of it, a CA, and a password file that `htpasswd` wrote. All files are in one temporary directory.
//!
//! Each test starts its own [`Lab`], whose processes end when it is dropped. If a test fails, the logs of all processes are
//! printed.

mod browser;
mod certs;
mod curl;
mod docker;
mod harbor;
mod image;
mod oci_client;
mod process;
mod python;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

pub(crate) use self::browser::Browser;
pub(crate) use self::certs::Certs;
pub(crate) use self::curl::Curl;
pub(crate) use self::docker::Docker;
pub(crate) use self::harbor::Harbor;
pub(crate) use self::image::{Image, MIB, write_random};
pub(crate) use self::oci_client::oci_client;
pub(crate) use self::process::{
    Outcome, Service, command, run, run_with_input, run_within, sha256, wait_until, wait_up_to,
};
pub(crate) use self::python::{dxf, installed, oras, websocket_peers};

/// The first user of the password file.
pub(crate) const USER: &str = "alice";
/// The password of [`USER`]. A password may contain a colon (RFC 7617, section 2).
pub(crate) const PASSWORD: &str = "tide:gate-42";
/// The second user of the password file, and the password of that user.
pub(crate) const OTHER: (&str, &str) = ("bob", "ebb-and-flow-7");

/// A running proxy and the registry behind it.
pub(crate) struct Lab {
    // Fields are dropped in this order: the processes end before the directory is removed.
    proxy: Option<Service>,
    registry: Mutex<Option<Service>>,
    certs: Certs,
    port: u16,
    registry_port: u16,
    admin_port: u16,
    mode: &'static str,
    lifetime: Option<&'static str>,
    dir: TempDir,
    grants: &'static str,
    /// Additional keys of the table `listen`.
    listen: &'static str,
    /// In mode "upstream": stands between the proxy and the registry.
    harbor: Option<Harbor>,
    /// Additional keys of the site.
    site: String,
    /// The port on which the proxy serves another proxy that terminates TLS, instead of clients.
    behind: Option<u16>,
}

impl Lab {
    /// Starts the registry and the proxy in mode "basic", and waits until both accept connections.
    pub(crate) fn start() -> Self {
        Self::configured("basic", "")
    }

    /// Starts a lab whose route has the given `auth.mode` and ends with `grants`.
    pub(crate) fn configured(mode: &'static str, grants: &'static str) -> Self {
        Self::with_lifetime(mode, None, grants)
    }

    /// Starts a lab like [`configured`](Self::configured), with `lifetime` as the lifetime of tokens.
    pub(crate) fn with_lifetime(
        mode: &'static str,
        lifetime: Option<&'static str>,
        grants: &'static str,
    ) -> Self {
        let mut lab = Self::prepare(mode);
        (lab.lifetime, lab.grants) = (lifetime, grants);
        lab.run()
    }

    /// Starts a lab whose site requires client certificates.
    pub(crate) fn requiring_client_certificates() -> Self {
        let mut lab = Self::prepare("basic");
        lab.site = format!("client_ca = \"{}\"", lab.certs.client_ca().display());
        lab.run()
    }

    /// Starts a lab whose proxy requires a PROXY header at the start of every connection from this machine.
    pub(crate) fn behind_balancers() -> Self {
        let mut lab = Self::prepare("basic");
        lab.listen = "proxy_protocol = [\"127.0.0.1\", \"::1\"]";
        lab.run()
    }

    /// Starts a lab in mode "basic" whose proxy serves plain HTTP, on [`Self::inner_port`] and on the Unix socket `http.sock`
    /// (`listen.behind_proxy`). The test starts another proxy that terminates TLS on [`Self::port`].
    pub(crate) fn behind_front_end() -> Self {
        let mut lab = Self::prepare("basic");
        lab.behind = Some(free_port());
        lab.run()
    }

    /// Adds tables to the end of the configuration and starts the proxy again.
    pub(crate) fn add_tables(&mut self, tables: &str) {
        let path = self.path("proxy.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + tables).unwrap();
        self.restart_proxy();
    }

    /// Writes the configurations, and starts the registry and the proxy.
    fn run(mut self) -> Self {
        self.write_configs();
        self.start_registry();
        self.start_proxy();
        self
    }

    /// Creates the directory, the certificates and the ports of a lab in this `auth.mode`. Nothing but Harbor is started.
    fn prepare(mode: &'static str) -> Self {
        let dir = TempDir::with_prefix("real-").unwrap();
        let certs = Certs::make(&dir.path().join("certs"));
        let (port, registry_port) = (free_port(), free_port());
        let mut lab = Self {
            proxy: None,
            registry: Mutex::default(),
            certs,
            port,
            registry_port,
            admin_port: free_port(),
            mode,
            lifetime: None,
            dir,
            grants: "",
            listen: "",
            harbor: None,
            site: String::new(),
            behind: None,
        };
        for folder in ["home", "state", "tmp", "registry"] {
            fs::create_dir(lab.path(folder)).unwrap();
        }
        if mode == "upstream" {
            Harbor::make_key(lab.dir.path());
            lab.harbor = Some(Harbor::start(lab.dir.path(), registry_port));
        }
        lab
    }

    /// Starts the registry, or restarts it on the same port and with the same content.
    pub(crate) fn start_registry(&self) {
        let mut command = self.command("docker-registry");
        command.arg("serve").arg(self.path("registry.yml"));
        let mut service = Service::start("registry", &command, self.dir.path());
        let port = self.registry_port;
        service.wait_until(|| is_listening(port));
        *self.registry.lock().unwrap() = Some(service);
    }

    /// Ends the process of the registry. Its port then refuses connections.
    pub(crate) fn stop_registry(&self) {
        *self.registry.lock().unwrap() = None;
    }

    /// Ends the process of the registry with SIGKILL.
    pub(crate) fn kill_registry(&self) {
        let registry = self.registry.lock().unwrap().take();
        registry.expect("the registry runs").kill();
    }

    fn start_proxy(&mut self) {
        let mut command = self.command(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["serve", "-c"])
            .arg(self.path("proxy.toml"))
            .env("TMPDIR", self.path("tmp"));
        let mut service = Service::start("proxy", &command, self.dir.path());
        let port = self.behind.unwrap_or(self.port);
        service.wait_until(|| is_listening(port));
        self.proxy = Some(service);
    }

    /// Ends the process of the proxy, for a test that starts another process in its place.
    pub(crate) fn stop_proxy(&mut self) {
        self.proxy = None;
    }

    /// Restarts the proxy, which reads its configuration file again.
    pub(crate) fn restart_proxy(&mut self) {
        self.proxy = None;
        self.start_proxy();
    }

    /// The stand-in for Harbor, which exists in mode "upstream" only.
    pub(crate) fn harbor(&self) -> &Harbor {
        self.harbor.as_ref().unwrap()
    }

    /// The process id of the proxy.
    pub(crate) fn proxy_pid(&self) -> u32 {
        self.proxy.as_ref().unwrap().id()
    }

    /// `localhost:PORT`, the host under which clients address the proxy.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The https port of the proxy.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The port on which the proxy serves a proxy that terminates TLS.
    pub(crate) fn inner_port(&self) -> u16 {
        self.behind.unwrap()
    }

    /// The address of the admin listener.
    pub(crate) fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port)
    }

    /// The URL of the status page. The host is `localhost`, the only name that the browser resolves.
    pub(crate) fn status_page(&self) -> String {
        format!("http://localhost:{}/", self.admin_port)
    }

    /// The http URL of `path` at the registry, for requests that bypass the proxy.
    pub(crate) fn behind(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.registry_port)
    }

    /// The https URL of `path` at the proxy, which is what a client requests.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.host())
    }

    /// The path of `name` in the directory of the lab.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The CA and the certificate of the proxy.
    pub(crate) fn certs(&self) -> &Certs {
        &self.certs
    }

    /// `user:password` of [`USER`].
    pub(crate) fn credentials() -> String {
        format!("{USER}:{PASSWORD}")
    }

    /// `user:password` of [`OTHER`].
    pub(crate) fn other_credentials() -> String {
        format!("{}:{}", OTHER.0, OTHER.1)
    }

    /// The lines of the registry's log that report a request to mount a blob.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("registry.log")).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains("] \"POST "));
        let mounts = lines.filter(|line| line.contains("from=") && line.contains("mount="));
        mounts.map(str::to_owned).collect()
    }

    /// A command that runs `program` with the HOME of the lab.
    pub(crate) fn command(&self, program: &str) -> Command {
        command(program, &self.path("home"))
    }

    /// The lines of the proxy's access log.
    pub(crate) fn access_log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn write_configs(&self) {
        fs::write(self.path("registry.yml"), self.registry_config()).unwrap();
        fs::write(self.path("proxy.toml"), self.proxy_config()).unwrap();
        for (options, (user, password)) in [("-Bbc", (USER, PASSWORD)), ("-Bb", OTHER)] {
            let mut htpasswd = self.command("htpasswd");
            let file = self.path("htpasswd");
            run(htpasswd.arg(options).arg(file).args([user, password])).succeeds();
        }
    }

    fn registry_config(&self) -> String {
        let (root, port) = (self.path("registry"), self.registry_port);
        let auth = self
            .harbor
            .as_ref()
            .map(|_| Harbor::registry_config(self.dir.path()));
        let auth = auth.unwrap_or_default();
        format!(
            "version: 0.1\n{auth}\
             storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            root.display()
        )
    }

    fn proxy_config(&self) -> String {
        let (port, dir) = (self.port, self.dir.path().display());
        let addresses = match self.behind {
            None => format!("https = [\"127.0.0.1:{port}\", \"[::1]:{port}\"]"),
            Some(inner) => format!(
                "behind_proxy = [\"127.0.0.1:{inner}\", \"unix:{dir}/http.sock\"]\ntrusted_proxies = [\"127.0.0.1\"]"
            ),
        };
        let (admin, listen) = (self.admin_port, self.listen);
        let (cert, key, mode) = (self.certs.cert(), self.certs.key(), self.mode);
        let lifetime = self
            .lifetime
            .map(|lifetime| format!(", lifetime = \"{lifetime}\""));
        let lifetime = lifetime.unwrap_or_default();
        let (path, upstream, passwords) = match &self.harbor {
            Some(harbor) => ("/", harbor.port(), String::new()),
            None => (
                "/v2/",
                self.registry_port,
                format!(", htpasswd = \"{dir}/htpasswd\", realm = \"Registry realm\"{lifetime}"),
            ),
        };
        format!(
            r#"[listen]
{addresses}
admin = "127.0.0.1:{admin}"
{listen}

[log]
access_file = "{dir}/access.log"

[state]
dir = "{dir}/state"

[[site]]
hosts = ["localhost", "127.0.0.1", "registry.test"]
tls = {{ cert = "{}", key = "{}" }}
{}

[[site.route]]
path = "{path}"
upstream = "http://127.0.0.1:{upstream}"
auth = {{ mode = "{mode}"{passwords} }}
{}
"#,
            cert.display(),
            key.display(),
            self.site,
            self.grants
        )
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(self.dir.path());
        }
    }
}

/// A port that is free on both loopback addresses, and that the kernel assigns to no other socket until the tests end.
///
/// A socket with SO_REUSEADDR stays bound to the port and never listens. While it exists, the kernel does not assign the port to
/// a socket that binds port 0 or to an outgoing connection. A server can still bind the port explicitly, because every server in
/// these tests sets SO_REUSEADDR. Without the bound socket, two listeners of one test were once given the same port.
pub(crate) fn free_port() -> u16 {
    static HELD: Mutex<Vec<[Socket; 2]>> = Mutex::new(Vec::new());
    for _ in 0..100 {
        let four = hold(Domain::IPV4, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = four.local_addr().unwrap().as_socket().unwrap().port();
        if let Ok(six) = hold(Domain::IPV6, (Ipv6Addr::LOCALHOST, port).into()) {
            HELD.lock().unwrap().push([four, six]);
            return port;
        }
    }
    panic!("no port is free on 127.0.0.1 and ::1");
}

fn hold(domain: Domain, address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// `free_port` returns no port twice, and the kernel assigns none of the ports to a socket that binds port 0. A server can listen
/// on such a port, and another server can do so after the first one has closed its socket.
#[test]
fn a_free_port_is_assigned_to_no_other_socket() {
    let ports: Vec<u16> = (0..200).map(|_| free_port()).collect();
    let distinct: BTreeSet<u16> = ports.iter().copied().collect();
    assert_eq!(distinct.len(), ports.len());
    let others: Vec<_> = (0..200)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    for other in &others {
        let assigned = other.local_addr().unwrap().port();
        assert!(
            !distinct.contains(&assigned),
            "{assigned} was assigned to another socket"
        );
    }
    for port in ports {
        assert!(!is_listening(port));
        for _ in 0..2 {
            let four = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            let _six = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
            assert!(is_listening(port));
            drop(four);
        }
    }
}

/// Returns whether a server accepts connections on `port` of 127.0.0.1.
pub(crate) fn is_listening(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

pub(crate) fn print_logs(dir: &Path) {
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|end| end == "log")) {
        let text = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        eprintln!(
            "---- {}, the last lines ----\n{}",
            file.display(),
            last.join("\n")
        );
    }
}

const LOG_LINES: usize = 80;
