//! The accept loops: one for each listening socket, and how a reload changes the set without touching the others.
//!
//! `server` binds all sockets at start, and starts the loops when it serves. A loop passes each connection to a worker, or to
//! `admin` for the admin listener. Binding itself is in `sockets`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::admin_link::AdminLink;
use super::pid_file;
use super::sockets::{
    Address, InheritedSockets, ListenerSpec, Scheme, Socket, bind_all, unix_bind_remedy,
};
use super::workers::Dispatcher;
use crate::admin::Admin;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Listen};
use crate::net::addr::PeerAddr;
use crate::net::conn_limit::{ConnectionLimit, ConnectionPermit};
use crate::net::listener::{
    AcceptedStream, ListenAddr, Listener, ListeningSocket, OnClose, SYSTEMD, UnixSocket,
};

/// The listening sockets of the configuration in use, and the consumers of their connections.
#[derive(Debug)]
pub(crate) struct Acceptors {
    sockets: Vec<Socket>,
    /// The admin listener, if it is a socket in the file system.
    admin_socket: AdminSocket,
    /// Inherited sockets that no listener of the configuration names.
    unclaimed: InheritedSockets,
    connection_limit: ConnectionLimit,
    dispatcher: Dispatcher,
    admin: Admin,
}

/// Sockets that are bound, before there are workers to serve their connections.
#[derive(Debug)]
pub(crate) struct BoundSockets {
    sockets: Vec<Socket>,
    admin_socket: AdminSocket,
    unclaimed: InheritedSockets,
}

impl BoundSockets {
    pub(crate) fn into_acceptors(
        self,
        connection_limit: ConnectionLimit,
        dispatcher: Dispatcher,
        admin: Admin,
    ) -> Acceptors {
        Acceptors {
            sockets: self.sockets,
            admin_socket: self.admin_socket,
            unclaimed: self.unclaimed,
            connection_limit,
            dispatcher,
            admin,
        }
    }
}

impl Acceptors {
    /// Binds every address of the configuration, or takes the inherited socket for it. `None` if an address cannot be bound;
    /// each one is reported.
    pub(crate) fn bind(
        config_file: &Path,
        listen: &Listen,
        mut inherited: InheritedSockets,
        problems: &mut Problems,
    ) -> Option<BoundSockets> {
        let admin_socket = AdminSocket::bind(&listen.admin, config_file, problems);
        let specs = ListenerSpec::all(listen);
        let sockets = bind_all(&specs, &[], listen, &mut inherited, problems)?;
        let admin_socket = admin_socket?;
        for name in inherited.names().filter(|name| name.starts_with(SYSTEMD)) {
            tracing::warn!(socket = %name, "no listener of the configuration names this inherited socket");
        }
        Some(BoundSockets {
            sockets,
            admin_socket,
            unclaimed: inherited,
        })
    }

    /// The TCP addresses on which the server listens.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().filter_map(Socket::address).collect()
    }

    /// All addresses on which the server listens, except an admin listener in the file system, for logs.
    pub(crate) fn descriptions(&self) -> Vec<String> {
        self.sockets.iter().map(Socket::description).collect()
    }

    /// A duplicate of every socket, with the configuration value that names it, for the successor in an upgrade.
    pub(crate) fn duplicates(&self) -> io::Result<Vec<(String, ListeningSocket)>> {
        let own = self.sockets.iter().map(Socket::named_duplicate);
        let unclaimed = self.unclaimed.iter();
        let unclaimed = unclaimed.map(|(name, socket)| Ok((name.clone(), socket.try_clone()?)));
        own.chain(unclaimed).collect()
    }

    /// Starts an accept loop for every socket that has none yet. Must be called within the main runtime.
    pub(crate) fn accept(&mut self) {
        self.unclaimed.close_all_but_systemd();
        self.admin_socket.accept(&self.admin);
        for socket in &mut self.sockets {
            let spec = socket.spec.clone();
            let Some((mut listener, stop, ended)) = socket.start_accepting() else {
                continue;
            };
            if let Err(error) = listener.publish() {
                tracing::error!(%error, "cannot create {}", spec.address);
            }
            let accept_loop = match spec.scheme {
                Scheme::Admin => AcceptLoop::Admin(self.admin.clone()),
                Scheme::Https | Scheme::Http | Scheme::BehindProxy => AcceptLoop::Clients {
                    limit: self.connection_limit.clone(),
                    dispatcher: self.dispatcher.clone(),
                    scheme: spec.scheme,
                    listener: Arc::new(spec.address),
                },
            };
            tokio::spawn(async move {
                accept_loop.run(listener, stop).await;
                // The receiver is dropped if a reload has removed the socket.
                let _ = ended.send(());
            });
        }
    }

    /// Binds and starts the listeners that are new in a configuration, and closes those that are gone. If an address cannot be
    /// bound, nothing changes, the problem is reported, and the result is `false`.
    pub(crate) fn reconfigure(
        &mut self,
        config_file: &Path,
        listen: &Listen,
        problems: &mut Problems,
    ) -> bool {
        let wanted = ListenerSpec::all(listen);
        let current: Vec<_> = self
            .sockets
            .iter()
            .map(|socket| socket.spec.clone())
            .collect();
        let added: Vec<_> = wanted
            .iter()
            .filter(|spec| !current.contains(spec))
            .cloned()
            .collect();
        let Some(admin_socket) = self
            .admin_socket
            .rebind(&listen.admin, config_file, problems)
        else {
            return false;
        };
        let Some(added) = bind_all(&added, &current, listen, &mut self.unclaimed, problems) else {
            return false;
        };
        let (kept, removed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition(|socket| wanted.contains(&socket.spec));
        self.sockets = kept;
        self.sockets.extend(added);
        if let Some(admin_socket) = admin_socket {
            self.admin_socket.replace(admin_socket);
        }
        for socket in removed {
            self.remove(socket);
        }
        self.accept();
        true
    }

    /// Ends the accept loop of a socket. An inherited socket stays open: a later configuration may name it again, and closing it
    /// would reset the connections in its backlog.
    fn remove(&mut self, socket: Socket) {
        let on_close = socket.on_close();
        socket.state.stop(on_close);
        if on_close == OnClose::Abandon {
            let name = socket.spec.address.to_string();
            self.unclaimed.add(name, socket.duplicate);
        }
    }

    /// Ends the accept loops for a shutdown, and returns when every accepted connection is with a worker. The backlog of a
    /// socket that belongs to this process alone is accepted first. The admin listener stays open until the process ends, so
    /// that the drain can be observed.
    pub(crate) async fn close(&mut self) {
        let (admin, clients): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition(|socket| socket.spec.scheme == Scheme::Admin);
        self.sockets = admin;
        for socket in clients {
            let on_close = socket.on_close();
            socket.state.finish(on_close).await;
        }
    }

    /// Ends the accept loops of the admin listener, and waits until every accepted connection has its response, for a second at
    /// most.
    pub(crate) async fn close_admin(&mut self) {
        self.admin_socket.finish(OnClose::DrainBacklog).await;
        for socket in std::mem::take(&mut self.sockets) {
            let on_close = socket.on_close();
            socket.state.finish(on_close).await;
        }
        self.admin.finish().await;
    }

    /// Ends the accept loops after an upgrade. The successor holds the sockets as well, but the backlog is accepted here first
    /// all the same, because the successor's configuration may not name a socket any more.
    pub(crate) async fn hand_over(&mut self) {
        self.admin_socket.finish(OnClose::HandOver).await;
        for socket in std::mem::take(&mut self.sockets) {
            socket.state.finish(OnClose::HandOver).await;
        }
    }
}

/// The consumer of a socket's connections.
enum AcceptLoop {
    Clients {
        limit: ConnectionLimit,
        dispatcher: Dispatcher,
        scheme: Scheme,
        listener: Arc<ListenAddr>,
    },
    Admin(Admin),
}

impl AcceptLoop {
    async fn run(self, socket: Listener, stop: oneshot::Receiver<OnClose>) {
        let ended = match self {
            Self::Clients {
                limit,
                dispatcher,
                scheme,
                listener,
            } => {
                let handle = |stream: AcceptedStream, peer: PeerAddr, permit: ConnectionPermit| {
                    dispatcher.dispatch(stream, peer, permit, (scheme, &listener));
                };
                socket.accept(limit, stop, handle).await
            }
            Self::Admin(admin) => {
                let handle = |stream: AcceptedStream, peer: PeerAddr, permit: ConnectionPermit| {
                    // A Unix socket of the admin listener is an `AdminSocket`, which has an accept loop of its own.
                    if let AcceptedStream::Tcp(stream) = stream {
                        admin.serve_tcp(stream, peer, permit);
                    }
                };
                socket.accept(admin.connection_limit(), stop, handle).await
            }
        };
        if let Err(error) = ended {
            tracing::error!(%error, "cannot accept on a listening socket; restart the proxy");
        }
    }
}

/// The admin listener in the file system: none, bound, or accepting. Dropping the value ends its accept loop and removes the
/// file.
#[derive(Debug, Default)]
struct AdminSocket {
    /// The path of the socket.
    path: Option<PathBuf>,
    /// A socket that listens, but is not yet published at its path.
    bound: Option<BoundAdminSocket>,
    /// `admin.sock`, if the socket is the default one, and the link belongs to this process.
    link: Option<AdminLink>,
    /// The accept loop, and the sender that ends it.
    accepting: Option<(oneshot::Sender<OnClose>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct BoundAdminSocket {
    socket: UnixSocket,
    path: PathBuf,
    /// Where to create the link to a default socket.
    link: Option<PathBuf>,
}

impl AdminSocket {
    /// Returns the path of the socket of a configuration, and the path of the link to it if it is the default socket.
    fn paths(admin: &config::Admin, config_file: &Path) -> Option<(PathBuf, Option<PathBuf>)> {
        let configured = admin.path()?;
        Some(match configured.parent() {
            Some(directory) if admin.is_default => (
                pid_file::default_admin_socket_in(directory, config_file),
                Some(configured.clone()),
            ),
            _ => (configured.clone(), None),
        })
    }

    /// Binds the socket that the configuration names, if it names one. `None` if that fails, which is reported.
    fn bind(admin: &config::Admin, config_file: &Path, problems: &mut Problems) -> Option<Self> {
        let Some((path, link)) = Self::paths(admin, config_file) else {
            return Some(Self::default());
        };
        match UnixSocket::bind(&path) {
            Ok(socket) => Some(Self {
                path: Some(path.clone()),
                bound: Some(BoundAdminSocket { socket, path, link }),
                ..Self::default()
            }),
            Err(error) => {
                let what = format!("cannot listen on unix:{}: {error}", path.display());
                if admin.is_default {
                    // The configuration does not ask for this socket, so the proxy serves without it.
                    problems.push(
                        Problem::warning(None, what)
                            .because("tidegate status, unblock and cut need it")
                            .fix(unix_bind_remedy(&path, &error)),
                    );
                    return Some(Self::default());
                }
                problems.push(Problem::error(None, what).fix(unix_bind_remedy(&path, &error)));
                None
            }
        }
    }

    /// Binds the socket of a new configuration. `Some(None)` if the path is the same, and `None` if binding failed, which is
    /// reported.
    fn rebind(
        &self,
        admin: &config::Admin,
        config_file: &Path,
        problems: &mut Problems,
    ) -> Option<Option<Self>> {
        let wanted = Self::paths(admin, config_file).map(|(path, _)| path);
        if self.path == wanted {
            return Some(None);
        }
        Self::bind(admin, config_file, problems).map(Some)
    }

    /// Puts `new` in the place of this socket, which stops accepting.
    fn replace(&mut self, new: Self) {
        let link = new.bound.as_ref().and_then(|bound| bound.link.as_ref());
        if let Some(path) = &self.path
            && link == Some(path)
        {
            // The link replaces the file of this socket, whose accept loop ends only later.
            let _ = std::fs::remove_file(path);
        }
        *self = new;
    }

    /// Publishes the socket at its path and starts the accept loop, unless that was done before. Must be called within the main
    /// runtime.
    fn accept(&mut self, admin: &Admin) {
        let Some(bound) = self.bound.take() else {
            return;
        };
        let BoundAdminSocket {
            mut socket,
            path,
            link,
        } = bound;
        if let Err(error) = socket.publish() {
            return tracing::error!(path = %path.display(), %error, "cannot create the admin socket");
        }
        self.link = link.and_then(|link| create_link(&link, &path));
        let shown = self.link.as_ref().map_or(&*path, AdminLink::path);
        tracing::info!("listening on unix:{} (admin)", shown.display());
        let (stop, stopped) = oneshot::channel();
        let admin = admin.clone();
        let task = tokio::spawn(async move {
            let handle = |stream, capacity| admin.serve_unix(stream, capacity);
            if let Err(error) = socket
                .accept(admin.connection_limit(), stopped, handle)
                .await
            {
                tracing::error!(path = %path.display(), %error, "cannot accept on the admin socket; restart the proxy");
            }
        });
        self.accepting = Some((stop, task));
    }

    /// Ends the accept loop, and returns when the connections in the backlog are accepted. After an upgrade, the link belongs
    /// to the successor; otherwise it is removed.
    async fn finish(&mut self, on_close: OnClose) {
        if let Some(link) = self.link.take()
            && on_close != OnClose::DrainBacklog
        {
            link.leave();
        }
        if let Some((stop, task)) = self.accepting.take() {
            // Sending fails if the accept loop has failed, which was logged.
            let _ = stop.send(on_close);
            // A panic of the task is logged by its hook.
            let _ = task.await;
        }
    }
}

/// Creates `admin.sock`. Without the link, the commands of tidegate still find the socket itself.
fn create_link(link: &Path, socket: &Path) -> Option<AdminLink> {
    match AdminLink::create(link, socket) {
        Ok(Some(created)) => return Some(created),
        Ok(None) => tracing::info!(
            "{} belongs to another process of this directory",
            link.display()
        ),
        Err(error) => tracing::warn!(%error, "cannot create {}", link.display()),
    }
    None
}
