//! Everything that is built from one configuration: what a request, a handshake and a connection use.
//!
//! Start, reload and `tidegate check` all call [`Snapshot::build`]. A check creates no files and opens no log, but examines
//! whether this process could. A reload builds the new snapshot while the old one serves, and takes over what must survive:
//! connections to upstreams, the login cache, the TLS ticket keys, the counters, the open access log. Nothing changes until
//! the whole snapshot is built. A reload reads a password file or certificate only while no other process is writing it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

use crate::access::{Access, LiveGrants};
use crate::acme::Acme;
use crate::auth::{Authenticator, PasswordVerifier};
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Auth, Config, Spanned};
use crate::connection;
use crate::file_watch::StableFiles;
use crate::forward::headers::ForwardedField;
use crate::forward::{Forward, PathMap};
use crate::htpasswd::LiveUsers;
use crate::log::LogWriter;
use crate::metrics::SiteCounts;
use crate::net::cidr::Networks;
use crate::service::Service;
use crate::site::{Route, Site, Sites};
use crate::tls::{
    ClientCa, ReloadingCert, SharedTicketError, SharedTicketKeys, TicketKeys, TlsConfigs,
};
use crate::upstream::Upstream;

mod authenticators;
mod build_mode;
pub(crate) mod certificates;
pub(crate) mod grant_files;
pub(crate) mod passwords;
mod paths;
mod upstreams;

use authenticators::AuthenticatorBuilder;
pub use build_mode::BuildMode;
use certificates::CertificateLoader;
pub use certificates::SiteCertificate;
use grant_files::LiveGrantFile;
use upstreams::UpstreamSet;

/// Everything that is built from one configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// The TLS settings of handshakes.
    pub tls: Arc<TlsConfigs>,
    /// The handler of requests.
    pub service: Service,
    /// The timeouts and limits of connections.
    pub connection: connection::Settings,
    /// The peers whose connections begin with a PROXY header.
    pub proxy_protocol: Networks,
    /// The admin listener and the peers that may use it.
    pub admin: config::Admin,
    /// The time limit of a graceful shutdown.
    pub drain: Duration,
    /// The time before a graceful shutdown in which the proxy reports that it is not ready, and still accepts connections.
    pub drain_delay: Duration,
    /// The hosts whose certificates come from an ACME server. `None` if there are none.
    pub acme: Option<Arc<Acme>>,
    /// Hints for the operator, such as the path of the CA of self-signed certificates.
    pub notes: Vec<String>,
    password_verifier: Arc<PasswordVerifier>,
    passwords: Vec<Arc<LiveUsers>>,
    grant_files: Vec<Arc<LiveGrantFile>>,
    certificates: Vec<SiteCertificate>,
    tickets: TicketKeys,
}

impl Snapshot {
    /// Builds a snapshot, or reports why that is not possible. `old` is the snapshot in use, if there is one.
    pub fn build(
        config: &Config,
        old: Option<&Self>,
        mode: BuildMode,
        problems: &mut Problems,
    ) -> Option<Self> {
        // A configuration that is rejected anyway creates no files.
        let mode = if problems.has_errors() {
            BuildMode::Check
        } else {
            mode
        };
        let stable_files = old.map(Self::wait_for_stable_files).unwrap_or_default();
        let now = OffsetDateTime::now_utc();
        let builder = SnapshotBuilder { config, old };
        let loader = CertificateLoader {
            config,
            old: old.map_or(&[][..], Self::certificates),
            old_acme: old.and_then(|old| old.acme.as_deref()),
            stable_files: &stable_files,
            mode,
            now,
        };
        let old_passwords = old.map_or(&[][..], Self::passwords);
        let passwords = passwords::load_all(config, old_passwords, &stable_files, problems);
        let old_grant_files = old.map_or(&[][..], |old| &old.grant_files);
        let grant_files =
            grant_files::load_all(config, &passwords, old_grant_files, &stable_files, problems);
        if mode == BuildMode::Check {
            paths::check_logs(config, problems);
            paths::check_sockets(config, problems);
        }
        paths::check_state_dirs(config, mode, problems);
        let mut notes = Vec::new();
        let password_verifier = builder.password_verifier(problems);
        let old_log = old.and_then(Self::access_log);
        let access_log = paths::open_access_log(config, old_log, mode, problems);
        let client_cas = certificates::load_client_cas(config, problems);
        let tickets = builder.ticket_keys(&client_cas, mode, problems);
        let mut acme = loader.load_acme(problems);
        let certificates = loader.load_all(&client_cas, acme.as_mut(), problems, &mut notes);
        let authenticators = AuthenticatorBuilder {
            config,
            passwords: &passwords,
            verifier: password_verifier.as_ref(),
            mode,
        };
        let sites = builder.sites(&client_cas, &authenticators, &grant_files, problems);
        let (tickets, password_verifier) = (tickets?, password_verifier?);
        if problems.has_errors() {
            return None;
        }
        let acme = acme.map(Arc::new);
        let tls_sites = certificates::tls_sites(&certificates);
        let tls = ok_or_report(TlsConfigs::new(&config.tls, tls_sites, &tickets), problems)?;
        let tls = Arc::new(tls.with_alpn_challenges(acme.as_deref().map(Acme::alpn_challenges)));
        let service = builder.service(sites, access_log, acme.as_deref());
        Some(Self {
            tls,
            acme,
            service,
            connection: config.connection.clone(),
            proxy_protocol: config.listen.proxy_protocol.clone(),
            admin: config.listen.admin.clone(),
            drain: config.drain,
            drain_delay: config.drain_delay,
            notes,
            password_verifier,
            passwords,
            grant_files,
            certificates,
            tickets,
        })
    }

    /// The password files, one for each path. The file watcher keeps clones of these and no reference to the snapshot.
    pub fn passwords(&self) -> &[Arc<LiveUsers>] {
        &self.passwords
    }

    /// The files with grants, one for each route that names one. The file watcher keeps clones of these and no reference to the
    /// snapshot.
    pub(crate) fn grant_files(&self) -> &[Arc<LiveGrantFile>] {
        &self.grant_files
    }

    /// The certificates of all sites. The file watcher keeps clones of these and no reference to the snapshot.
    pub fn certificates(&self) -> &[SiteCertificate] {
        &self.certificates
    }

    /// The ticket keys that several instances share. The file watcher keeps a clone of them and no reference to the snapshot.
    pub(crate) fn shared_ticket_keys(&self) -> Option<&Arc<SharedTicketKeys>> {
        self.tickets.shared_keys()
    }

    /// The client certificates that the proxy presents to upstreams, each pair of files once.
    pub fn upstream_certificates(&self) -> Vec<Arc<ReloadingCert>> {
        let mut all: Vec<Arc<ReloadingCert>> = Vec::new();
        for route in self.service.sites.routes() {
            if let Some(files) = upstreams::client_files(route.forward.upstream())
                && !all.iter().any(|known| Arc::ptr_eq(known, files))
            {
                all.push(Arc::clone(files));
            }
        }
        all
    }

    /// The password verifier, for its counters.
    pub fn password_verifier(&self) -> &PasswordVerifier {
        &self.password_verifier
    }

    /// The access log, to be reopened. `None` if it is off.
    pub fn access_log(&self) -> Option<&LogWriter> {
        self.service.access_log.as_ref()
    }

    /// Waits while another process writes one of the password files, grant files or certificates of this snapshot.
    fn wait_for_stable_files(&self) -> StableFiles {
        let passwords = self.passwords.iter().map(|users| users.file_state());
        let grants = self.grant_files.iter().map(|file| file.file_state());
        let pairs = self.certificates.iter().filter_map(SiteCertificate::files);
        let pairs = pairs.flat_map(|pair| pair.file_state());
        let all = passwords.chain(grants).chain(pairs);
        StableFiles::wait(&all.collect::<Vec<_>>())
    }
}

/// The parts of [`Snapshot::build`] that combine the configuration with the old snapshot.
struct SnapshotBuilder<'a> {
    config: &'a Config,
    old: Option<&'a Snapshot>,
}

impl SnapshotBuilder<'_> {
    fn password_verifier(&self, problems: &mut Problems) -> Option<Arc<PasswordVerifier>> {
        let (hashing, throttle) = (&self.config.hashing, self.config.throttle);
        let verifier = match self.old {
            Some(old) => old.password_verifier.with_settings(hashing, throttle),
            None => PasswordVerifier::start(hashing.clone(), throttle),
        };
        ok_or_report(verifier, problems).map(Arc::new)
    }

    /// The ticket keys of the old snapshot if they are from the same source, except those of client CAs that are gone or have
    /// changed.
    fn ticket_keys(
        &self,
        client_cas: &[Option<ClientCa>],
        mode: BuildMode,
        problems: &mut Problems,
    ) -> Option<TicketKeys> {
        let dir = self.config.ticket_keys.as_ref();
        let old = self.old.map(|old| &old.tickets).filter(|old| {
            let old = old.shared_keys().map(|keys| keys.dir());
            old == dir.map(|dir| dir.as_path())
        });
        let tickets = match (old, dir) {
            (Some(old), _) => old.clone(),
            (None, None) => ok_or_report(TicketKeys::new(), problems)?,
            (None, Some(dir)) => match open_ticket_keys(dir, mode) {
                Ok(Some(keys)) => TicketKeys::shared(keys),
                Ok(None) => ok_or_report(TicketKeys::new(), problems)?,
                Err(error) => {
                    let what = format!("tls.ticket_keys: {error}");
                    problems.push(Problem::of_file_error(dir.place, what));
                    return None;
                }
            },
        };
        ok_or_report(tickets.with(client_cas.iter().flatten().cloned()), problems)
    }

    fn sites(
        &self,
        client_cas: &[Option<ClientCa>],
        authenticators: &AuthenticatorBuilder<'_>,
        grant_files: &[Arc<LiveGrantFile>],
        problems: &mut Problems,
    ) -> Sites {
        let old_routes = self
            .old
            .into_iter()
            .flat_map(|old| old.service.sites.routes());
        let old_upstreams = old_routes.map(|route| Arc::clone(route.forward.upstream()));
        let mut upstreams = UpstreamSet::new(old_upstreams.collect(), self.config.listen.workers);
        let mut sites = Vec::new();
        for (site, client_ca) in self.config.sites.iter().zip(client_cas) {
            if site.hosts.is_empty() {
                // The configuration has no hosts that could be used, and `config` reported why.
                if !problems.has_errors() {
                    problems.push(Problem::error(None, "a site has no hosts"));
                }
                continue;
            }
            // A token is bound to the name of its site, so two sites never have the same name.
            let name = site.name.clone();
            let routes: Vec<_> = site
                .routes
                .iter()
                .filter_map(|route| {
                    let authenticator = authenticators.build(&name, route, problems);
                    let upstream = upstreams.find_or_create(&route.upstream, problems);
                    let authenticator =
                        authenticator?.with_network_policy(route.network_policy.clone());
                    let grant_file = grant_files::find(grant_files, &name, &route.path);
                    if route.grant_file.is_some() && grant_file.is_none() {
                        // The file cannot be used, which was reported.
                        return None;
                    }
                    Some(build_route(route, authenticator, grant_file, upstream?))
                })
                .collect();
            check_webroots_exist(&site.webroots, problems);
            let counts = self.site_counts(&name);
            sites.push(Site {
                name,
                hosts: site.hosts.clone(),
                listen: site.listen.clone(),
                https_port: site.https_port,
                client_ca: client_ca.clone(),
                external_url: site.external_url.clone(),
                counts,
                routes,
                responses: site.responses.clone(),
            });
        }
        Sites::new(sites)
    }

    fn service(&self, sites: Sites, access_log: Option<LogWriter>, acme: Option<&Acme>) -> Service {
        let old = self.old.map(|old| &old.service);
        Service {
            sites,
            settings: self.config.service.clone(),
            access_log,
            challenges: acme.map(|acme| Arc::clone(acme.challenges())),
            concurrency_limits: old
                .map_or_else(Arc::default, |old| Arc::clone(&old.concurrency_limits)),
            activity: old.map_or_else(Arc::default, |old| Arc::clone(&old.activity)),
            unknown_site_counts: self.site_counts(NO_SITE),
            untrusted_peer_lines: old
                .map_or_else(Arc::default, |old| Arc::clone(&old.untrusted_peer_lines)),
            upstream_fault_lines: old
                .map_or_else(Arc::default, |old| Arc::clone(&old.upstream_fault_lines)),
        }
    }

    /// The counters of the site with this name in the old snapshot, whatever its position was; otherwise new ones.
    fn site_counts(&self, name: &str) -> Arc<SiteCounts> {
        let old = self.old.and_then(|old| {
            let mut all = old.service.site_counts();
            all.find(|counts| counts.name() == name)
        });
        old.map_or_else(|| Arc::new(SiteCounts::new(name)), Arc::clone)
    }
}

/// Opens the directory of the ticket keys. A check only examines it, and the result is `None`.
fn open_ticket_keys(
    dir: &Path,
    mode: BuildMode,
) -> Result<Option<SharedTicketKeys>, SharedTicketError> {
    let now = SystemTime::now();
    match mode {
        BuildMode::Serve => SharedTicketKeys::open(dir, now).map(Some),
        BuildMode::Check => SharedTicketKeys::inspect(dir, now).map(|()| None),
    }
}

fn build_route(
    route: &config::Route,
    authenticator: Authenticator,
    grant_file: Option<&Arc<LiveGrantFile>>,
    upstream: Arc<Upstream>,
) -> Route {
    let access = match (grant_file, &route.grants) {
        (Some(file), _) => Access::Granted(Arc::clone(file.grants())),
        (None, Some(parsed)) => Access::Granted(LiveGrants::new(Arc::clone(&parsed.grants))),
        (None, None) if authenticator.is_open() => Access::Everyone,
        (None, None) => Access::Verified,
    };
    let keep_authorization = matches!(route.auth, Auth::LeftToUpstream);
    let internal_origins = route.internal_origins.clone();
    let is_prefix_sent = route
        .edits
        .forwarded
        .iter()
        .any(|field| matches!(field, ForwardedField::Prefix(_)));
    let path_map = route
        .upstream
        .path
        .as_deref()
        .map(|upstream| PathMap::new(&route.path, upstream, is_prefix_sent));
    Route {
        path: route.path.clone(),
        is_registry: route.is_registry,
        allows_websocket: route.allows_websocket,
        authenticator,
        access,
        forward: Forward::new(
            upstream,
            keep_authorization,
            internal_origins,
            route.edits.clone(),
        )
        .with_path_map(path_map),
        max_body: route.max_body,
        cors: route.cors.clone(),
    }
}

/// Warns of directories of ACME clients that do not exist. An ACME client may create them later.
fn check_webroots_exist(webroots: &[Spanned<PathBuf>], problems: &mut Problems) {
    for path in webroots {
        if !path.is_dir() {
            let what = format!("respond.files: {} is no directory", path.display());
            problems.push(
                Problem::warning(path.place, what)
                    .because("no certificate can be renewed by a file in it")
                    .fix("create it, or name the directory that certbot gets as --webroot-path"),
            );
        }
    }
}

/// The value, or `None` after the error was reported without a position in the configuration.
fn ok_or_report<T, E: ToString>(result: Result<T, E>, problems: &mut Problems) -> Option<T> {
    result
        .map_err(|error| problems.push(Problem::error(None, error.to_string())))
        .ok()
}

/// The name of the counters of requests that match no site. No host can have this name.
const NO_SITE: &str = "-";
