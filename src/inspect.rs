//! `check --live`: what the configuration cannot say by itself, asked of the registries, the certificates and this machine.
//!
//! Called by `cli`. Nothing is changed anywhere, unless a push is asked for, and every question ends within seconds; all are asked at once. Whether the
//! files are readable and fit has been found when the snapshot was built.

use std::collections::HashMap;
use std::net::IpAddr;

use http::StatusCode;
use time::OffsetDateTime;
use tokio::net::lookup_host;
use tokio::task::JoinSet;

use crate::config::problem::{Place, Problem, Problems};
use crate::config::{Auth, Config, Route};
use crate::snapshot::Snapshot;
use crate::upstream::{self, Endpoint, EndpointSettings, Upstream};

mod addresses;
mod bearer;
mod listener;
mod push;

pub use push::Push;

/// One endpoint of one route.
struct Subject<'a> {
    place: Place,
    route: &'a Route,
    endpoint: &'a Endpoint,
    settings: &'a EndpointSettings,
}

/// What endpoints answer, each asked once.
type Answers = HashMap<Endpoint, Result<StatusCode, String>>;

/// Says what is well, and adds to the problems what is not.
pub async fn run(config: &Config, snapshot: &Snapshot, problems: &mut Problems) -> Vec<String> {
    let mut facts = certificates(snapshot, OffsetDateTime::now_utc());
    let subjects = subjects(config, snapshot);
    let asked = subjects
        .iter()
        .map(|subject| (subject.endpoint.clone(), subject.settings.clone()));
    let answers = ask_all(asked).await;
    let mut told = Vec::new();
    for subject in &subjects {
        let Some(answer) = answers.get(subject.endpoint) else {
            continue;
        };
        match subject.judge(answer) {
            // Routes share endpoints.
            Ok(fact) if !facts.contains(&fact) => facts.push(fact),
            Ok(_) => {}
            Err(problem) => problems.push(problem),
        }
        if subject.guards(answer) && !told.contains(&subject.endpoint) {
            told.push(subject.endpoint);
            for problem in subject.exposures(&addresses::own()).await {
                problems.push(problem);
            }
        }
    }
    facts
}

/// A blob's way through the gate that serves with this configuration; says what was done, or adds what is wrong.
pub async fn try_push(
    push: &Push,
    config: &Config,
    snapshot: &Snapshot,
    problems: &mut Problems,
) -> Vec<String> {
    push::run(push, config, snapshot)
        .await
        .unwrap_or_else(|why| {
            problems.push(Problem::error(None, format!("the push failed: {why}")));
            Vec::new()
        })
}

fn certificates(snapshot: &Snapshot, now: OffsetDateTime) -> Vec<String> {
    let all = snapshot.certificates().iter().map(|certificate| {
        let until = certificate.until();
        let days = (until - now).whole_days();
        let site = certificate.site();
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
            let Some(built) = built.routes.iter().find(|built| built.path == route.path) else {
                continue;
            };
            let upstream: &Upstream = built.forward.upstream();
            let settings = upstream.settings();
            subjects.extend(settings.endpoints.iter().map(|endpoint| Subject {
                place: route.upstream.place,
                route,
                endpoint,
                settings: &settings.each,
            }));
        }
    }
    subjects
}

async fn ask_all(subjects: impl Iterator<Item = (Endpoint, EndpointSettings)>) -> Answers {
    let mut asking = JoinSet::new();
    let mut answers = Answers::new();
    for (endpoint, settings) in subjects {
        if !answers.contains_key(&endpoint) {
            answers.insert(endpoint.clone(), Err("it was not asked".to_owned()));
            asking.spawn(async move {
                let answer = upstream::ask(&endpoint, &settings).await;
                (endpoint, answer)
            });
        }
    }
    while let Some(asked) = asking.join_next().await {
        if let Ok((endpoint, answer)) = asked {
            answers.insert(endpoint, answer);
        }
    }
    answers
}

impl Subject<'_> {
    /// Whether what it says to someone without credentials fits the route.
    fn judge(&self, answer: &Result<StatusCode, String>) -> Result<String, Problem> {
        let endpoint = self.endpoint;
        let is_left = matches!(self.route.auth, Auth::LeftToUpstream);
        let warning = |what: String| Problem::warning(self.place, what);
        match answer {
            Err(why) => Err(Problem::error(self.place, format!("no answer: {why}"))
                .because(format!("requests for {endpoint} fail"))
                .fix("start what should listen there, or correct the address")),
            Ok(status) if !self.route.registry => Ok(format!("{endpoint} answers ({status})")),
            Ok(StatusCode::OK) if is_left => Err(Problem::error(
                self.place,
                format!("{endpoint} asks nobody for a password, and neither does the gate"),
            )
            .because("mode = \"upstream\" leaves it to the registry who is asking: anyone may push")
            .fix(
                "write mode = \"basic\" with a password file, or give the registry its own users",
            )),
            Ok(StatusCode::OK) => Ok(format!("{endpoint} answers as a registry does")),
            Ok(StatusCode::UNAUTHORIZED) if is_left => Ok(format!(
                "{endpoint} answers as a registry does that knows its users"
            )),
            Ok(StatusCode::UNAUTHORIZED) => Err(warning(format!(
                "{endpoint} asks for a password of its own"
            ))
            .because("the gate sends none on, so nobody gets anything")
            .fix("take the registry's own users away, or write mode = \"upstream\"")),
            Ok(status) => Err(warning(format!("{endpoint} answers {status} to /v2/"))
                .because("a registry says 200, or 401")
                .fix("see whether something else listens there")),
        }
    }

    /// Whether the gate stands before what would let everybody in.
    fn guards(&self, answer: &Result<StatusCode, String>) -> bool {
        let asks = !matches!(self.route.auth, Auth::Open | Auth::LeftToUpstream);
        asks && *answer == Ok(StatusCode::OK)
    }

    /// An error for each of `own`, the addresses at which others reach this machine, where the same port answers.
    async fn exposures(&self, own: &[IpAddr]) -> Vec<Problem> {
        let Endpoint::Tcp { host, port } = self.endpoint else {
            return Vec::new();
        };
        let bare = host.trim_matches(['[', ']']);
        let found = lookup_host((bare, *port)).await;
        let mut addresses = found.into_iter().flatten().map(|address| address.ip());
        // One of another machine says nothing about this one.
        if !addresses.any(|address| address.is_loopback() || own.contains(&address)) {
            return Vec::new();
        }
        let others = own.iter().map(|address| {
            let (host, port) = (address.to_string(), *port);
            (Endpoint::Tcp { host, port }, self.settings.clone())
        });
        let answers = ask_all(others).await;
        let mut open: Vec<_> = answers
            .into_iter()
            .filter(|(_, answer)| *answer == Ok(StatusCode::OK))
            .map(|(endpoint, _)| endpoint.to_string())
            .collect();
        open.sort();
        let problem = |place: String| {
            Problem::error(self.place, format!("{place} answers without a password"))
                .because(format!("whoever reaches it goes past the gate to what {} holds", self.endpoint))
                .fix(format!(
                    "let the registry listen on 127.0.0.1 alone (addr: 127.0.0.1:{port}, or docker run -p 127.0.0.1:{port}:5000)"
                ))
        };
        open.into_iter().map(problem).collect()
    }
}

#[cfg(test)]
mod tests;
