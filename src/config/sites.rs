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
use super::keys::{self, certificate, site};
use super::problem::{Position, Problem};
use super::routes::{self, Route, RouteContext, RouteOrResponse};
use super::table::{Choice, Table};
use super::upstreams::UpstreamLimits;
use super::value::any_text;
use crate::forward::Origin;
use crate::net::host::Host;
use crate::registry::is_registry_path;
use crate::site::StaticResponse;
use crate::tls::ClientAuthMode;

/// A `[[site]]` table.
#[derive(Clone, Debug)]
pub struct Site {
    /// The hosts in the form of [`crate::site::Site::hosts`]; at least one.
    pub hosts: Vec<String>,
    /// The source of the certificate.
    pub certificate: Certificate,
    /// The client certificates that are accepted; `None` if none is requested.
    pub clients: Option<ClientAuth>,
    /// The origin that clients see in URLs, instead of the one that they addressed.
    pub external: Option<Origin>,
    /// The routes to an upstream.
    pub routes: Vec<Route>,
    /// The routes to which the proxy responds itself.
    pub responses: Vec<StaticResponse>,
}

/// The client certificates of a site.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// A PEM file with the CAs that issue them.
    pub ca: Spanned<PathBuf>,
    /// Whether a client must have a certificate.
    pub demand: ClientAuthMode,
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
pub(crate) fn read(root: &Table<'_>, limits: UpstreamLimits) -> Vec<Site> {
    root.require(&keys::SITE, "[[site]] with hosts, tls and a [[site.route]]");
    let groups = Groups::read(root);
    let mut places_of_hosts = HashMap::new();
    let tables = root.tables(&keys::SITE);
    let sites = tables
        .iter()
        .filter_map(|table| read_site(table, limits, &groups, &mut places_of_hosts));
    sites.collect()
}

fn read_site(
    table: &Table<'_>,
    limits: UpstreamLimits,
    groups: &Groups,
    places_of_hosts: &mut HashMap<String, Position>,
) -> Option<Site> {
    let folder = table.folder();
    let base = folder.as_path();
    let patterns = host_patterns(table);
    let hosts = host_names(table, &patterns, places_of_hosts);
    let certificate = certificate(table, base);
    if let Some(Certificate::Acme(_)) = certificate {
        acme::check_hosts(table, &patterns);
    }
    let clients = client_auth(table, base);
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
    let (mut routes, mut responses) = (Vec::new(), Vec::new());
    for route in read.into_iter().flatten() {
        match route {
            RouteOrResponse::Route(route) => routes.push(*route),
            RouteOrResponse::Response(response) => responses.push(response),
        }
    }
    Some(Site {
        hosts,
        certificate: certificate?,
        clients,
        external: external.map(|url| url.value.into()),
        routes,
        responses,
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

/// Returns the hosts in the form of [`Site::hosts`], and reports those that an earlier site has. `places` has the hosts of the
/// earlier sites with their positions.
fn host_names(
    table: &Table<'_>,
    patterns: &[Spanned<HostPattern>],
    places: &mut HashMap<String, Position>,
) -> Vec<String> {
    let mut hosts = Vec::new();
    for host in patterns {
        let name = match &host.value {
            HostPattern::Exact(Host::Name(name)) => name.clone(),
            HostPattern::Exact(Host::Address(address)) => address.to_string(),
            HostPattern::Wildcard(parent) => format!("*.{parent}"),
            HostPattern::Any => "*".to_owned(),
        };
        if let Some(earlier) = places.insert(name.clone(), host.place) {
            let earlier = table.describe(earlier, host.place);
            let what = format!("the host {name} was named before, in {earlier}");
            table.report(
                Problem::error(host.place, what)
                    .because("only the first site would ever get its requests")
                    .fix("remove it here, or in the other site"),
            );
        }
        hosts.push(name);
    }
    hosts
}

fn certificate(table: &Table<'_>, base: &Path) -> Option<Certificate> {
    let files = "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }";
    table.require(&site::TLS, files);
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
                    table.report(Problem::error(word.place, what).fix(format!("write {files}")));
                    None
                }
            }
        }
    }
}

fn client_auth(table: &Table<'_>, base: &Path) -> Option<ClientAuth> {
    let ca = table.get(&site::CLIENT_CA);
    let demand = table.value(&site::CLIENT_AUTH);
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
        demand,
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

/// Whether the route passes registry requests on without parsing them, to an upstream of a route that parses them.
fn bypasses_registry_route(route: &Route, routes: &[Option<RouteOrResponse>]) -> bool {
    let mut others = routes.iter().flatten();
    !route.registry
        && is_registry_path(&route.path)
        && others.any(|other| match other {
            RouteOrResponse::Route(other) => other.registry && share_an_endpoint(other, route),
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
