//! The state of one client connection: its phase, what it waits for, and until when.
//!
//! The socket, the inspector, the active requests and the driver of a connection share this state. All of them run on the thread
//! of one worker, so they share it through an `Rc`, and it consists of `Cell`s: no atomics and no locks.
//!
//! The phase is the number of active requests:
//!
//! ```text
//!             set_protocol           begin_request
//!  Handshake ──────────────▶ Idle ─────────────────▶ Active ◀─┐ begin_request,
//!                              ▲                        │  └──┘ end_request
//!                              └────────────────────────┘
//!                             end_request of the last request
//! ```
//!
//! Four other parts of the state change independently of the phase:
//!
//! | part | values | changed by |
//! |---|---|---|
//! | header section | none, incomplete since | `inspect` |
//! | writes | accepted, blocked since | `socket` |
//! | [`LivenessProbe`] | requested, progress since the last probe | `driver`, `socket` |
//! | [`AbuseCounters`] | stream resets, flood | `inspect` |
//!
//! [`ConnectionState::deadline`] derives the deadline of the connection from the phase, the header section and the writes. The
//! handshake has a deadline of its own, in `connection`.
//!
//! | condition | deadline |
//! |---|---|
//! | `Idle`, no header section, no blocked write | `limits.idle` after the connection became idle |
//! | incomplete header section, and `Idle` or HTTP/2 | `limits.head` after its first byte |
//! | blocked write | `limits.write_idle` after the socket stopped accepting bytes, or when `limits.min_rate` is missed |
//! | none of these: a request is active | none; `upstream` and the request body have deadlines of their own |
//!
//! While a connection makes progress, only times are recorded here and no timer is set: the driver asks for the deadline when
//! its one timer fires.

use std::cell::Cell;
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
pub(crate) struct ConnectionState {
    timeouts: Timeouts,
    shutdown: ShutdownSignal,
    /// On HTTP/2, requests overlap. On HTTP/1, a pipelined request waits for the response before it.
    is_http2: Cell<bool>,
    phase: Cell<Phase>,
    /// When the incomplete header section began, if there is one.
    head_since: Cell<Option<Instant>>,
    /// Since when the socket has accepted nothing, if it is blocked.
    blocked_since: Cell<Option<Instant>>,
    /// A response frame was withheld because a write was blocked (HTTP/1).
    is_frame_withheld: Cell<bool>,
    /// The rate at which the client reads responses.
    read_rate: RateMonitor,
    probe: LivenessProbe,
    abuse: AbuseCounters,
    /// The number of HTTP/2 streams whose request the client has neither ended nor reset.
    open_requests: Cell<usize>,
    /// Notified when `open_requests` becomes zero.
    requests_ended: Notify,
    /// A response was sent before its request was read completely.
    has_unread_body: Cell<bool>,
    /// The response to the current request may change the protocol of the connection (HTTP/1).
    awaits_upgrade: Cell<bool>,
    /// The timeout for which the connection is closed.
    timeout: Cell<Option<TimeoutKind>>,
    /// The client takes the close of the connection for the end of a response, and nothing else tells it that a response is
    /// truncated (HTTP/1.0 without TLS). False again once the last response is known to be complete.
    is_end_marked_by_close: Cell<bool>,
}

/// How many requests are active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The TLS handshake is not complete.
    Handshake,
    /// No request is active, since this time.
    Idle { since: Instant },
    /// This number of requests is active, at least one. On HTTP/1 it is one.
    Active { requests: usize },
}

#[derive(Debug)]
struct Timeouts {
    head: Duration,
    idle: Duration,
    write: Duration,
}

/// A wait that can take too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeoutKind {
    /// A header section is not complete.
    Head,
    /// No request arrives.
    Idle,
    /// The client does not read, or reads too slowly.
    Write,
}

/// The detection of a client that has closed the connection while the proxy does not read from it.
///
/// While a request is active and no deadline applies, the driver requests a probe at intervals. The next flush of the socket
/// performs it: it checks for an error, and, if the connection is stalled, for a FIN.
#[derive(Debug)]
struct LivenessProbe {
    is_requested: Cell<bool>,
    /// Bytes moved in either direction since the last probe.
    has_progress: Cell<bool>,
    /// The current request is incomplete. Always true on HTTP/2, where a half-closed connection can carry no more requests.
    is_request_incomplete: Cell<bool>,
}

/// Counts what a client can do without limit at no cost to itself.
#[derive(Debug)]
struct AbuseCounters {
    /// `limits.h2_resets`.
    max_resets: usize,
    /// The number of streams that were reset, by either side.
    resets: Cell<usize>,
    /// The client sends more control frames than any client needs to.
    is_flooding: Cell<bool>,
}

impl ConnectionState {
    pub(crate) fn new(settings: &Settings, shutdown: ShutdownSignal) -> Self {
        Self {
            timeouts: Timeouts {
                head: settings.head,
                idle: settings.idle,
                write: settings.write_idle,
            },
            shutdown,
            is_http2: Cell::new(false),
            phase: Cell::new(Phase::Handshake),
            head_since: Cell::new(None),
            blocked_since: Cell::new(None),
            is_frame_withheld: Cell::new(false),
            read_rate: RateMonitor::new(settings.min_rate),
            probe: LivenessProbe {
                is_requested: Cell::new(false),
                has_progress: Cell::new(true),
                is_request_incomplete: Cell::new(true),
            },
            abuse: AbuseCounters {
                max_resets: settings.h2_resets,
                resets: Cell::new(0),
                is_flooding: Cell::new(false),
            },
            open_requests: Cell::new(0),
            requests_ended: Notify::new(),
            has_unread_body: Cell::new(false),
            awaits_upgrade: Cell::new(false),
            timeout: Cell::new(None),
            is_end_marked_by_close: Cell::new(false),
        }
    }

    // Phase and requests.

    /// Records that the connection is open and which HTTP version is read from now on.
    pub(crate) fn set_protocol(&self, is_http2: bool) {
        let now = Instant::now();
        self.is_http2.set(is_http2);
        self.phase.set(Phase::Idle { since: now });
        // The connection preface of HTTP/2 has the same time limit as a header section.
        self.head_since.set(is_http2.then_some(now));
    }

    /// Records that a header section is complete, so that a request is active.
    pub(crate) fn begin_request(&self) {
        self.phase.set(Phase::Active {
            requests: self.active_requests() + 1,
        });
    }

    /// Records that the last byte of a response was passed to hyper, or that its request was aborted. `has_unread_body` is whether
    /// a part of the request was not read.
    pub(crate) fn end_request(&self, has_unread_body: bool) {
        if has_unread_body {
            self.has_unread_body.set(true);
        }
        let requests = self.active_requests().saturating_sub(1);
        if requests > 0 {
            self.phase.set(Phase::Active { requests });
            return;
        }
        let now = Instant::now();
        self.phase.set(Phase::Idle { since: now });
        // The next header section of HTTP/1 may have arrived in part together with this request. Its time begins now.
        if !self.is_http2.get() && self.head_since.get().is_some() {
            self.head_since.set(Some(now));
        }
    }

    fn active_requests(&self) -> usize {
        match self.phase.get() {
            Phase::Handshake | Phase::Idle { .. } => 0,
            Phase::Active { requests } => requests,
        }
    }

    fn is_idle(&self) -> bool {
        self.active_requests() == 0
    }

    /// Whether no request is active and the kernel has accepted every byte of the responses.
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_idle() && self.blocked_since.get().is_none()
    }

    /// Whether the kernel accepts no more bytes at the moment.
    pub(crate) fn is_write_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
    }

    /// Whether a response was sent before its request was read completely, so that the close must linger.
    pub(crate) fn has_unread_body(&self) -> bool {
        self.has_unread_body.get()
    }

    /// Records on how many HTTP/2 streams the client has not ended its request.
    pub(crate) fn set_open_requests(&self, count: usize) {
        if count != self.open_requests.replace(count) && count == 0 {
            self.requests_ended.notify_waiters();
        }
    }

    /// Whether the client has not ended its request on some HTTP/2 stream.
    pub(crate) fn has_open_requests(&self) -> bool {
        self.open_requests.get() > 0
    }

    /// Ready when the client has ended the requests of all HTTP/2 streams, if that happens after this call.
    pub(crate) fn requests_ended(&self) -> Notified<'_> {
        self.requests_ended.notified()
    }

    // Header sections.

    /// Records that bytes arrived. `has_ended` is whether a header section ended in them, `is_open` whether one is incomplete after
    /// them.
    pub(crate) fn record_head_progress(&self, has_ended: bool, is_open: bool) {
        if !is_open {
            self.head_since.set(None);
        } else if has_ended || self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    // Upgrades.

    /// Records that a request with `Upgrade` has arrived: the bytes after it are not read as HTTP before its response is known.
    pub(crate) fn begin_upgrade(&self) {
        self.awaits_upgrade.set(true);
    }

    /// Whether the response to a request with `Upgrade` is not known yet, or was a 101.
    pub(crate) fn awaits_upgrade(&self) -> bool {
        self.awaits_upgrade.get()
    }

    /// Records that the response is no 101, so that the connection stays with HTTP. Returns whether it might have been one.
    pub(crate) fn end_upgrade(&self) -> bool {
        self.awaits_upgrade.replace(false)
    }

    // Writes.

    /// Records the result of a write or a flush: the number of bytes that the socket accepted, or that it is blocked.
    pub(crate) fn record_write(&self, result: Poll<usize>) {
        match (result, self.blocked_since.get()) {
            (Poll::Ready(count), None) => self.record_written(count, Duration::ZERO),
            (Poll::Ready(count), Some(since)) => {
                let now = Instant::now();
                self.blocked_since.set(None);
                self.record_written(count, now.duration_since(since));
                // hyper has the end of a response that the client is still reading. The idle time begins after that.
                if let Phase::Idle { .. } = self.phase.get() {
                    self.phase.set(Phase::Idle { since: now });
                }
            }
            (Poll::Pending, None) => self.blocked_since.set(Some(Instant::now())),
            (Poll::Pending, Some(_)) => {}
        }
    }

    fn record_written(&self, count: usize, waited: Duration) {
        if count > 0 {
            self.record_progress();
        }
        self.read_rate.record(count, waited);
    }

    /// Whether the next frame of an HTTP/1 response must be withheld, because the client has not taken the one before it: a
    /// client that does not read gets one frame into memory, and no more.
    pub(crate) fn withhold_frame(&self) -> bool {
        let is_blocked = self.blocked_since.get().is_some();
        self.is_frame_withheld.set(is_blocked);
        is_blocked
    }

    /// Whether a withheld frame may be sent now, so that the connection must be polled again. Returns true once.
    pub(crate) fn take_resume(&self) -> bool {
        self.blocked_since.get().is_none() && self.is_frame_withheld.replace(false)
    }

    // Liveness probe.

    /// Requests a liveness probe with the next flush.
    pub(crate) fn request_probe(&self) {
        self.probe.is_requested.set(true);
    }

    /// Whether a probe was requested. Returns true once for each request.
    pub(crate) fn take_probe(&self) -> bool {
        self.probe.is_requested.replace(false)
    }

    /// Records that bytes arrived from the client, or that the socket accepted some.
    pub(crate) fn record_progress(&self) {
        self.probe.has_progress.set(true);
    }

    /// Records whether the bytes that arrived over HTTP/1 leave a request incomplete.
    pub(crate) fn set_request_incomplete(&self, is_incomplete: bool) {
        self.probe.is_request_incomplete.set(is_incomplete);
    }

    /// Whether a request is active and incomplete, and no bytes moved since the last call.
    pub(crate) fn take_stall(&self) -> bool {
        !self.probe.has_progress.replace(false)
            && !self.is_idle()
            && self.probe.is_request_incomplete.get()
    }

    // Abuse.

    /// Adds to the number of streams that were reset.
    pub(crate) fn record_resets(&self, count: usize) {
        let resets = &self.abuse.resets;
        resets.set(resets.get().saturating_add(count));
    }

    /// Records that the client sends more control frames than any client needs to.
    pub(crate) fn record_flood(&self) {
        self.abuse.is_flooding.set(true);
    }

    /// Whether `limits.h2_resets` is reached. The connection then gets GOAWAY.
    pub(crate) fn reset_limit_reached(&self) -> bool {
        self.abuse.resets.get() >= self.abuse.max_resets
    }

    /// Whether the client floods, or continued to cause resets after GOAWAY. The connection is then closed.
    pub(crate) fn is_abusive(&self) -> bool {
        self.abuse.is_flooding.get()
            || self.abuse.resets.get() >= self.abuse.max_resets.saturating_mul(2)
    }

    // The end of the connection.

    /// The earliest time at which a wait takes too long, and which wait; `None` if no deadline applies.
    pub(crate) fn deadline(&self) -> Option<(Instant, TimeoutKind)> {
        let head = self
            .head_since
            .get()
            .filter(|_| self.is_http2.get() || self.is_idle())
            .map(|since| (since + self.timeouts.head, TimeoutKind::Head));
        let write = self.blocked_since.get().map(|since| {
            let limit = self.timeouts.write.min(self.read_rate.time_left());
            (since + limit, TimeoutKind::Write)
        });
        let idle = match self.phase.get() {
            Phase::Idle { since } if head.is_none() && write.is_none() => {
                Some((since + self.timeouts.idle, TimeoutKind::Idle))
            }
            _ => None,
        };
        let deadlines = [head, idle, write].into_iter().flatten();
        deadlines.min_by_key(|(at, _)| *at)
    }

    /// Records that the connection is closed because of a timeout. The requests that are dropped from now on were too slow.
    pub(crate) fn record_timeout(&self, kind: TimeoutKind) {
        self.timeout.set(Some(kind));
    }

    /// Records whether the client takes the close of the connection for the end of a response that may be incomplete.
    pub(crate) fn set_end_marked_by_close(&self, is_marked: bool) {
        self.is_end_marked_by_close.set(is_marked);
    }

    /// Whether the close must be a reset (RST): the client does not read, so that the kernel would keep unsent bytes for
    /// minutes, or it would take the response for a complete one.
    pub(crate) fn must_reset(&self) -> bool {
        self.timeout.get() == Some(TimeoutKind::Write) || self.is_end_marked_by_close.get()
    }

    /// Whether the graceful shutdown has started.
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutdown.has_started()
    }

    /// Why the proxy aborts a request that is dropped now; `None` if the client has left.
    pub(crate) fn abort_reason(&self) -> Option<AbortReason> {
        if self.timeout.get().is_some() {
            Some(AbortReason::Timeout)
        } else {
            self.shutdown.is_forced().then_some(AbortReason::Drain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::MinRate;
    use crate::connection::shutdown::ShutdownTrigger;

    const HEAD: Duration = Duration::from_secs(15);
    const IDLE: Duration = Duration::from_secs(75);
    const WRITE: Duration = Duration::from_secs(60);

    fn open_connection(is_http2: bool) -> ConnectionState {
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
        let state = ConnectionState::new(&settings, ShutdownTrigger::new().subscribe());
        state.set_protocol(is_http2);
        state
    }

    async fn advance_seconds(count: u64) {
        tokio::time::advance(Duration::from_secs(count)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_then_reads_a_head_then_has_no_deadline() {
        let state = open_connection(false);
        let start = Instant::now();
        assert_eq!(state.deadline(), Some((start + IDLE, TimeoutKind::Idle)));
        advance_seconds(5).await;
        state.record_head_progress(false, true);
        advance_seconds(5).await;
        state.record_head_progress(false, true);
        let due = start + Duration::from_secs(5) + HEAD;
        assert_eq!(state.deadline(), Some((due, TimeoutKind::Head)));
        state.record_head_progress(true, false);
        state.begin_request();
        assert_eq!(state.deadline(), None);
        state.end_request(false);
        let due = start + Duration::from_secs(10) + IDLE;
        assert_eq!(state.deadline(), Some((due, TimeoutKind::Idle)));
        assert!(!state.has_unread_body());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_pipelined_head_begins_after_the_request_before_it() {
        let state = open_connection(false);
        state.record_head_progress(true, true);
        state.begin_request();
        advance_seconds(100).await;
        assert_eq!(state.deadline(), None);
        state.end_request(false);
        assert_eq!(
            state.deadline(),
            Some((Instant::now() + HEAD, TimeoutKind::Head))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn on_http2_a_head_has_its_deadline_while_a_request_is_active() {
        let state = open_connection(true);
        state.begin_request();
        state.record_head_progress(false, true);
        assert_eq!(
            state.deadline(),
            Some((Instant::now() + HEAD, TimeoutKind::Head))
        );
        state.record_head_progress(true, false);
        assert_eq!(state.deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn on_http2_the_connection_is_idle_when_its_last_request_ends() {
        let state = open_connection(true);
        state.record_head_progress(true, false);
        state.begin_request();
        state.begin_request();
        state.end_request(true);
        assert_eq!(state.deadline(), None);
        assert!(!state.is_flushed());
        advance_seconds(5).await;
        state.end_request(false);
        assert_eq!(
            state.deadline(),
            Some((Instant::now() + IDLE, TimeoutKind::Idle))
        );
        assert!(state.is_flushed() && state.has_unread_body());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_on_an_idle_http2_connection_begin_no_head() {
        let state = open_connection(true);
        let start = Instant::now();
        assert_eq!(state.deadline(), Some((start + HEAD, TimeoutKind::Head)));
        advance_seconds(5).await;
        state.record_head_progress(true, false);
        state.record_head_progress(false, false);
        assert_eq!(state.deadline(), Some((start + IDLE, TimeoutKind::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn resets_reach_the_limit_and_are_abuse_at_twice_the_limit() {
        let state = open_connection(true);
        let seen = |state: &ConnectionState| (state.reset_limit_reached(), state.is_abusive());
        state.record_resets(2);
        assert_eq!(seen(&state), (false, false));
        state.record_resets(1);
        assert_eq!(seen(&state), (true, false));
        state.record_resets(3);
        assert_eq!(seen(&state), (true, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_write_counts_from_its_first_failure() {
        let state = open_connection(false);
        state.begin_request();
        let start = Instant::now();
        state.record_write(Poll::Pending);
        advance_seconds(5).await;
        state.record_write(Poll::Pending);
        assert_eq!(state.deadline(), Some((start + WRITE, TimeoutKind::Write)));
        state.record_write(Poll::Ready(1));
        assert_eq!(state.deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_withheld_frame_resumes_once_after_the_blocked_write() {
        let state = open_connection(false);
        state.begin_request();
        assert!(!state.withhold_frame() && !state.take_resume());
        state.record_write(Poll::Pending);
        assert!(state.withhold_frame() && !state.take_resume());
        state.record_write(Poll::Ready(1));
        assert!(state.take_resume());
        assert!(!state.take_resume());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_still_reads_the_end_of_a_response_is_not_idle() {
        let state = open_connection(false);
        state.begin_request();
        state.record_write(Poll::Pending);
        state.end_request(false);
        for _ in 0..10 {
            advance_seconds(50).await;
            state.record_write(Poll::Ready(100_000));
            assert_eq!(
                state.deadline(),
                Some((Instant::now() + IDLE, TimeoutKind::Idle))
            );
            state.record_write(Poll::Pending);
            assert_eq!(
                state.deadline(),
                Some((Instant::now() + WRITE, TimeoutKind::Write))
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_too_slowly_times_out_and_one_that_waits_does_not() {
        let state = open_connection(false);
        state.begin_request();
        let second = Duration::from_secs(1);
        for _ in 0..600 {
            // The client waits for the upstream.
            tokio::time::advance(second).await;
            state.record_write(Poll::Ready(1));
        }
        let start = Instant::now();
        for _ in 0..59 {
            state.record_write(Poll::Pending);
            assert_eq!(state.deadline(), Some((start + WRITE, TimeoutKind::Write)));
            tokio::time::advance(second).await;
            state.record_write(Poll::Ready(500));
        }
        state.record_write(Poll::Pending);
        tokio::time::advance(second).await;
        assert_eq!(state.deadline(), Some((Instant::now(), TimeoutKind::Write)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_stalled_after_a_probe_without_progress() {
        let state = open_connection(false);
        assert!(!state.take_stall(), "a new connection counts as progress");
        assert!(!state.take_stall(), "no request is active");
        state.begin_request();
        assert!(state.take_stall());
        state.record_progress();
        assert!(!state.take_stall());
        state.set_request_incomplete(false);
        assert!(!state.take_stall(), "the request is complete");
        state.request_probe();
        assert!(state.take_probe() && !state.take_probe());
    }
}
