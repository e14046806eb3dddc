//! `[listen]`: where connections come in, and who may ask how the gate is.
//!
//! Called by `build`.

use std::path::PathBuf;

use super::build::cores;
use super::networks::networks;
use super::problem::Problem;
use super::table::Table;
use super::units::{self, Host};
use crate::addr::Networks;
use crate::listen::Binding;

/// Where connections come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// At least one.
    pub https: Vec<Binding>,
    /// For the redirect to https.
    pub http: Vec<Binding>,
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
    Tcp(Binding),
    /// In the file system, whose rights say who may ask.
    Unix(PathBuf),
}

impl Listen {
    /// Every TCP socket there is.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        let all = self.https.iter().chain(&self.http);
        all.chain(self.admin.binding())
    }
}

impl Admin {
    /// Where it is, if that is no file.
    pub fn binding(&self) -> Option<&Binding> {
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
    let bindings = |key| -> Vec<Binding> {
        let list = listen.parse_each(key, units::binding);
        list.map(|list| {
            list.value
                .into_iter()
                .map(|binding| binding.value)
                .collect()
        })
        .unwrap_or_default()
    };
    let https = bindings("https");
    let http = bindings("http");
    let admin = admin(&listen);
    let workers = listen.integer_or("workers", 1..=256, cores().min(MOST_WORKERS));
    let proxy_protocol = networks(&listen, "proxy_protocol");
    let trusted_proxies = networks(&listen, "trusted_proxies");
    listen.required("https", "https = [\"[::]:443\"]");
    if https.is_empty()
        && let Some(place) = listen.place_of("https")
    {
        listen.report(
            Problem::error(place, "listen.https names no usable address")
                .fix("write https = [\"[::]:443\"]"),
        );
    }
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

fn report_twice(
    listen: &Table<'_>,
    key: &'static str,
    bindings: &[Binding],
    (before, all): (&str, &[Binding]),
) {
    let mut fixed = bindings.iter().filter(|binding| binding.port() != Some(0));
    if let Some(twice) = fixed.find(|binding| all.contains(binding)) {
        let what = format!("{twice} stands in both listen.{before} and listen.{key}");
        listen.report(
            Problem::error(listen.place_of(key), what).because("one socket speaks one of the two"),
        );
    }
}

fn admin(listen: &Table<'_>) -> Admin {
    let socket = listen.parse("admin", socket);
    let allow = listen.parse_each("admin_allow", units::network);
    let allow = allow.map(|list| list.value).unwrap_or_default();
    for network in allow.iter().filter(|network| network.is_everything()) {
        let what = format!("listen.admin_allow: {} is every address", network.value);
        listen.report(
            Problem::warning(network.place, what)
                .because("whoever reaches the port sees who moves what, without a password")
                .fix("name the machines that watch, such as Prometheus's"),
        );
    }
    let hosts = listen.parse_each("admin_hosts", units::host);
    let hosts = hosts.map(|list| list.value).unwrap_or_default();
    Admin {
        socket: socket.map(|socket| socket.value),
        allow: allow.into_iter().map(|network| network.value).collect(),
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

fn socket(text: &str) -> Result<AdminSocket, units::Error> {
    if text.starts_with("unix:") {
        return units::unix_path(text).map(AdminSocket::Unix);
    }
    units::binding(text).map(AdminSocket::Tcp)
}

/// More workers than this only split the connections to the upstream.
const MOST_WORKERS: usize = 16;
