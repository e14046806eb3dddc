//! The counters of one site: requests, their durations, bytes, rejections.
//!
//! Each site of a snapshot has one [`SiteCounts`], which outlives reloads. A request counts in the [`ThreadCounts`]
//! of its thread. `admin` reads [`SiteTotals`] for a scrape and [`SiteSums`] for the charts of the status page.

use std::ops::AddAssign;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::counter::{SHARDS, thread_shard};
use super::labels::{
    Operation, RejectionReason, STATUS_LABELS, TERMINATIONS, is_server_error, status_index,
    status_label,
};

/// The counters of one site.
#[derive(Debug)]
pub struct SiteCounts {
    name: String,
    /// The part of a thread is allocated when the thread first counts here, since there may be thousands of sites.
    threads: [OnceLock<Box<ThreadCounts>>; SHARDS],
}

/// The part of a site's counters in which one thread counts.
#[derive(Debug)]
#[repr(align(64))]
pub struct ThreadCounts {
    requests: [[AtomicU64; STATUS_LABELS]; OPERATIONS],
    durations: [DurationCounts; OPERATIONS],
    upstream_waits: DurationCounts,
    received: [AtomicU64; OPERATIONS],
    sent: [AtomicU64; OPERATIONS],
    rejections: [AtomicU64; RejectionReason::ALL.len()],
    aborts: [AtomicU64; TERMINATIONS.len()],
}

/// A histogram of durations.
#[derive(Debug, Default)]
struct DurationCounts {
    buckets: [AtomicU64; BUCKET_BOUNDS.len()],
    micros: AtomicU64,
}

/// All counters of a site at one moment.
#[derive(Debug, Default)]
pub struct SiteTotals {
    /// The number of requests by operation and status, without those that are zero.
    pub requests: Vec<(Operation, String, u64)>,
    /// The number of all requests.
    pub request_count: u64,
    /// The number of requests with a status of 500 or more.
    pub errors: u64,
    /// The durations of requests by operation.
    pub durations: Vec<(Operation, Buckets)>,
    /// How long the upstream took for the head of its response.
    pub upstream_waits: Buckets,
    /// The bytes received from clients and the bytes sent to clients, by operation.
    pub bytes: Vec<(Operation, u64, u64)>,
    /// The number of rejections by reason.
    pub rejections: Vec<(RejectionReason, u64)>,
    /// The number of aborted responses by their `termination`.
    pub aborts: Vec<(&'static str, u64)>,
}

/// A histogram as it is exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// The upper bound of each bucket in seconds, and the number of values in this bucket alone.
    pub counts: Vec<(f64, u64)>,
    /// The sum of all values in seconds.
    pub sum: f64,
}

/// The counters of a site in five sums, which are quick to add up every few seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteSums {
    /// The number of requests that have ended.
    pub requests: u64,
    /// The number of requests that have ended with a status of 500 or more.
    pub errors: u64,
    /// The number of rejections, without the 401 with which every login begins, without requests whose client had
    /// disconnected, and without errors of the upstream, which `errors` has.
    pub rejections: u64,
    /// Bytes received from clients.
    pub received: u64,
    /// Bytes sent to clients.
    pub sent: u64,
}

impl SiteCounts {
    /// Creates the counters of the site with this name, which the configuration has.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            threads: Default::default(),
        }
    }

    /// The name of the site.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part in which the current thread counts.
    pub fn of_thread(&self) -> &ThreadCounts {
        let [first, ..] = &self.threads;
        let own = self.threads.get(thread_shard()).unwrap_or(first);
        own.get_or_init(Box::default)
    }

    /// All counters, added up over the threads.
    pub fn totals(&self) -> SiteTotals {
        let mut totals = SiteTotals::default();
        for operation in Operation::ALL {
            for status in 0..STATUS_LABELS {
                let count = self.sum(|thread| thread.requests.get(operation as usize)?.get(status));
                totals.request_count += count;
                if is_server_error(status) {
                    totals.errors += count;
                }
                if count > 0 {
                    totals
                        .requests
                        .push((operation, status_label(status), count));
                }
            }
            let received = self.sum(|thread| thread.received.get(operation as usize));
            let sent = self.sum(|thread| thread.sent.get(operation as usize));
            totals.bytes.push((operation, received, sent));
            let durations = self.histogram(|thread| thread.durations.get(operation as usize));
            totals.durations.push((operation, durations));
        }
        totals.upstream_waits = self.histogram(|thread| Some(&thread.upstream_waits));
        for reason in RejectionReason::ALL {
            let count = self.sum(|thread| thread.rejections.get(reason as usize));
            totals.rejections.push((reason, count));
        }
        for (index, termination) in TERMINATIONS.into_iter().enumerate() {
            let count = self.sum(|thread| thread.aborts.get(index));
            totals.aborts.push((termination, count));
        }
        totals
    }

    /// The sums at this moment.
    pub fn sums(&self) -> SiteSums {
        let mut sums = SiteSums::default();
        for thread in self.threads.iter().filter_map(OnceLock::get) {
            sums += thread.sums();
        }
        sums
    }

    fn sum(&self, counter: impl Fn(&ThreadCounts) -> Option<&AtomicU64>) -> u64 {
        let threads = self.threads.iter().filter_map(OnceLock::get);
        let counts = threads.filter_map(|thread| counter(thread));
        counts.map(|count| count.load(Relaxed)).sum()
    }

    fn histogram(&self, of: impl Fn(&ThreadCounts) -> Option<&DurationCounts>) -> Buckets {
        let counts = BUCKET_BOUNDS.into_iter().enumerate().map(|(index, bound)| {
            let count = self.sum(|thread| of(thread)?.buckets.get(index));
            (bound, count)
        });
        let micros = self.sum(|thread| Some(&of(thread)?.micros));
        Buckets {
            counts: counts.collect(),
            sum: Duration::from_micros(micros).as_secs_f64(),
        }
    }
}

impl Default for ThreadCounts {
    fn default() -> Self {
        Self {
            requests: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            durations: Default::default(),
            upstream_waits: DurationCounts::default(),
            received: Default::default(),
            sent: Default::default(),
            rejections: Default::default(),
            aborts: Default::default(),
        }
    }
}

impl ThreadCounts {
    /// Counts a request whose response has ended.
    pub fn record_request(&self, operation: Operation, status: u16, duration: Duration) {
        let statuses = self.requests.get(operation as usize);
        add(
            statuses.and_then(|statuses| statuses.get(status_index(status))),
            1,
        );
        if let Some(durations) = self.durations.get(operation as usize) {
            durations.record(duration);
        }
    }

    /// Counts how long the upstream took for the head of its response.
    pub fn record_upstream_wait(&self, waited: Duration) {
        self.upstream_waits.record(waited);
    }

    /// Adds bytes that were received from the client.
    pub fn add_received(&self, operation: Operation, bytes: u64) {
        add(self.received.get(operation as usize), bytes);
    }

    /// Adds bytes that are sent to the client.
    pub fn add_sent(&self, operation: Operation, bytes: u64) {
        add(self.sent.get(operation as usize), bytes);
    }

    /// Counts a request that the proxy rejected.
    pub fn record_rejection(&self, reason: RejectionReason) {
        add(self.rejections.get(reason as usize), 1);
    }

    /// Counts a response that was aborted; `termination` is one of [`TERMINATIONS`].
    pub fn record_abort(&self, termination: &str) {
        let index = TERMINATIONS.iter().position(|known| *known == termination);
        add(index.and_then(|index| self.aborts.get(index)), 1);
    }

    fn sums(&self) -> SiteSums {
        let mut sums = SiteSums::default();
        for statuses in &self.requests {
            for (index, count) in statuses.iter().enumerate() {
                let count = count.load(Relaxed);
                sums.requests += count;
                if is_server_error(index) {
                    sums.errors += count;
                }
            }
        }
        for (reason, count) in RejectionReason::ALL.into_iter().zip(&self.rejections) {
            let is_counted = !reason.is_upstream_error()
                && !matches!(
                    reason,
                    RejectionReason::NoCredentials | RejectionReason::ClientGone
                );
            if is_counted {
                sums.rejections += count.load(Relaxed);
            }
        }
        let sum = |counts: &[AtomicU64]| counts.iter().map(|count| count.load(Relaxed)).sum();
        sums.received = sum(&self.received);
        sums.sent = sum(&self.sent);
        sums
    }
}

impl DurationCounts {
    fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let index = BUCKET_BOUNDS.iter().position(|bound| seconds <= *bound);
        add(index.and_then(|index| self.buckets.get(index)), 1);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
    }
}

impl Buckets {
    /// The number of all values.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

impl AddAssign for SiteSums {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.rejections += other.rejections;
        self.received += other.received;
        self.sent += other.sent;
    }
}

fn add(counter: Option<&AtomicU64>, more: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(more, Relaxed);
    }
}

const OPERATIONS: usize = Operation::ALL.len();
/// The upper bounds of the buckets in seconds, from the duration of a ping to that of the push of a large layer.
const BUCKET_BOUNDS: [f64; 12] = [
    0.001,
    0.005,
    0.025,
    0.1,
    0.25,
    0.5,
    1.0,
    5.0,
    30.0,
    120.0,
    900.0,
    f64::INFINITY,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_have_everything_that_was_counted() {
        let site = SiteCounts::new("a");
        let counts = site.of_thread();
        counts.record_request(Operation::Pull, 200, Duration::from_millis(2));
        counts.record_request(Operation::Pull, 200, Duration::from_secs(3600));
        counts.record_request(Operation::Push, 502, Duration::ZERO);
        counts.record_rejection(RejectionReason::UpstreamBroken);
        counts.record_abort("drain");
        counts.record_abort("an unknown value");
        counts.add_sent(Operation::Push, 5);
        counts.add_received(Operation::Push, 7);
        let totals = site.totals();
        let row = |operation, status: &str, count| (operation, status.to_owned(), count);
        assert_eq!(
            totals.requests,
            [
                row(Operation::Pull, "200", 2),
                row(Operation::Push, "502", 1)
            ]
        );
        assert_eq!((totals.request_count, totals.errors), (3, 1));
        let (_, pulls) = &totals.durations[Operation::Pull as usize];
        assert_eq!(pulls.count(), 2);
        assert_eq!((pulls.counts[1], pulls.counts[11].1), ((0.005, 1), 1));
        assert!((pulls.sum - 3600.002).abs() < 1e-6);
        assert!(totals.bytes.contains(&(Operation::Push, 7, 5)));
        assert!(
            totals
                .rejections
                .contains(&(RejectionReason::UpstreamBroken, 1))
        );
        assert!(totals.aborts.contains(&("drain", 1)));
        assert_eq!(totals.aborts.iter().map(|(_, count)| count).sum::<u64>(), 1);
    }

    #[test]
    fn sums_add_all_threads_and_leave_out_the_401_of_each_login_and_upstream_errors() {
        let site = SiteCounts::new("a");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let counts = site.of_thread();
                    counts.record_request(Operation::Pull, 200, Duration::ZERO);
                    counts.record_request(Operation::Push, 502, Duration::ZERO);
                    counts.record_rejection(RejectionReason::UpstreamBroken);
                    counts.record_rejection(RejectionReason::Forbidden);
                    counts.record_rejection(RejectionReason::NoCredentials);
                    counts.record_rejection(RejectionReason::ClientGone);
                    counts.add_sent(Operation::Pull, 5);
                });
            }
        });
        let expected = SiteSums {
            requests: 6,
            errors: 3,
            rejections: 3,
            received: 0,
            sent: 15,
        };
        assert_eq!(site.sums(), expected);
    }
}
