//! What went on in the last ten minutes: a ring of sums, taken down from the counters every five seconds.
//!
//! `server` calls it once a second, `page` draws it. It never grows, and no request waits for it.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::metrics::SiteSums;
use crate::service::Service;

/// One for the process; it outlives reloads.
#[derive(Debug)]
pub struct History {
    began: Instant,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    ticked: Instant,
    sampled: Instant,
    sums: SiteSums,
    samples: VecDeque<Sample>,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) took: Duration,
    pub(crate) sums: SiteSums,
}

impl History {
    /// How often [`note`](Self::note) is to be called.
    pub const TICK: Duration = Duration::from_secs(1);

    /// Of a gate that starts at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            ring: Mutex::new(Ring {
                ticked: now,
                sampled: now,
                sums: SiteSums::default(),
                samples: VecDeque::with_capacity(SAMPLES),
            }),
        }
    }

    /// Takes down the rates of what moves, and every few seconds what was counted meanwhile.
    pub fn note(&self, now: Instant, service: &Service) {
        let mut ring = self.ring();
        let passed = now.saturating_duration_since(ring.ticked);
        service.activity.sample_rates(now, passed);
        ring.ticked = now;
        let took = now.saturating_duration_since(ring.sampled);
        if took + Self::TICK / 2 >= EVERY {
            ring.sampled = now;
            ring.take(took, sums(service));
        }
    }

    /// How long the gate has been there.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// The oldest first.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.ring().samples.iter().copied().collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock()
    }
}

impl Ring {
    fn take(&mut self, took: Duration, sums: SiteSums) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        let before = std::mem::replace(&mut self.sums, sums);
        // A reload that takes a site away takes its counters away as well.
        let more = |of: fn(&SiteSums) -> u64| of(&sums).saturating_sub(of(&before));
        self.samples.push_back(Sample {
            took,
            sums: SiteSums {
                requests: more(|sums| sums.requests),
                errors: more(|sums| sums.errors),
                rejections: more(|sums| sums.rejections),
                received: more(|sums| sums.received),
                sent: more(|sums| sums.sent),
            },
        });
    }
}

/// Of all sites, each once however many names it has, and of requests of none.
fn sums(service: &Service) -> SiteSums {
    let (mut seen, mut sums) = (HashSet::new(), SiteSums::default());
    for counts in service.site_counts() {
        if seen.insert(Arc::as_ptr(counts)) {
            sums += counts.sums();
        }
    }
    sums
}

/// Of ten minutes.
pub(crate) const SAMPLES: usize = 120;
const EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_holds_what_came_between_and_no_more_than_its_size() {
        let history = History::new(Instant::now());
        let sums = |requests| SiteSums {
            requests,
            ..SiteSums::default()
        };
        for round in 0..3 * SAMPLES as u64 {
            history.ring().take(EVERY, sums(round * round));
        }
        let samples = history.samples();
        assert_eq!(samples.len(), SAMPLES);
        let last = 3 * SAMPLES as u64 - 1;
        let grown = last * last - (last - 1) * (last - 1);
        assert_eq!(samples[SAMPLES - 1].sums.requests, grown);
        // Fewer than before: a site is gone.
        history.ring().take(EVERY, sums(1));
        history.ring().take(EVERY, sums(4));
        let samples = history.samples();
        assert_eq!(samples[SAMPLES - 2].sums.requests, 0);
        assert_eq!(samples[SAMPLES - 1].sums.requests, 3);
    }
}
