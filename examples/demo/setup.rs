//! What the gate is given: a directory with its configuration and one user, made anew each time.
//!
//! `main` makes one and opens the gate with it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use bcrypt::Version;
use tempfile::TempDir;
use tidegate::config::problem::Problems;
use tidegate::server::{self, Server};

use crate::Failure;
use crate::crypto::random;

/// The directory, and who may pass the gate. Dropped, the directory goes.
pub(crate) struct Setup {
    directory: TempDir,
    registry: SocketAddr,
    password: String,
}

/// Where an open gate is.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    /// The CA of its certificate, where clients that want a directory of `*.crt` find it too.
    pub(crate) ca: PathBuf,
}

impl Setup {
    /// For a gate in front of `registry`.
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

    /// Opens the gate on the first of these ports that is free; `log` is a line for the section of that name.
    pub(crate) fn open(&self, ports: &[u16], log: &str) -> Result<(Server, Gate), Failure> {
        let mut refused = String::new();
        for port in ports {
            let file = self.directory.path().join("proxy.toml");
            fs::write(&file, self.configuration(*port, log))?;
            match Server::open(&file) {
                Ok((server, _warnings)) => {
                    let gate = self.gate(&server)?;
                    return Ok((server, gate));
                }
                // A port that is taken, most likely.
                Err(server::StartError::Runtime(problems)) => refused = words(&problems),
                Err(server::StartError::InvalidConfig(problems)) => {
                    return Err(words(&problems).into());
                }
            }
        }
        Err(format!("the gate does not start: {refused}").into())
    }

    fn gate(&self, server: &Server) -> Result<Gate, Failure> {
        let addresses = server.addresses();
        let address = addresses.first().ok_or("the gate has no address")?.address;
        let certificates = self.directory.path().join("certs");
        fs::create_dir_all(&certificates)?;
        let ca = certificates.join("ca.crt");
        fs::copy(self.directory.path().join("state/ca.pem"), &ca)?;
        Ok(Gate { address, ca })
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

    /// For a person with a terminal.
    pub(crate) fn lines_to_try(&self, gate: &Gate) -> String {
        let (registry, password) = (self.registry, &self.password);
        let host = gate.host();
        let directory = self.directory.path().display();
        let ca = gate.ca.display();
        format!(
            "\
The gate is open at https://{host}, in front of a registry in memory at {registry}.

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

impl Gate {
    /// As clients write it.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }
}

/// 100 bits, in letters and digits that can neither be mistaken nor mean anything to a shell.
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

fn words(problems: &Problems) -> String {
    let errors: Vec<_> = problems.errors().map(ToString::to_string).collect();
    errors.join("; ")
}

const USER: &str = "demo";
/// What the challenge names.
pub(crate) const REALM: &str = "tidegate demo";
/// 32 of them, so that each is as likely as any other.
const SYMBOLS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Some 50 ms for each check.
const COST: u32 = 10;
