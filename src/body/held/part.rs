//! The share of one request body in the bytes that its HTTP/2 connection holds.
//!
//! [`Received`](crate::body::Received) owns it, on HTTP/2 only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::ConnectionShare;

/// The share of one request body. It tells its connection whether the body is open and whether it waits for data.
#[derive(Debug)]
pub(in crate::body) struct StreamShare {
    holding: Arc<ConnectionShare>,
    is_open: AtomicBool,
    is_waiting: AtomicBool,
}

/// A waker that marks the body as not waiting before it wakes the task that polls it.
struct WakeFlag {
    part: Arc<StreamShare>,
    task: Waker,
}

impl StreamShare {
    /// Registers an open body.
    pub(in crate::body) fn new(holding: &Arc<ConnectionShare>) -> Arc<Self> {
        holding.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            holding: Arc::clone(holding),
            is_open: AtomicBool::new(true),
            is_waiting: AtomicBool::new(false),
        })
    }

    /// The share of the connection.
    pub(in crate::body) fn holding(&self) -> &ConnectionShare {
        &self.holding
    }

    /// Records that the upstream took `count` bytes.
    pub(in crate::body) fn take(&self, count: usize) {
        self.resume();
        self.holding.take(count);
    }

    /// Records that a poll with [`Self::waker`] found no data.
    pub(in crate::body) fn wait(&self) {
        if self.is_open.load(Ordering::Relaxed) && !self.is_waiting.swap(true, Ordering::Relaxed) {
            self.holding.waiting.fetch_add(1, Ordering::Relaxed);
            self.holding.settle();
        }
    }

    /// Records that no more of the body will be taken.
    pub(in crate::body) fn close(&self) {
        self.resume();
        if self.is_open.swap(false, Ordering::Relaxed) {
            self.holding.open.fetch_sub(1, Ordering::Relaxed);
            self.holding.settle();
        }
    }

    /// A waker that wakes `task` when there is data.
    pub(in crate::body) fn waker(self: &Arc<Self>, task: &Waker) -> Waker {
        Waker::from(Arc::new(WakeFlag {
            part: Arc::clone(self),
            task: task.clone(),
        }))
    }

    fn resume(&self) {
        if self.is_waiting.swap(false, Ordering::Relaxed) {
            self.holding.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for StreamShare {
    fn drop(&mut self) {
        self.close();
    }
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.part.resume();
        self.task.wake_by_ref();
    }
}
