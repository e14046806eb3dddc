//! A docker daemon with an empty store, and the docker command that connects to it.
//!
//! dockerd runs in its own mount and PID namespaces. Its containerd therefore ends with it, and its /etc/hosts can map
//! `registry.test` to `::1`. docker does not verify the certificate of a registry on 127.0.0.0/8, so the tests use this name.

use std::path::PathBuf;
use std::process::Stdio;

use super::process::{Service, run_with_input};
use super::{Image, Lab, Outcome, PASSWORD, USER, run};

/// A running daemon, and the configuration directory of one docker user.
pub(crate) struct Docker<'lab> {
    lab: &'lab Lab,
    dir: PathBuf,
    _service: Service,
}

impl<'lab> Docker<'lab> {
    /// Starts a daemon with an empty store. `name` distinguishes the daemons of one test.
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

    /// `registry.test:PORT/REPOSITORY:latest`: the proxy under the host name whose certificate docker verifies.
    pub(crate) fn reference(&self, repository: &str) -> String {
        format!("{}/{repository}:latest", self.registry())
    }

    /// Runs the docker command.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        run(&self.command(arguments))
    }

    /// Writes a client certificate for the proxy into the directory where the daemon looks for one.
    pub(crate) fn install_client_certificate(&self) {
        let folder = self.dir.join("certs.d").join(self.registry());
        self.lab.certs().issue_client_certificate(&folder);
    }

    /// Runs `docker login` as [`USER`].
    pub(crate) fn try_login(&self, password: &str) -> Outcome {
        self.try_login_as(USER, password)
    }

    /// Runs `docker login` as `user`.
    pub(crate) fn try_login_as(&self, user: &str, password: &str) -> Outcome {
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

    /// Runs `docker login` with the correct password and asserts that it succeeds.
    pub(crate) fn log_in(&self) {
        let output = self.try_login(PASSWORD).succeeds();
        assert!(output.contains("Login Succeeded"), "{output}");
    }

    /// Runs `docker logout` and asserts that it succeeds.
    pub(crate) fn log_out(&self) {
        self.run(&["logout", &self.registry()]).succeeds();
    }

    /// Runs `ctr`, the client of containerd, with the containerd of this daemon. This function adds `--hosts-dir` between
    /// `command` and `arguments`.
    pub(crate) fn ctr(&self, command: &[&str], arguments: &[&str]) -> Outcome {
        // Without this file, containerd would use plain HTTP for localhost.
        let host = self.lab.host();
        let (hosts, ca) = (self.dir.join("ctr"), self.lab.certs().ca());
        std::fs::create_dir_all(hosts.join(&host)).unwrap();
        let text = format!("[host.\"https://{host}\"]\nca = \"{}\"\n", ca.display());
        std::fs::write(hosts.join(&host).join("hosts.toml"), text).unwrap();
        let socket = self.dir.join("exec/containerd/containerd.sock");
        // dockerd listens before its containerd does.
        super::wait_until("containerd accepts connections", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        let mut ctr = self.lab.command("ctr");
        ctr.arg("--address").arg(socket).args(command);
        run(ctr.arg("--hosts-dir").arg(hosts).args(arguments))
    }

    /// Loads an image under its reference at the proxy, and returns the reference.
    pub(crate) fn load(&self, image: &Image, repository: &str) -> String {
        let reference = self.reference(repository);
        let archive = image.archive(&reference);
        self.run(&["load", "--input", archive.to_str().unwrap()])
            .succeeds();
        reference
    }

    /// The log of the daemon so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// The id of an image in the store, which is the digest of its configuration.
    pub(crate) fn id(&self, reference: &str) -> String {
        self.run(&["image", "inspect", "--format", "{{.Id}}", reference])
            .succeeds()
    }

    fn registry(&self) -> String {
        format!("registry.test:{}", self.lab.port())
    }

    /// A docker command, for callers that do not use [`run`](Self::run).
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
// Without a bridge and firewall rules, dockerd needs no kernel modules; vfs works on every file system. dockerd attempts each
// download once, because a retry would hide a broken transfer. It logs its attempts to mount a blob at level debug only.
const DAEMON: &[&str] = &[
    "--iptables=false",
    "--ip6tables=false",
    "--bridge=none",
    "--storage-driver=vfs",
    "--max-download-attempts=1",
    "--log-level=debug",
];
