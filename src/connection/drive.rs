//! Drives one HTTP connection: its own progress, its deadlines, and the end of the gate.
//!
//! One timer a connection, set to the earliest deadline it had when last looked at; a deadline that
//! moved away is noticed when the timer fires, one that came nearer after each turn of the connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::ShutdownSignal;
use super::watch::{ConnectionState, TimeoutKind};

/// An HTTP connection of either version.
pub(super) trait GracefulConnection {
    /// Makes progress; ready when the connection is done, without closing its socket on HTTP/1.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;
    /// Ends the connection after the requests in flight.
    fn shut_down(&mut self);
    /// Whether there is nothing more to say once no request runs.
    fn close_when_idle(&self) -> bool;
    /// How long requests that are already on their way are still served while draining.
    fn drain_timeout(&self) -> Duration;
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum CloseReason {
    /// The peer closed it, or we did after its last answer.
    Done,
    /// The peer broke it, or what it sent was no HTTP.
    Broken(hyper::Error),
    /// A deadline passed.
    Late(TimeoutKind),
    /// The peer resets or floods without end.
    Abused,
}

/// The future that drives a connection.
pub(super) struct ConnectionDriver<'a, H> {
    http: &'a mut H,
    watch: &'a ConnectionState,
    timer: Pin<Box<Sleep>>,
    drain: DrainPhase,
}

enum DrainPhase {
    No(Pin<Box<dyn Future<Output = ()> + Send>>),
    Grace(Pin<Box<Sleep>>),
    Ending,
}

impl<'a, H: GracefulConnection> ConnectionDriver<'a, H> {
    pub(super) fn new(http: &'a mut H, watch: &'a ConnectionState, drain: ShutdownSignal) -> Self {
        let first = watch.deadline().map_or_else(next_wakeup, |(at, _)| at);
        Self {
            http,
            watch,
            timer: Box::pin(tokio::time::sleep_until(first)),
            drain: DrainPhase::No(Box::pin(drain.started())),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) {
        if let DrainPhase::No(begins) = &mut self.drain
            && begins.as_mut().poll(cx).is_ready()
        {
            self.drain = DrainPhase::Grace(Box::pin(tokio::time::sleep(self.http.drain_timeout())));
        }
        if let DrainPhase::Grace(grace) = &mut self.drain
            && grace.as_mut().poll(cx).is_ready()
        {
            self.end();
        }
    }

    /// The requests in flight are the last ones.
    fn end(&mut self) {
        if !matches!(self.drain, DrainPhase::Ending) {
            self.drain = DrainPhase::Ending;
            self.http.shut_down();
        }
    }

    /// One turn of the connection; what it read may be too much of the same.
    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let was_ending = matches!(self.drain, DrainPhase::Ending);
        match self.http.poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(CloseReason::Done),
            Poll::Ready(Err(error)) => return Poll::Ready(CloseReason::Broken(error)),
            Poll::Pending if self.watch.is_abusive() => return Poll::Ready(CloseReason::Abused),
            Poll::Pending => {}
        }
        if self.watch.take_resume() {
            return self.poll_http(cx);
        }
        if self.watch.reset_limit_reached() && !was_ending {
            self.end();
            return self.poll_http(cx);
        }
        Poll::Pending
    }

    /// True when the gate drains and nothing of a request is here but, at most, half a head: hyper would
    /// wait for the rest of it.
    fn is_over(&self) -> bool {
        matches!(self.drain, DrainPhase::Ending)
            && self.http.close_when_idle()
            && self.watch.is_flushed()
    }

    /// Ready with what took too long; sets the timer anew while nothing did.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<TimeoutKind> {
        loop {
            let deadline = self.watch.deadline();
            let at = deadline.map_or_else(next_wakeup, |(at, _)| at);
            if at < self.timer.deadline() {
                self.timer.as_mut().reset(at);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match deadline {
                Some((at, late)) if at <= Instant::now() => return Poll::Ready(late),
                Some(_) => self.timer.as_mut().reset(at),
                None => {
                    self.timer.as_mut().reset(at);
                    // Whoever is not read from, as the upstream takes nothing, may be gone.
                    self.watch.request_probe();
                    cx.waker().wake_by_ref();
                }
            }
        }
    }
}

impl<H: GracefulConnection> Future for ConnectionDriver<'_, H> {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.poll_drain(cx);
        match self.poll_http(cx) {
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending if self.is_over() => Poll::Ready(CloseReason::Done),
            Poll::Pending => self.poll_deadline(cx).map(CloseReason::Late),
        }
    }
}

/// While a request runs there is no deadline here; the connection is looked at again after this long. An end behind
/// unread bytes is noticed at the second look, which is to be well within a second.
fn next_wakeup() -> Instant {
    Instant::now() + Duration::from_millis(250)
}
