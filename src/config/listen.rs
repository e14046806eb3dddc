//! `[listen]`: where connections come in, and who may ask how the gate is.
//!
//! Called by `build`.

use std::path::PathBuf;

use super::build::cores;
use super::networks::networks;
use super::problem::Problem;
use super::table::{Spanned, Table};
use super::units::{self, Host};
use crate::net::cidr::Networks;
use crate::net::listener::ListenAddr;

/// Where connections come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// At least one.
    pub https: Vec<ListenAddr>,
    /// For the redirect to https.
    pub http: Vec<ListenAddr>,
    /// For whoever watches over the gate.
    pub admin: Admin,
    /// Threads that serve connections.
    pub workers: usize,
    /// Peers whose connections begin with a PROXY header.
    pub proxy_protocol: Networks,
    /// Peers whose `X-Forwarded-For` and `-Proto` are believed.
    pub trusted_proxies: Networks,
}

/// The listener for health, readiness and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// Where; `None` is nowhere.
    pub socket: Option<AdminSocket>,
    /// Who may ask, beside this machine.
    pub allow: Networks,
    /// Names by which it may be asked, beside `localhost` and those of the sites; in lower case.
    pub hosts: Vec<String>,
}

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminSocket {
    /// An address, or a socket that systemd holds.
    Tcp(ListenAddr),
    /// In the file system, whose rights say who may ask.
    Unix(PathBuf),
}

impl Listen {
    /// Every TCP socket there is.
    pub fn bindings(&self) -> impl Iterator<Item = &ListenAddr> {
        let all = self.https.iter().chain(&self.http);
        all.chain(self.admin.binding())
    }
}

impl Admin {
    /// Where it is, if that is no file.
    pub fn binding(&self) -> Option<&ListenAddr> {
        match &self.socket {
            Some(AdminSocket::Tcp(binding)) => Some(binding),
            _ => None,
        }
    }

    /// Where it is, if that is a file.
    pub fn path(&self) -> Option<&PathBuf> {
        match &self.socket {
            Some(AdminSocket::Unix(path)) => Some(path),
            _ => None,
        }
    }
}

pub(super) fn listen(root: &Table<'_>) -> Option<Listen> {
    let listen = root
        .required("listen", "[listen] with https = [\"[::]:443\"]")
        .table("listen")?;
    let https = bindings(&listen, "https");
    let http = bindings(&listen, "http");
    let admin = admin(&listen);
    let workers = listen.integer_or("workers", 1..=256, cores().min(MOST_WORKERS));
    let proxy_protocol = networks(&listen, "proxy_protocol");
    let trusted_proxies = networks(&listen, "trusted_proxies");
    listen.required("https", "https = [\"[::]:443\"]");
    report_twice(&listen, "http", &http, ("https", &https));
    let own = admin.binding().cloned();
    report_twice(&listen, "admin", own.as_slice(), ("https", &https));
    report_twice(&listen, "admin", own.as_slice(), ("http", &http));
    Some(Listen {
        https,
        http,
        admin,
        workers,
        proxy_protocol,
        trusted_proxies,
    })
}

fn bindings(listen: &Table<'_>, key: &'static str) -> Vec<ListenAddr> {
    let Some(list) = listen.parse_each(key, units::binding) else {
        return Vec::new();
    };
    if key == "https" && list.is_written_empty() {
        listen.report(
            Problem::error(list.place, "listen.https is empty")
                .because("the proxy would serve nothing")
                .fix("write https = [\"[::]:443\"]"),
        );
    }
    let list = list.value.into_iter();
    list.map(|binding| binding.value).collect()
}

fn report_twice(
    listen: &Table<'_>,
    key: &'static str,
    bindings: &[ListenAddr],
    (before, all): (&str, &[ListenAddr]),
) {
    let mut fixed = bindings.iter().filter(|binding| binding.port() != Some(0));
    if let Some(twice) = fixed.find(|binding| all.contains(binding)) {
        let what = format!("{twice} stands in both listen.{before} and listen.{key}");
        listen.report(
            Problem::error(listen.place_of(key), what)
                .because("one socket speaks one of the two")
                .fix("write another port in one of them"),
        );
    }
}

fn admin(listen: &Table<'_>) -> Admin {
    let socket = listen.parse("admin", socket);
    let allow = listen.parse_each("admin_allow", units::network);
    let place = allow.as_ref().map(|list| list.place);
    let allow = allow
        .map(|list| list.value.into_items())
        .unwrap_or_default();
    let allow: Networks = allow.into_iter().map(|network| network.value).collect();
    if allow.cover_most_addresses() {
        listen.report(
            Problem::warning(place, "listen.admin_allow holds nearly every address")
                .because("any client that reaches the port sees which user moves what, without a password")
                .fix("name the machines that monitor the proxy, such as the one that runs Prometheus"),
        );
    }
    if let Some(socket) = &socket {
        check_admin_address(listen, socket);
    }
    let hosts = listen.parse_each("admin_hosts", units::host);
    let hosts = hosts
        .map(|list| list.value.into_items())
        .unwrap_or_default();
    Admin {
        socket: socket.map(|socket| socket.value),
        allow,
        // An address is a name that nobody can make his own.
        hosts: hosts
            .into_iter()
            .filter_map(|host| match host.value {
                Host::Name(name) => Some(name),
                Host::Address(_) => None,
            })
            .collect(),
    }
}

/// Warns of an admin listener on all addresses that answers to this machine alone.
fn check_admin_address(listen: &Table<'_>, socket: &Spanned<AdminSocket>) {
    let AdminSocket::Tcp(ListenAddr::Address(address)) = socket.value else {
        return;
    };
    if !address.ip().is_unspecified() || listen.place_of("admin_allow").is_some() {
        return;
    }
    let what = format!("listen.admin is on all addresses of this machine ({address})");
    let loopback = if address.is_ipv4() {
        "127.0.0.1"
    } else {
        "[::1]"
    };
    listen.report(
        Problem::warning(socket.place, what)
            .because("without listen.admin_allow the proxy answers there to this machine alone, and any client may connect")
            .fix(format!(
                "{}, or name the machines that monitor the proxy in listen.admin_allow",
                units::write(format_args!("{loopback}:{}", address.port()))
            )),
    );
}

fn socket(text: &str) -> Result<AdminSocket, units::Error> {
    if text.starts_with("unix:") {
        return units::unix_path(text).map(AdminSocket::Unix);
    }
    if text.starts_with('/') {
        return Err(units::Error::Malformed {
            expected: "an address and a port, or \"unix:\" and a path",
            remedy: units::write_accepted(
                format_args!("unix:{text}"),
                units::unix_path,
                "write \"unix:/run/tidegate/admin.sock\"",
            ),
        });
    }
    units::binding(text).map(AdminSocket::Tcp)
}

/// More workers than this only split the connections to the upstream.
const MOST_WORKERS: usize = 16;
