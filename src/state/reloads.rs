//! What came of reloads, for the numbers and for readiness.
//!
//! `server` notes it, `admin` shows it.

use parking_lot::Mutex;
use std::time::SystemTime;

use crate::metrics::Counter;

/// One for the process.
#[derive(Debug)]
pub struct Reloads {
    succeeded: Counter,
    failed: Counter,
    last: Mutex<Outcome>,
}

/// How the last one ended; that it started counts as the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When the configuration that serves was taken.
    pub taken: SystemTime,
    /// When one was refused since, and why.
    pub failed: Option<(SystemTime, String)>,
}

impl Reloads {
    /// Of a gate that took its first configuration at `now`.
    pub fn new(now: SystemTime) -> Self {
        Self {
            succeeded: Counter::default(),
            failed: Counter::default(),
            last: Mutex::new(Outcome {
                taken: now,
                failed: None,
            }),
        }
    }

    /// A reload has ended; `failure` is why it was refused.
    pub fn note(&self, now: SystemTime, failure: Option<String>) {
        let counter = match failure {
            None => &self.succeeded,
            Some(_) => &self.failed,
        };
        counter.count();
        let mut last = self.last.lock();
        match failure {
            None => {
                *last = Outcome {
                    taken: now,
                    failed: None,
                }
            }
            Some(why) => last.failed = Some((now, why)),
        }
    }

    /// How the last one ended.
    pub fn last(&self) -> Outcome {
        let last = self.last.lock();
        last.clone()
    }

    /// Those that were taken, and those that were refused.
    pub fn counts(&self) -> (u64, u64) {
        (self.succeeded.get(), self.failed.get())
    }
}
