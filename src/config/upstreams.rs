//! From a route's `upstream` to the settings of one.
//!
//! Called by `routes` alone. The file that `ca` names is not opened here: that is `snapshot`'s part.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use super::Upstream;
use super::problem::{Position, Problem};
use super::sites::SiteParser;
use super::table::{List, Spanned, Table, Written};
use super::units::{self, Host, UpstreamUrl};
use crate::upstream::{Endpoint, EndpointSettings, MAX_ENDPOINTS, Settings};

impl SiteParser<'_, '_> {
    pub(super) fn upstream(&self, route: &Table<'_>) -> Option<Upstream> {
        match route.string_or_table("upstream")? {
            Written::Short(_) => {
                let url = route.parse("upstream", units::upstream_url)?;
                let place = url.place;
                let settings =
                    self.settings(vec![endpoint(url.value)], UpstreamTimeouts::default());
                Some(Upstream {
                    settings,
                    place,
                    ca: None,
                })
            }
            Written::Full(table) => self.full(&table),
        }
    }

    fn full(&self, table: &Table<'_>) -> Option<Upstream> {
        table.required("urls", "urls = [\"http://127.0.0.1:5000\"]");
        let waits = UpstreamTimeouts {
            connect: timeout(table, "connect_timeout", CONNECT),
            retry: table.duration_or("connect_retry", RETRY),
            read: timeout(table, "read_timeout", READ),
        };
        let ca = table.parse("ca", units::text);
        let ca = ca.map(|ca| ca.map(|path| self.base.join(path)));
        let urls = table.parse_each("urls", units::upstream_url)?;
        check(table, &urls, ca.as_ref());
        let endpoints = urls.value.into_iter().map(|url| endpoint(url.value));
        Some(Upstream {
            settings: self.settings(endpoints.collect(), waits),
            place: urls.place,
            ca,
        })
    }

    fn settings(&self, endpoints: Vec<Endpoint>, waits: UpstreamTimeouts) -> Settings {
        Settings {
            endpoints,
            connect_retry: waits.retry,
            each: EndpointSettings {
                trust: None,
                connect_timeout: waits.connect,
                read_timeout: waits.read,
                connections: self.limits.connections,
                queue: self.limits.queue,
                queue_wait: self.limits.wait,
                idle: UPSTREAM_IDLE,
                head_size: UPSTREAM_HEAD,
            },
        }
    }
}

struct UpstreamTimeouts {
    connect: Duration,
    retry: Duration,
    read: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: CONNECT,
            retry: RETRY,
            read: READ,
        }
    }
}

type UpstreamUrls = Spanned<List<UpstreamUrl>>;

/// What the addresses mean together.
fn check(table: &Table<'_>, urls: &UpstreamUrls, ca: Option<&Spanned<PathBuf>>) {
    check_count(table, urls);
    let mut seen = HashSet::new();
    for url in urls.iter() {
        if !seen.insert(&url.value) {
            let what = format!("{} stands twice in upstream.urls", url.value);
            table.report(
                Problem::error(url.place, what)
                    .because("it would get twice its share of the requests")
                    .fix("write each address once"),
            );
        }
    }
    let place_of = |is_meant: fn(&UpstreamUrl) -> bool| -> Option<Position> {
        let meant = urls.iter().find(|url| is_meant(&url.value));
        meant.map(|url| url.place)
    };
    let https = place_of(|url| matches!(url, UpstreamUrl::Https { .. }));
    let http = place_of(|url| matches!(url, UpstreamUrl::Http { .. }));
    if let (Some(_), Some(http)) = (https, http) {
        table.report(
            Problem::error(http, "upstream.urls mixes http:// and https://")
                .because("what is to be protected would go in the clear by turns")
                .fix("write https:// for all of them, or for none"),
        );
    }
    if let (Some(ca), None) = (ca, https)
        && urls.is_whole()
        && !urls.is_empty()
    {
        table.report(
            Problem::error(
                ca.place,
                "upstream.ca is of no use without an https:// address",
            )
            .because("nothing shows a certificate")
            .fix("write https:// in upstream.urls, or leave ca out"),
        );
    }
}

fn check_count(table: &Table<'_>, urls: &UpstreamUrls) {
    let count = urls.len();
    if urls.is_written_empty() {
        table.report(
            Problem::error(urls.place, "upstream.urls is empty")
                .fix("write urls = [\"http://127.0.0.1:5000\"]"),
        );
    }
    if count > MAX_ENDPOINTS {
        let what = format!("upstream.urls names {count} addresses");
        table.report(Problem::error(urls.place, what).fix(format!("name at most {MAX_ENDPOINTS}")));
    }
}

fn endpoint(url: UpstreamUrl) -> Endpoint {
    match url {
        UpstreamUrl::Http { host, port } => Endpoint::Tcp {
            host: bare(&host),
            port,
        },
        UpstreamUrl::Https { host, port } => Endpoint::Tls {
            host: bare(&host),
            port,
        },
        UpstreamUrl::Unix(path) => Endpoint::Unix(path),
    }
}

/// A wait of no time would make every request fail.
fn timeout(table: &Table<'_>, key: &'static str, default: Duration) -> Duration {
    let Some(written) = table.duration(key) else {
        return default;
    };
    if written.is_zero() {
        let what = format!("upstream.{key} is zero");
        let problem =
            Problem::error(written.place, what).because("every request would fail at once");
        table.report(problem.fix("write how long to wait, as in \"900s\""));
    }
    written.value
}

/// A host as the resolver wants it: without brackets.
fn bare(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Address(address) => address.to_string(),
    }
}

/// An upstream is near: what does not answer a SYN for this long is down.
const CONNECT: Duration = Duration::from_secs(5);
/// A registry on the same machine is back within two seconds of a restart.
const RETRY: Duration = Duration::from_secs(3);
/// nginx's recipe for registries: a large blob may take minutes to commit in silence.
const READ: Duration = Duration::from_secs(900);
/// Shorter than any idle limit of a common registry, so that reuse rarely meets a closing connection.
const UPSTREAM_IDLE: Duration = Duration::from_secs(60);
/// Room for a token realm and a presigned URL, many times over.
const UPSTREAM_HEAD: usize = 64 * 1024;
