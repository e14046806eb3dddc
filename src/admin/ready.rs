//! Whether clients should be sent to this gate, and what somebody should look at meanwhile.
//!
//! Called by `answer` and `numbers`. Only what another gate would do better makes this one not ready: a reload that failed
//! or a certificate near its end are the same everywhere, and to take all gates out of a balancer would help nobody.

use std::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Gate, Phase};
use crate::snapshot::Snapshot;

/// Whether a gate is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// Why it is not; empty when it is.
    reasons: Vec<&'static str>,
    /// What does not change that.
    warnings: Vec<String>,
}

impl Readiness {
    /// At this moment.
    pub(super) fn of(gate: &Gate) -> Self {
        let mut readiness = Self {
            reasons: Vec::new(),
            warnings: Vec::new(),
        };
        match gate.phase() {
            Phase::Starting => readiness.reasons.push("it does not accept connections yet"),
            Phase::Serving => {}
            Phase::Draining => readiness.reasons.push("it drains, and accepts no more"),
        }
        if let Some((at, why)) = gate.reloads().last().failed {
            let at = OffsetDateTime::from(at).replace_nanosecond(0);
            let at = at.ok().and_then(|at| at.format(&Rfc3339).ok());
            let at = at.unwrap_or_default();
            readiness.warnings.push(format!(
                "the reload at {at} failed, the configuration before it stays in use: {why}"
            ));
        }
        let snapshot = gate.snapshot();
        readiness.look_at_upstreams(&snapshot);
        readiness.look_at_certificates(&snapshot, OffsetDateTime::now_utc());
        readiness
    }

    /// Whether clients should be sent here.
    pub(super) fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Why not.
    pub(super) fn reasons(&self) -> &[&'static str] {
        &self.reasons
    }

    /// What somebody should look at.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn look_at_upstreams(&mut self, snapshot: &Snapshot) {
        let (mut down, mut is_any_up) = (Vec::new(), false);
        for route in snapshot.service.sites.routes() {
            for state in route.forward.upstream().states() {
                is_any_up |= state.is_up;
                if !state.is_up && !down.contains(&state.name) {
                    down.push(state.name);
                }
            }
        }
        if !down.is_empty() && !is_any_up {
            self.reasons.push("no endpoint of any upstream is up");
        }
        let told = down.iter().map(|name| format!("{name} is down"));
        self.warnings.extend(told);
    }

    fn look_at_certificates(&mut self, snapshot: &Snapshot, now: OffsetDateTime) {
        for certificate in snapshot.certificates() {
            if certificate.until().is_none() {
                let site = certificate.site();
                self.warnings
                    .push(format!("{site} has no certificate yet; the log says why"));
            }
            for warning in certificate.aged(now) {
                let warning = warning.to_string();
                // Sites share certificates.
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ready() {
            writeln!(f, "ready")?;
        }
        for reason in &self.reasons {
            writeln!(f, "not ready: {reason}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {}", warning.replace('\n', " "))?;
        }
        Ok(())
    }
}
