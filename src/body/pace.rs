//! The least a peer must move, over the time in which it alone is waited for.
//!
//! Held by whatever waits for a client: `Inbound` for what it sends, `connection` for what it takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many bytes a second, averaged over a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Bytes a second.
    pub rate: u64,
    /// The time over which a peer may be slower for a while.
    pub window: Duration,
}

/// How a peer does against its floor.
///
/// Time counts only while the peer is waited for: one that waits for the gate, or for what is behind the gate, is not
/// slow. The window begins anew whenever its bytes have moved, so a peer that becomes slow after it was fast is given
/// one window, and one that is never slower than the floor is never late.
#[derive(Debug)]
pub struct Pace {
    floor: Floor,
    bytes: AtomicU64,
    /// Microseconds of waiting in the present window.
    waited: AtomicU64,
}

impl Pace {
    /// Nothing has moved yet.
    pub fn new(floor: Floor) -> Self {
        Self {
            floor,
            bytes: AtomicU64::new(0),
            waited: AtomicU64::new(0),
        }
    }

    /// `bytes` moved, after a wait of `waited` for the peer.
    pub fn moved(&self, bytes: usize, waited: Duration) {
        let moved = self.bytes.load(Ordering::Relaxed) + bytes as u64;
        if moved >= self.due() {
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

    /// How long the present wait may last before the peer is too slow.
    pub fn left(&self) -> Duration {
        let waited = Duration::from_micros(self.waited.load(Ordering::Relaxed));
        self.floor.window.saturating_sub(waited)
    }

    /// The floor's bytes a second.
    pub fn rate(&self) -> u64 {
        self.floor.rate
    }

    /// Bytes that must move in a window.
    fn due(&self) -> u64 {
        let millis = u64::try_from(self.floor.window.as_millis()).unwrap_or(u64::MAX);
        (self.floor.rate.saturating_mul(millis) / 1000).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Floor = Floor {
        rate: 1000,
        window: Duration::from_secs(60),
    };
    const SECOND: Duration = Duration::from_secs(1);

    /// Moves `bytes` after each second of waiting; when that is too slow.
    fn late_after(pace: &Pace, bytes: usize) -> Option<u32> {
        (0..600).find(|_| {
            if pace.left() < SECOND {
                return true;
            }
            pace.moved(bytes, SECOND);
            false
        })
    }

    #[test]
    fn only_a_peer_below_the_floor_is_late_and_after_one_window() {
        assert_eq!(late_after(&Pace::new(FLOOR), 1000), None);
        assert_eq!(late_after(&Pace::new(FLOOR), 999), Some(60));
        assert_eq!(late_after(&Pace::new(FLOOR), 1), Some(60));
        let pace = Pace::new(FLOOR);
        pace.moved(10_000_000, SECOND);
        assert_eq!(
            late_after(&pace, 500),
            Some(60),
            "what was fast does not count"
        );
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_peer_does_not_count() {
        let pace = Pace::new(FLOOR);
        for _ in 0..10_000 {
            pace.moved(1, Duration::ZERO);
        }
        assert_eq!(pace.left(), FLOOR.window);
    }
}
