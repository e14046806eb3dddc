//! Connections to an endpoint: opening one, and the stream type for all kinds of sockets.
//!
//! `endpoint` calls [`open`] when it has no pooled connection, and for health checks. No request is sent here: the bytes on
//! the stream are the business of the `http1` codec.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::error::Error;
use super::resolve::resolve;
use super::settings::{Endpoint, EndpointSettings};
use super::tls::connect_tls;
use crate::net::host::strip_brackets;

/// Opens a connection to `endpoint`.
///
/// `connect_timeout` bounds the name resolution, the connects to all addresses and the TLS handshake together. The text of a
/// connect error names the endpoint, because an upstream may have several.
pub(crate) async fn open(
    endpoint: &Endpoint,
    settings: &EndpointSettings,
) -> Result<Stream, Error> {
    let limit = settings.connect_timeout;
    let socket = match timeout(limit, connect(endpoint, settings)).await {
        Ok(connected) => connected.map_err(|error| match error {
            Error::Connect(cause) if is_out_of_descriptors(&cause) => Error::Exhausted(cause),
            Error::Connect(cause) => Error::Connect(with_endpoint(endpoint, cause)),
            other => other,
        })?,
        Err(_) => return Err(Error::ConnectTimeout(limit)),
    };
    Ok(Stream::new(socket, Instant::now()))
}

async fn connect(endpoint: &Endpoint, settings: &EndpointSettings) -> Result<Socket, Error> {
    let limit = settings.connect_timeout;
    match endpoint {
        Endpoint::Unix(path) => {
            let connected = UnixStream::connect(path).await;
            connected.map(Socket::Unix).map_err(Error::Connect)
        }
        Endpoint::Tcp { host, port } => {
            let connected = connect_tcp(strip_brackets(host), *port, limit).await;
            connected.map(Socket::Tcp).map_err(Error::Connect)
        }
        Endpoint::Tls { host, port } => {
            let host = strip_brackets(host);
            let stream = connect_tcp(host, *port, limit).await;
            let stream = stream.map_err(Error::Connect)?;
            let name = settings.server_name.as_deref().unwrap_or(host);
            let connected = connect_tls(settings.trust.as_ref(), name, stream).await;
            connected
                .map(|stream| Socket::Tls(Box::new(stream)))
                .map_err(Error::Tls)
        }
    }
}

async fn connect_tcp(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let addresses = resolve(host, port).await?;
    connect_to_any(&addresses, limit).await
}

/// Connects to the first address that accepts, in the order of the resolver.
///
/// Each address gets an equal share of the remaining time, so that one that drops SYNs does not use up the time of the
/// others. If all addresses fail, the error of the last one is returned.
async fn connect_to_any(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let deadline = Instant::now() + limit;
    for (index, address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let connecting = TcpStream::connect(address);
        let share = deadline.saturating_duration_since(Instant::now()) / untried;
        let connected = match untried {
            // The last address has all the remaining time; the timeout of the caller ends it.
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
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// Whether the process or the system has no file descriptor left, so that closing an idle connection helps.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Adds the endpoint to the text of a failed connect.
///
/// `io::Error::new` drops the error number, so a failure that the proxy itself causes is classified before: it gets the kind
/// `ResourceBusy`.
fn with_endpoint(endpoint: &Endpoint, cause: io::Error) -> io::Error {
    let kind = if is_local(&cause) {
        io::ErrorKind::ResourceBusy
    } else {
        cause.kind()
    };
    let endpoint = endpoint.to_string();
    io::Error::new(kind, ConnectFailure { endpoint, cause })
}

/// A failed connect with the endpoint in its text. The error of the system is its source, so that the error number stays
/// available.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {cause}")]
struct ConnectFailure {
    endpoint: String,
    #[source]
    cause: io::Error,
}

/// Whether the machine of the proxy lacks a resource that a connection needs: a descriptor, memory, or a local port. Such a
/// failure says nothing about the endpoint.
fn is_local(cause: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(cause),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
    )
}

/// A connected stream of any kind, and when it was opened.
///
/// An enum in place of a trait object, so that reads and writes need no virtual call.
pub(crate) struct Stream {
    socket: Socket,
    opened: Instant,
}

/// Only the TLS stream is boxed: it has several kilobytes, and one allocation per connection costs nothing compared with a
/// handshake.
enum Socket {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Calls the same method on the socket of each variant.
macro_rules! on_socket {
    ($stream:expr, $socket:ident => $call:expr) => {
        match &mut $stream.get_mut().socket {
            Socket::Tcp($socket) => $call,
            Socket::Tls($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

impl Stream {
    fn new(socket: Socket, opened: Instant) -> Self {
        Self { socket, opened }
    }

    /// When the connection was established.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Whether an idle connection can be used for another request: the upstream has neither closed it nor sent bytes.
    ///
    /// The nonblocking read costs no system call while the reactor (epoll) has reported nothing. The reactor can be one poll
    /// of the event loop late. A request that cannot be repeated must not fail because of a stale connection, so with
    /// `ask_kernel` the kernel is asked in addition, by `recv` with `MSG_PEEK`.
    pub(crate) fn is_reusable(&mut self, ask_kernel: bool) -> bool {
        let mut byte = [0];
        let is_quiet = match &mut self.socket {
            Socket::Tcp(stream) => would_block(&stream.try_read(&mut byte)),
            Socket::Unix(stream) => would_block(&stream.try_read(&mut byte)),
            // Session tickets may still be unread on the socket. They are not part of a response, and the TLS stream
            // consumes them in this read.
            Socket::Tls(stream) => {
                let mut buffer = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(stream)
                    .poll_read(&mut cx, &mut buffer)
                    .is_pending()
            }
        };
        is_quiet && (!ask_kernel || would_block(&self.peek()))
    }

    fn peek(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit()];
        match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Socket::Tls(stream) => SockRef::from(stream.get_ref().0).peek(&mut byte),
            Socket::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        }
    }
}

fn would_block(read: &io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_socket!(self, socket => Pin::new(socket).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_socket!(self, socket => Pin::new(socket).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_socket!(self, socket => Pin::new(socket).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_socket!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::upstream::tests::settings;

    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn the_next_address_is_tried_if_one_refuses() {
        // Bound but not listening, so that no listener of another test gets the port.
        let unused = TcpSocket::new_v4().unwrap();
        unused.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = unused.local_addr().unwrap();
        let accepting = listener.local_addr().unwrap();
        let stream = connect_to_any(&[refusing, accepting], LONG).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), accepting);
        let error = connect_to_any(&[refusing, refusing], LONG).await.err();
        assert_eq!(error.unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let error = connect_to_any(&[], LONG).await.err();
        assert_eq!(error.unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_host_name_is_resolved() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = "localhost".to_owned();
        let endpoint = Endpoint::Tcp { host, port };
        let settings = settings(endpoint.clone()).each;
        assert!(open(&endpoint, &settings).await.is_ok());
    }
}
