//! The requests that nginx forwards and tidegate does not, for the list at the top of the written file.
//!
//! `compare` closes what would be open. This list says what that costs: one request for each route and reason.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;

use http::Method;

use crate::config::{self, Auth, Config};
use crate::site::is_path_prefix;

use crate::import::nginx::compare::build;
use crate::import::nginx::nginx_model::{NginxModel, SelectedServer};
use crate::import::nginx::output::{OutputConfig, RouteAction, Site};
use crate::import::nginx::probes::Probes;
use crate::import::nginx::request::Request;
use crate::import::nginx::tidegate_model::{self, SiteMatch, Sites};
use crate::import::nginx::verdict::Outcome;

/// Describes the differences, the sites in their order. The list is empty if the configuration has errors.
pub(crate) fn list(output: &OutputConfig, model: &NginxModel<'_>, probes: &Probes) -> Vec<String> {
    build(output).map_or_else(
        |_| Vec::new(),
        |config| {
            let search = StricterSearch {
                config: &config,
                sites: &output.sites,
                model,
                probes,
                reasons: HashSet::new(),
                found: Vec::new(),
                has_other_hosts: false,
                is_complete: true,
            };
            search.all()
        },
    )
}

struct StricterSearch<'s, 'a> {
    config: &'s Config,
    /// The sites in the order of `config.sites`.
    sites: &'s [Site],
    model: &'s NginxModel<'a>,
    probes: &'s Probes,
    /// The reasons found so far, each with the index of its site.
    reasons: HashSet<(usize, String)>,
    /// The differences, each with the index of its site.
    found: Vec<(usize, String)>,
    /// Whether nginx forwards requests for hosts without a site.
    has_other_hosts: bool,
    is_complete: bool,
}

impl StricterSearch<'_, '_> {
    fn all(mut self) -> Vec<String> {
        let sites = Sites::new(self.config);
        let pairs: BTreeSet<_> = self.sites.iter().flat_map(|site| &site.addresses).collect();
        let mut seen = HashSet::new();
        for (address, own_address) in pairs.iter().copied() {
            for host in self.probes.hosts() {
                let Some(server) = self.model.server(*address, host) else {
                    continue;
                };
                let Some(origin) = self.sites.iter().position(|site| site.at == server.at) else {
                    continue;
                };
                let site = sites.find(*own_address, host);
                let mut own_addresses = pairs.iter().map(|(_, own)| *own);
                let has_site = own_addresses.any(|own| sites.find(own, host).is_some());
                let name = site.map(|site| (site.index, site.pattern));
                if !seen.insert((server, name)) {
                    continue;
                }
                match site {
                    Some(site) => self.site(*address, host, server, site),
                    None => self.host(*address, host, server, has_site.then_some(origin)),
                }
            }
        }
        self.found.sort_by_key(|(site, _)| *site);
        let other_hosts = self.has_other_hosts.then(|| OTHER_HOSTS.to_owned());
        let found = self.found.into_iter().map(|(_, line)| line);
        let mut lines: Vec<_> = other_hosts.into_iter().chain(found).collect();
        if lines.len() > MAX_LINES {
            let more = lines.len() - MAX_LINES;
            lines.truncate(MAX_LINES);
            lines.push(format!("and {more} more"));
        }
        if !self.is_complete {
            lines.push("the requests are too many, so the list is not complete".to_owned());
        }
        lines
    }

    /// Finds a request for a host without a site at this address. `origin` is the site of nginx's server block; `None` if no address
    /// has a site for the host.
    fn host(
        &mut self,
        address: SocketAddr,
        host: &str,
        server: SelectedServer,
        origin: Option<usize>,
    ) {
        for path in ["/v2/", "/"] {
            let mut request = Request::get(address, host, path);
            if self.is_forwarded_with_any_file(server, &mut request) {
                match origin {
                    Some(origin) => self.add(origin, &request, OTHER_ADDRESS.to_owned()),
                    None => self.has_other_hosts = true,
                }
                return;
            }
        }
    }

    fn is_forwarded_with_any_file(&self, server: SelectedServer, request: &mut Request) -> bool {
        self.model.take_dependencies();
        if self.is_forwarded(server, request) {
            return true;
        }
        self.model
            .take_dependencies()
            .files
            .into_iter()
            .any(|file| {
                request.valid_in = Some(file);
                self.is_forwarded(server, request)
            })
    }

    fn is_forwarded(&self, server: SelectedServer, request: &Request) -> bool {
        let outcome = self.model.respond(Some(server), request).outcome;
        matches!(outcome, Outcome::Forward { .. })
    }

    /// Finds the requests for a host with a site.
    fn site(
        &mut self,
        address: SocketAddr,
        host: &str,
        server: SelectedServer,
        site: SiteMatch<'_>,
    ) {
        let Some(written) = self.sites.get(site.index) else {
            return;
        };
        let probes = self.probes.for_host(Some(server.at), written.at, site.site);
        let Some(probes) = probes else {
            self.is_complete = false;
            return;
        };
        let routes = site.routes();
        let mut paths: Vec<_> = probes.paths.iter().collect();
        paths.sort_by_key(|path| {
            (
                path.bytes().any(|byte| byte.is_ascii_uppercase()),
                path.len(),
            )
        });
        let certificates = if site.site.client_auth.is_some() {
            &[false, true][..]
        } else {
            &[false]
        };
        let mut work = 0_usize;
        for path in paths {
            let route = routes.find(path);
            let mut request = Request::get(address, host, path);
            for has_certificate in certificates {
                request.has_certificate = *has_certificate;
                request.valid_in = None;
                self.model.take_dependencies();
                self.compare(server, site, route, &request);
                let on = self.model.take_dependencies();
                let mut files = on.files;
                if let Some(Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. }) =
                    route.map(|route| &route.auth)
                {
                    files.extend(htpasswd.value.to_str().map(str::to_owned));
                }
                let has_grants = route.is_some_and(|route| route.grants.is_some());
                let methods = if on.method || has_grants {
                    probes.methods.as_slice()
                } else {
                    &[Method::GET]
                };
                let has_networks = !on.rules.is_empty() || probes.clients.len() > 1;
                let clients = if has_networks { MAX_CLIENTS } else { 1 };
                for file in std::iter::once(None).chain(files.into_iter().map(Some)) {
                    request.valid_in = file;
                    for method in methods {
                        request.method = method.clone();
                        for client in probes.clients.iter().take(clients) {
                            request.client = *client;
                            work += 1;
                            if work > MAX_WORK_PER_HOST {
                                self.is_complete = false;
                                return;
                            }
                            self.compare(server, site, route, &request);
                        }
                    }
                }
                request.method = Method::GET;
            }
        }
    }

    /// Adds a request if nginx forwards it and tidegate does not.
    fn compare(
        &mut self,
        server: SelectedServer,
        site: SiteMatch<'_>,
        route: Option<&config::Route>,
        request: &Request,
    ) {
        let is_same = route.is_some_and(|route| site.is_forwarded(route, request));
        if !is_same
            && self.is_forwarded(server, request)
            && let Some(reason) = self.reason(site, route, request)
        {
            self.add(site.index, request, reason);
        }
    }

    /// The response of tidegate and its reason; `None` if the request is none of the registry API, which tidegate rejects everywhere.
    fn reason(
        &self,
        site: SiteMatch<'_>,
        route: Option<&config::Route>,
        request: &Request,
    ) -> Option<String> {
        let Some(route) = route else {
            return Some(self.own_response(site, &request.path));
        };
        if !tidegate_model::is_parsed(route, request) {
            return None;
        }
        let path = &route.path;
        if site.requires_certificate() && !request.has_certificate {
            return Some("no response, because the site requires a client certificate".to_owned());
        }
        if tidegate_model::network(route, request.client).is_none() {
            return Some(format!(
                "403, because of allow and deny of the route {path}"
            ));
        }
        let file = match &route.auth {
            Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. } => htpasswd.value.to_str(),
            Auth::LeftToUpstream | Auth::Open => None,
        };
        let file = file.unwrap_or_default();
        if request.valid_in.as_deref() == Some(file) {
            let what = format!("403, because no grant of the route {path} permits it");
            return Some(what);
        }
        Some(format!(
            "401, because the route {path} requires a user of {file}"
        ))
    }

    /// The response of tidegate to a path that has no route which forwards.
    fn own_response(&self, site: SiteMatch<'_>, path: &str) -> String {
        let written = self.sites.get(site.index);
        let routes = written.into_iter().flat_map(|site| &site.routes);
        let matching = routes.filter(|route| is_path_prefix(path, &route.path));
        let Some(route) = matching.max_by_key(|route| route.path.trim_end_matches('/').len())
        else {
            return "404, because no route has this path".to_owned();
        };
        let (status, comment) = match &route.action {
            RouteAction::Respond {
                status, comment, ..
            } => (*status, comment.as_deref()),
            RouteAction::Files(_) => (404, Some("files over listen.http only")),
            RouteAction::Forward { .. } | RouteAction::NotSupported(_) => {
                return format!("the response of the route {}", route.path);
            }
        };
        let why = comment.map(|why| format!(" ({why})")).unwrap_or_default();
        format!("{status} by the route {}{why}", route.path)
    }

    fn add(&mut self, site: usize, request: &Request, reason: String) {
        let is_for_networks = reason.contains("allow and deny");
        let client = if is_for_networks {
            format!(" from {}", request.client)
        } else {
            String::new()
        };
        let line = format!("{request}{client}: {reason}");
        if self.reasons.insert((site, reason)) {
            self.found.push((site, line));
        }
    }
}

const OTHER_HOSTS: &str = "requests for other hosts than those in site.hosts: 421";
const OTHER_ADDRESS: &str = "421, because no site has this host at this address";
/// The maximum number of lines of the list.
const MAX_LINES: usize = 20;
/// The maximum number of requests for one host. It takes less time than the comparison of `compare`.
const MAX_WORK_PER_HOST: usize = 20_000;
/// The maximum number of clients with which each path is requested.
const MAX_CLIENTS: usize = 16;
