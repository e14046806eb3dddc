//! Listening sockets and their accept loops.
//!
//! `server` binds a [`Listener`] for each address of `[listen]` and a [`UnixSocket`] for the admin socket. It runs the accept
//! loop of each until it sends an [`OnClose`]. A [`Listener`] is a TCP socket, or a Unix socket of `listen.behind_proxy`; an
//! upgrade hands both kinds over to the successor. This file does not know which protocol is served on a connection.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::net::addr::PeerAddr;
use crate::net::conn_limit::{Capacity, ConnectionLimit, ConnectionPermit};

/// One entry of `listen.https`, `listen.http`, `listen.behind_proxy` or `listen.admin`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// An address that the proxy binds.
    Address(SocketAddr),
    /// All sockets that systemd passes by this name (`FileDescriptorName=`).
    Named(String),
    /// A Unix socket at this path, which the proxy creates (`listen.behind_proxy` and `listen.admin`).
    Unix(PathBuf),
}

impl ListenAddr {
    /// The port, if the configuration names one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Address(address) => Some(address.port()),
            Self::Named(_) | Self::Unix(_) => None,
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
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The prefix of a [`ListenAddr::Named`] in the configuration.
pub const SYSTEMD: &str = "systemd:";
/// The prefix of a [`ListenAddr::Unix`] in the configuration.
pub const UNIX: &str = "unix:";

/// What an accept loop does with the backlog, the connections that the kernel has accepted and the loop has not, when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClose {
    /// Leaves the backlog, and the file of a Unix socket: another process has the same socket and accepts from it.
    Abandon,
    /// Accepts the backlog, because closing the socket would reset the connections in it. Removes the file of a Unix socket.
    DrainBacklog,
    /// Accepts the backlog, and leaves the file of a Unix socket: the successor in an upgrade has the same socket.
    HandOver,
}

/// A listening socket of the standard library.
#[derive(Debug)]
pub enum ListeningSocket {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

impl ListeningSocket {
    /// Duplicates the file descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(true),
            Self::Unix(socket) => socket.set_nonblocking(true),
        }
    }

    /// Accepts a connection that waits in the backlog.
    fn accept(&self) -> io::Result<(AcceptedStream, PeerAddr)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok((AcceptedStream::Tcp(stream), PeerAddr::new(address)))
            }
            Self::Unix(socket) => {
                let (stream, _unnamed) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok((AcceptedStream::Unix(stream), PeerAddr::UNIX_SOCKET))
            }
        }
    }
}

impl From<TcpListener> for ListeningSocket {
    fn from(socket: TcpListener) -> Self {
        Self::Tcp(socket)
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// An accepted connection that is not registered with a runtime.
#[derive(Debug)]
pub enum AcceptedStream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection to a Unix socket.
    Unix(StdUnixStream),
}

/// A listening socket that is registered with the runtime of the accept loop.
enum RegisteredSocket {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl RegisteredSocket {
    fn new(socket: ListeningSocket) -> io::Result<Self> {
        Ok(match socket {
            ListeningSocket::Tcp(socket) => Self::Tcp(tokio::net::TcpListener::from_std(socket)?),
            ListeningSocket::Unix(socket) => {
                Self::Unix(tokio::net::UnixListener::from_std(socket)?)
            }
        })
    }

    fn into_std(self) -> io::Result<ListeningSocket> {
        Ok(match self {
            Self::Tcp(socket) => ListeningSocket::Tcp(socket.into_std()?),
            Self::Unix(socket) => ListeningSocket::Unix(socket.into_std()?),
        })
    }

    /// Accepts a connection. The stream is deregistered from this runtime, because the runtime of a worker will poll it.
    async fn accept(&self) -> io::Result<(AcceptedStream, PeerAddr)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                let stream = AcceptedStream::Tcp(stream.into_std()?);
                Ok((stream, PeerAddr::new(address)))
            }
            Self::Unix(socket) => {
                let (stream, _unnamed) = socket.accept().await?;
                let stream = AcceptedStream::Unix(stream.into_std()?);
                Ok((stream, PeerAddr::UNIX_SOCKET))
            }
        }
    }
}

/// A bound and listening socket that is not registered with a runtime yet.
#[derive(Debug)]
pub struct Listener {
    socket: ListeningSocket,
    /// The file of a Unix socket.
    file: Option<SocketFile>,
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
            socket: ListeningSocket::Tcp(socket.into()),
            file: None,
        })
    }

    /// Binds a Unix socket under a temporary name, and listens. [`Self::publish`] puts it at `path`.
    ///
    /// # Errors
    /// As [`UnixSocket::bind`].
    pub fn bind_unix(path: &Path) -> io::Result<Self> {
        let (socket, file) = bind_unix_socket(path)?;
        Ok(Self {
            socket: ListeningSocket::Unix(socket),
            file: Some(file),
        })
    }

    /// Creates a listener from a socket that is listening already. `address` is the entry of the configuration that names it.
    pub fn inherit(socket: ListeningSocket, address: &ListenAddr) -> io::Result<Self> {
        socket.set_nonblocking()?;
        let file = match address {
            ListenAddr::Unix(path) => Some(SocketFile::inherited(path)),
            ListenAddr::Address(_) | ListenAddr::Named(_) => None,
        };
        Ok(Self { socket, file })
    }

    /// Duplicates the file descriptor, so that the socket can be handed over to another process.
    pub fn duplicate(&self) -> io::Result<ListeningSocket> {
        self.socket.try_clone()
    }

    /// The bound TCP address; `None` for a Unix socket. Its port is the one that the system chose if port 0 was configured.
    pub fn address(&self) -> io::Result<Option<SocketAddr>> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => socket.local_addr().map(Some),
            ListeningSocket::Unix(_) => Ok(None),
        }
    }

    /// Puts a Unix socket at its path. From then on, this process removes the file when it closes the socket.
    ///
    /// # Errors
    /// The file cannot be renamed.
    pub fn publish(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), SocketFile::publish)
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
        mut handle: impl FnMut(AcceptedStream, PeerAddr, ConnectionPermit),
    ) -> io::Result<()> {
        let Self { socket, mut file } = self;
        let socket = RegisteredSocket::new(socket)?;
        let on_close = tokio::select! {
            on_close = &mut stop => on_close,
            never = accept_each(&socket, &limit, &mut handle) => match never {},
        };
        if let Some(file) = &mut file
            && on_close != Ok(OnClose::DrainBacklog)
        {
            file.leave();
        }
        // The file goes first: a client that finds it after the backlog was accepted would be reset.
        drop(file);
        if let Ok(OnClose::DrainBacklog | OnClose::HandOver) = on_close {
            accept_backlog(&socket.into_std()?, &limit, &mut handle);
        }
        Ok(())
    }
}

async fn accept_each(
    socket: &RegisteredSocket,
    limit: &ConnectionLimit,
    handle: &mut impl FnMut(AcceptedStream, PeerAddr, ConnectionPermit),
) -> Infallible {
    let mut is_failing = false;
    loop {
        match socket.accept().await {
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                // Log the first error only, not four a second for as long as the shortage lasts.
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!(%error, "cannot accept connections; trying again until it works");
                }
                tokio::time::sleep(ACCEPT_RETRY_INTERVAL).await;
            }
            Ok((stream, peer)) => {
                if std::mem::take(&mut is_failing) {
                    tracing::info!("connections are accepted again");
                }
                let capacity = limit.acquire().await;
                pass_on(stream, peer, limit, capacity, handle);
            }
        }
    }
}

/// Accepts the connections in the backlog, up to the connection limit.
fn accept_backlog(
    socket: &ListeningSocket,
    limit: &ConnectionLimit,
    handle: &mut impl FnMut(AcceptedStream, PeerAddr, ConnectionPermit),
) {
    while let Some(capacity) = limit.try_acquire()
        && let Ok((stream, peer)) = socket.accept()
    {
        pass_on(stream, peer, limit, capacity, handle);
    }
}

/// Passes a connection on, or closes it if its client has too many.
fn pass_on(
    stream: AcceptedStream,
    peer: PeerAddr,
    limit: &ConnectionLimit,
    capacity: Capacity,
    handle: &mut impl FnMut(AcceptedStream, PeerAddr, ConnectionPermit),
) {
    match limit.count(capacity, peer.client()) {
        Some(permit) => handle(stream, peer, permit),
        None => tracing::debug!(%peer, "connection closed: too many connections of this client"),
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
        let (socket, file) = bind_unix_socket(path)?;
        Ok(Self {
            socket: Some(socket),
            file,
        })
    }

    /// Renames the socket to its path. The socket that was there gets no further connections.
    pub fn publish(&mut self) -> io::Result<()> {
        self.file.publish()
    }

    /// Accepts connections until `stop` resolves. Unless it is with [`OnClose::DrainBacklog`], or because the sender was dropped,
    /// the file stays: another process has replaced it or is about to.
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
        if let Ok(OnClose::Abandon | OnClose::HandOver) = on_close {
            self.file.leave();
        }
        // The file goes first: a client that finds it after the backlog was accepted would be reset.
        drop(self.file);
        if let Ok(OnClose::DrainBacklog | OnClose::HandOver) = on_close {
            let socket = socket.into_std()?;
            while let Some(capacity) = limit.try_acquire()
                && let Ok((stream, _peer)) = socket.accept()
            {
                stream.set_nonblocking(true)?;
                handle(UnixStream::from_std(stream)?, capacity);
            }
        }
        Ok(())
    }
}

/// Whether a process may be listening on the Unix socket at `path`. False only if the kernel says that none is: a socket of another
/// user, to which this process may not connect, counts as one with a listener.
pub(crate) fn may_have_unix_listener(path: &Path) -> bool {
    let connect = || -> io::Result<()> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // With a full backlog, connect(2) would block.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connect() {
        Ok(()) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        ),
    }
}

/// Whether a socket may be renamed to this path. A link to a socket counts as one, and so does a link to nothing: the rename
/// replaces the link itself.
fn is_free_for_socket(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            fs::metadata(path).map_or(true, |target| target.file_type().is_socket())
        }
        Ok(found) => found.file_type().is_socket(),
        Err(_) => true,
    }
}

fn bind_unix_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if !is_free_for_socket(path) {
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
    Ok((socket, file))
}

impl SocketFile {
    /// The file of a socket that this process inherited. Until [`Self::publish`], the process that bound the socket removes it.
    fn inherited(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            temporary: None,
            inode: NO_INODE,
        }
    }

    fn publish(&mut self) -> io::Result<()> {
        match self.temporary.take() {
            Some(temporary) => {
                let renamed = fs::rename(&temporary, &self.path);
                renamed.inspect_err(|_| self.temporary = Some(temporary))?;
            }
            None => self.inode = inode_id(&self.path).unwrap_or(NO_INODE),
        }
        Ok(())
    }

    /// Leaves the file where it is when the value is dropped.
    fn leave(&mut self) {
        self.inode = NO_INODE;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.temporary.as_ref().unwrap_or(&self.path);
        if inode_id(path).is_ok_and(|found| found == self.inode) {
            // Without the permission, the file stays, and `connect` to it fails with ECONNREFUSED.
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
