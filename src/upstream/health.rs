//! Whether an endpoint is up: what connects and checks have said, by atomics, for the whole process.
//!
//! Told by `node`, asked by `balance`. It opens nothing and waits for nothing. Three refused connects in a row put an
//! endpoint down, and so do three checks in a row without an answer; only a check brings it back. What an endpoint answers
//! does not count: a registry that says 500 or 401 is alive.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use tokio::time::Instant;

/// The state of one endpoint. Times are milliseconds of its own clock, 0 is never.
pub(super) struct Health {
    endpoint: String,
    born: Instant,
    is_down: AtomicBool,
    down_since: AtomicU64,
    /// Refused connects in a row.
    refused: AtomicU32,
    /// Failed checks in a row.
    unanswered: AtomicU32,
    /// When connects began to fail.
    failing_since: AtomicU64,
    /// The next moment for one of the waiting requests to try.
    next_try: AtomicU64,
    next_check: AtomicU64,
    is_being_checked: AtomicBool,
}

impl Health {
    /// Of an endpoint that is taken to be up; `endpoint` is for the log.
    pub(super) fn new(endpoint: String, now: Instant) -> Self {
        Self {
            endpoint,
            born: now,
            is_down: AtomicBool::new(false),
            down_since: AtomicU64::new(0),
            refused: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            failing_since: AtomicU64::new(0),
            next_try: AtomicU64::new(0),
            next_check: AtomicU64::new(0),
            is_being_checked: AtomicBool::new(false),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        !self.is_down.load(Relaxed)
    }

    /// A connect worked. That alone brings nothing back, since one that hangs may accept, but it asks for a check.
    pub(super) fn connected(&self, now: Instant) {
        if self.failing_since.load(Relaxed) == 0 {
            return;
        }
        self.failing_since.store(0, Relaxed);
        self.refused.store(0, Relaxed);
        self.next_check.fetch_min(self.clock(now), Relaxed);
    }

    /// A connect failed.
    pub(super) fn refused(&self, now: Instant, cause: &dyn fmt::Display) {
        let now = self.clock(now);
        // Fails when it is set: the first failure counts.
        let _ = self
            .failing_since
            .compare_exchange(0, now, Relaxed, Relaxed);
        if self.is_up() {
            self.next_check.fetch_min(now + millis(SOON), Relaxed);
        }
        if self.refused.fetch_add(1, Relaxed) >= TOLERATED {
            self.put_down(now, cause);
        }
    }

    /// A check has ended.
    pub(super) fn checked(&self, now: Instant, outcome: Result<(), String>) {
        let now = self.clock(now);
        match outcome {
            Ok(()) => {
                self.failing_since.store(0, Relaxed);
                self.refused.store(0, Relaxed);
                self.unanswered.store(0, Relaxed);
                self.next_check.store(now + millis(INTERVAL), Relaxed);
                self.bring_back(now);
            }
            Err(cause) => {
                let before = self.unanswered.fetch_add(1, Relaxed);
                self.next_check.store(now + millis(pause(before)), Relaxed);
                if before >= TOLERATED {
                    self.put_down(now, &cause);
                }
            }
        }
    }

    /// Claims the next check when it is due. An endpoint that nobody could stand in for is only checked while something
    /// seems wrong (`always` is false): there is nothing to decide otherwise.
    pub(super) fn claim_check(&self, now: Instant, always: bool) -> bool {
        let is_wanted = always || !self.is_up() || self.is_failing();
        is_wanted
            && self.next_check.load(Relaxed) <= self.clock(now)
            && !self.is_being_checked.swap(true, Relaxed)
    }

    /// Gives a claimed check back, whatever became of it.
    pub(super) fn end_check(&self) {
        self.is_being_checked.store(false, Relaxed);
    }

    fn is_failing(&self) -> bool {
        self.failing_since.load(Relaxed) > 0 || self.unanswered.load(Relaxed) > 0
    }

    /// When connects began to fail; nothing when they do not.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        let since = self.failing_since.load(Relaxed);
        (since > 0).then(|| self.born + Duration::from_millis(since))
    }

    /// Whether one of the requests that wait for the endpoint may try it now: one at a time while it fails, so that many
    /// that wait make no storm, and all of them when it is back.
    pub(super) fn take_turn(&self, now: Instant) -> bool {
        if self.failing_since.load(Relaxed) == 0 {
            return true;
        }
        let now = self.clock(now);
        let next = self.next_try.load(Relaxed);
        let after = now + millis(STEP);
        next <= now
            && self
                .next_try
                .compare_exchange(next, after, Relaxed, Relaxed)
                .is_ok()
    }

    fn put_down(&self, now: u64, cause: &dyn fmt::Display) {
        if !self.is_down.swap(true, Relaxed) {
            self.down_since.store(now, Relaxed);
            tracing::warn!(endpoint = self.endpoint, %cause, "endpoint is down");
        }
    }

    fn bring_back(&self, now: u64) {
        if self.is_down.swap(false, Relaxed) {
            let down = now.saturating_sub(self.down_since.load(Relaxed));
            let after = Duration::from_millis(down);
            tracing::info!(endpoint = self.endpoint, ?after, "endpoint is back");
        }
    }

    fn clock(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.born)).saturating_add(1)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Until the check after the one that failed as the `before`-th, counted from 0: soon while the endpoint counts as up, then
/// each time twice as long.
fn pause(before: u32) -> Duration {
    let doubled = before.saturating_sub(TOLERATED).min(16);
    (SOON * (1 << doubled)).min(LONGEST)
}

/// Failures in a row that change nothing yet.
const TOLERATED: u32 = 2;
/// Between two checks of an endpoint that is well.
const INTERVAL: Duration = Duration::from_secs(5);
/// Before the next check of one that is not.
const SOON: Duration = Duration::from_millis(250);
/// Before the next check of one that has been down for long.
const LONGEST: Duration = Duration::from_secs(10);
/// Between two attempts of those who wait for an endpoint, all of them together; they look twice as often.
pub(super) const STEP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> (Health, Instant) {
        let now = Instant::now();
        (Health::new("http://a:1".to_owned(), now), now)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn three_refusals_in_a_row_put_it_down_and_a_check_brings_it_back() {
        let (health, now) = health();
        for _ in 0..2 {
            health.refused(now, &"no");
            health.refused(now, &"no");
            assert!(health.is_up());
            health.connected(now);
        }
        for _ in 0..3 {
            health.refused(now, &"no");
        }
        assert!(!health.is_up());
        health.connected(now);
        assert!(!health.is_up(), "to accept is not to answer");
        health.checked(now, Ok(()));
        assert!(health.is_up());
    }

    #[test]
    fn three_checks_without_an_answer_put_it_down_whatever_it_accepts() {
        let (health, now) = health();
        for _ in 0..3 {
            assert!(health.is_up());
            health.connected(now);
            health.checked(now, Err("silence".to_owned()));
        }
        assert!(!health.is_up());
    }

    #[test]
    fn checks_come_at_once_then_rarely_then_soon_then_ever_more_rarely() {
        let (health, mut now) = health();
        assert!(health.claim_check(now, true));
        assert!(!health.claim_check(now, true), "one at a time");
        health.end_check();
        health.checked(now, Ok(()));
        assert!(!health.claim_check(now + INTERVAL - SECOND, true));
        now += INTERVAL;
        let mut waited = Vec::new();
        for _ in 0..12 {
            let from = now;
            while !health.claim_check(now, true) {
                now += Duration::from_millis(10);
            }
            waited.push((now - from).as_millis());
            health.end_check();
            health.checked(now, Err(String::new()));
        }
        assert_eq!(
            waited,
            [
                0, 250, 250, 250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000
            ]
        );
    }

    #[test]
    fn one_that_is_alone_is_checked_only_while_it_fails() {
        let (health, now) = health();
        assert!(!health.claim_check(now + 60 * SECOND, false));
        health.refused(now, &"no");
        assert!(health.claim_check(now + SOON, false));
        health.end_check();
        health.checked(now + SOON, Ok(()));
        assert!(!health.claim_check(now + 60 * SECOND, false));
    }

    #[test]
    fn those_who_wait_try_one_at_a_time() {
        let (health, now) = health();
        assert!(health.take_turn(now) && health.take_turn(now));
        health.refused(now, &"no");
        assert_eq!(health.failing_since(), Some(now + Duration::from_millis(1)));
        assert!(health.take_turn(now));
        assert!(!health.take_turn(now));
        assert!(health.take_turn(now + STEP));
        health.connected(now);
        assert_eq!(health.failing_since(), None);
        assert!(health.take_turn(now) && health.take_turn(now));
    }
}
