//! What holds for the whole gate: addresses, logs, versions of TLS, waits, proxies in front.
//!
//! Called by `translate`. nginx has these in each server block; where they differ, the first or the largest is taken, with
//! a remark.

use crate::import::nginx::draft::{Line, Value};
use crate::import::nginx::listen;
use crate::import::nginx::listen::{Address, Listen};
use crate::import::nginx::networks::network;
use crate::import::nginx::path;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::translate::Importer;
use crate::import::nginx::tree::Directive;
use crate::import::nginx::units;

impl<'a> Importer<'a> {
    /// The table `listen`.
    pub(super) fn listen(
        &mut self,
        https: &[Listen],
        http: &[Listen],
        scopes: &[Scope<'a>],
    ) -> Vec<Line> {
        for listen in https.iter().chain(http) {
            if let Address::Other(text) = &listen.address {
                let kind = if text.starts_with("unix:") {
                    "a socket"
                } else {
                    "a name"
                };
                self.remarks.warn(
                    listen.at,
                    format!("listen {text} is left out: {kind} is no address with a port"),
                );
            }
        }
        let mut secure = listen::written(https);
        let mut remark = "HTTP/1.1 and HTTP/2, chosen by the client";
        if secure.is_empty() {
            secure.push("[::]:443".to_owned());
            remark = "nginx had no address with TLS here";
        }
        let mut plain = listen::written(http);
        plain.retain(|address| !secure.contains(address));
        let mut lines = vec![Line::list("https", secure).beside(remark)];
        if !plain.is_empty() {
            let line = Line::list("http", plain);
            lines.push(line.beside("redirects to https, but for /v2/, which is 400: passwords would have crossed in the clear"));
        }
        lines.extend(self.proxies(https, http, scopes));
        lines
    }

    /// Who stands in front of the gate and is believed.
    fn proxies(&mut self, https: &[Listen], http: &[Listen], scopes: &[Scope<'a>]) -> Vec<Line> {
        let mut networks: Vec<String> = Vec::new();
        for from in every(scopes, "set_real_ip_from") {
            match network(from.first()) {
                Some(network) if !networks.contains(&network) => networks.push(network),
                Some(_) => {}
                None => self.remarks.warn(
                    from.at,
                    "set_real_ip_from names no network, and is left out",
                ),
            }
        }
        let header = scopes.iter().find_map(|scope| scope.one("real_ip_header"));
        let name = header.map_or("X-Real-IP", |d| d.first());
        let mut lines = Vec::new();
        let speaks = https.iter().chain(http).find(|l| l.has_proxy_protocol);
        if let Some(listen) = speaks {
            let mut from = networks.clone();
            if from.is_empty() {
                from.extend(["0.0.0.0/0".to_owned(), "::/0".to_owned()]);
                self.remarks.warn(
                    listen.at,
                    "whoever reaches the port may name any client address: put the balancer's network into listen.proxy_protocol",
                );
            }
            let line = Line::list("proxy_protocol", from);
            lines.push(
                line.beside("connections from there begin with a PROXY header, on every address"),
            );
        }
        if networks.is_empty() || name.eq_ignore_ascii_case("proxy_protocol") {
            return lines;
        }
        let mut line = Line::list("trusted_proxies", networks);
        if !name.eq_ignore_ascii_case("x-forwarded-for") {
            line = line.beside("their X-Forwarded-For is believed; nginx read another field");
            if let Some(from) = every(scopes, "set_real_ip_from").first() {
                let what = format!(
                    "the client's address came from {name}; the gate reads X-Forwarded-For"
                );
                self.remarks.warn(from.at, what);
            }
        }
        lines.push(line);
        lines
    }

    /// The table `log`.
    pub(super) fn log(&mut self, scopes: &[Scope<'a>]) -> Vec<Line> {
        let mut lines = Vec::new();
        if let Some(log) = self.same(
            scopes,
            "error_log",
            "one log for all: the first one is taken",
        ) {
            lines.extend(self.log_file("file", log));
            if log.arg(1) == "debug" {
                lines.push(Line::text("level", "debug"));
            }
        }
        if let Some(log) = self.same(
            scopes,
            "access_log",
            "one access log for all: the first one is taken",
        ) {
            if log.first() == "off" {
                lines.push(Line::new("access", Value::Flag(false)));
            } else {
                lines.extend(self.log_file("access_file", log));
            }
        }
        lines
    }

    fn log_file(&mut self, key: &'static str, log: &Directive) -> Option<Line> {
        let name = log.first();
        if matches!(
            name,
            "/dev/stdout" | "/dev/stderr" | "stderr" | "off" | "/dev/null"
        ) {
            return None;
        }
        let Some(path) = path::constant(name, self.prefix).filter(|_| !name.contains(':')) else {
            self.remarks
                .warn(log.at, "this log is no file; standard output is taken");
            return None;
        };
        match path.strip_prefix("/var/log/nginx/") {
            Some(rest) => {
                let line = Line::text(key, format!("/var/log/tidegate/{rest}"));
                Some(line.beside("nginx's own folder belongs to nginx"))
            }
            None => {
                Some(Line::text(key, path).beside("the gate's user must be able to write there"))
            }
        }
    }

    /// The table `tls`.
    pub(super) fn tls(&mut self, scopes: &[Scope<'a>]) -> Vec<Line> {
        let written: Vec<_> = scopes
            .iter()
            .filter_map(|s| s.one("ssl_protocols"))
            .collect();
        if written.is_empty() {
            return Vec::new();
        }
        let has =
            |protocols: &&Directive, version: &str| protocols.args.iter().any(|a| a == version);
        let is_old = |p: &&Directive| has(p, "TLSv1") || has(p, "TLSv1.1") || has(p, "SSLv3");
        let only_newest = written.len() == scopes.len()
            && written
                .iter()
                .all(|p| has(p, "TLSv1.3") && !has(p, "TLSv1.2") && !is_old(p));
        let version = if only_newest { "1.3" } else { "1.2" };
        let remark = if written.iter().any(is_old) {
            "TLS 1.0 and 1.1 are gone; every registry client of the last ten years knows 1.2"
        } else {
            ""
        };
        vec![Line::text("min_version", version).beside(remark)]
    }

    /// The table `limits`: waits that were written.
    pub(super) fn limits(&mut self, scopes: &[Scope<'a>]) -> Vec<Line> {
        let mut lines = Vec::new();
        for (directive, key, usual) in WAITS {
            let written: Vec<_> = scopes.iter().filter_map(|s| s.one(directive)).collect();
            let times = written.iter().filter_map(|d| units::time(d.first()));
            let Some(longest) = times.max().filter(|time| *time > 0) else {
                for zero in &written {
                    self.remarks.warn(
                        zero.at,
                        format!("{directive} is no time that limits.{key} could be"),
                    );
                }
                continue;
            };
            if longest == *usual {
                continue;
            }
            let line = Line::text(key, units::written_time(longest));
            let is_same = written
                .iter()
                .all(|d| units::time(d.first()) == Some(longest));
            lines.push(line.beside(if is_same {
                ""
            } else {
                "the longest of several"
            }));
        }
        lines
    }

    /// A directive that there can be one of; others are said to be left out.
    fn same(
        &mut self,
        scopes: &[Scope<'a>],
        name: &str,
        remark: &'static str,
    ) -> Option<&'a Directive> {
        let found: Vec<_> = scopes.iter().filter_map(|scope| scope.one(name)).collect();
        let first = found.first().copied()?;
        for other in found.iter().filter(|other| other.first() != first.first()) {
            self.remarks.unsupported(remark, other);
        }
        Some(first)
    }
}

fn every<'a>(scopes: &[Scope<'a>], name: &str) -> Vec<&'a Directive> {
    scopes.iter().flat_map(|scope| scope.all(name)).collect()
}

/// nginx's name, the gate's key, and the default of both in milliseconds.
const WAITS: &[(&str, &str, u64)] = &[
    ("client_header_timeout", "head", 15_000),
    ("keepalive_timeout", "idle", 75_000),
    ("client_body_timeout", "body_idle", 60_000),
    ("send_timeout", "write_idle", 60_000),
];
