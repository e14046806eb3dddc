//! A model of nginx: what it does with a request.
//!
//! The model follows nginx's order: server selection, the rewrite directives of the server, location search, `limit_except`, the
//! rewrite directives of the location, access control, `try_files`, and the handler. What the model does not know (Lua, variables
//! that depend on header fields, file tests) has an unknown outcome, which the importer treats as closed. Files are assumed not to
//! exist.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use crate::config::url::upstream_url;

use crate::import::nginx::access::{self, Networks, removes_authorization};
use crate::import::nginx::client_rules::{Class, ClientRules, ClientSource, Dependencies, RuleId};
use crate::import::nginx::context::Context;
use crate::import::nginx::exchange::{Environment, Exchange};
use crate::import::nginx::listen::Listen;
use crate::import::nginx::location::{Matcher, is_file_protection};
use crate::import::nginx::location_search::{LocationIndex, LocationMatch, LocationNode, cover_of};
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::pattern::{PatternCache, literal_prefix};
use crate::import::nginx::request::Request;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::server_block::ServerBlock;
use crate::import::nginx::server_names::ServerNames;
use crate::import::nginx::unsupported;
use crate::import::nginx::upstream::PassTarget;
use crate::import::nginx::verdict::{Cause, Outcome, Verdict};

/// nginx with one configuration.
pub(crate) struct NginxModel<'a> {
    context: &'a Context<'a>,
    servers: Vec<Server<'a>>,
    environment: Environment<'a>,
    /// The local addresses that requests named so far.
    listeners: RefCell<HashMap<SocketAddr, Listener>>,
    /// The access rules of each block, by the address of its directive.
    access: RefCell<HashMap<*const Directive, Rc<KnownAccess<'a>>>>,
    /// The number of steps of the location searches so far.
    steps: Cell<usize>,
}

/// A server block with its locations.
struct Server<'a> {
    block: &'a ServerBlock<'a>,
    name: &'a str,
    locations: LocationIndex<'a>,
    /// The locations `@name`.
    named: HashMap<&'a str, LocationNode<'a>>,
}

/// The server block that receives a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SelectedServer {
    index: usize,
    /// The position of the server block.
    pub(crate) at: SourcePos,
    /// Whether the address of the request has TLS.
    is_tls: bool,
    /// Whether the connections to the address begin with a PROXY header.
    has_proxy_protocol: bool,
    /// Whether the server block listens on the other address family alone, so that nginx selects the default server in its place.
    pub(crate) is_of_other_family: bool,
    /// Whether it is not known that nginx selects this server block: a regular expression in its `server_name` is not understood.
    is_unknown: bool,
}

/// What nginx does with connections to one local address.
struct Listener {
    is_tls: bool,
    has_proxy_protocol: bool,
    names: ServerNames,
    /// The names at the wildcard address of the other address family.
    other_family: ServerNames,
    default: Option<usize>,
}

/// The access control in effect in a block.
struct AccessRules {
    /// The list of `allow` and `deny`.
    networks: Option<RuleId>,
    /// The file in which credentials must be valid.
    password_file: Option<String>,
    is_any: bool,
}

/// The access control in effect in a block; `Err` if the model does not know it, with the directive to blame if there is one.
type KnownAccess<'a> = Result<AccessRules, Option<&'a Directive>>;

/// How a list of rewrite directives ends if none of them ends the request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// The directives after the list follow.
    Next,
    /// `last` or `break`: no further rewrite directive is executed.
    Stop,
}

impl<'a> NginxModel<'a> {
    /// Creates the model of a configuration.
    pub(crate) fn new(
        context: &'a Context<'a>,
        http: &'a [Directive],
        blocks: &'a [ServerBlock<'a>],
    ) -> Self {
        let patterns = PatternCache::default();
        let servers = blocks.iter().map(|block| {
            let names = block.directive.inner();
            let name = names.iter().find(|d| d.name == "server_name");
            let named = block.scope.own().iter().filter(|d| {
                d.name == "location" && matches!(Matcher::read(d), Some(Matcher::Named))
            });
            let node = |d: &'a Directive| {
                let cover = String::new();
                LocationNode::new(d, &block.scope, cover, Matcher::Named, &patterns)
            };
            Server {
                block,
                name: name.map_or("", Directive::first),
                locations: LocationIndex::new(&block.scope, "", &patterns),
                named: named.map(|d| (d.first(), node(d))).collect(),
            }
        });
        Self {
            context,
            servers: servers.collect(),
            environment: Environment {
                http,
                patterns,
                rules: ClientRules::default(),
                dependencies: RefCell::default(),
                has_probes: RefCell::default(),
            },
            listeners: RefCell::default(),
            access: RefCell::default(),
            steps: Cell::new(0),
        }
    }

    /// The rules that classify clients.
    pub(crate) fn rules(&self) -> &ClientRules<'a> {
        &self.environment.rules
    }

    /// The properties that were read since the last call.
    pub(crate) fn take_dependencies(&self) -> Dependencies {
        self.environment.dependencies.take()
    }

    /// Whether the address of the client was read since the last call of [`Self::take_dependencies`].
    pub(crate) fn has_read_client(&self) -> bool {
        let read = self.environment.dependencies.borrow();
        read.client_text || !read.rules.is_empty()
    }

    /// How nginx determines the client in a server block; `None` if tidegate cannot do the same.
    pub(crate) fn client_source(&self, selected: SelectedServer) -> Option<ClientSource> {
        let server = self.servers.get(selected.index)?;
        ClientSource::of_nginx(&server.block.scope, selected.has_proxy_protocol)
    }

    /// The number of steps of all location searches so far, as a measure of the work.
    pub(crate) fn steps(&self) -> usize {
        self.steps.get()
    }

    /// What nginx does with a request. `selected` is the server block that [`Self::server`] returns for its address and host.
    pub(crate) fn respond(&self, selected: Option<SelectedServer>, request: &Request) -> Verdict {
        let found =
            selected.and_then(|selected| Some((selected, self.servers.get(selected.index)?)));
        let Some((selected, server)) = found else {
            return self.no_server(request);
        };
        let verdict = |outcome, cause| Verdict {
            outcome,
            cause,
            server: Some(selected.at),
        };
        let result = if selected.is_unknown {
            let mut cause = Cause::new(server.block.directive, "").unknown();
            "server_name with a regular expression that is not understood"
                .clone_into(&mut cause.label);
            Err(cause)
        } else {
            self.in_server(server, selected.is_tls, request)
        };
        match result {
            Ok((outcome, cause)) => verdict(outcome, cause),
            Err(cause) if cause.is_unknown => verdict(Outcome::Unknown, cause),
            Err(cause) => verdict(Outcome::Closed, cause),
        }
    }

    fn no_server(&self, request: &Request) -> Verdict {
        let first = self.servers.first().map(|server| server.block.directive.at);
        Verdict {
            outcome: Outcome::Closed,
            cause: Cause {
                at: first.unwrap_or_default(),
                label: format!("no server block at {}", request.address),
                ..Cause::default()
            },
            server: None,
        }
    }

    /// The server block that receives the requests for a host at a local address.
    pub(crate) fn server(&self, address: SocketAddr, host: &str) -> Option<SelectedServer> {
        let mut listeners = self.listeners.borrow_mut();
        let listener = listeners
            .entry(address)
            .or_insert_with(|| self.listener(address));
        let own = listener.names.find(host);
        // An operator whose default server alone has an IPv6 address means all sites to be reached over IPv6. The comparison warns.
        let found = own.or_else(|| listener.other_family.find(host));
        let is_of_other_family = own.is_none() && found.is_some();
        let (index, is_unknown) = found.or_else(|| Some((listener.default?, false)))?;
        Some(SelectedServer {
            index,
            at: self.servers.get(index)?.block.directive.at,
            is_tls: listener.is_tls,
            has_proxy_protocol: listener.has_proxy_protocol,
            is_of_other_family,
            is_unknown,
        })
    }

    fn listener(&self, address: SocketAddr) -> Listener {
        let exactly = |address| self.listening(move |listen| listen.address.is_exactly(address));
        let mut here = exactly(address);
        if here.is_empty() {
            here = self.listening(|listen| listen.address.accepts(address));
        }
        let ip = address.ip();
        let other: IpAddr = if ip.is_ipv6() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let other = SocketAddr::new(other, address.port());
        let default = here.iter().find(|(_, listen)| listen.is_default);
        Listener {
            is_tls: here.iter().any(|(_, listen)| listen.is_tls),
            has_proxy_protocol: here.iter().any(|(_, listen)| listen.has_proxy_protocol),
            default: default.or_else(|| here.first()).map(|(index, _)| *index),
            names: self.names(&here),
            other_family: if ip.is_unspecified() {
                self.names(&exactly(other))
            } else {
                ServerNames::default()
            },
        }
    }

    /// The server blocks with such an address, and this address.
    fn listening(&self, is_here: impl Fn(&Listen) -> bool) -> Vec<(usize, &'a Listen)> {
        let servers = self.servers.iter().enumerate();
        let here = servers.filter_map(|(index, server)| {
            let mut listens = server.block.listens.iter();
            Some((index, listens.find(|listen| is_here(listen))?))
        });
        here.collect()
    }

    fn names(&self, servers: &[(usize, &Listen)]) -> ServerNames {
        let mut names = ServerNames::default();
        for (index, _) in servers {
            let Some(server) = self.servers.get(*index) else {
                continue;
            };
            for name in server
                .block
                .directive
                .all("server_name")
                .flat_map(|d| &d.args)
            {
                names.add(name, *index, &self.environment.patterns);
            }
        }
        names
    }

    fn in_server(
        &self,
        server: &Server<'a>,
        is_tls: bool,
        request: &Request,
    ) -> Result<(Outcome, Cause), Cause> {
        let scope = &server.block.scope;
        let verify = scope.value("ssl_verify_client");
        if verify == "on" && is_tls {
            self.environment.note(|on| on.certificate = true);
            if !request.has_certificate {
                let directive = scope.get("ssl_verify_client");
                return Err(Cause::new(directive.unwrap_or(server.block.directive), ""));
            }
        }
        let verifies = matches!(verify, "on" | "optional");
        let mut exchange = Exchange::new(request, is_tls, server.name, verifies);
        let result = self.phases(server, &mut exchange);
        // After a change of the path, the locations say nothing about the path of the request.
        match (result, exchange.changed_by) {
            (result, None) => result,
            (Ok((outcome, _)), Some(changed_by)) => Ok((outcome, changed_by)),
            (Err(cause), Some(changed_by)) => Err(Cause {
                is_unknown: cause.is_unknown,
                ..changed_by
            }),
        }
    }

    /// What nginx does with a request in one location of the server block at this position: the rewrite directives of the server and
    /// the location itself.
    pub(crate) fn respond_in(
        &self,
        server: SourcePos,
        location: &LocationNode<'a>,
        request: &Request,
    ) -> Outcome {
        let Some(server) = self.server_at(server) else {
            return Outcome::Unknown;
        };
        let verify = server.block.scope.value("ssl_verify_client");
        let verifies = matches!(verify, "on" | "optional");
        let mut exchange = Exchange::new(request, server.block.is_tls(), server.name, verifies);
        let rewritten = self.rewrite(&server.block.scope, "", &mut exchange);
        match rewritten.and_then(|_| self.in_location(server, location, &mut exchange)) {
            Ok(Some(outcome)) => outcome,
            Ok(None) => Outcome::Unknown,
            Err(cause) if cause.is_unknown => Outcome::Unknown,
            Err(_) => Outcome::Closed,
        }
    }

    /// The first name of the server block at this position.
    pub(crate) fn first_name(&self, server: SourcePos) -> &'a str {
        self.server_at(server).map_or("", |server| server.name)
    }

    /// The location from whose directory nginx sends a file to every client without credentials; `None` if nginx does something else
    /// with the request, or something that the model does not know.
    pub(crate) fn file_location(
        &self,
        address: SocketAddr,
        host: &str,
        path: &str,
    ) -> Option<LocationNode<'a>> {
        let selected = self.server(address, host)?;
        let server = self.servers.get(selected.index)?;
        let scope = &server.block.scope;
        let verifies = !matches!(scope.value("ssl_verify_client"), "" | "off");
        if selected.is_unknown || (selected.is_tls && verifies) {
            return None;
        }
        let request = Request::get(address, host, path);
        let mut exchange = Exchange::new(&request, selected.is_tls, server.name, verifies);
        self.take_dependencies();
        if self.rewrite(scope, "", &mut exchange).ok()?.is_some() || exchange.is_changed {
            return None;
        }
        let found = match server.locations.find(path, &self.steps) {
            LocationMatch::Location(location) => Some(location),
            LocationMatch::None => None,
            LocationMatch::SlashRedirect(_) | LocationMatch::NotUnderstood(_) => return None,
        };
        let location = match (self.dot_file_location(server, found, path)?, found) {
            (Some(directive), _) => LocationNode::alone(directive, scope.inner(directive.inner())),
            (None, Some(found)) => LocationNode::alone(found.directive, found.scope.clone()),
            (None, None) => return None,
        };
        let own = location.scope.own();
        let has_other_handler = own
            .iter()
            .any(|d| d.name.ends_with("_pass") || d.name == "location");
        let mut files = own.iter().filter(|d| d.name == "try_files");
        if has_other_handler
            || location.scope.get("internal").is_some()
            || files.any(|files| files.first() != "$uri")
            || self
                .rewrite(&location.scope, "", &mut exchange)
                .ok()?
                .is_some()
            || exchange.is_changed
        {
            return None;
        }
        // A condition on the address would have another outcome for another client.
        let is_for_all = !self.has_read_client()
            && Networks::read(&location.scope).is_ok_and(|networks| networks.allow_all());
        let access = self.check_access(&location, location.directive, &location.scope, &exchange);
        (is_for_all && access.is_ok()).then_some(location)
    }

    /// The location for dot files that handles a path in place of the one that was found, because the search leaves these locations out;
    /// `Some(None)` if there is none, and `None` if it is not known whether one handles it.
    fn dot_file_location(
        &self,
        server: &Server<'a>,
        found: Option<&LocationNode<'a>>,
        path: &str,
    ) -> Option<Option<&'a Directive>> {
        let matcher = found.and_then(|found| Matcher::read(found.directive));
        if matches!(matcher, Some(Matcher::Exact(_) | Matcher::NoRegex(_))) {
            return Some(None);
        }
        let is_regex = matches!(matcher, Some(Matcher::Regex { .. }));
        // The first regular expression counts.
        let is_found =
            |d: &Directive| is_regex && found.is_some_and(|found| found.directive.at == d.at);
        let own = server.block.scope.own().iter().take_while(|d| !is_found(d));
        for directive in own.filter(|d| d.name == "location" && is_file_protection(d)) {
            let Some(Matcher::Regex {
                pattern,
                ignores_case,
            }) = Matcher::read(directive)
            else {
                continue;
            };
            // The only dot of the path of a challenge is the one before this name.
            let is_other = pattern.contains("\\.(?!well-known") && !pattern.contains('|');
            if is_other && path.starts_with("/.well-known/") {
                continue;
            }
            let compiled = self.environment.patterns.compiled(pattern, ignores_case);
            if compiled.as_ref().as_ref()?.is_match(path.as_bytes()) {
                return Some(Some(directive));
            }
        }
        Some(None)
    }

    fn server_at(&self, at: SourcePos) -> Option<&Server<'a>> {
        let mut servers = self.servers.iter();
        servers.find(|server| server.block.directive.at == at)
    }

    fn phases(
        &self,
        server: &Server<'a>,
        exchange: &mut Exchange<'_>,
    ) -> Result<(Outcome, Cause), Cause> {
        for _ in 0..MAX_REDIRECTS {
            if std::mem::take(&mut exchange.begins_with_server) {
                self.rewrite(&server.block.scope, "", exchange)?;
            }
            let location = match server.locations.find(&exchange.path, &self.steps) {
                LocationMatch::Location(location) => location,
                LocationMatch::SlashRedirect(location) => {
                    return Err(Cause {
                        cover: exchange.path.clone(),
                        is_slash_redirect: true,
                        ..Cause::location(location, None)
                    });
                }
                LocationMatch::NotUnderstood(location) => {
                    return Err(Cause::location(location, None).unknown());
                }
                LocationMatch::None => {
                    let with_slash = format!("{}/", exchange.path);
                    let found = server.locations.find(&with_slash, &self.steps);
                    return Err(Cause {
                        is_slash_redirect: !matches!(found, LocationMatch::None),
                        ..Cause::new(server.block.directive, "")
                    });
                }
            };
            let is_for_redirects = location.scope.get("internal").is_some();
            if is_for_redirects && !exchange.is_internal {
                return Err(Cause::location(location, None));
            }
            if let Some(outcome) = self.in_location(server, location, exchange)? {
                let cause = Cause {
                    is_sibling: location.is_sibling(&exchange.request.path),
                    ..Cause::location(location, None)
                };
                return Ok((outcome, cause));
            }
        }
        Err(Cause::new(server.block.directive, ""))
    }

    /// What a location does with a request; `None` if nginx searches the location of another path.
    fn in_location(
        &self,
        server: &Server<'a>,
        location: &LocationNode<'a>,
        exchange: &mut Exchange<'_>,
    ) -> Result<Option<Outcome>, Cause> {
        let own = location.scope.own();
        let limit = own.iter().find(|d| d.name == "limit_except");
        let limited = limit.filter(|limit| self.is_limited(limit, exchange));
        // The block of a limit_except has neither the rewrite directives nor the try_files of its location.
        let block = if limited.is_some() {
            limited
        } else {
            let rewritten = self.rewrite(&location.scope, &location.cover, exchange);
            let applied = rewritten.map_err(|cause| {
                // A page or a 404 for every client is no restriction beside a whole word; a 403 or a redirect may be one.
                let label = cause.label.as_str();
                let is_public =
                    matches!(label, "return 404" | "return 410") || label.starts_with("return 2");
                Cause {
                    is_only_missing: is_public && location.is_sibling(&exchange.path),
                    paths: location.paths.clone(),
                    ..cause
                }
            })?;
            if exchange.is_changed {
                return Ok(None);
            }
            applied
        };
        let inner = block.map(|block| location.scope.inner(block.inner()));
        let directive = block.unwrap_or(location.directive);
        let scope = inner.as_ref().unwrap_or(&location.scope);
        self.check_access(location, directive, scope, exchange)?;
        let try_files = own.iter().find(|d| d.name == "try_files");
        if let Some(files) = try_files.filter(|_| block.is_none()) {
            return self.try_files(server, location, files, exchange);
        }
        let is_pass = |d: &&Directive| d.name == "proxy_pass";
        let pass = scope
            .own()
            .iter()
            .rfind(is_pass)
            .or_else(|| own.iter().rfind(is_pass));
        let pass = pass.ok_or_else(|| Cause {
            is_only_missing: location.is_sibling(&exchange.path) || location.is_for_file_names(),
            ..Cause::location(location, None)
        })?;
        self.forward(location, pass, scope, exchange).map(Some)
    }

    /// Whether a `limit_except` limits the method of the request.
    fn is_limited(&self, limit: &Directive, exchange: &Exchange<'_>) -> bool {
        self.environment.note(|on| on.method = true);
        let method = exchange.request.method.as_str();
        let has = |name: &str| limit.args.iter().any(|arg| arg.eq_ignore_ascii_case(name));
        // GET implies HEAD.
        !(has(method) || (method == "HEAD" && has("GET")))
    }

    fn try_files(
        &self,
        server: &Server<'a>,
        location: &LocationNode<'a>,
        files: &Directive,
        exchange: &mut Exchange<'_>,
    ) -> Result<Option<Outcome>, Cause> {
        let closed = || Cause::location(location, Some(files));
        let target = files.args.last().map_or("", String::as_str);
        if target.starts_with('=') {
            return Err(closed());
        }
        if target.starts_with('@') {
            let named = server.named.get(target).ok_or_else(closed)?;
            exchange.is_internal = true;
            let handled = self.in_location(server, named, exchange);
            return handled.map_err(|cause| Cause {
                cover: location.cover.clone(),
                ..cause
            });
        }
        let target = path_without_query(target);
        let path = target.and_then(|target| self.environment.interpolate(target, exchange));
        let path = path.ok_or_else(|| closed().unknown())?.value;
        if path == exchange.path {
            exchange.is_internal = true;
        } else {
            exchange.change_path(path, closed());
        }
        // An internal redirect begins with the rewrite directives of the server.
        exchange.begins_with_server = true;
        Ok(None)
    }

    /// Executes the rewrite directives of a block; then [`Exchange::is_changed`] says whether nginx searches the location of another path.
    /// Returns the last `if` that applied, whose configuration is in effect. A request that ends here is an error, also if it is not known
    /// what happens.
    fn rewrite(
        &self,
        scope: &Scope<'a>,
        cover: &str,
        exchange: &mut Exchange<'_>,
    ) -> Result<Option<&'a Directive>, Cause> {
        let mut applied = None;
        exchange.is_changed = false;
        self.execute(scope.own(), cover, exchange, &mut applied)?;
        Ok(applied)
    }

    fn execute(
        &self,
        directives: &'a [Directive],
        cover: &str,
        exchange: &mut Exchange<'_>,
        applied: &mut Option<&'a Directive>,
    ) -> Result<Flow, Cause> {
        for directive in directives {
            let cause = || Cause::new(directive, cover);
            let flow = match directive.name.as_str() {
                "return" => {
                    let target = directive.args.last().map_or("", String::as_str);
                    let target = self.environment.interpolate(target, exchange);
                    let with_slash = format!("{}/", exchange.request.path);
                    return Err(Cause {
                        is_slash_redirect: target
                            .is_some_and(|target| target.value.ends_with(&with_slash)),
                        ..cause()
                    });
                }
                "rewrite" => self.rewrite_path(directive, cover, exchange)?,
                "break" => {
                    exchange.is_changed = false;
                    Flow::Stop
                }
                // The upstream receives this query in place of that of the client.
                "set" if directive.first() == "$args" => return Err(cause().unknown()),
                "set" => {
                    let value = self.environment.interpolate(directive.arg(1), exchange);
                    exchange.set(directive.first().trim_start_matches('$'), value);
                    Flow::Next
                }
                name if name.starts_with("set_by_") => return Err(cause().unknown()),
                "if" => self.if_block(directive, cover, exchange, applied)?,
                _ => Flow::Next,
            };
            if flow == Flow::Stop {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn rewrite_path(
        &self,
        directive: &Directive,
        cover: &str,
        exchange: &mut Exchange<'_>,
    ) -> Result<Flow, Cause> {
        let pattern = directive.first();
        let own_cover = cover_of(&literal_prefix(pattern));
        let is_narrower = own_cover.len() > cover.len() && exchange.changed_by.is_none();
        let cause = Cause::new(directive, if is_narrower { &own_cover } else { cover });
        let groups = match self.environment.patterns.captures(pattern, &exchange.path) {
            Some(Some(groups)) => groups,
            Some(None) => return Ok(Flow::Next),
            None => return Err(cause.unknown()),
        };
        let (target, flag) = (directive.arg(1), directive.arg(2));
        let mut schemes = ["http://", "https://", "$scheme"].into_iter();
        if schemes.any(|scheme| target.starts_with(scheme))
            || matches!(flag, "redirect" | "permanent")
        {
            return Err(cause);
        }
        let path = path_without_query(target)
            .and_then(|path| self.environment.interpolate_groups(path, exchange, &groups));
        let Some(path) = path else {
            return Err(cause.unknown());
        };
        if !path.starts_with('/') {
            return Err(cause);
        }
        exchange.change_path(path, cause);
        exchange.is_changed = flag != "break";
        if flag == "break" {
            exchange.replaces_location = false;
        }
        Ok(if matches!(flag, "last" | "break") {
            Flow::Stop
        } else {
            Flow::Next
        })
    }

    fn if_block(
        &self,
        directive: &'a Directive,
        cover: &str,
        exchange: &mut Exchange<'_>,
        applied: &mut Option<&'a Directive>,
    ) -> Result<Flow, Cause> {
        let ended = |cause: Cause| Cause {
            is_unknown: cause.is_unknown,
            ..Cause::new(directive, cover)
        };
        let holds = self.environment.condition(directive, exchange);
        if holds == Some(false) {
            return Ok(Flow::Next);
        }
        if holds == Some(true) {
            *applied = Some(directive);
            let flow = self.execute(directive.inner(), cover, exchange, &mut None);
            return flow.map_err(ended);
        }
        let changes_handler = directive.inner().iter().any(|d| d.name.ends_with("_pass"));
        let path = exchange.path.clone();
        let was_changed = std::mem::take(&mut exchange.is_changed);
        let flow =
            exchange.maybe(|exchange| self.execute(directive.inner(), cover, exchange, &mut None));
        let has_effect = changes_handler
            || exchange.path != path
            || exchange.is_changed
            || flow.ok() != Some(Flow::Next);
        exchange.is_changed = was_changed;
        if has_effect {
            return Err(Cause::new(directive, cover).unknown());
        }
        Ok(Flow::Next)
    }

    /// Checks access control: client networks and passwords, under `satisfy`.
    fn check_access(
        &self,
        location: &LocationNode<'a>,
        directive: &'a Directive,
        scope: &Scope<'a>,
        exchange: &Exchange<'_>,
    ) -> Result<(), Cause> {
        let rules = self.access_rules(directive, scope);
        let rules = rules.as_ref().as_ref();
        let rules = rules.map_err(|decisive| Cause::location(location, *decisive).unknown())?;
        let network = rules.networks.and_then(|rule| {
            self.environment.note(|on| {
                on.rules.insert(rule);
            });
            match self.rules().class(rule, exchange.request.client) {
                Class::Access(decision) => decision,
                Class::Value(_) => Some(false),
            }
        });
        let password = rules.password_file.as_ref().map(|file| {
            self.environment.note(|on| {
                if !on.files.contains(file) {
                    on.files.insert(file.clone());
                }
            });
            exchange.request.valid_in.as_ref() == Some(file)
        });
        let is_allowed = if rules.is_any {
            let decisions = [network, password];
            decisions.contains(&Some(true)) || !decisions.contains(&Some(false))
        } else {
            network != Some(false) && password != Some(false)
        };
        if is_allowed {
            Ok(())
        } else {
            Err(Cause::location(location, None))
        }
    }

    fn access_rules(&self, directive: &'a Directive, scope: &Scope<'a>) -> Rc<KnownAccess<'a>> {
        let key = std::ptr::from_ref(directive);
        if let Some(known) = self.access.borrow().get(&key) {
            return Rc::clone(known);
        }
        let rules = Rc::new(self.read_access(directive, scope));
        self.access.borrow_mut().insert(key, Rc::clone(&rules));
        rules
    }

    fn read_access(&self, directive: &Directive, scope: &Scope<'a>) -> KnownAccess<'a> {
        if let Some(restriction) = unsupported::restriction(scope) {
            return Err(Some(restriction));
        }
        let login = access::login(self.context, scope).map_err(|_| None)?;
        let networks = Networks::read(scope).map_err(|_| None)?;
        let first = scope.any_of(&["allow", "deny"]).first().map(|rule| rule.at);
        let at = first.unwrap_or(directive.at);
        Ok(AccessRules {
            networks: (!networks.is_empty()).then(|| self.rules().networks(at, networks)),
            password_file: login.map(|login| login.htpasswd),
            is_any: scope.value("satisfy") == "any",
        })
    }

    fn forward(
        &self,
        location: &LocationNode<'a>,
        pass: &Directive,
        scope: &Scope<'a>,
        exchange: &Exchange<'_>,
    ) -> Result<Outcome, Cause> {
        let unknown = || Cause::location(location, Some(pass)).unknown();
        // nginx sends a path with variables as it is, also if it is the whole request target.
        let whole_target = pass.first().strip_suffix("$request_uri");
        let written = path_without_query(whole_target.unwrap_or_else(|| pass.first()));
        let address = written.and_then(|written| self.environment.interpolate(written, exchange));
        let target = address
            .as_ref()
            .and_then(|address| PassTarget::parse(&address.value))
            .filter(|target| !target.is_chosen_by_code(self.context))
            .ok_or_else(unknown)?;
        let target_path = path_without_query(&target.path).ok_or_else(unknown)?;
        let path = if whole_target.is_some() {
            format!("{target_path}{}", exchange.request.path)
        } else if target_path.is_empty() {
            exchange.path.clone()
        } else if pass.first().contains('$') {
            target_path.to_owned()
        } else if exchange.replaces_location {
            let replaced = location.name.len().min(exchange.path.len());
            let rest = exchange.path.get(replaced..).unwrap_or_default();
            format!("{target_path}{rest}")
        } else {
            exchange.path.clone()
        };
        let urls = target.urls(self.context);
        let urls = urls.iter().filter_map(|url| upstream_url(url).ok());
        Ok(Outcome::Forward {
            urls: urls.map(|url| url.to_string()).collect(),
            path,
            sends_authorization: !removes_authorization(scope),
        })
    }
}

/// A target without its query, if this is empty or the one of the client; `None` if it is another one.
fn path_without_query(target: &str) -> Option<&str> {
    let path = target.strip_suffix("$is_args$args").unwrap_or(target);
    match path.split_once('?') {
        None => Some(path),
        Some((path, "" | "$args" | "$query_string")) => Some(path),
        Some(_) => None,
    }
}

/// nginx's limit of internal redirects.
const MAX_REDIRECTS: usize = 10;
