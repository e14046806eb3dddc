//! The certificates of a config's sites: read from files, or issued by the gate's own CA.
//!
//! Called while a snapshot is built. What is odd about a certificate is a warning at the key that names it.

use std::path::{Path, PathBuf};

use super::{Builder, Purpose};
use crate::config::Certificate;
use crate::config::problem::{Problem, Problems};
use crate::config::table::Placed;
use crate::tls::self_signed::{self, Authority};
use crate::tls::{self, certs};

impl Builder<'_> {
    pub(super) fn pairs(&self, problems: &mut Problems, notes: &mut Vec<String>) -> Vec<tls::Site> {
        let mut authority = None;
        let mut sites = Vec::new();
        for site in &self.config.sites {
            let pair = match &site.certificate {
                Certificate::Files { cert, key } => {
                    self.load_pair(cert, key, &site.hosts, problems)
                }
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
                }
            };
            sites.extend(pair.map(|pair| tls::Site {
                hosts: site.hosts.clone(),
                pair,
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
