//! `check --live`: finds the faults of a setup that the configuration file cannot show. It probes the upstreams, this
//! machine's addresses and the running proxy, and reports how long the certificates last.
//!
//! Called by `cli`. The check changes nothing, unless a push is requested. Every probe has a timeout of seconds, and all
//! endpoints are probed concurrently. The snapshot that the caller has built already shows that the files are readable and
//! that keys fit their certificates. `endpoint` judges the response of a registry, `client` talks to the proxy itself, and
//! `push` sends a blob through the proxy into the registry and back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::Config;
use crate::config::problem::{Problem, Problems, Severity};
use crate::net::host::strip_brackets;
use crate::net::listener::ListenAddr;
use crate::snapshot::Snapshot;
use crate::upstream::{Endpoint, EndpointSettings, Upstream};

mod addresses;
mod bearer;
mod behind_proxy;
mod client;
mod endpoint;
mod push;
mod remedy;

use client::ClientError;
use endpoint::{EndpointCheck, Probe};
pub use push::Push;

/// The probes of the endpoints. Each endpoint is probed once, however many routes use it.
type Probes = HashMap<Endpoint, Probe>;

/// Is called with what the check does next, for a progress line on a terminal.
pub type OnStep<'a> = &'a dyn Fn(&str);

/// Probes everything. Returns what works, one sentence each, and adds a problem for everything that does not.
pub async fn run(
    config: &Config,
    snapshot: &Snapshot,
    problems: &mut Problems,
    on_step: OnStep<'_>,
) -> Vec<String> {
    let mut facts = certificates(snapshot, OffsetDateTime::now_utc());
    let checks = endpoint_checks(config, snapshot);
    let endpoints = checks
        .iter()
        .map(|check| (check.endpoint.clone(), check.settings.clone()));
    let addresses: Vec<_> = checks
        .iter()
        .map(|check| check.endpoint.to_string())
        .collect();
    on_step(&format!("sending a request to {}", addresses.join(", ")));
    let probes = probe_all(endpoints).await;
    let mut exposed = Vec::new();
    for check in &checks {
        let Some(probe) = probes.get(check.endpoint) else {
            continue;
        };
        match check.judge(probe) {
            // Routes that share an endpoint have the same fact.
            Ok(fact) if !facts.contains(&fact) => facts.push(fact),
            Ok(_) => {}
            Err(problem) => problems.push(problem),
        }
        if check.is_protected_by_proxy(probe) && !exposed.contains(&check.endpoint) {
            exposed.push(check.endpoint);
            on_step(&format!(
                "looking for {} on the other addresses of this machine",
                check.endpoint
            ));
            for problem in exposures(check, &addresses::of_this_machine()).await {
                problems.push(problem);
            }
        }
    }
    on_step("connecting to the addresses of listen");
    check_listeners(config, snapshot, problems, &mut facts).await;
    check_behind_proxy(config, problems, &mut facts).await;
    facts
}

/// Pushes a blob through the running proxy and pulls it. Returns what was done, or adds the problem that ended it.
pub async fn try_push(
    push: &Push,
    config: &Config,
    snapshot: &Snapshot,
    problems: &mut Problems,
    on_step: OnStep<'_>,
) -> Vec<String> {
    let pushed = push::run(push, config, snapshot, problems.file(), on_step).await;
    pushed.unwrap_or_else(|mut problem| {
        problem.what = format!("the push failed: {}", problem.what);
        problems.push(problem);
        Vec::new()
    })
}

/// Performs a TLS handshake with each address of `listen.https`, to detect a proxy that serves an older configuration, and
/// another program on the port. A proxy that does not run is no problem, because the check may precede the start.
async fn check_listeners(
    config: &Config,
    snapshot: &Snapshot,
    problems: &mut Problems,
    facts: &mut Vec<String>,
) {
    for binding in &config.listen.https {
        let ListenAddr::Address(address) = binding else {
            continue;
        };
        let Some(site) = config.sites.iter().find(|site| site.is_on(binding)) else {
            continue;
        };
        if address.port() == 0 {
            continue;
        }
        // Without an expected certificate there is nothing to compare.
        let Ok(client) = push::client(site, config, snapshot, *address) else {
            continue;
        };
        let (host, address) = (&client.host, client.address);
        match client.handshake().await {
            Ok(()) => facts.push(format!("{address}: serves {host} with its certificate")),
            Err(ClientError::Connect(cause))
                if cause.kind() == std::io::ErrorKind::ConnectionRefused =>
            {
                facts.push(format!(
                    "{address}: nothing listens; the proxy is not running"
                ));
            }
            Err(error) => {
                let mut problem = client.problem(&error, problems.file());
                problem.severity = Severity::Warning;
                problems.push(problem);
            }
        }
    }
}

/// Sends a request to each address of `listen.behind_proxy`, for the first name that is served there.
async fn check_behind_proxy(config: &Config, problems: &mut Problems, facts: &mut Vec<String>) {
    for listener in &config.listen.behind_proxy {
        let sites = config.sites.iter().filter(|site| site.is_on(listener));
        let mut hosts = sites.flat_map(|site| &site.hosts);
        let Some(host) = hosts.find(|host| !host.contains('*')) else {
            continue;
        };
        match behind_proxy::probe(listener, host).await {
            Some(Ok(fact)) => facts.push(fact),
            Some(Err(problem)) => problems.push(problem),
            None => {}
        }
    }
}

/// How long the certificate of each site is valid.
fn certificates(snapshot: &Snapshot, now: OffsetDateTime) -> Vec<String> {
    let all = snapshot.certificates().iter().map(|certificate| {
        let site = certificate.site();
        let Some(until) = certificate.until() else {
            return format!("{site}: no certificate yet; the proxy orders one while it serves");
        };
        let days = (until - now).whole_days();
        if until < now {
            return format!("{site}: the certificate expired on {}", until.date());
        }
        format!(
            "{site}: the certificate fits its key and is valid until {}, {days} days",
            until.date()
        )
    });
    all.collect()
}

/// A check for each endpoint of each route.
fn endpoint_checks<'a>(config: &'a Config, snapshot: &'a Snapshot) -> Vec<EndpointCheck<'a>> {
    let mut checks = Vec::new();
    for site in &config.sites {
        let mut all = snapshot.service.sites.all();
        let Some(built_site) = all.find(|built| built.name == site.name) else {
            continue;
        };
        for route in &site.routes {
            let mut built_routes = built_site.routes.iter();
            let Some(built_route) = built_routes.find(|built| built.path == route.path) else {
                continue;
            };
            let upstream: &Upstream = built_route.forward.upstream();
            let settings = upstream.settings();
            checks.extend(settings.endpoints.iter().map(|endpoint| EndpointCheck {
                position: route.upstream.place,
                site,
                built_site,
                route,
                forward: &built_route.forward,
                endpoint,
                settings: &settings.each,
            }));
        }
    }
    checks
}

/// Probes all endpoints concurrently, each once.
async fn probe_all(endpoints: impl Iterator<Item = (Endpoint, EndpointSettings)>) -> Probes {
    let mut tasks = JoinSet::new();
    let mut started = Vec::new();
    for (endpoint, settings) in endpoints {
        if !started.contains(&endpoint) {
            started.push(endpoint.clone());
            tasks.spawn(async move {
                let probe = Probe::send(&endpoint, &settings).await;
                (endpoint, probe)
            });
        }
    }
    let mut probes = Probes::new();
    while let Some(finished) = tasks.join_next().await {
        probes.extend(finished.ok());
    }
    probes
}

/// Looks for the registry of this endpoint on the other addresses of this machine, `own`. Returns an error for each address
/// at which it responds without a password, since other machines can reach it there.
async fn exposures(check: &EndpointCheck<'_>, own: &[IpAddr]) -> Vec<Problem> {
    let Endpoint::Tcp { host, port } = check.endpoint else {
        return Vec::new();
    };
    let lookup = lookup_host((strip_brackets(host), *port));
    let Ok(Ok(found)) = timeout(LOOKUP_TIMEOUT, lookup).await else {
        return Vec::new();
    };
    let mut addresses = found.map(|address| address.ip());
    // A registry on another machine is not behind this machine's addresses.
    if !addresses.any(|address| address.is_loopback() || own.contains(&address)) {
        return Vec::new();
    }
    let others = own.iter().map(|address| {
        let (host, port) = (address.to_string(), *port);
        (Endpoint::Tcp { host, port }, check.settings.clone())
    });
    let probes = probe_all(others).await;
    let mut open: Vec<_> = probes
        .into_iter()
        .filter(|(_, probe)| probe.is_open())
        .map(|(endpoint, _)| endpoint.to_string())
        .collect();
    open.sort();
    let problem = |exposed: String| {
        Problem::error(check.position, format!("{exposed} responds without a password"))
            .because(format!(
                "clients that can reach this address bypass the proxy and its passwords; it is the registry of {}",
                check.endpoint
            ))
            .fix(format!(
                "let the registry listen on 127.0.0.1 alone (addr: 127.0.0.1:{port}, or docker run -p 127.0.0.1:{port}:5000)"
            ))
    };
    open.into_iter().map(problem).collect()
}

/// For the name of an endpoint that the probe has just resolved.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
