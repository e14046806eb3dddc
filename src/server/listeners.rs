//! The listening sockets of a config, and how a reload changes them without touching the others.

use std::fmt;
use std::net::{SocketAddr, TcpStream};

use tokio::task::JoinHandle;

use super::workers::Dispatcher;
use crate::addr::PeerAddr;
use crate::config::Listen;
use crate::config::problem::{Problem, Problems};
use crate::listen::{Listener, Slot, Slots};

/// What is spoken on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// TLS.
    Https,
    /// Plain, for the redirect only.
    Http,
}

/// A socket in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// What is spoken there.
    pub scheme: Scheme,
    /// Where, with the port that the system chose.
    pub address: SocketAddr,
}

/// Sockets that are bound, and not served yet.
#[derive(Debug)]
pub(super) struct Bound(Vec<Socket>);

/// Sockets, and what serves their connections.
#[derive(Debug)]
pub(super) struct Listeners {
    sockets: Vec<Socket>,
    slots: Slots,
    dispatcher: Dispatcher,
}

#[derive(Debug)]
struct Socket {
    /// As written in the config: a reload compares these.
    wanted: Address,
    address: Address,
    state: State,
}

#[derive(Debug)]
enum State {
    Bound(Listener),
    Accepting(JoinHandle<()>),
    Closed,
}

impl Listeners {
    /// Binds every address, or reports each that cannot be.
    pub(super) fn bind(listen: &Listen, problems: &mut Problems) -> Option<Bound> {
        bind_all(&wanted(listen), &[], listen, problems).map(Bound)
    }

    /// The addresses in use.
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().map(|socket| socket.address).collect()
    }

    /// Starts accepting on every socket that does not yet; needs a runtime.
    pub(super) fn accept(&mut self) {
        for socket in &mut self.sockets {
            if let State::Bound(listener) = std::mem::replace(&mut socket.state, State::Closed) {
                let task = accept(
                    listener,
                    socket.wanted.scheme,
                    self.slots.clone(),
                    self.dispatcher.clone(),
                );
                socket.state = State::Accepting(tokio::spawn(task));
            }
        }
    }

    /// Adds what is new and closes what is gone; on any failure everything stays, and is reported.
    pub(super) fn change(&mut self, listen: &Listen, problems: &mut Problems) -> bool {
        let wanted = wanted(listen);
        let have: Vec<_> = self.sockets.iter().map(|socket| socket.wanted).collect();
        let new: Vec<_> = wanted
            .iter()
            .filter(|address| !have.contains(address))
            .copied()
            .collect();
        let Some(added) = bind_all(&new, &have, listen, problems) else {
            return false;
        };
        let (kept, gone) = std::mem::take(&mut self.sockets)
            .into_iter()
            .partition(|socket| wanted.contains(&socket.wanted));
        self.sockets = kept;
        self.sockets.extend(added);
        close(gone);
        self.accept();
        true
    }

    /// Stops accepting, and closes the sockets.
    pub(super) fn close(&mut self) {
        close(std::mem::take(&mut self.sockets));
    }
}

impl Bound {
    /// Adds what serves the connections.
    pub(super) fn with(self, slots: Slots, dispatcher: Dispatcher) -> Listeners {
        Listeners {
            sockets: self.0,
            slots,
            dispatcher,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Https => write!(f, "https://{}", self.address),
            Scheme::Http => write!(f, "http://{}", self.address),
        }
    }
}

async fn accept(listener: Listener, scheme: Scheme, slots: Slots, dispatcher: Dispatcher) {
    let handle = |stream: TcpStream, peer: PeerAddr, slot: Slot| {
        dispatcher.dispatch(stream, peer, slot, scheme)
    };
    if let Err(error) = listener.accept(slots, handle).await {
        tracing::error!(%error, "a listener failed; restart the gate");
    }
}

fn close(sockets: Vec<Socket>) {
    for socket in sockets {
        if let State::Accepting(task) = socket.state {
            task.abort();
        }
    }
}

fn wanted(listen: &Listen) -> Vec<Address> {
    let https = listen.https.iter().map(|address| Address {
        scheme: Scheme::Https,
        address: *address,
    });
    let http = listen.http.iter().map(|address| Address {
        scheme: Scheme::Http,
        address: *address,
    });
    https.chain(http).collect()
}

/// `own` are the addresses that the gate holds already.
fn bind_all(
    wanted: &[Address],
    own: &[Address],
    listen: &Listen,
    problems: &mut Problems,
) -> Option<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut complete = true;
    for address in wanted {
        match bind(*address, listen) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                complete = false;
                let what = format!("cannot listen on {}: {error}", address.address);
                if own
                    .iter()
                    .any(|held| held.address.port() == address.address.port())
                {
                    let problem = Problem::error(None, what)
                        .because("the gate itself holds this port under another address or scheme");
                    problems.push(problem.fix("restart the gate"));
                    continue;
                }
                problems.push(Problem::error(None, what).fix("see with ss -ltnp who uses the port; ports below 1024 need CAP_NET_BIND_SERVICE"));
            }
        }
    }
    complete.then_some(sockets)
}

/// `[::]:443` alone takes IPv4 as well; beside an IPv4 address with the same port it must not.
fn bind(wanted: Address, listen: &Listen) -> std::io::Result<Socket> {
    let mut all = listen.https.iter().chain(&listen.http);
    let only_v6 = all.any(|other| other.is_ipv4() && other.port() == wanted.address.port());
    let listener = Listener::bind(wanted.address, only_v6)?;
    let address = Address {
        scheme: wanted.scheme,
        address: listener.address()?,
    };
    Ok(Socket {
        wanted,
        address,
        state: State::Bound(listener),
    })
}
