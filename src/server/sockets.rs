//! One listening socket of the configuration: bound or inherited, and how it ends.
//!
//! Called by `listeners`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::Listen;
use crate::config::problem::{Problem, Problems};
use crate::net::listener::{ListenAddr, Listener, OnClose};
use crate::server::InheritedSockets;

/// What is spoken on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// TLS.
    Https,
    /// Plain, for the redirect only.
    Http,
    /// Plain, for whoever watches over the gate.
    Admin,
}

/// A socket in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// What is spoken there.
    pub scheme: Scheme,
    /// Where, with the port that the system chose.
    pub address: SocketAddr,
}

/// One entry of the configuration: a reload compares these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListenerSpec {
    pub(super) scheme: Scheme,
    pub(super) binding: ListenAddr,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) wanted: ListenerSpec,
    pub(super) address: Address,
    /// The same socket once more: what a successor gets, and what stays of an inherited one.
    pub(super) duplicate: TcpListener,
    pub(super) state: ListenerState,
}

#[derive(Debug)]
pub(super) enum ListenerState {
    Bound(Listener),
    Accepting {
        stop: oneshot::Sender<OnClose>,
        end: oneshot::Receiver<()>,
    },
}

impl Socket {
    fn new(wanted: &ListenerSpec, listener: Listener) -> io::Result<Self> {
        let address = Address {
            scheme: wanted.scheme,
            address: listener.address()?,
        };
        Ok(Self {
            wanted: wanted.clone(),
            address,
            duplicate: listener.duplicate()?,
            state: ListenerState::Bound(listener),
        })
    }

    pub(super) fn ending(&self) -> OnClose {
        match self.wanted.binding {
            ListenAddr::Address(_) => OnClose::DrainBacklog,
            ListenAddr::Named(_) => OnClose::Abandon,
        }
    }
}

impl ListenerState {
    pub(super) fn end(self, ending: OnClose) -> Option<oneshot::Receiver<()>> {
        let Self::Accepting { stop, end } = self else {
            return None;
        };
        // A listener that failed has said so, and is gone.
        let _ = stop.send(ending);
        Some(end)
    }

    /// Ends, and waits for it: a connection that is handed to a worker which drains would be lost.
    pub(super) async fn finish(self, ending: OnClose) {
        if let Some(end) = self.end(ending) {
            // Only a listener that is stuck needs the limit, and one that failed has no end to tell.
            let _ = timeout(LAST_ONES, end).await;
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Https => write!(f, "https://{}", self.address),
            Scheme::Http => write!(f, "http://{}", self.address),
            Scheme::Admin => write!(f, "http://{} (admin)", self.address),
        }
    }
}

pub(super) fn listener_specs(listen: &Listen) -> Vec<ListenerSpec> {
    let all = |scheme, bindings: &[ListenAddr]| -> Vec<ListenerSpec> {
        bindings
            .iter()
            .map(|binding| ListenerSpec {
                scheme,
                binding: binding.clone(),
            })
            .collect()
    };
    let mut wanted = all(Scheme::Https, &listen.https);
    wanted.extend(all(Scheme::Http, &listen.http));
    wanted.extend(all(
        Scheme::Admin,
        listen.admin.binding().cloned().as_slice(),
    ));
    wanted
}

/// `own` is what the gate holds already.
pub(super) fn bind_all(
    wanted: &[ListenerSpec],
    own: &[ListenerSpec],
    listen: &Listen,
    inherited: &mut InheritedSockets,
    problems: &mut Problems,
) -> Option<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut complete = true;
    for wanted in wanted {
        match bind(wanted, listen, inherited) {
            Ok(bound) => sockets.extend(bound),
            Err(error) => {
                complete = false;
                problems.push(bind_error(wanted, &error, own, inherited));
            }
        }
    }
    if !complete {
        // What was passed to the process is still there for the next configuration.
        for socket in sockets {
            if let ListenAddr::Named(_) = socket.wanted.binding {
                inherited.add(socket.wanted.binding.to_string(), socket.duplicate);
            }
        }
        return None;
    }
    Some(sockets)
}

fn bind_error(
    wanted: &ListenerSpec,
    error: &io::Error,
    own: &[ListenerSpec],
    inherited: &InheritedSockets,
) -> Problem {
    let problem = Problem::error(
        None,
        format!("cannot listen on {}: {error}", wanted.binding),
    );
    if let ListenAddr::Named(_) = wanted.binding {
        let names: Vec<_> = inherited.names().collect();
        let passed = match names.as_slice() {
            [] => "none that is free was passed".to_owned(),
            names => format!("passed were {}", names.join(", ")),
        };
        return problem
            .because(passed)
            .fix("name it with FileDescriptorName= in a socket unit of this service");
    }
    let port = wanted.binding.port();
    if own.iter().any(|held| held.binding.port() == port) {
        return problem
            .because("the gate itself holds this port under another address or scheme")
            .fix("restart the gate");
    }
    match wanted.binding {
        ListenAddr::Address(address) => problem.fix(bind_remedy(address, error)),
        ListenAddr::Named(_) => problem,
    }
}

/// What to do about an address that cannot be bound, by the error of socket(2), bind(2) or listen(2).
fn bind_remedy(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => format!(
            "stop the program that uses port {port} (ss -ltnp 'sport = :{port}' shows it), or write another port"
        ),
        Some(Errno::ACCESS | Errno::PERM) => format!(
            "start the proxy with the capability CAP_NET_BIND_SERVICE, as examples/tidegate.service does, since port {port} \
             is below net.ipv4.ip_unprivileged_port_start; or write a port that is not"
        ),
        Some(Errno::ADDRNOTAVAIL) => format!(
            "write an address of this machine (ip address shows them), or \"{}\" for all of them",
            SocketAddr::new(unspecified(address), port)
        ),
        Some(Errno::AFNOSUPPORT) if address.is_ipv6() => {
            let ipv4 = if address.ip().is_loopback() {
                IpAddr::from(Ipv4Addr::LOCALHOST)
            } else {
                IpAddr::from(Ipv4Addr::UNSPECIFIED)
            };
            format!(
                "write \"{}\", since the kernel has no IPv6 here (or the unit's RestrictAddressFamilies= forbids it)",
                SocketAddr::new(ipv4, port)
            )
        }
        Some(Errno::MFILE | Errno::NFILE) => {
            "allow the process more open files (LimitNOFILE= in the unit, ulimit -n)".to_owned()
        }
        _ => "write another address or port".to_owned(),
    }
}

fn unspecified(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// `[::]:443` alone takes IPv4 as well; beside an IPv4 address with the same port it must not.
fn bind(
    wanted: &ListenerSpec,
    listen: &Listen,
    inherited: &mut InheritedSockets,
) -> io::Result<Vec<Socket>> {
    let passed = inherited.take(&wanted.binding);
    if !passed.is_empty() {
        let sockets = passed
            .into_iter()
            .map(|socket| Socket::new(wanted, Listener::inherit(socket)?));
        return sockets.collect();
    }
    let ListenAddr::Address(address) = wanted.binding else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "there is no such socket",
        ));
    };
    let only_v6 = listen
        .bindings()
        .any(|other| other.is_ipv4() && other.port() == Some(address.port()));
    let listener = Listener::bind(address, only_v6)?;
    Ok(vec![Socket::new(wanted, listener)?])
}

/// Accepting what waits takes no time to speak of.
const LAST_ONES: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Each error of binding an address has a remedy of its own.
    #[test]
    fn an_address_that_cannot_be_bound_has_one_remedy_for_its_cause() {
        let said = |address: &str, errno: Errno| {
            let wanted = ListenerSpec {
                scheme: Scheme::Https,
                binding: ListenAddr::Address(address.parse().unwrap()),
            };
            let error = io::Error::from(errno);
            let problem = bind_error(&wanted, &error, &[], &InheritedSockets::default());
            problem.remedy.unwrap()
        };
        let cases = [
            (
                "[::]:443",
                Errno::ADDRINUSE,
                "stop the program that uses port 443",
            ),
            ("0.0.0.0:443", Errno::ACCESS, "CAP_NET_BIND_SERVICE"),
            (
                "192.0.2.1:443",
                Errno::ADDRNOTAVAIL,
                "\"0.0.0.0:443\" for all",
            ),
            (
                "[2001:db8::1]:443",
                Errno::ADDRNOTAVAIL,
                "\"[::]:443\" for all",
            ),
            ("[::]:443", Errno::AFNOSUPPORT, "write \"0.0.0.0:443\""),
            ("[::1]:443", Errno::AFNOSUPPORT, "write \"127.0.0.1:443\""),
            ("[::]:443", Errno::MFILE, "LimitNOFILE="),
        ];
        for (address, errno, words) in cases {
            let remedy = said(address, errno);
            assert!(remedy.contains(words), "{words} in {remedy}");
            for (_, other, foreign) in cases {
                assert!(
                    other == errno || !remedy.contains(foreign),
                    "{foreign} in {remedy}"
                );
            }
        }
    }
}
