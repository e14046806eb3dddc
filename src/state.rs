//! The state of a running server that outlives a snapshot: lifecycle phase, connection limits, counters, results of reloads.
//!
//! `server` creates one [`ServerState`] for the process and is the only module that changes it. The accept loop and every
//! worker thread read it, and the admin listener shows it. [`ServerState::snapshot`] is the only way from a connection to the
//! configuration in use: a connection takes the snapshot once when it starts, and each request takes it again, so that a
//! request uses one snapshot from its first byte to its last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::body::RecvBudget;
use crate::connection::EarlyResponses;
use crate::log::LogWriter;
use crate::metrics::{Connections, Counter};
use crate::net::conn_limit::ConnectionLimit;
use crate::snapshot::Snapshot;

mod history;

pub use history::History;
pub(crate) use history::{SAMPLES, Sample};

/// The state of a running server. There is one for the process.
#[derive(Debug)]
pub struct ServerState {
    snapshot: ArcSwap<Snapshot>,
    /// A [`LifecyclePhase`]. The value only grows.
    phase: AtomicU8,
    reloads: Reloads,
    history: History,
    connections: Connections,
    connection_limit: ConnectionLimit,
    recv_budget: Arc<RecvBudget>,
    early_responses: EarlyResponses,
    log: Option<LogWriter>,
}

/// The phases of a server's life, in the order in which they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecyclePhase {
    /// The sockets listen, but the server does not accept connections yet.
    Starting,
    /// The server accepts connections.
    Serving,
    /// The server still accepts connections, and reports that it is not ready, so that load balancers stop using it.
    Withdrawing,
    /// The server accepts no more connections, and finishes the requests on the open ones.
    Draining,
}

impl ServerState {
    /// Creates the state in the phase [`Starting`](LifecyclePhase::Starting). `h2_memory` bounds the bytes that unread HTTP/2
    /// uploads may occupy. `log` is the log of the process, which is shown in the metrics.
    pub fn new(
        snapshot: Snapshot,
        h2_memory: usize,
        connection_limit: ConnectionLimit,
        log: Option<LogWriter>,
    ) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            phase: AtomicU8::new(LifecyclePhase::Starting as u8),
            reloads: Reloads::new(SystemTime::now()),
            history: History::new(Instant::now(), SystemTime::now()),
            connections: Connections::default(),
            connection_limit,
            recv_budget: Arc::new(RecvBudget::new(h2_memory)),
            early_responses: EarlyResponses::default(),
            log,
        }
    }

    /// Replaces the snapshot. Requests that start from now on use the new one, and requests in progress keep theirs.
    pub fn publish(&self, snapshot: Snapshot, h2_memory: usize) {
        self.snapshot.store(Arc::new(snapshot));
        self.recv_budget.set_limit(h2_memory);
    }

    /// Enters a phase. A phase that is earlier than the current one is ignored.
    pub fn set_phase(&self, phase: LifecyclePhase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }

    /// The snapshot in use.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The current phase.
    pub fn phase(&self) -> LifecyclePhase {
        let phases = [
            LifecyclePhase::Starting,
            LifecyclePhase::Serving,
            LifecyclePhase::Withdrawing,
            LifecyclePhase::Draining,
        ];
        let phase = self.phase.load(Ordering::Relaxed);
        phases
            .into_iter()
            .find(|known| *known as u8 == phase)
            .unwrap_or(LifecyclePhase::Draining)
    }

    /// The results of reloads.
    pub fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// The request and byte counts of the last minutes.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The counters of client connections.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The limit on open client connections.
    pub fn connection_limit(&self) -> &ConnectionLimit {
        &self.connection_limit
    }

    /// The limit on the bytes that unread HTTP/2 uploads occupy.
    pub fn recv_budget(&self) -> &Arc<RecvBudget> {
        &self.recv_budget
    }

    /// The HTTP/2 streams that are kept open after a response that was sent before the end of the request body.
    pub fn early_responses(&self) -> &EarlyResponses {
        &self.early_responses
    }

    /// The log of the process. `None` in tests and in the demo, which start no log.
    pub fn log(&self) -> Option<&LogWriter> {
        self.log.as_ref()
    }
}

/// The results of reloads since the process started. `server` records them; the metrics, `/readyz` and the status page show them.
#[derive(Debug)]
pub struct Reloads {
    succeeded: Counter,
    failed: Counter,
    last: Mutex<ReloadOutcome>,
}

/// How old the configuration in use is, and whether a newer one was rejected. The start of the process counts as the first
/// successful reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadOutcome {
    /// The time when the configuration in use took effect.
    pub in_use_since: SystemTime,
    /// The time and the reason of the last failed reload since then.
    pub failed: Option<(SystemTime, String)>,
}

impl Reloads {
    /// Creates the record of a process whose first configuration took effect at `now`.
    pub fn new(now: SystemTime) -> Self {
        Self {
            succeeded: Counter::default(),
            failed: Counter::default(),
            last: Mutex::new(ReloadOutcome {
                in_use_since: now,
                failed: None,
            }),
        }
    }

    /// Records the end of a reload. `failure` is the reason of a failed one.
    pub fn record(&self, now: SystemTime, failure: Option<String>) {
        let counter = match failure {
            None => &self.succeeded,
            Some(_) => &self.failed,
        };
        counter.count();
        let mut last = self.last.lock();
        match failure {
            None => {
                *last = ReloadOutcome {
                    in_use_since: now,
                    failed: None,
                }
            }
            Some(reason) => last.failed = Some((now, reason)),
        }
    }

    /// The outcome of the last reload.
    pub fn last(&self) -> ReloadOutcome {
        self.last.lock().clone()
    }

    /// The numbers of successful and of failed reloads.
    pub fn counts(&self) -> (u64, u64) {
        (self.succeeded.get(), self.failed.get())
    }
}
