//! Limits how often one kind of log line is written, so that clients cannot fill the log.
//!
//! Used for lines that a client can cause without authentication, such as the line about a failed TLS handshake.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Admits [`MAX_LINES`] lines of one kind in each [`WINDOW`], and counts the lines that it suppresses.
#[derive(Debug, Default)]
pub struct LogLimiter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window_start: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl LogLimiter {
    /// Returns `Some` if a line may be written now, with the number of lines that were suppressed since the last one.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        self.admit_up_to(MAX_LINES, now)
    }

    /// As [`Self::admit`], but with one line in each window, for lines that differ in nothing an operator needs.
    pub fn admit_one(&self, now: Instant) -> Option<u64> {
        self.admit_up_to(1, now)
    }

    fn admit_up_to(&self, max_lines: u32, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let has_ended = |start| now.saturating_duration_since(start) >= WINDOW;
        if state.window_start.is_none_or(has_ended) {
            state.window_start = Some(now);
            state.admitted = 0;
        }
        if state.admitted < max_lines {
            state.admitted += 1;
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
        let mut admitted = Vec::new();
        for second in 0..150 {
            for _ in 0..10 {
                admitted.extend(limiter.admit(start + Duration::from_secs(second)));
            }
        }
        assert_eq!(admitted.len(), 30);
        assert_eq!(admitted.iter().sum::<u64>(), 2 * (600 - 10));
        assert_eq!((admitted[9], admitted[10], admitted[11]), (0, 590, 0));
    }
}
