//! The tasks of HTTP/2 streams, and the end of one whose client takes nothing.
//!
//! hyper asks an answer's body for a frame only once the client has opened the stream's window, so a
//! client that never does holds the stream, and an upstream connection behind it, while the connection
//! itself is alive. Each stream's task is watched from here: [`Taken`] is told by the body when a frame
//! is taken, and a task that has one to give for too long is dropped, which resets the stream.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::Holding;

/// Spawns stream tasks on this thread's runtime.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    limit: Duration,
    holding: Arc<Holding>,
}

/// Since when an answer has something that its client does not take.
#[derive(Debug)]
pub(super) struct Taken {
    start: Instant,
    /// Milliseconds from `start`, plus one; 0 while nothing waits for the client.
    since: AtomicU64,
}

impl Streams {
    /// A stream may wait `limit` for its client to take a frame.
    pub(super) fn new(limit: Duration, holding: &Arc<Holding>) -> Self {
        let holding = Arc::clone(holding);
        Self { limit, holding }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let Self { limit, holding } = self.clone();
        tokio::spawn(async move {
            let taken = Arc::new(Taken::new());
            let mut stream = pin!(stream);
            let (mut timer, mut pauses) = (None, 0);
            poll_fn(|cx| {
                let done = taken.within(|| stream.as_mut().poll(cx));
                if done.is_ready() {
                    return Poll::Ready(());
                }
                ready!(taken.poll_late(&mut timer, limit, cx));
                // A window that the client opened in the meantime may not have been read.
                if !holding.has_paused(&mut pauses) {
                    return Poll::Ready(());
                }
                taken.offer();
                taken.poll_late(&mut timer, limit, cx)
            })
            .await;
        });
    }
}

impl Taken {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            since: AtomicU64::new(0),
        }
    }

    /// The one of the stream that is being polled on this thread; none on HTTP/1.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// There is something to give from now on.
    pub(super) fn offer(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.since.store(now + 1, Ordering::Relaxed);
    }

    /// The client took what there was.
    pub(super) fn take(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn within<T>(self: &Arc<Self>, run: impl FnOnce() -> T) -> T {
        CURRENT.set(Some(Arc::clone(self)));
        let result = run();
        CURRENT.set(None);
        result
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
    static CURRENT: RefCell<Option<Arc<Taken>>> = const { RefCell::new(None) };
}
