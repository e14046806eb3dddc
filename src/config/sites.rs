//! The `[[site]]` tables: hosts, certificate, client certificates, and routes.
//!
//! Called by `build`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::acme;
use super::address::HostPattern;
use super::auth;
use super::document::Spanned;
use super::grants::Groups;
use super::keys::{self, certificate, listen, site};
use super::listen::Listen;
use super::nearest::nearest;
use super::problem::{Position, Problem, quote};
use super::routes::{self, Route, RouteContext, RouteOrResponse};
use super::served_on::ServedOn;
use super::table::{Choice, Table};
use super::upstreams::UpstreamLimits;
use super::value::any_text;
use crate::forward::Origin;
use crate::net::host::Host;
use crate::net::listener::ListenAddr;
use crate::registry::is_registry_path;
use crate::site::{StaticContent, StaticResponse};
use crate::tls::ClientAuthMode;

/// A `[[site]]` table.
#[derive(Clone, Debug)]
pub struct Site {
    /// The first host; with the first address of `listen` if another site has the same first host.
    pub name: String,
    /// The hosts in the form of [`crate::site::Site::hosts`]; at least one.
    pub hosts: Vec<String>,
    /// The addresses on which the site is served; `None` for all.
    pub listen: Option<Vec<ListenAddr>>,
    /// The port to which plain HTTP requests are redirected.
    pub https_port: u16,
    /// The source of the certificate; `None` if no address with TLS serves the site.
    pub certificate: Option<Certificate>,
    /// The client certificates that are accepted; `None` if none is requested.
    pub client_auth: Option<ClientAuth>,
    /// The origin that clients see in URLs, instead of the one that they addressed.
    pub external_url: Option<Origin>,
    /// The routes to an upstream.
    pub routes: Vec<Route>,
    /// The routes to which the proxy responds itself.
    pub responses: Vec<StaticResponse>,
    /// The directories from which routes without an upstream serve files.
    pub webroots: Vec<Spanned<PathBuf>>,
}

impl Site {
    /// Whether the site is served on this address.
    pub fn is_on(&self, address: &ListenAddr) -> bool {
        let listen = self.listen.as_ref();
        listen.is_none_or(|listen| listen.contains(address))
    }
}

/// The client certificates of a site.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// A PEM file with the CAs that issue them.
    pub ca: Spanned<PathBuf>,
    /// Whether a client must have a certificate.
    pub mode: ClientAuthMode,
}

/// The source of a certificate.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// Two PEM files.
    Files {
        /// The chain, which begins with the site's own certificate.
        cert: Spanned<PathBuf>,
        /// The private key.
        key: PathBuf,
    },
    /// A certificate from the CA that the proxy creates; with the position of the word in the file.
    SelfSigned(Position),
    /// A certificate for each host from the authority of `[acme]`; with the position of the word in the file.
    Acme(Position),
}

/// Reads every site. Relative paths are below the folder of the file that the site is in.
pub(crate) fn read(root: &Table<'_>, limits: UpstreamLimits, listen: Option<&Listen>) -> Vec<Site> {
    if root.is_complete() {
        root.require(&keys::SITE, "[[site]] with hosts, tls and a [[site.route]]");
    }
    // Without a valid address, which was reported, nothing is known about the addresses of a site.
    let listen =
        listen.filter(|listen| !listen.https.is_empty() || !listen.behind_proxy.is_empty());
    let groups = Groups::read(root);
    let mut known_hosts = KnownHosts::new();
    let tables = root.tables(&keys::SITE);
    let base = root.folder();
    let sites = tables.iter().filter_map(|table| {
        let served_on = ServedOn::read(table, listen, &base);
        read_site(table, limits, &groups, &served_on, &mut known_hosts)
    });
    let mut sites: Vec<_> = sites.collect();
    name_sites(&mut sites);
    if let Some(listen) = listen
        && root.is_complete()
        && !sites.is_empty()
        && sites.len() == tables.len()
        && sites.iter().all(|site| is_served(site, listen))
    {
        check_unused(root, listen, &sites);
        check_redirect_port(root, listen, &sites);
    }
    sites
}

/// Whether clients can reach the site. A site that is served nowhere was reported.
fn is_served(site: &Site, listen: &Listen) -> bool {
    let mut addresses = listen.https.iter().chain(&listen.behind_proxy);
    addresses.any(|address| site.is_on(address))
}

/// Reports the addresses of `[listen]` that serve no site. Clients that connect there could only get errors.
fn check_unused(root: &Table<'_>, listen: &Listen, sites: &[Site]) {
    let Some(table) = root.table(&keys::LISTEN) else {
        return;
    };
    let https = listen
        .https
        .iter()
        .map(|address| (table.place_of(&listen::HTTPS), address));
    let behind_proxy = listen.behind_proxy.iter();
    let behind_proxy = behind_proxy.map(|address| (table.place_of(&listen::BEHIND_PROXY), address));
    let report = |(place, address): (Option<Position>, &ListenAddr)| {
        let mut sites = sites.iter();
        if !sites.any(|site| site.is_on(address)) {
            root.report(
                Problem::error(place, format!("no site is served on {address}"))
                    .because("every [[site]] has a listen without this address")
                    .fix("add the address to site.listen of a site, or remove it here"),
            );
        }
    };
    https.chain(behind_proxy).for_each(report);
}

/// Warns if the port to which plain HTTP requests are redirected is a guess. A port that is published under another number, as that
/// of a container, is not what clients can connect to.
fn check_redirect_port(root: &Table<'_>, listen: &Listen, sites: &[Site]) {
    let is_guess = |site: &&Site| {
        site.external_url.is_none()
            && !matches!(site.https_port, 0 | 443)
            && listen.http.iter().any(|address| site.is_on(address))
    };
    let Some(site) = sites
        .iter()
        .find(is_guess)
        .filter(|_| listen.public_port.is_none())
    else {
        return;
    };
    let port = site.https_port;
    let place = root
        .table(&keys::LISTEN)
        .and_then(|table| table.place_of(&listen::HTTP));
    let what =
        format!("clients of listen.http are redirected to port {port}, the port of listen.https");
    root.report(
        Problem::warning(place, what)
            .because("clients do not reach the port if it is published as another one, as that of a container often is")
            .fix(format!(
                "write public_port = 443 in [listen], or public_port = {port} if clients use that"
            )),
    );
}

/// The hosts of the sites that were read, each with its position and the `listen` of its site.
type KnownHosts = HashMap<String, Vec<(Position, Option<Vec<ListenAddr>>)>>;

/// Adds the first address to the name of each site whose first host another site has, too. Such sites have no address in common.
fn name_sites(sites: &mut [Site]) {
    let firsts: Vec<_> = sites.iter().map(|site| site.name.clone()).collect();
    for site in sites {
        let is_shared = firsts.iter().filter(|first| **first == site.name).count() > 1;
        if let Some(address) = site.listen.as_ref().and_then(|listen| listen.first())
            && is_shared
        {
            site.name = format!("{}@{address}", site.name);
        }
    }
}

fn read_site(
    table: &Table<'_>,
    limits: UpstreamLimits,
    groups: &Groups,
    served_on: &ServedOn,
    known_hosts: &mut KnownHosts,
) -> Option<Site> {
    let folder = table.folder();
    let base = folder.as_path();
    let patterns = host_patterns(table);
    let hosts = host_names(table, &patterns, served_on, known_hosts);
    if served_on.has_https {
        table.require(&site::TLS, CERTIFICATE_FILES);
    }
    served_on.check_keys(table);
    let certificate = certificate(table, base);
    if let Some(Certificate::Acme(_)) = certificate {
        acme::check_hosts(table, &patterns);
    }
    let client_auth = client_auth(table, base);
    let external = table.get(&site::EXTERNAL_URL);
    let auth_table = table.table(&site::AUTH);
    let context = RouteContext {
        base,
        limits,
        groups,
        site_auth: auth_table.and_then(|auth| auth::read(&auth, base)),
        site_auth_place: table.place_of(&site::AUTH),
    };
    table.require(&site::ROUTE, "[[site.route]] with path, upstream and auth");
    let tables = table.tables(&site::ROUTE);
    let read: Vec<_> = tables
        .iter()
        .map(|route| routes::read(route, &context))
        .collect();
    check_routes(&tables, &read);
    check_webroots(&tables, &read, served_on);
    let (mut routes, mut responses, mut webroots) = (Vec::new(), Vec::new(), Vec::new());
    for (table, route) in tables.iter().zip(read) {
        match route {
            Some(RouteOrResponse::Route(route)) => routes.push(*route),
            Some(RouteOrResponse::Response(response)) => {
                if let StaticContent::Webroot(path) = &response.content
                    && let Some(place) = table.place_of(&keys::route::RESPOND)
                {
                    let value = path.clone();
                    webroots.push(Spanned { value, place });
                }
                responses.push(response);
            }
            None => {}
        }
    }
    if certificate.is_none() && served_on.has_https {
        return None;
    }
    Some(Site {
        name: hosts.first().cloned().unwrap_or_default(),
        hosts,
        listen: served_on.listen.clone(),
        https_port: served_on.https_port,
        certificate,
        client_auth,
        external_url: external.map(|url| url.value.into()),
        routes,
        responses,
        webroots,
    })
}

fn host_patterns(table: &Table<'_>) -> Vec<Spanned<HostPattern>> {
    table.require(&site::HOSTS, "hosts = [\"docker.example.com\"]");
    let Some(list) = table.get(&site::HOSTS) else {
        return Vec::new();
    };
    if list.is_written_empty() {
        table.report(
            Problem::error(list.place, "site.hosts is empty")
                .fix("write hosts = [\"docker.example.com\"], with the hosts that clients use"),
        );
    }
    list.value.items
}

/// Returns the hosts in the form of [`Site::hosts`], and reports those that an earlier site has on one of the same addresses.
fn host_names(
    table: &Table<'_>,
    patterns: &[Spanned<HostPattern>],
    served_on: &ServedOn,
    known: &mut KnownHosts,
) -> Vec<String> {
    let mut hosts = Vec::new();
    for host in patterns {
        let name = match &host.value {
            HostPattern::Exact(Host::Name(name)) => name.clone(),
            HostPattern::Exact(Host::Address(address)) => address.to_string(),
            HostPattern::Wildcard(parent) => format!("*.{parent}"),
            HostPattern::Any => "*".to_owned(),
        };
        let others = known.entry(name.clone()).or_default();
        let earlier = others
            .iter()
            .find(|(_, listen)| served_on.overlaps(listen.as_deref()));
        if let Some((earlier, _)) = earlier {
            let earlier = table.describe(*earlier, host.place);
            let what = format!("the host {name} was named before, in {earlier}");
            table.report(
                Problem::error(host.place, what)
                    .because("only the first site would ever get its requests")
                    .fix("remove it here, or in the other site, or write site.listen with different addresses in both"),
            );
        }
        others.push((host.place, served_on.listen.clone()));
        hosts.push(name);
    }
    hosts
}

fn certificate(table: &Table<'_>, base: &Path) -> Option<Certificate> {
    match table.string_or_table(&site::TLS)? {
        Choice::Table(table) => {
            table.require(&certificate::CERT, "cert = \"fullchain.pem\"");
            table.require(&certificate::KEY, "key = \"privkey.pem\"");
            let cert = table.get(&certificate::CERT);
            let key = table.get(&certificate::KEY);
            Some(Certificate::Files {
                cert: cert?.map(|path| base.join(path)),
                key: base.join(key?.value),
            })
        }
        Choice::String(word) => {
            let word = word.parse(any_text)?;
            match word.as_str() {
                "self-signed" => Some(Certificate::SelfSigned(word.place)),
                "acme" => Some(Certificate::Acme(word.place)),
                _ => {
                    let what =
                        "site.tls is neither a pair of files nor \"acme\" nor \"self-signed\"";
                    let fix = match meant_certificate(&word) {
                        Some(meant) => format!("did you mean {}?", quote(meant)),
                        None => format!("write {CERTIFICATE_FILES}"),
                    };
                    table.report(Problem::error(word.place, what).fix(fix));
                    None
                }
            }
        }
    }
}

/// The word that was probably meant in place of another one: the right one but for a few letters, or ACME by the name of an
/// authority or of a client.
fn meant_certificate(word: &str) -> Option<&'static str> {
    if let Some(meant) = nearest(word, ["self-signed", "acme"]) {
        return Some(meant);
    }
    let letters = word.chars().filter(char::is_ascii_alphanumeric);
    let letters: String = letters.take(32).collect();
    matches!(
        letters.to_ascii_lowercase().as_str(),
        "letsencrypt" | "certbot" | "acmesh" | "zerossl" | "auto" | "automatic"
    )
    .then_some("acme")
}

const CERTIFICATE_FILES: &str = "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }";

fn client_auth(table: &Table<'_>, base: &Path) -> Option<ClientAuth> {
    let ca = table.get(&site::CLIENT_CA);
    let mode = table.value(&site::CLIENT_AUTH);
    if let (None, Some(place)) = (
        table.place_of(&site::CLIENT_CA),
        table.place_of(&site::CLIENT_AUTH),
    ) {
        table.report(
            Problem::error(place, "client_auth without client_ca")
                .because("no client certificate would be requested")
                .fix("add client_ca = \"clients.pem\", the CA that issues them"),
        );
    }
    Some(ClientAuth {
        ca: ca?.map(|path| base.join(path)),
        mode,
    })
}

/// Checks what the routes of a site mean together. `routes` has the result for each of the tables.
fn check_routes(tables: &[Table<'_>], routes: &[Option<RouteOrResponse>]) {
    let mut seen = Vec::new();
    for (table, route) in tables.iter().zip(routes) {
        let Some(route) = route else { continue };
        let prefix = route.path().trim_end_matches('/');
        if seen.contains(&prefix) {
            let what = format!("the site has two routes for {}", route.path());
            let place = table.place_of(&keys::route::PATH);
            table.report(Problem::error(place, what).fix("remove one of them"));
        }
        seen.push(prefix);
        if let RouteOrResponse::Route(route) = route
            && bypasses_registry_route(route, routes)
        {
            let what = format!(
                "{} leads to a registry that another route guards",
                route.path
            );
            table.report(
                Problem::warning(table.place_of(&keys::route::REGISTRY), what)
                    .because(
                        "with registry = false a mount is passed on as it arrived, and may read any repository of the upstream",
                    )
                    .fix("remove registry = false, or name another upstream"),
            );
        }
    }
}

/// Reports directories of files that no client can reach, because the files are served over plain HTTP only.
fn check_webroots(tables: &[Table<'_>], routes: &[Option<RouteOrResponse>], served_on: &ServedOn) {
    for (table, route) in tables.iter().zip(routes) {
        if let Some(RouteOrResponse::Response(response)) = route
            && matches!(response.content, StaticContent::Webroot(_))
            && !served_on.has_http
        {
            table.report(
                Problem::error(
                    table.place_of(&keys::route::RESPOND),
                    "respond.files on a site that no address of listen.http serves",
                )
                .because("certificate authorities request the files on port 80, over plain HTTP (RFC 8555 section 8.3)")
                .fix("add http = [\"[::]:80\"] to [listen], and the address to site.listen if the site has one"),
            );
        }
    }
}

/// Whether the route passes registry requests on without parsing them, to an upstream of a route that parses them.
fn bypasses_registry_route(route: &Route, routes: &[Option<RouteOrResponse>]) -> bool {
    let mut others = routes.iter().flatten();
    !route.is_registry
        && is_registry_path(&route.path)
        && others.any(|other| match other {
            RouteOrResponse::Route(other) => other.is_registry && share_an_endpoint(other, route),
            RouteOrResponse::Response(_) => false,
        })
}

fn share_an_endpoint(one: &Route, other: &Route) -> bool {
    let (one, other) = (&one.upstream.settings, &other.upstream.settings);
    one.endpoints
        .iter()
        .any(|endpoint| other.endpoints.contains(endpoint))
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    /// The problems of a site with these routes, each a path and an upstream. A `!` before the path stands for `registry = false`.
    fn problems_of(routes: &[(&str, &str)]) -> String {
        let mut text =
            "[listen]\nhttps = [\"[::1]:443\"]\n[[site]]\nhosts = [\"a\"]\ntls = \"self-signed\"\n"
                .to_owned();
        for (path, upstream) in routes {
            let registry = if path.starts_with('!') {
                "registry = false\n"
            } else {
                ""
            };
            let path = path.trim_start_matches('!');
            text += &format!(
                "[[site.route]]\npath = \"{path}\"\nupstream = \"http://{upstream}\"\nauth = {{ mode = \"none\" }}\n\
                 {registry}"
            );
        }
        let (_, problems) = parse(std::path::Path::new("x"), text.as_bytes());
        problems.to_string()
    }

    #[test]
    fn two_routes_for_one_path_are_an_error() {
        let twice = problems_of(&[("/v2/", "b"), ("/v2", "c")]);
        assert!(
            twice.contains("error: the site has two routes for /v2\n"),
            "{twice}"
        );
    }

    #[test]
    fn a_route_that_bypasses_the_registry_route_is_a_warning() {
        let odd = problems_of(&[("/v2/", "b"), ("!/v2/files/", "b")]);
        for word in ["14:1: warning: /v2/files/ leads to a registry", "a mount"] {
            assert!(odd.contains(word), "{word} in {odd}");
        }
        for fine in [
            &[("/v2/", "b"), ("!/v2/files/", "c")][..],
            &[("/v2/", "b"), ("!/", "b")],
            &[("/v2/", "b"), ("/v2/files/", "b")],
            &[("!/v2/", "b"), ("!/v2/files/", "b")],
        ] {
            assert_eq!(problems_of(fine), "", "{fine:?}");
        }
    }
}
