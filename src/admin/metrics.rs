//! The metrics of the admin listener, in the Prometheus exposition format.
//!
//! Every scrape collects all metric families again, on a thread of the blocking pool. The values come from atomics, or from
//! under locks that no request waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::{Duration, OffsetDateTime};

use super::ready::Readiness;
use crate::log::LogWriter;
use crate::metrics::{
    AlertSender, Connections, Counter, ExpositionFormat, Family, Kind, Operation, SiteCounts,
    SiteTotals, TlsAlert, Value, write,
};
use crate::snapshot::{SiteCertificate, Snapshot};
use crate::state::ServerState;
use crate::upstream::Status;

mod process;

use process::ProcessStats;

/// All metric families as text.
///
/// # Errors
/// Returns an error if the encoder fails.
pub(crate) fn render(state: &ServerState, format: ExpositionFormat) -> Result<String, fmt::Error> {
    let snapshot = state.snapshot();
    let mut families = site_families(&snapshot);
    families.extend(upstream_families(&snapshot));
    families.extend(proxy_families(state, &snapshot));
    families.extend(connection_families(state));
    families.extend(login_families(&snapshot));
    families.extend(reload_families(state));
    families.push(dropped_log_lines(state, &snapshot));
    families.extend(process_families(
        &ProcessStats::read(),
        state.history().started_at(),
    ));
    write(families, format)
}

/// One time series: its labels and its value.
type Sample = (Vec<(&'static str, String)>, Value);

fn family(kind: Kind, name: &'static str, help: &'static str, samples: Vec<Sample>) -> Family {
    Family {
        name,
        help,
        kind,
        samples,
    }
}

/// A family with one sample, which has no labels.
fn single(kind: Kind, name: &'static str, help: &'static str, value: Value) -> Family {
    family(kind, name, help, vec![(Vec::new(), value)])
}

/// A sample with one label.
fn labelled(label: &'static str, text: impl Into<String>, value: Value) -> Sample {
    (vec![(label, text.into())], value)
}

fn whole(value: usize) -> Value {
    Value::Whole(value as u64)
}

/// One sample for each counter, with the name of the counter in `label`.
fn counters<const N: usize>(label: &'static str, counters: [(&str, &Counter); N]) -> Vec<Sample> {
    let sample =
        |(name, counter): (&str, &Counter)| labelled(label, name, Value::Whole(counter.get()));
    counters.into_iter().map(sample).collect()
}

// ===== sites =====

/// The totals of every site by its name. Requests that match no site have the name `-`.
type AllSites<'a> = [(&'a str, SiteTotals)];

fn site_families(snapshot: &Snapshot) -> Vec<Family> {
    let mut sites: BTreeMap<&str, &SiteCounts> = BTreeMap::new();
    for counts in snapshot.service.site_counts() {
        sites.insert(counts.name(), counts);
    }
    let sites: Vec<_> = sites
        .into_iter()
        .map(|(name, counts)| (name, counts.totals()))
        .collect();
    let mut families = Vec::from(request_families(&sites));
    families.extend(byte_families(&sites));
    families.extend(failure_families(&sites));
    families
}

fn request_families(sites: &AllSites<'_>) -> [Family; 3] {
    let requests = for_each_site(sites, |totals| {
        let sample = |(operation, status, count): &(Operation, String, u64)| {
            let labels = vec![
                ("operation", operation.as_str().to_owned()),
                ("status", status.clone()),
            ];
            (labels, Value::Whole(*count))
        };
        totals.requests.iter().map(sample).collect()
    });
    let seconds = for_each_site(sites, |totals| {
        let seen = totals
            .durations
            .iter()
            .filter(|(_, buckets)| buckets.count() > 0);
        seen.map(|(operation, buckets)| {
            labelled(
                "operation",
                operation.as_str(),
                Value::Buckets(buckets.clone()),
            )
        })
        .collect()
    });
    // A site without requests has no series, here and below.
    let upstream = for_each_site(sites, |totals| {
        let buckets =
            (totals.request_count > 0).then(|| Value::Buckets(totals.upstream_waits.clone()));
        buckets
            .map(|buckets| (Vec::new(), buckets))
            .into_iter()
            .collect()
    });
    [
        family(
            Kind::Counter,
            "tidegate_requests",
            "Completed requests, by site, operation and status; 499 is a request whose client left before the response.",
            requests,
        ),
        family(
            Kind::Histogram,
            "tidegate_request_duration_seconds",
            "Time from the head of the request to the last byte of the response.",
            seconds,
        ),
        family(
            Kind::Histogram,
            "tidegate_upstream_time_to_first_byte_seconds",
            "Time from the end of the request, its body included, to the head of the upstream's response; 0 if the upstream responded before the end of the request.",
            upstream,
        ),
    ]
}

fn byte_families(sites: &AllSites<'_>) -> [Family; 2] {
    let samples = |direction: fn((u64, u64)) -> u64| {
        for_each_site(sites, |totals| {
            let rows = totals.bytes.iter().filter(|_| totals.request_count > 0);
            rows.map(|(operation, received, sent)| {
                let bytes = direction((*received, *sent));
                labelled("operation", operation.as_str(), Value::Whole(bytes))
            })
            .collect()
        })
    };
    [
        family(
            Kind::Counter,
            "tidegate_received_bytes",
            "Bytes of request bodies received from clients.",
            samples(|(received, _)| received),
        ),
        family(
            Kind::Counter,
            "tidegate_sent_bytes",
            "Bytes of response bodies sent to clients.",
            samples(|(_, sent)| sent),
        ),
    ]
}

fn failure_families(sites: &AllSites<'_>) -> [Family; 2] {
    let rejected = for_each_site(sites, |totals| {
        let rows = totals
            .rejections
            .iter()
            .filter(|_| totals.request_count > 0);
        rows.map(|(reason, count)| labelled("reason", reason.as_str(), Value::Whole(*count)))
            .collect()
    });
    let aborted = for_each_site(sites, |totals| {
        let rows = totals.aborts.iter().filter(|_| totals.request_count > 0);
        rows.map(|(termination, count)| labelled("termination", *termination, Value::Whole(*count)))
            .collect()
    });
    [
        family(
            Kind::Counter,
            "tidegate_rejections",
            "Requests that the proxy rejected, by reason; no_credentials is the first step of every login.",
            rejected,
        ),
        family(
            Kind::Counter,
            "tidegate_aborted_responses",
            "Responses that ended before they were complete, by the termination in the access log.",
            aborted,
        ),
    ]
}

/// The samples of all sites, with the name of the site as the first label.
fn for_each_site(
    sites: &AllSites<'_>,
    samples: impl Fn(&SiteTotals) -> Vec<Sample>,
) -> Vec<Sample> {
    let of_site = |(site, totals): &(&str, SiteTotals)| -> Vec<Sample> {
        let with_site = samples(totals).into_iter().map(|(labels, value)| {
            let mut all = vec![("site", (*site).to_owned())];
            all.extend(labels);
            (all, value)
        });
        with_site.collect()
    };
    sites.iter().flat_map(of_site).collect()
}

// ===== upstreams and certificates =====

fn upstream_families(snapshot: &Snapshot) -> [Family; 5] {
    let (up, requests) = endpoints(snapshot);
    [
        family(
            Kind::Gauge,
            "tidegate_upstream_endpoint_up",
            "1 if the last attempt to reach the endpoint succeeded, else 0; 0 also before the first health check has ended.",
            up,
        ),
        family(
            Kind::Gauge,
            "tidegate_site_available",
            "0 while all endpoints of one of the site's routes are down; 1 otherwise, also before their first health checks have ended.",
            availability(snapshot),
        ),
        family(
            Kind::Gauge,
            "tidegate_upstream_endpoint_active_requests",
            "Requests in progress at the endpoint or waiting for it.",
            requests,
        ),
        family(
            Kind::Gauge,
            "tidegate_certificate_expiry_timestamp_seconds",
            "When the first certificate of the site's current chain expires.",
            certificate_seconds(snapshot, |certificate| {
                certificate.until().map(OffsetDateTime::unix_timestamp)
            }),
        ),
        family(
            Kind::Gauge,
            "tidegate_certificate_lifetime_seconds",
            "How long this certificate is valid in all; an alert is due when a quarter of it is left, or 14 days.",
            certificate_seconds(snapshot, |certificate| {
                certificate.lifetime().map(Duration::whole_seconds)
            }),
        ),
    ]
}

/// Whether each endpoint is up, and the number of its requests. Upstreams with different settings may share an address; an
/// endpoint is up if it is up for all of them.
fn endpoints(snapshot: &Snapshot) -> (Vec<Sample>, Vec<Sample>) {
    let mut seen = BTreeSet::new();
    let mut endpoints: BTreeMap<String, (bool, usize)> = BTreeMap::new();
    for route in snapshot.service.sites.routes() {
        for endpoint in route.forward.upstream().statuses() {
            if seen.insert(endpoint.id) {
                let (is_up, requests) = endpoints.entry(endpoint.name).or_insert((true, 0));
                *is_up &= endpoint.status == Status::Up;
                *requests += endpoint.busy;
            }
        }
    }
    let (mut up, mut requests) = (Vec::new(), Vec::new());
    for (name, (is_up, count)) in endpoints {
        up.push(labelled("endpoint", &*name, whole(usize::from(is_up))));
        requests.push(labelled("endpoint", name, whole(count)));
    }
    (up, requests)
}

fn availability(snapshot: &Snapshot) -> Vec<Sample> {
    let mut available = BTreeMap::new();
    for site in snapshot.service.sites.all() {
        let routes = &mut site.routes.iter();
        let is_available = routes.all(|route| route.forward.upstream().outage().is_none());
        available.insert(&site.name, is_available);
    }
    let sites = available.into_iter();
    sites
        .map(|(site, is_available)| labelled("site", site, whole(usize::from(is_available))))
        .collect()
}

/// A number of seconds for the certificate of each site. A site that waits for its first certificate has no series yet.
fn certificate_seconds(
    snapshot: &Snapshot,
    seconds: impl Fn(&SiteCertificate) -> Option<i64>,
) -> Vec<Sample> {
    let mut samples = BTreeMap::new();
    for certificate in snapshot.certificates() {
        if let Some(seconds) = seconds(certificate) {
            samples.insert(certificate.site(), u64::try_from(seconds).unwrap_or(0));
        }
    }
    let sites = samples.into_iter();
    sites
        .map(|(site, seconds)| labelled("site", site, Value::Whole(seconds)))
        .collect()
}

// ===== the proxy as a whole =====

fn proxy_families(state: &ServerState, snapshot: &Snapshot) -> [Family; 4] {
    [
        family(
            Kind::Gauge,
            "tidegate_build_info",
            "Constant 1; the label version has the running version.",
            vec![labelled(
                "version",
                env!("CARGO_PKG_VERSION"),
                Value::Whole(1),
            )],
        ),
        single(
            Kind::Gauge,
            "tidegate_ready",
            "1 if /readyz responds with 200, else 0.",
            whole(usize::from(Readiness::of(state).is_ready())),
        ),
        single(
            Kind::Gauge,
            "tidegate_active_transfers",
            "Pushes and pulls in progress.",
            whole(snapshot.service.activity.transfer_count()),
        ),
        single(
            Kind::Gauge,
            "tidegate_http2_upload_memory_bytes",
            "Memory held by HTTP/2 uploads that were received and not yet read; limits.h2_memory bounds it.",
            whole(state.recv_budget().used()),
        ),
    ]
}

fn connection_families(state: &ServerState) -> [Family; 7] {
    let (counts, limit) = (state.connections(), state.connection_limit());
    let open = counts.open_counts().into_iter();
    let open = open.map(|(protocol, count)| labelled("protocol", protocol, whole(count)));
    [
        family(
            Kind::Gauge,
            "tidegate_connections",
            "Open client connections, by protocol.",
            open.collect(),
        ),
        single(
            Kind::Gauge,
            "tidegate_connections_limit",
            "Maximum number of open client connections.",
            whole(limit.max()),
        ),
        single(
            Kind::Counter,
            "tidegate_connections_accepted",
            "Client connections accepted.",
            Value::Whole(limit.accepted()),
        ),
        single(
            Kind::Counter,
            "tidegate_connections_rejected",
            "Connections closed right after they were accepted, because their client had too many.",
            Value::Whole(limit.rejected()),
        ),
        family(
            Kind::Counter,
            "tidegate_tls_handshake_failures",
            "Failed TLS handshakes, by reason; closed is a client that disconnected, as health checks of load balancers do.",
            counters(
                "reason",
                [
                    ("failed", &counts.handshake_failed),
                    ("closed", &counts.handshake_closed),
                    ("timeout", &counts.handshake_timeout),
                    ("plain_http", &counts.handshake_plain_http),
                ],
            ),
        ),
        family(
            Kind::Counter,
            "tidegate_tls_handshake_alerts",
            "TLS handshakes that ended with an alert, by alert and by sender; unknown_ca and bad_certificate from a client mean that it does not trust the certificate.",
            alerts(counts),
        ),
        family(
            Kind::Counter,
            "tidegate_connections_closed",
            "Connections closed after their handshake, by reason; http2_abuse is a client that exceeded the limits for stream resets or control frames.",
            counters(
                "reason",
                [
                    ("done", &counts.done),
                    ("error", &counts.error),
                    ("head_timeout", &counts.head_timeout),
                    ("idle_timeout", &counts.idle_timeout),
                    ("write_timeout", &counts.write_timeout),
                    ("http2_abuse", &counts.http2_abuse),
                ],
            ),
        ),
    ]
}

fn alerts(counts: &Connections) -> Vec<Sample> {
    let sample = |(sender, alert, count): (AlertSender, TlsAlert, u64)| {
        let labels = [("alert", alert.as_str()), ("sent_by", sender.as_str())];
        let labels = labels.map(|(name, value)| (name, value.to_owned()));
        (labels.to_vec(), Value::Whole(count))
    };
    counts.alerts.counts().map(sample).collect()
}

fn login_families(snapshot: &Snapshot) -> [Family; 3] {
    let logins = snapshot.password_verifier();
    let counts = logins.counts();
    [
        family(
            Kind::Counter,
            "tidegate_logins",
            "Passwords sent with requests, by outcome; cached is a correct password that needed no hash.",
            counters(
                "outcome",
                [
                    ("cached", &counts.cached),
                    ("verified", &counts.verified),
                    ("wrong_password", &counts.wrong_password),
                    ("throttled", &counts.throttled),
                    ("busy", &counts.busy),
                ],
            ),
        ),
        single(
            Kind::Counter,
            "tidegate_password_hashes",
            "Password hashes computed.",
            Value::Whole(counts.hashes.get()),
        ),
        single(
            Kind::Gauge,
            "tidegate_password_hashes_waiting",
            "Password checks that wait for a hash thread.",
            whole(logins.waiting()),
        ),
    ]
}

fn reload_families(state: &ServerState) -> [Family; 3] {
    let reloads = state.reloads();
    let (succeeded, failed) = reloads.counts();
    let last = reloads.last();
    let loaded = last.in_use_since.duration_since(UNIX_EPOCH);
    [
        family(
            Kind::Counter,
            "tidegate_config_reloads",
            "Reloads, by outcome; after a failed reload, the previous configuration stays in use.",
            vec![
                labelled("outcome", "succeeded", Value::Whole(succeeded)),
                labelled("outcome", "failed", Value::Whole(failed)),
            ],
        ),
        single(
            Kind::Gauge,
            "tidegate_config_last_reload_successful",
            "1 if the last reload succeeded, else 0; 1 before the first reload.",
            whole(usize::from(last.failed.is_none())),
        ),
        single(
            Kind::Gauge,
            "tidegate_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was loaded.",
            Value::Real(loaded.map_or(0.0, |since| since.as_secs_f64())),
        ),
    ]
}

fn dropped_log_lines(state: &ServerState, snapshot: &Snapshot) -> Family {
    let logs = [("access", snapshot.access_log()), ("process", state.log())];
    let samples = logs.into_iter().map(|(name, writer)| {
        let dropped = writer.map_or(0, LogWriter::dropped);
        labelled("log", name, Value::Whole(dropped))
    });
    family(
        Kind::Counter,
        "tidegate_log_lines_dropped",
        "Log lines dropped because the reader of the log or the disk was too slow, or a write failed.",
        samples.collect(),
    )
}

// ===== the process =====

/// The families that all Prometheus client libraries provide, under their names. A value that the kernel does not report is
/// left out.
fn process_families(stats: &ProcessStats, started_at: SystemTime) -> Vec<Family> {
    let since_epoch = started_at.duration_since(UNIX_EPOCH);
    let families = [
        (
            Kind::Counter,
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            stats.cpu_seconds.map(Value::Real),
        ),
        (
            Kind::Gauge,
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            since_epoch.ok().map(|time| Value::Real(time.as_secs_f64())),
        ),
        (
            Kind::Gauge,
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            stats.resident_bytes.map(Value::Whole),
        ),
        (
            Kind::Gauge,
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            stats.virtual_bytes.map(Value::Whole),
        ),
        (
            Kind::Gauge,
            "process_open_fds",
            "Number of open file descriptors.",
            stats.open_descriptors.map(whole),
        ),
        (
            Kind::Gauge,
            "process_max_fds",
            "Maximum number of open file descriptors.",
            stats.max_descriptors.map(Value::Whole),
        ),
        (
            Kind::Gauge,
            "process_threads",
            "Number of OS threads in the process.",
            stats.threads.map(Value::Whole),
        ),
    ];
    let known = families
        .into_iter()
        .filter_map(|(kind, name, help, value)| Some(single(kind, name, help, value?)));
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_process_families_have_a_value_on_linux() {
        let families = process_families(&ProcessStats::read(), SystemTime::now());
        assert_eq!(families.len(), 7);
        for family in families {
            let (_, value) = &family.samples[0];
            let value = match value {
                Value::Whole(value) => *value as f64,
                Value::Real(value) => *value,
                Value::Buckets(_) => panic!("{}", family.name),
            };
            assert!(value >= 0.0, "{}", family.name);
        }
    }
}
