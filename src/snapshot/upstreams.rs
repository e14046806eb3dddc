//! The upstreams of a config's routes, and the CAs that vouch for those over TLS.
//!
//! Called while a snapshot is built. An upstream with the same settings is the same upstream: its connections are shared
//! among routes, and live on through a reload.

use std::sync::Arc;

use super::SnapshotBuilder;
use crate::config;
use crate::config::problem::{Problem, Problems};
use crate::upstream::{Endpoint, ServerRoots, TrustError, Upstream};

/// The upstreams there are, of the snapshot in use and of the one that is made.
#[derive(Default)]
pub(super) struct Upstreams {
    known: Vec<Arc<Upstream>>,
    /// Read once, when somebody needs it.
    system: Option<ServerRoots>,
}

impl SnapshotBuilder<'_> {
    pub(super) fn upstreams(&self) -> Upstreams {
        let routes = self
            .old
            .into_iter()
            .flat_map(|old| old.service.sites.routes());
        Upstreams {
            known: routes
                .map(|route| Arc::clone(route.forward.upstream()))
                .collect(),
            system: None,
        }
    }

    /// The upstream of a route, or a report why there is none.
    pub(super) fn upstream(
        &self,
        written: &config::Upstream,
        upstreams: &mut Upstreams,
        problems: &mut Problems,
    ) -> Option<Arc<Upstream>> {
        let mut settings = written.settings.clone();
        let is_tls = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tls { .. });
        if settings.endpoints.iter().any(is_tls) {
            let trust = upstreams.trust(written);
            settings.each.trust = Some(trust.map_err(|problem| problems.push(problem)).ok()?);
        }
        let known = &mut upstreams.known;
        let same = known.iter().find(|known| *known.settings() == settings);
        if let Some(same) = same {
            return Some(Arc::clone(same));
        }
        let made = Upstream::new(settings, self.config.listen.workers, known);
        let made = Arc::new(made);
        known.push(Arc::clone(&made));
        Some(made)
    }
}

impl Upstreams {
    fn trust(&mut self, written: &config::Upstream) -> Result<ServerRoots, Problem> {
        if let Some(ca) = &written.ca {
            let problem = |error: TrustError| {
                Problem::error(ca.place, error.to_string())
                    .because("without a CA no certificate of an upstream can be verified")
                    .fix("name a PEM file of CA certificates that the gate may read")
            };
            return ServerRoots::of_file(ca).map_err(problem);
        }
        if let Some(system) = &self.system {
            return Ok(system.clone());
        }
        let problem = |error: TrustError| {
            Problem::error(written.place, error.to_string())
                .because("without a CA no certificate of an upstream can be verified")
                .fix("install ca-certificates, or name a file in upstream.ca")
        };
        let system = ServerRoots::of_system().map_err(problem)?;
        Ok(self.system.insert(system).clone())
    }
}
