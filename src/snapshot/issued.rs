//! The sites whose certificates an authority issues while the gate serves: what is there of them already.
//!
//! Called while a snapshot is built. Nothing is asked of the authority here, and `check` writes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use super::{BuildMode, SnapshotBuilder};
use crate::acme::{Acme, Settings};
use crate::config::Certificate;
use crate::config::problem::{Position, Problem, Problems};
use crate::state_file;
use crate::tls::{CertSlot, CertifiedPair};
use crate::upstream::ServerRoots;

impl SnapshotBuilder<'_> {
    /// `None` when no site wants it, or it cannot be.
    pub(super) fn acme(&self, problems: &mut Problems) -> Option<Acme> {
        let place = self
            .config
            .sites
            .iter()
            .find_map(|site| match site.certificate {
                Certificate::Acme(place) => Some(place),
                _ => None,
            })?;
        let wanted = &self.config.acme;
        let ca = wanted.directory_ca.as_ref();
        let trust = ca.map_or_else(ServerRoots::of_system, |file| ServerRoots::of_file(file));
        let trust = trust.map_err(|error| {
            let place = ca.map_or(place, |file| file.place);
            let problem = Problem::error(place, error.to_string());
            problems.push(problem.fix("name the CA of the ACME directory in acme.directory_ca"));
        });
        let settings = Settings {
            directory: wanted.directory.clone(),
            email: wanted.email.clone(),
            roots: trust.ok()?,
            has_http_listener: !self.config.listen.http.is_empty(),
        };
        let acme = Acme::new(settings, &self.config.state_dir, self.old_acme());
        let dir = self.config.state_dir.join("acme");
        let prepared = match self.purpose {
            BuildMode::Serve => acme.prepare(),
            BuildMode::Check => state_file::may_make(&dir),
        };
        if let Err(error) = prepared {
            let problem = Problem::error(place, format!("{}: {error}", dir.display()))
                .because("the account and the certificates are kept there")
                .fix("let the gate's user write to state.dir");
            problems.push(problem);
        }
        Some(acme)
    }

    /// For each host what is shown, and the file in which it is kept.
    pub(super) fn issued(
        &self,
        acme: &mut Acme,
        place: Position,
        hosts: &[String],
        problems: &mut Problems,
    ) -> Vec<(String, Arc<CertSlot>, PathBuf)> {
        let mut all = Vec::with_capacity(hosts.len());
        for host in hosts {
            let (kept, error) = acme.add(host, self.old_acme(), self.shown_now(host), self.now);
            if let Some(error) = error {
                let what = format!("{error}; meanwhile a new one is ordered");
                problems.push(Problem::warning(place, what));
            }
            all.push((
                host.clone(),
                Arc::clone(kept.slot()),
                acme.certificate_file(&kept),
            ));
        }
        all
    }

    /// What clients of the host see before the reload.
    fn shown_now(&self, host: &String) -> Option<Arc<CertifiedPair>> {
        let mut old = self.old?.certificates().iter();
        old.find(|old| old.hosts().contains(host))?
            .shown()
            .current()
    }

    fn old_acme(&self) -> Option<&Acme> {
        self.old.and_then(|old| old.acme.as_deref())
    }
}
