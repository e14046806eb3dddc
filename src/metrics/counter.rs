//! A counter that many threads increment without contention.
//!
//! Each thread has a cell of its own, one cache line wide. A single atomic would move its cache line from core to
//! core with each increment.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter {
    cells: [Cell; SHARDS],
}

/// The cell of one thread, aligned to a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn count(&self) {
        if let Some(cell) = self.cells.get(thread_shard()) {
            cell.0.fetch_add(1, Relaxed);
        }
    }

    /// The sum over all threads.
    pub fn get(&self) -> u64 {
        self.cells.iter().map(|cell| cell.0.load(Relaxed)).sum()
    }
}

/// The number of the current thread's shard, below [`SHARDS`]. If there are more threads than shards, some threads
/// share one.
pub(crate) fn thread_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Relaxed) % SHARDS;
    }
    // While a thread ends, its thread-local values are gone.
    OWN.try_with(|own| *own).unwrap_or(0)
}

/// The number of shards: the default maximum of `listen.workers`.
pub(crate) const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_count_is_lost_between_threads() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..1000).for_each(|_| counter.count()));
            }
        });
        assert_eq!(counter.get(), 40_000);
    }
}
