//! The certificates of a config's sites: read from files, or issued by the gate's own CA.
//!
//! Called while a snapshot is built. What is odd about a certificate is a warning at the key that names it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{Builder, Purpose};
use crate::acme::Acme;
use crate::config::Certificate;
use crate::config::problem::{Problem, Problems};
use crate::config::table::Placed;
use crate::tls::self_signed::{self, Authority};
use crate::tls::trust::Trust;
use crate::tls::{self, Shown, certs};

impl Builder<'_> {
    /// Whose client certificates each site takes, in the order of the sites. Equal ones are one.
    pub(super) fn trusts(&self, problems: &mut Problems) -> Vec<Option<Trust>> {
        let mut trusts: Vec<Option<Trust>> = Vec::new();
        for site in &self.config.sites {
            let trust = site.clients.as_ref().and_then(|clients| {
                let loaded = Trust::load(&clients.ca, clients.demand);
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
    fn warn_of_nameless(&self, trusts: &[Option<Trust>], problems: &mut Problems) {
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

    pub(super) fn shown(
        &self,
        trusts: &[Option<Trust>],
        mut acme: Option<&mut Acme>,
        problems: &mut Problems,
        notes: &mut Vec<String>,
    ) -> Vec<tls::Site> {
        let mut authority = None;
        let mut sites = Vec::new();
        for (site, trust) in self.config.sites.iter().zip(trusts) {
            let shown = match &site.certificate {
                Certificate::Files { cert, key } => self
                    .load_pair(cert, key, &site.hosts, problems)
                    .map(Shown::Fixed),
                Certificate::Acme(place) => acme
                    .as_deref_mut()
                    .map(|acme| Shown::Kept(self.kept(acme, *place, &site.hosts, problems))),
                Certificate::SelfSigned(place) => {
                    let made = authority.get_or_insert_with(|| self.authority());
                    let issued = made
                        .as_ref()
                        .map_err(ToString::to_string)
                        .and_then(|authority| {
                            notes.extend(self.docker_lines(authority, &site.hosts));
                            authority
                                .issue(&site.hosts, self.now)
                                .map_err(|error| error.to_string())
                        });
                    issued
                        .map_err(|what| problems.push(Problem::error(*place, what)))
                        .ok()
                        .map(Shown::Fixed)
                }
            };
            sites.extend(shown.map(|shown| tls::Site {
                hosts: site.hosts.clone(),
                shown,
                trust: trust.clone(),
            }));
        }
        sites
    }

    fn load_pair(
        &self,
        cert: &Placed<PathBuf>,
        key: &Path,
        hosts: &[String],
        problems: &mut Problems,
    ) -> Option<certs::Pair> {
        match certs::load(cert, key, self.now) {
            Err(error) => {
                problems.push(Problem::error(cert.place, error.to_string()));
                None
            }
            Ok((pair, warnings)) => {
                for warning in warnings.into_iter().chain(pair.uncovered(cert, hosts)) {
                    problems.push(Problem::warning(cert.place, warning.to_string()));
                }
                Some(pair)
            }
        }
    }

    fn authority(&self) -> Result<Authority, self_signed::Error> {
        match self.purpose {
            Purpose::Serve => self_signed::load_or_create(&self.config.state_dir, self.now),
            Purpose::Check => self_signed::in_memory(self.now),
        }
    }

    /// What to type so that docker on this machine trusts the gate.
    fn docker_lines(&self, authority: &Authority, hosts: &[String]) -> Vec<String> {
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
