//! Whether clients should be sent to this gate, and what somebody should look at meanwhile.
//!
//! Called by `answer`, `numbers` and `page`. Only what another proxy would do better makes this one not ready: a reload that
//! failed or a certificate near its end are the same everywhere, and to take all proxies out of a balancer would help no
//! client. A proxy is not ready before an endpoint of any upstream has responded once, which takes as long as a check; it
//! listens meanwhile, and requests are sent on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::snapshot::Snapshot;
use crate::state::{LifecyclePhase, ServerState};
use crate::upstream::{Outage, Status};

/// Whether a gate is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    /// Why it is not; empty when it is.
    reasons: Vec<&'static str>,
    /// Sites that cannot be served, which does not change that: the others are.
    errors: Vec<String>,
    /// What else somebody should look at.
    warnings: Vec<String>,
}

impl Readiness {
    /// At this moment.
    pub(super) fn of(gate: &ServerState) -> Self {
        let mut readiness = Self {
            reasons: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        match gate.phase() {
            LifecyclePhase::Starting => {
                readiness.reasons.push("it does not accept connections yet")
            }
            LifecyclePhase::Serving => {}
            LifecyclePhase::Draining => readiness.reasons.push("it drains, and accepts no more"),
        }
        if let Some((at, why)) = gate.reloads().last().failed {
            let at = moment(at);
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

    /// Sites that cannot be served, with cause and time.
    pub(super) fn errors(&self) -> &[String] {
        &self.errors
    }

    /// What else somebody should look at.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn look_at_upstreams(&mut self, snapshot: &Snapshot) {
        let (mut down, mut is_any_up, mut is_any_unchecked) = (BTreeMap::new(), false, false);
        for route in snapshot.service.sites.routes() {
            for state in route.forward.upstream().states() {
                match state.status {
                    Status::Up => is_any_up = true,
                    Status::Unchecked => is_any_unchecked = true,
                    Status::Down(outage) => {
                        down.insert(state.name, outage);
                    }
                }
            }
        }
        if !is_any_up && is_any_unchecked {
            self.reasons
                .push("no endpoint of an upstream has responded yet");
        } else if !is_any_up && !down.is_empty() {
            self.reasons.push("no endpoint of any upstream is up");
        }
        self.look_at_sites(snapshot);
        let told = down.iter().map(|(name, outage)| is_down(name, outage));
        self.warnings.extend(told);
    }

    /// A site without an endpoint is an error. Its endpoints' outages follow as warnings, once for all sites.
    fn look_at_sites(&mut self, snapshot: &Snapshot) {
        let mut errors = BTreeSet::new();
        for site in snapshot.service.sites.all() {
            for route in &site.routes {
                if let Some(outage) = route.forward.upstream().outage() {
                    let down: Vec<_> = outage
                        .iter()
                        .map(|(name, why)| is_down(name, why))
                        .collect();
                    errors.insert(format!(
                        "site {} cannot serve {}: {}",
                        site.name,
                        route.path,
                        down.join("; ")
                    ));
                }
            }
        }
        self.errors.extend(errors);
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

fn is_down(endpoint: &str, outage: &Outage) -> String {
    let Outage { since, cause } = outage;
    format!("{endpoint} is down since {}: {cause}", moment(*since))
}

/// RFC 3339 in UTC, to the second.
fn moment(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time).replace_nanosecond(0);
    let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_default()
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ready() {
            writeln!(f, "ready")?;
        }
        for reason in &self.reasons {
            writeln!(f, "not ready: {reason}")?;
        }
        for error in &self.errors {
            writeln!(f, "error: {}", error.replace('\n', " "))?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {}", warning.replace('\n', " "))?;
        }
        Ok(())
    }
}
