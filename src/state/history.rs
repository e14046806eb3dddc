//! Request and byte counts of the last ten minutes, for the charts of the status page.
//!
//! `server::background` calls [`History::record`] once a second. Every five seconds that call copies the sums of all counters
//! into a ring of fixed size. The request path only increments its counters and never waits for this module.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::metrics::SiteSums;
use crate::service::Service;

/// The counts of the last ten minutes. There is one history for the process, and it outlives reloads.
#[derive(Debug)]
pub struct History {
    started: Instant,
    started_at: SystemTime,
    ring: Mutex<SampleRing>,
}

#[derive(Debug)]
struct SampleRing {
    last_sample: Instant,
    /// The sums at the time of the last sample.
    sums: SiteSums,
    samples: VecDeque<Sample>,
}

/// The counts of one interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// The length of the interval.
    pub(crate) took: Duration,
    /// The increase of each counter during the interval.
    pub(crate) sums: SiteSums,
}

impl History {
    /// The interval at which [`record`](Self::record) is to be called.
    pub const TICK: Duration = Duration::from_secs(1);

    /// Creates an empty history of a process that starts at `now`, which is the time `clock`.
    pub fn new(now: Instant, clock: SystemTime) -> Self {
        Self {
            started: now,
            started_at: clock,
            ring: Mutex::new(SampleRing {
                last_sample: now,
                sums: SiteSums::default(),
                samples: VecDeque::with_capacity(SAMPLES),
            }),
        }
    }

    /// Samples the rates of active transfers, and adds a sample when the last one is five seconds old.
    pub fn record(&self, now: Instant, service: &Service) {
        let mut ring = self.ring.lock();
        service.activity.sample_rates(now);
        let since_sample = now.saturating_duration_since(ring.last_sample);
        // Half a tick early, because the next tick may be a few milliseconds late.
        if since_sample + Self::TICK / 2 >= SAMPLE_INTERVAL {
            ring.last_sample = now;
            ring.push(since_sample, sums_of_all_sites(service));
        }
    }

    /// The time since the process started.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// The time at which the process started.
    pub(crate) fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// The samples, the oldest first.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.ring.lock().samples.iter().copied().collect()
    }
}

impl SampleRing {
    fn push(&mut self, took: Duration, sums: SiteSums) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        let before = std::mem::replace(&mut self.sums, sums);
        // A sum can shrink: when a reload removes a site, the counters of the site are gone as well.
        let increase = |of: fn(&SiteSums) -> u64| of(&sums).saturating_sub(of(&before));
        self.samples.push_back(Sample {
            took,
            sums: SiteSums {
                requests: increase(|sums| sums.requests),
                errors: increase(|sums| sums.errors),
                rejections: increase(|sums| sums.rejections),
                received: increase(|sums| sums.received),
                sent: increase(|sums| sums.sent),
            },
        });
    }
}

/// The sums over all sites and over the requests that matched no site. A site with several names is counted once.
fn sums_of_all_sites(service: &Service) -> SiteSums {
    let (mut seen, mut sums) = (HashSet::new(), SiteSums::default());
    for counts in service.site_counts() {
        if seen.insert(Arc::as_ptr(counts)) {
            sums += counts.sums();
        }
    }
    sums
}

/// The number of samples that are kept: ten minutes of them.
pub(crate) const SAMPLES: usize = 120;
/// The time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_hold_the_increase_and_the_ring_does_not_grow() {
        let history = History::new(Instant::now(), SystemTime::now());
        let sums = |requests| SiteSums {
            requests,
            ..SiteSums::default()
        };
        let push = |requests| history.ring.lock().push(SAMPLE_INTERVAL, sums(requests));
        for round in 0..3 * SAMPLES as u64 {
            push(round * round);
        }
        let samples = history.samples();
        assert_eq!(samples.len(), SAMPLES);
        let last = 3 * SAMPLES as u64 - 1;
        let increase = last * last - (last - 1) * (last - 1);
        assert_eq!(samples[SAMPLES - 1].sums.requests, increase);
        // The sum is lower than before, as after the removal of a site.
        push(1);
        push(4);
        let samples = history.samples();
        assert_eq!(samples[SAMPLES - 2].sums.requests, 0);
        assert_eq!(samples[SAMPLES - 1].sums.requests, 3);
    }
}
