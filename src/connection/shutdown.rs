//! How connections learn that the proxy shuts down gracefully.
//!
//! `server` has the [`ShutdownTrigger`]; each worker and each connection has a [`ShutdownSignal`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Starts the graceful shutdown of all connections.
#[derive(Debug)]
pub struct ShutdownTrigger {
    flags: Arc<Flags>,
    started: watch::Sender<bool>,
}

/// Reports the graceful shutdown to a connection.
#[derive(Clone, Debug)]
pub struct ShutdownSignal {
    flags: Arc<Flags>,
    started: watch::Receiver<bool>,
}

/// The stage of the shutdown, for code that asks once per response and must not take the lock of the `watch` channel.
#[derive(Debug, Default)]
struct Flags {
    has_started: AtomicBool,
    is_forced: AtomicBool,
}

impl ShutdownTrigger {
    /// Creates the trigger of a shutdown that has not started.
    pub fn new() -> Self {
        Self {
            flags: Arc::default(),
            started: watch::Sender::new(false),
        }
    }

    /// Creates a signal for one more connection.
    pub fn subscribe(&self) -> ShutdownSignal {
        ShutdownSignal {
            flags: Arc::clone(&self.flags),
            started: self.started.subscribe(),
        }
    }

    /// Starts the graceful shutdown: from now on HTTP/1 responses have `Connection: close`, and HTTP/2 connections get GOAWAY.
    pub fn begin(&self) {
        self.flags.has_started.store(true, Ordering::Relaxed);
        self.started.send_replace(true);
    }

    /// Records that the caller is about to abort the requests that are still active, so that the access log can give the reason.
    pub fn force_close(&self) {
        self.flags.is_forced.store(true, Ordering::Relaxed);
    }
}

impl Default for ShutdownTrigger {
    fn default() -> Self {
        Self::new()
    }
}

impl ShutdownSignal {
    /// Whether the graceful shutdown has started.
    pub fn has_started(&self) -> bool {
        self.flags.has_started.load(Ordering::Relaxed)
    }

    /// Whether the graceful shutdown reached its time limit, so that the active requests are aborted.
    pub fn is_forced(&self) -> bool {
        self.flags.is_forced.load(Ordering::Relaxed)
    }

    /// Returns when the graceful shutdown starts. Never returns if the trigger is dropped before that.
    pub async fn started(mut self) {
        if self
            .started
            .wait_for(|has_started| *has_started)
            .await
            .is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Returns one second after the graceful shutdown started: the time for which something that is no request, such as a TLS
    /// handshake or a lingering close, may delay the shutdown.
    pub async fn grace_elapsed(self) {
        self.started().await;
        tokio::time::sleep(GRACE).await;
    }
}

const GRACE: Duration = Duration::from_secs(1);
