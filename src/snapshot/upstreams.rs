//! The upstreams of a configuration, and the CAs that verify those with TLS.
//!
//! Used while a snapshot is built. Routes with the same upstream settings share one [`Upstream`] with its connections, and a
//! reload keeps an upstream whose settings have not changed.

use std::sync::Arc;

use crate::config;
use crate::config::problem::{Problem, Problems};
use crate::upstream::{Endpoint, ServerRoots, TrustError, Upstream};

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
            settings.each.trust = Some(roots.map_err(|problem| problems.push(problem)).ok()?);
        }
        let mut known = self.known.iter();
        if let Some(same) = known.find(|upstream| *upstream.settings() == settings) {
            return Some(Arc::clone(same));
        }
        let upstream = Arc::new(Upstream::new(settings, self.workers, &self.known));
        self.known.push(Arc::clone(&upstream));
        Some(upstream)
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
