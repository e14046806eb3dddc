//! One `server` block as a site.
//!
//! Called by `translate`, which knows the other server blocks. Its locations are `route`'s part.

use crate::import::nginx::condition;
use crate::import::nginx::condition::IfEffect;
use crate::import::nginx::draft::{Line, Site, Value};
use crate::import::nginx::listen::Listen;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::translate::Importer;
use crate::import::nginx::tree::Directive;
use crate::import::nginx::{hosts, path};

/// A server block and what holds in it.
pub(super) struct Server<'a> {
    pub(super) directive: &'a Directive,
    pub(super) scope: Scope<'a>,
    pub(super) listens: Vec<Listen>,
    /// Whether requests for a host of no server come here.
    pub(super) is_default: bool,
}

impl Server<'_> {
    pub(super) fn is_tls(&self) -> bool {
        self.listens.iter().any(|listen| listen.is_tls)
    }

    /// Whether it leads anywhere.
    pub(super) fn is_proxy(&self) -> bool {
        has_proxy(self.directive)
    }

    /// Whether it leads plain HTTP to https.
    pub(super) fn leads_to_https(&self) -> bool {
        let block = self.directive.inner();
        let mut inner = block
            .iter()
            .filter(|d| matches!(d.name.as_str(), "if" | "location"));
        condition::leads_to_https(block) || inner.any(|d| condition::leads_to_https(d.inner()))
    }
}

fn has_proxy(block: &Directive) -> bool {
    let mut inner = block.inner().iter();
    inner.any(|d| d.name == "proxy_pass" || (d.name == "location" && has_proxy(d)))
}

impl<'a> Importer<'a> {
    /// The site; nothing when it would have no route or no host.
    pub(super) fn site(&mut self, server: &Server<'a>) -> Option<Site> {
        let (hosts, remark) = self.hosts(server)?;
        let mut lines = vec![Line::list("hosts", hosts).beside(remark)];
        lines.push(self.certificate(server));
        let closed = self.server_conditions(server);
        lines.extend(self.client_certificates(server));
        let routes = self.all_routes(server, closed.as_deref());
        if routes.is_empty() {
            self.remarks.warn(
                server.directive.at,
                "the server block is left out: none of its locations could be taken over",
            );
            return None;
        }
        Some(Site {
            at: server.directive.at,
            lines,
            routes,
        })
    }

    fn hosts(&mut self, server: &Server<'a>) -> Option<(Vec<String>, String)> {
        let at = server.directive.at;
        let found = hosts::of(server.directive);
        for lost in &found.lost {
            self.remarks.warn(
                at,
                format!("server_name {lost} is left out: a host is a name or *.name, without regular expressions"),
            );
        }
        let mut remark = String::new();
        let mut names = found.names;
        if names.is_empty() && (server.is_default || found.lost.is_empty()) {
            remark.push_str("any host, as nginx's server for all others");
            names.push("*".to_owned());
        } else if server.listens.iter().any(|listen| listen.is_default) {
            remark.push_str(
                "other hosts are 421; as default_server nginx took them, too: add \"*\" for that",
            );
        }
        if found.has_wildcard {
            remark.push_str(if remark.is_empty() { "" } else { "; " });
            remark.push_str("*. is exactly one label");
        }
        let total = names.len();
        names.retain(|name| self.taken.insert(name.clone()));
        if names.len() < total {
            self.remarks.warn(
                at,
                "another server block before has the same host; only that one gets its requests",
            );
        }
        (!names.is_empty()).then_some((names, remark))
    }

    fn certificate(&mut self, server: &Server<'a>) -> Line {
        let certs = server.scope.all("ssl_certificate");
        let keys = server.scope.all("ssl_certificate_key");
        for more in certs.iter().skip(1) {
            self.remarks.warn(
                more.at,
                "a site has one certificate; the first one is taken",
            );
        }
        let constant = |found: &[&Directive]| {
            let first = found.first()?;
            path::constant(first.first(), self.prefix).filter(|path| !path.contains("data:"))
        };
        match (constant(&certs), constant(&keys)) {
            (Some(cert), Some(key)) if server.is_tls() => {
                Line::new("tls", Value::table([("cert", &*cert), ("key", &*key)]))
            }
            _ => {
                self.remarks.warn(
                    server.directive.at,
                    "no certificate that is a file: clients have to trust the gate's own CA, or write tls = { cert = \"…\", key = \"…\" }",
                );
                Line::text("tls", "self-signed").beside("nginx had no certificate file here")
            }
        }
    }

    fn client_certificates(&mut self, server: &Server<'a>) -> Vec<Line> {
        let Some(verify) = server.scope.one("ssl_verify_client") else {
            return Vec::new();
        };
        let mut conditions = server.directive.all("if");
        let is_demanded = conditions.any(|d| condition::purpose(d) == IfEffect::Certificate);
        let kind = match verify.first() {
            "on" => "required",
            "optional" if is_demanded => "required",
            "optional" => "optional",
            "off" => return Vec::new(),
            _ => {
                self.remarks.warn(
                    verify.at,
                    "ssl_verify_client asked for certificates and verified none; the gate asks for none",
                );
                return Vec::new();
            }
        };
        let ca = server.scope.one("ssl_client_certificate");
        let Some(ca) = ca.and_then(|ca| path::constant(ca.first(), self.prefix)) else {
            return Vec::new();
        };
        if let Some(list) = server.scope.one("ssl_crl") {
            self.remarks.warn(
                list.at,
                "there are no revocation lists: revoked client certificates count",
            );
        }
        vec![Line::text("client_ca", ca), Line::text("client_auth", kind)]
    }

    /// Why every route of the server is closed.
    fn server_conditions(&mut self, server: &Server<'a>) -> Option<String> {
        let closed = self.conditions(server.directive.inner());
        let verify = server.scope.one("ssl_verify_client");
        let is_verified = verify.is_some_and(|d| matches!(d.first(), "on" | "optional"));
        let has_ca = server.scope.one("ssl_client_certificate").is_some();
        if verify.is_some_and(|d| d.first() == "on") && !has_ca {
            return Some("client certificates without a CA".to_owned());
        }
        // A certificate that is demanded by a condition is demanded by client_auth.
        let mut restricts = server.directive.all("if").map(condition::purpose);
        let is_other = restricts.any(|purpose| purpose == IfEffect::Restricts);
        closed.filter(|_| is_other || !(is_verified && has_ca))
    }
}
