//! What is counted for each site: requests, their time, bytes, refusals.
//!
//! A site of the snapshot holds one [`SiteCounts`], which outlives reloads; a request counts in the [`Shard`] of its
//! thread.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::counter::{THREADS, thread};
use super::words::{STATUSES, is_server_error, status_number, status_word};
use super::{Operation, Reason};
use crate::activity::Transfer;

mod sums;

pub use sums::SiteSums;

/// The counters of one site.
#[derive(Debug)]
pub struct SiteCounts {
    name: String,
    /// Made for a thread when it first counts here: there may be thousands of sites.
    shards: [OnceLock<Box<Shard>>; THREADS],
}

/// The part of one thread.
#[derive(Debug)]
#[repr(align(64))]
pub struct Shard {
    requests: [[AtomicU64; STATUSES]; OPERATIONS],
    seconds: [Times; OPERATIONS],
    upstream: Times,
    received: [AtomicU64; OPERATIONS],
    sent: [AtomicU64; OPERATIONS],
    refused: [AtomicU64; Reason::ALL.len()],
    broken: [AtomicU64; ENDS.len()],
}

/// How often something took how long.
#[derive(Debug, Default)]
struct Times {
    buckets: [AtomicU64; BOUNDS.len()],
    micros: AtomicU64,
}

/// Where the bytes of a client's body are counted.
#[derive(Debug)]
pub struct ByteCounter {
    /// The site's counters.
    pub site: Arc<SiteCounts>,
    /// What the request is.
    pub operation: Operation,
    /// What is shown of it while it runs.
    pub transfer: Option<Arc<Transfer>>,
}

/// All of a site's numbers at one moment.
#[derive(Debug, Default)]
pub struct Totals {
    /// By operation and status, those that happened.
    pub requests: Vec<(Operation, String, u64)>,
    /// How many requests there were in all.
    pub all: u64,
    /// Those with a status of 500 and above.
    pub errors: u64,
    /// By operation: bounds and counts, and the sum in seconds.
    pub seconds: Vec<(Operation, Buckets)>,
    /// The wait for the upstream's head.
    pub upstream: Buckets,
    /// Bytes from clients and to clients, by operation.
    pub bytes: Vec<(Operation, u64, u64)>,
    /// By reason, those that happened.
    pub refused: Vec<(Reason, u64)>,
    /// By what broke the answer off, those that happened.
    pub broken: Vec<(&'static str, u64)>,
}

/// A histogram as it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    /// Upper bound in seconds, and how many are in this bucket alone.
    pub counts: Vec<(f64, u64)>,
    /// The sum of all, in seconds.
    pub sum: f64,
}

impl Buckets {
    /// How many in all.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

impl SiteCounts {
    /// Of the site with this name, which stands in the configuration.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            shards: Default::default(),
        }
    }

    /// The site's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The counters of this thread.
    pub fn shard(&self) -> &Shard {
        let [first, ..] = &self.shards;
        let own = self.shards.get(thread()).unwrap_or(first);
        own.get_or_init(Box::default)
    }

    /// All numbers, added up.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for operation in Operation::ALL {
            for status in 0..STATUSES {
                let count = self.sum(|shard| shard.requests.get(operation as usize)?.get(status));
                totals.all += count;
                if is_server_error(status) {
                    totals.errors += count;
                }
                if count > 0 {
                    totals
                        .requests
                        .push((operation, status_word(status), count));
                }
            }
            let received = self.sum(|shard| shard.received.get(operation as usize));
            let sent = self.sum(|shard| shard.sent.get(operation as usize));
            totals.bytes.push((operation, received, sent));
            let seconds = self.times(|shard| shard.seconds.get(operation as usize));
            totals.seconds.push((operation, seconds));
        }
        totals.upstream = self.times(|shard| Some(&shard.upstream));
        for reason in Reason::ALL {
            let count = self.sum(|shard| shard.refused.get(reason as usize));
            totals.refused.push((reason, count));
        }
        for (number, end) in ENDS.into_iter().enumerate() {
            totals
                .broken
                .push((end, self.sum(|shard| shard.broken.get(number))));
        }
        totals
    }

    fn sum(&self, of: impl Fn(&Shard) -> Option<&AtomicU64>) -> u64 {
        let shards = self.shards.iter().filter_map(OnceLock::get);
        let counts = shards.filter_map(|shard| of(shard));
        counts.map(|count| count.load(Relaxed)).sum()
    }

    fn times(&self, of: impl Fn(&Shard) -> Option<&Times>) -> Buckets {
        let counts = BOUNDS.into_iter().enumerate().map(|(number, bound)| {
            let count = self.sum(|shard| of(shard)?.buckets.get(number));
            (bound, count)
        });
        let micros = self.sum(|shard| Some(&of(shard)?.micros));
        Buckets {
            counts: counts.collect(),
            sum: Duration::from_micros(micros).as_secs_f64(),
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            requests: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            seconds: Default::default(),
            upstream: Times::default(),
            received: Default::default(),
            sent: Default::default(),
            refused: Default::default(),
            broken: Default::default(),
        }
    }
}

impl Shard {
    /// A request has ended, its answer with it.
    pub fn request(&self, operation: Operation, status: u16, took: Duration) {
        let statuses = self.requests.get(operation as usize);
        add(
            statuses.and_then(|statuses| statuses.get(status_number(status))),
            1,
        );
        if let Some(times) = self.seconds.get(operation as usize) {
            times.note(took);
        }
    }

    /// The upstream's head came after `waited`.
    pub fn upstream(&self, waited: Duration) {
        self.upstream.note(waited);
    }

    /// Bytes that go to the client.
    pub fn sent(&self, operation: Operation, bytes: u64) {
        add(self.sent.get(operation as usize), bytes);
    }

    /// The gate answered itself.
    pub fn refused(&self, reason: Reason) {
        add(self.refused.get(reason as usize), 1);
    }

    /// An answer broke off; `end` is the access log's word for it.
    pub fn broken(&self, end: &str) {
        let number = ENDS.iter().position(|known| *known == end);
        add(number.and_then(|number| self.broken.get(number)), 1);
    }
}

impl ByteCounter {
    /// Bytes that came from the client.
    pub fn received(&self, bytes: usize) {
        add(
            self.site.shard().received.get(self.operation as usize),
            bytes as u64,
        );
        if let Some(transfer) = &self.transfer {
            transfer.received(bytes as u64);
        }
    }
}

impl Times {
    fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let number = BOUNDS.iter().position(|bound| seconds <= *bound);
        add(number.and_then(|number| self.buckets.get(number)), 1);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
    }
}

fn add(counter: Option<&AtomicU64>, more: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(more, Relaxed);
    }
}

const OPERATIONS: usize = Operation::ALL.len();
/// From a ping to the push of a large layer.
const BOUNDS: [f64; 12] = [
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
/// The access log's words for an answer that broke off.
const ENDS: [&str; 5] = [
    "client_abort",
    "upstream_abort",
    "timeout",
    "drain",
    "panic",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told_with_its_sums() {
        let site = Arc::new(SiteCounts::new("a"));
        let shard = site.shard();
        shard.request(Operation::Pull, 200, Duration::from_millis(2));
        shard.request(Operation::Pull, 200, Duration::from_secs(3600));
        shard.request(Operation::Push, 502, Duration::ZERO);
        shard.refused(Reason::UpstreamBroken);
        shard.broken("drain");
        shard.broken("a word nobody knows");
        shard.sent(Operation::Push, 5);
        let flow = ByteCounter {
            site: Arc::clone(&site),
            operation: Operation::Push,
            transfer: None,
        };
        flow.received(7);
        let totals = site.totals();
        let row = |operation, status: &str, count| (operation, status.to_owned(), count);
        assert_eq!(
            totals.requests,
            [
                row(Operation::Pull, "200", 2),
                row(Operation::Push, "502", 1)
            ]
        );
        assert_eq!((totals.all, totals.errors), (3, 1));
        let (_, pulls) = &totals.seconds[Operation::Pull as usize];
        assert_eq!(pulls.count(), 2);
        assert_eq!((pulls.counts[1], pulls.counts[11].1), ((0.005, 1), 1));
        assert!((pulls.sum - 3600.002).abs() < 1e-6);
        assert!(totals.bytes.contains(&(Operation::Push, 7, 5)));
        assert!(totals.refused.contains(&(Reason::UpstreamBroken, 1)));
        assert!(totals.broken.contains(&("drain", 1)));
        assert_eq!(totals.broken.iter().map(|(_, count)| count).sum::<u64>(), 1);
    }
}
