//! The translation of all server blocks: decides which of them become sites, and at which addresses the sites are reached.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;

use crate::import::nginx::compare::close_differences;
use crate::import::nginx::context::Context;
use crate::import::nginx::error::Error;
use crate::import::nginx::includes::Input;
use crate::import::nginx::listen;
use crate::import::nginx::listen::{Address, Listen};
use crate::import::nginx::main_context;
use crate::import::nginx::main_context::ListenAddresses;
use crate::import::nginx::nginx_model::NginxModel;
use crate::import::nginx::output::OutputConfig;
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::probes::Probes;
use crate::import::nginx::remarks::Remarks;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::server_block::ServerBlock;
use crate::import::nginx::site;
use crate::import::nginx::stricter;
use crate::import::nginx::unsupported;
use crate::import::nginx::webroot;
use crate::import::nginx::webroot::ChallengeLocation;

/// Translates the configuration. Relative paths are relative to `prefix`.
pub(crate) fn translate(input: &Input, prefix: &Path) -> Result<(OutputConfig, Remarks), Error> {
    let mut context = Context::new(&input.http, prefix);
    for (at, what) in &input.missing {
        context.warn(*at, format!("include: {what}"));
    }
    if let Some(wanted) = &input.wanted
        && let Some(first) = input.http.iter().find(|d| d.at.file == 0)
    {
        let names = wanted.iter().filter_map(|index| input.names.get(*index));
        let names = names.map(String::as_str).collect::<Vec<_>>().join(", ");
        let what = format!(
            "read as well, because it includes {names}; its other server blocks are not imported"
        );
        context.unsupported_as(AROUND, first.at, what);
    }
    if let Some(first) = input.http.first().filter(|_| !input.has_http_block) {
        context.warn(first.at, NO_HTTP_BLOCK);
    }
    let warnings_of_input = context.remarks.warning_count();
    let servers = servers(&Scope::new(&input.http));
    let model_context = Context::new(&input.http, prefix);
    let model = NginxModel::new(&model_context, &input.http, &servers);
    let mut importer = Importer {
        context,
        model: &model,
        output: OutputConfig::default(),
        addresses: ListenAddresses::default(),
        sites: Vec::new(),
        taken: HashMap::new(),
        challenges: Vec::new(),
    };
    importer.import(&servers, input.wanted.as_deref());
    let Importer {
        mut context,
        mut output,
        challenges,
        ..
    } = importer;
    let probes = Probes::new(&input.http);
    let served = webroot::add_routes(&mut output, &mut context, &model, &probes, &challenges);
    let forwarding = forwarding_routes(&output);
    let warnings = close_differences(&mut output, &model, &probes);
    let mut void = BTreeSet::new();
    add_positions(
        &input.http,
        &closed_since(forwarding, &output),
        false,
        &mut void,
    );
    let is_void = |at| void.contains(&at);
    context.remarks.forget_warnings(warnings_of_input, is_void);
    for (at, what) in warnings {
        context.warn(at, what);
    }
    context.remarks.stricter = stricter::list(&output, &model, &probes);
    unsupported::note(&input.main, &mut context.remarks);
    unsupported::note(&input.http, &mut context.remarks);
    context.remarks.forget_unsupported(&served);
    if output.sites.is_empty() {
        let warnings = context.remarks.warnings(&input.names).join("\n");
        return Err(Error::NoSite {
            what: format!("{warnings}\nno server block leads to a registry")
                .trim_start()
                .to_owned(),
            remedy: if has_proxy_pass(&input.http) {
                "write the routes by hand: the warnings say why each location is left out"
            } else {
                "name the file with the server block that has proxy_pass, or nginx.conf itself; relative includes are relative to --prefix"
            },
        });
    }
    Ok((output, context.remarks))
}

/// The positions of the locations of all routes that forward, by the position of the site and the path of the route.
fn forwarding_routes(output: &OutputConfig) -> BTreeMap<(SourcePos, String), SourcePos> {
    let mut found = BTreeMap::new();
    for site in &output.sites {
        let forwarding = site.routes.iter().filter(|route| route.is_forwarding());
        found.extend(forwarding.map(|route| ((site.at, route.path.clone()), route.at)));
    }
    found
}

/// The locations of which no route forwards requests any more.
fn closed_since(
    before: BTreeMap<(SourcePos, String), SourcePos>,
    output: &OutputConfig,
) -> BTreeSet<SourcePos> {
    let after = forwarding_routes(output);
    let all = before.into_iter();
    let (open, closed): (Vec<_>, Vec<_>) = all.partition(|(key, _)| after.contains_key(key));
    let positions = |routes: Vec<(_, SourcePos)>| routes.into_iter().map(|(_, at)| at).collect();
    let (open, closed): (BTreeSet<_>, BTreeSet<_>) = (positions(open), positions(closed));
    &closed - &open
}

/// Adds the positions of the directives in these locations, without those in locations inside of them.
fn add_positions(
    directives: &[Directive],
    locations: &BTreeSet<SourcePos>,
    is_inside: bool,
    found: &mut BTreeSet<SourcePos>,
) {
    for directive in directives {
        let is_location = directive.name == "location";
        if is_inside && !is_location {
            found.insert(directive.at);
        }
        let is_inside = if is_location {
            locations.contains(&directive.at)
        } else {
            is_inside
        };
        add_positions(directive.inner(), locations, is_inside, found);
    }
}

fn has_proxy_pass(directives: &[Directive]) -> bool {
    let mut all = directives.iter();
    all.any(|directive| directive.name == "proxy_pass" || has_proxy_pass(directive.inner()))
}

/// The server blocks with their addresses. For each address, the default server is the block with `default_server`, else
/// the first block.
pub(crate) fn servers<'a>(http: &Scope<'a>) -> Vec<ServerBlock<'a>> {
    let blocks = http.own().iter().filter(|d| d.name == "server");
    let mut servers: Vec<ServerBlock<'a>> = blocks
        .map(|directive| {
            let scope = http.inner(directive.inner());
            ServerBlock {
                listens: listen::read(directive, &scope),
                directive,
                scope,
                is_default: false,
            }
        })
        .collect();
    let mut defaults: Vec<(Address, usize, bool)> = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        for listen in &server.listens {
            match defaults
                .iter_mut()
                .find(|(address, ..)| *address == listen.address)
            {
                None => defaults.push((listen.address.clone(), index, listen.is_default)),
                Some(known) if listen.is_default && !known.2 => {
                    *known = (listen.address.clone(), index, true);
                }
                Some(_) => {}
            }
        }
    }
    for (index, server) in servers.iter_mut().enumerate() {
        server.is_default = defaults.iter().any(|(_, default, _)| *default == index);
    }
    servers
}

/// The state of a translation.
struct Importer<'m, 'a> {
    context: Context<'a>,
    model: &'m NginxModel<'a>,
    output: OutputConfig,
    addresses: ListenAddresses,
    /// The server blocks that became sites.
    sites: Vec<SiteOrigin<'a>>,
    /// The hosts that have a site, each with the addresses of these sites.
    taken: HashMap<String, Vec<Listen>>,
    /// The locations with the files of an ACME client, in the server blocks of sites and of redirects.
    challenges: Vec<ChallengeLocation<'a>>,
}

/// The server block from which a site was made.
struct SiteOrigin<'a> {
    scope: Scope<'a>,
    /// The addresses of nginx, each with the one of tidegate.
    listens: Vec<(Listen, Listen)>,
}

/// Where tidegate serves a site.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// At the addresses with TLS.
    Tls,
    /// nginx had no TLS; tidegate has it, on the same ports or on 443 in place of 80.
    TlsInPlaceOfPlain,
    /// Without TLS, behind a proxy that terminates it.
    BehindProxy,
}

impl<'a> Importer<'_, 'a> {
    /// Translates the server blocks of the files with the indices in `wanted`.
    fn import(&mut self, servers: &[ServerBlock<'a>], wanted: Option<&[usize]>) {
        let is_wanted = |server: &&ServerBlock<'_>| {
            wanted.is_none_or(|wanted| wanted.contains(&server.directive.at.file))
        };
        let chosen = servers.iter().filter(is_wanted);
        let (tls, plain): (Vec<_>, Vec<_>) = chosen.partition(|server| server.is_tls());
        let proxies = servers.iter().filter(|server| server.is_proxy());
        let scopes: Vec<_> = proxies.map(|server| server.scope.clone()).collect();
        let has_trusted_proxies = main_context::has_trusted_proxies(&scopes);
        for server in &tls {
            if !self.is_left_out(server) && self.add_site(server, Transport::Tls) {
                self.add_plain_addresses(server);
            }
        }
        for server in plain {
            self.plain_server(server, has_trusted_proxies);
        }
        let Self {
            context,
            output,
            addresses,
            sites,
            ..
        } = self;
        let scopes: Vec<_> = sites.iter().map(|site| site.scope.clone()).collect();
        output.listen = main_context::listen_table(context, addresses, &scopes);
        output.log = main_context::log_table(context, &scopes);
        output.tls = main_context::tls_table(context, &scopes);
        output.limits = main_context::limits_table(context, &scopes);
        self.place_sites(servers);
        self.output.sites.sort_by_key(|site| site.at);
    }

    /// Whether a server block with TLS forwards nothing to an upstream; a remark says why it is left out.
    fn is_left_out(&mut self, server: &ServerBlock<'_>) -> bool {
        let at = server.directive.at;
        let rejects_handshake = server.scope.value("ssl_reject_handshake") == "on";
        let response = server.directive.all("return").next();
        let is_redirect = response
            .and_then(|response| response.args.last())
            .is_some_and(|target| target.contains("://"));
        let reason = if rejects_handshake || (response.is_some() && !is_redirect) {
            OTHER_HOSTS
        } else if response.is_some() || !server.is_proxy() {
            NO_PROXY
        } else {
            return false;
        };
        self.context.unsupported_as(reason, at, "server");
        true
    }

    fn add_site(&mut self, server: &ServerBlock<'a>, transport: Transport) -> bool {
        let listens = server.listens.iter();
        let listens = listens.filter(|listen| transport != Transport::Tls || listen.is_tls);
        let listens: Vec<_> = listens
            .map(|listen| {
                let mut own = listen.clone();
                if transport == Transport::TlsInPlaceOfPlain && own.address.port() == Some(80) {
                    own.address.set_port(443);
                }
                (listen.clone(), own)
            })
            .collect();
        let own: Vec<Listen> = listens.iter().map(|(_, own)| own.clone()).collect();
        let taken = &mut self.taken;
        let is_new = |name: &str| {
            let known: &mut Vec<Listen> = taken.entry(name.to_owned()).or_default();
            let is_same = |a: &Listen, b: &Listen| a.address.is_same_site(&b.address);
            let is_taken = known.iter().any(|a| own.iter().any(|b| is_same(a, b)));
            known.extend(own.iter().cloned());
            !is_taken
        };
        let has_tls = transport != Transport::BehindProxy;
        let site = site::site(&mut self.context, self.model, server, has_tls, is_new);
        let Some(site) = site else { return false };
        self.output.sites.push(site);
        self.sites.push(SiteOrigin {
            scope: server.scope.clone(),
            listens,
        });
        match transport {
            Transport::BehindProxy if server.is_behind_sockets() => {
                let sockets = own.iter().filter_map(Listen::socket);
                self.addresses.sockets.extend(sockets.map(str::to_owned));
            }
            Transport::BehindProxy => self.addresses.behind_proxy.extend(own),
            Transport::Tls | Transport::TlsInPlaceOfPlain => self.addresses.https.extend(own),
        }
        true
    }

    /// Adds the addresses without TLS of a site with TLS.
    fn add_plain_addresses(&mut self, server: &ServerBlock<'a>) {
        let listens = server.listens.iter();
        let plain: Vec<_> = listens.filter(|listen| !listen.is_tls).cloned().collect();
        if let Some(first) = plain.first()
            && !server.redirects_to_https()
        {
            self.context.warn(first.at, NO_TLS);
        }
        self.challenges.extend(webroot::locations(server.directive));
        self.addresses.http.extend(plain);
    }

    /// Translates a server block without TLS: a redirect to https, a registry behind a proxy that terminates TLS, or a registry without
    /// TLS.
    fn plain_server(&mut self, server: &ServerBlock<'a>, has_trusted_proxies: bool) {
        let names = site::hosts(server.directive).names;
        let is_of_site = names.is_empty() || names.iter().any(|name| self.taken.contains_key(name));
        if server.redirects_to_https() && is_of_site {
            self.challenges.extend(webroot::locations(server.directive));
            self.addresses.http.extend(server.listens.iter().cloned());
            return;
        }
        if !server.is_proxy() {
            let at = server.directive.at;
            self.context.unsupported_as(NO_PROXY, at, "server");
            return;
        }
        let has_site = !names.is_empty() && names.iter().all(|name| self.taken.contains_key(name));
        let has_return = server.directive.all("return").next().is_some();
        let has_proxy_header = server
            .listens
            .iter()
            .any(|listen| listen.has_proxy_protocol);
        let is_behind_proxy = has_trusted_proxies || server.is_behind_sockets();
        if is_behind_proxy && !has_site && !has_return && !has_proxy_header {
            self.add_site(server, Transport::BehindProxy);
            return;
        }
        self.context.warn(server.directive.at, NO_TLS);
        if has_site || has_return || self.add_site(server, Transport::TlsInPlaceOfPlain) {
            self.addresses.http.extend(server.listens.iter().cloned());
        }
    }

    /// Determines at which addresses each site is served, and at which addresses it is compared with nginx.
    ///
    /// A site that nginx served only at addresses that tidegate cannot have is left out if there are other sites: it would be served
    /// at their addresses.
    fn place_sites(&mut self, servers: &[ServerBlock<'_>]) {
        let written = self.addresses.of_sites();
        let own = |origin: &SiteOrigin<'_>| {
            let own: Vec<_> = origin.listens.iter().map(|(_, own)| own.clone()).collect();
            listen::of_site(&own, &written)
        };
        let lists: Vec<_> = self.sites.iter().map(own).collect();
        let is_limited = lists.iter().any(|list| list.len() < written.len());
        let has_address = lists.iter().any(|list| !list.is_empty());
        let all: Vec<_> = servers.iter().flat_map(|server| &server.listens).collect();
        for ((site, origin), list) in self.output.sites.iter_mut().zip(&self.sites).zip(&lists) {
            site.addresses = pairs(origin, &all);
            if has_address && list.is_empty() {
                self.context.warn(site.at, NO_ADDRESS);
                site.hosts.clear();
            } else if has_address && is_limited {
                site.listen.clone_from(list);
            }
        }
        self.output.remove_unused();
    }
}

/// The local addresses with which a site is compared, each with the one of tidegate: its own, the wildcard of the other address family,
/// and where another server block of nginx has one address of a wildcard for itself, this address.
fn pairs(origin: &SiteOrigin<'_>, all: &[&Listen]) -> Vec<(SocketAddr, SocketAddr)> {
    let mut pairs = BTreeSet::new();
    for (nginx, own) in &origin.listens {
        let Some(port) = own.address.port() else {
            continue;
        };
        let others = all.iter().filter(|other| {
            let mut probes = other.address.probes().into_iter();
            let is_inside = probes.any(|probe| nginx.address.accepts(probe));
            is_inside || other.address.is_same_site(&nginx.address)
        });
        for listen in std::iter::once(nginx).chain(others.copied()) {
            for probe in listen.address.probes() {
                pairs.insert((probe, SocketAddr::new(probe.ip(), port)));
            }
        }
    }
    pairs.into_iter().collect()
}

const NO_ADDRESS: &str = "the server block is left out: nginx served it only at a socket or a name, and tidegate would serve it at the addresses of the other sites";
const NO_HTTP_BLOCK: &str = "no file with http { } was imported: auth_basic, allow, deny, satisfy, set_real_ip_from and upstream blocks that nginx.conf has there are unknown; import nginx.conf to include them";
const AROUND: &str = "files that decide about the imported server blocks";
const NO_TLS: &str = "nginx served the registry without TLS here; tidegate serves registries over TLS only, and redirects plain HTTP";
const OTHER_HOSTS: &str =
    "servers for all other hosts: tidegate responds to an unknown host with 421";
const NO_PROXY: &str = "server blocks without proxy_pass, or for hosts that are not imported";
