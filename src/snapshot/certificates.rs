//! The certificates of a config's sites: read from files, issued by the gate's own CA, or by an authority as `issued`
//! says.
//!
//! Called while a snapshot is built. What is odd about a certificate is a warning at the key that names it. `server`
//! looks after what is shown later on.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use time::OffsetDateTime;

use super::{BuildMode, Snapshot, SnapshotBuilder};
use crate::acme::Acme;
use crate::config::Spanned;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Certificate};
use crate::tls;
use crate::tls::certs::Warning;
use crate::tls::live::{ReloadingCert, Reuse};
use crate::tls::self_signed::{self, LocalCa};
use crate::tls::shown::CertSlot;
use crate::tls::trust::ClientCa;

/// What a site shows its clients; where an authority issues them, there is one for each of its hosts.
#[derive(Clone, Debug)]
pub struct SiteCertificate {
    hosts: Vec<String>,
    trust: Option<ClientCa>,
    shown: Arc<CertSlot>,
    source: Source,
}

/// Where a certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Files that others write.
    Files(Arc<ReloadingCert>),
    /// The gate's own CA.
    SelfSigned,
    /// An authority, over ACME; what it issued is kept in this file.
    Acme(PathBuf),
}

impl SiteCertificate {
    /// The site's name: its first host, of those that the certificate is for.
    pub fn site(&self) -> &str {
        self.hosts.first().map_or("", String::as_str)
    }

    /// The site's hosts that it is for.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The certificate that new connections get.
    pub fn shown(&self) -> &Arc<CertSlot> {
        &self.shown
    }

    /// Its files, where it has any; sites that name the same ones share them.
    pub fn live(&self) -> Option<&Arc<ReloadingCert>> {
        match &self.source {
            Source::Files(live) => Some(live),
            Source::SelfSigned | Source::Acme(_) => None,
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whole days until the certificate that is shown expires, negative when it has; `None` while there is none.
    pub fn days_left(&self, now: OffsetDateTime) -> Option<i64> {
        let pair = self.shown.current()?;
        Some((pair.not_after() - now).whole_days())
    }

    /// When clients begin to refuse what is shown; `None` while nothing is.
    pub fn until(&self) -> Option<OffsetDateTime> {
        self.shown.until()
    }

    /// What is wrong with the age of what is shown.
    pub fn aged(&self, now: OffsetDateTime) -> Vec<Warning> {
        let path = match &self.source {
            Source::Files(live) => live.cert(),
            Source::SelfSigned => Path::new("self-signed"),
            Source::Acme(path) => path,
        };
        self.shown.aged(path, now)
    }

    /// A warning for each host of the site that the certificate in its files does not cover.
    pub fn uncovered_hosts(&self) -> Vec<Warning> {
        let of_files = |live: &Arc<ReloadingCert>| {
            let pair = self.shown.current()?;
            Some(pair.uncovered(live.cert(), &self.hosts))
        };
        self.live().and_then(of_files).unwrap_or_default()
    }
}

/// For handshakes: each certificate with its site's trust domain.
pub(super) fn shown(certificates: &[SiteCertificate]) -> Vec<tls::TlsSite> {
    let site = |certificate: &SiteCertificate| tls::TlsSite {
        hosts: certificate.hosts.clone(),
        shown: Arc::clone(&certificate.shown),
        trust: certificate.trust.clone(),
    };
    certificates.iter().map(site).collect()
}

impl SnapshotBuilder<'_> {
    /// Whose client certificates each site takes, in the order of the sites. Equal ones are one.
    pub(super) fn trusts(&self, problems: &mut Problems) -> Vec<Option<ClientCa>> {
        let mut trusts: Vec<Option<ClientCa>> = Vec::new();
        for site in &self.config.sites {
            let trust = site.clients.as_ref().and_then(|clients| {
                let loaded = ClientCa::load(&clients.ca, clients.demand);
                loaded
                    .map_err(|error| {
                        problems.push(Problem::error(clients.ca.place, error.to_string()));
                    })
                    .ok()
            });
            let known = trusts.iter().find(|known| **known == trust).cloned();
            trusts.push(known.unwrap_or(trust));
        }
        self.warn_of_nameless(&trusts, problems);
        trusts
    }

    /// Clients of an address send no name: they are asked for what the first site asks, and belong to its trust domain.
    fn warn_of_nameless(&self, trusts: &[Option<ClientCa>], problems: &mut Problems) {
        for (site, trust) in self.config.sites.iter().zip(trusts) {
            let mut hosts = site.hosts.iter();
            let address = hosts.find(|host| host.parse::<IpAddr>().is_ok());
            if let Some(address) = address.filter(|_| Some(trust) != trusts.first()) {
                let what = format!(
                    "requests for {address} will be 421: the first site has another client_ca or client_auth"
                );
                let problem = Problem::warning(None, what)
                    .because("for an address clients send no name, so they are asked for what the first site asks");
                problems.push(problem.fix("put the site with the address first"));
            }
        }
    }

    /// In the order of the sites; fewer than sites only where an error is reported.
    pub(super) fn certificates(
        &self,
        trusts: &[Option<ClientCa>],
        mut acme: Option<&mut Acme>,
        problems: &mut Problems,
        notes: &mut Vec<String>,
    ) -> Vec<SiteCertificate> {
        let mut authority = None;
        let mut all: Vec<SiteCertificate> = Vec::new();
        for (site, trust) in self.config.sites.iter().zip(trusts) {
            let one = |shown, source| SiteCertificate {
                hosts: site.hosts.clone(),
                trust: trust.clone(),
                shown,
                source,
            };
            match &site.certificate {
                Certificate::Files { cert, key } => {
                    if let Some(live) = self.shared(cert, key, &all, problems) {
                        let certificate = one(Arc::clone(live.shown()), Source::Files(live));
                        for warning in certificate.uncovered_hosts() {
                            problems.push(Problem::warning(cert.place, warning.to_string()));
                        }
                        all.push(certificate);
                    }
                }
                Certificate::SelfSigned(place) => {
                    let made = authority.get_or_insert_with(|| self.authority());
                    let issued = match made {
                        Ok(authority) => self.issue(authority, site, notes),
                        Err(error) => Err(error.to_string()),
                    };
                    match issued {
                        Ok(shown) => all.push(one(shown, Source::SelfSigned)),
                        Err(what) => problems.push(Problem::error(*place, what)),
                    }
                }
                Certificate::Acme(place) => {
                    let acme = acme.as_deref_mut();
                    let issued = acme.map(|acme| self.issued(acme, *place, &site.hosts, problems));
                    let issued = issued.into_iter().flatten();
                    all.extend(issued.map(|(host, shown, file)| SiteCertificate {
                        hosts: vec![host],
                        ..one(shown, Source::Acme(file))
                    }));
                }
            }
        }
        all
    }

    fn issue(
        &self,
        authority: &LocalCa,
        site: &config::Site,
        notes: &mut Vec<String>,
    ) -> Result<Arc<CertSlot>, String> {
        notes.extend(self.docker_trust_hint(authority, &site.hosts));
        let issued = authority.issue(&site.hosts, self.now);
        let pair = issued.map_err(|error| error.to_string())?;
        Ok(CertSlot::new(pair, self.now))
    }

    /// The files of an earlier site, or read for this one.
    fn shared(
        &self,
        cert: &Spanned<PathBuf>,
        key: &Path,
        before: &[SiteCertificate],
        problems: &mut Problems,
    ) -> Option<Arc<ReloadingCert>> {
        find(before, cert, key).or_else(|| self.live(cert, key, problems))
    }

    /// Reads the files; those that are in use only when nobody is writing them.
    fn live(
        &self,
        cert: &Spanned<PathBuf>,
        key: &Path,
        problems: &mut Problems,
    ) -> Option<Arc<ReloadingCert>> {
        let old = self.old.map_or(&[][..], Snapshot::certificates);
        let loaded = match find(old, cert, key) {
            Some(old) => match old.reuse(&self.quiet, self.now) {
                Ok(Reuse::Busy) => {
                    problems.push(busy(cert));
                    return Some(old);
                }
                Ok(Reuse::Read(live, warnings)) => Ok((live, warnings)),
                Err(error) => Err(error),
            },
            None => ReloadingCert::load(cert, key, self.now),
        };
        let (live, warnings) = loaded
            .map_err(|error| problems.push(Problem::error(cert.place, error.to_string())))
            .ok()?;
        for warning in warnings {
            problems.push(Problem::warning(cert.place, warning.to_string()));
        }
        Some(live)
    }

    fn authority(&self) -> Result<LocalCa, self_signed::Error> {
        match self.purpose {
            BuildMode::Serve => self_signed::load_or_create(&self.config.state_dir, self.now),
            BuildMode::Check => self_signed::inspect(&self.config.state_dir, self.now),
        }
    }

    /// What to type so that docker on this machine trusts the gate.
    fn docker_trust_hint(&self, authority: &LocalCa, hosts: &[String]) -> Vec<String> {
        let Some(path) = authority.path() else {
            return Vec::new();
        };
        let port = self.config.service.https_port;
        let named = hosts.iter().filter(|host| !host.contains('*'));
        let line = |host: &String| {
            let host = if port == 443 {
                host.clone()
            } else {
                format!("{host}:{port}")
            };
            format!(
                "{host} has a self-signed certificate; for docker: install -D -m 644 {} /etc/docker/certs.d/{host}/ca.crt",
                path.display()
            )
        };
        named.map(line).collect()
    }
}

fn find(all: &[SiteCertificate], cert: &Path, key: &Path) -> Option<Arc<ReloadingCert>> {
    let mut live = all.iter().filter_map(SiteCertificate::live);
    live.find(|live| live.is_of(cert, key)).cloned()
}

fn busy(cert: &Spanned<PathBuf>) -> Problem {
    let what = format!("{}: this file or its key is being written", cert.display());
    Problem::warning(cert.place, what).because(KEPT)
}

/// Why files that cannot be used are no reason to stop.
pub(crate) const KEPT: &str = "the certificate as last read stays";
