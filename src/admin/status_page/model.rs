//! The model of the status page: everything that the page shows, collected at one moment.
//!
//! Every list has a maximum length. The values come from atomics, or from under locks that are held only while a value is
//! copied.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;

use crate::activity::RejectedRequest;
use crate::admin::ready::Readiness;
use crate::metrics::{Operation, SiteSums};
use crate::snapshot::{SiteCertificate, Snapshot};
use crate::state::{LifecyclePhase, ReloadOutcome, Sample, ServerState};
use crate::upstream::{self, Outage};

/// The state of the proxy at one moment.
#[derive(Debug)]
pub(crate) struct Status {
    /// The host name of the machine.
    pub(crate) host: String,
    pub(crate) now: SystemTime,
    /// Time since the start of the process.
    pub(crate) uptime: Duration,
    pub(crate) phase: LifecyclePhase,
    pub(crate) readiness: Readiness,
    pub(crate) last_reload: ReloadOutcome,
    /// Number of reloads that succeeded, and that failed.
    pub(crate) reloads: (u64, u64),
    pub(crate) open_connections: usize,
    pub(crate) max_connections: usize,
    /// Pushes and pulls in progress.
    pub(crate) transfers: Truncated<TransferRow>,
    /// The last ten minutes, the oldest sample first.
    pub(crate) samples: Vec<Sample>,
    pub(crate) sites: Truncated<SiteRow>,
    pub(crate) endpoints: Truncated<EndpointRow>,
    /// The last rejections, the latest first.
    pub(crate) rejections: Vec<RejectedRequest>,
}

/// The first rows of a list, and the length of the whole list.
#[derive(Debug)]
pub(crate) struct Truncated<T> {
    pub(crate) shown: Vec<T>,
    pub(crate) count: usize,
}

/// A transfer in progress.
#[derive(Debug)]
pub(crate) struct TransferRow {
    /// The ID of the transfer, by which the page updates its row and `tidegate cut` ends the transfer.
    pub(crate) number: u64,
    pub(crate) operation: Operation,
    pub(crate) repository: String,
    /// Empty for an anonymous client.
    pub(crate) user: String,
    pub(crate) client: String,
    pub(crate) site: String,
    /// Bytes transferred in the direction of the transfer.
    pub(crate) bytes: u64,
    /// Bytes to transfer in all, if that is known.
    pub(crate) length: Option<u64>,
    /// Bytes per second.
    pub(crate) rate: u64,
    pub(crate) age: Duration,
}

/// A site with its certificate.
#[derive(Debug)]
pub(crate) struct SiteRow {
    pub(crate) name: String,
    /// Number of the further names of the site.
    pub(crate) other_names: usize,
    /// `None` while the site has no certificate yet.
    pub(crate) validity: Option<CertValidity>,
    /// The certificate has a warning about its expiry.
    pub(crate) is_expiring: bool,
    /// `None` if the requests are counted under another name of the site.
    pub(crate) sums: Option<SiteSums>,
    /// The endpoints of each route that has no endpoint left.
    pub(crate) outages: Vec<RouteOutage>,
}

/// An endpoint that is down, of a route whose other endpoints are down as well.
#[derive(Clone, Debug)]
pub(crate) struct RouteOutage {
    /// The path of the route.
    pub(crate) path: String,
    pub(crate) endpoint: String,
    pub(crate) outage: Outage,
}

/// The remaining validity of a certificate.
#[derive(Debug)]
pub(crate) struct CertValidity {
    pub(crate) until: SystemTime,
    /// Whole days left; negative after the expiry.
    pub(crate) days_left: i64,
}

/// An endpoint of an upstream.
#[derive(Debug)]
pub(crate) struct EndpointRow {
    pub(crate) name: String,
    pub(crate) status: upstream::Status,
    /// Number of requests in progress or waiting for the endpoint.
    pub(crate) requests: usize,
}

impl Status {
    /// Collects the state of this moment.
    pub(crate) fn of(state: &ServerState) -> Self {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let snapshot = state.snapshot();
        let open = state.connections().open_counts();
        Self {
            host: hostname(),
            now: clock,
            uptime: state.history().age(now),
            phase: state.phase(),
            readiness: Readiness::of(state),
            last_reload: state.reloads().last(),
            reloads: state.reloads().counts(),
            open_connections: open.iter().map(|(_, count)| count).sum(),
            max_connections: state.connection_limit().max(),
            transfers: transfers(&snapshot, now),
            samples: state.history().samples(),
            sites: sites(&snapshot, clock.into()),
            endpoints: endpoints(&snapshot),
            rejections: snapshot.service.activity.recent_rejections(),
        }
    }
}

impl TransferRow {
    /// The percentage of the bytes that are transferred, rounded down, so that 100 means all of them. `None` if the length is
    /// unknown or zero.
    pub(crate) fn percent(&self) -> Option<u8> {
        let length = self.length.filter(|length| *length > 0)?;
        let percent = u128::from(self.bytes) * 100 / u128::from(length);
        Some(u8::try_from(percent).unwrap_or(100).min(100))
    }

    /// The time that the rest of the bytes will take at the current rate. `None` if the length is unknown or no byte moves.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let left = self.length?.saturating_sub(self.bytes);
        (self.rate > 0).then(|| Duration::from_secs(left.div_ceil(self.rate)))
    }
}

impl<T> Truncated<T> {
    fn of(mut all: Vec<T>) -> Self {
        let count = all.len();
        all.truncate(MAX_ROWS);
        Self { shown: all, count }
    }

    /// Number of the rows that the model does not have.
    pub(crate) fn hidden(&self) -> usize {
        self.count.saturating_sub(self.shown.len())
    }
}

/// The transfers with the most bytes.
fn transfers(snapshot: &Snapshot, now: Instant) -> Truncated<TransferRow> {
    let (largest, count) = snapshot.service.activity.largest_transfers(MAX_ROWS);
    let rows = largest.into_iter().map(|(number, transfer)| {
        let (received, sent) = transfer.bytes();
        TransferRow {
            number,
            operation: transfer.operation,
            repository: transfer.repository.clone(),
            user: transfer.user.clone(),
            client: transfer.client.clone(),
            site: transfer.site.clone(),
            bytes: match transfer.operation {
                Operation::Push => received,
                Operation::Websocket => received + sent,
                _ => sent,
            },
            length: transfer.length(),
            rate: transfer.rate(now),
            age: now.saturating_duration_since(transfer.started),
        }
    });
    Truncated {
        shown: rows.collect(),
        count,
    }
}

/// The sites: first those with a route that has no endpoint left, then in the order in which their certificates expire.
fn sites(snapshot: &Snapshot, now: OffsetDateTime) -> Truncated<SiteRow> {
    let mut counts = HashMap::new();
    for site in snapshot.service.site_counts() {
        counts.insert(site.name(), site);
    }
    let mut certificates: Vec<_> = snapshot
        .certificates()
        .iter()
        .map(|certificate| (certificate.until(), certificate))
        .collect();
    let outages = outages(snapshot);
    certificates.sort_by_key(|(until, certificate)| {
        let site = certificate.site();
        (!outages.contains_key(site), *until, site)
    });
    let certificates = Truncated::of(certificates);
    let validity = |until: OffsetDateTime| CertValidity {
        until: until.into(),
        days_left: (until - now).whole_seconds().div_euclid(86_400),
    };
    let row = |(until, certificate): (Option<OffsetDateTime>, &SiteCertificate)| SiteRow {
        name: certificate.site().to_owned(),
        other_names: certificate.hosts().len().saturating_sub(1),
        validity: until.map(validity),
        is_expiring: !certificate.aged(now).is_empty(),
        sums: counts.get(certificate.site()).map(|counts| counts.sums()),
        outages: outages.get(certificate.site()).cloned().unwrap_or_default(),
    };
    Truncated {
        shown: certificates.shown.into_iter().map(row).collect(),
        count: certificates.count,
    }
}

/// The endpoints that are down of each site with a route that has no endpoint left.
fn outages(snapshot: &Snapshot) -> HashMap<&str, Vec<RouteOutage>> {
    let mut outages: HashMap<&str, Vec<RouteOutage>> = HashMap::new();
    let mut seen = HashSet::new();
    for site in snapshot.service.sites.all() {
        // A site with several names is listed once for each of them.
        if !seen.insert(&*site.name) {
            continue;
        }
        for route in &site.routes {
            let down = route.forward.upstream().outage().into_iter().flatten();
            for (endpoint, outage) in down {
                outages.entry(&site.name).or_default().push(RouteOutage {
                    path: route.path.to_string(),
                    endpoint,
                    outage,
                });
            }
        }
    }
    outages
}

/// The endpoints: first those that are down, then those without a health check so far. An address that several upstreams
/// use has one row, because its health is the same for all of them.
fn endpoints(snapshot: &Snapshot) -> Truncated<EndpointRow> {
    let mut by_id = HashMap::new();
    for route in snapshot.service.sites.routes() {
        for endpoint in route.forward.upstream().statuses() {
            by_id.insert(endpoint.id, endpoint);
        }
    }
    let mut rows: BTreeMap<String, EndpointRow> = BTreeMap::new();
    for endpoint in by_id.into_values() {
        let row = rows.entry(endpoint.name.clone()).or_insert(EndpointRow {
            name: endpoint.name,
            status: endpoint.status,
            requests: 0,
        });
        row.requests += endpoint.busy;
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by_key(|row| match row.status {
        upstream::Status::Down(_) => 0,
        upstream::Status::Unchecked => 1,
        upstream::Status::Up => 2,
    });
    Truncated::of(rows)
}

/// The name of the machine. `/proc/sys` has it, too, but the systemd unit hides that (`ProcSubset=pid`).
fn hostname() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

/// The maximum number of rows of a list: more than a person reads.
const MAX_ROWS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bytes: u64, length: Option<u64>, rate: u64) -> TransferRow {
        TransferRow {
            number: 1,
            operation: Operation::Pull,
            repository: String::new(),
            user: String::new(),
            client: String::new(),
            site: String::new(),
            bytes,
            length,
            rate,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn progress_is_known_if_the_length_and_the_rate_are() {
        for (bytes, length, expected) in [
            (0, Some(0), None),
            (5, None, None),
            (0, Some(7), Some(0)),
            (999, Some(1000), Some(99)),
            (1000, Some(1000), Some(100)),
            (2000, Some(1000), Some(100)),
            (u64::MAX, Some(u64::MAX), Some(100)),
        ] {
            let percent = row(bytes, length, 1).percent();
            assert_eq!(percent, expected, "{bytes} {length:?}");
        }
        for (bytes, length, rate, expected) in [
            (0, Some(10), 0, None),
            (0, None, 3, None),
            (0, Some(10), 3, Some(4)),
            (10, Some(10), 3, Some(0)),
        ] {
            let left = row(bytes, length, rate).time_left();
            let left = left.map(|left| left.as_secs());
            assert_eq!(left, expected, "{bytes} of {length:?} at {rate}");
        }
    }
}
