//! One body's part in its connection's holding, and the waker by which it learns of new data.
//!
//! Held by [`Received`](crate::body::Received), on HTTP/2 only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use super::Holding;

/// One body's part in its connection's holding.
#[derive(Debug)]
pub(in crate::body) struct Part {
    holding: Arc<Holding>,
    is_open: AtomicBool,
    is_waiting: AtomicBool,
}

/// Wakes the task of a body that waits, and notes that it has data now.
struct Woken {
    part: Arc<Part>,
    task: Waker,
}

impl Part {
    /// Of a body that is open.
    pub(in crate::body) fn new(holding: &Arc<Holding>) -> Arc<Self> {
        holding.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            holding: Arc::clone(holding),
            is_open: AtomicBool::new(true),
            is_waiting: AtomicBool::new(false),
        })
    }

    /// The connection's.
    pub(in crate::body) fn holding(&self) -> &Holding {
        &self.holding
    }

    /// `count` bytes were taken.
    pub(in crate::body) fn take(&self, count: usize) {
        self.go_on();
        self.holding.take(count);
    }

    /// There was nothing to take; the waker of the asking was [`Self::waker`].
    pub(in crate::body) fn wait(&self) {
        if self.is_open.load(Ordering::Relaxed) && !self.is_waiting.swap(true, Ordering::Relaxed) {
            self.holding.waiting.fetch_add(1, Ordering::Relaxed);
            self.holding.settle();
        }
    }

    /// No more is taken.
    pub(in crate::body) fn close(&self) {
        self.go_on();
        if self.is_open.swap(false, Ordering::Relaxed) {
            self.holding.open.fetch_sub(1, Ordering::Relaxed);
            self.holding.settle();
        }
    }

    /// Wakes `task` once there is data.
    pub(in crate::body) fn waker(self: &Arc<Self>, task: &Waker) -> Waker {
        Waker::from(Arc::new(Woken {
            part: Arc::clone(self),
            task: task.clone(),
        }))
    }

    fn go_on(&self) {
        if self.is_waiting.swap(false, Ordering::Relaxed) {
            self.holding.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.close();
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.part.go_on();
        self.task.wake_by_ref();
    }
}
