//! `[listen]`: the addresses that the proxy listens on, the admin listener, and the peers that the proxy trusts.
//!
//! Called by `build`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::address::{AdminSocket, resolve, resolve_address};
use super::document::Spanned;
use super::form::{AnyKey, Items, Key, List};
use super::keys::{self, listen};
use super::problem::Problem;
use super::table::Table;
use super::value::write;
use crate::net::cidr::{Cidr, Networks};
use crate::net::host::Host;
use crate::net::listener::ListenAddr;

/// The addresses and threads of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The addresses for TLS. At least one, unless `behind_proxy` has addresses.
    pub https: Vec<ListenAddr>,
    /// The addresses for plain HTTP, which redirect to https.
    pub http: Vec<ListenAddr>,
    /// The addresses for plain HTTP from trusted proxies that terminate TLS.
    pub behind_proxy: Vec<ListenAddr>,
    /// The admin listener.
    pub admin: Admin,
    /// The port in the https URLs that clients use; `None` if it is the port of the first address for TLS.
    pub public_port: Option<u16>,
    /// The number of threads that serve connections.
    pub workers: usize,
    /// The peers whose connections begin with a PROXY header.
    pub proxy_protocol: Networks,
    /// The peers whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Networks,
}

impl Listen {
    /// All TCP addresses, including that of the admin listener.
    pub fn bindings(&self) -> impl Iterator<Item = &ListenAddr> {
        let all = self.https.iter().chain(&self.http);
        all.chain(&self.behind_proxy).chain(self.admin.binding())
    }

    /// The addresses on which sites can be served: all but the admin listener.
    pub fn of_sites(&self) -> impl Iterator<Item = &ListenAddr> {
        let all = self.https.iter().chain(&self.http);
        all.chain(&self.behind_proxy)
    }
}

/// The listener for health, readiness, metrics and the status page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// The address; `None` if there is no admin listener.
    pub socket: Option<AdminSocket>,
    /// Whether the configuration has no `listen.admin`. The process then creates a Unix socket beside its pid file, and the link
    /// `admin.sock` to it in the same directory.
    pub is_default: bool,
    /// The networks that may use the listener, in addition to this machine.
    pub allow: Networks,
    /// The names that `Host` may have, in addition to `localhost` and the hosts of the sites; in lower case.
    pub hosts: Vec<String>,
}

impl Admin {
    /// The TCP address of the listener.
    pub fn binding(&self) -> Option<&ListenAddr> {
        match &self.socket {
            Some(AdminSocket::Tcp(address)) => Some(address),
            _ => None,
        }
    }

    /// The path of the listener's Unix socket.
    pub fn path(&self) -> Option<&PathBuf> {
        match &self.socket {
            Some(AdminSocket::Unix(path)) => Some(path),
            _ => None,
        }
    }
}

/// Reads the table, which is required.
pub(crate) fn read(root: &Table<'_>) -> Option<Listen> {
    root.require(&keys::LISTEN, "[listen] with https = [\"[::]:443\"]");
    let table = root.table(&keys::LISTEN)?;
    let https = addresses(&table, &listen::HTTPS);
    let http = addresses(&table, &listen::HTTP);
    let behind_proxy = addresses(&table, &listen::BEHIND_PROXY);
    if table.place_of(&listen::BEHIND_PROXY).is_none() {
        table.require(
            &listen::HTTPS,
            "https = [\"[::]:443\"], or behind_proxy = [\"unix:/run/tidegate/http.sock\"] behind a proxy that terminates TLS",
        );
    }
    let admin = admin(&table);
    let admin_address = match &admin.socket {
        Some(AdminSocket::Tcp(address)) => Some(address.clone()),
        Some(AdminSocket::Unix(path)) => Some(ListenAddr::Unix(path.clone())),
        None => None,
    };
    check_distinct(&table, &listen::HTTP, &http, (&listen::HTTPS, &https));
    for other in [(&listen::HTTPS, &*https), (&listen::HTTP, &*http)] {
        check_distinct(&table, &listen::BEHIND_PROXY, &behind_proxy, other);
    }
    for other in [
        (&listen::HTTPS, &*https),
        (&listen::HTTP, &*http),
        (&listen::BEHIND_PROXY, &*behind_proxy),
    ] {
        check_distinct(&table, &listen::ADMIN, admin_address.as_slice(), other);
    }
    check_covered(
        &table,
        &[
            (&listen::HTTPS, &*https),
            (&listen::HTTP, &*http),
            (&listen::BEHIND_PROXY, &*behind_proxy),
            (&listen::ADMIN, admin_address.as_slice()),
        ],
    );
    let trusted_proxies = table.get(&listen::TRUSTED_PROXIES);
    let names_no_proxy = match &trusted_proxies {
        Some(list) => list.is_written_empty(),
        None => table.place_of(&listen::TRUSTED_PROXIES).is_none(),
    };
    if names_no_proxy {
        check_behind_proxy(&table, &behind_proxy);
    }
    let proxy_protocol = table.get(&listen::PROXY_PROTOCOL);
    let default_workers = || available_cores().min(MAX_DEFAULT_WORKERS);
    Some(Listen {
        https,
        http,
        behind_proxy,
        admin,
        public_port: table.get(&listen::PUBLIC_PORT).map(|port| port.value),
        workers: table
            .get(&listen::WORKERS)
            .map_or_else(default_workers, |workers| workers.value),
        proxy_protocol: trusted_networks(&table, &listen::PROXY_PROTOCOL, proxy_protocol),
        trusted_proxies: trusted_networks(&table, &listen::TRUSTED_PROXIES, trusted_proxies),
    })
}

/// The number of cores that the process may use.
pub(crate) fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// With more workers, the connections to the upstreams are only split into more pools.
const MAX_DEFAULT_WORKERS: usize = 16;

fn addresses(table: &Table<'_>, key: &Key<List<ListenAddr>>) -> Vec<ListenAddr> {
    let Some(list) = table.get(key) else {
        return Vec::new();
    };
    let name = key.name;
    if name != listen::HTTP.name && list.is_written_empty() {
        let example = match name == listen::HTTPS.name {
            true => "[::]:443",
            false => "unix:/run/tidegate/http.sock",
        };
        table.report(
            Problem::error(list.place, format!("listen.{name} is empty"))
                .because("an empty list does not turn a kind of address off, so it is probably a mistake")
                .fix(format!("write {name} = [\"{example}\"], or remove the line")),
        );
    }
    let base = table.folder();
    let items = list.value.items.into_iter();
    let resolved =
        items.filter_map(|item| table.accept(key, item.place, resolve_address(item.value, &base)));
    resolved.collect()
}

/// Reports the first address of `key` that another key has, too. Port 0 is another port each time.
fn check_distinct(
    table: &Table<'_>,
    key: &dyn AnyKey,
    addresses: &[ListenAddr],
    (other_key, other): (&Key<List<ListenAddr>>, &[ListenAddr]),
) {
    let mut fixed = addresses.iter().filter(|address| address.port() != Some(0));
    if let Some(twice) = fixed.find(|address| other.contains(address)) {
        let (name, other_name) = (table.path_of(key), table.path_of(other_key));
        let what = format!("{twice} is in both {other_name} and {name}");
        table.report(
            Problem::error(table.place_of(key), what)
                .because("a socket serves one of the two")
                .fix("write another port in one of them"),
        );
    }
}

/// Reports the first address that cannot be bound, because another one has the same port on all addresses of its family. `[::]`
/// leaves the IPv4 port to an IPv4 address that is written as well.
fn check_covered(table: &Table<'_>, lists: &[(&dyn AnyKey, &[ListenAddr])]) {
    let all = || {
        let entries = lists
            .iter()
            .flat_map(|(key, list)| list.iter().map(move |address| (*key, address)));
        entries.filter_map(|(key, address)| match address {
            ListenAddr::Address(address) if address.port() != 0 => Some((key, *address)),
            ListenAddr::Address(_) | ListenAddr::Named(_) | ListenAddr::Unix(_) => None,
        })
    };
    let wildcard_of = |address: SocketAddr| {
        all().find(|(_, other)| {
            other.ip().is_unspecified()
                && other.port() == address.port()
                && other.is_ipv4() == address.is_ipv4()
        })
    };
    let single = all().filter(|(_, address)| !address.ip().is_unspecified());
    let mut covered =
        single.filter_map(|(key, address)| Some((key, address, wildcard_of(address)?)));
    if let Some((key, address, (other_key, other))) = covered.next() {
        let (name, other_name) = (table.path_of(key), table.path_of(other_key));
        let what = format!("{address} in {name} is a part of {other} in {other_name}");
        table.report(
            Problem::error(table.place_of(key), what)
                .because("the system lets a program listen on a port of one address, or of all of them, but not of both")
                .fix(format!("write another port in one of them, or remove {address}")),
        );
    }
}

/// Reports an address of `listen.behind_proxy` on which every request would be rejected, because `trusted_proxies` names no
/// network. The peers of a Unix socket need not be named: the permissions of its file decide which processes may connect.
fn check_behind_proxy(table: &Table<'_>, behind_proxy: &[ListenAddr]) {
    let mut with_port = behind_proxy.iter();
    let with_port = with_port.find(|address| !matches!(address, ListenAddr::Unix(_)));
    if let Some(address) = with_port {
        let what = format!(
            "listen.behind_proxy has {address}, and no network is in listen.trusted_proxies"
        );
        table.report(
            Problem::error(table.place_of(&listen::BEHIND_PROXY), what)
                .because("the address serves only peers in trusted_proxies, so every request would get 403")
                .fix(
                    "write trusted_proxies = [\"10.0.0.5\"] with the addresses from which the proxy in front connects, or listen on a \
                     Unix socket: behind_proxy = [\"unix:/run/tidegate/http.sock\"]",
                ),
        );
    }
}

fn admin(table: &Table<'_>) -> Admin {
    let socket = admin_socket(table);
    let allow = table.get(&listen::ADMIN_ALLOW);
    let place = allow.as_ref().map(|list| list.place);
    let allow = allow.into_iter().flat_map(|list| list.value.into_values());
    let allow: Networks = allow.collect();
    if allow.cover_most_addresses() {
        table.report(
            Problem::warning(place, "listen.admin_allow contains nearly every address")
                .because("every client that reaches the port sees which user transfers what, without a password")
                .fix("name the machines that monitor the proxy, such as the one that runs Prometheus"),
        );
    }
    if let Some(socket) = &socket {
        check_admin_address(table, socket);
    }
    let hosts = table.get(&listen::ADMIN_HOSTS).into_iter();
    let hosts = hosts.flat_map(|list| list.value.into_values());
    let is_default = socket.is_none();
    Admin {
        socket: socket.map_or_else(default_admin_socket, |socket| Some(socket.value)),
        is_default,
        allow,
        // Addresses are accepted in Host anyway: a web page cannot make a browser resolve one to this machine.
        hosts: hosts
            .filter_map(|host| match host {
                Host::Name(name) => Some(name),
                Host::Address(_) => None,
            })
            .collect(),
    }
}

fn admin_socket(table: &Table<'_>) -> Option<Spanned<AdminSocket>> {
    let socket = table.get(&listen::ADMIN)?;
    let value = match socket.value {
        AdminSocket::Unix(path) => {
            let path = resolve(&path, &table.folder());
            AdminSocket::Unix(table.accept(&listen::ADMIN, socket.place, path)?)
        }
        AdminSocket::Tcp(address) => AdminSocket::Tcp(address),
    };
    Some(Spanned { value, ..socket })
}

/// The admin listener of a configuration that names none: a socket in the runtime directory, where only the user and the group
/// of the service reach it. `None` outside of a service.
fn default_admin_socket() -> Option<AdminSocket> {
    let directory = runtime_directory()?;
    Some(AdminSocket::Unix(directory.join(DEFAULT_ADMIN_SOCKET)))
}

/// The directory that systemd has created for the service (`RuntimeDirectory=`). `None` if systemd passes none.
pub(crate) fn runtime_directory() -> Option<PathBuf> {
    first_path(std::env::var_os("RUNTIME_DIRECTORY")?)
}

/// Returns the first path in the value of an environment variable such as `RUNTIME_DIRECTORY`, in which systemd separates several
/// directories by colons (systemd.exec(5)). `None` if the value is empty.
pub(crate) fn first_path(variable: OsString) -> Option<PathBuf> {
    let first = std::env::split_paths(&variable).next();
    first.filter(|path| !path.as_os_str().is_empty())
}

/// The name of the admin socket in the runtime directory.
const DEFAULT_ADMIN_SOCKET: &str = "admin.sock";

/// Warns of an admin listener that is on all addresses, but accepts requests from this machine only.
fn check_admin_address(table: &Table<'_>, socket: &Spanned<AdminSocket>) {
    let AdminSocket::Tcp(ListenAddr::Address(address)) = socket.value else {
        return;
    };
    if !address.ip().is_unspecified() || table.place_of(&listen::ADMIN_ALLOW).is_some() {
        return;
    }
    let what = format!("listen.admin is on all addresses of this machine ({address})");
    let loopback = if address.is_ipv4() {
        "127.0.0.1"
    } else {
        "[::1]"
    };
    table.report(
        Problem::warning(socket.place, what)
            .because(
                "without listen.admin_allow the proxy serves it to this machine alone, and every client can connect",
            )
            .fix(format!(
                "{}, or name the machines that monitor the proxy in listen.admin_allow",
                write(format_args!("{loopback}:{}", address.port()))
            )),
    );
}

/// Converts the value of a key that names the peers whose statement about the client is believed.
fn trusted_networks(
    table: &Table<'_>,
    key: &Key<List<Cidr>>,
    list: Option<Spanned<Items<Cidr>>>,
) -> Networks {
    let Some(list) = list else {
        return Networks::default();
    };
    let place = list.place;
    let networks: Networks = list.value.into_values().collect();
    if networks.cover_most_addresses() {
        let what = format!("{} contains nearly every address", table.path_of(key));
        table.report(
            Problem::warning(place, what)
                .because("every client that reaches a port of the proxy is believed to be any other client")
                .fix("name the proxies, unless a firewall lets no other client in"),
        );
    }
    networks
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    fn problems_of(listen: &str) -> String {
        let text = format!(
            "[listen]\n{listen}\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n[[site.route]]\npath = \"/v2/\"\n\
             upstream = \"http://127.0.0.1:5000\"\nauth = {{ mode = \"basic\", htpasswd = \"users\" }}\n"
        );
        let (_, problems) = parse(Path::new("x"), text.as_bytes());
        problems.to_string()
    }

    /// Each pair of addresses was tried: the second one of the first kind cannot be bound (EADDRINUSE).
    #[test]
    fn a_port_of_all_addresses_and_of_one_of_them_is_an_error() {
        for listen in [
            "https = [\"0.0.0.0:443\", \"127.0.0.1:443\"]",
            "https = [\"[::1]:443\", \"[::]:443\"]",
            "https = [\"0.0.0.0:443\"]\nhttp = [\"192.0.2.1:443\"]",
            "https = [\"[::]:443\"]\nadmin = \"[::1]:443\"",
        ] {
            let problems = problems_of(listen);
            assert!(problems.contains("is a part of"), "{listen}: {problems}");
            assert!(problems.contains("write another port"), "{problems}");
        }
        for listen in [
            "https = [\"[::]:443\", \"127.0.0.1:443\"]",
            "https = [\"[::]:443\", \"0.0.0.0:443\"]",
            "https = [\"0.0.0.0:443\", \"[::1]:443\"]",
            "https = [\"0.0.0.0:443\", \"127.0.0.1:8443\"]",
            "https = [\"0.0.0.0:0\", \"127.0.0.1:0\"]",
            "https = [\"192.0.2.1:443\", \"127.0.0.1:443\"]",
        ] {
            let problems = problems_of(listen);
            assert!(!problems.contains("error"), "{listen}: {problems}");
        }
    }
}
