//! The minimum rate of a transfer (`limits.min_rate`), over the time in which the proxy waits for the client.
//!
//! `Inbound` has one monitor for what a client sends, and `connection` one for what a client reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A minimum rate, averaged over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes per second.
    pub rate: u64,
    /// The time over which the rate is averaged.
    pub window: Duration,
}

/// Compares a client's rate with the minimum.
///
/// Time counts only while the proxy waits for the client; a client that waits for the proxy or for the upstream is not slow.
/// The window restarts whenever the bytes of a whole window have moved. A client that becomes slow after it was fast
/// therefore has one window, and a client that is never slower than the minimum is never too slow.
#[derive(Debug)]
pub struct RateMonitor {
    floor: MinRate,
    bytes: AtomicU64,
    /// Microseconds in which the proxy waited for the client, in the current window.
    waited: AtomicU64,
}

impl RateMonitor {
    /// Creates a monitor before the first byte.
    pub fn new(floor: MinRate) -> Self {
        Self {
            floor,
            bytes: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        }
    }

    /// Records `bytes`, for which the proxy waited `waited`.
    pub fn moved(&self, bytes: usize, waited: Duration) {
        let moved = self.bytes.load(Ordering::Relaxed) + bytes as u64;
        if moved >= self.deadline() {
            self.bytes.store(0, Ordering::Relaxed);
            self.waited.store(0, Ordering::Relaxed);
            return;
        }
        self.bytes.store(moved, Ordering::Relaxed);
        if !waited.is_zero() {
            let more = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
            let sum = self.waited.load(Ordering::Relaxed).saturating_add(more);
            self.waited.store(sum, Ordering::Relaxed);
        }
    }

    /// How long the current wait may last before the client is too slow.
    pub fn time_left(&self) -> Duration {
        let waited = Duration::from_micros(self.waited.load(Ordering::Relaxed));
        self.floor.window.saturating_sub(waited)
    }

    /// The minimum rate in bytes per second.
    pub fn rate(&self) -> u64 {
        self.floor.rate
    }

    /// The number of bytes that must move within one window.
    fn deadline(&self) -> u64 {
        let millis = u64::try_from(self.floor.window.as_millis()).unwrap_or(u64::MAX);
        (self.floor.rate.saturating_mul(millis) / 1000).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: MinRate = MinRate {
        rate: 1000,
        window: Duration::from_secs(60),
    };
    const SECOND: Duration = Duration::from_secs(1);

    /// Moves `bytes` after each second of waiting; when that is too slow.
    fn late_after(pace: &RateMonitor, bytes: usize) -> Option<u32> {
        (0..600).find(|_| {
            if pace.time_left() < SECOND {
                return true;
            }
            pace.moved(bytes, SECOND);
            false
        })
    }

    #[test]
    fn only_a_peer_below_the_floor_is_late_and_after_one_window() {
        assert_eq!(late_after(&RateMonitor::new(FLOOR), 1000), None);
        assert_eq!(late_after(&RateMonitor::new(FLOOR), 999), Some(60));
        assert_eq!(late_after(&RateMonitor::new(FLOOR), 1), Some(60));
        let pace = RateMonitor::new(FLOOR);
        pace.moved(10_000_000, SECOND);
        assert_eq!(
            late_after(&pace, 500),
            Some(60),
            "what was fast does not count"
        );
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_peer_does_not_count() {
        let pace = RateMonitor::new(FLOOR);
        for _ in 0..10_000 {
            pace.moved(1, Duration::ZERO);
        }
        assert_eq!(pace.time_left(), FLOOR.window);
    }
}
