//! The listening sockets: bound to an address of the configuration, or inherited from systemd or from the process that this
//! one succeeds; and the limit on open files.
//!
//! `acceptors` binds the sockets with [`bind_all`] and runs their accept loops. `cli` receives the [`InheritedSockets`].

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::Listen;
use crate::config::problem::{Problem, Problems};
use crate::htpasswd::shell_word;
use crate::net::listener::{ListenAddr, Listener, ListeningSocket, OnClose, SYSTEMD, UNIX};

/// The protocol of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP over TLS (`listen.https`).
    Https,
    /// Plain HTTP for redirects to https and for ACME challenges (`listen.http`).
    Http,
    /// Plain HTTP from proxies that terminate TLS (`listen.behind_proxy`).
    BehindProxy,
    /// Plain HTTP for metrics, health and the status page (`listen.admin`).
    Admin,
}

/// A TCP address on which the server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The protocol.
    pub scheme: Scheme,
    /// The address, with the port that the kernel chose if the configuration has port 0.
    pub address: SocketAddr,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Https => write!(f, "https://{}", self.address),
            Scheme::Http => write!(f, "http://{}", self.address),
            Scheme::BehindProxy => write!(f, "http://{} (behind a proxy)", self.address),
            Scheme::Admin => write!(f, "http://{} (admin)", self.address),
        }
    }
}

/// One listener of the configuration. A reload keeps the sockets whose spec is still in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerSpec {
    pub(crate) scheme: Scheme,
    pub(crate) address: ListenAddr,
}

impl ListenerSpec {
    /// All listeners of a configuration except an admin listener in the file system.
    pub(crate) fn all(listen: &Listen) -> Vec<Self> {
        let https = listen.https.iter().map(|address| (Scheme::Https, address));
        let http = listen.http.iter().map(|address| (Scheme::Http, address));
        let behind_proxy = listen.behind_proxy.iter();
        let behind_proxy = behind_proxy.map(|address| (Scheme::BehindProxy, address));
        let admin = listen.admin.binding().into_iter();
        let admin = admin.map(|address| (Scheme::Admin, address));
        https
            .chain(http)
            .chain(behind_proxy)
            .chain(admin)
            .map(|(scheme, address)| Self {
                scheme,
                address: address.clone(),
            })
            .collect()
    }
}

/// A listening socket of the configuration in use.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) spec: ListenerSpec,
    /// The TCP address; `None` for a Unix socket.
    address: Option<Address>,
    /// A second descriptor of the socket: for the successor in an upgrade, and to keep an inherited socket open.
    pub(crate) duplicate: ListeningSocket,
    pub(crate) state: ListenerState,
}

#[derive(Debug)]
pub(crate) enum ListenerState {
    Bound(Listener),
    Accepting {
        stop: oneshot::Sender<OnClose>,
        ended: oneshot::Receiver<()>,
    },
}

impl Socket {
    fn new(spec: &ListenerSpec, listener: Listener) -> io::Result<Self> {
        let scheme = spec.scheme;
        let address = listener.address()?;
        let address = address.map(|address| Address { scheme, address });
        Ok(Self {
            spec: spec.clone(),
            address,
            duplicate: listener.duplicate()?,
            state: ListenerState::Bound(listener),
        })
    }

    pub(crate) fn address(&self) -> Option<Address> {
        self.address
    }

    /// The address for logs and the status of the service.
    pub(crate) fn description(&self) -> String {
        match self.address {
            Some(address) => address.to_string(),
            None => format!("{} (behind a proxy)", self.spec.address),
        }
    }

    /// A duplicate for the successor in an upgrade, with the configuration value that names the socket.
    pub(crate) fn named_duplicate(&self) -> io::Result<(String, ListeningSocket)> {
        Ok((self.spec.address.to_string(), self.duplicate.try_clone()?))
    }

    /// Takes the listener, the stop signal and the sender for its end out for an accept loop. `None` if there is a loop already.
    pub(crate) fn start_accepting(
        &mut self,
    ) -> Option<(Listener, oneshot::Receiver<OnClose>, oneshot::Sender<()>)> {
        if !matches!(self.state, ListenerState::Bound(_)) {
            return None;
        }
        let (stop, stopped) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let accepting = ListenerState::Accepting { stop, ended };
        match std::mem::replace(&mut self.state, accepting) {
            ListenerState::Bound(listener) => Some((listener, stopped, ended_sender)),
            ListenerState::Accepting { .. } => None,
        }
    }

    /// What to do with the backlog when the socket is closed: another process holds an inherited socket as well, so its backlog
    /// stays. A socket of this process alone takes its backlog with it, so the backlog is accepted first.
    pub(crate) fn on_close(&self) -> OnClose {
        match self.spec.address {
            ListenAddr::Address(_) | ListenAddr::Unix(_) => OnClose::DrainBacklog,
            ListenAddr::Named(_) => OnClose::Abandon,
        }
    }
}

impl ListenerState {
    /// Ends the accept loop. The result resolves when the loop has ended; it is `None` if there is no loop.
    pub(crate) fn stop(self, on_close: OnClose) -> Option<oneshot::Receiver<()>> {
        let Self::Accepting { stop, ended } = self else {
            return None;
        };
        // Sending fails if the accept loop has failed, which was logged.
        let _ = stop.send(on_close);
        Some(ended)
    }

    /// Ends the accept loop, and waits for its end: a connection that is passed to a worker after that has drained would be
    /// lost.
    pub(crate) async fn finish(self, on_close: OnClose) {
        if let Some(ended) = self.stop(on_close) {
            // Neither an accept loop that is blocked nor one that has failed may block the shutdown.
            let _ = timeout(LAST_ACCEPTS_TIMEOUT, ended).await;
        }
    }
}

/// Binds all sockets of `specs`, or takes the inherited ones. `current` are the listeners that the server has already. `None` if
/// one cannot be bound; each one is reported, and the inherited sockets stay available to the next configuration.
pub(crate) fn bind_all(
    specs: &[ListenerSpec],
    current: &[ListenerSpec],
    listen: &Listen,
    inherited: &mut InheritedSockets,
    problems: &mut Problems,
) -> Option<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut is_complete = true;
    for spec in specs {
        match bind(spec, listen, inherited) {
            Ok(bound) => sockets.extend(bound),
            Err(error) => {
                is_complete = false;
                problems.push(bind_error(spec, &error, current, inherited));
            }
        }
    }
    if !is_complete {
        for socket in sockets {
            if let ListenAddr::Named(_) = socket.spec.address {
                inherited.add(socket.spec.address.to_string(), socket.duplicate);
            }
        }
        return None;
    }
    Some(sockets)
}

/// `[::]:443` alone also accepts IPv4. If an IPv4 address with the same port is configured as well, it must not.
fn bind(
    spec: &ListenerSpec,
    listen: &Listen,
    inherited: &mut InheritedSockets,
) -> io::Result<Vec<Socket>> {
    let claimed = inherited.take(&spec.address);
    if !claimed.is_empty() {
        let sockets = claimed
            .into_iter()
            .map(|socket| Socket::new(spec, Listener::inherit(socket, &spec.address)?));
        return sockets.collect();
    }
    let address = match &spec.address {
        ListenAddr::Address(address) => *address,
        ListenAddr::Unix(path) => return Ok(vec![Socket::new(spec, Listener::bind_unix(path)?)?]),
        ListenAddr::Named(_) => {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "there is no such socket",
            ));
        }
    };
    let only_v6 = listen
        .bindings()
        .any(|other| other.is_ipv4() && other.port() == Some(address.port()));
    let listener = Listener::bind(address, only_v6)?;
    Ok(vec![Socket::new(spec, listener)?])
}

fn bind_error(
    spec: &ListenerSpec,
    error: &io::Error,
    current: &[ListenerSpec],
    inherited: &InheritedSockets,
) -> Problem {
    let what = format!("cannot listen on {}: {error}", spec.address);
    let problem = Problem::error(None, what);
    let address = match &spec.address {
        ListenAddr::Address(address) => *address,
        ListenAddr::Unix(path) => return problem.fix(unix_bind_remedy(path, error)),
        ListenAddr::Named(_) if current.iter().any(|own| own.address == spec.address) => {
            return problem
                .because("the proxy uses this socket with another scheme")
                .fix("restart the proxy");
        }
        ListenAddr::Named(_) => {
            let names: Vec<_> = inherited.names().collect();
            let reason = match names.as_slice() {
                [] => "no socket was passed that is not in use".to_owned(),
                names => format!("passed were {}", names.join(", ")),
            };
            return problem
                .because(reason)
                .fix("start the socket unit first, as in systemctl start tidegate.socket, and name the socket there with FileDescriptorName=");
        }
    };
    let port = Some(address.port());
    if is_in_use(error) && current.iter().any(|own| own.address.port() == port) {
        return problem
            .because("the proxy itself listens on this port with another address or scheme")
            .fix("restart the proxy");
    }
    problem.fix(bind_remedy(address, error))
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// The remedy for an address that cannot be bound, by the error of socket(2), bind(2) or listen(2).
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

/// The remedy for a path at which no Unix socket can be created, by the kind of error.
pub(crate) fn unix_bind_remedy(path: &Path, error: &io::Error) -> String {
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "mkdir -p {}, and let the proxy's user write there, or set RuntimeDirectory= in the unit",
            shell_word(&dir.to_string_lossy())
        ),
        io::ErrorKind::PermissionDenied => format!(
            "let the proxy's user write to {}, or name a path in $RUNTIME_DIRECTORY of the service",
            dir.display()
        ),
        io::ErrorKind::AlreadyExists => "name another path, or remove the file".to_owned(),
        _ => {
            "name a path in a directory where the proxy's user can create files, such as one in /run"
                .to_owned()
        }
    }
}

fn unspecified(address: SocketAddr) -> IpAddr {
    match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Listening sockets that the process inherited: from systemd, or from the process that this one succeeds. A listener of the
/// configuration takes its socket by the value that names it. A socket of systemd that no listener takes stays open, so that
/// connections wait in its backlog until a reload or a successor takes it.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// Each socket with the configuration value that names it.
    sockets: Vec<(String, ListeningSocket)>,
}

impl InheritedSockets {
    /// Takes the sockets that systemd passed to this process (sd_listen_fds(3)).
    ///
    /// # Errors
    /// A descriptor is not a listening TCP socket.
    pub fn from_env() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        // Without LISTEN_PID the descriptors may be meant for another process.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(Self::default());
        }
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        let mut names = names.split(':');
        for index in 0..passed.len() {
            let name = names.next().filter(|name| !name.is_empty());
            let name = name.unwrap_or("unknown");
            let taken = passed.take_tcp_listener(index).map_err(|error| {
                let what = format!(
                    "{name}: {error}; write ListenStream= with a port in its socket unit, since tidegate takes TCP sockets only"
                );
                io::Error::new(error.kind(), what)
            });
            if let Some(socket) = taken? {
                inherited.add(format!("{SYSTEMD}{name}"), socket);
            }
        }
        Ok(inherited)
    }

    /// Adds a socket under the configuration value that names it.
    pub fn add(&mut self, name: String, socket: impl Into<ListeningSocket>) {
        self.sockets.push((name, socket.into()));
    }

    /// Removes and returns the sockets that a listener of the configuration means: at most one with an address, and all with a
    /// name, because a socket unit can pass several sockets under one name.
    pub fn take(&mut self, address: &ListenAddr) -> Vec<ListeningSocket> {
        let wanted = address.to_string();
        let limit = match address {
            ListenAddr::Address(_) | ListenAddr::Unix(_) => 1,
            ListenAddr::Named(_) => usize::MAX,
        };
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for (name, socket) in self.sockets.drain(..) {
            if name == wanted && taken.len() < limit {
                taken.push(socket);
            } else {
                left.push((name, socket));
            }
        }
        self.sockets = left;
        taken
    }

    /// Closes the sockets that were bound by the process before this one, and removes the files of Unix sockets. Called when this
    /// process serves: until then, the other process may have to continue with them. A port that stayed open would make clients
    /// wait, since no accept loop takes their connections.
    pub(crate) fn close_all_but_systemd(&mut self) {
        self.sockets.retain(|(name, _)| {
            let is_kept = name.starts_with(SYSTEMD);
            if !is_kept {
                tracing::info!("closed {name}, which the configuration does not name any more");
            }
            if let Some(path) = name.strip_prefix(UNIX) {
                remove_socket_file(Path::new(path));
            }
            is_kept
        });
    }

    /// The configuration values that name the sockets.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(|(name, _)| name.as_str())
    }

    /// Each socket with the configuration value that names it.
    pub fn iter(&self) -> impl Iterator<Item = &(String, ListeningSocket)> {
        self.sockets.iter()
    }
}

/// If the file stays, `connect` to it fails with ECONNREFUSED.
fn remove_socket_file(path: &Path) {
    let is_socket = |found: fs::Metadata| found.file_type().is_socket();
    if fs::symlink_metadata(path).is_ok_and(is_socket) {
        let _ = fs::remove_file(path);
    }
}

/// Raises the soft limit on open files (RLIMIT_NOFILE) to the hard limit, if the system permits it, and returns the limit in
/// force. A proxied request needs two descriptors.
pub(crate) fn raise_descriptor_limit() -> usize {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => before.maximum,
        Err(_) => before.current,
    };
    // `None` is RLIM_INFINITY.
    current
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

/// The time to accept the backlog of a socket. Accepting a full backlog takes milliseconds.
const LAST_ACCEPTS_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_name_takes_all_its_sockets_and_an_address_one() {
        let mut inherited = InheritedSockets::default();
        for name in ["systemd:a", "127.0.0.1:0", "systemd:a", "127.0.0.1:0"] {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            inherited.add(name.to_owned(), socket);
        }
        let address = ListenAddr::Address("127.0.0.1:0".parse().unwrap());
        assert_eq!(inherited.take(&ListenAddr::Named("b".to_owned())).len(), 0);
        assert_eq!(inherited.take(&ListenAddr::Named("a".to_owned())).len(), 2);
        assert_eq!(inherited.take(&address).len(), 1);
        assert_eq!(inherited.names().collect::<Vec<_>>(), ["127.0.0.1:0"]);
    }

    #[test]
    fn only_an_address_in_use_is_left_to_a_restart() {
        let spec = |address: ListenAddr| ListenerSpec {
            scheme: Scheme::Https,
            address,
        };
        let tcp = |address: &str| spec(ListenAddr::Address(address.parse().unwrap()));
        let current = [tcp("[::]:443"), spec(ListenAddr::Named("web".to_owned()))];
        let is_restart = |wanted: &ListenerSpec, errno: Errno| {
            let inherited = InheritedSockets::default();
            let problem = bind_error(wanted, &io::Error::from(errno), &current, &inherited);
            problem.remedy.unwrap() == "restart the proxy"
        };
        let wanted = tcp("192.0.2.1:443");
        assert!(is_restart(&wanted, Errno::ADDRINUSE));
        // A restart would fail for the same reason, and the proxy would not serve any more.
        for errno in [Errno::ADDRNOTAVAIL, Errno::ACCESS, Errno::MFILE] {
            assert!(!is_restart(&wanted, errno), "{errno}");
        }
        assert!(!is_restart(&tcp("[::]:444"), Errno::ADDRINUSE));
        let named = |name: &str| ListenerSpec {
            scheme: Scheme::Http,
            address: ListenAddr::Named(name.to_owned()),
        };
        assert!(is_restart(&named("web"), Errno::NOENT));
        assert!(!is_restart(&named("other"), Errno::NOENT));
    }

    #[test]
    fn each_bind_error_has_the_remedy_for_its_cause_and_no_other() {
        let remedy = |address: &str, errno: Errno| {
            let spec = ListenerSpec {
                scheme: Scheme::Https,
                address: ListenAddr::Address(address.parse().unwrap()),
            };
            let error = io::Error::from(errno);
            let problem = bind_error(&spec, &error, &[], &InheritedSockets::default());
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
        for (address, errno, expected) in cases {
            let remedy = remedy(address, errno);
            assert!(remedy.contains(expected), "{expected} in {remedy}");
            for (_, other_errno, other) in cases {
                assert!(
                    other_errno == errno || !remedy.contains(other),
                    "{other} in {remedy}"
                );
            }
        }
    }
}
