//! Listening sockets, the accept loop, and the slots that bound how many connections are open.
//!
//! `server` binds a [`Listener`] for each address, a [`UnixSocket`] for a path, and runs [`Listener::accept`] until told to stop;
//! what is done with a connection is not known here.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use tokio::sync::oneshot;

use crate::net::addr::PeerAddr;

mod binding;
mod unix;

use crate::net::conn_limit::{ConnectionLimit, ConnectionPermit};
pub use binding::{ListenAddr, SYSTEMD};
pub use unix::UnixSocket;

/// How accepting ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClose {
    /// Who waits in the kernel is left there: somebody else holds the socket too.
    Leave,
    /// Who waits in the kernel is accepted first: with the socket he would be refused.
    Empty,
}

/// A bound and listening socket, not yet tied to a runtime.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
}

impl Listener {
    /// Binds `address`; `only_v6` keeps an IPv6 socket from taking the IPv4 port as well.
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

    /// Goes on with a socket that listens already.
    pub fn inherit(socket: TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// A second descriptor of the same socket, to be handed to a successor.
    pub fn duplicate(&self) -> io::Result<TcpListener> {
        self.socket.try_clone()
    }

    /// The address in use, with the port the system chose where 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until `stop` says how to end, or is gone; `handle` gets each connection with the slot that counts it.
    ///
    /// It neither dies nor spins: a connection that broke before it was accepted is skipped, and when
    /// descriptors or memory run out it pauses. With no slot free it holds the one it has accepted,
    /// and the others wait in the kernel's backlog. Fails only when the socket cannot be watched at all.
    pub async fn accept(
        self,
        slots: ConnectionLimit,
        mut stop: oneshot::Receiver<OnClose>,
        mut handle: impl FnMut(TcpStream, PeerAddr, ConnectionPermit),
    ) -> io::Result<()> {
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        let ending = tokio::select! {
            ending = &mut stop => ending,
            never = accept_all(&socket, &slots, &mut handle) => match never {},
        };
        if ending == Ok(OnClose::Empty) {
            accept_waiting(&socket.into_std()?, &slots, &mut handle);
        }
        Ok(())
    }
}

async fn accept_all(
    socket: &tokio::net::TcpListener,
    slots: &ConnectionLimit,
    handle: &mut impl FnMut(TcpStream, PeerAddr, ConnectionPermit),
) -> Infallible {
    let mut is_exhausted = false;
    loop {
        // Taken off this runtime again: a worker's will watch it.
        match socket
            .accept()
            .await
            .and_then(|(stream, address)| Ok((stream.into_std()?, address)))
        {
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Once, not four times a second for as long as it lasts.
                if !std::mem::replace(&mut is_exhausted, true) {
                    tracing::error!(%error, "cannot accept connections; trying again until it works");
                }
                tokio::time::sleep(EXHAUSTED).await;
            }
            Ok((stream, address)) => {
                if std::mem::take(&mut is_exhausted) {
                    tracing::info!("connections are accepted again");
                }
                let peer = PeerAddr::new(address);
                give(
                    stream,
                    peer,
                    slots.take(slots.room().await, peer.client()),
                    handle,
                );
            }
        }
    }
}

/// As far as there is room.
fn accept_waiting(
    socket: &TcpListener,
    slots: &ConnectionLimit,
    handle: &mut impl FnMut(TcpStream, PeerAddr, ConnectionPermit),
) {
    while let Some(room) = slots.try_acquire()
        && let Ok((stream, address)) = socket.accept()
    {
        let peer = PeerAddr::new(address);
        if stream.set_nonblocking(true).is_ok() {
            give(stream, peer, slots.take(room, peer.client()), handle);
        }
    }
}

fn give(
    stream: TcpStream,
    peer: PeerAddr,
    slot: Option<ConnectionPermit>,
    handle: &mut impl FnMut(TcpStream, PeerAddr, ConnectionPermit),
) {
    match slot {
        Some(slot) => handle(stream, peer, slot),
        None => tracing::debug!(%peer, "closed: too many connections of this client"),
    }
}

/// True when the next connection may well be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Connections that wait in the kernel while a reload or an upgrade runs.
const BACKLOG: i32 = 4096;
/// Long enough not to spin on EMFILE, short enough that relief is noticed at once.
const EXHAUSTED: Duration = Duration::from_millis(250);
