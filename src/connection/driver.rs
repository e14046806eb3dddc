//! Drives one HTTP connection: polls hyper, enforces the deadlines, and takes part in the graceful shutdown.
//!
//! Each connection has one timer. It is set to the deadline that [`ConnectionState::deadline`] returned last. A deadline that
//! moves to a later time is noticed when the timer fires, and one that moves to an earlier time after each poll of the
//! connection, so that no timer is touched while a connection makes progress.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::shutdown::ShutdownSignal;
use super::state::{ConnectionState, TimeoutKind};

/// A hyper connection of either HTTP version that can be shut down gracefully.
pub(crate) trait GracefulConnection {
    /// Makes progress. Ready when the connection is done; an HTTP/1 connection leaves its socket open then.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;
    /// Closes the connection after the active requests.
    fn shut_down(&mut self);
    /// Whether the connection may be closed as soon as it is idle, because no farewell message has to be exchanged.
    fn close_when_idle(&self) -> bool;
    /// How long requests that the client has already sent are still accepted after the graceful shutdown started.
    fn drain_timeout(&self) -> Duration;
}

/// Why a connection is closed.
#[derive(Debug)]
pub(crate) enum CloseReason {
    /// The client closed the connection, or the proxy closed it after its last response.
    Done,
    /// The client broke the connection, sent malformed HTTP, or the handler's response body failed.
    Broken(hyper::Error),
    /// A deadline passed.
    TimedOut(TimeoutKind),
    /// The client resets streams or sends control frames beyond the limits.
    Abuse,
}

/// The future that drives a connection until it is to be closed.
pub(crate) struct ConnectionDriver<'a, H> {
    http: &'a mut H,
    state: &'a ConnectionState,
    timer: Pin<Box<Sleep>>,
    /// The timer fires no later than a liveness probe is due. While this is true, no poll of the connection reads the clock.
    is_probe_set: bool,
    shutdown: ShutdownPhase,
}

/// The graceful shutdown from the view of one connection.
enum ShutdownPhase {
    /// Waits for the signal.
    NotStarted(Pin<Box<dyn Future<Output = ()>>>),
    /// Accepts the requests that are in flight, for [`GracefulConnection::drain_timeout`].
    Grace(Pin<Box<Sleep>>),
    /// [`GracefulConnection::shut_down`] was called.
    Closing,
}

impl<'a, H: GracefulConnection> ConnectionDriver<'a, H> {
    pub(crate) fn new(
        http: &'a mut H,
        state: &'a ConnectionState,
        shutdown: ShutdownSignal,
    ) -> Self {
        let wakeup = state.deadline().map_or_else(next_probe, |(at, _)| at);
        Self {
            http,
            state,
            timer: Box::pin(tokio::time::sleep_until(wakeup)),
            is_probe_set: false,
            shutdown: ShutdownPhase::NotStarted(Box::pin(shutdown.started())),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) {
        if let ShutdownPhase::NotStarted(started) = &mut self.shutdown
            && started.as_mut().poll(cx).is_ready()
        {
            let grace = tokio::time::sleep(self.http.drain_timeout());
            self.shutdown = ShutdownPhase::Grace(Box::pin(grace));
        }
        if let ShutdownPhase::Grace(grace) = &mut self.shutdown
            && grace.as_mut().poll(cx).is_ready()
        {
            self.shut_down();
        }
    }

    /// Accepts no more requests.
    fn shut_down(&mut self) {
        if !self.is_closing() {
            self.shutdown = ShutdownPhase::Closing;
            self.http.shut_down();
        }
    }

    fn is_closing(&self) -> bool {
        matches!(self.shutdown, ShutdownPhase::Closing)
    }

    /// Polls hyper once, then closes the connection if the frames that were read exceed the abuse limits.
    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let was_closing = self.is_closing();
        match self.http.poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(CloseReason::Done),
            Poll::Ready(Err(error)) => return Poll::Ready(CloseReason::Broken(error)),
            Poll::Pending if self.state.is_abusive() => return Poll::Ready(CloseReason::Abuse),
            Poll::Pending => {}
        }
        // hyper returned after it wrote a response frame, for which the next one was withheld.
        if self.state.take_resume() {
            return self.poll_http(cx);
        }
        if self.state.reset_limit_reached() && !was_closing {
            self.shut_down();
            return self.poll_http(cx);
        }
        Poll::Pending
    }

    /// Whether a shut down connection can be closed: no request is active and every response is written.
    ///
    /// An incomplete header section may have arrived. hyper would wait for its rest.
    fn may_close(&self) -> bool {
        self.is_closing() && self.http.close_when_idle() && self.state.is_flushed()
    }

    /// Ready with the wait that took too long; otherwise sets the timer.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<TimeoutKind> {
        loop {
            let deadline = self.state.deadline();
            match deadline {
                Some((at, _)) => self.wake_up_by(at),
                None if self.is_probe_set => {}
                None => {
                    self.is_probe_set = true;
                    self.wake_up_by(next_probe());
                }
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.is_probe_set = deadline.is_none();
            match deadline {
                Some((at, kind)) if at <= Instant::now() => return Poll::Ready(kind),
                Some((at, _)) => self.timer.as_mut().reset(at),
                None => {
                    self.timer.as_mut().reset(next_probe());
                    // A request is active. If the proxy does not read, because the upstream takes nothing, no read reports
                    // that the client has closed the connection.
                    self.state.request_probe();
                    cx.waker().wake_by_ref();
                }
            }
        }
    }

    /// Moves the timer to `at` if that is earlier.
    fn wake_up_by(&mut self, at: Instant) {
        if at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
    }
}

impl<H: GracefulConnection> Future for ConnectionDriver<'_, H> {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.poll_shutdown(cx);
        match self.poll_http(cx) {
            Poll::Ready(reason) => Poll::Ready(reason),
            Poll::Pending if self.may_close() => Poll::Ready(CloseReason::Done),
            Poll::Pending => self.poll_deadline(cx).map(CloseReason::TimedOut),
        }
    }
}

fn next_probe() -> Instant {
    Instant::now() + PROBE_INTERVAL
}

/// The interval of liveness probes while a request is active and the connection has no deadline. A FIN that follows unread bytes
/// is detected by the second probe without progress, which is to be well within a second.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
