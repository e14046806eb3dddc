//! What a connection is waiting for, and until when it may.
//!
//! Shared by the I/O wrapper, the requests in flight and the driver of one connection, all on one
//! thread: plain counters, no lock. No timer is touched while a connection makes progress; the driver
//! looks here when its one timer fires.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::settings::Settings;
use super::shutdown::ShutdownSignal;
use crate::body::{AbortReason, RateMonitor};

/// The state of one connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    start: Instant,
    limits: Timeouts,
    /// On HTTP/1 a head waits for the answer before it, on HTTP/2 for nothing.
    is_http2: AtomicBool,
    requests: AtomicUsize,
    unread: AtomicBool,
    /// Streams that were reset, by either side.
    resets: AtomicUsize,
    is_flooded: AtomicBool,
    /// HTTP/2 streams whose request the client has neither ended nor reset.
    open_requests: AtomicUsize,
    /// Notified when `open_requests` becomes zero.
    requests_ended: Notify,
    /// When the head began whose end has not come: milliseconds from `start`, plus one; 0 without one.
    head: AtomicU64,
    /// Milliseconds from `start` to the moment at which the connection became idle or busy.
    since: AtomicU64,
    /// Milliseconds from `start` to the first write that made no progress, plus one; 0 while writes succeed.
    blocked: AtomicU64,
    /// The rate at which the client reads responses.
    pace: RateMonitor,
    late: AtomicBool,
    /// The connection ends because the client does not read.
    stuck: AtomicBool,
    /// The next flush checks the socket for an error (SO_ERROR) or a half-close.
    doubted: AtomicBool,
    /// Bytes went in either direction since the last such check.
    has_moved: AtomicBool,
    /// The current request is incomplete. Always true on HTTP/2, where a half-closed connection can carry no more requests.
    wants_more: AtomicBool,
    /// The next frame of a response is withheld until the previous one was written to the socket.
    held_back: AtomicBool,
    shutdown: ShutdownSignal,
}

#[derive(Debug)]
struct Timeouts {
    head: Duration,
    idle: Duration,
    write: Duration,
    resets: usize,
}

/// Which wait took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutKind {
    /// A head that does not end.
    Head,
    /// No request.
    Idle,
    /// A peer that does not read, or too slowly.
    Write,
}

impl ConnectionState {
    pub(super) fn new(settings: &Settings, shutdown: ShutdownSignal) -> Self {
        let limits = Timeouts {
            head: settings.head,
            idle: settings.idle,
            write: settings.write_idle,
            resets: settings.h2_resets,
        };
        Self {
            start: Instant::now(),
            limits,
            is_http2: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            unread: AtomicBool::new(false),
            resets: AtomicUsize::new(0),
            is_flooded: AtomicBool::new(false),
            open_requests: AtomicUsize::new(0),
            requests_ended: Notify::new(),
            head: AtomicU64::new(0),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            pace: RateMonitor::new(settings.min_rate),
            late: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            has_moved: AtomicBool::new(true),
            wants_more: AtomicBool::new(true),
            held_back: AtomicBool::new(false),
            shutdown,
        }
    }

    /// The stream is open: what is read from now on is HTTP/1, or HTTP/2.
    pub(super) fn set_protocol(&self, is_http2: bool) {
        self.is_http2.store(is_http2, Ordering::Relaxed);
        self.begin_state();
        // The preface of HTTP/2 is due as a head is.
        self.record_head_progress(false, is_http2);
    }

    /// Bytes came. `has_ended` when a head ended in them, `is_open` when they leave one unfinished.
    pub(super) fn record_head_progress(&self, has_ended: bool, is_open: bool) {
        if !is_open {
            self.head.store(0, Ordering::Relaxed);
        } else if has_ended || self.head.load(Ordering::Relaxed) == 0 {
            self.head.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// So many streams were reset.
    pub(super) fn record_resets(&self, count: usize) {
        self.resets.fetch_add(count, Ordering::Relaxed);
    }

    /// The peer sends more frames than a client has use for.
    pub(super) fn record_flood(&self) {
        self.is_flooded.store(true, Ordering::Relaxed);
    }

    /// On so many HTTP/2 streams the client has not ended its request.
    pub(super) fn set_open_requests(&self, count: usize) {
        if count == self.open_requests.load(Ordering::Relaxed) {
            return;
        }
        self.open_requests.store(count, Ordering::Relaxed);
        if count == 0 {
            self.requests_ended.notify_waiters();
        }
    }

    /// True while the client has not ended some request on HTTP/2.
    pub(super) fn has_open_requests(&self) -> bool {
        self.open_requests.load(Ordering::Relaxed) > 0
    }

    /// Ready when the client has ended all its requests on HTTP/2, counted from this call.
    pub(super) fn requests_ended(&self) -> Notified<'_> {
        self.requests_ended.notified()
    }

    /// True when so many streams were reset that the connection is to have no more of them.
    pub(super) fn reset_limit_reached(&self) -> bool {
        self.resets.load(Ordering::Relaxed) >= self.limits.resets
    }

    /// True when the peer goes on after that, or floods.
    pub(super) fn is_abusive(&self) -> bool {
        self.is_flooded.load(Ordering::Relaxed)
            || self.resets.load(Ordering::Relaxed) >= self.limits.resets.saturating_mul(2)
    }

    /// A write went through with so many bytes, or could not.
    pub(super) fn record_write(&self, count: Poll<usize>) {
        let blocked = self.blocked.load(Ordering::Relaxed);
        match count {
            Poll::Ready(count) => {
                if count > 0 {
                    self.record_progress();
                }
                let waited = match blocked {
                    0 => Duration::ZERO,
                    since => Duration::from_millis((self.now() + 1).saturating_sub(since)),
                };
                self.blocked.store(0, Ordering::Relaxed);
                self.pace.record(count, waited);
                // hyper had the end of an answer that its client is still reading.
                if blocked > 0 && self.is_idle() {
                    self.begin_state();
                }
            }
            Poll::Pending if blocked == 0 => {
                self.blocked.store(self.now() + 1, Ordering::Relaxed);
            }
            Poll::Pending => {}
        }
    }

    /// True when the next frame of an answer over HTTP/1 must wait: the peer has not taken the one before it, and one is
    /// all that a peer that does not read may hold.
    pub(super) fn apply_backpressure(&self) -> bool {
        let waits = self.blocked.load(Ordering::Relaxed) > 0;
        self.held_back.store(waits, Ordering::Relaxed);
        waits
    }

    /// True once when that wait is over: the connection must have another turn.
    pub(super) fn take_resume(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) == 0 && self.held_back.swap(false, Ordering::Relaxed)
    }

    /// A request has run for a while, and nobody may be reading.
    pub(super) fn request_probe(&self) {
        self.doubted.store(true, Ordering::Relaxed);
    }

    /// True once for each doubt.
    pub(super) fn take_probe(&self) -> bool {
        self.doubted.load(Ordering::Relaxed) && self.doubted.swap(false, Ordering::Relaxed)
    }

    /// Bytes came from the peer, or went to it.
    pub(super) fn record_progress(&self) {
        self.has_moved.store(true, Ordering::Relaxed);
    }

    /// Bytes came over HTTP/1. `more` when they leave a request unfinished.
    pub(super) fn set_request_incomplete(&self, more: bool) {
        self.wants_more.store(more, Ordering::Relaxed);
    }

    /// True when a request runs, the rest of one is wanted, and nothing went either way between the last two doubts.
    pub(super) fn is_stalled(&self) -> bool {
        !self.has_moved.swap(false, Ordering::Relaxed)
            && !self.is_idle()
            && self.wants_more.load(Ordering::Relaxed)
    }

    /// A deadline passed: what is dropped from now on was too slow.
    pub(super) fn record_timeout(&self, late: TimeoutKind) {
        self.late.store(true, Ordering::Relaxed);
        self.stuck
            .store(late == TimeoutKind::Write, Ordering::Relaxed);
    }

    /// True when the connection ends because its peer does not read.
    pub(super) fn is_write_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Why a request that is dropped now did not end by itself; `None` when its client left.
    pub(super) fn abort_reason(&self) -> Option<AbortReason> {
        if self.late.load(Ordering::Relaxed) {
            Some(AbortReason::Timeout)
        } else {
            self.shutdown.is_forced().then_some(AbortReason::Drain)
        }
    }

    /// Whether the graceful shutdown has started.
    pub(super) fn is_shutting_down(&self) -> bool {
        self.shutdown.has_started()
    }

    /// A head is complete: a request begins.
    pub(super) fn begin_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The last byte of an answer was handed to hyper; `unread` when the request's body was not taken.
    pub(super) fn end_request(&self, unread: bool) {
        if unread {
            self.unread.store(true, Ordering::Relaxed);
        }
        if self.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.begin_state();
            // The next head came together with this request, and its time begins now.
            if !self.is_http2.load(Ordering::Relaxed) && self.head.load(Ordering::Relaxed) != 0 {
                self.record_head_progress(true, true);
            }
        }
    }

    /// True when no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// True when no request is in flight and every byte of the answers is with the system.
    pub(super) fn is_flushed(&self) -> bool {
        self.is_idle() && self.blocked.load(Ordering::Relaxed) == 0
    }

    /// True when a request was answered before all of it was read: the close must linger.
    pub(super) fn has_unread_body(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The earliest moment at which a wait becomes too long, and which one; `None` while a request runs.
    pub(super) fn deadline(&self) -> Option<(Instant, TimeoutKind)> {
        let is_http2 = self.is_http2.load(Ordering::Relaxed);
        let is_idle = self.is_idle();
        let head = self
            .since(&self.head, self.limits.head, TimeoutKind::Head)
            .filter(|_| is_http2 || is_idle);
        let limit = self.limits.write.min(self.pace.time_left());
        let write = self.since(&self.blocked, limit, TimeoutKind::Write);
        let idle = (is_idle && head.is_none() && write.is_none()).then(|| {
            let since = self.at(self.since.load(Ordering::Relaxed));
            (since + self.limits.idle, TimeoutKind::Idle)
        });
        let all = [head, idle, write].into_iter().flatten();
        all.min_by_key(|(at, _)| *at)
    }

    /// When a wait that began at `mark` becomes too long; `None` when it is no wait.
    fn since(
        &self,
        mark: &AtomicU64,
        limit: Duration,
        late: TimeoutKind,
    ) -> Option<(Instant, TimeoutKind)> {
        let since = mark.load(Ordering::Relaxed).checked_sub(1)?;
        Some((self.at(since) + limit, late))
    }

    fn begin_state(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::MinRate;

    const HEAD: Duration = Duration::from_secs(15);
    const IDLE: Duration = Duration::from_secs(75);
    const WRITE: Duration = Duration::from_secs(60);

    fn watch(is_http2: bool) -> ConnectionState {
        let settings = Settings {
            handshake: HEAD,
            head: HEAD,
            head_size: 1,
            idle: IDLE,
            write_idle: WRITE,
            h2_streams: 1,
            h2_resets: 3,
            h2_window: 1,
            h2_connection_window: 1,
            min_rate: MinRate {
                rate: 1000,
                window: WRITE,
            },
        };
        let watch =
            ConnectionState::new(&settings, super::super::ShutdownTrigger::new().subscribe());
        watch.set_protocol(is_http2);
        watch
    }

    async fn seconds(count: u64) {
        tokio::time::advance(Duration::from_secs(count)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_then_reads_a_head_then_has_no_deadline() {
        let watch = watch(false);
        let start = Instant::now();
        assert_eq!(watch.deadline(), Some((start + IDLE, TimeoutKind::Idle)));
        seconds(5).await;
        watch.record_head_progress(false, true);
        seconds(5).await;
        watch.record_head_progress(false, true);
        let due = start + Duration::from_secs(5) + HEAD;
        assert_eq!(watch.deadline(), Some((due, TimeoutKind::Head)));
        watch.record_head_progress(true, false);
        watch.begin_request();
        assert_eq!(watch.deadline(), None);
        watch.end_request(false);
        let due = start + Duration::from_secs(10) + IDLE;
        assert_eq!(watch.deadline(), Some((due, TimeoutKind::Idle)));
        assert!(!watch.has_unread_body());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_came_with_the_request_before_it_has_its_time_after_that() {
        let watch = watch(false);
        watch.record_head_progress(true, true);
        watch.begin_request();
        seconds(100).await;
        assert_eq!(watch.deadline(), None);
        watch.end_request(false);
        assert_eq!(
            watch.deadline(),
            Some((Instant::now() + HEAD, TimeoutKind::Head))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn on_http2_a_head_waits_for_no_request() {
        let watch = watch(true);
        watch.begin_request();
        watch.record_head_progress(false, true);
        assert_eq!(
            watch.deadline(),
            Some((Instant::now() + HEAD, TimeoutKind::Head))
        );
        watch.record_head_progress(true, false);
        assert_eq!(watch.deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_on_an_idle_http2_connection_are_no_head() {
        let watch = watch(true);
        let start = Instant::now();
        assert_eq!(watch.deadline(), Some((start + HEAD, TimeoutKind::Head)));
        seconds(5).await;
        watch.record_head_progress(true, false);
        watch.record_head_progress(false, false);
        assert_eq!(watch.deadline(), Some((start + IDLE, TimeoutKind::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn resets_make_it_weary_then_it_is_abused() {
        let watch = watch(true);
        let seen = |watch: &ConnectionState| (watch.reset_limit_reached(), watch.is_abusive());
        watch.record_resets(2);
        assert_eq!(seen(&watch), (false, false));
        watch.record_resets(1);
        assert_eq!(seen(&watch), (true, false));
        watch.record_resets(3);
        assert_eq!(seen(&watch), (true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_write_counts_from_its_first_failure() {
        let watch = watch(false);
        watch.begin_request();
        let start = Instant::now();
        watch.record_write(Poll::Pending);
        seconds(5).await;
        watch.record_write(Poll::Pending);
        assert_eq!(watch.deadline(), Some((start + WRITE, TimeoutKind::Write)));
        watch.record_write(Poll::Ready(1));
        assert_eq!(watch.deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_still_reads_the_end_of_an_answer_is_not_idle() {
        let watch = watch(false);
        watch.begin_request();
        watch.record_write(Poll::Pending);
        watch.end_request(false);
        for _ in 0..10 {
            seconds(50).await;
            watch.record_write(Poll::Ready(100_000));
            assert_eq!(
                watch.deadline(),
                Some((Instant::now() + IDLE, TimeoutKind::Idle))
            );
            watch.record_write(Poll::Pending);
            assert_eq!(
                watch.deadline(),
                Some((Instant::now() + WRITE, TimeoutKind::Write))
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_too_little_is_late_and_one_that_waits_is_not() {
        let watch = watch(false);
        watch.begin_request();
        let second = Duration::from_secs(1);
        for _ in 0..600 {
            // The upstream's time.
            tokio::time::advance(second).await;
            watch.record_write(Poll::Ready(1));
        }
        let start = Instant::now();
        for _ in 0..59 {
            watch.record_write(Poll::Pending);
            assert_eq!(watch.deadline(), Some((start + WRITE, TimeoutKind::Write)));
            tokio::time::advance(second).await;
            watch.record_write(Poll::Ready(500));
        }
        watch.record_write(Poll::Pending);
        tokio::time::advance(second).await;
        assert_eq!(watch.deadline(), Some((Instant::now(), TimeoutKind::Write)));
    }
}
