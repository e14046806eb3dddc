//! A model of nginx: what it does with a request.
//!
//! The model follows nginx's order: server selection, the rewrite directives of the server, location search, the rewrite directives
//! of the location, access control, `try_files`, and the handler. What the model does not know (Lua, variables that depend on
//! the request body, file tests) counts as closed, so the importer never opens it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::url::upstream_url;

use crate::import::nginx::access::{Networks, other_auth_module, removes_authorization};
use crate::import::nginx::context::Context;
use crate::import::nginx::if_blocks::{condition_words, is_filter};
use crate::import::nginx::location::{Matcher, is_file_protection};
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::pattern::{PatternCache, literal_prefix};
use crate::import::nginx::request::Request;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::server_block::ServerBlock;
use crate::import::nginx::upstream::PassTarget;

/// nginx with one configuration.
pub(crate) struct NginxModel<'a> {
    context: &'a Context<'a>,
    http: &'a [Directive],
    servers: &'a [ServerBlock<'a>],
    patterns: PatternCache,
}

/// What nginx does with a request, and the directive that decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) cause: Cause,
    /// The server block that handles the request.
    pub(crate) server: Option<SourcePos>,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// nginx forwards the request, with its path unchanged.
    Forward {
        /// The URLs of the upstream, in the form of tidegate.
        urls: Vec<String>,
        /// Whether the upstream receives the client's `Authorization`.
        sends_authorization: bool,
    },
    /// nginx does not forward the request, or it forwards another path, or the model does not know.
    Closed,
}

/// The directive that decides about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) at: SourcePos,
    pub(crate) label: String,
    /// The shortest path prefix, on a segment boundary and without a slash at its end, that contains every path for which the
    /// directive can decide.
    pub(crate) cover: String,
    /// Whether nginx closes the request only because its path has no slash at its end: it redirects to the path with a slash, or
    /// has a location for that path alone.
    pub(crate) is_slash_redirect: bool,
    /// Whether nginx rejects no client here but has nothing to forward: it serves files, or responds with 404 to paths that only
    /// begin with the same text as the location.
    pub(crate) is_unrestricted: bool,
}

/// A request on its way through the rewrite phase.
enum Step {
    /// The request goes on.
    Continue,
    /// A directive ends the request, or it is not known what happens.
    End(Cause),
}

/// A location that matches a path.
#[derive(Clone)]
struct FoundLocation<'a> {
    directive: &'a Directive,
    scope: Scope<'a>,
    cover: String,
}

/// The result of a location search in one block.
enum Search<'a> {
    /// The search ends with this location.
    Final(FoundLocation<'a>),
    /// A prefix location, unless a regular expression of an outer block matches.
    Prefix(FoundLocation<'a>),
    /// No location.
    None,
    /// nginx redirects to the path with a slash, or a pattern is not understood.
    Closed(Cause),
}

/// The variables that `set` changes; `None` for a value that is not known.
type Variables = HashMap<String, Option<String>>;

/// A request with the variables that were set for it.
struct Exchange<'r> {
    request: &'r Request,
    variables: Variables,
    is_tls: bool,
    server_name: String,
    verifies_certificate: bool,
}

impl<'a> NginxModel<'a> {
    /// Creates the model of a configuration.
    pub(crate) fn new(
        context: &'a Context<'a>,
        http: &'a [Directive],
        servers: &'a [ServerBlock<'a>],
    ) -> Self {
        Self {
            context,
            http,
            servers,
            patterns: PatternCache::default(),
        }
    }

    /// What nginx does with a request.
    pub(crate) fn respond(&self, request: &Request) -> Verdict {
        let closed = |cause, server| Verdict {
            outcome: Outcome::Closed,
            cause,
            server,
        };
        let Some((server, is_tls)) = self.server(request) else {
            let cause = Cause {
                at: self.servers.first().map_or_else(
                    || SourcePos {
                        file: 0,
                        position: crate::config::problem::Position {
                            file: 0,
                            line: 1,
                            column: 1,
                        },
                    },
                    |server| server.directive.at,
                ),
                label: format!("no server block at {}", request.address),
                cover: String::new(),
                is_slash_redirect: false,
                is_unrestricted: false,
            };
            return closed(cause, None);
        };
        let at = server.directive.at;
        let verify = server.scope.value("ssl_verify_client");
        let mut exchange = Exchange {
            request,
            variables: Variables::new(),
            is_tls,
            server_name: server
                .directive
                .all("server_name")
                .next()
                .map_or_else(String::new, |names| names.first().to_owned()),
            verifies_certificate: matches!(verify, "on" | "optional"),
        };
        if verify == "on" && !request.has_certificate {
            let directive = server.scope.get("ssl_verify_client");
            return closed(whole(directive.unwrap_or(server.directive)), Some(at));
        }
        let result = self.in_server(server, &mut exchange);
        match result {
            Ok((outcome, cause)) => Verdict {
                outcome,
                cause,
                server: Some(at),
            },
            Err(cause) => closed(cause, Some(at)),
        }
    }

    /// The server block that receives the request, and whether the address has TLS.
    fn server(&self, request: &Request) -> Option<(&'a ServerBlock<'a>, bool)> {
        let exact = |server: &&ServerBlock<'_>| {
            let mut listens = server.listens.iter();
            listens.any(|listen| listen.address.is_exactly(request.address))
        };
        let wildcard = |server: &&ServerBlock<'_>| {
            let mut listens = server.listens.iter();
            listens.any(|listen| listen.address.accepts(request.address))
        };
        let mut candidates: Vec<_> = self.servers.iter().filter(exact).collect();
        if candidates.is_empty() {
            candidates = self.servers.iter().filter(wildcard).collect();
        }
        let listens_here = |server: &ServerBlock<'_>| {
            let listens = server.listens.iter();
            let mut here = listens
                .filter(|listen| listen.address.accepts(request.address))
                .cloned();
            here.next()
        };
        let is_tls = candidates
            .iter()
            .filter_map(|server| listens_here(server))
            .any(|listen| listen.is_tls);
        let default = candidates
            .iter()
            .find(|server| listens_here(server).is_some_and(|listen| listen.is_default))
            .or_else(|| candidates.first());
        // An operator whose default server alone has an IPv6 address means all sites to be reached over IPv6.
        let other_family = || {
            let ip = request.address.ip();
            let ip: IpAddr = if !ip.is_unspecified() {
                return None;
            } else if ip.is_ipv6() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let address = SocketAddr::new(ip, request.address.port());
            let listens = |server: &&ServerBlock<'_>| {
                let mut listens = server.listens.iter();
                listens.any(|listen| listen.address.is_exactly(address))
            };
            let candidates: Vec<_> = self.servers.iter().filter(listens).collect();
            self.server_by_name(&candidates, &request.host)
        };
        let named = self.server_by_name(&candidates, &request.host);
        let server = named.or_else(other_family).or_else(|| default.copied())?;
        Some((server, is_tls))
    }

    /// The server block with this name: an exact name, the longest wildcard, or the first regular expression.
    fn server_by_name(
        &self,
        candidates: &[&'a ServerBlock<'a>],
        host: &str,
    ) -> Option<&'a ServerBlock<'a>> {
        let mut best: Option<(u8, usize, &'a ServerBlock<'a>)> = None;
        for server in candidates {
            for name in server.directive.all("server_name").flat_map(|d| &d.args) {
                let name = name.to_ascii_lowercase();
                let rank = if name == host || name.strip_prefix('.') == Some(host) {
                    Some((4, name.len()))
                } else if let Some(pattern) = name.strip_prefix('~') {
                    let is_match = self.patterns.is_match(pattern, true, host);
                    (is_match == Some(true)).then_some((1, 0))
                } else if let Some(end) = name
                    .strip_prefix('*')
                    .or_else(|| name.starts_with('.').then_some(name.as_str()))
                {
                    let is_match = host.ends_with(end) && host.len() > end.len();
                    is_match.then_some((3, end.len()))
                } else if let Some(start) = name.strip_suffix('*') {
                    host.starts_with(start).then_some((2, start.len()))
                } else {
                    None
                };
                let Some((kind, length)) = rank else { continue };
                if best.is_none_or(|(known, longest, _)| (kind, length) > (known, longest)) {
                    best = Some((kind, length, server));
                }
            }
        }
        best.map(|(_, _, server)| server)
    }

    fn in_server(
        &self,
        server: &'a ServerBlock<'a>,
        exchange: &mut Exchange<'_>,
    ) -> Result<(Outcome, Cause), Cause> {
        if let (Step::End(cause), _) = self.rewrite(&server.scope, "", exchange) {
            return Err(cause);
        }
        let mut path = exchange.request.path.clone();
        let mut is_internal = false;
        for _ in 0..MAX_INTERNAL_REDIRECTS {
            let found = match self.find(&server.scope, "", &path) {
                Search::Final(found) | Search::Prefix(found) => found,
                Search::None => {
                    let with_slash = format!("{path}/");
                    let found = self.find(&server.scope, "", &with_slash);
                    let is_slash_redirect = !matches!(found, Search::None);
                    return Err(Cause {
                        is_slash_redirect,
                        ..whole(server.directive)
                    });
                }
                Search::Closed(cause) => return Err(cause),
            };
            let has_internal = found.directive.all("internal").next().is_some();
            if has_internal && !is_internal {
                return Err(found.cause());
            }
            match self.in_location(server, &found, exchange)? {
                Handled::Done(outcome) => return Ok((outcome, found.cause())),
                Handled::Redirect(target) => {
                    is_internal = true;
                    path = target;
                }
            }
        }
        Err(whole(server.directive))
    }

    fn in_location(
        &self,
        server: &'a ServerBlock<'a>,
        found: &FoundLocation<'a>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Handled, Cause> {
        let (step, handler) = self.rewrite(&found.scope, &found.cover, exchange);
        let path = &exchange.request.path;
        if let Step::End(cause) = step {
            let is_not_found = matches!(cause.label.as_str(), "return 404" | "return 410");
            return Err(Cause {
                is_unrestricted: is_not_found && found.is_sibling(path),
                ..cause
            });
        }
        let scope = handler.as_ref().unwrap_or(&found.scope);
        self.check_access(found, exchange)?;
        let own = found.scope.own();
        if let Some(files) = own.iter().find(|d| d.name == "try_files") {
            let target = files.args.last().map_or("", String::as_str);
            let closed = || found.cause_of(files);
            if target.starts_with('=') {
                return Err(closed());
            }
            if target.starts_with('@') {
                let mut named = server.directive.all("location");
                let named = named.find(|d| d.first() == target).ok_or_else(closed)?;
                let named = FoundLocation {
                    directive: named,
                    scope: server.scope.inner(named.inner()),
                    cover: found.cover.clone(),
                };
                let handled = self.in_location(server, &named, exchange);
                return handled.map_err(|cause| Cause {
                    cover: found.cover.clone(),
                    ..cause
                });
            }
            let target = self.interpolate(target, exchange).ok_or_else(closed)?;
            let path = target.split('?').next().unwrap_or_default().to_owned();
            if !path.starts_with('/') || path != exchange.request.path {
                return Err(closed());
            }
            return Ok(Handled::Redirect(path));
        }
        let pass = scope.own().iter().find(|d| d.name == "proxy_pass");
        let pass = pass.or_else(|| own.iter().find(|d| d.name == "proxy_pass"));
        let pass = pass.ok_or_else(|| Cause {
            is_unrestricted: found.is_sibling(path) || found.is_for_file_names(),
            ..found.cause()
        })?;
        let target = PassTarget::read(pass, scope).map_err(|_| found.cause_of(pass))?;
        let name = match Matcher::read(found.directive) {
            Some(Matcher::Prefix(name) | Matcher::NoRegex(name) | Matcher::Exact(name)) => name,
            _ => "",
        };
        if !target.keeps_path(name) {
            return Err(found.cause_of(pass));
        }
        let urls = target.urls(self.context);
        let urls = urls.iter().filter_map(|url| upstream_url(url).ok());
        Ok(Handled::Done(Outcome::Forward {
            urls: urls.map(|url| url.to_string()).collect(),
            sends_authorization: !removes_authorization(scope)
                && scope.value("proxy_pass_request_headers") != "off",
        }))
    }

    /// Searches the location of a path, as `ngx_http_core_find_location` does.
    fn find(&self, scope: &Scope<'a>, outer_cover: &str, path: &str) -> Search<'a> {
        let mut prefix: Option<(&'a str, bool, FoundLocation<'a>)> = None;
        let mut patterns = Vec::new();
        for directive in scope.own().iter().filter(|d| d.name == "location") {
            let found = |cover: String| FoundLocation {
                directive,
                scope: scope.inner(directive.inner()),
                cover,
            };
            match Matcher::read(directive) {
                Some(Matcher::Exact(name)) if name == path => {
                    return Search::Final(found(path.trim_end_matches('/').to_owned()));
                }
                Some(matcher @ (Matcher::Prefix(name) | Matcher::NoRegex(name))) => {
                    let has_handler = directive.inner().iter().any(|d| d.name.ends_with("_pass"));
                    if has_handler && name.strip_suffix('/') == Some(path) && !path.is_empty() {
                        let redirected = found(path.to_owned());
                        return Search::Closed(Cause {
                            is_slash_redirect: true,
                            ..redirected.cause()
                        });
                    }
                    let is_longer = prefix
                        .as_ref()
                        .is_none_or(|(known, ..)| name.len() > known.len());
                    if path.starts_with(name) && is_longer {
                        let ends_search = matches!(matcher, Matcher::NoRegex(_));
                        prefix = Some((name, ends_search, found(cover_of(name))));
                    }
                }
                Some(Matcher::Regex {
                    pattern,
                    ignores_case,
                }) if !is_file_protection(directive) => {
                    let cover = cover_of(&literal_prefix(pattern));
                    let cover = if cover.len() < outer_cover.len() {
                        outer_cover.to_owned()
                    } else {
                        cover
                    };
                    patterns.push((pattern, ignores_case, found(cover)));
                }
                _ => {}
            }
        }
        let mut result = Search::None;
        let mut ends_search = false;
        if let Some((_, is_last, found)) = prefix {
            ends_search = is_last;
            match self.find(&found.scope, &found.cover, path) {
                Search::Final(inner) => return Search::Final(inner),
                Search::Closed(cause) => return Search::Closed(cause),
                Search::Prefix(inner) => result = Search::Prefix(inner),
                Search::None => result = Search::Prefix(found),
            }
        }
        if !ends_search {
            for (pattern, ignores_case, found) in patterns {
                match self.patterns.is_match(pattern, ignores_case, path) {
                    Some(false) => {}
                    None => return Search::Closed(found.cause()),
                    Some(true) => {
                        return match self.find(&found.scope, &found.cover, path) {
                            Search::Final(inner) | Search::Prefix(inner) => Search::Final(inner),
                            Search::Closed(cause) => Search::Closed(cause),
                            Search::None => Search::Final(found),
                        };
                    }
                }
            }
        }
        result
    }

    /// Executes the rewrite directives of a block. Returns the scope of the last `if` that applies, because nginx continues
    /// with its configuration.
    fn rewrite(
        &self,
        scope: &Scope<'a>,
        cover: &str,
        exchange: &mut Exchange<'_>,
    ) -> (Step, Option<Scope<'a>>) {
        let end = |directive: &Directive, narrower: Option<String>| {
            Step::End(Cause {
                at: directive.at,
                label: directive.label(),
                cover: narrower
                    .filter(|narrower| narrower.len() > cover.len())
                    .unwrap_or_else(|| cover.to_owned()),
                is_slash_redirect: false,
                is_unrestricted: false,
            })
        };
        let mut handler: Option<Scope<'a>> = None;
        for directive in scope.own() {
            match directive.name.as_str() {
                "return" => {
                    let target = directive.args.last().map_or("", String::as_str);
                    let target = self.interpolate(target, exchange);
                    let with_slash = format!("{}/", exchange.request.path);
                    let mut step = end(directive, None);
                    if let Step::End(cause) = &mut step {
                        cause.is_slash_redirect =
                            target.is_some_and(|target| target.ends_with(&with_slash));
                    }
                    return (step, None);
                }
                "rewrite" => {
                    let pattern = directive.first();
                    let is_match = self
                        .patterns
                        .is_match(pattern, false, &exchange.request.path);
                    if is_match != Some(false) {
                        let cover = cover_of(&literal_prefix(pattern));
                        return (end(directive, Some(cover)), None);
                    }
                }
                "break" => break,
                "set" => {
                    let value = self.interpolate(directive.arg(1), exchange);
                    let name = directive.first().trim_start_matches('$').to_owned();
                    exchange.variables.insert(name, value);
                }
                name if name.starts_with("rewrite_by_") || name.starts_with("set_by_") => {
                    return (end(directive, None), None);
                }
                "if" => {
                    let condition = self.condition(directive, exchange);
                    if condition == Some(false) {
                        continue;
                    }
                    let inner = scope.inner(directive.inner());
                    let before = exchange.variables.clone();
                    let (step, nested) = self.rewrite(&inner, cover, exchange);
                    let changes_handler =
                        directive.inner().iter().any(|d| d.name.ends_with("_pass"));
                    let has_limit = scope.own().iter().any(|d| d.name == "limit_except");
                    if matches!(step, Step::End(_)) {
                        return (end(directive, None), None);
                    }
                    if condition.is_none() {
                        if changes_handler || has_limit {
                            return (end(directive, None), None);
                        }
                        forget_changes(&mut exchange.variables, &before);
                        continue;
                    }
                    if has_limit {
                        return (end(directive, None), None);
                    }
                    let ends = directive.inner().iter().any(|d| d.name == "break");
                    handler = Some(nested.unwrap_or(inner));
                    if ends {
                        break;
                    }
                }
                _ => {}
            }
        }
        (Step::Continue, handler)
    }

    /// Whether a condition holds; `None` if this is not known.
    fn condition(&self, directive: &Directive, exchange: &Exchange<'_>) -> Option<bool> {
        let words = condition_words(directive);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if is_filter(&words) {
            // Filters of browsers and queries are no access control; the importer warns of them.
            return Some(false);
        }
        match words.as_slice() {
            [variable] => {
                let value = self.interpolate(variable, exchange)?;
                Some(!value.is_empty() && value != "0")
            }
            [variable, operator, operand] => {
                let value = self.interpolate(variable, exchange)?;
                let is_equal = || Some(value == self.interpolate(operand, exchange)?);
                match *operator {
                    "=" => is_equal(),
                    "!=" => is_equal().map(|is_equal| !is_equal),
                    "~" => self.patterns.is_match(operand, false, &value),
                    "~*" => self.patterns.is_match(operand, true, &value),
                    "!~" => self.patterns.is_match(operand, false, &value).map(|is| !is),
                    "!~*" => self.patterns.is_match(operand, true, &value).map(|is| !is),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Replaces the variables of a text; `None` if one of them is not known.
    fn interpolate(&self, text: &str, exchange: &Exchange<'_>) -> Option<String> {
        let mut result = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            result.push_str(before);
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (name, after) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}')?,
                None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
            };
            result.push_str(&self.variable(name, exchange, 0)?);
            rest = after;
        }
        result.push_str(rest);
        Some(result)
    }

    fn variable(&self, name: &str, exchange: &Exchange<'_>, depth: usize) -> Option<String> {
        if depth > MAX_MAP_DEPTH {
            return None;
        }
        if let Some(value) = exchange.variables.get(name) {
            return value.clone();
        }
        let request = exchange.request;
        let known = match name {
            "request_method" => request.method.to_string(),
            "host" | "http_host" | "ssl_server_name" => request.host.clone(),
            "uri" | "document_uri" | "request_uri" => request.path.clone(),
            "remote_addr" => request.client.to_string(),
            "server_port" => request.address.port().to_string(),
            "server_name" => exchange.server_name.clone(),
            "scheme" if exchange.is_tls => "https".to_owned(),
            "scheme" => "http".to_owned(),
            "https" if exchange.is_tls => "on".to_owned(),
            "https" | "is_args" => String::new(),
            // A balancer in front of tidegate reports https, because tidegate serves over TLS only.
            "http_x_forwarded_proto" => "https".to_owned(),
            "ssl_protocol" => "TLSv1.3".to_owned(),
            "ssl_client_verify" if !exchange.verifies_certificate => return None,
            "ssl_client_verify" if request.has_certificate => "SUCCESS".to_owned(),
            "ssl_client_verify" => "NONE".to_owned(),
            _ => return self.mapped(name, exchange, depth),
        };
        Some(known)
    }

    /// The value of a variable that a `map` or a `geo` block defines.
    fn mapped(&self, name: &str, exchange: &Exchange<'_>, depth: usize) -> Option<String> {
        let is_named =
            |arg: Option<&String>| arg.and_then(|arg| arg.strip_prefix('$')) == Some(name);
        let block = self
            .http
            .iter()
            .find(|d| matches!(d.name.as_str(), "map" | "geo") && is_named(d.args.last()))?;
        let result = if block.name == "geo" {
            geo_value(block, exchange.request.client)
        } else {
            let source = block.first().strip_prefix('$')?;
            let source = self.variable(source, exchange, depth + 1)?;
            self.map_value(block, &source)?
        };
        match result.strip_prefix('$') {
            Some(variable) => self.variable(variable, exchange, depth + 1),
            None => Some(result.to_owned()),
        }
    }

    fn map_value<'m>(&self, block: &'m Directive, source: &str) -> Option<&'m str> {
        let entries = block.inner();
        let exact = entries.iter().find(|entry| {
            let key = entry.name.strip_prefix('\\').unwrap_or(&entry.name);
            !key.starts_with('~') && key.eq_ignore_ascii_case(source) && key != "default"
        });
        if let Some(entry) = exact {
            return Some(entry.first());
        }
        if entries.iter().any(|entry| entry.name == "hostnames") {
            return None;
        }
        for entry in entries {
            let Some(pattern) = entry.name.strip_prefix('~') else {
                continue;
            };
            let (pattern, ignores_case) = match pattern.strip_prefix('*') {
                Some(pattern) => (pattern, true),
                None => (pattern, false),
            };
            if self.patterns.is_match(pattern, ignores_case, source)? {
                return Some(entry.first());
            }
        }
        let default = entries.iter().find(|entry| entry.name == "default");
        Some(default.map_or("", Directive::first))
    }

    /// Checks access control: client networks and passwords, under `satisfy`.
    fn check_access(
        &self,
        found: &FoundLocation<'a>,
        exchange: &Exchange<'_>,
    ) -> Result<(), Cause> {
        let own = found.scope.own();
        let limit = own.iter().find(|d| d.name == "limit_except");
        let applies = |limit: &&Directive| {
            let method = exchange.request.method.as_str();
            let has = |name: &str| limit.args.iter().any(|arg| arg.eq_ignore_ascii_case(name));
            // GET implies HEAD.
            !(has(method) || (method == "HEAD" && has("GET")))
        };
        let scope = match limit.filter(applies) {
            Some(limit) => found.scope.inner(limit.inner()),
            None => found.scope.clone(),
        };
        if let Some(directive) = other_auth_module(&scope) {
            return Err(found.cause_of(directive));
        }
        let networks = Networks::read(&scope).map_err(|_| found.cause())?;
        let network = networks.decide(exchange.request.client);
        let basic = scope.value("auth_basic");
        let file = scope.value("auth_basic_user_file");
        let password = if basic.is_empty() || basic == "off" || file.is_empty() {
            None
        } else {
            let file = self.context.file_path(file);
            Some(file.is_some() && file == exchange.request.valid_in)
        };
        let is_allowed = if scope.value("satisfy") == "any" {
            let decisions = [network, password];
            decisions.contains(&Some(true)) || !decisions.contains(&Some(false))
        } else {
            network != Some(false) && password != Some(false)
        };
        if is_allowed {
            Ok(())
        } else {
            Err(found.cause())
        }
    }
}

/// What a location does with a request.
enum Handled {
    Done(Outcome),
    /// An internal redirect to this path.
    Redirect(String),
}

impl FoundLocation<'_> {
    /// Whether a path begins with the text of the location but is not below it: `/uix` for `/ui`.
    fn is_sibling(&self, path: &str) -> bool {
        let Some(Matcher::Prefix(name) | Matcher::NoRegex(name)) = Matcher::read(self.directive)
        else {
            return false;
        };
        let rest = path.strip_prefix(name);
        !name.ends_with('/') && rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    }

    /// Whether the location is a regular expression for the ends of file names, such as `\.(css|js)$`.
    fn is_for_file_names(&self) -> bool {
        let matcher = Matcher::read(self.directive);
        matches!(matcher, Some(Matcher::Regex { pattern, .. }) if pattern.ends_with('$') && pattern.contains("\\."))
    }

    fn cause(&self) -> Cause {
        self.cause_of(self.directive)
    }

    /// The location as the cause, named by one of its directives.
    fn cause_of(&self, directive: &Directive) -> Cause {
        let label = if std::ptr::eq(directive, self.directive) {
            directive.label()
        } else {
            format!("{} with {}", self.directive.label(), directive.name)
        };
        Cause {
            at: self.directive.at,
            label,
            cover: self.cover.clone(),
            is_slash_redirect: false,
            is_unrestricted: false,
        }
    }
}

/// A cause that can decide for every path.
fn whole(directive: &Directive) -> Cause {
    let label = match directive.name.as_str() {
        "server" => "server without a location for this path".to_owned(),
        _ => directive.label(),
    };
    Cause {
        at: directive.at,
        label,
        cover: String::new(),
        is_slash_redirect: false,
        is_unrestricted: false,
    }
}

/// The shortest path prefix on a segment boundary that contains every path that begins with this text.
fn cover_of(literal: &str) -> String {
    let end = literal.rfind('/').unwrap_or(0);
    literal.get(..end).unwrap_or_default().to_owned()
}

/// Marks the variables that changed as unknown.
fn forget_changes(variables: &mut Variables, before: &Variables) {
    for (name, value) in variables.iter_mut() {
        if before.get(name) != Some(value) {
            *value = None;
        }
    }
}

/// The value of a `geo` block for an address: that of the longest network.
fn geo_value(block: &Directive, client: IpAddr) -> &str {
    let mut best: Option<(u32, &str)> = None;
    for entry in block.inner() {
        let length = match entry.name.as_str() {
            "default" => Some(0),
            network => Networks::prefix_containing(network, client),
        };
        if let Some(length) = length
            && best.is_none_or(|(longest, _)| length >= longest)
        {
            best = Some((length, entry.first()));
        }
    }
    best.map_or("", |(_, value)| value)
}

/// nginx's limit of internal redirects.
const MAX_INTERNAL_REDIRECTS: usize = 10;
/// The maximum number of `map` blocks that depend on each other.
const MAX_MAP_DEPTH: usize = 8;
