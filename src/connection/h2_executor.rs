//! Runs the tasks of HTTP/2 streams, and resets a stream whose client does not read its response, or reads it too slowly.
//!
//! hyper polls a response body for a frame only once the client has opened the flow-control window of the stream. A client that
//! never does this holds the stream, and the upstream connection of its request, while the connection itself is alive.
//! `ConnectionState` does not see that, because writes of other streams succeed. Each stream's task is therefore watched here:
//! the response body reports to [`SendProgress`] when it has bytes for the client, and its chunks report when h2 sends some of
//! them. A task that waits too long for that is dropped, which makes h2 send RST_STREAM. The stream of an early response is kept
//! for a while after its end; see `early_response`.
//!
//! hyper polls the response future and the response body of a stream inside the task that [`StreamExecutor`] spawned, but passes
//! them no reference to that task. The body therefore finds its `SendProgress` in a thread-local variable, which is set only
//! while the task is being polled: see [`SendProgress::current`].

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

/// Spawns the tasks of the streams of one connection on the runtime of this thread.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    write_timeout: Duration,
    min_rate: MinRate,
    share: Arc<ConnectionShare>,
    /// One allocation for all streams of the connection: cloning the value for each stream would increment several reference
    /// counts, some of which other threads use.
    early: Arc<EarlyStreams>,
}

impl StreamExecutor {
    /// Creates the executor of a connection. A stream may wait `write_timeout` for its client to take bytes, and the client must
    /// not be slower than `min_rate` either.
    pub(super) fn new(
        write_timeout: Duration,
        min_rate: MinRate,
        share: &Arc<ConnectionShare>,
        early: EarlyStreams,
    ) -> Self {
        Self {
            write_timeout,
            min_rate,
            share: Arc::clone(share),
            early: Arc::new(early),
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
            write_timeout,
            min_rate,
            share,
            early,
        } = self.clone();
        tokio::spawn(async move {
            let progress = Arc::new(SendProgress::new(min_rate));
            let mut stream = pin!(stream);
            let (mut timer, mut seen_pauses) = (None, 0);
            poll_fn(|cx| {
                let result = progress.with_current(|| stream.as_mut().poll(cx));
                if result.is_ready() {
                    return Poll::Ready(());
                }
                ready!(progress.poll_timeout(&mut timer, write_timeout, cx));
                // While the proxy paused reading, a WINDOW_UPDATE of the client may have waited in the socket. Wait once more.
                if share.paused_since(&mut seen_pauses) {
                    progress.start_wait();
                    ready!(progress.poll_timeout(&mut timer, write_timeout, cx));
                }
                progress.is_timed_out.store(true, Ordering::Relaxed);
                Poll::Ready(())
            })
            .await;
            // hyper's future is dropped at the end of this block. Until then the stream is open; then h2 resets it, if the client
            // has not ended it.
            if progress.is_early_response.load(Ordering::Relaxed) {
                early.keep_stream().await;
            }
        });
    }
}

/// How long the response of one stream has been waiting for its client to take bytes.
#[derive(Debug)]
pub(super) struct SendProgress {
    start: Instant,
    /// Milliseconds from `start`, plus one, to the time since which the client has taken nothing; 0 while there is nothing to
    /// take.
    waiting_since: AtomicU64,
    rate: RateMonitor,
    /// The stream is dropped because the client took too long.
    is_timed_out: AtomicBool,
    /// The response is complete, and the request is not.
    is_early_response: AtomicBool,
}

impl SendProgress {
    fn new(min_rate: MinRate) -> Self {
        Self {
            start: Instant::now(),
            waiting_since: AtomicU64::new(0),
            rate: RateMonitor::new(min_rate),
            is_timed_out: AtomicBool::new(false),
            is_early_response: AtomicBool::new(false),
        }
    }

    /// Returns the progress of the stream whose task is being polled on this thread; `None` on HTTP/1.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `poll` while this stream is the current one.
    fn with_current<T>(self: &Arc<Self>, poll: impl FnOnce() -> T) -> T {
        CURRENT.set(Some(Arc::clone(self)));
        let _reset = ResetCurrent;
        poll()
    }

    /// Records that there are bytes for the client from now on: a header section, or data.
    pub(super) fn start_wait(&self) {
        self.waiting_since.store(self.now() + 1, Ordering::Relaxed);
    }

    /// Records that h2 sent `bytes`. If there are more, the wait for the client starts again.
    pub(super) fn record_sent(&self, bytes: usize) {
        let since = self.waiting_since.load(Ordering::Relaxed);
        if since == 0 {
            self.rate.record(bytes, Duration::ZERO);
            return;
        }
        let now = self.now() + 1;
        self.waiting_since.store(now, Ordering::Relaxed);
        let waited = Duration::from_millis(now.saturating_sub(since));
        self.rate.record(bytes, waited);
    }

    /// Records that the client took all bytes that there were.
    pub(super) fn end_wait(&self) {
        self.record_sent(0);
        self.waiting_since.store(0, Ordering::Relaxed);
    }

    /// Records that the response is complete while the client may still be sending the request.
    pub(super) fn record_early_response(&self) {
        self.is_early_response.store(true, Ordering::Relaxed);
    }

    /// Whether the stream is dropped because its client took too long.
    pub(super) fn is_timed_out(&self) -> bool {
        self.is_timed_out.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Ready when the client has taken nothing for `timeout`, or has been slower than the minimum rate. The timer is set only
    /// while there are bytes for the client.
    fn poll_timeout(
        &self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let since = self.waiting_since.load(Ordering::Relaxed);
        if since == 0 {
            return Poll::Pending;
        }
        let limit = timeout.min(self.rate.time_left());
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

thread_local! {
    /// The progress of the stream whose task is being polled on this thread.
    static CURRENT: RefCell<Option<Arc<SendProgress>>> = const { RefCell::new(None) };
}

/// Clears the thread-local current stream on drop, also when the poll panics.
struct ResetCurrent;

impl Drop for ResetCurrent {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}
