//! A connection between two exchanges, and the deadline for the silence of an upstream on it.
//!
//! `endpoint` creates a [`Connection`], `pool` keeps it while it is idle, and the other files of this codec read and write
//! through it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::buffer_pool;
use crate::upstream::error::Error;

/// A connection without an active request. Dropping it closes the socket.
pub(crate) struct Connection<S> {
    io: S,
    pub(crate) deadline: Deadline,
    max_head_size: usize,
    /// The buffer for request heads, kept for its capacity.
    head_buffer: Vec<u8>,
}

impl<S> Connection<S> {
    /// Creates a connection over a new stream. `read_timeout` and `max_head_size` are those of the
    /// [settings](crate::upstream::EndpointSettings).
    pub(crate) fn new(io: S, read_timeout: Duration, max_head_size: usize) -> Self {
        Self {
            io,
            deadline: Deadline::new(read_timeout),
            max_head_size: max_head_size.min(buffer_pool::LARGE),
            head_buffer: Vec::new(),
        }
    }

    /// The stream of the connection.
    pub(crate) fn io(&self) -> &S {
        &self.io
    }

    /// The stream of the connection, for reads and writes.
    pub(crate) fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }

    pub(crate) fn max_head_size(&self) -> usize {
        self.max_head_size
    }

    pub(crate) fn take_head_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head_buffer)
    }

    pub(crate) fn return_head_buffer(&mut self, buffer: Vec<u8>) {
        self.head_buffer = buffer;
    }

    #[cfg(test)]
    pub(crate) fn head_buffer(&self) -> &Vec<u8> {
        &self.head_buffer
    }
}

/// A timer for the silence of the upstream. It runs from a [`Self::poll`] to the next [`Self::stop`].
///
/// Each connection has one timer for all its requests: moving a tokio timer to a later time is one atomic exchange, while
/// creating and dropping one locks the timer wheel twice.
pub(crate) struct Deadline {
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Deadline {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            sleep: None,
            is_running: false,
        }
    }

    /// Stops the timer, because bytes were transferred or the proxy does not wait for the upstream. The next wait starts from
    /// zero. The call only sets a flag.
    pub(crate) fn stop(&mut self) {
        self.is_running = false;
    }

    /// Starts the timer if it is stopped. Ready once the upstream has been silent for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_running {
            // A deadline beyond the range of the clock never comes.
            let Some(deadline) = Instant::now().checked_add(self.timeout) else {
                return Poll::Pending;
            };
            self.is_running = true;
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(sleep_until(deadline))),
            }
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// The error to return when the deadline has passed.
    pub(crate) fn error(&self) -> Error {
        Error::Silent(self.timeout)
    }
}
