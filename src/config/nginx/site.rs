//! One `server` block as a site.
//!
//! Called by `translate`, which knows the other server blocks. Its locations are `route`'s part.

use super::condition::{self, Purpose};
use super::draft::{Line, Route, Site, Value, What};
use super::listen::Listen;
use super::location::{self, Location, Paths};
use super::scope::Scope;
use super::translate::Translator;
use super::tree::Directive;
use super::{hosts, path};

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

impl<'a> Translator<'a> {
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
        let is_demanded = conditions.any(|d| condition::purpose(d) == Purpose::Certificate);
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
        let is_other = restricts.any(|purpose| purpose == Purpose::Restricts);
        closed.filter(|_| is_other || !(is_verified && has_ca))
    }

    fn all_routes(&mut self, server: &Server<'a>, closed: Option<&str>) -> Vec<Route> {
        let mut locations = location::of(server.directive.inner(), &server.scope);
        let order: Vec<_> = locations.iter().map(|l| l.directive.at).collect();
        // Where two are for the same path, nginx asks regular expressions first, and an exact path is one request.
        locations.sort_by_key(|location| match location.paths {
            Paths::Like(_) => 0,
            Paths::Prefix(_) => 1,
            _ => 2,
        });
        let mut routes: Vec<Route> = Vec::new();
        for location in &locations {
            for route in self.routes(location, closed) {
                self.add(&mut routes, route);
            }
        }
        for location in locations.iter().filter(|l| l.paths == Paths::Unclear) {
            self.unclear(location, &mut routes);
        }
        routes.sort_by_key(|route| order.iter().position(|at| *at == route.at));
        without_needless(routes)
    }

    fn add(&mut self, routes: &mut Vec<Route>, route: Route) {
        let same =
            |known: &Route| known.path.trim_end_matches('/') == route.path.trim_end_matches('/');
        if !routes.iter().any(same) {
            routes.push(route);
        } else if !matches!(route.what, What::Absent(_)) {
            let what = format!(
                "location {} is left out: another one is the route for {}",
                route.location, route.path
            );
            self.remarks.warn(route.at, what);
        }
    }

    /// A regular expression whose requests go to the routes of their prefixes now.
    fn unclear(&mut self, location: &Location<'a>, routes: &mut [Route]) {
        let pattern = location.directive.args.last().map_or("", String::as_str);
        let label = super::route::label(location.directive);
        // Files that a web server must not show, and no registry has.
        if pattern.starts_with("/\\.") || pattern.starts_with("\\.") {
            self.remarks.fell_as(
                "the gate serves no files and no pages",
                location.directive.at,
                label,
            );
            return;
        }
        if !self.restricts(location) {
            self.remarks.warn(
                location.directive.at,
                format!("{label} is left out: a route is a prefix; its requests go where their path leads"),
            );
            return;
        }
        self.remarks.warn(
            location.directive.at,
            format!("{label} restricts what no prefix can say, so the routes around it are closed"),
        );
        let literal = literal_start(pattern);
        for route in routes.iter_mut() {
            let overlaps = route.path.starts_with(&literal) || literal.starts_with(&route.path);
            if overlaps && matches!(route.what, What::Proxied { .. }) {
                route.what = What::Responds(403, Some(format!("closed: {label}")));
            }
        }
    }
}

/// The path that everything begins with that an anchored pattern is for.
fn literal_start(pattern: &str) -> String {
    let Some(rest) = pattern.strip_prefix('^') else {
        return String::new();
    };
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_');
    let start: String = rest.chars().take_while(is_plain).collect();
    // The sign behind may be a quantifier of the last character.
    let kept = start.rfind('/').map_or(0, |at| at + 1);
    start.get(..kept).unwrap_or_default().to_owned()
}

/// Without those that answer 404 where nothing would be found anyway.
fn without_needless(routes: Vec<Route>) -> Vec<Route> {
    let proxied: Vec<String> = routes
        .iter()
        .filter(|route| matches!(route.what, What::Proxied { .. }))
        .map(|route| route.path.clone())
        .collect();
    let has_broader = |path: &str| proxied.iter().any(|broader| is_below(path, broader));
    let is_needed = |route: &Route| match route.what {
        What::Absent(_) | What::Responds(404, _) => has_broader(&route.path),
        What::Proxied { .. } | What::Responds(..) => true,
    };
    let mut needed: Vec<Route> = routes.into_iter().filter(is_needed).collect();
    for route in &mut needed {
        if let What::Absent(why) = &route.what {
            route.what = What::Responds(404, Some(why.clone()));
        }
    }
    needed
}

fn is_below(path: &str, broader: &str) -> bool {
    let broader = broader.trim_end_matches('/');
    let rest = path.strip_prefix(broader);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
