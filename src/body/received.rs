//! The progress of a request body, and the reason for which the proxy aborted the request.
//!
//! `connection` creates one for each request, [`Inbound`](super::Inbound) counts bytes in it, and the access log reads it.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::held::{ConnectionShare, StreamShare};

/// How many bytes of a request body have arrived, and whether it is complete.
#[derive(Debug, Default)]
pub struct UploadState {
    bytes: AtomicU64,
    ended: AtomicBool,
    cut: OnceLock<AbortReason>,
    /// The body's share of the connection's memory; on HTTP/2 only, where received bytes wait in memory.
    part: Option<Arc<StreamShare>>,
}

/// Why the proxy aborted a request before its response was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// The graceful shutdown reached `limits.drain`.
    Drain,
    /// The client read nothing, or too little, for too long.
    Timeout,
}

impl UploadState {
    /// Creates the state of a body whose bytes count in `holding` until the upstream takes them.
    pub fn held_in(holding: &Arc<ConnectionShare>) -> Self {
        Self {
            part: Some(StreamShare::new(holding)),
            ..Self::default()
        }
    }

    /// The number of bytes that have arrived.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adds `more` bytes and returns the sum.
    pub(super) fn count(&self, more: usize) -> u64 {
        self.bytes.fetch_add(more as u64, Ordering::Relaxed) + more as u64
    }

    /// Whether the body is complete.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Records that the body is complete, or that the request has none.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.close();
    }

    /// Records that no more of the body will be read.
    pub fn close(&self) {
        if let Some(part) = &self.part {
            part.close();
        }
    }

    /// Records why the proxy aborts the request; the first reason stays.
    pub fn record_abort(&self, why: AbortReason) {
        let _ = self.cut.set(why);
    }

    /// Why the proxy aborted the request, if it did.
    pub fn cut(&self) -> Option<AbortReason> {
        self.cut.get().copied()
    }

    pub(super) fn part(&self) -> Option<&Arc<StreamShare>> {
        self.part.as_ref()
    }
}
