//! All that the page shows, gathered at one moment and bounded in number.
//!
//! Called by `page`. Everything is read by atomics, or under locks that are held for as long as it takes to copy.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;

use super::super::ready::Readiness;
use crate::activity::Refused;
use crate::metrics::{Operation, SiteSums};
use crate::snapshot::{SiteCertificate, Snapshot};
use crate::state::Outcome;
use crate::state::Sample;
use crate::state::{LifecyclePhase, ServerState};
use crate::upstream;

/// The gate at one moment.
#[derive(Debug)]
pub(super) struct Status {
    /// The machine's name.
    pub(super) host: String,
    pub(super) now: SystemTime,
    pub(super) age: Duration,
    pub(super) phase: LifecyclePhase,
    pub(super) readiness: Readiness,
    pub(super) reload: Outcome,
    /// Reloads that were taken, and that were refused.
    pub(super) reloads: (u64, u64),
    /// Open ones, and how many may be.
    pub(super) connections: (usize, usize),
    pub(super) moving: Truncated<TransferRow>,
    pub(super) samples: Vec<Sample>,
    pub(super) sites: Truncated<Site>,
    pub(super) endpoints: Truncated<Endpoint>,
    pub(super) refusals: Vec<Refused>,
}

/// The first of many, and how many there are.
#[derive(Debug)]
pub(super) struct Truncated<T> {
    pub(super) shown: Vec<T>,
    pub(super) count: usize,
}

/// A transfer that is under way.
#[derive(Debug)]
pub(super) struct TransferRow {
    pub(super) number: u64,
    pub(super) is_push: bool,
    pub(super) repository: String,
    pub(super) user: String,
    pub(super) client: String,
    pub(super) site: String,
    pub(super) bytes: u64,
    pub(super) rate: u64,
    pub(super) age: Duration,
}

/// A site with its certificate.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: String,
    /// Names beside the first.
    pub(super) others: usize,
    /// `None` while there is no certificate yet.
    pub(super) term: Option<CertValidity>,
    /// Somebody should look at it.
    pub(super) is_aged: bool,
    /// `None` where they are counted under another of the site's names.
    pub(super) sums: Option<SiteSums>,
}

/// How long a certificate lasts.
#[derive(Debug)]
pub(super) struct CertValidity {
    pub(super) until: SystemTime,
    /// Whole days; below zero when it is over.
    pub(super) days: i64,
}

/// Where requests go.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) status: upstream::Status,
    pub(super) busy: usize,
}

impl Status {
    pub(super) fn of(gate: &ServerState) -> Self {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let snapshot = gate.snapshot();
        let opened = gate.connections().opened();
        Self {
            host: host(),
            now: clock,
            age: gate.history().age(now),
            phase: gate.phase(),
            readiness: Readiness::of(gate),
            reload: gate.reloads().last(),
            reloads: gate.reloads().counts(),
            connections: (
                opened.iter().map(|(_, count)| count).sum(),
                gate.slots().max(),
            ),
            moving: moving(&snapshot, now),
            samples: gate.history().samples(),
            sites: sites(&snapshot, clock.into()),
            endpoints: endpoints(&snapshot),
            refusals: snapshot.service.board.refusals(),
        }
    }
}

impl<T> Truncated<T> {
    fn of(mut all: Vec<T>) -> Self {
        let count = all.len();
        all.truncate(MOST);
        Self { shown: all, count }
    }
}

fn moving(snapshot: &Snapshot, now: Instant) -> Truncated<TransferRow> {
    let (largest, count) = snapshot.service.board.top_n(MOST);
    let shown = largest.into_iter().map(|(number, transfer)| {
        let is_push = transfer.operation == Operation::Push;
        let (received, sent) = transfer.bytes();
        TransferRow {
            number,
            is_push,
            repository: transfer.repository.clone(),
            user: transfer.user.clone(),
            client: transfer.client.clone(),
            site: transfer.site.clone(),
            bytes: if is_push { received } else { sent },
            rate: transfer.rate(now),
            age: now.saturating_duration_since(transfer.began),
        }
    });
    Truncated {
        shown: shown.collect(),
        count,
    }
}

/// Those whose certificate ends first come first.
fn sites(snapshot: &Snapshot, now: OffsetDateTime) -> Truncated<Site> {
    let mut counts = HashMap::new();
    for of_site in snapshot.service.counts() {
        counts.insert(of_site.name(), of_site);
    }
    let mut certificates: Vec<_> = snapshot
        .certificates()
        .iter()
        .map(|certificate| (certificate.until(), certificate))
        .collect();
    certificates.sort_by(|(one, a), (other, b)| (one, a.site()).cmp(&(other, b.site())));
    let count = certificates.len();
    certificates.truncate(MOST);
    let term = |until: OffsetDateTime| CertValidity {
        until: until.into(),
        days: (until - now).whole_seconds().div_euclid(86_400),
    };
    let site = |(until, certificate): (Option<OffsetDateTime>, &SiteCertificate)| Site {
        name: certificate.site().to_owned(),
        others: certificate.hosts().len().saturating_sub(1),
        term: until.map(term),
        is_aged: !certificate.aged(now).is_empty(),
        sums: counts.get(certificate.site()).map(|counts| counts.sums()),
    };
    Truncated {
        shown: certificates.into_iter().map(site).collect(),
        count,
    }
}

/// Each once, those that are down first, then those that are not checked yet.
fn endpoints(snapshot: &Snapshot) -> Truncated<Endpoint> {
    let mut nodes = HashMap::new();
    for route in snapshot.service.sites.routes() {
        for state in route.forward.upstream().states() {
            nodes.insert(state.node, state);
        }
    }
    let mut named: BTreeMap<String, Endpoint> = BTreeMap::new();
    for state in nodes.into_values() {
        // One address that is used in several ways has one health.
        let endpoint = named.entry(state.name.clone()).or_insert(Endpoint {
            name: state.name,
            status: state.status,
            busy: 0,
        });
        endpoint.busy += state.busy;
    }
    let mut all: Vec<_> = named.into_values().collect();
    all.sort_by_key(|endpoint| match endpoint.status {
        upstream::Status::Down(_) => 0,
        upstream::Status::Unchecked => 1,
        upstream::Status::Up => 2,
    });
    Truncated::of(all)
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// More than a person reads.
const MOST: usize = 100;
