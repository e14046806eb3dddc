//! All server blocks together as one draft.
//!
//! Called by `nginx`. Which blocks become sites is decided here; what becomes of one is `site`'s part.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::import::nginx::draft::OutputConfig;
use crate::import::nginx::fallen;
use crate::import::nginx::hosts;
use crate::import::nginx::include::Input;
use crate::import::nginx::listen;
use crate::import::nginx::listen::{Address, Listen};
use crate::import::nginx::remarks::Remarks;
use crate::import::nginx::scope::Scope;
use crate::import::nginx::site::Server;
use crate::import::nginx::tree::Directive;
use crate::import::nginx::{Error, route};

/// What the parts of the translation share.
pub(super) struct Importer<'a> {
    pub(super) prefix: &'a Path,
    /// `upstream` blocks by name.
    pub(super) upstreams: HashMap<&'a str, &'a Directive>,
    /// Hosts that have a site.
    pub(super) taken: HashSet<String>,
    pub(super) remarks: Remarks,
}

/// Addresses that the sites are reached at.
#[derive(Default)]
struct ListenSet {
    https: Vec<Listen>,
    http: Vec<Listen>,
}

pub(super) fn translate(input: &Input, prefix: &Path) -> Result<(OutputConfig, Remarks), Error> {
    let http = Scope::new(&input.http);
    let named = input.http.iter().filter(|d| d.name == "upstream");
    let mut translator = Importer {
        prefix,
        upstreams: named.map(|block| (block.first(), block)).collect(),
        taken: HashSet::new(),
        remarks: Remarks::default(),
    };
    for (at, what) in &input.absent {
        let what = format!("include: {what}; what it holds is not taken over");
        translator.remarks.warn(*at, what);
    }
    let draft = translator.draft(&servers(&http));
    fallen::note(&input.main, &mut translator.remarks);
    fallen::note(&input.http, &mut translator.remarks);
    if draft.sites.is_empty() {
        let warnings = translator.remarks.warnings(&input.names).join("\n");
        return Err(Error::Nothing {
            what: format!("{warnings}\nno server block leads to a registry")
                .trim_start()
                .to_owned(),
            remedy: "name the file with the server block that has proxy_pass, or nginx.conf itself; relative includes are relative to --prefix",
        });
    }
    Ok((draft, translator.remarks))
}

fn servers<'a>(http: &Scope<'a>) -> Vec<Server<'a>> {
    let blocks = http.own().iter().filter(|d| d.name == "server");
    let mut servers: Vec<Server<'a>> = blocks
        .map(|directive| {
            let scope = http.within(directive.inner());
            Server {
                listens: listen::of(directive, &scope),
                directive,
                scope,
                is_default: false,
            }
        })
        .collect();
    // For each address the one that says so, else the first.
    let mut defaults: Vec<(Address, usize, bool)> = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        for listen in &server.listens {
            match defaults
                .iter_mut()
                .find(|(address, ..)| *address == listen.address)
            {
                None => defaults.push((listen.address.clone(), number, listen.is_default)),
                Some(known) if listen.is_default && !known.2 => {
                    *known = (listen.address.clone(), number, true);
                }
                Some(_) => {}
            }
        }
    }
    for (number, server) in servers.iter_mut().enumerate() {
        server.is_default = defaults.iter().any(|(_, default, _)| *default == number);
    }
    servers
}

impl<'a> Importer<'a> {
    fn draft(&mut self, servers: &[Server<'a>]) -> OutputConfig {
        let mut draft = OutputConfig::default();
        let mut reached = ListenSet::default();
        let mut scopes = Vec::new();
        let (secure, plain): (Vec<_>, Vec<_>) = servers.iter().partition(|server| server.is_tls());
        for server in &secure {
            if self.is_left_out(server) {
                continue;
            }
            if let Some(site) = self.site(server) {
                draft.sites.push(site);
                self.reach(server, &mut reached);
                scopes.push(server.scope.clone());
            }
        }
        for server in plain {
            self.plain(server, &mut draft, &mut reached, &mut scopes);
        }
        draft.sites.sort_by_key(|site| site.at);
        self.warn_of_ports(&secure);
        draft.listen = self.listen(&reached.https, &reached.http, &scopes);
        draft.log = self.log(&scopes);
        draft.tls = self.tls(&scopes);
        draft.limits = self.limits(&scopes);
        draft
    }

    /// A block with TLS that leads nowhere.
    fn is_left_out(&mut self, server: &Server<'a>) -> bool {
        let at = server.directive.at;
        let rejects = server
            .directive
            .all("ssl_reject_handshake")
            .any(|d| d.first() == "on");
        let answer = server.directive.all("return").next();
        if rejects || answer.is_some_and(|d| !d.args.last().is_some_and(|a| a.contains("://"))) {
            self.remarks.unsupported_as(OTHERS, at, "server");
            return true;
        }
        if answer.is_some() || !server.is_proxy() {
            self.remarks.unsupported_as(ELSEWHERE, at, "server");
            return true;
        }
        false
    }

    /// Where a site with TLS is reached; the block may have plain addresses beside.
    fn reach(&mut self, server: &Server<'a>, reached: &mut ListenSet) {
        let (tls, plain): (Vec<_>, Vec<_>) = server
            .listens
            .iter()
            .cloned()
            .partition(|listen| listen.is_tls);
        if let Some(first) = plain.first()
            && !server.leads_to_https()
        {
            self.remarks.warn(first.at, NO_PLAIN);
        }
        reached.https.extend(tls);
        reached.http.extend(plain);
    }

    /// A block without TLS: the redirect to https, or a registry that nobody should reach so.
    fn plain(
        &mut self,
        server: &Server<'a>,
        draft: &mut OutputConfig,
        reached: &mut ListenSet,
        scopes: &mut Vec<Scope<'a>>,
    ) {
        let names = hosts::of(server.directive).names;
        let is_ours = names.is_empty() || names.iter().any(|name| self.taken.contains(name));
        let leads = server.leads_to_https();
        if !server.is_proxy() || (leads && is_ours) {
            if leads && is_ours {
                self.webroot(server);
                reached.http.extend(server.listens.iter().cloned());
            } else {
                self.remarks
                    .unsupported_as(ELSEWHERE, server.directive.at, "server");
            }
            return;
        }
        self.remarks.warn(server.directive.at, NO_PLAIN);
        let has_site = !names.is_empty() && names.iter().all(|name| self.taken.contains(name));
        if has_site || server.directive.all("return").next().is_some() {
            reached.http.extend(server.listens.iter().cloned());
            return;
        }
        if let Some(site) = self.site(server) {
            draft.sites.push(site);
            reached.http.extend(server.listens.iter().cloned());
            scopes.push(server.scope.clone());
        }
    }

    /// Certificates that are renewed by a file on port 80.
    fn webroot(&mut self, server: &Server<'a>) {
        for location in server.directive.all("location") {
            if location
                .args
                .iter()
                .any(|arg| arg.contains("/.well-known/acme-challenge"))
            {
                self.remarks.warn(
                    location.at,
                    format!("{}: the gate serves no files, so renewal by webroot ends; renew over DNS-01, or let certbot answer on another address", route::label(location)),
                );
            }
        }
    }

    /// nginx keeps server blocks on different addresses apart.
    fn warn_of_ports(&mut self, secure: &[&Server<'a>]) {
        let mut sites = secure.iter().filter(|server| server.is_proxy());
        let addresses = |server: &Server<'_>| {
            let tls = server.listens.iter().filter(|listen| listen.is_tls);
            // Beside [::] nobody means 0.0.0.0 to be another place.
            let written = listen::written(tls).into_iter();
            written
                .map(|address| address.replace("0.0.0.0:", "[::]:"))
                .collect::<HashSet<_>>()
        };
        let Some(first) = sites.next() else { return };
        for other in sites {
            if addresses(other) != addresses(first) {
                self.remarks.warn(
                    other.directive.at,
                    "this server block had addresses of its own; every site is served on all addresses of listen.https, unless site.listen names some",
                );
            }
        }
    }
}

const NO_PLAIN: &str = "the registry was served without TLS here; the gate serves over TLS alone, and plain HTTP is redirected";
const OTHERS: &str = "servers for all other hosts: a host of no site is 421 by itself";
const ELSEWHERE: &str = "server blocks without proxy_pass, or for hosts that are not taken over";
