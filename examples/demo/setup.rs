//! The files of the demo: a temporary directory with a configuration and one user, created at each start.
//!
//! `main` creates it and starts the server with it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use bcrypt::Version;
use tempfile::TempDir;
use tidegate::config::problem::Problems;
use tidegate::server::{self, Server};

use crate::Failure;
use crate::crypto::random;

/// The directory and the credentials of its user. Dropping it removes the directory.
pub(crate) struct Setup {
    directory: TempDir,
    registry: SocketAddr,
    password: String,
}

/// The addresses of a running server.
pub(crate) struct RunningProxy {
    pub(crate) address: SocketAddr,
    /// The directory that holds the CA certificate as `*.crt`, the form that docker and skopeo read.
    pub(crate) ca: PathBuf,
}

impl Setup {
    /// Creates the configuration for a proxy in front of `registry`.
    pub(crate) fn new(registry: SocketAddr) -> Result<Self, Failure> {
        let directory = tempfile::Builder::new()
            .prefix("tidegate-demo-")
            .tempdir()?;
        let password = new_password()?;
        let line = format!("{USER}:{}\n", hash(&password)?);
        fs::write(directory.path().join("htpasswd"), line)?;
        Ok(Self {
            directory,
            registry,
            password,
        })
    }

    pub(crate) fn user(&self) -> &'static str {
        USER
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    pub(crate) fn registry(&self) -> SocketAddr {
        self.registry
    }

    /// Starts the server on the first free port of `ports`; `log` is a line for the table `[log]`.
    pub(crate) fn open(&self, ports: &[u16], log: &str) -> Result<(Server, RunningProxy), Failure> {
        let mut problems = String::new();
        for port in ports {
            let file = self.directory.path().join("proxy.toml");
            fs::write(&file, self.configuration(*port, log))?;
            match Server::open(&file) {
                Ok((server, _warnings)) => {
                    let proxy = self.proxy(&server)?;
                    return Ok((server, proxy));
                }
                // Most likely the port is in use.
                Err(server::StartError::Runtime(errors)) => problems = message(&errors),
                Err(server::StartError::InvalidConfig(errors)) => {
                    return Err(message(&errors).into());
                }
            }
        }
        Err(format!("the server does not start: {problems}").into())
    }

    fn proxy(&self, server: &Server) -> Result<RunningProxy, Failure> {
        let addresses = server.addresses();
        let address = addresses.first().ok_or("the proxy has no address")?.address;
        let certificates = self.directory.path().join("certs");
        fs::create_dir_all(&certificates)?;
        let ca = certificates.join("ca.crt");
        fs::copy(self.directory.path().join("state/ca.pem"), &ca)?;
        Ok(RunningProxy { address, ca })
    }

    fn configuration(&self, port: u16, log: &str) -> String {
        let registry = self.registry;
        format!(
            r#"[listen]
https = ["127.0.0.1:{port}"]

[log]
{log}

[state]
dir = "state"

[limits]
drain = "5s"

[[site]]
hosts = ["localhost", "127.0.0.1"]
tls = "self-signed"

[[site.route]]
path = "/v2/"
upstream = "http://{registry}"
auth = {{ mode = "basic", htpasswd = "htpasswd", realm = "{REALM}" }}
"#
        )
    }

    /// The commands to try, for a user at a terminal.
    pub(crate) fn commands_to_try(&self, proxy: &RunningProxy) -> String {
        let (registry, password) = (self.registry, &self.password);
        let host = proxy.host();
        let directory = self.directory.path().display();
        let ca = proxy.ca.display();
        format!(
            "\
The proxy is open at https://{host}, in front of a registry in memory at {registry}.

  user            {USER}
  password        {password}
  CA              {ca}
  configuration   {directory}/proxy.toml

curl
  curl --cacert {ca} https://{host}/v2/
  curl --cacert {ca} -u {USER}:{password} https://{host}/v2/_catalog

docker
  sudo install -D -m 644 {ca} /etc/docker/certs.d/{host}/ca.crt
  docker login -u {USER} -p {password} {host}
  docker pull busybox && docker tag busybox {host}/busybox && docker push {host}/busybox

skopeo
  skopeo copy --dest-cert-dir {directory}/certs --dest-creds {USER}:{password} docker://busybox docker://{host}/busybox
  skopeo inspect --cert-dir {directory}/certs --creds {USER}:{password} docker://{host}/busybox

Ctrl-C ends it, and everything above is gone. The access log:
"
        )
    }
}

impl RunningProxy {
    /// The host as clients write it.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }
}

/// A password of 100 random bits, in letters and digits that are neither confusable nor special to a shell.
fn new_password() -> Result<String, Failure> {
    let symbol = |byte: u8| SYMBOLS.get(usize::from(byte) % SYMBOLS.len());
    let symbols = random(20)?.into_iter().filter_map(symbol);
    Ok(symbols.map(|symbol| char::from(*symbol)).collect())
}

fn hash(password: &str) -> Result<String, Failure> {
    let salt: [u8; 16] = random(16)?.try_into().map_err(|_| "a salt has 16 bytes")?;
    // The form that `htpasswd -B` writes.
    Ok(bcrypt::hash_with_salt(password, COST, salt)?.format_for_version(Version::TwoY))
}

fn message(problems: &Problems) -> String {
    let errors: Vec<_> = problems.errors().map(ToString::to_string).collect();
    errors.join("; ")
}

const USER: &str = "demo";
/// The realm of the challenge.
pub(crate) const REALM: &str = "tidegate demo";
/// A power of two, so that every symbol is equally likely.
const SYMBOLS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// A bcrypt cost that takes about 50 ms per check.
const COST: u32 = 10;
