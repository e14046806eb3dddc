//! A registry as its users run it, for one test: Debian's `docker-registry` without any authentication of its own, the
//! real gate in front of it, a CA, a password file from `htpasswd`, all in one fresh folder.
//!
//! Each test starts its own and everything ends with it. When a test fails, the logs of all parts are printed.

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
pub(crate) use self::python::{dxf, installed, oras};

/// The user of the password file, unless a test says another.
pub(crate) const USER: &str = "alice";
/// Her password; a colon in it is legal (RFC 7617, section 2).
pub(crate) const PASSWORD: &str = "tide:gate-42";
/// The other user of the password file, and his password.
pub(crate) const OTHER: (&str, &str) = ("bob", "ebb-and-flow-7");

/// A gate and the registry behind it.
pub(crate) struct Lab {
    // Dropped in this order: nothing runs any more when the folder goes.
    gate: Option<Service>,
    registry: Mutex<Option<Service>>,
    certs: Certs,
    port: u16,
    registry_port: u16,
    admin_port: u16,
    mode: &'static str,
    lifetime: Option<&'static str>,
    dir: TempDir,
    grants: &'static str,
    /// Further keys of the table `listen`.
    listen: &'static str,
    /// In mode "upstream", between the two.
    harbor: Option<Harbor>,
    /// Further keys of the site.
    site: String,
}

impl Lab {
    /// Starts both and waits until both answer.
    pub(crate) fn start() -> Self {
        Self::configured("basic", "")
    }

    /// The same, in another mode of `auth` and with grants at the end of the gate's route.
    pub(crate) fn configured(mode: &'static str, grants: &'static str) -> Self {
        Self::create(mode, None, grants, "", |_| String::new())
    }

    /// The same, with tokens that live as long as this says.
    pub(crate) fn with_lifetime(
        mode: &'static str,
        lifetime: Option<&'static str>,
        grants: &'static str,
    ) -> Self {
        Self::create(mode, lifetime, grants, "", |_| String::new())
    }

    /// The same, with a site that asks for client certificates.
    pub(crate) fn guarded() -> Self {
        Self::create("basic", None, "", "", |certs| {
            format!("client_ca = \"{}\"", certs.client_ca().display())
        })
    }

    /// The same, where every connection from this machine must begin with a PROXY header.
    pub(crate) fn behind_balancers() -> Self {
        let listen = "proxy_protocol = [\"127.0.0.1\", \"::1\"]";
        Self::create("basic", None, "", listen, |_| String::new())
    }

    fn create(
        mode: &'static str,
        lifetime: Option<&'static str>,
        grants: &'static str,
        listen: &'static str,
        site: impl Fn(&Certs) -> String,
    ) -> Self {
        let dir = TempDir::with_prefix("real-").unwrap();
        let certs = Certs::make(&dir.path().join("certs"));
        let site = site(&certs);
        let (port, registry_port) = (free_port(), free_port());
        let mut lab = Self {
            gate: None,
            registry: Mutex::default(),
            certs,
            port,
            registry_port,
            admin_port: free_port(),
            mode,
            lifetime,
            dir,
            grants,
            listen,
            harbor: None,
            site,
        };
        for folder in ["home", "state", "tmp", "registry"] {
            fs::create_dir(lab.path(folder)).unwrap();
        }
        if mode == "upstream" {
            Harbor::make_key(lab.dir.path());
            lab.harbor = Some(Harbor::start(lab.dir.path(), registry_port));
        }
        lab.write_configs();
        lab.start_registry();
        lab.start_proxy();
        lab
    }

    /// Starts the registry, or starts it again where it was and with what it held.
    pub(crate) fn start_registry(&self) {
        let mut command = self.command("docker-registry");
        command.arg("serve").arg(self.path("registry.yml"));
        let mut service = Service::start("registry", &command, self.dir.path());
        let port = self.registry_port;
        service.wait_until(|| is_listening(port));
        *self.registry.lock().unwrap() = Some(service);
    }

    /// Ends the registry's process; its port then refuses connections.
    pub(crate) fn stop_registry(&self) {
        *self.registry.lock().unwrap() = None;
    }

    /// Ends the registry's process by `kill -9`, whatever it is doing.
    pub(crate) fn kill_registry(&self) {
        let registry = self.registry.lock().unwrap().take();
        registry.expect("a registry that runs").kill();
    }

    fn start_proxy(&mut self) {
        let mut command = self.command(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["serve", "-c"])
            .arg(self.path("proxy.toml"))
            .env("TMPDIR", self.path("tmp"));
        let mut service = Service::start("gate", &command, self.dir.path());
        let port = self.port;
        service.wait_until(|| is_listening(port));
        self.gate = Some(service);
    }

    /// Ends the proxy's process, for a test that starts another one in its place.
    pub(crate) fn stop_proxy(&mut self) {
        self.gate = None;
    }

    /// Ends the gate and starts it again, with the configuration that is in its file now.
    pub(crate) fn restart_proxy(&mut self) {
        self.gate = None;
        self.start_proxy();
    }

    /// What stands between the gate and the registry in mode "upstream".
    pub(crate) fn harbor(&self) -> &Harbor {
        self.harbor.as_ref().unwrap()
    }

    /// The gate's process id.
    pub(crate) fn proxy_pid(&self) -> u32 {
        self.gate.as_ref().unwrap().id()
    }

    /// `localhost:PORT`, as clients name the gate.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// The gate's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where it is watched.
    pub(crate) fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port)
    }

    /// Its status page, by the only name that the browser knows.
    pub(crate) fn status_page(&self) -> String {
        format!("http://localhost:{}/", self.admin_port)
    }

    /// An address at the registry itself, around the gate.
    pub(crate) fn behind(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.registry_port)
    }

    /// An address behind the gate.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.host())
    }

    /// Something in the lab's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The CA and the gate's certificate.
    pub(crate) fn certs(&self) -> &Certs {
        &self.certs
    }

    /// `user:password`, good ones.
    pub(crate) fn credentials() -> String {
        format!("{USER}:{PASSWORD}")
    }

    /// `user:password` of the other user.
    pub(crate) fn other_credentials() -> String {
        format!("{}:{}", OTHER.0, OTHER.1)
    }

    /// The uploads that reached the registry as mounts, as its own log has them: a line for each.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("registry.log")).unwrap_or_default();
        let lines = text.lines().filter(|line| line.contains("] \"POST "));
        let mounts = lines.filter(|line| line.contains("from=") && line.contains("mount="));
        mounts.map(str::to_owned).collect()
    }

    /// A program to run, with the lab's HOME.
    pub(crate) fn command(&self, program: &str) -> Command {
        command(program, &self.path("home"))
    }

    /// The lines of the gate's access log.
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
https = ["127.0.0.1:{port}", "[::1]:{port}"]
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

/// A port that is free on both loopback addresses, and that nothing else on this machine is given until the tests end.
///
/// A socket with SO_REUSEADDR stays bound to the port and never listens. The kernel then gives the port to no other socket,
/// neither to one that binds port 0 nor to an outgoing connection, while a server that binds the port itself can do so: every
/// server here sets SO_REUSEADDR. A port that was only free a moment ago was once given to two listeners of one test.
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

/// No port is given twice, and none is given to a socket that asks for any; a server can listen on it, and again after it ended.
#[test]
fn a_free_port_stays_free_for_the_one_who_asked() {
    let ports: Vec<u16> = (0..200).map(|_| free_port()).collect();
    let distinct: BTreeSet<u16> = ports.iter().copied().collect();
    assert_eq!(distinct.len(), ports.len());
    let others: Vec<_> = (0..200)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    for other in &others {
        let given = other.local_addr().unwrap().port();
        assert!(
            !distinct.contains(&given),
            "{given} was given to another socket"
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

/// Whether somebody accepts connections there.
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
