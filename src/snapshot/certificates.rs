//! The certificates of a configuration's sites: from files, from the proxy's own CA, or from an ACME server; and the CAs of
//! client certificates.
//!
//! Used while a snapshot is built. Problems of a certificate are reported at the key that names it. Later changes of the files
//! are watched by `server::file_watcher`. Nothing is requested from an ACME server here: the certificates that were issued
//! before are loaded, and `server::background` orders what is missing.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::{Duration, OffsetDateTime};

use super::build_mode::BuildMode;
use crate::acme::{self, Acme};
use crate::config::problem::{Position, Problem, Problems};
use crate::config::{self, Certificate, Config, Spanned};
use crate::file_watch::StableFiles;
use crate::net::host::https_authority;
use crate::net::listener::ListenAddr;
use crate::state_file;
use crate::tls;
use crate::tls::self_signed::{self, LocalCa};
use crate::tls::{CertSlot, CertWarning, CertifiedPair, ClientCa, ReloadingCert, Reuse};
use crate::upstream::ServerRoots;

/// A certificate of a site. A site with ACME has one for each of its hosts, any other site has one.
#[derive(Clone, Debug)]
pub struct SiteCertificate {
    site: String,
    hosts: Vec<String>,
    listen: Option<Vec<ListenAddr>>,
    client_ca: Option<ClientCa>,
    slot: Arc<CertSlot>,
    source: Source,
}

/// The origin of a certificate.
#[derive(Clone, Debug)]
pub enum Source {
    /// Files that another program writes.
    Files(Arc<ReloadingCert>),
    /// The proxy's own CA.
    SelfSigned,
    /// An ACME server. The issued certificate is stored in this file.
    Acme(PathBuf),
}

impl SiteCertificate {
    /// The name of the site, by which logs and metrics name the certificate; with ACME the host of the certificate.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// The hosts of the site that the certificate is for.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The slot with the certificate that new connections get.
    pub fn slot(&self) -> &Arc<CertSlot> {
        &self.slot
    }

    /// The certificate and key files, if the certificate comes from files. Sites that name the same files share them.
    pub fn files(&self) -> Option<&Arc<ReloadingCert>> {
        match &self.source {
            Source::Files(files) => Some(files),
            Source::SelfSigned | Source::Acme(_) => None,
        }
    }

    /// The origin of the certificate.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The number of whole days until the current certificate expires, negative if it has expired. `None` if there is none yet.
    pub fn days_left(&self, now: OffsetDateTime) -> Option<i64> {
        let pair = self.slot.current()?;
        Some((pair.not_after() - now).whole_days())
    }

    /// The time from which clients reject the current certificate. `None` if there is none yet.
    pub fn until(&self) -> Option<OffsetDateTime> {
        self.slot.earliest_expiry()
    }

    /// The whole validity period of the certificate that [`until`](Self::until) is about.
    pub fn lifetime(&self) -> Option<Duration> {
        self.slot.lifetime()
    }

    /// Warnings about the validity period of the current certificate.
    pub fn aged(&self, now: OffsetDateTime) -> Vec<CertWarning> {
        let path = match &self.source {
            Source::Files(files) => files.cert(),
            Source::SelfSigned => Path::new("self-signed"),
            Source::Acme(path) => path,
        };
        self.slot.expiry_warnings(path, now)
    }

    /// A warning for each host of the site that a certificate from files does not cover.
    pub fn uncovered_hosts(&self) -> Vec<CertWarning> {
        let uncovered = |files: &Arc<ReloadingCert>| {
            let pair = self.slot.current()?;
            Some(pair.uncovered(files.cert(), &self.hosts))
        };
        self.files().and_then(uncovered).unwrap_or_default()
    }
}

/// The certificates in the form in which handshakes use them, each with the client CA of its site.
pub(crate) fn tls_sites(certificates: &[SiteCertificate]) -> Vec<tls::TlsSite> {
    let tls_site = |certificate: &SiteCertificate| tls::TlsSite {
        hosts: certificate.hosts.clone(),
        listen: certificate.listen.clone(),
        slot: Arc::clone(&certificate.slot),
        client_ca: certificate.client_ca.clone(),
    };
    certificates.iter().map(tls_site).collect()
}

/// The client CA of each site, in the order of the sites. Sites with equal settings share one value, so that a TLS session of
/// one can be resumed at the other.
pub(crate) fn load_client_cas(config: &Config, problems: &mut Problems) -> Vec<Option<ClientCa>> {
    let mut client_cas: Vec<Option<ClientCa>> = Vec::new();
    for site in &config.sites {
        let client_ca = site.client_auth.as_ref().and_then(|client_auth| {
            let loaded = ClientCa::load(&client_auth.ca, client_auth.mode);
            loaded
                .map_err(|error| {
                    problems.push(unusable_client_ca(&client_auth.ca, &error));
                })
                .ok()
        });
        let known = client_cas.iter().find(|known| **known == client_ca);
        client_cas.push(known.cloned().unwrap_or(client_ca));
    }
    warn_of_address_hosts(config, &client_cas, problems);
    client_cas
}

/// Warns of sites with an IP address as a host and another client CA than the first site. A client that connects to an address
/// sends no SNI, so the handshake uses the client CA of the first site, and a request for the other site gets 421.
fn warn_of_address_hosts(
    config: &Config,
    client_cas: &[Option<ClientCa>],
    problems: &mut Problems,
) {
    for (site, client_ca) in config.sites.iter().zip(client_cas) {
        let mut hosts = site.hosts.iter();
        let address = hosts.find(|host| host.parse::<IpAddr>().is_ok());
        if let Some(address) = address.filter(|_| Some(client_ca) != client_cas.first()) {
            let what = format!(
                "requests for {address} will get 421: the first site has another client_ca or client_auth"
            );
            let problem = Problem::warning(None, what).because(
                "a client sends no server name (SNI) for an address, so the handshake uses the settings of the first site",
            );
            problems.push(problem.fix("put the site with the address first"));
        }
    }
}

/// Loads the certificates of a configuration.
pub(crate) struct CertificateLoader<'a> {
    pub(crate) config: &'a Config,
    /// The certificates of the snapshot in use.
    pub(crate) old: &'a [SiteCertificate],
    /// The ACME state of the snapshot in use.
    pub(crate) old_acme: Option<&'a Acme>,
    /// The files of `old` that no other process is writing.
    pub(crate) stable_files: &'a StableFiles,
    pub(crate) mode: BuildMode,
    pub(crate) now: OffsetDateTime,
}

impl CertificateLoader<'_> {
    /// The certificates in the order of the sites. A site has none only if an error was reported.
    pub(crate) fn load_all(
        &self,
        client_cas: &[Option<ClientCa>],
        mut acme: Option<&mut Acme>,
        problems: &mut Problems,
        notes: &mut Vec<String>,
    ) -> Vec<SiteCertificate> {
        let mut local_ca = None;
        let mut all: Vec<SiteCertificate> = Vec::new();
        for (site, client_ca) in self.config.sites.iter().zip(client_cas) {
            let Some(source) = &site.certificate else {
                continue;
            };
            let certificate = |slot, source| SiteCertificate {
                site: site.name.clone(),
                hosts: site.hosts.clone(),
                listen: site.listen.clone(),
                client_ca: client_ca.clone(),
                slot,
                source,
            };
            match source {
                Certificate::Files { cert, key } => {
                    let shared = find_files(&all, cert, key);
                    if let Some(files) = shared.or_else(|| self.load_files(cert, key, problems)) {
                        let slot = Arc::clone(files.slot());
                        let certificate = certificate(slot, Source::Files(files));
                        for warning in certificate.uncovered_hosts() {
                            problems.push(Problem::warning(cert.place, warning.to_string()));
                        }
                        all.push(certificate);
                    }
                }
                Certificate::SelfSigned(place) => {
                    let ca = local_ca.get_or_insert_with(|| self.load_local_ca());
                    let issued = match ca {
                        Ok(ca) => self.issue_self_signed(ca, site, notes),
                        Err(error) => Err(error.to_string()),
                    };
                    match issued {
                        Ok(slot) => all.push(certificate(slot, Source::SelfSigned)),
                        Err(what) => problems.push(Problem::of_file_error(*place, what)),
                    }
                }
                Certificate::Acme(place) => {
                    let Some(acme) = acme.as_deref_mut() else {
                        continue;
                    };
                    for host in &site.hosts {
                        let (slot, file) = self.add_acme_host(acme, *place, host, problems);
                        all.push(SiteCertificate {
                            site: host.clone(),
                            hosts: vec![host.clone()],
                            ..certificate(slot, Source::Acme(file))
                        });
                    }
                }
            }
        }
        all
    }

    /// Loads a certificate and its key. Files that are in use already are loaded only while no other process is writing them;
    /// otherwise the last certificate stays in use.
    fn load_files(
        &self,
        cert: &Spanned<PathBuf>,
        key: &Path,
        problems: &mut Problems,
    ) -> Option<Arc<ReloadingCert>> {
        let loaded = match find_files(self.old, cert, key) {
            Some(old) => match old.reuse(self.stable_files, self.now) {
                Ok(Reuse::Busy) => {
                    problems.push(busy_files(cert));
                    return Some(old);
                }
                Ok(Reuse::Read(files, warnings)) => Ok((files, warnings)),
                Err(error) => Err(error),
            },
            None => ReloadingCert::load(cert, key, self.now),
        };
        let (files, warnings) = loaded
            .map_err(|error| problems.push(unusable_pair(cert, &error)))
            .ok()?;
        for warning in warnings {
            problems.push(Problem::warning(cert.place, warning.to_string()));
        }
        Some(files)
    }

    /// Loads the proxy's own CA, and creates it if the snapshot is to serve.
    fn load_local_ca(&self) -> Result<LocalCa, self_signed::Error> {
        match self.mode {
            BuildMode::Serve => self_signed::load_or_create(&self.config.state_dir, self.now),
            BuildMode::Check => self_signed::inspect(&self.config.state_dir, self.now),
        }
    }

    fn issue_self_signed(
        &self,
        ca: &LocalCa,
        site: &config::Site,
        notes: &mut Vec<String>,
    ) -> Result<Arc<CertSlot>, String> {
        notes.extend(docker_trust_hints(ca, site));
        let issued = ca.issue(&site.hosts, self.now);
        let pair = issued.map_err(|error| error.to_string())?;
        Ok(CertSlot::new(pair, self.now))
    }

    /// Prepares the ACME state. `None` if no site uses ACME, or if the CAs for the ACME server cannot be loaded, which is
    /// reported.
    pub(crate) fn load_acme(&self, problems: &mut Problems) -> Option<Acme> {
        let place = self
            .config
            .sites
            .iter()
            .find_map(|site| match site.certificate {
                Some(Certificate::Acme(place)) => Some(place),
                _ => None,
            })?;
        let config = &self.config.acme;
        let ca = config.directory_ca.as_ref();
        let roots = ca.map_or_else(ServerRoots::of_system, |file| ServerRoots::of_file(file));
        let roots = roots.map_err(|error| {
            let place = ca.map_or(place, |file| file.place);
            let problem = Problem::error(place, error.to_string());
            problems.push(problem.fix("name the CA of the ACME directory in acme.directory_ca"));
        });
        let settings = acme::Settings {
            directory: config.directory.clone(),
            email: config.email.clone(),
            roots: roots.ok()?,
            has_http_listener: !self.config.listen.http.is_empty(),
        };
        let acme = Acme::new(settings, &self.config.state_dir, self.old_acme);
        let dir = self.config.state_dir.join("acme");
        let prepared = match self.mode {
            BuildMode::Serve => acme.prepare(),
            BuildMode::Check => state_file::may_make(&dir),
        };
        if let Err(error) = prepared {
            let problem = Problem::error(place, format!("{}: {error}", dir.display()))
                .because("the ACME account and the certificates are stored there")
                .fix(state_file::write_remedy(&error));
            problems.push(problem);
        }
        Some(acme)
    }

    /// Adds a host to the ACME state, which loads the stored certificate. Returns the slot and the file of the certificate.
    fn add_acme_host(
        &self,
        acme: &mut Acme,
        place: Position,
        host: &String,
        problems: &mut Problems,
    ) -> (Arc<CertSlot>, PathBuf) {
        let current = self.current_certificate(host);
        let (kept, error) = acme.add(host, self.old_acme, current, self.now);
        if let Some(error) = error {
            let what = format!("{error}; a new certificate is ordered meanwhile");
            problems.push(Problem::warning(place, what));
        }
        (Arc::clone(kept.slot()), acme.certificate_file(&kept))
    }

    /// The certificate that clients of the host get before the reload.
    fn current_certificate(&self, host: &String) -> Option<Arc<CertifiedPair>> {
        let mut old = self.old.iter();
        old.find(|old| old.hosts().contains(host))?.slot.current()
    }
}

/// For each host of a site, the command that makes docker on this machine trust the proxy's own CA.
fn docker_trust_hints(ca: &LocalCa, site: &config::Site) -> Vec<String> {
    let Some(path) = ca.path() else {
        return Vec::new();
    };
    // The command works in any directory.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let names = site.hosts.iter().filter(|host| !host.contains('*'));
    let hint = |host: &String| {
        let host = https_authority(host, site.https_port);
        format!(
            "{host} has a self-signed certificate; for docker: install -D -m 644 {} /etc/docker/certs.d/{host}/ca.crt",
            path.display()
        )
    };
    names.map(hint).collect()
}

fn find_files(all: &[SiteCertificate], cert: &Path, key: &Path) -> Option<Arc<ReloadingCert>> {
    let mut files = all.iter().filter_map(SiteCertificate::files);
    files.find(|files| files.is_of(cert, key)).cloned()
}

/// The problem of a certificate and key that cannot be used. If a file is missing, the operator may have none yet.
fn unusable_pair(cert: &Spanned<PathBuf>, error: &tls::CertificateError) -> Problem {
    let problem = Problem::of_file_error(cert.place, error);
    match error {
        tls::CertificateError::Pem(tls::PemError::Unreadable { cause, .. })
            if cause.kind() == io::ErrorKind::NotFound =>
        {
            problem.fix(
                "correct the path, or put the file there; without a certificate, write tls = \"acme\" to obtain one from Let's Encrypt, or tls = \"self-signed\" for tests",
            )
        }
        _ => problem,
    }
}

/// The problem of a file with the CAs of client certificates that cannot be used.
fn unusable_client_ca(ca: &Spanned<PathBuf>, error: &tls::ClientCaError) -> Problem {
    let problem = Problem::of_file_error(ca.place, error);
    match error {
        tls::ClientCaError::Pem(tls::PemError::Unreadable { cause, .. })
            if cause.kind() == io::ErrorKind::NotFound =>
        {
            problem.fix(
                "put the PEM file there with the CA that issues the clients' certificates, correct the path, or leave client_ca out to \
                 request no certificates",
            )
        }
        _ => problem,
    }
}

fn busy_files(cert: &Spanned<PathBuf>) -> Problem {
    let what = format!("{}: this file or its key is being written", cert.display());
    Problem::warning(cert.place, what).because(KEEPS_LAST_CERTIFICATE)
}

/// The consequence of files that cannot be read, for messages.
pub(crate) const KEEPS_LAST_CERTIFICATE: &str = "the certificate as last read stays";
