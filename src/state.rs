//! The gate while it runs: the snapshot in use, and what outlives it.
//!
//! Made by `server`, which alone changes it; all its threads look at it, and the admin listener shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::body::RecvBudget;
use crate::connection::EarlyResponses;
use crate::log::LogWriter;
use crate::metrics::Connections;
use crate::net::conn_limit::ConnectionLimit;
use crate::snapshot::Snapshot;

mod history;
mod reloads;

pub use history::History;
pub(crate) use history::{SAMPLES, Sample};
pub use reloads::{Outcome, Reloads};

/// One for the process.
#[derive(Debug)]
pub struct ServerState {
    snapshot: ArcSwap<Snapshot>,
    /// A [`LifecyclePhase`], which only grows.
    phase: AtomicU8,
    reloads: Reloads,
    history: History,
    connections: Connections,
    slots: ConnectionLimit,
    budget: Arc<RecvBudget>,
    early_responses: Arc<EarlyResponses>,
    log: Option<LogWriter>,
}

/// Where in its life a gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecyclePhase {
    /// It does not accept yet.
    Starting,
    /// It serves.
    Serving,
    /// It accepts no more.
    Draining,
}

impl ServerState {
    /// Which does not accept yet. `h2_memory` bounds what unread HTTP/2 uploads hold, `log` is the process's own.
    pub fn new(
        snapshot: Snapshot,
        h2_memory: usize,
        slots: ConnectionLimit,
        log: Option<LogWriter>,
    ) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            phase: AtomicU8::new(LifecyclePhase::Starting as u8),
            reloads: Reloads::new(SystemTime::now()),
            history: History::new(Instant::now()),
            connections: Connections::default(),
            slots,
            budget: Arc::new(RecvBudget::new(h2_memory)),
            early_responses: Arc::default(),
            log,
        }
    }

    /// Serves from these from now on.
    pub fn publish(&self, snapshot: Snapshot, h2_memory: usize) {
        self.snapshot.store(Arc::new(snapshot));
        self.budget.set_limit(h2_memory);
    }

    /// It goes on to this phase; never back.
    pub fn set_phase(&self, phase: LifecyclePhase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }

    /// What serves now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Where in its life it is.
    pub fn phase(&self) -> LifecyclePhase {
        let phases = [
            LifecyclePhase::Starting,
            LifecyclePhase::Serving,
            LifecyclePhase::Draining,
        ];
        let phase = self.phase.load(Ordering::Relaxed);
        phases
            .into_iter()
            .find(|known| *known as u8 == phase)
            .unwrap_or(LifecyclePhase::Draining)
    }

    /// What came of reloads.
    pub fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// What went on in the last minutes.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What is counted of clients' connections.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The slots of clients' connections.
    pub fn slots(&self) -> &ConnectionLimit {
        &self.slots
    }

    /// The cap on what unread HTTP/2 uploads hold.
    pub fn budget(&self) -> &Arc<RecvBudget> {
        &self.budget
    }

    /// The HTTP/2 streams that are kept after an early response.
    pub fn early_responses(&self) -> &Arc<EarlyResponses> {
        &self.early_responses
    }

    /// The process's own log.
    pub fn log(&self) -> Option<&LogWriter> {
        self.log.as_ref()
    }
}
