//! From the `[[site]]` tables to [`Site`]s: what each key means, and what the values mean together.
//!
//! Called by `build` alone.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::build::UpstreamLimits;
use super::problem::Problem;
use super::table::{Placed, Table, Written};
use super::units::{self, Host, HostPattern, UpstreamUrl};
use super::{Auth, Certificate, Route, Site};
use crate::forward::headers::{Edits, is_reserved};
use crate::forward::{HeaderEdits, Origin};
use crate::upstream::{self, Endpoint};

/// Reads every site.
pub(super) fn read(root: &Table<'_>, base: &Path, limits: UpstreamLimits) -> Vec<Site> {
    root.required("site", "[[site]] with hosts, tls and a [[site.route]]");
    let mut taken = HashMap::new();
    let tables = root.tables("site");
    tables
        .iter()
        .filter_map(|table| {
            Reader {
                table,
                base,
                limits,
            }
            .site(&mut taken)
        })
        .collect()
}

struct Reader<'a, 'b> {
    table: &'a Table<'b>,
    base: &'a Path,
    limits: UpstreamLimits,
}

impl Reader<'_, '_> {
    fn site(&self, taken: &mut HashMap<String, usize>) -> Option<Site> {
        let hosts = self.hosts(taken);
        let certificate = self.certificate();
        let external = self
            .table
            .parse("external_url", units::external_url)
            .map(|url| Origin {
                scheme: url.scheme.to_string(),
                authority: url.authority(),
            });
        let auth_table = self.table.table("auth");
        let auth = auth_table.as_ref().and_then(|auth| self.auth(auth));
        let site_auth = auth_table.is_some();
        self.table
            .required("route", "[[site.route]] with path, upstream and auth");
        let tables = self.table.tables("route");
        let routes: Vec<_> = tables
            .iter()
            .filter_map(|route| self.route(route, auth.as_ref(), site_auth))
            .collect();
        self.check_paths(&tables, &routes);
        Some(Site {
            hosts,
            certificate: certificate?,
            external,
            routes,
        })
    }

    fn hosts(&self, taken: &mut HashMap<String, usize>) -> Vec<String> {
        self.table
            .required("hosts", "hosts = [\"docker.example.com\"]");
        let Some(list) = self.table.parse_each("hosts", units::host_pattern) else {
            return Vec::new();
        };
        if list.value.is_empty() {
            self.table.report(
                Problem::error(list.place, "site.hosts is empty")
                    .fix("name the hosts that clients use"),
            );
        }
        let mut hosts = Vec::new();
        for host in list.value {
            let name = match &host.value {
                HostPattern::Exact(Host::Name(name)) => name.clone(),
                HostPattern::Exact(Host::Address(address)) => address.to_string(),
                HostPattern::Below(parent) => format!("*.{parent}"),
                HostPattern::Any => "*".to_owned(),
            };
            if let Some(line) = taken.insert(name.clone(), host.place.line) {
                let what = format!("the host {name} was named before, in line {line}");
                self.table.report(
                    Problem::error(host.place, what)
                        .because("only the first site would ever get its requests"),
                );
            }
            hosts.push(name);
        }
        hosts
    }

    fn certificate(&self) -> Option<Certificate> {
        self.table.required(
            "tls",
            "tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }",
        );
        match self.table.string_or_table("tls")? {
            Written::Full(files) => {
                files
                    .required("cert", "cert = \"fullchain.pem\"")
                    .required("key", "key = \"privkey.pem\"");
                let cert = files.parse("cert", units::text);
                let key = files.parse("key", units::text);
                Some(Certificate::Files {
                    cert: cert?.map(|path| self.base.join(path)),
                    key: self.base.join(key?.value),
                })
            }
            Written::Short(word) if word.value == "self-signed" => {
                Some(Certificate::SelfSigned(word.place))
            }
            Written::Short(word) => {
                let what = "site.tls is neither a pair of files nor \"self-signed\"";
                self.table.report(
                    Problem::error(word.place, what)
                        .fix("write tls = { cert = \"fullchain.pem\", key = \"privkey.pem\" }"),
                );
                None
            }
        }
    }

    fn auth(&self, auth: &Table<'_>) -> Option<Auth> {
        #[derive(Clone, Copy)]
        enum Mode {
            Basic,
            Upstream,
            None,
        }
        let modes = [
            ("basic", Mode::Basic),
            ("upstream", Mode::Upstream),
            ("none", Mode::None),
        ];
        auth.required("mode", "mode = \"basic\", \"upstream\" or \"none\"");
        let mode = auth.parse("mode", |text| units::word(text, &modes));
        let htpasswd = auth.parse("htpasswd", units::text);
        let realm = auth.string("realm");
        match mode?.value {
            Mode::Upstream => Some(Auth::LeftToUpstream),
            Mode::None => Some(Auth::Open),
            Mode::Basic => {
                auth.required(
                    "htpasswd",
                    "htpasswd = \"htpasswd\", a file made by htpasswd -B",
                );
                let text = realm
                    .as_ref()
                    .map_or("Registry realm", |realm| &realm.value);
                let Some(challenge) = crate::auth::challenge(text) else {
                    let place = realm.map(|realm| realm.place);
                    auth.report(
                        Problem::error(place, "the realm holds a control character")
                            .because("it stands in a header"),
                    );
                    return None;
                };
                Some(Auth::Basic {
                    htpasswd: htpasswd?.map(|path| self.base.join(path)),
                    challenge,
                })
            }
        }
    }

    fn route(
        &self,
        route: &Table<'_>,
        site_auth: Option<&Auth>,
        has_site_auth: bool,
    ) -> Option<Route> {
        route
            .required("path", "path = \"/v2/\"")
            .required("upstream", "upstream = \"http://127.0.0.1:5000\"");
        let path = route.parse("path", units::path_prefix);
        let upstream = self.upstream(route);
        let registry = route.boolean_or("registry", true);
        let own = route.table("auth");
        let auth = match &own {
            Some(table) => self.auth(table),
            None => site_auth.cloned(),
        };
        if own.is_none() && !has_site_auth {
            route.required(
                "auth",
                "auth = { mode = \"basic\", htpasswd = \"htpasswd\" }, here or in the site",
            );
        }
        let max_body = route.size_or_bytes("max_body").map_or(0, |size| size.value);
        let edits = HeaderEdits {
            request: edits(route, "request_headers"),
            response: edits(route, "response_headers"),
        };
        Some(Route {
            path: path?.value,
            registry,
            auth: auth?,
            upstream: upstream?,
            max_body: (max_body > 0).then_some(max_body),
            edits,
        })
    }

    fn upstream(&self, route: &Table<'_>) -> Option<upstream::Settings> {
        let (url, connect, read) = match route.string_or_table("upstream")? {
            Written::Short(_) => (route.parse("upstream", units::upstream_url)?, CONNECT, READ),
            Written::Full(table) => {
                table.required("urls", "urls = [\"http://127.0.0.1:5000\"]");
                let connect = table.duration_or("connect_timeout", CONNECT);
                let read = table.duration_or("read_timeout", READ);
                (single(&table)?, connect, read)
            }
        };
        let endpoint = match url.value {
            UpstreamUrl::Http { host, port } => Endpoint::Tcp {
                host: bare(&host),
                port,
            },
            UpstreamUrl::Unix(path) => Endpoint::Unix(path),
            UpstreamUrl::Https { .. } => {
                let problem =
                    Problem::error(url.place, "an upstream over https is not supported yet");
                route.report(problem.fix(
                    "use http:// to a registry on this machine or a private network, or unix:",
                ));
                return None;
            }
        };
        Some(upstream::Settings {
            endpoint,
            connect_timeout: connect,
            read_timeout: read,
            connections: self.limits.connections,
            queue: self.limits.queue,
            queue_wait: self.limits.wait,
            idle: UPSTREAM_IDLE,
            head_size: UPSTREAM_HEAD,
        })
    }

    fn check_paths(&self, tables: &[Table<'_>], routes: &[Route]) {
        let mut seen = Vec::new();
        for (table, route) in tables.iter().zip(routes) {
            let prefix = route.path.trim_end_matches('/');
            if seen.contains(&prefix) {
                let what = format!("the site has two routes for {}", route.path);
                self.table
                    .report(Problem::error(table.place_of("path"), what).fix("remove one of them"));
            }
            seen.push(prefix);
        }
    }
}

/// The one address of a list.
fn single(table: &Table<'_>) -> Option<Placed<UpstreamUrl>> {
    let urls = table.parse_each("urls", units::upstream_url)?;
    let place = urls.place;
    let count = urls.value.len();
    let first = urls.value.into_iter().next();
    if count != 1 {
        let what = format!("upstream.urls holds {count} usable addresses");
        table.report(
            Problem::error(place, what)
                .because("more than one endpoint is not supported yet")
                .fix("write one"),
        );
    }
    first
}

/// A host as the resolver wants it: without brackets.
fn bare(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Address(address) => address.to_string(),
    }
}

fn edits(route: &Table<'_>, key: &'static str) -> Edits {
    let mut edits = Edits::new();
    for (name, value) in route.pairs(key).unwrap_or_default() {
        let header = HeaderName::from_bytes(name.as_bytes()).ok();
        match header {
            None => route.report(Problem::error(
                name.place,
                format!("{:?} is no header name", name.value),
            )),
            Some(header) if is_reserved(&header) => route.report(
                Problem::error(name.place, format!("{header} cannot be set or removed"))
                    .because("the gate vouches for it, or it frames the message"),
            ),
            Some(header) if value.is_empty() => edits.push((header, None)),
            Some(header) => match HeaderValue::from_str(&value) {
                Ok(value) => edits.push((header, Some(value))),
                Err(_) => route.report(Problem::error(
                    value.place,
                    format!("the value of {header} cannot stand in a header"),
                )),
            },
        }
    }
    edits
}

/// An upstream is near: what does not answer a SYN for this long is down.
const CONNECT: Duration = Duration::from_secs(5);
/// nginx's recipe for registries: a large blob may take minutes to commit in silence.
const READ: Duration = Duration::from_secs(900);
/// Shorter than any idle limit of a common registry, so that reuse rarely meets a closing connection.
const UPSTREAM_IDLE: Duration = Duration::from_secs(60);
/// Room for a token realm and a presigned URL, many times over.
const UPSTREAM_HEAD: usize = 64 * 1024;
