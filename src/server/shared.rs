//! What all threads of the gate look at: the snapshot in use, and what outlives it.
//!
//! Made by `server`, which alone changes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::admin::{Gate, History, Phase, Reloads};
use crate::body::Budget;
use crate::listen::Slots;
use crate::log::Sink;
use crate::metrics::Connections;
use crate::snapshot::Snapshot;

/// What every connection looks at.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) snapshot: ArcSwap<Snapshot>,
    pub(super) budget: Arc<Budget>,
    pub(super) connections: Connections,
    pub(super) slots: Slots,
    pub(super) phase: Life,
    pub(super) reloads: Reloads,
    pub(super) history: History,
    pub(super) log: Option<Sink>,
}

/// Where in its life the gate is.
#[derive(Debug, Default)]
pub(super) struct Life {
    serves: AtomicBool,
    drains: AtomicBool,
}

impl Life {
    pub(super) fn serves(&self) {
        self.serves.store(true, Ordering::Relaxed);
    }

    pub(super) fn drains(&self) {
        self.drains.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// What serves now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Where connections count.
    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The cap on what HTTP/2 uploads hold.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

impl Gate for Shared {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    fn phase(&self) -> Phase {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        match (is(&self.phase.serves), is(&self.phase.drains)) {
            (_, true) => Phase::Draining,
            (true, false) => Phase::Serving,
            (false, false) => Phase::Starting,
        }
    }

    fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    fn history(&self) -> &History {
        &self.history
    }

    fn connections(&self) -> &Connections {
        &self.connections
    }

    fn slots(&self) -> &Slots {
        &self.slots
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn log(&self) -> Option<&Sink> {
        self.log.as_ref()
    }
}
