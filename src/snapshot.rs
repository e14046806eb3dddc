//! Everything that is built from one config: what a request, a handshake and a connection use.
//!
//! Start, reload and `check` all build one here. `check` differs in two things: it makes no files, and
//! opens no log; instead it asks whether this process could. A reload builds
//! the new one beside the old, takes over what must live on (connections to upstreams, remembered logins,
//! ticket keys, an open log), and nothing changes before all of it is good. Of live files it takes only what nobody is
//! writing.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::access::Access;
use crate::access_log::AccessLog;
use crate::acme::Acme;
use crate::auth::{Authenticator, PasswordVerifier};
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Auth, Config};
use crate::connection;
use crate::file_watch::StableFiles;
use crate::forward::Forward;
use crate::htpasswd::LiveUsers;
use crate::log::{Destination, LogWriter};
use crate::metrics::SiteCounts;
use crate::net::cidr::Networks;
use crate::service::Service;
use crate::site::{Route, Site, Sites};
use crate::tls::{ClientCa, TicketKeys, TlsConfigs};
use crate::upstream::Upstream;

mod access_logs;
mod authenticators;
pub(crate) mod certificates;
mod issued;
pub(crate) mod passwords;
mod paths;
mod upstreams;

pub use certificates::SiteCertificate;

/// What one config comes to.
#[derive(Debug)]
pub struct Snapshot {
    /// What handshakes use.
    pub tls: Arc<TlsConfigs>,
    /// What requests use.
    pub service: Service,
    /// What bounds connections.
    pub connection: connection::Settings,
    /// Peers whose connections begin with a PROXY header.
    pub proxy_protocol: Networks,
    /// Who may ask how the gate is.
    pub admin: config::Admin,
    /// How long transfers may go on after TERM.
    pub drain: Duration,
    /// The hosts whose certificates an authority issues, where there are any.
    pub acme: Option<Arc<Acme>>,
    /// What an operator should be told once, such as where the CA is.
    pub notes: Vec<String>,
    logins: Arc<PasswordVerifier>,
    passwords: Vec<Arc<LiveUsers>>,
    certificates: Vec<SiteCertificate>,
    tickets: TicketKeys,
    access: Option<(Destination, LogWriter)>,
}

/// Why it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildMode {
    /// To serve: files of the gate's own are made where they are missing.
    Serve,
    /// To look: nothing is written.
    Check,
}

impl Snapshot {
    /// Builds all of it, or reports why not. `old` is what serves now.
    pub fn build(
        config: &Config,
        old: Option<&Self>,
        purpose: BuildMode,
        problems: &mut Problems,
    ) -> Option<Self> {
        // What will be refused anyway makes no files.
        let purpose = if problems.has_errors() {
            BuildMode::Check
        } else {
            purpose
        };
        let quiet = old.map(Self::quiet).unwrap_or_default();
        let builder = SnapshotBuilder {
            config,
            old,
            purpose,
            passwords: passwords::load_all(config, old, &quiet, problems),
            quiet,
            now: OffsetDateTime::now_utc(),
        };
        if purpose == BuildMode::Check {
            paths::check_logs(config, problems);
        }
        paths::check_state_dir(config, problems);
        let mut notes = Vec::new();
        let logins = builder.logins(problems);
        let access = builder.access(problems);
        let trusts = builder.trusts(problems);
        let tickets = builder.tickets(&trusts, problems);
        let mut acme = builder.acme(problems);
        let certificates = builder.certificates(&trusts, acme.as_mut(), problems, &mut notes);
        let sites = builder.sites(&trusts, logins.as_ref(), problems);
        let (tickets, logins) = (tickets?, logins?);
        if problems.has_errors() {
            return None;
        }
        let acme = acme.map(Arc::new);
        let shown = certificates::shown(&certificates);
        let tls = report(problems, TlsConfigs::new(&config.tls, shown, &tickets))?;
        let tls = Arc::new(tls.with_alpn_challenges(acme.as_deref().map(Acme::alpn_challenges)));
        let service = builder.service(sites, access.as_ref(), acme.as_deref());
        Some(Self {
            tls,
            acme,
            service,
            connection: config.connection.clone(),
            proxy_protocol: config.listen.proxy_protocol.clone(),
            admin: config.listen.admin.clone(),
            drain: config.drain,
            notes,
            logins,
            passwords: builder.passwords,
            certificates,
            tickets,
            access,
        })
    }

    /// The password files, one for each path; whoever looks after them needs no more of the snapshot.
    pub fn passwords(&self) -> &[Arc<LiveUsers>] {
        &self.passwords
    }

    /// What each site shows; whoever looks after the files needs no more of the snapshot.
    pub fn certificates(&self) -> &[SiteCertificate] {
        &self.certificates
    }

    /// What came of passwords, and how many wait.
    pub fn logins(&self) -> &PasswordVerifier {
        &self.logins
    }

    /// Waits while somebody is writing one of the live files.
    fn quiet(&self) -> StableFiles {
        let passwords = self.passwords.iter().map(|live| live.file_state());
        let pairs = self.certificates.iter().filter_map(SiteCertificate::live);
        let pairs = pairs.flat_map(|live| live.file_state());
        StableFiles::wait(&passwords.chain(pairs).collect::<Vec<_>>())
    }

    /// The access log, to be reopened.
    pub fn access_log(&self) -> Option<&LogWriter> {
        self.access.as_ref().map(|(_, sink)| sink)
    }
}

struct SnapshotBuilder<'a> {
    config: &'a Config,
    old: Option<&'a Snapshot>,
    purpose: BuildMode,
    passwords: Vec<Arc<LiveUsers>>,
    /// The live files of the old snapshot that may be read.
    quiet: StableFiles,
    now: OffsetDateTime,
}

impl SnapshotBuilder<'_> {
    /// The old keys, those of trust domains that are gone or changed aside.
    fn tickets(&self, trusts: &[Option<ClientCa>], problems: &mut Problems) -> Option<TicketKeys> {
        let tickets = match self.old {
            Some(old) => Ok(old.tickets.clone()),
            None => TicketKeys::new(),
        };
        let trusts = trusts.iter().flatten().cloned();
        report(problems, tickets.and_then(|tickets| tickets.with(trusts)))
    }

    fn logins(&self, problems: &mut Problems) -> Option<Arc<PasswordVerifier>> {
        let (hashing, throttle) = (&self.config.hashing, self.config.throttle);
        let logins = match self.old {
            Some(old) => old.logins.with(hashing, throttle),
            None => PasswordVerifier::start(hashing.clone(), throttle),
        };
        report(problems, logins).map(Arc::new)
    }

    fn service(
        &self,
        sites: Sites,
        access: Option<&(Destination, LogWriter)>,
        acme: Option<&Acme>,
    ) -> Service {
        let old = self.old.map(|old| &old.service);
        Service {
            sites,
            settings: self.config.service.clone(),
            access_log: access.map(|(_, sink)| AccessLog {
                sink: sink.clone(),
                json: self.config.log.json,
            }),
            challenges: acme.map(|acme| Arc::clone(acme.challenges())),
            limiters: old.map_or_else(Arc::default, |old| Arc::clone(&old.limiters)),
            board: old.map_or_else(Arc::default, |old| Arc::clone(&old.board)),
            elsewhere: self.counts(NO_SITE),
        }
    }

    /// Those of the site with this name, wherever it stood in the old config.
    fn counts(&self, name: &str) -> Arc<SiteCounts> {
        let old = self.old.map(|old| &old.service);
        let known = old.and_then(|old| {
            let mut all = old.counts();
            all.find(|counts| counts.name() == name)
        });
        known.map_or_else(|| Arc::new(SiteCounts::new(name)), Arc::clone)
    }

    fn sites(
        &self,
        trusts: &[Option<ClientCa>],
        logins: Option<&Arc<PasswordVerifier>>,
        problems: &mut Problems,
    ) -> Sites {
        let mut upstreams = self.upstreams();
        let mut sites = Vec::new();
        for (site, trust) in self.config.sites.iter().zip(trusts) {
            // The name is part of what a token is bound to, so that two sites must never share one.
            let Some(name) = site.hosts.first().cloned() else {
                problems.push(Problem::error(None, "a site has no hosts"));
                continue;
            };
            let routes: Vec<_> = site
                .routes
                .iter()
                .filter_map(|route| {
                    let authenticator = self.authenticator(&name, route, logins, problems);
                    let upstream = self.upstream(&route.upstream, &mut upstreams, problems);
                    let authenticator = authenticator?.with_network_policy(route.admission.clone());
                    Some(route_of(route, authenticator, upstream?))
                })
                .collect();
            let counts = self.counts(&name);
            sites.push(Site {
                name,
                hosts: site.hosts.clone(),
                trust: trust.clone(),
                external: site.external.clone(),
                counts,
                routes,
                responses: site.responses.clone(),
            });
        }
        Sites::new(sites)
    }
}

fn route_of(route: &config::Route, authenticator: Authenticator, upstream: Arc<Upstream>) -> Route {
    let access = match &route.granted {
        Some(granted) => Access::Granted(Arc::clone(&granted.grants)),
        None if authenticator.is_open() => Access::Everyone,
        None => Access::Verified,
    };
    let keep_authorization = matches!(route.auth, Auth::LeftToUpstream);
    let internal = route.internal.clone();
    Route {
        path: route.path.clone(),
        registry: route.registry,
        authenticator,
        access,
        forward: Forward::new(upstream, keep_authorization, internal, route.edits.clone()),
        max_body: route.max_body,
        cors: route.cors.clone(),
    }
}

/// No host is called so.
const NO_SITE: &str = "-";

fn report<T, E: ToString>(problems: &mut Problems, result: Result<T, E>) -> Option<T> {
    result
        .map_err(|error| problems.push(Problem::error(None, error.to_string())))
        .ok()
}
