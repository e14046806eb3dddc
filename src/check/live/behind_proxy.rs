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
use crate::net::host::with_brackets;
use crate::net::listener::ListenAddr;

/// Sends a request for `host`, a name or an address of `site.hosts`. Returns what works, or a warning. `None` if the
/// configuration file does not have the address: systemd passes the socket, or the port is 0.
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
        Ok(Ok(head)) if is_own(&head) && head.starts_with("http/1.1 403 ") => {
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

/// Sends the request, and returns the first bytes of the response in lower case.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
) -> io::Result<String> {
    let request = format!(
        "GET /v2/ HTTP/1.1\r\nHost: {}\r\nX-Forwarded-Proto: https\r\nConnection: close\r\n\r\n",
        with_brackets(host)
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

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn an_ipv6_address_has_brackets_in_host() {
        let (near, mut far) = duplex(1024);
        let server = tokio::spawn(async move {
            let mut request = vec![0; 1024];
            let length = far.read(&mut request).await.unwrap();
            far.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let head = exchange(near, "2001:db8::1").await.unwrap();
        assert_eq!(head, "http/1.1 204 x\r\n\r\n");
        let request = server.await.unwrap();
        assert!(request.contains("\r\nHost: [2001:db8::1]\r\n"), "{request}");
    }

    /// Listens once, sends these bytes, and returns the result of the probe.
    async fn probed(response: &'static str) -> Result<String, Problem> {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = socket.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(response.as_bytes()).await.unwrap();
        });
        let listener = ListenAddr::Address(address);
        probe(&listener, "registry.example").await.unwrap()
    }

    #[tokio::test]
    async fn the_status_line_alone_has_the_status() {
        let denied = probed("HTTP/1.1 403 Forbidden\r\nX-Request-Id: 1\r\n\r\n").await;
        assert!(denied.unwrap().contains("of which this machine is none"));
        let served =
            probed("HTTP/1.1 401 Unauthorized\r\nX-Request-Id: 1\r\n\r\nnot a 403 at all").await;
        assert!(served.unwrap().contains("serves registry.example"));
        let foreign = probed("HTTP/1.1 200 OK\r\n\r\n").await.unwrap_err();
        assert!(foreign.what.contains("not one of this proxy"));
    }
}
