//! A counter that many threads count in without waiting for each other.
//!
//! Each thread has a cell of its own, a cache line wide: one atomic for all would move its line from core to core.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter {
    cells: [Cell; THREADS],
}

/// A cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        if let Some(cell) = self.cells.get(thread()) {
            cell.0.fetch_add(1, Relaxed);
        }
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.cells.iter().map(|cell| cell.0.load(Relaxed)).sum()
    }
}

/// A number of this thread, below [`THREADS`]; threads beyond share.
pub(crate) fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Relaxed) % THREADS;
    }
    // A thread that ends has no number any more.
    OWN.try_with(|own| *own).unwrap_or(0)
}

/// As many as there are workers at most.
pub(crate) const THREADS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_threads() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..1000).for_each(|_| counter.count()));
            }
        });
        assert_eq!(counter.get(), 40_000);
    }
}
