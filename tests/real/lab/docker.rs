//! A docker daemon of its own with an empty store, and the docker command that speaks to it.
//!
//! dockerd runs in mount and process namespaces of its own: containerd cannot outlive it, and `registry.test` can stand in
//! its /etc/hosts as `::1`. That name matters: docker never verifies a registry on 127.0.0.0/8.

use std::path::PathBuf;
use std::process::Stdio;

use super::process::{Service, run_with_input};
use super::{Image, Lab, Outcome, PASSWORD, USER, run};

/// A running daemon, with the login state of one docker user.
pub(crate) struct Docker<'lab> {
    lab: &'lab Lab,
    dir: PathBuf,
    _service: Service,
}

impl<'lab> Docker<'lab> {
    /// Starts a daemon with an empty store; `name` tells it from others of the same test.
    pub(crate) fn start(lab: &'lab Lab, name: &'static str) -> Self {
        let dir = lab.path(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(
            dir.join("hosts"),
            "127.0.0.1 localhost\n::1 localhost registry.test\n",
        )
        .unwrap();
        let certificates = dir.join("certs.d");
        std::fs::create_dir(&certificates).unwrap();
        let mut command = lab.command("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
        ]);
        command
            .args([WITH_HOSTS, "sh"])
            .arg(dir.join("hosts"))
            .arg(certificates)
            .arg("dockerd")
            .args(DAEMON);
        for (option, file) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(option).arg(dir.join(file));
        }
        let socket = dir.join("d.sock");
        command
            .arg("-H")
            .arg(format!("unix://{}", socket.display()))
            .env("SSL_CERT_FILE", lab.certs().ca());
        let mut service = Service::start(name, &command, &lab.path(""));
        service.wait_until(|| std::os::unix::net::UnixStream::connect(&socket).is_ok());
        Self {
            lab,
            dir,
            _service: service,
        }
    }

    /// `registry.test:PORT/REPOSITORY:latest`, the gate by the name that docker verifies.
    pub(crate) fn reference(&self, repository: &str) -> String {
        format!("{}/{repository}:latest", self.registry())
    }

    /// Runs the docker command.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        run(&self.command(arguments))
    }

    /// Gives the daemon a client certificate for the gate, where it looks for one.
    pub(crate) fn identify(&self) {
        let folder = self.dir.join("certs.d").join(self.registry());
        self.lab.certs().identify(&folder);
    }

    /// `docker login` with a password.
    pub(crate) fn login(&self, password: &str) -> Outcome {
        self.login_as(USER, password)
    }

    /// `docker login` as somebody.
    pub(crate) fn login_as(&self, user: &str, password: &str) -> Outcome {
        let file = self.dir.join("password");
        std::fs::write(&file, password).unwrap();
        let command = self.command(&[
            "login",
            "--username",
            user,
            "--password-stdin",
            &self.registry(),
        ]);
        run_with_input(&command, Stdio::from(std::fs::File::open(file).unwrap()))
    }

    /// A login that must succeed.
    pub(crate) fn log_in(&self) {
        let said = self.login(PASSWORD).succeeds();
        assert!(said.contains("Login Succeeded"), "{said}");
    }

    /// `docker logout`.
    pub(crate) fn log_out(&self) {
        self.run(&["logout", &self.registry()]).succeeds();
    }

    /// Runs `ctr`, containerd's own client, on the daemon's containerd: a command, then what it is about.
    pub(crate) fn ctr(&self, command: &[&str], arguments: &[&str]) -> Outcome {
        // Without this file it would speak plain HTTP to localhost.
        let host = self.lab.host();
        let (hosts, ca) = (self.dir.join("ctr"), self.lab.certs().ca());
        std::fs::create_dir_all(hosts.join(&host)).unwrap();
        let text = format!("[host.\"https://{host}\"]\nca = \"{}\"\n", ca.display());
        std::fs::write(hosts.join(&host).join("hosts.toml"), text).unwrap();
        let socket = self.dir.join("exec/containerd/containerd.sock");
        // dockerd listens before its containerd does.
        super::wait_until("containerd answers", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        let mut ctr = self.lab.command("ctr");
        ctr.arg("--address").arg(socket).args(command);
        run(ctr.arg("--hosts-dir").arg(hosts).args(arguments))
    }

    /// Loads an image under the gate's name for a repository and says its reference.
    pub(crate) fn load(&self, image: &Image, repository: &str) -> String {
        let reference = self.reference(repository);
        let archive = image.archive(&reference);
        self.run(&["load", "--input", archive.to_str().unwrap()])
            .succeeds();
        reference
    }

    /// What the daemon has written to its log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// The id of an image in the store: the digest of its configuration.
    pub(crate) fn id(&self, reference: &str) -> String {
        self.run(&["image", "inspect", "--format", "{{.Id}}", reference])
            .succeeds()
    }

    fn registry(&self) -> String {
        format!("registry.test:{}", self.lab.port())
    }

    /// A command of docker, to be run in another way than [`run`](Self::run).
    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.lab.command("docker");
        command.arg("--config").arg(self.dir.join("config"));
        command
            .arg("-H")
            .arg(format!("unix://{}", self.dir.join("d.sock").display()))
            .args(arguments);
        command
    }
}

const WITH_HOSTS: &str = r#"mount --bind "$1" /etc/hosts && mkdir -p /etc/docker/certs.d && mount --bind "$2" /etc/docker/certs.d && shift 2 && exec "$@""#;
// No bridge and no firewall rules need no kernel modules, and vfs works on every file system. One attempt at a download:
// a retry would hide a broken transfer. What it tries to mount stands in its log at this level only.
const DAEMON: &[&str] = &[
    "--iptables=false",
    "--ip6tables=false",
    "--bridge=none",
    "--storage-driver=vfs",
    "--max-download-attempts=1",
    "--log-level=debug",
];
