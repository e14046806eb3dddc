//! Where an upstream listens, and the way to get a stream to it.
//!
//! Called by `upstream` when no pooled connection can be used. It sends nothing: what goes over the
//! stream is the codec's business. A TLS upstream becomes one more variant of [`Stream`], made at the
//! end of [`open`] under the same deadline.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::Error;

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
    /// A socket in the file system.
    Unix(PathBuf),
}

impl Endpoint {
    /// What a URL of this endpoint has between scheme and path: `127.0.0.1:5000`, `[::1]:5000`. A unix
    /// socket has no authority; `localhost` is what servers behind one expect.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port } if bare(host).contains(':') => {
                format!("[{}]:{port}", bare(host))
            }
            Self::Tcp { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => f.write_str(&self.authority()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connected socket of either kind.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Connects to `endpoint`; `within` covers resolution and every address.
pub(super) async fn open(endpoint: &Endpoint, within: Duration) -> Result<Stream, Error> {
    match tokio::time::timeout(within, connect(endpoint)).await {
        Ok(Err(error)) if is_exhausted(&error) => Err(Error::Exhausted(error)),
        Ok(connected) => connected.map_err(Error::Connect),
        Err(_) => Err(Error::ConnectTimeout(within)),
    }
}

/// True when it is not the upstream's fault: the process or the system is out of descriptors.
fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    exhausted
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}

async fn connect(endpoint: &Endpoint) -> io::Result<Stream> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Endpoint::Tcp { host, port } => Ok(Stream::Tcp(dial(bare(host), *port).await?)),
    }
}

async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    dial_any(lookup_host((host, port)).await?).await
}

/// The addresses in the resolver's order; the last refusal is told.
async fn dial_any(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut refusal = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

impl Stream {
    /// True when an idle connection can be used again: the peer has neither closed it nor sent a byte
    /// that nobody asked for.
    ///
    /// What the reactor has seen so far costs no system call. It can be one turn of the loop behind, so
    /// a request that must not fail for a stale connection asks the kernel itself (`certain`).
    pub(super) fn is_quiet(&self, certain: bool) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
        };
        would_block(&read) && (!certain || would_block(&self.peek()))
    }

    fn peek(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit()];
        match self {
            Self::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Self::Unix(stream) => SockRef::from(stream).peek(&mut byte),
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
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (refusing, taking) = (gone.local_addr().unwrap(), here.local_addr().unwrap());
        drop(gone);
        let stream = dial_any([refusing, taking].into_iter()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), taking);
        let refusal = dial_any([refusing, refusing].into_iter()).await.err();
        assert_eq!(refusal.unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let nowhere = dial_any([].into_iter()).await.err();
        assert_eq!(nowhere.unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_name_is_resolved() {
        let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = here.local_addr().unwrap().port();
        let host = "localhost".to_owned();
        let opened = open(&Endpoint::Tcp { host, port }, Duration::from_secs(5)).await;
        assert!(matches!(opened, Ok(Stream::Tcp(_))));
    }
}
