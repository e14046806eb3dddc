//! What is known of a client's body, and of how its request ended: shared by who reads, who serves and who logs.
//!
//! Made by `connection` for each request; `Inbound` counts in it, the access log reads it.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::held::{Holding, Part};

/// How much of a client's body has come, and whether all of it has; shared with the access log.
#[derive(Debug, Default)]
pub struct Received {
    bytes: AtomicU64,
    ended: AtomicBool,
    cut: OnceLock<Cut>,
    /// On HTTP/2, where what has come waits in memory.
    part: Option<Arc<Part>>,
}

/// Why the gate itself ended a request whose answer was not out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The gate drains, and the time for it was over.
    Drain,
    /// The client took nothing, or too little, for too long.
    Timeout,
}

impl Received {
    /// Of a body whose bytes count in `holding` until they are taken.
    pub fn held_in(holding: &Arc<Holding>) -> Self {
        Self {
            part: Some(Part::new(holding)),
            ..Self::default()
        }
    }

    /// Bytes that have come so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts `more` bytes; how many have come now.
    pub(super) fn count(&self, more: usize) -> u64 {
        self.bytes.fetch_add(more as u64, Ordering::Relaxed) + more as u64
    }

    /// True once the client has sent its last byte.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Notes that there is nothing to come, as for a request without a body.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.close();
    }

    /// Notes that nobody takes any more of the body.
    pub fn close(&self) {
        if let Some(part) = &self.part {
            part.close();
        }
    }

    /// Notes that the gate ends the request; the first reason stays.
    pub fn note_cut(&self, why: Cut) {
        let _ = self.cut.set(why);
    }

    /// Why the gate ended the request, if it did.
    pub fn cut(&self) -> Option<Cut> {
        self.cut.get().copied()
    }

    pub(super) fn part(&self) -> Option<&Arc<Part>> {
        self.part.as_ref()
    }
}
