//! Listening sockets and their accept loops.
//!
//! `server` binds a [`Listener`] for each address and a [`UnixSocket`] for the admin socket, and runs `accept`
//! until it sends an [`OnClose`]. What is served on an accepted connection is not known here.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::net::addr::PeerAddr;
use crate::net::conn_limit::{Capacity, ConnectionLimit, ConnectionPermit};

/// One entry of `listen.https`, `listen.http` or `listen.admin`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// An address that the proxy binds.
    Address(SocketAddr),
    /// All sockets that systemd passes by this name (`FileDescriptorName=`).
    Named(String),
}

impl ListenAddr {
    /// The port, if the configuration names one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Address(address) => Some(address.port()),
            Self::Named(_) => None,
        }
    }

    /// Whether the configuration names an IPv4 address.
    pub fn is_ipv4(&self) -> bool {
        matches!(self, Self::Address(address) if address.is_ipv4())
    }
}

/// Writes the address as it is in the configuration.
impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Named(name) => write!(f, "{SYSTEMD}{name}"),
        }
    }
}

/// The prefix of a [`ListenAddr::Named`] in the configuration.
pub const SYSTEMD: &str = "systemd:";

/// What an accept loop does when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClose {
    /// The backlog is left alone: another process shares the socket and will accept it.
    Abandon,
    /// The backlog is accepted first: closing the socket would reset the connections in it.
    DrainBacklog,
}

/// A bound and listening TCP socket that is not registered with a runtime yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
}

impl Listener {
    /// Binds `address` and listens. With `only_v6`, a socket on an IPv6 address does not take the IPv4 port as well.
    pub fn bind(address: SocketAddr, only_v6: bool) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self {
            socket: socket.into(),
        })
    }

    /// Uses a socket that is listening already.
    pub fn inherit(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// Duplicates the file descriptor, so that the socket can be handed over to another process.
    pub fn duplicate(&self) -> io::Result<TcpListener> {
        self.socket.try_clone()
    }

    /// The bound address. Its port is the one that the system chose if port 0 was configured.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts connections until `stop` resolves, and passes each to `handle` with the permit that counts it.
    ///
    /// No error of `accept(2)` ends the loop or makes it spin. A connection that failed before it was accepted is
    /// skipped; after EMFILE, ENFILE and errors like them the loop pauses. At the connection limit the loop keeps the one
    /// connection that it has accepted, and the others wait in the kernel's backlog.
    ///
    /// # Errors
    /// The socket cannot be registered with the runtime.
    pub async fn accept(
        self,
        limit: ConnectionLimit,
        mut stop: oneshot::Receiver<OnClose>,
        mut handle: impl FnMut(TcpStream, PeerAddr, ConnectionPermit),
    ) -> io::Result<()> {
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        let on_close = tokio::select! {
            on_close = &mut stop => on_close,
            never = accept_tcp(&socket, &limit, &mut handle) => match never {},
        };
        if on_close == Ok(OnClose::DrainBacklog) {
            accept_backlog(&socket.into_std()?, &limit, &mut handle);
        }
        Ok(())
    }
}

async fn accept_tcp(
    socket: &tokio::net::TcpListener,
    limit: &ConnectionLimit,
    handle: &mut impl FnMut(TcpStream, PeerAddr, ConnectionPermit),
) -> Infallible {
    let mut is_failing = false;
    loop {
        // The stream is deregistered from this runtime, because the runtime of a worker will poll it.
        match socket
            .accept()
            .await
            .and_then(|(stream, address)| Ok((stream.into_std()?, address)))
        {
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // Log the first error only, not four a second for as long as the shortage lasts.
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!(%error, "cannot accept connections; trying again until it works");
                }
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
            Ok((stream, address)) => {
                if std::mem::take(&mut is_failing) {
                    tracing::info!("connections are accepted again");
                }
                let peer = PeerAddr::new(address);
                let capacity = limit.acquire().await;
                admit(stream, peer, limit, capacity, handle);
            }
        }
    }
}

/// Accepts the connections in the backlog, up to the connection limit.
fn accept_backlog(
    socket: &TcpListener,
    limit: &ConnectionLimit,
    handle: &mut impl FnMut(TcpStream, PeerAddr, ConnectionPermit),
) {
    while let Some(capacity) = limit.try_acquire()
        && let Ok((stream, address)) = socket.accept()
    {
        if stream.set_nonblocking(true).is_ok() {
            admit(stream, PeerAddr::new(address), limit, capacity, handle);
        }
    }
}

/// Passes a connection on, or closes it if its client has too many.
fn admit(
    stream: TcpStream,
    peer: PeerAddr,
    limit: &ConnectionLimit,
    capacity: Capacity,
    handle: &mut impl FnMut(TcpStream, PeerAddr, ConnectionPermit),
) {
    match limit.admit(capacity, peer.client()) {
        Some(permit) => handle(stream, peer, permit),
        None => tracing::debug!(%peer, "closed the connection: the client has too many"),
    }
}

/// Whether an error of `accept(2)` concerns a single connection, so that the next one can be accepted immediately.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A listening unix socket. It is bound under a temporary name, and `publish` renames it to its path: a client that
/// connects during the rename reaches the old socket or the new one, never none.
///
/// The permissions of its directory and of its file (owner and group) decide which processes may connect. Dropping the
/// value removes the file, unless another process has replaced it meanwhile.
#[derive(Debug)]
pub struct UnixSocket {
    socket: Option<UnixListener>,
    file: SocketFile,
}

/// The file of a unix socket; removed when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// The temporary name, until the socket is published.
    temporary: Option<PathBuf>,
    /// Device and inode number of the file: another process may have replaced the file at the path since.
    inode: (u64, u64),
}

impl UnixSocket {
    /// Binds a socket under a temporary name in the directory of `path`, and listens.
    ///
    /// # Errors
    /// The path exists and is not a socket, or this process has no write permission for the directory.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the path exists and is not a socket",
            ));
        }
        let mut temporary = path.as_os_str().to_owned();
        // The suffix is short because the whole path must fit into `sun_path` (108 bytes).
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        // A process that was killed before it published its socket may have left a file of this name.
        let _ = fs::remove_file(&temporary);
        let socket = UnixListener::bind(&temporary)?;
        socket.set_nonblocking(true)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660))?;
        let file = SocketFile {
            path: path.to_owned(),
            inode: inode_id(&temporary)?,
            temporary: Some(temporary),
        };
        Ok(Self {
            socket: Some(socket),
            file,
        })
    }

    /// Renames the socket to its path. The socket that was there gets no further connections.
    pub fn publish(&mut self) -> io::Result<()> {
        if let Some(temporary) = &self.file.temporary {
            fs::rename(temporary, &self.file.path)?;
            self.file.temporary = None;
        }
        Ok(())
    }

    /// Accepts connections until `stop` resolves. With [`OnClose::Abandon`] the file stays, because another process has
    /// replaced it or is about to.
    ///
    /// # Errors
    /// The socket cannot be registered with the runtime.
    pub async fn accept(
        mut self,
        limit: ConnectionLimit,
        mut stop: oneshot::Receiver<OnClose>,
        mut handle: impl FnMut(UnixStream, Capacity),
    ) -> io::Result<()> {
        let Some(socket) = self.socket.take() else {
            return Ok(());
        };
        let socket = tokio::net::UnixListener::from_std(socket)?;
        let on_close = tokio::select! {
            on_close = &mut stop => on_close,
            never = accept_unix(&socket, &limit, &mut handle) => match never {},
        };
        if on_close == Ok(OnClose::Abandon) {
            self.file.inode = NO_INODE;
        }
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.temporary.as_ref().unwrap_or(&self.path);
        if inode_id(path).is_ok_and(|found| found == self.inode) {
            // If the process no longer has the permission, a file stays that refuses connections.
            let _ = fs::remove_file(path);
        }
    }
}

async fn accept_unix(
    socket: &tokio::net::UnixListener,
    limit: &ConnectionLimit,
    handle: &mut impl FnMut(UnixStream, Capacity),
) -> Infallible {
    loop {
        let capacity = limit.acquire().await;
        match socket.accept().await {
            Ok((stream, _unnamed)) => handle(stream, capacity),
            // Descriptors or memory are short. The TCP listeners log it.
            Err(_) => tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await,
        }
    }
}

fn inode_id(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Connections that the kernel keeps in the backlog while a reload or an upgrade runs.
const BACKLOG: i32 = 4096;
/// The pause after a failed `accept`: long enough not to spin on EMFILE, short enough that accepting goes on soon after
/// the shortage has ended.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// An inode id that no file has: inode numbers begin at 1.
const NO_INODE: (u64, u64) = (0, 0);

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::{MetadataExt, UnixSocket, fs};

    #[test]
    fn a_published_socket_replaces_another_and_removes_only_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin");
        let mut first = UnixSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_err());
        first.publish().unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        let mut second = UnixSocket::bind(&path).unwrap();
        UnixStream::connect(&path).expect("the first socket is still in place");
        second.publish().unwrap();
        drop(first);
        UnixStream::connect(&path)
            .expect("the first socket must not remove the file of the second");
        drop(second);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn an_unpublished_socket_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixSocket::bind(&dir.path().join("admin")).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_regular_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        fs::write(&path, "mine").unwrap();
        assert!(UnixSocket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
