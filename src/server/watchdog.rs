//! Sends WATCHDOG=1 to the service manager as long as every runtime of the process makes progress.
//!
//! Each worker increments a [`Heartbeat`] on its own runtime. A task on the main runtime sends the message, and only if every
//! worker has incremented its heartbeat since the last message. So a runtime that is blocked, the main one included, makes the
//! service manager end the process. `server` starts the task if the unit has `WatchdogSec=`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::service_manager::SystemdNotifier;

/// The counter of one worker. Clones share the counter. The worker's clone is dropped when the worker ends, after which no
/// progress is expected of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// Increments the counter at an interval that suits the watchdog timeout. Never returns. Runs on the worker's runtime.
    pub(crate) async fn beat(self, watchdog_timeout: Duration) {
        let mut ticks = ticks_every(watchdog_timeout / BEATS_PER_TIMEOUT);
        loop {
            ticks.tick().await;
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn has_ended(&self) -> bool {
        Arc::strong_count(&self.0) < LIVE_CLONES
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts the task if the service manager has a watchdog. Must be called within the main runtime.
pub(crate) fn start(
    manager: SystemdNotifier,
    heartbeats: Vec<Heartbeat>,
) -> Option<JoinHandle<()>> {
    let timeout = manager.watchdog()?;
    Some(tokio::spawn(watch(manager, timeout, heartbeats)))
}

/// Sends two messages within each `timeout`, as sd_watchdog_enabled(3) recommends. Never returns.
async fn watch(manager: SystemdNotifier, timeout: Duration, heartbeats: Vec<Heartbeat>) {
    let mut ticks = ticks_every(timeout / 2);
    let mut last_counts = vec![None; heartbeats.len()];
    loop {
        ticks.tick().await;
        if all_alive(&heartbeats, &mut last_counts) {
            manager.alive();
        } else {
            tracing::error!(
                "a worker thread makes no progress; no watchdog message is sent to the service manager"
            );
        }
    }
}

fn all_alive(heartbeats: &[Heartbeat], last_counts: &mut [Option<u64>]) -> bool {
    let mut all = true;
    for (heartbeat, last_count) in heartbeats.iter().zip(last_counts) {
        let count = Some(heartbeat.count());
        all &= heartbeat.has_ended() || *last_count != count;
        *last_count = count;
    }
    all
}

fn ticks_every(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Four beats between two messages, so that a worker that makes progress is never missed.
const BEATS_PER_TIMEOUT: u32 = 8;
/// The clones that exist while the worker runs: one in `Workers`, one in the watchdog task, one in the worker's own task.
const LIVE_CLONES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_without_progress_is_noticed_and_one_that_ended_is_ignored() {
        let (running, stuck, ended) = (
            Heartbeat::default(),
            Heartbeat::default(),
            Heartbeat::default(),
        );
        let _tasks = (running.clone(), stuck.clone());
        let _in_workers = ended.clone();
        let heartbeats = [running.clone(), stuck.clone(), ended];
        let mut last_counts = [None; 3];
        assert!(
            all_alive(&heartbeats, &mut last_counts),
            "there are no counts to compare with yet"
        );
        running.0.fetch_add(1, Ordering::Relaxed);
        assert!(!all_alive(&heartbeats, &mut last_counts));
        running.0.fetch_add(1, Ordering::Relaxed);
        stuck.0.fetch_add(1, Ordering::Relaxed);
        assert!(all_alive(&heartbeats, &mut last_counts));
    }
}
