//! Probes the addresses of `listen.behind_proxy` as the proxy in front would use them: one request over plain HTTP.
//!
//! Called by `live`. The request has no credentials. Its `X-Forwarded-Proto` is believed only if this machine is one of the
//! trusted proxies, or on a Unix socket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::problem::Problem;
use crate::net::addr::local_address;
use crate::net::listener::ListenAddr;

/// Sends a request for `host`. Returns what works, or a warning. `None` if the address is not in the configuration file.
pub(crate) async fn probe(listener: &ListenAddr, host: &str) -> Option<Result<String, Problem>> {
    let response = match listener {
        ListenAddr::Address(address) if address.port() != 0 => {
            let address = local_address(*address);
            let exchange = async { exchange(TcpStream::connect(address).await?, host).await };
            timeout(PROBE_TIMEOUT, exchange).await
        }
        ListenAddr::Unix(path) => {
            let exchange = async { exchange(UnixStream::connect(path).await?, host).await };
            timeout(PROBE_TIMEOUT, exchange).await
        }
        ListenAddr::Address(_) | ListenAddr::Named(_) => return None,
    };
    let what = match response {
        Ok(Ok(head)) if is_own(&head) && head.contains(" 403 ") => {
            return Some(Ok(format!(
                "{listener}: serves trusted proxies, of which this machine is none"
            )));
        }
        Ok(Ok(head)) if is_own(&head) => {
            return Some(Ok(format!("{listener}: serves {host} to trusted proxies")));
        }
        Ok(Err(error))
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ) =>
        {
            return Some(Ok(format!(
                "{listener}: nothing listens; the proxy is not running"
            )));
        }
        Ok(Ok(_)) => "the response is not one of this proxy".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("no response within {PROBE_TIMEOUT:?}"),
    };
    let problem = Problem::warning(None, format!("{listener}: {what}"));
    Some(Err(problem
        .because(
            "another program may use the address, or the user of the check may not connect to it",
        )
        .fix(
            "run the check as a user who may connect, and look at the log of the proxy",
        )))
}

/// Sends the request, and returns the first bytes of the response.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
) -> io::Result<String> {
    let request = format!(
        "GET /v2/ HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    stream.take(MAX_HEAD).read_to_end(&mut head).await?;
    Ok(String::from_utf8_lossy(&head).to_ascii_lowercase())
}

/// Whether the response is one of this proxy: each of them has an `X-Request-Id`.
fn is_own(head: &str) -> bool {
    head.starts_with("http/1.1 ") && head.contains("\r\nx-request-id: ")
}

const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEAD: u64 = 16 * 1024;
