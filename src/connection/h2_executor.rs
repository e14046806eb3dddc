//! Runs the tasks of HTTP/2 streams, and resets a stream whose client does not read its response, or reads it too slowly.
//!
//! hyper polls a response body for a frame only once the client has opened the flow-control window of the stream. A client that
//! never does this occupies the stream, and the upstream connection of its request, while the connection itself is alive.
//! `ConnectionState` does not see that, because writes of other streams succeed. Each stream's task is therefore watched here:
//! the response body reports to [`SendProgress`] when it has bytes for the client, and its chunks report when h2 sends some of
//! them. A task that waits too long for that is dropped, which makes h2 send RST_STREAM. The stream of an early response is kept
//! for a while after its end; see `early_response`.
//!
//! hyper polls the response future and the response body of a stream inside the task that [`StreamExecutor`] spawned, but passes
//! them no reference to that task. The body therefore finds its `SendProgress` in a thread-local variable, which is set only
//! while the task is being polled: see [`SendProgress::current`].

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep_until};

use super::early_response::EarlyStreams;
use crate::body::{ConnectionShare, MinRate, RateMonitor};

/// Spawns the tasks of the streams of one connection on the `LocalRuntime` of this thread, so that they can share the connection
/// state without atomics.
#[derive(Clone, Debug)]
pub(crate) struct StreamExecutor {
    context: Rc<StreamContext>,
}

/// What the streams of one connection share. A stream clones one `Rc` instead of values with atomic reference counts.
#[derive(Debug)]
struct StreamContext {
    write_timeout: Duration,
    min_rate: MinRate,
    share: Arc<ConnectionShare>,
    early: EarlyStreams,
}

impl StreamExecutor {
    /// Creates the executor of a connection. A stream may wait `write_timeout` for its client to take bytes, and the client must
    /// not be slower than `min_rate` either.
    pub(crate) fn new(
        write_timeout: Duration,
        min_rate: MinRate,
        share: &Arc<ConnectionShare>,
        early: EarlyStreams,
    ) -> Self {
        Self {
            context: Rc::new(StreamContext {
                write_timeout,
                min_rate,
                share: Arc::clone(share),
                early,
            }),
        }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Unpin + 'static,
{
    fn execute(&self, stream: F) {
        let context = Rc::clone(&self.context);
        tokio::task::spawn_local(StreamTask {
            stream,
            progress: Rc::new(SendProgress::new(context.min_rate)),
            context,
            timer: None,
            seen_pauses: 0,
            keep: None,
        });
    }
}

/// The future of one stream. It is written by hand, because an `async` block would have room for hyper's future twice: as it was
/// captured, and where it is polled.
struct StreamTask<F> {
    /// hyper's future. Until it is dropped together with this task, the stream is open; then h2 resets it, if the client has not
    /// ended it.
    stream: F,
    context: Rc<StreamContext>,
    progress: Rc<SendProgress>,
    timer: Option<Pin<Box<Sleep>>>,
    seen_pauses: u64,
    /// Keeps the stream after an early response. hyper's future is complete then, or has timed out, and is not polled again.
    keep: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl<F: Future + Unpin> Future for StreamTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(keep) = &mut this.keep {
            return keep.as_mut().poll(cx);
        }
        let stream = Pin::new(&mut this.stream);
        let result = this.progress.with_current(|| stream.poll(cx));
        if result.is_pending() {
            ready!(this.poll_timeout(cx));
            this.progress.is_timed_out.set(true);
        }
        if !this.progress.is_early_response.get() {
            return Poll::Ready(());
        }
        let context = Rc::clone(&this.context);
        let keep = Box::pin(async move { context.early.keep_stream().await });
        this.keep.insert(keep).as_mut().poll(cx)
    }
}

impl<F> StreamTask<F> {
    /// Ready when the client has taken nothing for too long.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (progress, context) = (&self.progress, &self.context);
        ready!(progress.poll_timeout(&mut self.timer, context.write_timeout, cx));
        // While the proxy paused reading, a WINDOW_UPDATE of the client may have waited in the socket. Wait once more.
        if context.share.paused_since(&mut self.seen_pauses) {
            progress.start_wait();
            ready!(progress.poll_timeout(&mut self.timer, context.write_timeout, cx));
        }
        Poll::Ready(())
    }
}

/// How long the response of one stream has been waiting for its client to take bytes.
#[derive(Debug)]
pub(crate) struct SendProgress {
    /// Since when the client has taken nothing; `None` while there is nothing to take.
    waiting_since: Cell<Option<Instant>>,
    rate: RateMonitor,
    /// The stream is dropped because the client took too long.
    is_timed_out: Cell<bool>,
    /// The response is complete, and the request is not.
    is_early_response: Cell<bool>,
}

impl SendProgress {
    fn new(min_rate: MinRate) -> Self {
        Self {
            waiting_since: Cell::new(None),
            rate: RateMonitor::new(min_rate),
            is_timed_out: Cell::new(false),
            is_early_response: Cell::new(false),
        }
    }

    /// Returns the progress of the stream whose task is being polled on this thread; `None` on HTTP/1.
    pub(crate) fn current() -> Option<Rc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `poll` while this stream is the current one.
    fn with_current<T>(self: &Rc<Self>, poll: impl FnOnce() -> T) -> T {
        CURRENT.set(Some(Rc::clone(self)));
        let _reset = ResetCurrent;
        poll()
    }

    /// Records that there are bytes for the client from now on: a header section, or data.
    pub(crate) fn start_wait(&self) {
        self.waiting_since.set(Some(Instant::now()));
    }

    /// Records that h2 sent `bytes`. If there are more, the wait for the client starts again.
    pub(crate) fn record_sent(&self, bytes: usize) {
        let mut waited = Duration::ZERO;
        if let Some(since) = self.waiting_since.get() {
            let now = Instant::now();
            waited = now.duration_since(since);
            self.waiting_since.set(Some(now));
        }
        self.rate.record(bytes, waited);
    }

    /// Records that the client took all bytes that there were.
    pub(crate) fn end_wait(&self) {
        self.record_sent(0);
        self.waiting_since.set(None);
    }

    /// Records that the response is complete while the client may still be sending the request.
    pub(crate) fn record_early_response(&self) {
        self.is_early_response.set(true);
    }

    /// Whether the stream is dropped because its client took too long.
    pub(crate) fn is_timed_out(&self) -> bool {
        self.is_timed_out.get()
    }

    /// Ready when the client has taken nothing for `timeout`, or has been slower than the minimum rate. The timer is set only
    /// while there are bytes for the client.
    fn poll_timeout(
        &self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(since) = self.waiting_since.get() else {
            return Poll::Pending;
        };
        let at = since + timeout.min(self.rate.time_left());
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
    static CURRENT: RefCell<Option<Rc<SendProgress>>> = const { RefCell::new(None) };
}

/// Clears the thread-local current stream on drop, also when the poll panics.
struct ResetCurrent;

impl Drop for ResetCurrent {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}
