//! How a connection learns that the gate is draining.
//!
//! `server` holds the [`ShutdownTrigger`]; each connection holds a [`ShutdownSignal`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// The side that says when.
#[derive(Debug)]
pub struct ShutdownTrigger {
    begun: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
    signal: watch::Sender<bool>,
}

/// The side that is told.
#[derive(Clone, Debug)]
pub struct ShutdownSignal {
    begun: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
    signal: watch::Receiver<bool>,
}

impl ShutdownTrigger {
    /// Not draining yet.
    pub fn new() -> Self {
        Self {
            begun: Arc::default(),
            cut: Arc::default(),
            signal: watch::Sender::new(false),
        }
    }

    /// A listening side for one more connection.
    pub fn listen(&self) -> ShutdownSignal {
        ShutdownSignal {
            begun: Arc::clone(&self.begun),
            cut: Arc::clone(&self.cut),
            signal: self.signal.subscribe(),
        }
    }

    /// From now on answers on HTTP/1 close their connection, and HTTP/2 connections say goodbye.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
        self.signal.send_replace(true);
    }

    /// What still runs is cut now; the log is to say so.
    pub fn force_close(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }
}

impl Default for ShutdownTrigger {
    fn default() -> Self {
        Self::new()
    }
}

impl ShutdownSignal {
    /// True once draining has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// True once the time for draining is over.
    pub fn is_over(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Returns once draining has lasted `grace`.
    pub async fn elapsed_since_start(self, grace: Duration) {
        self.started().await;
        tokio::time::sleep(grace).await;
    }

    /// Returns once draining begins; never, when the gate is gone before.
    pub async fn started(mut self) {
        if self.signal.wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
