//! The files of an ACME client, such as certbot with `--webroot`, as a route with `respond.files`.
//!
//! nginx has them in a location for `/.well-known/acme-challenge/` with `root` or `alias`, mostly in the server block that redirects plain
//! HTTP. tidegate serves them over `listen.http`. A site gets the route if nginx sends the same files to all clients, for each host of
//! the site and at each address of `listen.http`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};

use crate::acme::ACME_CHALLENGE_PATH;

use crate::import::nginx::compare::build;
use crate::import::nginx::context::Context;
use crate::import::nginx::location_search::LocationNode;
use crate::import::nginx::nginx_model::NginxModel;
use crate::import::nginx::output::{OutputConfig, Route, RouteAction, Value};
use crate::import::nginx::parser::{Directive, SourcePos};
use crate::import::nginx::probes::Probes;
use crate::import::nginx::tidegate_model::Sites;

/// A location for challenges, with the server block around it.
pub(crate) struct ChallengeLocation<'a> {
    server: SourcePos,
    directive: &'a Directive,
}

/// The locations of a server block whose arguments name the path of challenges.
pub(crate) fn locations(server: &Directive) -> impl Iterator<Item = ChallengeLocation<'_>> {
    let locations = server.all("location");
    let named = locations.filter(|location| {
        let mut args = location.args.iter();
        args.any(|arg| arg.contains("acme-challenge"))
    });
    named.map(|directive| ChallengeLocation {
        server: server.at,
        directive,
    })
}

/// Adds the routes to the sites. `locations` are those that need a remark if they do not become a route. Returns the positions of the
/// directives that became routes.
pub(crate) fn add_routes(
    output: &mut OutputConfig,
    context: &mut Context<'_>,
    model: &NginxModel<'_>,
    probes: &Probes,
    locations: &[ChallengeLocation<'_>],
) -> BTreeSet<SourcePos> {
    let addresses = plain_addresses(output);
    let mut translated = BTreeSet::new();
    // The server blocks whose files are served, with those of the sites that serve them.
    let mut servers = BTreeSet::new();
    for (index, hosts) in hosts_by_site(output, probes) {
        let Some(site) = output.sites.get_mut(index) else {
            continue;
        };
        let search = WebrootSearch {
            context,
            model,
            probes,
            addresses: &addresses,
            tls: site.addresses.iter().map(|(nginx, _)| *nginx).collect(),
            tokens: RefCell::default(),
        };
        let Some(found) = search.common_webroot(&hosts) else {
            continue;
        };
        translated.extend(found.directives);
        servers.extend(found.servers);
        servers.insert(site.at);
        if !site.listen.is_empty() {
            site.listen
                .extend(addresses.iter().map(|(written, _)| written.clone()));
        }
        site.routes
            .retain(|route| !route.has_path(ACME_CHALLENGE_PATH));
        let route = Route {
            at: found.at,
            location: found.location,
            path: ACME_CHALLENGE_PATH.to_owned(),
            comment: Some("served over listen.http only".to_owned()),
            action: RouteAction::Files(found.webroot),
        };
        site.routes.insert(0, route);
    }
    let left = locations
        .iter()
        .filter(|location| !servers.contains(&location.server));
    for ChallengeLocation { directive, .. } in left {
        let what = format!("{}: {NOT_TRANSLATED}", directive.label());
        context.warn(directive.at, what);
    }
    translated
}

/// The addresses of `listen.http`, each as it is written and with the local addresses that stand for its connections.
fn plain_addresses(output: &OutputConfig) -> Vec<(String, Vec<SocketAddr>)> {
    let line = output.listen.iter().find(|line| line.key == "http");
    let Some(Value::List(written)) = line.map(|line| &line.value) else {
        return Vec::new();
    };
    let parsed = written.iter().filter_map(|text| {
        let address: SocketAddr = text.parse().ok()?;
        let mut probes = vec![address];
        if address.ip().is_unspecified() && address.is_ipv6() {
            probes.push(SocketAddr::new(
                Ipv4Addr::UNSPECIFIED.into(),
                address.port(),
            ));
        }
        Some((text.clone(), probes))
    });
    parsed.collect()
}

/// The hosts of the probes by the index of the site that serves them; empty if the configuration has an error.
fn hosts_by_site<'p>(
    output: &OutputConfig,
    probes: &'p Probes,
) -> BTreeMap<usize, BTreeSet<&'p str>> {
    let mut hosts: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let Ok(config) = build(output) else {
        return hosts;
    };
    let sites = Sites::new(&config);
    let pairs: BTreeSet<_> = output
        .sites
        .iter()
        .flat_map(|site| &site.addresses)
        .collect();
    for (_, own_address) in pairs {
        for host in probes.hosts() {
            if let Some(site) = sites.find(*own_address, host) {
                hosts.entry(site.index).or_default().insert(host);
            }
        }
    }
    hosts
}

/// The directory of a site.
struct FoundWebroot {
    webroot: String,
    /// The first location that has it.
    at: SourcePos,
    location: String,
    directives: Vec<SourcePos>,
    servers: BTreeSet<SourcePos>,
}

/// The search of the directory of one site.
struct WebrootSearch<'s, 'c, 'a> {
    context: &'s Context<'c>,
    model: &'s NginxModel<'a>,
    probes: &'s Probes,
    addresses: &'s [(String, Vec<SocketAddr>)],
    /// The addresses of nginx at which the site is reached.
    tls: Vec<SocketAddr>,
    /// The paths of challenges that a server block names; `None` if its paths are too many.
    tokens: RefCell<HashMap<SourcePos, Option<Vec<String>>>>,
}

impl WebrootSearch<'_, '_, '_> {
    /// The directory from which nginx serves the challenges of all hosts; `None` if there is none, or more than one.
    fn common_webroot(&self, hosts: &BTreeSet<&str>) -> Option<FoundWebroot> {
        let mut common: Option<FoundWebroot> = None;
        let plain = self.addresses.iter().flat_map(|(_, probes)| probes);
        for address in plain {
            for host in hosts {
                if self.model.server(*address, host).is_none() {
                    continue;
                }
                let found = self.webroot(*address, host)?;
                match &mut common {
                    None => common = Some(found),
                    Some(common) if common.webroot == found.webroot => {
                        common.directives.extend(found.directives);
                        common.servers.extend(found.servers);
                    }
                    Some(_) => return None,
                }
            }
        }
        common
    }

    /// The directory from which nginx serves the challenges of a host at an address without TLS, or after a redirect at one with TLS.
    fn webroot(&self, address: SocketAddr, host: &str) -> Option<FoundWebroot> {
        let at_tls = self.tls.iter().copied();
        let mut all = std::iter::once(address).chain(at_tls);
        all.find_map(|address| self.webroot_at(address, host))
    }

    /// The directory from which nginx serves every challenge of a host at an address.
    fn webroot_at(&self, address: SocketAddr, host: &str) -> Option<FoundWebroot> {
        let server = self.model.server(address, host)?.at;
        let find = |path: &str| {
            let location = self.model.file_location(address, host, path)?;
            let webroot = self.directory(&location, path)?;
            Some((location, webroot))
        };
        let (location, webroot) = find(&format!("{ACME_CHALLENGE_PATH}{TOKEN}"))?;
        // A location for all files of a web site is not meant for challenges.
        let mut args = location.directive.args.iter();
        if !args.any(|arg| arg.contains("well-known")) {
            return None;
        }
        // Another location may have a token for itself.
        let mut tokens = self.tokens.borrow_mut();
        let tokens = tokens.entry(server).or_insert_with(|| {
            let paths = self.probes.paths_of(server)?.into_iter();
            Some(paths.filter(|path| is_token(path)).collect())
        });
        let mut tokens = tokens.as_ref()?.iter();
        let is_same = |path: &String| find(path).is_some_and(|(_, other)| other == webroot);
        if !tokens.all(is_same) {
            return None;
        }
        let own = location.directive.inner().iter();
        let own = own.filter(|d| TRANSLATED.contains(&d.name.as_str()));
        Some(FoundWebroot {
            webroot,
            at: location.directive.at,
            location: location.directive.args.join(" "),
            directives: own.chain([location.directive]).map(|d| d.at).collect(),
            servers: BTreeSet::from([server]),
        })
    }

    /// The value of `respond.files` for a location: the file of a path is at this path below the directory.
    fn directory(&self, location: &LocationNode<'_>, path: &str) -> Option<String> {
        let directives = location.scope.any_of(&["root", "alias"]);
        let directive = directives.last()?;
        let written = self.context.file_path(directive.first())?;
        let directory = if directive.name == "root" {
            written
        } else {
            // nginx replaces the text of a prefix. A regular expression has no such text.
            let rest = path
                .strip_prefix(location.name)
                .filter(|_| !location.name.is_empty())?;
            let file = format!("{written}{rest}").replace("//", "/");
            file.strip_suffix(path)?.to_owned()
        };
        let directory = directory.trim_end_matches('/');
        Some(if directory.is_empty() { "/" } else { directory }.to_owned())
    }
}

/// Whether a path is that of a challenge: only such files are served.
fn is_token(path: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    path.strip_prefix(ACME_CHALLENGE_PATH)
        .is_some_and(|token| !token.is_empty() && token.bytes().all(is_allowed))
}

/// A token of the usual length.
const TOKEN: &str = "DGyRejmCefe7v4NfDGDKfA-DGyRejmCefe7v4NfDGDK";
/// The directives of a location that the route translates.
const TRANSLATED: &[&str] = &["root", "alias", "try_files"];
const NOT_TRANSLATED: &str = "not translated: nginx does not serve the same files to all clients, for each host of a site and at each address of listen.http, or their directory does not end in /.well-known/acme-challenge. To renew by files, write a route with path = \"/.well-known/acme-challenge/\" and respond = { files = \"DIRECTORY\" }, where DIRECTORY is the --webroot-path of certbot; or write tls = \"acme\"";
