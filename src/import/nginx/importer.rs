//! The translation of all server blocks: decides which of them become sites, and at which addresses the sites are reached.

use std::collections::{BTreeSet, HashSet};
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
use crate::import::nginx::probes::Probes;
use crate::import::nginx::remarks::Remarks;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::server_block;
use crate::import::nginx::server_block::ServerBlock;
use crate::import::nginx::unsupported;

/// Translates the configuration. Relative paths are relative to `prefix`.
pub(crate) fn translate(input: &Input, prefix: &Path) -> Result<(OutputConfig, Remarks), Error> {
    let mut context = Context::new(&input.http, prefix);
    for (at, what) in &input.missing {
        let what = format!("include: {what}; its directives are not imported");
        context.remarks.warn(*at, what);
    }
    if let Some(first) = input.http.first().filter(|_| !input.has_http_block) {
        context.remarks.warn(first.at, NO_HTTP_BLOCK);
    }
    let servers = servers(&Scope::new(&input.http));
    let mut importer = Importer {
        context,
        output: OutputConfig::default(),
        addresses: ListenAddresses::default(),
        scopes: Vec::new(),
        taken: HashSet::new(),
    };
    importer.import(&servers);
    let addresses = importer.probe_addresses(&servers);
    let Importer {
        mut context,
        mut output,
        ..
    } = importer;
    let warnings = {
        let model = NginxModel::new(&context, &input.http, &servers);
        let probes = Probes::new(&input.http, addresses);
        close_differences(&mut output, &model, &probes)
    };
    for (at, what) in warnings {
        context.remarks.warn(at, what);
    }
    unsupported::note(&input.main, &mut context.remarks);
    unsupported::note(&input.http, &mut context.remarks);
    if output.sites.is_empty() {
        let warnings = context.remarks.warnings(&input.names).join("\n");
        return Err(Error::NoSite {
            what: format!("{warnings}\nno server block leads to a registry")
                .trim_start()
                .to_owned(),
            remedy: "name the file with the server block that has proxy_pass, or nginx.conf itself; relative includes are relative to --prefix",
        });
    }
    Ok((output, context.remarks))
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
struct Importer<'a> {
    context: Context<'a>,
    output: OutputConfig,
    addresses: ListenAddresses,
    /// The scopes of the server blocks that became sites.
    scopes: Vec<Scope<'a>>,
    /// The hosts that have a site.
    taken: HashSet<String>,
}

impl<'a> Importer<'a> {
    fn import(&mut self, servers: &[ServerBlock<'a>]) {
        let (tls, plain): (Vec<_>, Vec<_>) = servers.iter().partition(|server| server.is_tls());
        for server in &tls {
            if !self.is_left_out(server) && self.add_site(server) {
                self.add_addresses(server);
            }
        }
        for server in plain {
            self.plain_server(server);
        }
        self.output.sites.sort_by_key(|site| site.at);
        self.keep_common_addresses(&tls);
        let Self {
            context,
            output,
            addresses,
            scopes,
            ..
        } = self;
        output.listen = main_context::listen_table(context, addresses, scopes);
        output.log = main_context::log_table(context, scopes);
        output.tls = main_context::tls_table(scopes);
        output.limits = main_context::limits_table(context, scopes);
    }

    /// Whether a server block with TLS forwards nothing to an upstream; a remark says why it is left out.
    fn is_left_out(&mut self, server: &ServerBlock<'_>) -> bool {
        let at = server.directive.at;
        let rejects_handshake = server.scope.value("ssl_reject_handshake") == "on";
        let response = server.directive.all("return").next();
        let is_redirect = response
            .and_then(|response| response.args.last())
            .is_some_and(|target| target.contains("://"));
        if rejects_handshake || (response.is_some() && !is_redirect) {
            let remarks = &mut self.context.remarks;
            remarks.unsupported_as(OTHER_HOSTS, at, "server");
            return true;
        }
        if response.is_some() || !server.is_proxy() {
            let remarks = &mut self.context.remarks;
            remarks.unsupported_as(NO_PROXY, at, "server");
            return true;
        }
        false
    }

    fn add_site(&mut self, server: &ServerBlock<'a>) -> bool {
        let site = server_block::site(&mut self.context, server, &mut self.taken);
        let is_site = site.is_some();
        if is_site {
            self.output.sites.extend(site);
            self.scopes.push(server.scope.clone());
        }
        is_site
    }

    /// Adds the addresses of a site with TLS. The server block may have addresses without TLS as well.
    fn add_addresses(&mut self, server: &ServerBlock<'a>) {
        let (tls, plain): (Vec<_>, Vec<_>) = server
            .listens
            .iter()
            .cloned()
            .partition(|listen| listen.is_tls);
        if let Some(first) = plain.first()
            && !server.redirects_to_https()
        {
            self.context.remarks.warn(first.at, NO_TLS);
        }
        self.warn_of_webroot(server);
        self.addresses.https.extend(tls);
        self.addresses.http.extend(plain);
    }

    /// Translates a server block without TLS: a redirect to https, or a registry without TLS.
    fn plain_server(&mut self, server: &ServerBlock<'a>) {
        let names = server_block::hosts(server.directive).names;
        let is_of_site = names.is_empty() || names.iter().any(|name| self.taken.contains(name));
        let redirects = server.redirects_to_https();
        if redirects && is_of_site {
            self.warn_of_webroot(server);
            self.addresses.http.extend(server.listens.iter().cloned());
            return;
        }
        if !server.is_proxy() {
            let at = server.directive.at;
            self.context.remarks.unsupported_as(NO_PROXY, at, "server");
            return;
        }
        self.context.remarks.warn(server.directive.at, NO_TLS);
        let has_site = !names.is_empty() && names.iter().all(|name| self.taken.contains(name));
        let has_return = server.directive.all("return").next().is_some();
        if has_site || has_return || self.add_site(server) {
            self.addresses.http.extend(server.listens.iter().cloned());
        }
    }

    /// The local addresses with which the result is compared with nginx: those of `listen.https`, and where a server block of nginx
    /// has one address of a wildcard for itself, this address.
    fn probe_addresses(&self, servers: &[ServerBlock<'_>]) -> Vec<SocketAddr> {
        let used = if self.addresses.https.is_empty() {
            &self.addresses.http
        } else {
            &self.addresses.https
        };
        let served = |address: &SocketAddr| used.iter().any(|l| l.address.accepts(*address));
        let own = used.iter().flat_map(|listen| listen.address.probes());
        let all = servers.iter().flat_map(|server| &server.listens);
        let others = all
            .flat_map(|listen| listen.address.probes())
            .filter(served);
        own.chain(others)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Warns where certificates are renewed by a file that nginx serves.
    fn warn_of_webroot(&mut self, server: &ServerBlock<'_>) {
        for location in server.directive.all("location") {
            let is_challenge = |arg: &String| arg.contains("/.well-known/acme-challenge");
            if location.args.iter().any(is_challenge) {
                self.context.remarks.warn(
                    location.at,
                    format!("{}: tidegate serves no files, so renewal by webroot stops working; use tls = \"acme\", renew over DNS-01, or let certbot listen on another address", location.label()),
                );
            }
        }
    }

    /// Keeps the addresses that all sites with TLS have; if there is none, those of the first site. tidegate serves every site on all
    /// addresses, and a site must not be reached at an address at which nginx gives its requests to another server block.
    fn keep_common_addresses(&mut self, servers: &[&ServerBlock<'_>]) {
        let sites: Vec<_> = self.output.sites.iter().map(|site| site.at).collect();
        let servers: Vec<_> = servers
            .iter()
            .filter(|server| sites.contains(&server.directive.at))
            .collect();
        let Some(first) = servers.first() else { return };
        let has = |server: &ServerBlock<'_>, address: &Address| {
            let mut own = server.listens.iter().filter(|listen| listen.is_tls);
            own.any(|listen| listen.address.is_same_site(address))
        };
        let of_first: Vec<_> = first
            .listens
            .iter()
            .filter(|listen| listen.is_tls)
            .map(|listen| listen.address.clone())
            .collect();
        let common: Vec<_> = of_first
            .iter()
            .filter(|address| servers.iter().all(|server| has(server, address)))
            .cloned()
            .collect();
        let kept = if common.is_empty() { of_first } else { common };
        let is_kept = |listen: &Listen| {
            kept.iter()
                .any(|address| address.is_same_site(&listen.address))
        };
        for left_out in self
            .addresses
            .https
            .iter()
            .filter(|listen| !is_kept(listen))
        {
            self.context.remarks.warn(left_out.at, OWN_ADDRESS);
        }
        self.addresses.https.retain(is_kept);
    }
}

const OWN_ADDRESS: &str = "this address is left out: tidegate serves every site on all addresses, and other sites do not have this one; import the server blocks with it into a configuration of their own";
const NO_HTTP_BLOCK: &str = "no file with http { } was imported: auth_basic, allow, deny, satisfy, set_real_ip_from and upstream blocks that nginx.conf has there are unknown; import nginx.conf to include them";
const NO_TLS: &str = "nginx served the registry without TLS here; tidegate serves registries over TLS only, and redirects plain HTTP";
const OTHER_HOSTS: &str =
    "servers for all other hosts: tidegate responds to an unknown host with 421";
const NO_PROXY: &str = "server blocks without proxy_pass, or for hosts that are not imported";
