//! Limits how often one kind of log line is written, so that clients cannot fill the log.
//!
//! Used for lines that a client can cause without authentication, such as the line about a failed TLS handshake.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Allows [`MAX_LINES`] lines of one kind in each [`WINDOW`], and counts the lines that it suppresses.
#[derive(Debug, Default)]
pub struct LogLimiter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window_start: Option<Instant>,
    taken: u32,
    suppressed: u64,
}

impl LogLimiter {
    /// Returns `Some` if a line may be written now, with the number of lines that were suppressed since the last one.
    pub fn take_line(&self, now: Instant) -> Option<u64> {
        self.take_up_to(MAX_LINES, now)
    }

    /// As [`Self::take_line`], but with one line in each window, for lines that differ in nothing an operator needs.
    pub fn take_only_line(&self, now: Instant) -> Option<u64> {
        self.take_up_to(1, now)
    }

    fn take_up_to(&self, max_lines: u32, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let has_ended = |start| now.saturating_duration_since(start) >= WINDOW;
        if state.window_start.is_none_or(has_ended) {
            state.window_start = Some(now);
            state.taken = 0;
        }
        if state.taken < max_lines {
            state.taken += 1;
            Some(std::mem::take(&mut state.suppressed))
        } else {
            state.suppressed += 1;
            None
        }
    }
}

/// The maximum number of lines in one window: enough to see that several clients are affected, and which.
const MAX_LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_causes_ten_lines_per_minute_and_a_count() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        let mut taken = Vec::new();
        for second in 0..150 {
            for _ in 0..10 {
                taken.extend(limiter.take_line(start + Duration::from_secs(second)));
            }
        }
        assert_eq!(taken.len(), 30);
        assert_eq!(taken.iter().sum::<u64>(), 2 * (600 - 10));
        assert_eq!((taken[9], taken[10], taken[11]), (0, 590, 0));
    }
}
