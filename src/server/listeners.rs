//! The listening sockets of a config, and how a reload changes them without touching the others.

use std::io;
use std::net::{TcpListener, TcpStream};

use tokio::sync::oneshot;

use super::admin_socket::AdminSocket;
use super::sockets::{Address, ListenerState, Scheme, Socket, bind_all, listener_specs};
use super::workers::Dispatcher;
use crate::admin::Admin;
use crate::config::Listen;
use crate::config::problem::Problems;
use crate::net::addr::PeerAddr;
use crate::net::conn_limit::{ConnectionLimit, ConnectionPermit};
use crate::net::listener::{Listener, OnClose};
use crate::server::InheritedSockets;

/// Sockets that are bound, and not served yet.
#[derive(Debug)]
pub(super) struct Bound {
    sockets: Vec<Socket>,
    file: AdminSocket,
    spare: InheritedSockets,
}

/// Sockets, and what serves their connections.
#[derive(Debug)]
pub(super) struct Listeners {
    sockets: Vec<Socket>,
    /// The admin listener, where it is a file.
    file: AdminSocket,
    /// Passed to the process, and named by no configuration yet.
    spare: InheritedSockets,
    slots: ConnectionLimit,
    dispatcher: Dispatcher,
    admin: Admin,
}

impl Listeners {
    /// Takes what is inherited and binds the rest, or reports each that cannot be.
    pub(super) fn bind(
        listen: &Listen,
        mut inherited: InheritedSockets,
        problems: &mut Problems,
    ) -> Option<Bound> {
        let file = AdminSocket::bind(&listen.admin, problems);
        let sockets = bind_all(
            &listener_specs(listen),
            &[],
            listen,
            &mut inherited,
            problems,
        )?;
        let file = file?;
        for name in inherited.names() {
            tracing::warn!(socket = %name, "a socket that was passed is named by no listener");
        }
        Some(Bound {
            sockets,
            file,
            spare: inherited,
        })
    }

    /// The addresses in use.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().map(|socket| socket.address).collect()
    }

    /// Every socket and the words that take it, for a successor.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(String, TcpListener)>> {
        let own = self
            .sockets
            .iter()
            .map(|socket| (socket.wanted.binding.to_string(), &socket.duplicate));
        let spare = self
            .spare
            .sockets()
            .iter()
            .map(|(words, socket)| (words.clone(), socket));
        own.chain(spare)
            .map(|(words, socket)| Ok((words, socket.try_clone()?)))
            .collect()
    }

    /// Starts accepting on every socket that does not yet; needs a runtime.
    pub(super) fn accept(&mut self) {
        self.file.accept(&self.admin);
        let (slots, dispatcher, admin) = (&self.slots, &self.dispatcher, &self.admin);
        for socket in &mut self.sockets {
            if !matches!(socket.state, ListenerState::Bound(_)) {
                continue;
            }
            let (stop, stopped) = oneshot::channel();
            let (ended, end) = oneshot::channel();
            let before =
                std::mem::replace(&mut socket.state, ListenerState::Accepting { stop, end });
            if let ListenerState::Bound(listener) = before {
                let accepting = match socket.wanted.scheme {
                    Scheme::Admin => Accepting::Admin(admin.clone()),
                    scheme => Accepting::Clients(slots.clone(), dispatcher.clone(), scheme),
                };
                tokio::spawn(async move {
                    accepting.run(listener, stopped).await;
                    // Nobody waits for it when a reload has closed the socket.
                    let _ = ended.send(());
                });
            }
        }
    }

    /// Adds what is new and closes what is gone; on any failure everything stays, and is reported.
    pub(super) fn change(&mut self, listen: &Listen, problems: &mut Problems) -> bool {
        let wanted = listener_specs(listen);
        let have: Vec<_> = self
            .sockets
            .iter()
            .map(|socket| socket.wanted.clone())
            .collect();
        let new: Vec<_> = wanted
            .iter()
            .filter(|wanted| !have.contains(wanted))
            .cloned()
            .collect();
        let Some(file) = self.file.changed(&listen.admin, problems) else {
            return false;
        };
        let Some(added) = bind_all(&new, &have, listen, &mut self.spare, problems) else {
            return false;
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition(|socket| wanted.contains(&socket.wanted));
        self.sockets = kept;
        self.sockets.extend(added);
        if let Some(file) = file {
            self.file = file;
        }
        for socket in gone {
            self.release(socket);
        }
        self.accept();
        true
    }

    /// An inherited socket is only laid aside: a later configuration may want it, and who waits in it is not refused.
    fn release(&mut self, socket: Socket) {
        let ending = socket.ending();
        socket.state.end(ending);
        if ending == OnClose::Abandon {
            let words = socket.wanted.binding.to_string();
            self.spare.add(words, socket.duplicate);
        }
    }

    /// Stops accepting, and returns when all that was accepted is with the workers. Who waits in a socket that only this
    /// process holds is accepted first. Whoever watches over the gate may do so to its end.
    pub(super) async fn close(&mut self) {
        let all = std::mem::take(&mut self.sockets).into_iter();
        let (admin, gone) = all.partition(|socket| socket.wanted.scheme == Scheme::Admin);
        self.sockets = admin;
        let gone: Vec<_> = gone;
        for socket in gone {
            let ending = socket.ending();
            socket.state.finish(ending).await;
        }
    }

    /// The same for a successor, who holds the sockets as well. Who waits is accepted first all the same: the successor's
    /// configuration may have left out the socket.
    pub(super) async fn hand_over(&mut self) {
        self.file.leave();
        for socket in std::mem::take(&mut self.sockets) {
            socket.state.finish(OnClose::DrainBacklog).await;
        }
    }
}

impl Bound {
    /// Adds what serves the connections.
    pub(super) fn with(
        self,
        slots: ConnectionLimit,
        dispatcher: Dispatcher,
        admin: Admin,
    ) -> Listeners {
        Listeners {
            sockets: self.sockets,
            file: self.file,
            spare: self.spare,
            slots,
            dispatcher,
            admin,
        }
    }
}

/// What becomes of the connections of a socket.
enum Accepting {
    Clients(ConnectionLimit, Dispatcher, Scheme),
    Admin(Admin),
}

impl Accepting {
    async fn run(self, listener: Listener, stop: oneshot::Receiver<OnClose>) {
        let accepted = match self {
            Self::Clients(slots, dispatcher, scheme) => {
                let handle = |stream: TcpStream, peer: PeerAddr, slot: ConnectionPermit| {
                    dispatcher.dispatch(stream, peer, slot, scheme);
                };
                listener.accept(slots, stop, handle).await
            }
            Self::Admin(admin) => {
                let handle = |stream: TcpStream, peer: PeerAddr, slot: ConnectionPermit| {
                    admin.serve_tcp(stream, peer, slot);
                };
                listener.accept(admin.slots(), stop, handle).await
            }
        };
        if let Err(error) = accepted {
            tracing::error!(%error, "a listener failed; restart the gate");
        }
    }
}
