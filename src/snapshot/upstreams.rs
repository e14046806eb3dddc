//! The upstreams of a configuration, and the CAs that verify those with TLS.
//!
//! Used while a snapshot is built. Routes with the same upstream settings share one [`Upstream`] with its connections, and a
//! reload keeps an upstream whose settings have not changed.

use std::sync::Arc;

use time::OffsetDateTime;

use super::certificates::KEEPS_LAST_CERTIFICATE;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, ClientFiles};
use crate::tls::ReloadingCert;
use crate::upstream::{Endpoint, ServerRoots, TrustError, Upstream};

/// The files of the client certificate that the proxy presents to an upstream.
pub(super) fn client_files(upstream: &Upstream) -> Option<&Arc<ReloadingCert>> {
    upstream
        .settings()
        .each
        .trust
        .as_ref()?
        .client_certificate()
}

/// The upstreams of the old snapshot and of the one that is being built.
pub(crate) struct UpstreamSet {
    known: Vec<Arc<Upstream>>,
    workers: usize,
    /// The CAs of the system. They are loaded once, when the first upstream needs them.
    system_roots: Option<ServerRoots>,
}

impl UpstreamSet {
    /// `old` are the upstreams of the snapshot in use, and `workers` is the number of worker threads.
    pub(crate) fn new(old: Vec<Arc<Upstream>>, workers: usize) -> Self {
        Self {
            known: old,
            workers,
            system_roots: None,
        }
    }

    /// The upstream with the settings of a route. `None` if its CAs cannot be loaded, which is reported.
    pub(crate) fn find_or_create(
        &mut self,
        config: &config::Upstream,
        problems: &mut Problems,
    ) -> Option<Arc<Upstream>> {
        let mut settings = config.settings.clone();
        let is_tls = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tls { .. });
        if settings.endpoints.iter().any(is_tls) {
            let roots = self.roots(config);
            let mut roots = roots.map_err(|problem| problems.push(problem)).ok()?;
            if let Some(client) = &config.client {
                roots = roots.with_client_certificate(self.client_certificate(client, problems)?);
            }
            settings.each.trust = Some(roots);
        }
        let mut known = self.known.iter();
        if let Some(same) = known.find(|upstream| *upstream.settings() == settings) {
            return Some(Arc::clone(same));
        }
        let upstream = Arc::new(Upstream::new(settings, self.workers, &self.known));
        self.known.push(Arc::clone(&upstream));
        Some(upstream)
    }

    /// The client certificate from these files. `None` if they cannot be loaded, which is reported.
    ///
    /// Files that an upstream uses already stay in use as they were last read, and the file watcher reads them again when they
    /// have changed. They are examined here, so that a reload tells what is wrong with them.
    fn client_certificate(
        &self,
        client: &ClientFiles,
        problems: &mut Problems,
    ) -> Option<Arc<ReloadingCert>> {
        let (cert, key) = (&client.cert, &client.key);
        let mut known = self.known.iter().filter_map(|it| client_files(it));
        let known = known.find(|files| files.is_of(cert, key)).cloned();
        let loaded = ReloadingCert::load(cert, key, OffsetDateTime::now_utc());
        let files = match (loaded, known) {
            (Ok((_, warnings)), Some(known)) => (known, warnings),
            (Ok(loaded), None) => loaded,
            (Err(error), Some(known)) => {
                let problem = Problem::warning(cert.place, error.to_string());
                problems.push(problem.because(KEEPS_LAST_CERTIFICATE));
                return Some(known);
            }
            (Err(error), None) => {
                problems.push(Problem::of_file_error(cert.place, error));
                return None;
            }
        };
        let (files, warnings) = files;
        // The names in a client certificate are for the upstream to judge.
        for warning in warnings
            .iter()
            .filter(|warning| !warning.concerns_servers_only())
        {
            problems.push(Problem::warning(cert.place, warning.to_string()));
        }
        Some(files)
    }

    /// The CAs of `upstream.ca`, or those of the system.
    fn roots(&mut self, config: &config::Upstream) -> Result<ServerRoots, Problem> {
        if let Some(ca) = &config.ca {
            let problem = |error: TrustError| {
                Problem::error(ca.place, error.to_string())
                    .because("without a CA no certificate of an upstream can be verified")
                    .fix("name a PEM file of CA certificates that the proxy's user may read")
            };
            return ServerRoots::of_file(ca).map_err(problem);
        }
        if let Some(system) = &self.system_roots {
            return Ok(system.clone());
        }
        let problem = |error: TrustError| {
            Problem::error(config.place, error.to_string())
                .because("without a CA no certificate of an upstream can be verified")
                .fix("install ca-certificates, or name a file in upstream.ca")
        };
        let system = ServerRoots::of_system().map_err(problem)?;
        Ok(self.system_roots.insert(system).clone())
    }
}
