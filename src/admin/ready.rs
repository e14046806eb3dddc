//! Readiness: whether a load balancer should send clients to this proxy, and what needs the attention of an operator.
//!
//! `/readyz`, the metrics and the status page show it. Only a condition that another instance of the proxy may not have
//! makes this instance not ready. A failed reload and an expiring certificate are the same on all instances, so they are
//! warnings: to take all instances out of the load balancer would help no client.
//!
//! A proxy is not ready before an endpoint of any upstream has responded once, which takes as long as one health check. It
//! accepts connections and forwards requests meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::snapshot::Snapshot;
use crate::state::{LifecyclePhase, ServerState};
use crate::upstream::{Outage, Status};

/// The readiness of the proxy at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Why the proxy is not ready; empty if it is.
    reasons: Vec<&'static str>,
    /// Sites that cannot be served. They do not make the proxy not ready, because it serves the other sites.
    errors: Vec<String>,
    /// Further conditions that an operator should look at.
    warnings: Vec<String>,
}

impl Readiness {
    /// Judges the state of this moment.
    pub(crate) fn of(state: &ServerState) -> Self {
        let mut readiness = Self {
            reasons: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        match state.phase() {
            LifecyclePhase::Starting => {
                let reason = "the proxy does not accept connections yet";
                readiness.reasons.push(reason);
            }
            LifecyclePhase::Serving => {}
            LifecyclePhase::Withdrawing => {
                let reason = "the proxy is about to drain, and accepts connections until then";
                readiness.reasons.push(reason);
            }
            LifecyclePhase::Draining => {
                let reason = "the proxy drains and accepts no more connections";
                readiness.reasons.push(reason);
            }
        }
        if let Some((at, cause)) = state.reloads().last().failed {
            let at = format_rfc3339(at);
            readiness.warnings.push(format!(
                "the reload at {at} failed, and the previous configuration stays in use: {cause}"
            ));
        }
        let snapshot = state.snapshot();
        readiness.check_upstreams(&snapshot);
        readiness.check_sites(&snapshot);
        readiness.check_certificates(&snapshot, OffsetDateTime::now_utc());
        readiness
    }

    /// Whether a load balancer should send clients to this proxy.
    pub(crate) fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// Why the proxy is not ready; empty if it is.
    pub(crate) fn reasons(&self) -> &[&'static str] {
        &self.reasons
    }

    /// The sites that cannot be served, each with the cause and the time.
    pub(crate) fn errors(&self) -> &[String] {
        &self.errors
    }

    /// Further conditions that an operator should look at.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds a reason if no endpoint of any upstream is known to work, and a warning for each endpoint that is down.
    fn check_upstreams(&mut self, snapshot: &Snapshot) {
        let (mut down, mut is_any_up, mut is_any_unchecked) = (BTreeMap::new(), false, false);
        for route in snapshot.service.sites.routes() {
            for endpoint in route.forward.upstream().statuses() {
                match endpoint.status {
                    Status::Up => is_any_up = true,
                    Status::Unchecked => is_any_unchecked = true,
                    Status::Down(outage) => {
                        down.insert(endpoint.name, outage);
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
        let warnings = down.iter().map(|(name, outage)| describe(name, outage));
        self.warnings.extend(warnings);
    }

    /// Adds an error for each route whose endpoints are all down. Sites with several names are listed once.
    fn check_sites(&mut self, snapshot: &Snapshot) {
        let mut errors = BTreeSet::new();
        for site in snapshot.service.sites.all() {
            for route in &site.routes {
                if let Some(outage) = route.forward.upstream().outage() {
                    let down: Vec<_> = outage
                        .iter()
                        .map(|(name, outage)| describe(name, outage))
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

    /// Adds a warning for each site without a certificate, and for each certificate that expires soon.
    fn check_certificates(&mut self, snapshot: &Snapshot, now: OffsetDateTime) {
        for certificate in snapshot.certificates() {
            if certificate.until().is_none() {
                let site = certificate.site();
                self.warnings.push(format!(
                    "{site} has no certificate yet; the log has the reason"
                ));
            }
            for warning in certificate.aged(now) {
                let warning = warning.to_string();
                // Sites that share a certificate have the same warning.
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
        }
    }
}

fn describe(endpoint: &str, outage: &Outage) -> String {
    let Outage { since, cause } = outage;
    format!(
        "{endpoint} is down since {}: {cause}",
        format_rfc3339(*since)
    )
}

/// Formats a time as in RFC 3339, in UTC and to the second.
fn format_rfc3339(time: SystemTime) -> String {
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
