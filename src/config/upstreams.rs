//! The `upstream` of a route: its addresses, timeouts and CAs.
//!
//! Called by `routes`. The file that `ca` names is opened by `snapshot`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::resolve;
use super::document::Spanned;
use super::form::{AnyKey, Items};
use super::keys::{route, upstream};
use super::problem::{Position, Problem};
use super::table::{Choice, Table};
use super::url::{UpstreamAddress, UpstreamUrl, upstream_address};
use super::value::write;
use crate::net::host::Host;
use crate::registry::is_registry_path;
use crate::upstream::{Endpoint, EndpointSettings, MAX_ENDPOINTS, Settings};

/// The upstream of a route.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The settings, without the CAs: `snapshot` adds them.
    pub settings: Settings,
    /// The position of the addresses in the file.
    pub place: Position,
    /// The file with the CAs that verify the upstream, instead of those of the system.
    pub ca: Option<Spanned<PathBuf>>,
    /// The certificate that the proxy presents to the upstream.
    pub client: Option<ClientFiles>,
    /// The path that replaces the path of the route.
    pub path: Option<String>,
}

/// The files of the certificate that the proxy presents to an upstream.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// The PEM file with the certificate.
    pub cert: Spanned<PathBuf>,
    /// The PEM file with its private key.
    pub key: PathBuf,
}

/// The keys of `[limits]` that every upstream has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpstreamLimits {
    /// Requests at the same time to one address.
    pub(crate) connections: usize,
    /// Requests that may wait for an address.
    pub(crate) queue: usize,
    /// How long a request may wait for an address.
    pub(crate) queue_wait: Duration,
}

/// Reads the `upstream` of a route, a URL or a table. `route_path` is the `path` of the route if it is valid.
pub(crate) fn read(
    route: &Table<'_>,
    base: &Path,
    limits: UpstreamLimits,
    is_registry: bool,
    route_path: Option<&str>,
) -> Option<Upstream> {
    match route.string_or_table(&route::UPSTREAM)? {
        Choice::String(url) => {
            let url = url.parse(upstream_address)?;
            if is_registry {
                check_no_path(route, &route.path_of(&route::UPSTREAM), &url, route_path);
            }
            let connect_timeout = upstream::CONNECT_TIMEOUT.form.default;
            let read_timeout = upstream::READ_TIMEOUT.form.default;
            Some(Upstream {
                settings: Settings {
                    endpoints: vec![endpoint(
                        route,
                        &route::UPSTREAM,
                        url.place,
                        url.value.url,
                        base,
                    )?],
                    host: upstream::HOST.form.default,
                    connect_retry: upstream::CONNECT_RETRY.form.default,
                    each: endpoint_settings(None, connect_timeout, read_timeout, limits),
                },
                place: url.place,
                ca: None,
                client: None,
                path: url.value.path,
            })
        }
        Choice::Table(table) => read_table(&table, base, limits, is_registry, route_path),
    }
}

fn read_table(
    table: &Table<'_>,
    base: &Path,
    limits: UpstreamLimits,
    is_registry: bool,
    route_path: Option<&str>,
) -> Option<Upstream> {
    table.require(&upstream::URLS, "urls = [\"http://127.0.0.1:5000\"]");
    let connect_timeout = table.value(&upstream::CONNECT_TIMEOUT);
    let connect_retry = table.value(&upstream::CONNECT_RETRY);
    let read_timeout = table.value(&upstream::READ_TIMEOUT);
    let host = table.value(&upstream::HOST);
    let ca = table.get(&upstream::CA);
    let ca = ca.map(|ca| ca.map(|path| base.join(path)));
    let client = client_files(table, base);
    let server_name = table.get(&upstream::SERVER_NAME);
    let urls = table.get(&upstream::URLS)?;
    check_urls(table, &urls, ca.as_ref());
    check_client_files(table, &urls, client.as_ref());
    if let Some(name) = &server_name {
        check_server_name(table, &urls, name.place);
    }
    let path = common_path(table, &urls, is_registry, route_path);
    let place = urls.place;
    Some(Upstream {
        settings: Settings {
            endpoints: urls
                .value
                .items
                .into_iter()
                .filter_map(|address| {
                    let url = address.value.url;
                    endpoint(table, &upstream::URLS, address.place, url, base)
                })
                .collect(),
            connect_retry,
            host,
            each: endpoint_settings(
                server_name.map(|name| without_brackets(name.value)),
                connect_timeout,
                read_timeout,
                limits,
            ),
        },
        place,
        ca,
        client,
        path,
    })
}

/// Reads the certificate that the proxy presents to the upstream. Certificate and key are of use only together.
fn client_files(table: &Table<'_>, base: &Path) -> Option<ClientFiles> {
    let is_written = |key: &dyn AnyKey| table.place_of(key).is_some();
    if !is_written(&upstream::CERT) && !is_written(&upstream::KEY) {
        return None;
    }
    table.require(&upstream::CERT, "cert = \"client.pem\"");
    table.require(&upstream::KEY, "key = \"client.key\"");
    let cert = table.get(&upstream::CERT);
    let key = table.get(&upstream::KEY);
    Some(ClientFiles {
        cert: cert?.map(|path| base.join(path)),
        key: base.join(key?.value),
    })
}

/// Returns the path that all addresses have, and reports addresses that have another one, and paths on a registry.
fn common_path(
    table: &Table<'_>,
    urls: &Spanned<Items<UpstreamAddress>>,
    is_registry: bool,
    route_path: Option<&str>,
) -> Option<String> {
    let mut items = urls.items.iter();
    let first = items.next()?;
    if is_registry {
        for url in &urls.items {
            check_no_path(table, &table.path_of(&upstream::URLS), url, route_path);
        }
    } else if let Some(other) = items.find(|other| other.path != first.path) {
        table.report(
            Problem::error(other.place, "upstream.urls has addresses with different paths")
                .because("the addresses of an upstream serve the same, and one path replaces the path of the route")
                .fix("write the same path in each address"),
        );
    }
    first.path.clone()
}

/// Reports a path in the address of a registry. On a route that has requests of the registry API, `registry = false` would end
/// the checks of the registry's rules, so it is no remedy there.
fn check_no_path(
    table: &Table<'_>,
    name: &str,
    address: &Spanned<UpstreamAddress>,
    route_path: Option<&str>,
) {
    if let Some(path) = &address.path {
        let part = if path == "/" {
            "a slash at the end"
        } else {
            "a path"
        };
        table.report(
            Problem::error(address.place, format!("{name}: {part} has no place in it"))
                .because("the registry API is at /v2/ on both sides; only a route with registry = false can have another path")
                .fix(match route_path {
                    Some(path) if path != "/" && !is_registry_path(path) => {
                        format!("write \"{}\", or add registry = false to the route", address.url)
                    }
                    _ => write(&address.url),
                }),
        );
    }
}

fn endpoint_settings(
    server_name: Option<String>,
    connect_timeout: Duration,
    read_timeout: Duration,
    limits: UpstreamLimits,
) -> EndpointSettings {
    EndpointSettings {
        trust: None,
        server_name,
        connect_timeout,
        read_timeout,
        connections: limits.connections,
        queue: limits.queue,
        queue_wait: limits.queue_wait,
        idle: UPSTREAM_IDLE_TIMEOUT,
        head_size: MAX_UPSTREAM_HEAD_SIZE,
    }
}

/// Shorter than the idle timeout of every common registry, so that the proxy rarely reuses a connection that the registry is
/// closing.
const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Many times the size of a token realm and a presigned URL.
const MAX_UPSTREAM_HEAD_SIZE: usize = 64 * 1024;

/// Checks what the addresses mean together.
fn check_urls(
    table: &Table<'_>,
    urls: &Spanned<Items<UpstreamAddress>>,
    ca: Option<&Spanned<PathBuf>>,
) {
    if urls.is_written_empty() {
        table.report(
            Problem::error(urls.place, "upstream.urls is empty")
                .fix("write urls = [\"http://127.0.0.1:5000\"]"),
        );
    }
    if urls.items.len() > MAX_ENDPOINTS {
        let what = format!("upstream.urls names {} addresses", urls.items.len());
        let fix = format!("name at most {MAX_ENDPOINTS}");
        table.report(Problem::error(urls.place, what).fix(fix));
    }
    let mut seen = HashSet::new();
    for url in &urls.items {
        if !seen.insert(&url.value.url) {
            let what = format!("{} is in upstream.urls twice", url.value.url);
            table.report(
                Problem::error(url.place, what)
                    .because("it would get twice its share of the requests")
                    .fix("write each address once"),
            );
        }
    }
    let find =
        |is_meant: fn(&UpstreamUrl) -> bool| urls.items.iter().find(|url| is_meant(&url.value.url));
    let https = find(|url| matches!(url, UpstreamUrl::Https { .. }));
    let http = find(|url| matches!(url, UpstreamUrl::Http { .. }));
    if let (Some(_), Some(http)) = (https, http) {
        table.report(
            Problem::error(http.place, "upstream.urls mixes http:// and https://")
                .because("requests that need encryption would be sent without it by turns")
                .fix("write https:// for all of them, or for none"),
        );
    }
    if let (Some(ca), None) = (ca, https)
        && urls.is_complete()
        && !urls.items.is_empty()
    {
        let what = "upstream.ca is of no use without an https:// address";
        table.report(
            Problem::error(ca.place, what)
                .because("no upstream has a certificate to verify")
                .fix("write https:// in upstream.urls, or leave ca out"),
        );
    }
}

fn check_client_files(
    table: &Table<'_>,
    urls: &Spanned<Items<UpstreamAddress>>,
    client: Option<&ClientFiles>,
) {
    let is_https = |url: &Spanned<UpstreamAddress>| matches!(url.url, UpstreamUrl::Https { .. });
    if let Some(client) = client
        && urls.is_complete()
        && !urls.items.is_empty()
        && !urls.items.iter().any(is_https)
    {
        let what = "upstream.cert is of no use without an https:// address";
        table.report(
            Problem::error(client.cert.place, what)
                .because("a certificate is presented in a TLS handshake only")
                .fix("write https:// in upstream.urls, or leave cert and key out"),
        );
    }
}

fn check_server_name(table: &Table<'_>, urls: &Spanned<Items<UpstreamAddress>>, place: Position) {
    let is_https = |url: &Spanned<UpstreamAddress>| matches!(url.url, UpstreamUrl::Https { .. });
    if urls.is_complete() && !urls.items.is_empty() && !urls.items.iter().any(is_https) {
        let what = "upstream.server_name is of no use without an https:// address";
        table.report(
            Problem::error(place, what)
                .because(
                    "the name is sent and verified in a TLS handshake only; Host is host = \"…\"",
                )
                .fix("write https:// in upstream.urls, or leave server_name out"),
        );
    }
}

/// The endpoint at an address. `None` if the address is a socket whose whole path is too long, which is reported.
fn endpoint(
    table: &Table<'_>,
    key: &dyn AnyKey,
    place: Position,
    url: UpstreamUrl,
    base: &Path,
) -> Option<Endpoint> {
    Some(match url {
        UpstreamUrl::Http { host, port } => Endpoint::Tcp {
            host: without_brackets(host),
            port,
        },
        UpstreamUrl::Https { host, port } => Endpoint::Tls {
            host: without_brackets(host),
            port,
        },
        UpstreamUrl::Unix(path) => {
            Endpoint::Unix(table.accept(key, place, resolve(&path, base))?)
        }
    })
}

/// Returns the host as `getaddrinfo` accepts it.
fn without_brackets(host: Host) -> String {
    match host {
        Host::Name(name) => name,
        Host::Address(address) => address.to_string(),
    }
}
