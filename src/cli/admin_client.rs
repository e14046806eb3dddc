//! The client of the admin listener that `status`, `unblock`, `cut` and `check --ready` use.
//!
//! The address is `listen.admin` of the configuration. If the configuration names no address, or cannot be read, the client
//! finds the process that serves with this configuration by its locked pid file, as `tidegate reload` does, and connects to
//! the default socket of this process, which has the name of the pid file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::output::{EXIT_CONFIG_REJECTED, rejection_message, warn};
use super::reload::pid_file_directories;
use crate::config;
use crate::config::{AdminSocket, toml_string};
use crate::htpasswd::shell_word;
use crate::net::addr::local_address;
use crate::net::listener::ListenAddr;
use crate::server::pid_file;

/// A client of the admin listener of one configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminClient {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The reason why the admin listener was not found or did not respond, with the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct AdminError {
    message: String,
    exit_code: u8,
}

/// The response of the admin listener to a request.
#[derive(Debug)]
pub(crate) struct AdminResponse {
    status: StatusCode,
    body: Bytes,
}

impl AdminError {
    /// An error with exit code 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_code: 1,
        }
    }

    /// Writes the reason to standard error, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        warn(&self.message);
        ExitCode::from(self.exit_code)
    }
}

impl AdminResponse {
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_success()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}

impl AdminClient {
    /// Finds the admin listener of the process that serves with this configuration.
    pub(crate) fn find(file: &Path) -> Result<Self, AdminError> {
        let (config, problems) = config::load(file);
        if let Some(config) = &config
            && !config.listen.admin.is_default
            && let Some(socket) = &config.listen.admin.socket
        {
            return Self::of(socket);
        }
        let process = match pid_file::find(&pid_file_directories(config.as_ref()), file) {
            Ok(process) => process,
            Err(error) if config.is_some() => {
                return Err(AdminError::failed(format!(
                    "{error}; start one with tidegate serve, or name listen.admin in the configuration"
                )));
            }
            Err(_) => {
                return Err(AdminError {
                    message: rejection_message(&problems),
                    exit_code: EXIT_CONFIG_REJECTED,
                });
            }
        };
        let pid = process.pid();
        let socket = process.default_admin_socket();
        if socket.exists() {
            return Ok(Self::Unix(socket));
        }
        Err(AdminError::failed(format!(
            "process {pid} has no admin socket; {}",
            remedy_for_socket_like(&socket, file)
        )))
    }

    fn of(socket: &AdminSocket) -> Result<Self, AdminError> {
        match socket {
            AdminSocket::Unix(path) => Ok(Self::Unix(path.clone())),
            AdminSocket::Tcp(ListenAddr::Address(address)) if address.port() == 0 => {
                Err(AdminError::failed(
                    "listen.admin has port 0, and only the log has the port that the kernel chose; write a port",
                ))
            }
            AdminSocket::Tcp(ListenAddr::Address(address)) => {
                Ok(Self::Tcp(local_address(*address)))
            }
            AdminSocket::Tcp(ListenAddr::Unix(path)) => Ok(Self::Unix(path.clone())),
            AdminSocket::Tcp(address @ ListenAddr::Named(_)) => Err(AdminError::failed(format!(
                "listen.admin is {address}, and only systemd knows the address of this socket; write an address or \"unix:\" and a path"
            ))),
        }
    }

    /// Sends a request and returns the whole response, or the reason why there is none.
    pub(crate) fn send(&self, method: &Method, target: &str) -> Result<AdminResponse, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        let exchanged = runtime.block_on(async {
            timeout(TIMEOUT, self.exchange(method, target))
                .await
                .unwrap_or_else(|_| Err(format!("no response within {TIMEOUT:?}").into()))
        });
        exchanged.map_err(|error| format!("{}: {error}{}", self.address(), remedy(&*error)))
    }

    async fn exchange(&self, method: &Method, target: &str) -> Result<AdminResponse, SendError> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                exchange(stream, method, target, &address.to_string()).await
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                exchange(stream, method, target, "localhost").await
            }
        }
    }

    /// The address as it is written in the configuration.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

/// What to write so that the proxy has an admin socket: one next to the pid file, where the proxy can create files.
pub(crate) fn socket_remedy(file: &Path) -> String {
    let (config, _) = config::load(file);
    let directories = pid_file_directories(config.as_ref());
    let socket = match pid_file::find(&directories, file) {
        Ok(process) => Some(process.default_admin_socket()),
        Err(_) => config.map(|config| config.state_dir.join("admin.sock")),
    };
    let socket = socket.unwrap_or_else(|| PathBuf::from("/run/tidegate/admin.sock"));
    remedy_for_socket_like(&socket, file)
}

/// The remedy that names `admin.sock` in the directory of `socket`.
fn remedy_for_socket_like(socket: &Path, file: &Path) -> String {
    // A path in the configuration is relative to its folder, and not to the working directory.
    let suggested = socket.with_file_name("admin.sock");
    let suggested = std::path::absolute(&suggested).unwrap_or(suggested);
    format!(
        "write admin = {} in [listen], and let the proxy reload: tidegate reload -c {}",
        toml_string(&format!("unix:{}", suggested.display())),
        shell_word(&file.to_string_lossy()),
    )
}

type SendError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: &Method,
    target: &str,
    host: &str,
) -> Result<AdminResponse, SendError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Dropping the set aborts the task.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(http::header::HOST, host)
        .body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await?.to_bytes();
    Ok(AdminResponse {
        status: head.status,
        body,
    })
}

/// What the operator can do about an error of the socket.
fn remedy(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    match kind {
        Some(std::io::ErrorKind::PermissionDenied) => {
            "; run the command as root, as the user of the service, or as a member of the socket's group"
        }
        Some(std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
            "; is the proxy running with this configuration?"
        }
        _ => "",
    }
}

/// The admin listener responds immediately, unless the machine is overloaded.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Larger than any `/status.json`: 100 rows of each kind, and 50 rejections.
const MAX_BODY: usize = 4 * 1024 * 1024;
