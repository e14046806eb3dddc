//! Where an upstream listens, and the way to get a stream to it.
//!
//! Called by `node` when no pooled connection can be used, and for checks. It sends no request: what goes over the
//! stream is the codec's business.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

use super::resolve::resolve;
use super::stream::{Socket, Stream};
use super::trust::ServerRoots;
use super::{EndpointSettings, Error};
use crate::net::host::{parse_address, strip_brackets};

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A name or an IP literal (IPv6 with or without brackets), resolved at each connect.
    Tcp {
        /// The name or literal.
        host: String,
        /// The port.
        port: u16,
    },
    /// The same over TLS; the certificate must be for the host.
    Tls {
        /// The name or literal.
        host: String,
        /// The port.
        port: u16,
    },
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Endpoint {
    /// What a URL of this endpoint has between scheme and path: `127.0.0.1:5000`, `[::1]:5000`. A unix
    /// socket has no authority; `localhost` is what servers behind one expect.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } | Self::Tls { host, port }
                if strip_brackets(host).contains(':') =>
            {
                format!("[{}]:{port}", strip_brackets(host))
            }
            Self::Tcp { host, port } | Self::Tls { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// True when the address behind it may change.
    pub(super) fn is_dns_name(&self) -> bool {
        match self {
            Self::Tcp { host, .. } | Self::Tls { host, .. } => parse_address(host).is_none(),
            Self::Unix(_) => false,
        }
    }
}

/// As it stands in a configuration.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => write!(f, "http://{}", self.authority()),
            Self::Tls { .. } => write!(f, "https://{}", self.authority()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Connects to `endpoint`, within the time for resolution, every address and the TLS handshake together. An error
/// names the endpoint, since an upstream may have several.
pub(super) async fn open(
    endpoint: &Endpoint,
    settings: &EndpointSettings,
) -> Result<Stream, Error> {
    let within = settings.connect_timeout;
    let socket = match timeout(within, connect(endpoint, settings)).await {
        Ok(connected) => connected.map_err(|error| match error {
            Error::Connect(cause) if is_exhausted(&cause) => Error::Exhausted(cause),
            Error::Connect(cause) => Error::Connect(with_endpoint(endpoint, cause)),
            other => other,
        })?,
        Err(_) => return Err(Error::ConnectTimeout(within)),
    };
    Ok(Stream::new(socket, Instant::now()))
}

/// True when it is not the upstream's fault: the process or the system is out of descriptors.
fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    exhausted
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}

async fn connect(endpoint: &Endpoint, settings: &EndpointSettings) -> Result<Socket, Error> {
    let within = settings.connect_timeout;
    match endpoint {
        Endpoint::Unix(path) => {
            let connected = UnixStream::connect(path).await;
            connected.map(Socket::Unix).map_err(Error::Connect)
        }
        Endpoint::Tcp { host, port } => {
            let dialled = connect_tcp(strip_brackets(host), *port, within).await;
            dialled.map(Socket::Tcp).map_err(Error::Connect)
        }
        Endpoint::Tls { host, port } => {
            let stream = connect_tcp(strip_brackets(host), *port, within).await;
            let stream = stream.map_err(Error::Connect)?;
            let trust = settings.trust.as_ref();
            let secured = ServerRoots::connect_tls(trust, strip_brackets(host), stream).await;
            secured
                .map(|stream| Socket::Tls(Box::new(stream)))
                .map_err(Error::Tls)
        }
    }
}

async fn connect_tcp(host: &str, port: u16, within: Duration) -> io::Result<TcpStream> {
    let addresses = resolve(host, port).await?;
    dial_any(&addresses, within).await
}

/// The addresses in the resolver's order, none of which may take the time of the others; the last refusal is told.
async fn dial_any(addresses: &[SocketAddr], within: Duration) -> io::Result<TcpStream> {
    let mut refusal = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let until = Instant::now() + within;
    for (number, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - number).unwrap_or(u32::MAX);
        let connecting = TcpStream::connect(address);
        let share = until.saturating_duration_since(Instant::now()) / left;
        let connected = match left {
            // All the time there is, which the caller ends.
            1 => connecting.await,
            _ => match timeout(share, connecting).await {
                Ok(connected) => connected,
                Err(_) => continue,
            },
        };
        match connected {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// A failed connect with the endpoint in its text. The error of the system stays its source, so that the errno is not lost.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {cause}")]
struct ConnectFailure {
    endpoint: String,
    #[source]
    cause: io::Error,
}

/// Adds the endpoint to the text of a failed connect. The kind says whose fault the failure is: see `is_local`.
fn with_endpoint(endpoint: &Endpoint, cause: io::Error) -> io::Error {
    let kind = if is_local(&cause) {
        io::ErrorKind::ResourceBusy
    } else {
        cause.kind()
    };
    let endpoint = endpoint.to_string();
    io::Error::new(kind, ConnectFailure { endpoint, cause })
}

/// The gate lacks what a connection takes: nothing is known of the endpoint then.
fn is_local(cause: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(cause);
    errno.is_some_and(|errno| {
        [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
        ]
        .contains(&errno)
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::tests::settings;
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        // Bound and not listening: no other test's listener gets this port.
        let deaf = tokio::net::TcpSocket::new_v4().unwrap();
        deaf.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (refusing, taking) = (deaf.local_addr().unwrap(), here.local_addr().unwrap());
        let stream = dial_any(&[refusing, taking], LONG).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), taking);
        let refusal = dial_any(&[refusing, refusing], LONG).await.err();
        assert_eq!(refusal.unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let nowhere = dial_any(&[], LONG).await.err();
        assert_eq!(nowhere.unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_name_is_resolved() {
        let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = here.local_addr().unwrap().port();
        let host = "localhost".to_owned();
        let endpoint = Endpoint::Tcp { host, port };
        let settings = settings(endpoint.clone()).each;
        assert!(open(&endpoint, &settings).await.is_ok());
    }

    #[test]
    fn a_name_may_change_and_a_literal_does_not() {
        let tcp = |host: &str| Endpoint::Tcp {
            host: host.to_owned(),
            port: 1,
        };
        assert!(tcp("registry.internal").is_dns_name());
        for literal in ["127.0.0.1", "::1", "[::1]"] {
            assert!(!tcp(literal).is_dns_name(), "{literal}");
        }
    }
}
