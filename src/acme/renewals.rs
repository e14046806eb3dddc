//! Which host is looked at when, from turn to turn.
//!
//! Called by `server` on the main runtime, once a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::ChallengeType;
use time::OffsetDateTime;
use tokio::task::{Id, JoinError, JoinSet};

use super::attempt::{RenewalOutcome, RenewalTask, RenewalWindow};
use super::failure::Failure;
use super::schedule::{self, RetryClass};
use super::{Acme, ManagedHost};

/// The hosts, and the looks and orders that run. Dropped, it ends them.
#[derive(Default)]
pub struct Renewals {
    acme: Option<Arc<Acme>>,
    hosts: HashMap<String, Host>,
    running: JoinSet<RenewalOutcome>,
}

struct Host {
    kept: Arc<ManagedHost>,
    due: OffsetDateTime,
    /// A failure is waited out until then.
    wait_until: OffsetDateTime,
    /// The authority has asked to be left alone until then.
    barred: Option<OffsetDateTime>,
    failures: u32,
    suggestion: Option<RenewalWindow>,
    task: Option<Id>,
}

impl Renewals {
    /// Takes note of what ended, and starts what is due. `acme` is what the current snapshot wants; a new one, after a
    /// reload, forgets what failures were waited out: who reloads has changed something.
    pub fn tick(&mut self, acme: Option<&Arc<Acme>>, now: OffsetDateTime) {
        while let Some(ended) = self.running.try_join_next_with_id() {
            self.note(ended, now);
        }
        let is_same = match (&self.acme, acme) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.acme = acme.cloned();
            self.renew_hosts(now);
        }
        self.start(now);
    }

    fn renew_hosts(&mut self, now: OffsetDateTime) {
        let mut old = std::mem::take(&mut self.hosts);
        for kept in self.acme.iter().flat_map(|acme| &acme.hosts) {
            let known = old.remove(kept.host());
            // One of another directory is another one.
            let known = known.filter(|host| Arc::ptr_eq(&host.kept, kept));
            let host = known.map_or_else(
                || Host {
                    kept: Arc::clone(kept),
                    due: now,
                    wait_until: now,
                    barred: None,
                    failures: 0,
                    suggestion: None,
                    task: None,
                },
                |host| Host {
                    due: now,
                    wait_until: host.barred.map_or(now, |barred| barred.max(now)),
                    failures: 0,
                    ..host
                },
            );
            self.hosts.insert(kept.host().to_owned(), host);
        }
    }

    fn start(&mut self, now: OffsetDateTime) {
        let Some(acme) = &self.acme else { return };
        for host in self.hosts.values_mut() {
            if self.running.len() >= AT_ONCE {
                return;
            }
            if host.task.is_some() || host.due > now {
                continue;
            }
            let look = RenewalTask {
                acme: Arc::clone(acme),
                kept: Arc::clone(&host.kept),
                way: challenge_type(acme.settings.http, host.failures),
                suggestion: host.suggestion.clone(),
                may_order: host.wait_until <= now,
                now,
                chance: jitter(),
            };
            host.task = Some(self.running.spawn(look.run()).id());
        }
    }

    fn note(&mut self, ended: Result<(Id, RenewalOutcome), JoinError>, now: OffsetDateTime) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let failure = Failure::Broken(format!("the order panicked: {error}"));
                let wait = None;
                (error.id(), RenewalOutcome::Failed { failure, wait })
            }
        };
        let http = self.acme.as_ref().is_some_and(|acme| acme.settings.http);
        // One that a reload took away has no entry.
        let mut hosts = self.hosts.values_mut();
        if let Some(host) = hosts.find(|host| host.task == Some(id)) {
            host.task = None;
            host.note(outcome, http, now);
        }
    }
}

impl Host {
    fn note(&mut self, outcome: RenewalOutcome, http: bool, now: OffsetDateTime) {
        match outcome {
            RenewalOutcome::Busy => self.due = now + SOON,
            RenewalOutcome::Waiting => self.due = self.wait_until.min(now + LOOK),
            RenewalOutcome::Good {
                renewal,
                suggestion,
            } => {
                self.failures = 0;
                self.barred = None;
                self.suggestion = suggestion;
                // Another process may renew before.
                self.due = renewal.min(now + LOOK);
            }
            RenewalOutcome::Failed { failure, wait } => {
                self.failures = self.failures.saturating_add(1);
                let kind = if http && self.failures == 1 && failure.is_of_challenge() {
                    RetryClass::OtherWayLeft
                } else {
                    failure.kind()
                };
                let pause = schedule::pause(kind, self.failures, jitter(), wait);
                self.wait_until = now + pause;
                self.due = self.wait_until.min(now + LOOK);
                self.barred = wait.map(|wait| now + wait.min(pause));
                self.tell(&failure, kind, pause, now);
            }
        }
    }

    fn tell(&self, failure: &Failure, kind: RetryClass, pause: Duration, now: OffsetDateTime) {
        let host = self.kept.host();
        let serving = match self.kept.shown.current() {
            None => "there is no certificate: handshakes are refused".to_owned(),
            Some(pair) if pair.not_after() <= now => "the certificate has expired".to_owned(),
            Some(pair) => format!("the present one is good until {}", pair.not_after()),
        };
        let again = pause.as_secs();
        if kind == RetryClass::OtherWayLeft {
            tracing::warn!(%host, error = %failure, "no certificate this way; trying http-01");
        } else {
            tracing::error!(%host, error = %failure, serving, again_in_seconds = again, "no new certificate");
        }
    }
}

/// tls-alpn-01 first: its port is always ours. Where there is a plain HTTP listener, the ways alternate.
fn challenge_type(http: bool, failures: u32) -> ChallengeType {
    if http && failures % 2 == 1 {
        ChallengeType::Http01
    } else {
        ChallengeType::TlsAlpn01
    }
}

/// From 0 to 1; in the middle should the system have no random bytes.
fn jitter() -> f64 {
    let mut bytes = [0; 2];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}

/// Orders at a time.
const AT_ONCE: usize = 4;
/// Until a look at what another process orders.
const SOON: Duration = Duration::from_secs(1);
/// Between two looks at what another process may have got.
const LOOK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
