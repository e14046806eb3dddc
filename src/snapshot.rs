//! Everything that is built from one config: what a request, a handshake and a connection use.
//!
//! Start, reload and `check` all build one here. `check` differs in two things: it makes no files, and
//! opens no log. A reload builds
//! the new one beside the old, takes over what must live on (connections to upstreams, remembered logins,
//! ticket keys, an open log), and nothing changes before all of it is good.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::access::Access;
use crate::access_log::{self, AccessLog};
use crate::auth::{Authenticator, Logins};
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Auth, Config};
use crate::connection;
use crate::forward::Forward;
use crate::htpasswd::LiveUsers;
use crate::log::{Destination, Sink};
use crate::service::Service;
use crate::site::{Route, Site, Sites};
use crate::tls::{Tickets, Tls};
use crate::upstream::Upstream;

mod authenticators;
mod certificates;
pub(crate) mod passwords;
pub mod rights;

/// What one config comes to.
#[derive(Debug)]
pub struct Snapshot {
    /// What handshakes use.
    pub tls: Arc<Tls>,
    /// What requests use.
    pub service: Service,
    /// What bounds connections.
    pub connection: connection::Settings,
    /// How long transfers may go on after TERM.
    pub drain: Duration,
    /// What an operator should be told once, such as where the CA is.
    pub notes: Vec<String>,
    logins: Arc<Logins>,
    passwords: Vec<Arc<LiveUsers>>,
    tickets: Tickets,
    access: Option<(Destination, Sink)>,
}

/// Why it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
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
        purpose: Purpose,
        problems: &mut Problems,
    ) -> Option<Self> {
        // What will be refused anyway makes no files.
        let purpose = if problems.has_errors() {
            Purpose::Check
        } else {
            purpose
        };
        let builder = Builder {
            config,
            old,
            purpose,
            passwords: passwords::load_all(config, old, problems),
            now: OffsetDateTime::now_utc(),
        };
        let mut notes = Vec::new();
        let tickets = builder.tickets(problems);
        let logins = builder.logins(problems);
        let access = builder.access(problems);
        let pairs = builder.pairs(problems, &mut notes);
        let sites = builder.sites(logins.as_ref(), problems);
        let (tickets, logins) = (tickets?, logins?);
        if problems.has_errors() {
            return None;
        }
        let tls = Arc::new(report(problems, Tls::new(&config.tls, pairs, &tickets))?);
        let access_log = access.as_ref().map(|(_, sink)| AccessLog {
            sink: sink.clone(),
            json: config.log.json,
        });
        let service = Service {
            sites,
            settings: config.service.clone(),
            access_log,
        };
        let connection = config.connection.clone();
        Some(Self {
            tls,
            service,
            connection,
            drain: config.drain,
            notes,
            logins,
            passwords: builder.passwords,
            tickets,
            access,
        })
    }

    /// The password files, one for each path; whoever looks after them needs no more of the snapshot.
    pub fn passwords(&self) -> &[Arc<LiveUsers>] {
        &self.passwords
    }

    /// The access log, to be reopened.
    pub fn access_log(&self) -> Option<&Sink> {
        self.access.as_ref().map(|(_, sink)| sink)
    }
}

struct Builder<'a> {
    config: &'a Config,
    old: Option<&'a Snapshot>,
    purpose: Purpose,
    passwords: Vec<Arc<LiveUsers>>,
    now: OffsetDateTime,
}

impl Builder<'_> {
    fn tickets(&self, problems: &mut Problems) -> Option<Tickets> {
        match self.old {
            Some(old) => Some(old.tickets.clone()),
            None => report(problems, Tickets::new()),
        }
    }

    fn logins(&self, problems: &mut Problems) -> Option<Arc<Logins>> {
        let (hashing, throttle) = (&self.config.hashing, self.config.throttle);
        let logins = match self.old {
            Some(old) => old.logins.with(hashing, throttle),
            None => Logins::start(hashing.clone(), throttle),
        };
        report(problems, logins).map(Arc::new)
    }

    /// `None` also when the log is off, or nothing is to be written.
    fn access(&self, problems: &mut Problems) -> Option<(Destination, Sink)> {
        let wanted = self
            .config
            .log
            .access
            .clone()
            .filter(|_| self.purpose == Purpose::Serve)?;
        if let Some((destination, sink)) = self.old.and_then(|old| old.access.as_ref())
            && *destination == wanted
        {
            return Some((wanted, sink.clone()));
        }
        let lost_line = if self.config.log.json {
            |lost| access_log::lost_line(true, lost)
        } else {
            |lost| access_log::lost_line(false, lost)
        };
        match Sink::open(wanted.clone(), lost_line) {
            Ok(sink) => Some((wanted, sink)),
            Err(error) => {
                problems.push(
                    Problem::error(None, format!("cannot write the access log: {error}"))
                        .fix("look at log.access_file"),
                );
                None
            }
        }
    }

    fn sites(&self, logins: Option<&Arc<Logins>>, problems: &mut Problems) -> Sites {
        let mut upstreams: Vec<Arc<Upstream>> = Vec::new();
        if let Some(old) = self.old {
            upstreams.extend(
                old.service
                    .sites
                    .routes()
                    .map(|route| Arc::clone(route.forward.upstream())),
            );
        }
        let mut sites = Vec::new();
        for site in &self.config.sites {
            let name = site.hosts.first().cloned().unwrap_or_default();
            let routes: Vec<_> = site
                .routes
                .iter()
                .filter_map(|route| {
                    let authenticator = self.authenticator(&name, route, logins, problems)?;
                    Some(self.route(route, authenticator, &mut upstreams))
                })
                .collect();
            sites.push(Site {
                name,
                hosts: site.hosts.clone(),
                external: site.external.clone(),
                routes,
            });
        }
        Sites::new(sites)
    }

    fn route(
        &self,
        route: &config::Route,
        authenticator: Authenticator,
        upstreams: &mut Vec<Arc<Upstream>>,
    ) -> Route {
        let access = match &route.granted {
            Some(granted) => Access::Granted(Arc::clone(&granted.grants)),
            None if authenticator.is_open() => Access::Everyone,
            None => Access::Verified,
        };
        let keep_authorization = matches!(route.auth, Auth::LeftToUpstream);
        // An upstream with the same settings is the same upstream: its connections are shared, and live on.
        let known = upstreams
            .iter()
            .find(|known| *known.settings() == route.upstream)
            .cloned();
        let upstream = known.unwrap_or_else(|| {
            let made = Arc::new(Upstream::new(
                route.upstream.clone(),
                self.config.listen.workers,
            ));
            upstreams.push(Arc::clone(&made));
            made
        });
        let forward = Forward::new(upstream, keep_authorization, route.edits.clone());
        Route {
            path: route.path.clone(),
            registry: route.registry,
            authenticator,
            access,
            forward,
            max_body: route.max_body,
        }
    }
}

fn report<T, E: ToString>(problems: &mut Problems, result: Result<T, E>) -> Option<T> {
    result
        .map_err(|error| problems.push(Problem::error(None, error.to_string())))
        .ok()
}
