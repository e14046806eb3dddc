//! `check --live`: the parts of a setup that the configuration file cannot show, asked of the registries, the certificates,
//! this machine and the running proxy.
//!
//! Called by `cli`. Nothing is changed anywhere, unless a push is asked for, and every question ends within seconds; all
//! endpoints are asked at once. Whether the files are readable and fit has been found when the snapshot was built.
//! `endpoint` judges what a registry answers, `listener` is the client of the proxy itself, `push` the round trip of a blob.

use std::collections::HashMap;
use std::net::IpAddr;

use time::OffsetDateTime;
use tokio::net::lookup_host;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::config::problem::{Problem, Problems, Severity};
use crate::net::listener::ListenAddr;
use crate::snapshot::Snapshot;
use crate::upstream::{Endpoint, EndpointSettings, Upstream};

mod addresses;
mod bearer;
mod endpoint;
mod listener;
mod push;
mod remedy;

use endpoint::{Probe, Subject};
use listener::ListenerError;
pub use push::Push;

/// The answers of endpoints, each asked once.
type Probes = HashMap<Endpoint, Probe>;

/// Returns what is in order, and adds to the problems what is not.
pub async fn run(config: &Config, snapshot: &Snapshot, problems: &mut Problems) -> Vec<String> {
    let mut facts = certificates(snapshot, OffsetDateTime::now_utc());
    let subjects = subjects(config, snapshot);
    let asked = subjects
        .iter()
        .map(|subject| (subject.endpoint.clone(), subject.settings.clone()));
    let probes = probe_all(asked).await;
    let mut exposed = Vec::new();
    for subject in &subjects {
        let Some(probe) = probes.get(subject.endpoint) else {
            continue;
        };
        match subject.judge(probe) {
            // Routes share endpoints.
            Ok(fact) if !facts.contains(&fact) => facts.push(fact),
            Ok(_) => {}
            Err(problem) => problems.push(problem),
        }
        if subject.guards(probe) && !exposed.contains(&subject.endpoint) {
            exposed.push(subject.endpoint);
            for problem in exposures(subject, &addresses::own()).await {
                problems.push(problem);
            }
        }
    }
    greet_listeners(config, snapshot, problems, &mut facts).await;
    facts
}

/// Pushes a blob through the proxy that serves with this configuration and pulls it; returns what was done, or adds what
/// is wrong.
pub async fn try_push(
    push: &Push,
    config: &Config,
    snapshot: &Snapshot,
    problems: &mut Problems,
) -> Vec<String> {
    let pushed = push::run(push, config, snapshot, problems.file()).await;
    pushed.unwrap_or_else(|mut problem| {
        problem.what = format!("the push failed: {}", problem.what);
        problems.push(problem);
        Vec::new()
    })
}

/// Performs a TLS handshake with each address of `listen.https`, to find a proxy with an older configuration and other
/// programs on the port. A proxy that does not run is no problem: the check may come before the start.
async fn greet_listeners(
    config: &Config,
    snapshot: &Snapshot,
    problems: &mut Problems,
    facts: &mut Vec<String>,
) {
    let Some(site) = config.sites.first() else {
        return;
    };
    for binding in &config.listen.https {
        let ListenAddr::Address(address) = binding else {
            continue;
        };
        if address.port() == 0 {
            continue;
        }
        // Without a certificate to expect there is nothing to compare.
        let Ok(client) = push::client(site, config, snapshot, *address) else {
            continue;
        };
        let (host, address) = (&client.host, client.address);
        match client.greet().await {
            Ok(()) => facts.push(format!("{address}: serves {host} with its certificate")),
            Err(ListenerError::Connect(cause))
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

fn certificates(snapshot: &Snapshot, now: OffsetDateTime) -> Vec<String> {
    let all = snapshot.certificates().iter().map(|certificate| {
        let site = certificate.site();
        let Some(until) = certificate.until() else {
            return format!("{site}: no certificate yet; the proxy orders one while it serves");
        };
        let days = (until - now).whole_days();
        format!(
            "{site}: the certificate fits its key and is valid until {}, {days} days",
            until.date()
        )
    });
    all.collect()
}

fn subjects<'a>(config: &'a Config, snapshot: &'a Snapshot) -> Vec<Subject<'a>> {
    let mut subjects = Vec::new();
    for site in &config.sites {
        let hosts = site.hosts.first();
        let mut all = snapshot.service.sites.all();
        let Some(built) = hosts.and_then(|host| all.find(|built| built.name == *host)) else {
            continue;
        };
        for route in &site.routes {
            let Some(found) = built.routes.iter().find(|built| built.path == route.path) else {
                continue;
            };
            let upstream: &Upstream = found.forward.upstream();
            let settings = upstream.settings();
            subjects.extend(settings.endpoints.iter().map(|endpoint| Subject {
                place: route.upstream.place,
                config,
                site,
                built,
                route,
                forward: &found.forward,
                endpoint,
                settings: &settings.each,
            }));
        }
    }
    subjects
}

async fn probe_all(subjects: impl Iterator<Item = (Endpoint, EndpointSettings)>) -> Probes {
    let mut asking = JoinSet::new();
    let mut asked = Vec::new();
    for (endpoint, settings) in subjects {
        if !asked.contains(&endpoint) {
            asked.push(endpoint.clone());
            asking.spawn(async move {
                let probe = Probe::send(&endpoint, &settings).await;
                (endpoint, probe)
            });
        }
    }
    let mut probes = Probes::new();
    while let Some(done) = asking.join_next().await {
        probes.extend(done.ok());
    }
    probes
}

/// An error for each of `own`, the addresses at which others reach this machine, where the same port lets everyone in.
async fn exposures(subject: &Subject<'_>, own: &[IpAddr]) -> Vec<Problem> {
    let Endpoint::Tcp { host, port } = subject.endpoint else {
        return Vec::new();
    };
    let bare = host.trim_matches(['[', ']']);
    let found = lookup_host((bare, *port)).await;
    let mut addresses = found.into_iter().flatten().map(|address| address.ip());
    // An address of another machine says nothing about this one.
    if !addresses.any(|address| address.is_loopback() || own.contains(&address)) {
        return Vec::new();
    }
    let others = own.iter().map(|address| {
        let (host, port) = (address.to_string(), *port);
        (Endpoint::Tcp { host, port }, subject.settings.clone())
    });
    let probes = probe_all(others).await;
    let mut open: Vec<_> = probes
        .into_iter()
        .filter(|(_, probe)| probe.is_open())
        .map(|(endpoint, _)| endpoint.to_string())
        .collect();
    open.sort();
    let problem = |exposed: String| {
        Problem::error(subject.place, format!("{exposed} answers without a password"))
            .because(format!(
                "clients that reach it go past the gate to what {} holds",
                subject.endpoint
            ))
            .fix(format!(
                "let the registry listen on 127.0.0.1 alone (addr: 127.0.0.1:{port}, or docker run -p 127.0.0.1:{port}:5000)"
            ))
    };
    open.into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests;
