//! Whether an endpoint is up: what connects, responses and checks have shown, by atomics, for the whole process.
//!
//! `node` reports here, `balance` and `state` read. Nothing here opens a connection or waits.
//!
//! An endpoint is not checked yet until its first check has ended or a request got a response. Three refused connects in a
//! row mark an endpoint as down, and so do three checks in a row without a response; a first check that fails does so at
//! once, since nothing speaks for the endpoint. Only a check brings an endpoint back. The status of a response does not
//! matter: a registry that responds with 500 or 401 is alive.
//!
//! Checks are rare, so that they do not fill a registry's log. An endpoint that another one can stand in for is checked
//! every five seconds, to decide where requests go. An endpoint that is alone is checked at start, while something seems
//! wrong, and when no request got a response for half a minute: traffic shows its health as well as a check does.

use parking_lot::{Mutex, MutexGuard};
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The state of one endpoint. Times are milliseconds of its own clock, 0 is never.
pub(super) struct Health {
    endpoint: String,
    born: Instant,
    /// A check has ended, or a request got a response.
    is_known: AtomicBool,
    is_down: AtomicBool,
    /// While it is down.
    outage: Mutex<Option<Outage>>,
    /// When a request got a response, to the second.
    answered: AtomicU64,
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

/// Since when an endpoint is down, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the endpoint was marked as down.
    pub since: SystemTime,
    /// The failure that led to it, in words.
    pub cause: String,
}

/// What is known of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The first check has not ended, and no request got a response. Requests go there nevertheless.
    Unchecked,
    /// The endpoint takes connections and responds to checks, as far as is known.
    Up,
    /// The endpoint is out of rotation, unless all endpoints of its upstream are.
    Down(Outage),
}

impl Health {
    /// Of an endpoint that is not checked yet; `endpoint` is for the log.
    pub(super) fn new(endpoint: String, now: Instant) -> Self {
        Self {
            endpoint,
            born: now,
            is_known: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            outage: Mutex::new(None),
            answered: AtomicU64::new(0),
            down_since: AtomicU64::new(0),
            refused: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            failing_since: AtomicU64::new(0),
            next_try: AtomicU64::new(0),
            next_check: AtomicU64::new(0),
            is_being_checked: AtomicBool::new(false),
        }
    }

    /// Whether requests should go there: also to an endpoint that is not checked yet.
    pub(super) fn is_up(&self) -> bool {
        !self.is_down.load(Relaxed)
    }

    /// What is known, for people and programs that watch the proxy.
    pub(super) fn status(&self) -> Status {
        match self.outage().clone() {
            Some(outage) => Status::Down(outage),
            None if self.is_known.load(Relaxed) => Status::Up,
            None => Status::Unchecked,
        }
    }

    /// A request got a response.
    pub(super) fn answered(&self, now: Instant) {
        let now = self.clock(now);
        // Not for every request: all workers share the cache line.
        if now.saturating_sub(self.answered.load(Relaxed)) >= ANSWERED_GRAIN {
            self.answered.store(now, Relaxed);
            self.is_known.store(true, Relaxed);
        }
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
            self.mark_down(now, cause);
        }
    }

    /// A check has ended.
    pub(super) fn checked(&self, now: Instant, outcome: Result<(), String>) {
        let now = self.clock(now);
        let was_known = self.is_known.swap(true, Relaxed);
        match outcome {
            Ok(()) => {
                self.failing_since.store(0, Relaxed);
                self.refused.store(0, Relaxed);
                self.unanswered.store(0, Relaxed);
                self.next_check.store(now + millis(INTERVAL), Relaxed);
                self.mark_up(now);
            }
            Err(cause) => {
                let before = self.unanswered.fetch_add(1, Relaxed);
                self.next_check.store(now + millis(pause(before)), Relaxed);
                if before >= TOLERATED || !was_known {
                    self.mark_down(now, &cause);
                }
            }
        }
    }

    /// Claims the next check when it is due. `always` is false for an endpoint that no other one could stand in for: while
    /// it seems well it is checked only after a pause in its traffic.
    pub(super) fn try_start_check(&self, now: Instant, always: bool) -> bool {
        let now = self.clock(now);
        let seems_well = self.is_known.load(Relaxed) && self.is_up() && !self.is_failing();
        let mut due = self.next_check.load(Relaxed);
        if seems_well && !always {
            let checked = due.saturating_sub(millis(INTERVAL));
            due = checked.max(self.answered.load(Relaxed)) + millis(PAUSE);
        }
        due <= now && !self.is_being_checked.swap(true, Relaxed)
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
    pub(super) fn try_acquire_retry(&self, now: Instant) -> bool {
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

    fn mark_down(&self, now: u64, cause: &dyn fmt::Display) {
        if !self.is_down.swap(true, Relaxed) {
            self.down_since.store(now, Relaxed);
            let cause = cause.to_string();
            *self.outage() = Some(Outage {
                since: SystemTime::now(),
                cause: cause.chars().take(CAUSE_LENGTH).collect(),
            });
            tracing::warn!(endpoint = self.endpoint, %cause, "endpoint is down");
        }
    }

    fn mark_up(&self, now: u64) {
        if self.is_down.swap(false, Relaxed) {
            *self.outage() = None;
            let down = now.saturating_sub(self.down_since.load(Relaxed));
            let after = Duration::from_millis(down);
            let down_for = format!("{after:?}");
            tracing::info!(endpoint = self.endpoint, down_for, "endpoint is back");
        }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock()
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
/// Between two checks of an endpoint that is well, where another one can stand in for it.
const INTERVAL: Duration = Duration::from_secs(5);
/// Without a response to a request, before an endpoint that is alone and seems well is checked.
const PAUSE: Duration = Duration::from_secs(30);
/// Milliseconds between two notes that an endpoint responds.
const ANSWERED_GRAIN: u64 = 1000;
/// Characters of a cause that are kept.
const CAUSE_LENGTH: usize = 500;
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
        health.checked(now, Ok(()));
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
        assert!(health.try_start_check(now, true));
        assert!(!health.try_start_check(now, true), "one at a time");
        health.end_check();
        health.checked(now, Ok(()));
        assert!(!health.try_start_check(now + INTERVAL - SECOND, true));
        now += INTERVAL;
        let mut waited = Vec::new();
        for _ in 0..12 {
            let from = now;
            while !health.try_start_check(now, true) {
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
    fn one_that_is_alone_is_checked_at_start_while_it_fails_and_when_no_request_tells() {
        let (health, start) = health();
        let check = |now, outcome: Result<(), &str>| {
            assert!(health.try_start_check(now, false), "it is due");
            health.checked(now, outcome.map_err(str::to_owned));
            health.end_check();
        };
        let claims = |now| {
            let claims = health.try_start_check(now, false);
            health.end_check();
            claims
        };
        check(start, Ok(()));
        assert!(!claims(start + PAUSE - SECOND));
        check(start + PAUSE, Ok(()));
        // Requests that get responses tell as much.
        let mut now = start + PAUSE;
        for _ in 0..100 {
            now += SECOND;
            health.answered(now);
            assert!(!claims(now));
        }
        assert!(!claims(now + PAUSE - 2 * SECOND));
        check(now + PAUSE, Ok(()));
        // While something seems wrong they are not waited for.
        health.refused(now + PAUSE, &"no");
        check(now + PAUSE + INTERVAL, Ok(()));
        assert!(!claims(now + PAUSE + INTERVAL + SECOND));
    }

    #[test]
    fn an_endpoint_is_neither_up_nor_down_before_its_first_check() {
        let (health, now) = health();
        assert_eq!(health.status(), Status::Unchecked);
        assert!(health.is_up(), "requests go there");
        health.connected(now);
        assert_eq!(
            health.status(),
            Status::Unchecked,
            "to accept is not to respond"
        );
        health.checked(now, Ok(()));
        assert_eq!(health.status(), Status::Up);

        let (health, now) = self::health();
        health.checked(now, Err("connection refused".to_owned()));
        let Status::Down(outage) = health.status() else {
            panic!("nothing speaks for it");
        };
        assert_eq!(outage.cause, "connection refused");
        assert!(outage.since.elapsed().unwrap() < 60 * SECOND);
        health.checked(now, Ok(()));
        assert_eq!(health.status(), Status::Up);

        let (health, now) = self::health();
        health.answered(now + SECOND);
        assert_eq!(
            health.status(),
            Status::Up,
            "a response is as good as a check"
        );
        health.checked(now + SECOND, Err("silence".to_owned()));
        assert_eq!(health.status(), Status::Up, "one failure is tolerated then");
    }

    #[test]
    fn those_who_wait_try_one_at_a_time() {
        let (health, now) = health();
        assert!(health.try_acquire_retry(now) && health.try_acquire_retry(now));
        health.refused(now, &"no");
        assert_eq!(health.failing_since(), Some(now + Duration::from_millis(1)));
        assert!(health.try_acquire_retry(now));
        assert!(!health.try_acquire_retry(now));
        assert!(health.try_acquire_retry(now + STEP));
        health.connected(now);
        assert_eq!(health.failing_since(), None);
        assert!(health.try_acquire_retry(now) && health.try_acquire_retry(now));
    }
}
