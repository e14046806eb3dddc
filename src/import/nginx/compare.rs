//! Closes every route through which tidegate would forward a request that nginx does not forward.
//!
//! The importer translates locations by their usual meaning. Then [`close_differences`] builds the configuration, compares the model of
//! tidegate with the model of nginx for all probes, and closes or narrows the routes and sites with a difference, until there is
//! none.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;

use http::Method;

use crate::config::url::path_prefix;
use crate::config::{self, Auth, Config};
use crate::site::is_path_prefix;

use crate::import::nginx::client_rules::{ClientSource, Dependencies, RuleId};
use crate::import::nginx::nginx_model::{NginxModel, SelectedServer};
use crate::import::nginx::output::{self, Line, OutputConfig, Route, RouteAction, Site};
use crate::import::nginx::parser::SourcePos;
use crate::import::nginx::probes::{HostProbes, Probes};
use crate::import::nginx::request::Request;
use crate::import::nginx::tidegate_model::{self, Forwarded, Routes, SiteMatch, Sites};
use crate::import::nginx::verdict::{Outcome, Verdict};

/// A remark with its position.
type Warning = (SourcePos, String);

/// A request that tidegate forwards and nginx does not, or not in the same way.
struct Difference {
    request: Request,
    /// The address at which tidegate receives the request.
    own_address: SocketAddr,
    forwarded: Forwarded,
    verdict: Verdict,
}

impl Difference {
    /// What shows the difference, for a warning. `route` names the route that would forward the request.
    fn shown(&self, route: &str) -> String {
        let request = &self.request;
        match self.verdict.outcome {
            Outcome::Unknown => {
                format!("the importer does not know whether nginx forwards {request}")
            }
            _ => format!("nginx does not forward {request} as {route} would"),
        }
    }
}

/// Closes all differences. Returns a warning for each change.
pub(crate) fn close_differences(
    output: &mut OutputConfig,
    model: &NginxModel<'_>,
    probes: &Probes,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut budget = Budget::new(output.sites.len());
    let mut pending: HashSet<SourcePos> = output.sites.iter().map(|site| site.at).collect();
    let clients = ClientSource::of_tidegate(&output.listen);
    for site in &mut output.sites {
        if site.addresses.is_empty() {
            close_site(site, NO_ADDRESS, &mut warnings);
        }
    }
    for _ in 0..MAX_ROUNDS {
        let config = match build(output) {
            Ok(config) => config,
            Err(error) => {
                // The operator will correct the error and start a configuration that was not compared.
                let reason = format!("{NOT_COMPARED} ({error})");
                for site in &mut output.sites {
                    close_site(site, &reason, &mut warnings);
                }
                return warnings;
            }
        };
        let round = Round {
            config: &config,
            model,
            probes,
            clients: &clients,
            sites: &output.sites,
            budget: &mut budget,
            warnings: &mut warnings,
            differences: Vec::new(),
        };
        let differences = round.find(&pending);
        for site in &mut output.sites {
            if pending.contains(&site.at) && budget.is_exhausted(site.at) {
                close_site(site, TOO_MANY, &mut warnings);
            }
        }
        if differences.is_empty() {
            return warnings;
        }
        let hosts = all_hosts(output);
        pending.clear();
        for difference in &differences {
            let Some(site) = output.sites.get(difference.forwarded.site) else {
                continue;
            };
            if budget.is_exhausted(site.at) {
                continue;
            }
            pending.insert(site.at);
            if let Some(warning) = close(output, &config, model, probes, difference) {
                warnings.push(warning);
            }
        }
        output.remove_unused();
        if output.sites.is_empty() {
            return warnings;
        }
        if all_hosts(output) != hosts {
            // The requests for a host that a site lost may take another site.
            pending = output.sites.iter().map(|site| site.at).collect();
        }
    }
    for site in &mut output.sites {
        close_site(site, NO_END, &mut warnings);
    }
    warnings
}

/// The configuration that tidegate reads from the output, or the first error in it.
pub(crate) fn build(output: &OutputConfig) -> Result<Config, String> {
    let mut text = String::new();
    output::write_tables(&mut text, output, &[]);
    let (config, problems) = config::parse(Path::new("/etc/tidegate/proxy.toml"), text.as_bytes());
    if let Some(error) = problems.errors().next() {
        return Err(error.what.clone());
    }
    config.ok_or_else(|| "unreadable".to_owned())
}

fn all_hosts(output: &OutputConfig) -> Vec<Vec<String>> {
    let hosts = output.sites.iter().map(|site| site.hosts.clone());
    hosts.collect()
}

/// Closes every route of a site that forwards.
fn close_site(site: &mut Site, reason: &str, warnings: &mut Vec<Warning>) {
    let warning = format!("every route of this site is closed: {reason}");
    warnings.push((site.at, warning));
    for route in site.routes.iter_mut().filter(|route| route.is_forwarding()) {
        route.action = closed(reason);
    }
}

/// The work that a comparison may take, so that no configuration keeps an import busy for minutes.
///
/// Each site has the same share for all rounds. A site whose share is used up was not compared completely and has to be closed.
struct Budget {
    per_site: usize,
    used: HashMap<SourcePos, usize>,
}

impl Budget {
    /// Creates the budget of a configuration with this number of sites.
    fn new(sites: usize) -> Self {
        Self {
            per_site: (MAX_WORK / sites.max(1)).max(MIN_WORK_PER_SITE),
            used: HashMap::new(),
        }
    }

    /// Takes work from the share of a site. Returns `false` if the share is used up.
    fn take(&mut self, site: SourcePos, work: usize) -> bool {
        let used = self.used.entry(site).or_default();
        *used = used.saturating_add(work);
        *used <= self.per_site
    }

    fn is_exhausted(&self, site: SourcePos) -> bool {
        self.used
            .get(&site)
            .is_some_and(|used| *used > self.per_site)
    }
}

/// One comparison of the sites with nginx.
struct Round<'r, 'a> {
    config: &'r Config,
    model: &'r NginxModel<'a>,
    probes: &'r Probes,
    /// How tidegate determines the address of the client.
    clients: &'r ClientSource,
    /// The sites in the order of `config.sites`.
    sites: &'r [Site],
    budget: &'r mut Budget,
    warnings: &'r mut Vec<Warning>,
    /// The differences found so far: one for each route and cause.
    differences: Vec<Difference>,
}

/// The requests for one host at one address, with what the two models need to know of both.
struct HostRequests<'r> {
    /// The address of nginx, and the address of tidegate in its place.
    address: SocketAddr,
    own_address: SocketAddr,
    host: &'r str,
    /// The server block of nginx that receives the requests.
    server: Option<SelectedServer>,
    /// Whether both determine the same address of the client.
    has_same_clients: bool,
    site: SiteMatch<'r>,
    /// The position of the server block from which the site was made.
    site_at: SourcePos,
}

/// The clients that are compared, by the route, the rules of nginx, and whether nginx compares the text of an address.
type Clients = HashMap<(*const config::Route, BTreeSet<RuleId>, bool), Rc<Vec<IpAddr>>>;

impl Round<'_, '_> {
    /// Compares the sites that are in `pending`, and returns the differences.
    fn find(mut self, pending: &HashSet<SourcePos>) -> Vec<Difference> {
        let mut host_probes = HashMap::new();
        // Whether the outcome of the requests for a site depends on their host or address.
        let mut compared: HashMap<_, bool> = HashMap::new();
        let sites = Sites::new(self.config);
        let pairs: BTreeSet<_> = self.sites.iter().flat_map(|site| &site.addresses).collect();
        for pair in pairs {
            let (address, own_address) = *pair;
            for host in self.probes.hosts() {
                let Some(site) = sites.find(own_address, host) else {
                    continue;
                };
                let Some(written) = self.sites.get(site.index) else {
                    continue;
                };
                let site_at = written.at;
                if !pending.contains(&site_at) || !written.addresses.contains(pair) {
                    continue;
                }
                let server = self.model.server(address, host);
                let key = (server, site.index, site.pattern);
                if compared.get(&key) == Some(&false) || self.budget.is_exhausted(site_at) {
                    continue;
                }
                let server_at = server.map(|selected| selected.at);
                let (probes, routes, clients) =
                    host_probes.entry((server_at, site_at)).or_insert_with(|| {
                        let probes = self.probes.for_host(server_at, site_at, site.site);
                        (probes, site.routes(), Clients::new())
                    });
                let Some(probes) = probes else {
                    self.budget.take(site_at, usize::MAX);
                    continue;
                };
                let requests = HostRequests {
                    address,
                    own_address,
                    host,
                    server,
                    has_same_clients: server.is_none_or(|server| {
                        self.model.client_source(server).as_ref() == Some(self.clients)
                    }),
                    site,
                    site_at,
                };
                if server.is_some_and(|server| server.is_of_other_family) {
                    let what = format!(
                        "nginx serves {host} at {own_address} by its default server, because the server block listens on the other address family alone; tidegate serves it on both"
                    );
                    self.warn(site_at, &what, None);
                }
                let depends_on_host = self.compare_host(&requests, probes, routes, clients);
                compared.insert(key, depends_on_host);
            }
        }
        self.differences
    }

    /// Compares the requests for a host. Returns whether their outcome depends on the host or the address.
    fn compare_host(
        &mut self,
        requests: &HostRequests<'_>,
        probes: &HostProbes,
        routes: &Routes<'_>,
        clients: &mut Clients,
    ) -> bool {
        let mut depends_on_host = false;
        for path in &probes.paths {
            let Some(route) = routes.find(path) else {
                continue;
            };
            let steps = self.model.steps();
            depends_on_host |= self.compare_path(requests, probes, clients, path, route);
            let work = (self.model.steps() - steps) / STEPS_PER_REQUEST;
            if !self.budget.take(requests.site_at, 1 + work) {
                return true;
            }
        }
        depends_on_host
    }

    /// Compares the requests with one path, up to the first difference: other requests would have the same cause. Returns whether
    /// their outcome depends on the host or the address.
    ///
    /// Only the properties are varied that decide in one of the models. A request with other properties may show that more of them
    /// decide, so the requests are compared until no property is new.
    fn compare_path(
        &mut self,
        requests: &HostRequests<'_>,
        probes: &HostProbes,
        clients: &mut Clients,
        path: &str,
        route: &config::Route,
    ) -> bool {
        let mut known = Dependencies::default();
        if let Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. } = &route.auth {
            known
                .files
                .extend(htpasswd.value.to_str().map(str::to_owned));
        }
        let mut request = Request::get(requests.address, requests.host, path);
        loop {
            let before = known.clone();
            let clients = self.clients(clients, probes, requests, route, &known);
            for method in methods(&mut request, probes, route, &known) {
                request.method = method;
                for has_certificate in certificates(requests.site, &known) {
                    request.has_certificate = *has_certificate;
                    for file in std::iter::once(None).chain(known.files.iter().map(Some)) {
                        request.valid_in = file.cloned();
                        for client in clients.iter() {
                            request.client = *client;
                            if !self.budget.take(requests.site_at, 1) {
                                return true;
                            }
                            if requests.site.is_forwarded(route, &request)
                                && self.compare_request(requests, route, &request)
                            {
                                return self.model.take_dependencies().host || known.host;
                            }
                        }
                    }
                }
            }
            let Dependencies {
                method,
                certificate,
                host,
                client_text,
                rules,
                files,
            } = self.model.take_dependencies();
            known.method |= method;
            known.certificate |= certificate;
            known.host |= host;
            known.client_text |= client_text;
            known.rules.extend(rules);
            known.files.extend(files);
            if known == before {
                return known.host;
            }
        }
    }

    /// One client for each combination of what the rules of nginx and the networks of the route say about it.
    fn clients(
        &mut self,
        cache: &mut Clients,
        probes: &HostProbes,
        requests: &HostRequests<'_>,
        route: &config::Route,
        known: &Dependencies,
    ) -> Rc<Vec<IpAddr>> {
        let key = (
            std::ptr::from_ref(route),
            known.rules.clone(),
            known.client_text,
        );
        if let Some(clients) = cache.get(&key) {
            return Rc::clone(clients);
        }
        let rules = self.model.rules();
        let networks: usize = known.rules.iter().map(|rule| rules.len(*rule)).sum();
        let work = probes.clients.len().saturating_mul(networks + 1) / TESTS_PER_REQUEST;
        let mut clients = Vec::new();
        if self.budget.take(requests.site_at, work) {
            let mut seen = HashSet::new();
            clients.extend(probes.clients.iter().filter(|client| {
                let classes: Vec<_> = known
                    .rules
                    .iter()
                    .map(|rule| rules.class(*rule, **client))
                    .collect();
                let network = tidegate_model::network(route, **client);
                let text = known.client_text.then_some(**client);
                seen.insert((classes, network, text))
            }));
        }
        let clients = Rc::new(clients);
        cache.insert(key, Rc::clone(&clients));
        clients
    }

    /// Compares a request that tidegate forwards. Returns whether it is a difference that has to be closed.
    fn compare_request(
        &mut self,
        requests: &HostRequests<'_>,
        route: &config::Route,
        request: &Request,
    ) -> bool {
        let forwarded = requests.site.forwarded(route, request);
        let mut nginx = respond(self.model, requests.server, request);
        let is_same = nginx.is_same(&forwarded);
        if is_same && (requests.has_same_clients || !self.model.has_read_client()) {
            return false;
        }
        if is_same {
            nginx.verdict.cause.label.push_str(OTHER_CLIENTS);
        }
        let cause = &nginx.verdict.cause;
        if request.method == Method::OPTIONS && !is_same {
            // tidegate handles OPTIONS as GET: OPTIONS opens nothing that GET does not open.
            let get = Request {
                method: Method::GET,
                ..request.clone()
            };
            if respond(self.model, requests.server, &get).is_same(&forwarded) {
                self.warn(cause.at, OPTIONS, Some(request));
                return false;
            }
        }
        if cause.is_only_missing && !is_same {
            let what = format!("{}: {NOTHING_THERE}", cause.label);
            self.warn(cause.at, &what, Some(request));
            return false;
        }
        if nginx.is_sibling_elsewhere(&forwarded) {
            let what = format!(
                "{}: {SIBLINGS}, by the route {}",
                cause.label, forwarded.route
            );
            self.warn(cause.at, &what, Some(request));
            return false;
        }
        let is_known = self.differences.iter().any(|known| {
            known.forwarded.site == forwarded.site
                && known.forwarded.route == forwarded.route
                && known.verdict.cause.cover == cause.cover
                && known.verdict.server == nginx.verdict.server
                && (known.forwarded.host == forwarded.host || forwarded.host == request.host)
        });
        if !is_known {
            self.differences.push(Difference {
                request: request.clone(),
                own_address: requests.own_address,
                forwarded,
                verdict: nginx.verdict,
            });
        }
        true
    }

    /// Adds a warning once, with the first request that shows it.
    fn warn(&mut self, at: SourcePos, what: &str, example: Option<&Request>) {
        let is_same = |known: &Warning| known.0 == at && known.1.starts_with(what);
        if !self.warnings.iter().any(is_same) {
            let example = example.map(|request| format!(", for example {request}"));
            let what = format!("{what}{}", example.unwrap_or_default());
            self.warnings.push((at, what));
        }
    }
}

/// The methods that are compared: all of them if the method decides, else the first one that tidegate forwards.
fn methods(
    request: &mut Request,
    probes: &HostProbes,
    route: &config::Route,
    known: &Dependencies,
) -> Vec<Method> {
    let mut methods = probes.methods.clone();
    if known.method || route.grants.is_some() {
        return methods;
    }
    methods.retain(|method| {
        request.method = method.clone();
        tidegate_model::is_parsed(route, request)
    });
    methods.truncate(1);
    methods
}

/// Whether the client presents a certificate.
fn certificates(site: SiteMatch<'_>, known: &Dependencies) -> &'static [bool] {
    if site.requires_certificate() {
        &[true]
    } else if known.certificate {
        &[false, true]
    } else {
        &[false]
    }
}

/// What nginx does with a request. A redirect to the path with a slash counts as what nginx does with that path.
struct Response {
    verdict: Verdict,
    is_slash_redirect: bool,
}

fn respond(model: &NginxModel<'_>, server: Option<SelectedServer>, request: &Request) -> Response {
    let verdict = model.respond(server, request);
    let is_slash_redirect = verdict.cause.is_slash_redirect && verdict.outcome == Outcome::Closed;
    if !is_slash_redirect {
        return Response {
            verdict,
            is_slash_redirect,
        };
    }
    let with_slash = Request {
        path: format!("{}/", request.path),
        ..request.clone()
    };
    Response {
        verdict: model.respond(server, &with_slash),
        is_slash_redirect,
    }
}

impl Response {
    /// Whether nginx forwards the request as tidegate does: to the same upstream, with the same path, and with no fewer credentials.
    fn is_same(&self, forwarded: &Forwarded) -> bool {
        let Outcome::Forward { urls, path, .. } = &self.verdict.outcome else {
            return false;
        };
        let bare = |path: &str| path.trim_end_matches('/').to_owned();
        let is_same_path = *path == forwarded.path
            || (self.is_slash_redirect && bare(path) == bare(&forwarded.path));
        is_same_path
            && forwarded.urls.iter().all(|url| urls.contains(url))
            && self.sends_no_less(forwarded)
    }

    /// Whether tidegate sends the credentials of the client to the upstream only if nginx does: nginx passes on the `Authorization`
    /// field of the request, or tidegate removes it as well. The verdict of nginx is `self`, and `forwarded` is that of tidegate.
    fn sends_no_less(&self, forwarded: &Forwarded) -> bool {
        let Outcome::Forward {
            sends_authorization,
            ..
        } = self.verdict.outcome
        else {
            return false;
        };
        sends_authorization || !forwarded.sends_authorization
    }

    /// Whether nginx forwards the request to another upstream than tidegate does, because the path begins with the text of a location
    /// without being below it, such as `/v2x` for `location /v2`. A route of tidegate matches whole segments of a path, so that no route
    /// can stand for such paths, and clients do not request them.
    fn is_sibling_elsewhere(&self, forwarded: &Forwarded) -> bool {
        let Outcome::Forward { urls, .. } = &self.verdict.outcome else {
            return false;
        };
        self.verdict.cause.is_sibling
            && !forwarded.urls.iter().any(|url| urls.contains(url))
            && self.sends_no_less(forwarded)
    }
}

/// Closes one difference. Returns the warning, or `None` if an earlier change of this round may have closed it.
fn close(
    output: &mut OutputConfig,
    config: &Config,
    model: &NginxModel<'_>,
    probes: &Probes,
    difference: &Difference,
) -> Option<Warning> {
    let Difference {
        request,
        forwarded,
        verdict,
        ..
    } = difference;
    let taken = all_hosts(output).concat();
    let site = output.sites.get_mut(forwarded.site)?;
    let is_other_server = verdict.server != Some(site.at);
    let is_pattern = forwarded.host != request.host;
    if is_other_server || is_pattern {
        let names = if is_pattern {
            names_without_difference(config, model, probes, difference, &taken)
        } else {
            Vec::new()
        };
        if is_other_server || !names.is_empty() {
            return narrow_hosts(site, difference, names);
        }
    }
    close_path(site, difference)
}

/// The hosts that match the pattern of a site and for which the same request makes no difference.
fn names_without_difference(
    config: &Config,
    model: &NginxModel<'_>,
    probes: &Probes,
    difference: &Difference,
    taken: &[String],
) -> Vec<String> {
    let mut names = Vec::new();
    let sites = Sites::new(config);
    for host in probes.hosts() {
        let request = Request {
            host: host.clone(),
            ..difference.request.clone()
        };
        let Some(forwarded) = sites.forward(difference.own_address, &request) else {
            continue;
        };
        let server = model.server(request.address, host);
        let is_of_pattern = forwarded.site == difference.forwarded.site
            && forwarded.host == difference.forwarded.host;
        let is_name = config::address::host_pattern(host).is_ok() && !host.contains('*');
        if is_of_pattern
            && is_name
            && !host.ends_with(".invalid")
            && !taken.contains(host)
            && respond(model, server, &request).is_same(&forwarded)
        {
            names.push(host.clone());
        }
    }
    names
}

/// Replaces the pattern of a site by names.
fn narrow_hosts(site: &mut Site, difference: &Difference, names: Vec<String>) -> Option<Warning> {
    let pattern = &difference.forwarded.host;
    let position = site.hosts.iter().position(|host| host == pattern)?;
    site.hosts.remove(position);
    site.hosts_comment.clear();
    let replaced = if names.is_empty() {
        "is left out".to_owned()
    } else {
        format!("became {}", names.join(", "))
    };
    site.hosts.extend(names);
    let what = format!(
        "host {pattern} {replaced}: nginx does not forward {} at {} ({})",
        difference.request, difference.request.address, difference.verdict.cause.label
    );
    Some((site.at, what))
}

/// Closes the paths for which the cause decides: by routes of their own, or by the conditions of the cause's location, or else by
/// closing the route. Returns `None` if an earlier difference of this round added the routes.
fn close_path(site: &mut Site, difference: &Difference) -> Option<Warning> {
    let Difference {
        request,
        forwarded,
        verdict: Verdict { cause, .. },
        ..
    } = difference;
    let outer = forwarded.route.trim_end_matches('/');
    let cover = route_path(&cause.cover);
    let mut routes = site.routes.iter();
    let conditions = routes.find(|route| route.at == cause.at && route.is_forwarding());
    let conditions = conditions.cloned();
    let is_few = cause.paths.contains(&request.path) && outer != request.path.trim_end_matches('/');
    let paths: BTreeSet<&str> = if is_few {
        let paths = cause.paths.iter().map(|path| path.trim_end_matches('/'));
        let inner = paths.filter(|path| *path != outer && is_path_prefix(path, outer));
        inner.collect()
    } else if cover.len() > outer.len() && is_path_prefix(&request.path, cover) {
        BTreeSet::from([cover])
    } else {
        return close_own_path(site, difference, conditions);
    };
    let is_new = |path: &&str| !site.routes.iter().any(|route| route.has_path(path));
    let paths: Vec<String> = paths
        .into_iter()
        .filter(is_new)
        .map(str::to_owned)
        .collect();
    if paths.is_empty() {
        return None;
    }
    let what = match (is_few, &conditions) {
        (true, Some(_)) => "have the conditions of",
        (true, None) => "are closed because of",
        (false, Some(_)) => "has the conditions of",
        (false, None) => "is closed because of",
    };
    let what = format!(
        "the {} {} {what} {}: {}",
        if is_few { "paths" } else { "route" },
        paths.join(", "),
        cause.label,
        difference.shown(&format!("the route {}", forwarded.route))
    );
    let location = cause.label.strip_prefix("location ");
    let location = location.map_or_else(|| format!("for {}", cause.label), str::to_owned);
    let action = conditions.map_or_else(|| closed(&cause.label), |route| route.action);
    site.routes.extend(paths.into_iter().map(|path| Route {
        at: cause.at,
        location: location.clone(),
        path,
        comment: None,
        action: action.clone(),
    }));
    Some((cause.at, what))
}

/// Gives the route itself the conditions of the cause's location, or closes it.
fn close_own_path(
    site: &mut Site,
    difference: &Difference,
    conditions: Option<Route>,
) -> Option<Warning> {
    let Difference {
        forwarded,
        verdict: Verdict { cause, .. },
        ..
    } = difference;
    let mut routes = site.routes.iter_mut();
    let route = routes.find(|route| route.path == forwarded.route)?;
    let (what, remedy) = match conditions.filter(|conditions| conditions.at != route.at) {
        Some(conditions) => {
            route.at = conditions.at;
            take_conditions(&mut route.action, conditions.action);
            ("has the conditions of", "")
        }
        None => {
            route.action = closed(&cause.label);
            ("is closed because of", REMEDY)
        }
    };
    let shown = difference.shown("the route");
    let what = format!(
        "the route {} {what} {}: {shown}{remedy}",
        route.path, cause.label
    );
    Some((cause.at, what))
}

/// The longest prefix of a cover that a route can have as its path, on a segment boundary.
fn route_path(cover: &str) -> &str {
    let mut path = cover;
    while path_prefix(path).is_err() {
        let Some((parent, _)) = path.rsplit_once('/') else {
            return "";
        };
        path = parent;
    }
    path
}

/// Replaces the conditions of an action by those of another one. The upstream remains, because nginx forwards most of the paths to it.
fn take_conditions(action: &mut RouteAction, model: RouteAction) {
    match (action, model) {
        (
            RouteAction::Forward { lines, grants },
            RouteAction::Forward {
                lines: model,
                grants: model_grants,
            },
        ) if grants.is_empty()
            && model_grants.is_empty()
            // A value may have {user}, which needs the route's own `auth`.
            && !lines.iter().any(|line| line.key == "request_headers") =>
        {
            let is_condition = |line: &Line| CONDITIONS.contains(&line.key);
            lines.retain(|line| !is_condition(line));
            lines.extend(model.into_iter().filter(is_condition));
        }
        (action, model) => *action = model,
    }
}

fn closed(reason: &str) -> RouteAction {
    RouteAction::respond(403, Some(format!("closed: {reason}")))
}

/// The maximum number of rounds. Each round closes at least one route or host, so more rounds are an error of the models.
const MAX_ROUNDS: usize = 200;
/// The work of the comparison of all sites together, in requests. It takes some seconds without optimizations.
const MAX_WORK: usize = 1_000_000;
/// The work that a site may have even if there are many sites.
const MIN_WORK_PER_SITE: usize = 4_000;
/// The number of steps of location searches that take as long as the rest of a request.
const STEPS_PER_REQUEST: usize = 16;
/// The number of tests whether a network contains a client that take as long as a request.
const TESTS_PER_REQUEST: usize = 100;
/// The keys that decide about who may use a route.
const CONDITIONS: &[&str] = &["auth", "allow", "deny", "satisfy"];
const REMEDY: &str = "; write upstream and auth in place of respond when you know who may use it";
const NO_END: &str = "the comparison with nginx did not end";
const TOO_MANY: &str = "its paths, hosts, networks and password files are too many to compare them with nginx; import its server block without the others, with fewer of them, or compare each location by hand and write upstream and auth in place of respond";
const NOT_COMPARED: &str = "the result has an error, so it is not compared with nginx: correct the nginx file and import again, or compare each location by hand and write upstream and auth in place of respond";
const NO_ADDRESS: &str = "its listen directives have no IP address and port, so it is not compared with nginx: write listen ADDRESS:PORT in place of a socket, a name or a range of ports and import again, or compare each location by hand and write upstream and auth in place of respond";
const OTHER_CLIENTS: &str = " (rules about client addresses, but set_real_ip_from, real_ip_header, real_ip_recursive or proxy_protocol make nginx read another address than tidegate does: see docs/from-nginx.md)";
const NOTHING_THERE: &str =
    "nginx serves files or responds itself to some paths that tidegate forwards to the upstream";
const SIBLINGS: &str = "paths that only begin with this text reach another upstream than in nginx";
const OPTIONS: &str = "tidegate handles OPTIONS as GET: it forwards OPTIONS where nginx responded itself or required more";
