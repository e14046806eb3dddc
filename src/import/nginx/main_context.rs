//! The tables for the whole process: `listen`, `log`, `tls` and `limits`.
//!
//! nginx has these directives in each server block. Where server blocks differ, the first or the largest value is used, with a
//! remark.

use std::collections::BTreeSet;

use crate::import::nginx::access::format_network;
use crate::import::nginx::context::Context;
use crate::import::nginx::listen;
use crate::import::nginx::listen::{Address, Listen};
use crate::import::nginx::output::{Line, Value};
use crate::import::nginx::parser::Directive;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::units;

/// The addresses at which the sites are reached.
#[derive(Default)]
pub(crate) struct ListenAddresses {
    pub(crate) https: Vec<Listen>,
    pub(crate) http: Vec<Listen>,
    pub(crate) behind_proxy: Vec<Listen>,
    /// The Unix sockets of `listen.behind_proxy`.
    pub(crate) sockets: BTreeSet<String>,
}

impl ListenAddresses {
    /// The values of `listen.https` and `listen.behind_proxy`.
    pub(crate) fn of_sites(&self) -> Vec<String> {
        let mut all = self.https();
        all.extend(self.behind_proxy());
        all
    }

    fn behind_proxy(&self) -> Vec<String> {
        let mut all = listen::format(&self.behind_proxy);
        all.extend(self.sockets.iter().cloned());
        all
    }

    fn https(&self) -> Vec<String> {
        let mut https = listen::format(&self.https);
        if https.is_empty() && self.behind_proxy().is_empty() {
            https.push("[::]:443".to_owned());
        }
        https
    }
}

/// Translates the addresses and the trusted proxies into the table `listen`.
pub(crate) fn listen_table(
    context: &mut Context<'_>,
    addresses: &ListenAddresses,
    scopes: &[Scope<'_>],
) -> Vec<Line> {
    let ListenAddresses {
        https,
        http,
        behind_proxy,
        ..
    } = addresses;
    for listen in https.iter().chain(http).chain(behind_proxy) {
        if let Address::Other(text) = &listen.address {
            let why = if text.starts_with("unix:") {
                "the result cannot be compared with nginx at a socket; a front end may need it in listen.behind_proxy"
            } else {
                "a name is not an address with a port"
            };
            let what = format!("listen {text} is left out: {why}");
            context.warn(listen.at, what);
        }
    }
    let mut lines = Vec::new();
    let https_addresses = addresses.https();
    let mut http_addresses = listen::format(http);
    http_addresses.retain(|address| !addresses.of_sites().contains(address));
    if !https_addresses.is_empty() {
        let comment = if https.iter().any(|listen| listen.is_tls) {
            "HTTP/1.1 and HTTP/2, chosen by the client"
        } else {
            "nginx had no TLS address here"
        };
        lines.push(Line::list("https", https_addresses).with_comment(comment));
    }
    let behind_proxy = addresses.behind_proxy();
    if !behind_proxy.is_empty() {
        let line = Line::list("behind_proxy", behind_proxy);
        lines.push(line.with_comment(
            "plain HTTP from the peers in trusted_proxies, which terminate TLS; a request needs X-Forwarded-Proto: https",
        ));
    }
    if !http_addresses.is_empty() {
        let line = Line::list("http", http_addresses);
        lines.push(line.with_comment("redirects to https; under /v2/ the response is 400, because a password would cross the network in the clear"));
    }
    lines.extend(proxy_lines(context, addresses, scopes));
    lines
}

/// The `set_real_ip_from` of all sites; `None` if the sites differ.
fn real_ip_from<'a>(scopes: &[Scope<'a>]) -> Option<Vec<&'a Directive>> {
    let settings = |scope: &Scope<'a>| {
        let from: BTreeSet<_> = peers(scope).iter().map(|from| from.first()).collect();
        let header = scope.value("real_ip_header");
        let header = (!from.is_empty()).then_some(header);
        (from, header)
    };
    let mut all = scopes.iter().map(settings);
    let first = all.next();
    let is_same = all.all(|other| Some(other) == first);
    is_same.then(|| scopes.iter().flat_map(peers).collect())
}

/// The `set_real_ip_from` without `unix:`: tidegate trusts every peer of a Unix socket.
fn peers<'a>(scope: &Scope<'a>) -> Vec<&'a Directive> {
    let mut all = scope.all("set_real_ip_from");
    all.retain(|from| from.first() != "unix:");
    all
}

/// Whether `listen.trusted_proxies` has a network: the peers of an address without TLS.
pub(crate) fn has_trusted_proxies(scopes: &[Scope<'_>]) -> bool {
    let from = real_ip_from(scopes).unwrap_or_default();
    let mut headers = scopes.iter().map(|scope| scope.value("real_ip_header"));
    let mut from = from.iter();
    from.any(|from| format_network(from.first()).is_some())
        && !headers.any(|header| header.eq_ignore_ascii_case("proxy_protocol"))
}

/// The peers that name the address of the client, in a PROXY header or in X-Forwarded-For.
fn proxy_lines(
    context: &mut Context<'_>,
    addresses: &ListenAddresses,
    scopes: &[Scope<'_>],
) -> Vec<Line> {
    let from = real_ip_from(scopes).unwrap_or_else(|| {
        if let Some(from) = scopes.iter().flat_map(peers).next() {
            context.warn(from.at, OWN_PROXIES);
        }
        Vec::new()
    });
    let mut networks: Vec<String> = Vec::new();
    for from in from {
        match format_network(from.first()) {
            Some(network) if !networks.contains(&network) => networks.push(network),
            Some(_) => {}
            None => context.warn(
                from.at,
                "set_real_ip_from does not name a network, and is left out",
            ),
        }
    }
    let mut lines = Vec::new();
    let mut listens = addresses.https.iter().chain(&addresses.http);
    if let Some(listen) = listens.find(|l| l.has_proxy_protocol) {
        let mut from = networks.clone();
        if from.is_empty() {
            from.extend(["0.0.0.0/0".to_owned(), "::/0".to_owned()]);
            context.warn(
                listen.at,
                "any peer that reaches the port can name any client address: put the balancer's network into listen.proxy_protocol",
            );
        }
        let line = Line::list("proxy_protocol", from);
        lines.push(line.with_comment(
            "connections from these networks begin with a PROXY header, on every address",
        ));
    }
    let header = scopes.iter().find_map(|scope| scope.get("real_ip_header"));
    let header = header.map_or("X-Real-IP", Directive::first);
    if networks.is_empty() || header.eq_ignore_ascii_case("proxy_protocol") {
        return lines;
    }
    let mut line = Line::list("trusted_proxies", networks);
    if !header.eq_ignore_ascii_case("x-forwarded-for") {
        line = line.with_comment(
            "tidegate believes their X-Forwarded-For; nginx read another header field",
        );
        if let Some(from) = scopes
            .iter()
            .flat_map(|scope| scope.all("set_real_ip_from"))
            .next()
        {
            let what = format!(
                "nginx read the client's address from {header}; tidegate reads X-Forwarded-For"
            );
            context.warn(from.at, what);
        }
    }
    lines.push(line);
    lines
}

/// Translates `error_log` and `access_log` into the table `log`.
pub(crate) fn log_table(context: &mut Context<'_>, scopes: &[Scope<'_>]) -> Vec<Line> {
    let mut lines = Vec::new();
    let only_one_log = "there is one log; the first one of nginx is used";
    if let Some(log) = first_of(context, scopes, "error_log", only_one_log) {
        lines.extend(log_file(context, "file", log, &[]));
        if log.arg(1) == "debug" {
            lines.push(Line::text("level", "debug"));
        }
    }
    let only_one_access_log = "there is one access log; the first one of nginx is used";
    if let Some(log) = first_of(context, scopes, "access_log", only_one_access_log) {
        if log.first() == "off" {
            lines.push(Line::new("access", Value::Flag(false)));
        } else {
            let access = log_file(context, "access_file", log, &lines);
            lines.extend(access);
        }
    }
    lines
}

/// Translates a log file. `lines` are those of the other log, whose file may have the same name in another directory.
fn log_file(
    context: &mut Context<'_>,
    key: &'static str,
    log: &Directive,
    lines: &[Line],
) -> Option<Line> {
    let name = log.first();
    let streams = ["/dev/stdout", "/dev/stderr", "stderr", "off", "/dev/null"];
    if streams.contains(&name) {
        return None;
    }
    let Some(path) = context.file_path(name).filter(|_| !name.contains(':')) else {
        context.warn(log.at, "this log is not a file; standard output is used");
        return None;
    };
    let own = match path.strip_prefix("/var/log/nginx/") {
        Some(rest) => rest,
        None => path.rsplit('/').next().unwrap_or_default(),
    };
    let comment = format!(
        "not {path}: nginx writes there, and the systemd unit permits /var/log/tidegate only"
    );
    let mut own = format!("/var/log/tidegate/{own}");
    if lines
        .iter()
        .any(|line| matches!(&line.value, Value::Text(other) if *other == own))
    {
        own.push_str(".access");
    }
    Some(Line::text(key, own).with_comment(comment))
}

/// Translates `ssl_protocols` into the table `tls`.
pub(crate) fn tls_table(context: &mut Context<'_>, scopes: &[Scope<'_>]) -> Vec<Line> {
    let written: Vec<_> = scopes
        .iter()
        .filter_map(|scope| scope.get("ssl_protocols"))
        .collect();
    if written.is_empty() {
        return Vec::new();
    }
    let has = |protocols: &Directive, version: &str| protocols.args.iter().any(|a| a == version);
    let has_old = |p: &Directive| has(p, "TLSv1") || has(p, "TLSv1.1") || has(p, "SSLv3");
    let is_1_3 = |p: &Directive| has(p, "TLSv1.3") && !has(p, "TLSv1.2") && !has_old(p);
    let is_1_3_only = written.len() == scopes.len() && written.iter().all(|p| is_1_3(p));
    if !is_1_3_only && let Some(strict) = written.iter().find(|p| is_1_3(p)) {
        context.warn(strict.at, OTHER_VERSIONS);
    }
    let version = if is_1_3_only { "1.3" } else { "1.2" };
    let comment = if written.iter().any(|p| has_old(p)) {
        "TLS 1.0 and 1.1 are not supported; every registry client of the last ten years supports 1.2"
    } else {
        ""
    };
    vec![Line::text("min_version", version).with_comment(comment)]
}

/// Translates the timeouts that differ from the defaults into the table `limits`.
pub(crate) fn limits_table(context: &mut Context<'_>, scopes: &[Scope<'_>]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, key, default) in TIMEOUTS {
        let written: Vec<_> = scopes.iter().filter_map(|scope| scope.get(name)).collect();
        let times = written.iter().filter_map(|d| units::parse_time(d.first()));
        let Some(longest) = times.max().filter(|time| *time > 0) else {
            for directive in &written {
                context.warn(
                    directive.at,
                    format!("{name} is not a time that limits.{key} can have"),
                );
            }
            continue;
        };
        if longest == *default {
            continue;
        }
        let is_same = written
            .iter()
            .all(|d| units::parse_time(d.first()) == Some(longest));
        let comment = if is_same {
            ""
        } else {
            "the longest of several"
        };
        lines.push(Line::text(key, units::format_time(longest)).with_comment(comment));
    }
    lines
}

/// The first directive of this name; a remark reports every other one that differs.
fn first_of<'a>(
    context: &mut Context<'_>,
    scopes: &[Scope<'a>],
    name: &str,
    reason: &'static str,
) -> Option<&'a Directive> {
    let found: Vec<_> = scopes.iter().filter_map(|scope| scope.get(name)).collect();
    let first = found.first().copied()?;
    for other in found.iter().filter(|other| other.first() != first.first()) {
        context.unsupported(reason, other);
    }
    Some(first)
}

const OTHER_VERSIONS: &str = "this server block has TLS 1.3 alone, and another one has TLS 1.2: tls.min_version is the same for all sites, and is 1.2; write 1.3 if all clients have it";
const OWN_PROXIES: &str = "set_real_ip_from is left out: it differs between the server blocks, and listen.trusted_proxies would be believed on every site";
/// nginx's directives with the key in `limits` and the default of both in milliseconds.
const TIMEOUTS: &[(&str, &str, u64)] = &[
    ("client_header_timeout", "head", 15_000),
    ("keepalive_timeout", "idle", 75_000),
    ("client_body_timeout", "body_idle", 60_000),
    ("send_timeout", "write_idle", 60_000),
];
