//! What a connection is waiting for, and until when it may.
//!
//! Shared by the I/O wrapper, the requests in flight and the driver of one connection, all on one
//! thread: plain counters, no lock. No timer is touched while a connection makes progress; the driver
//! looks here when its one timer fires.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::{Drain, Settings};
use crate::body::{Cut, Pace};

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Watch {
    start: Instant,
    limits: Limits,
    /// A head is told from other bytes on HTTP/1 only: an idle HTTP/2 peer may send a PING.
    heads: AtomicBool,
    requests: AtomicUsize,
    reading_head: AtomicBool,
    unread: AtomicBool,
    /// Milliseconds from `start` to the moment the present state began.
    since: AtomicU64,
    /// The same for a write that makes no progress, plus one; 0 while writes succeed.
    blocked: AtomicU64,
    /// Of what the peer takes.
    pace: Pace,
    late: AtomicBool,
    drain: Drain,
}

#[derive(Debug)]
struct Limits {
    head: Duration,
    idle: Duration,
    write: Duration,
}

/// Which wait took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// A head that does not end.
    Head,
    /// No request.
    Idle,
    /// A peer that does not read, or too slowly.
    Write,
}

impl Watch {
    pub(super) fn new(settings: &Settings, drain: Drain) -> Self {
        let limits = Limits {
            head: settings.head,
            idle: settings.idle,
            write: settings.write_idle,
        };
        Self {
            start: Instant::now(),
            limits,
            heads: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            reading_head: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            since: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            pace: Pace::new(settings.floor),
            late: AtomicBool::new(false),
            drain,
        }
    }

    /// The stream is open: what is read from now on is HTTP, and with `heads` it is HTTP/1.
    pub(super) fn begin(&self, heads: bool) {
        self.heads.store(heads, Ordering::Relaxed);
        self.begin_state();
    }

    /// Bytes came: outside a request they are the beginning of a head.
    pub(super) fn read(&self) {
        if self.heads.load(Ordering::Relaxed)
            && self.is_idle()
            && !self.reading_head.swap(true, Ordering::Relaxed)
        {
            self.begin_state();
        }
    }

    /// A write went through with so many bytes, or could not.
    pub(super) fn wrote(&self, count: Poll<usize>) {
        let blocked = self.blocked.load(Ordering::Relaxed);
        match count {
            Poll::Ready(count) => {
                let waited = match blocked {
                    0 => Duration::ZERO,
                    since => Duration::from_millis((self.now() + 1).saturating_sub(since)),
                };
                self.blocked.store(0, Ordering::Relaxed);
                self.pace.moved(count, waited);
            }
            Poll::Pending if blocked == 0 => {
                self.blocked.store(self.now() + 1, Ordering::Relaxed);
            }
            Poll::Pending => {}
        }
    }

    /// A deadline passed: what is dropped from now on was too slow.
    pub(super) fn note_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    /// Why a request that is dropped now did not end by itself; `None` when its client left.
    pub(super) fn cut(&self) -> Option<Cut> {
        if self.late.load(Ordering::Relaxed) {
            Some(Cut::Timeout)
        } else {
            self.drain.is_over().then_some(Cut::Drain)
        }
    }

    /// A head is complete: a request begins.
    pub(super) fn begin_request(&self) {
        self.reading_head.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// The last byte of an answer was handed to hyper; `unread` when the request's body was not taken.
    pub(super) fn end_request(&self, unread: bool) {
        if unread {
            self.unread.store(true, Ordering::Relaxed);
        }
        if self.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.begin_state();
        }
    }

    /// True when no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// True when no request is in flight and every byte of the answers is with the system.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_idle() && self.blocked.load(Ordering::Relaxed) == 0
    }

    /// True when a request was answered before all of it was read: the close must linger.
    pub(super) fn left_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The earliest moment at which a wait becomes too long, and which one; `None` while a request runs.
    pub(super) fn deadline(&self) -> Option<(Instant, Late)> {
        let state = self.is_idle().then(|| {
            let (limit, late) = if self.reading_head.load(Ordering::Relaxed) {
                (self.limits.head, Late::Head)
            } else {
                (self.limits.idle, Late::Idle)
            };
            (self.at(self.since.load(Ordering::Relaxed)) + limit, late)
        });
        let write = match self.blocked.load(Ordering::Relaxed) {
            0 => None,
            since => {
                let limit = self.limits.write.min(self.pace.left());
                Some((self.at(since - 1) + limit, Late::Write))
            }
        };
        match (state, write) {
            (Some(state), Some(write)) => Some(if state.0 < write.0 { state } else { write }),
            (state, write) => state.or(write),
        }
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
    use crate::body::Floor;

    const HEAD: Duration = Duration::from_secs(15);
    const IDLE: Duration = Duration::from_secs(75);
    const WRITE: Duration = Duration::from_secs(60);

    fn watch(heads: bool) -> Watch {
        let settings = Settings {
            handshake: HEAD,
            head: HEAD,
            head_size: 1,
            idle: IDLE,
            write_idle: WRITE,
            h2_streams: 1,
            h2_window: 1,
            h2_connection_window: 1,
            floor: Floor {
                rate: 1000,
                window: WRITE,
            },
        };
        let watch = Watch::new(&settings, super::super::Drainer::new().listen());
        watch.begin(heads);
        watch
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_then_reads_a_head_then_has_no_deadline() {
        let watch = watch(true);
        let start = Instant::now();
        assert_eq!(watch.deadline(), Some((start + IDLE, Late::Idle)));
        tokio::time::advance(Duration::from_secs(5)).await;
        watch.read();
        tokio::time::advance(Duration::from_secs(5)).await;
        watch.read();
        assert_eq!(
            watch.deadline(),
            Some((start + Duration::from_secs(5) + HEAD, Late::Head))
        );
        watch.begin_request();
        watch.read();
        assert_eq!(watch.deadline(), None);
        watch.end_request(false);
        assert_eq!(
            watch.deadline(),
            Some((start + Duration::from_secs(10) + IDLE, Late::Idle))
        );
        assert!(!watch.left_unread());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_on_an_idle_http2_connection_are_no_head() {
        let watch = watch(false);
        let start = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        watch.read();
        assert_eq!(watch.deadline(), Some((start + IDLE, Late::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_write_counts_from_its_first_failure() {
        let watch = watch(true);
        watch.begin_request();
        let start = Instant::now();
        watch.wrote(Poll::Pending);
        tokio::time::advance(Duration::from_secs(5)).await;
        watch.wrote(Poll::Pending);
        assert_eq!(watch.deadline(), Some((start + WRITE, Late::Write)));
        watch.wrote(Poll::Ready(1));
        assert_eq!(watch.deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_too_little_is_late_and_one_that_waits_is_not() {
        let watch = watch(true);
        watch.begin_request();
        let second = Duration::from_secs(1);
        for _ in 0..600 {
            // The upstream's time.
            tokio::time::advance(second).await;
            watch.wrote(Poll::Ready(1));
        }
        let start = Instant::now();
        for _ in 0..59 {
            watch.wrote(Poll::Pending);
            assert_eq!(watch.deadline(), Some((start + WRITE, Late::Write)));
            tokio::time::advance(second).await;
            watch.wrote(Poll::Ready(500));
        }
        watch.wrote(Poll::Pending);
        tokio::time::advance(second).await;
        assert_eq!(watch.deadline(), Some((Instant::now(), Late::Write)));
    }
}
