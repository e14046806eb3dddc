//! The health of one endpoint: whether it is up, when its next check is due, and when waiting requests may retry it.
//!
//! `endpoint` reports connects, responses and checks here. `balance` and the status functions of `upstream` read the result.
//! Nothing here opens a connection or waits. All workers of the process share the state through atomics.
//!
//! An endpoint counts as unchecked until its first check has ended or a request got a response. Three refused connects in a
//! row mark the endpoint down, and so do three failed checks in a row. A first check that fails marks it down immediately,
//! because nothing indicates yet that the endpoint works. Only a successful check marks an endpoint up again. The status of a
//! response does not matter: a registry that responds with 500 or 401 is alive.
//!
//! Checks are rare, so that they do not fill the log of a registry. If the upstream has several endpoints, each is checked
//! every five seconds, because the result decides where requests go. A single endpoint is checked at start, while something
//! seems wrong, and after half a minute without a response to a request: traffic shows its health as well as a check does.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The health of one endpoint.
///
/// Points in time are milliseconds since `created`, plus one; 0 means never.
pub(crate) struct Health {
    /// The URL of the endpoint, for the log.
    endpoint: String,
    created: Instant,
    /// Whether a check has ended or a request got a response.
    is_known: AtomicBool,
    is_down: AtomicBool,
    /// `Some` while the endpoint is down.
    outage: Mutex<Option<Outage>>,
    /// When a request last got a response, with a resolution of one second.
    last_response: AtomicU64,
    down_since: AtomicU64,
    /// The number of failed connects since the last successful one.
    connect_failures: AtomicU32,
    /// The number of failed checks since the last successful one.
    check_failures: AtomicU32,
    /// When connects began to fail; 0 while they succeed.
    failing_since: AtomicU64,
    /// When one of the waiting requests may retry the endpoint.
    next_retry: AtomicU64,
    next_check: AtomicU64,
    is_being_checked: AtomicBool,
}

/// The start and the cause of an outage of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the endpoint was marked down.
    pub since: SystemTime,
    /// The error of the connect or check that led to it.
    pub cause: String,
}

/// What is known about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The first check has not ended, and no request got a response. Requests are sent to the endpoint nevertheless.
    Unchecked,
    /// The endpoint accepts connections and responds to checks, as far as is known.
    Up,
    /// The endpoint is out of rotation, unless all endpoints of its upstream are down.
    Down(Outage),
}

impl Health {
    /// Creates the state of an unchecked endpoint. `endpoint` is its URL, for the log.
    pub(crate) fn new(endpoint: String, now: Instant) -> Self {
        Self {
            endpoint,
            created: now,
            is_known: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            outage: Mutex::new(None),
            last_response: AtomicU64::new(0),
            down_since: AtomicU64::new(0),
            connect_failures: AtomicU32::new(0),
            check_failures: AtomicU32::new(0),
            failing_since: AtomicU64::new(0),
            next_retry: AtomicU64::new(0),
            next_check: AtomicU64::new(0),
            is_being_checked: AtomicBool::new(false),
        }
    }

    /// Whether requests should be sent to the endpoint. True also for an endpoint that was not checked yet.
    pub(crate) fn is_up(&self) -> bool {
        !self.is_down.load(Relaxed)
    }

    /// What is known about the endpoint, for the status page, the readiness check and the metrics.
    pub(crate) fn status(&self) -> Status {
        match self.outage.lock().clone() {
            Some(outage) => Status::Down(outage),
            None if self.is_known.load(Relaxed) => Status::Up,
            None => Status::Unchecked,
        }
    }

    /// Records that a request got a response.
    pub(crate) fn record_response(&self, now: Instant) {
        let now = self.clock(now);
        // Stores once a second, not for every request: all workers share the cache line.
        if now.saturating_sub(self.last_response.load(Relaxed)) >= RESPONSE_RESOLUTION_MILLIS {
            self.last_response.store(now, Relaxed);
            self.is_known.store(true, Relaxed);
        }
    }

    /// Records a successful connect.
    ///
    /// A connect alone does not mark the endpoint up, because a process that hangs still accepts connections in its backlog.
    /// It makes the next check due immediately.
    pub(crate) fn record_connect(&self, now: Instant) {
        if self.failing_since.load(Relaxed) == 0 {
            return;
        }
        self.failing_since.store(0, Relaxed);
        self.connect_failures.store(0, Relaxed);
        self.next_check.fetch_min(self.clock(now), Relaxed);
    }

    /// Records a failed connect.
    pub(crate) fn record_connect_failure(&self, now: Instant, cause: &dyn fmt::Display) {
        let now = self.clock(now);
        // Fails if a time is stored already: the first failure counts.
        let _ = self
            .failing_since
            .compare_exchange(0, now, Relaxed, Relaxed);
        if self.is_up() {
            self.next_check
                .fetch_min(now + millis(MIN_RECHECK_DELAY), Relaxed);
        }
        if self.connect_failures.fetch_add(1, Relaxed) >= TOLERATED_FAILURES {
            self.mark_down(now, cause);
        }
    }

    /// Records the result of a check.
    pub(crate) fn record_check(&self, now: Instant, result: Result<(), String>) {
        let now = self.clock(now);
        let was_known = self.is_known.swap(true, Relaxed);
        match result {
            Ok(()) => {
                self.failing_since.store(0, Relaxed);
                self.connect_failures.store(0, Relaxed);
                self.check_failures.store(0, Relaxed);
                self.next_check.store(now + millis(CHECK_INTERVAL), Relaxed);
                self.mark_up(now);
            }
            Err(cause) => {
                let earlier_failures = self.check_failures.fetch_add(1, Relaxed);
                let delay = recheck_delay(earlier_failures);
                self.next_check.store(now + millis(delay), Relaxed);
                if earlier_failures >= TOLERATED_FAILURES || !was_known {
                    self.mark_down(now, &cause);
                }
            }
        }
    }

    /// Returns true if a check is due, and marks the check as running until [`Self::end_check`].
    ///
    /// `is_one_of_several` is false for the only endpoint of an upstream: while it seems healthy, it is checked only after a
    /// pause in its traffic.
    pub(crate) fn try_start_check(&self, now: Instant, is_one_of_several: bool) -> bool {
        let now = self.clock(now);
        let seems_healthy = self.is_known.load(Relaxed) && self.is_up() && !self.is_failing();
        let mut due = self.next_check.load(Relaxed);
        if seems_healthy && !is_one_of_several {
            let last_check = due.saturating_sub(millis(CHECK_INTERVAL));
            due = last_check.max(self.last_response.load(Relaxed)) + millis(MAX_TRAFFIC_PAUSE);
        }
        due <= now && !self.is_being_checked.swap(true, Relaxed)
    }

    /// Ends the check that [`Self::try_start_check`] started, whether it succeeded, failed or was cancelled.
    pub(crate) fn end_check(&self) {
        self.is_being_checked.store(false, Relaxed);
    }

    fn is_failing(&self) -> bool {
        self.failing_since.load(Relaxed) > 0 || self.check_failures.load(Relaxed) > 0
    }

    /// When connects began to fail. `None` while they succeed.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        let since = self.failing_since.load(Relaxed);
        (since > 0).then(|| self.created + Duration::from_millis(since))
    }

    /// Whether one of the requests that wait for the endpoint may try it now.
    ///
    /// While connects fail, the result is true once per [`RETRY_INTERVAL`], so that many waiting requests do not flood the
    /// endpoint with connects. When connects succeed again, all waiting requests may go.
    pub(crate) fn try_acquire_retry(&self, now: Instant) -> bool {
        if self.failing_since.load(Relaxed) == 0 {
            return true;
        }
        let now = self.clock(now);
        let next_retry = self.next_retry.load(Relaxed);
        let after_that = now + millis(RETRY_INTERVAL);
        next_retry <= now
            && self
                .next_retry
                .compare_exchange(next_retry, after_that, Relaxed, Relaxed)
                .is_ok()
    }

    fn mark_down(&self, now: u64, cause: &dyn fmt::Display) {
        if !self.is_down.swap(true, Relaxed) {
            self.down_since.store(now, Relaxed);
            let cause = cause.to_string();
            *self.outage.lock() = Some(Outage {
                since: SystemTime::now(),
                cause: cause.chars().take(MAX_CAUSE_CHARS).collect(),
            });
            tracing::warn!(endpoint = self.endpoint, %cause, "endpoint is down");
        }
    }

    fn mark_up(&self, now: u64) {
        if self.is_down.swap(false, Relaxed) {
            *self.outage.lock() = None;
            let down_millis = now.saturating_sub(self.down_since.load(Relaxed));
            let down_for = format!("{:?}", Duration::from_millis(down_millis));
            tracing::info!(endpoint = self.endpoint, down_for, "endpoint is back");
        }
    }

    /// Milliseconds since `created`, plus one, so that the result is never 0.
    fn clock(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.created)).saturating_add(1)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The time until the next check after a failed one. The delay is short while the endpoint counts as up, and then doubles with
/// each failure.
fn recheck_delay(earlier_failures: u32) -> Duration {
    let doublings = earlier_failures.saturating_sub(TOLERATED_FAILURES).min(16);
    (MIN_RECHECK_DELAY * (1 << doublings)).min(MAX_RECHECK_DELAY)
}

/// The number of failures in a row that do not mark an endpoint down yet.
const TOLERATED_FAILURES: u32 = 2;

/// The time between two checks of a healthy endpoint that has alternatives.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The time without a response to a request after which a healthy endpoint without alternatives is checked.
const MAX_TRAFFIC_PAUSE: Duration = Duration::from_secs(30);

/// The time from a failure to the first check after it.
const MIN_RECHECK_DELAY: Duration = Duration::from_millis(250);

/// The time between two checks of an endpoint that has been down for long.
const MAX_RECHECK_DELAY: Duration = Duration::from_secs(10);

/// The time between two retries by waiting requests, all of them together. Each waiting request polls twice as often.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The resolution of the time of the last response.
const RESPONSE_RESOLUTION_MILLIS: u64 = 1000;

/// The number of characters of a cause that the status shows.
const MAX_CAUSE_CHARS: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> (Health, Instant) {
        let now = Instant::now();
        (Health::new("http://a:1".to_owned(), now), now)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn three_refused_connects_mark_it_down_and_a_check_marks_it_up() {
        let (health, now) = health();
        for _ in 0..2 {
            health.record_connect_failure(now, &"no");
            health.record_connect_failure(now, &"no");
            assert!(health.is_up());
            health.record_connect(now);
        }
        for _ in 0..3 {
            health.record_connect_failure(now, &"no");
        }
        assert!(!health.is_up());
        health.record_connect(now);
        assert!(!health.is_up(), "a connect alone is no response");
        health.record_check(now, Ok(()));
        assert!(health.is_up());
    }

    #[test]
    fn three_failed_checks_mark_it_down_although_it_accepts_connections() {
        let (health, now) = health();
        health.record_check(now, Ok(()));
        for _ in 0..3 {
            assert!(health.is_up());
            health.record_connect(now);
            health.record_check(now, Err("silence".to_owned()));
        }
        assert!(!health.is_up());
    }

    #[test]
    fn checks_are_immediate_then_rare_then_frequent_then_back_off() {
        let (health, mut now) = health();
        assert!(health.try_start_check(now, true));
        assert!(!health.try_start_check(now, true), "one check at a time");
        health.end_check();
        health.record_check(now, Ok(()));
        assert!(!health.try_start_check(now + CHECK_INTERVAL - SECOND, true));
        now += CHECK_INTERVAL;
        let mut waited = Vec::new();
        for _ in 0..12 {
            let from = now;
            while !health.try_start_check(now, true) {
                now += Duration::from_millis(10);
            }
            waited.push((now - from).as_millis());
            health.end_check();
            health.record_check(now, Err(String::new()));
        }
        assert_eq!(
            waited,
            [
                0, 250, 250, 250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000
            ]
        );
    }

    #[test]
    fn a_single_endpoint_is_checked_at_start_while_failing_and_without_traffic() {
        let (health, start) = health();
        let check = |now, outcome: Result<(), &str>| {
            assert!(health.try_start_check(now, false), "the check is due");
            health.record_check(now, outcome.map_err(str::to_owned));
            health.end_check();
        };
        let is_due = |now| {
            let is_due = health.try_start_check(now, false);
            health.end_check();
            is_due
        };
        check(start, Ok(()));
        assert!(!is_due(start + MAX_TRAFFIC_PAUSE - SECOND));
        check(start + MAX_TRAFFIC_PAUSE, Ok(()));
        // Requests that get responses show the health as well as a check does.
        let mut now = start + MAX_TRAFFIC_PAUSE;
        for _ in 0..100 {
            now += SECOND;
            health.record_response(now);
            assert!(!is_due(now));
        }
        assert!(!is_due(now + MAX_TRAFFIC_PAUSE - 2 * SECOND));
        check(now + MAX_TRAFFIC_PAUSE, Ok(()));
        // While something seems wrong, checks do not wait for a pause in the traffic.
        health.record_connect_failure(now + MAX_TRAFFIC_PAUSE, &"no");
        check(now + MAX_TRAFFIC_PAUSE + CHECK_INTERVAL, Ok(()));
        assert!(!is_due(now + MAX_TRAFFIC_PAUSE + CHECK_INTERVAL + SECOND));
    }

    #[test]
    fn an_endpoint_is_unchecked_before_its_first_check() {
        let (health, now) = health();
        assert_eq!(health.status(), Status::Unchecked);
        assert!(health.is_up(), "requests are sent to it");
        health.record_connect(now);
        assert_eq!(
            health.status(),
            Status::Unchecked,
            "a connect alone is no response"
        );
        health.record_check(now, Ok(()));
        assert_eq!(health.status(), Status::Up);

        let (health, now) = self::health();
        health.record_check(now, Err("connection refused".to_owned()));
        let Status::Down(outage) = health.status() else {
            panic!("a first check that fails marks the endpoint down");
        };
        assert_eq!(outage.cause, "connection refused");
        assert!(outage.since.elapsed().unwrap() < 60 * SECOND);
        health.record_check(now, Ok(()));
        assert_eq!(health.status(), Status::Up);

        let (health, now) = self::health();
        health.record_response(now + SECOND);
        assert_eq!(
            health.status(),
            Status::Up,
            "a response is as good as a check"
        );
        health.record_check(now + SECOND, Err("silence".to_owned()));
        assert_eq!(
            health.status(),
            Status::Up,
            "one failure is tolerated after a response"
        );
    }

    #[test]
    fn waiting_requests_retry_one_at_a_time() {
        let (health, now) = health();
        assert!(health.try_acquire_retry(now) && health.try_acquire_retry(now));
        health.record_connect_failure(now, &"no");
        assert_eq!(health.failing_since(), Some(now + Duration::from_millis(1)));
        assert!(health.try_acquire_retry(now));
        assert!(!health.try_acquire_retry(now));
        assert!(health.try_acquire_retry(now + RETRY_INTERVAL));
        health.record_connect(now);
        assert_eq!(health.failing_since(), None);
        assert!(health.try_acquire_retry(now) && health.try_acquire_retry(now));
    }
}
