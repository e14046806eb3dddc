//! How long an upstream may be silent, counted from the first moment the gate really waits for it.
//!
//! One a connection, kept from request to request: moving tokio's timer to a later time is one atomic
//! exchange, while making and dropping one locks the timer wheel twice.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Error;

/// A clock that runs only between a [`Self::poll`] and the next [`Self::stop`].
pub(super) struct Deadline {
    after: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Deadline {
    /// Not running.
    pub(super) fn new(after: Duration) -> Self {
        Self {
            after,
            sleep: None,
            is_running: false,
        }
    }

    /// Something happened, or nothing is waited for: the next wait starts from zero. Costs nothing.
    pub(super) fn stop(&mut self) {
        self.is_running = false;
    }

    /// Ready once the wait has been too long; starts the clock if it does not run.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_running {
            // A time beyond what the clock can tell never comes.
            let Some(at) = Instant::now().checked_add(self.after) else {
                return Poll::Pending;
            };
            self.is_running = true;
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(at),
                None => self.sleep = Some(Box::pin(sleep_until(at))),
            }
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// What to tell when it is over.
    pub(super) fn error(&self) -> Error {
        Error::Silent(self.after)
    }
}
