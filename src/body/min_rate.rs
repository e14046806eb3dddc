//! The minimum rate of a transfer (`limits.min_rate`), over the time in which the proxy waits for the client.
//!
//! `RequestBody` has one monitor for what a client sends, and `connection` one for what a client reads.

use std::cell::Cell;
use std::time::Duration;

/// A minimum rate, averaged over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes per second.
    pub rate: u64,
    /// The time over which the rate is averaged.
    pub window: Duration,
}

/// Compares the rate of a client with the minimum.
///
/// Time counts only while the proxy waits for the client; a client that waits for the proxy or for the upstream is not slow.
/// The window restarts whenever the bytes of a whole window have moved. A client that becomes slow after it was fast
/// therefore has one window, and a client that is never slower than the minimum is never too slow.
///
/// A monitor belongs to one thread, so its counters are `Cell`s.
#[derive(Debug)]
pub struct RateMonitor {
    min: MinRate,
    /// Bytes that moved in the current window.
    bytes: Cell<u64>,
    /// The time for which the proxy waited for the client in the current window.
    waited: Cell<Duration>,
}

impl RateMonitor {
    /// Creates a monitor before the first byte.
    pub fn new(min: MinRate) -> Self {
        Self {
            min,
            bytes: Cell::new(0),
            waited: Cell::new(Duration::ZERO),
        }
    }

    /// Records that `bytes` moved, for which the proxy waited `waited`.
    pub fn record(&self, bytes: usize, waited: Duration) {
        let moved = self.bytes.get() + bytes as u64;
        if moved >= self.bytes_per_window() {
            self.bytes.set(0);
            self.waited.set(Duration::ZERO);
            return;
        }
        self.bytes.set(moved);
        self.waited.set(self.waited.get().saturating_add(waited));
    }

    /// How long the current wait may last before the client is too slow.
    pub fn time_left(&self) -> Duration {
        self.min.window.saturating_sub(self.waited.get())
    }

    /// The minimum rate in bytes per second.
    pub fn min_rate(&self) -> u64 {
        self.min.rate
    }

    /// The number of bytes that must move within one window.
    fn bytes_per_window(&self) -> u64 {
        let millis = u64::try_from(self.min.window.as_millis()).unwrap_or(u64::MAX);
        (self.min.rate.saturating_mul(millis) / 1000).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: MinRate = MinRate {
        rate: 1000,
        window: Duration::from_secs(60),
    };
    const SECOND: Duration = Duration::from_secs(1);

    /// Moves `bytes` after each second of waiting. Returns the second in which that was too slow.
    fn seconds_until_too_slow(monitor: &RateMonitor, bytes: usize) -> Option<u32> {
        (0..600).find(|_| {
            if monitor.time_left() < SECOND {
                return true;
            }
            monitor.record(bytes, SECOND);
            false
        })
    }

    #[test]
    fn a_client_below_the_minimum_is_too_slow_after_one_window() {
        let with_rate = |bytes| seconds_until_too_slow(&RateMonitor::new(MIN), bytes);
        assert_eq!(with_rate(1000), None);
        assert_eq!(with_rate(999), Some(60));
        assert_eq!(with_rate(1), Some(60));
        let monitor = RateMonitor::new(MIN);
        monitor.record(10_000_000, SECOND);
        assert_eq!(
            seconds_until_too_slow(&monitor, 500),
            Some(60),
            "an earlier fast transfer must not count"
        );
    }

    #[test]
    fn time_in_which_the_proxy_does_not_wait_for_the_client_does_not_count() {
        let monitor = RateMonitor::new(MIN);
        for _ in 0..10_000 {
            monitor.record(1, Duration::ZERO);
        }
        assert_eq!(monitor.time_left(), MIN.window);
    }
}
