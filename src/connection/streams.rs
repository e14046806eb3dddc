//! The tasks of HTTP/2 streams, and the end of one whose client takes nothing, or too little.
//!
//! hyper asks an answer's body for a frame only once the client has opened the stream's window, so a
//! client that never does holds the stream, and an upstream connection behind it, while the connection
//! itself is alive. Each stream's task is watched from here: [`SendProgress`] is told by the body when there is something
//! to give, and by its data when h2 sends some of it; a task that waits too long for that is dropped, which resets the
//! stream. The stream of an early response is kept for a while after its end; see `early_response`.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep_until};

use super::early_response::EarlyStreams;
use crate::body::{ConnectionShare, MinRate, RateMonitor};

/// Spawns stream tasks on this thread's runtime.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    limit: Duration,
    floor: MinRate,
    holding: Arc<ConnectionShare>,
    /// Behind one `Arc` for all streams of the connection: cloning the state for each stream would increment six reference
    /// counts, some of which other threads use.
    early: Arc<EarlyStreams>,
}

/// Since when an answer has something that its client does not take.
#[derive(Debug)]
pub(super) struct SendProgress {
    start: Instant,
    /// Milliseconds from `start`, plus one; 0 while nothing waits for the client.
    since: AtomicU64,
    pace: RateMonitor,
    late: AtomicBool,
    /// The response is complete, and the request is not.
    is_early: AtomicBool,
}

impl StreamExecutor {
    /// A stream may wait `limit` for its client to take a frame, which must not be slower than `floor` either.
    pub(super) fn new(
        limit: Duration,
        floor: MinRate,
        holding: &Arc<ConnectionShare>,
        early: EarlyStreams,
    ) -> Self {
        let (holding, early) = (Arc::clone(holding), Arc::new(early));
        Self {
            limit,
            floor,
            holding,
            early,
        }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let Self {
            limit,
            floor,
            holding,
            early,
        } = self.clone();
        tokio::spawn(async move {
            let taken = Arc::new(SendProgress::new(floor));
            let mut stream = pin!(stream);
            let (mut timer, mut pauses) = (None, 0);
            poll_fn(|cx| {
                let done = taken.with_current(|| stream.as_mut().poll(cx));
                if done.is_ready() {
                    return Poll::Ready(());
                }
                ready!(taken.poll_late(&mut timer, limit, cx));
                // A window that the client opened in the meantime may not have been read.
                if holding.paused_since(&mut pauses) {
                    taken.begin();
                    ready!(taken.poll_late(&mut timer, limit, cx));
                }
                taken.late.store(true, Ordering::Relaxed);
                Poll::Ready(())
            })
            .await;
            // The stream is alive until it is dropped at the end of this block, which resets it if the client has not
            // ended it by then.
            if taken.is_early.load(Ordering::Relaxed) {
                early.keep().await;
            }
        });
    }
}

impl SendProgress {
    fn new(floor: MinRate) -> Self {
        Self {
            start: Instant::now(),
            since: AtomicU64::new(0),
            pace: RateMonitor::new(floor),
            late: AtomicBool::new(false),
            is_early: AtomicBool::new(false),
        }
    }

    /// The response is complete while the request may have more to come.
    pub(super) fn note_early_response(&self) {
        self.is_early.store(true, Ordering::Relaxed);
    }

    /// The one of the stream that is being polled on this thread; none on HTTP/1.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// There is something to give from now on: a head, or data.
    pub(super) fn begin(&self) {
        self.since.store(self.now() + 1, Ordering::Relaxed);
    }

    /// So many bytes went out; while there are more to give, the client is waited for anew.
    pub(super) fn moved(&self, bytes: usize) {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            self.pace.record(bytes, Duration::ZERO);
            return;
        }
        let now = self.now() + 1;
        self.since.store(now, Ordering::Relaxed);
        let waited = Duration::from_millis(now.saturating_sub(since));
        self.pace.record(bytes, waited);
    }

    /// The client took what there was.
    pub(super) fn end(&self) {
        self.moved(0);
        self.since.store(0, Ordering::Relaxed);
    }

    /// True when the stream ends because its client took too long.
    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn with_current<T>(self: &Arc<Self>, run: impl FnOnce() -> T) -> T {
        CURRENT.set(Some(Arc::clone(self)));
        // Also when the request panics.
        let _left = ResetCurrent;
        run()
    }

    /// Ready when the client has taken nothing for `limit`; the timer is touched only while it might.
    fn poll_late(
        &self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        limit: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            return Poll::Pending;
        }
        let limit = limit.min(self.pace.time_left());
        let at = self.start + Duration::from_millis(since - 1) + limit;
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
    }
}

/// Ends the time in which a stream is the current one.
struct ResetCurrent;

impl Drop for ResetCurrent {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<SendProgress>>> = const { RefCell::new(None) };
}
