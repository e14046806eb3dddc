//! Tells the service manager that the gate is alive, as long as every runtime of it makes progress.
//!
//! `server` starts one where a watchdog is asked for. Each worker counts up; the main runtime, which sends the message,
//! does so only when all of them have counted since the last one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::workers::Workers;
use crate::server::service_manager::SystemdNotifier;

/// A worker's count; dropped with the worker, which then is no longer waited for.
#[derive(Clone, Debug, Default)]
pub(super) struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// Counts until dropped; needs the worker's runtime.
    pub(super) async fn tick(self, every: Duration) {
        let mut ticks = ticks(every);
        loop {
            ticks.tick().await;
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        Arc::strong_count(&self.0) < HOLDERS
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts watching, where the manager asks for it; needs a runtime.
pub(super) fn start(manager: SystemdNotifier, workers: &Workers) -> Option<JoinHandle<()>> {
    let within = manager.watchdog()?;
    Some(tokio::spawn(watch(manager, within, workers.pulses())))
}

/// Runs until dropped. Two messages within `within`, as sd_watchdog_enabled(3) asks for.
async fn watch(manager: SystemdNotifier, within: Duration, pulses: Vec<Heartbeat>) {
    let mut ticks = ticks(within / 2);
    let mut seen = vec![None; pulses.len()];
    loop {
        ticks.tick().await;
        if all_alive(&pulses, &mut seen) {
            manager.alive();
        } else {
            tracing::error!(
                "a worker makes no progress; the watchdog is not told that all is well"
            );
        }
    }
}

/// Often enough that a worker that runs has counted between two messages.
pub(super) fn beat_interval(within: Duration) -> Duration {
    within / 8
}

fn all_alive(pulses: &[Heartbeat], seen: &mut [Option<u64>]) -> bool {
    let mut all = true;
    for (pulse, seen) in pulses.iter().zip(seen) {
        let now = Some(pulse.count());
        all &= pulse.is_over() || *seen != now;
        *seen = now;
    }
    all
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Who asks, who made it, and the worker's own task.
const HOLDERS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stands_still_is_seen_and_one_that_ended_is_not_missed() {
        let (running, stuck, ended) = (
            Heartbeat::default(),
            Heartbeat::default(),
            Heartbeat::default(),
        );
        let _tasks = (running.clone(), stuck.clone());
        let _made = ended.clone();
        let pulses = [running.clone(), stuck.clone(), ended];
        let mut seen = [None; 3];
        assert!(
            all_alive(&pulses, &mut seen),
            "the first look knows nothing"
        );
        running.0.fetch_add(1, Ordering::Relaxed);
        assert!(!all_alive(&pulses, &mut seen));
        running.0.fetch_add(1, Ordering::Relaxed);
        stuck.0.fetch_add(1, Ordering::Relaxed);
        assert!(all_alive(&pulses, &mut seen));
    }
}
