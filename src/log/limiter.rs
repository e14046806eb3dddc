//! How often one kind of line is written: clients decide how often it is caused, and must not fill the log.
//!
//! Used where a client can cause a line without proving anything, such as a failed TLS handshake.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Admits `LINES` lines of one kind in each window of a minute, and counts those that it leaves out.
#[derive(Debug, Default)]
pub struct LogLimiter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window_began: Option<Instant>,
    admitted: u32,
    left_out: u64,
}

impl LogLimiter {
    /// Whether a line may be written now: then the number of lines that were left out since the last one.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let is_over = |began| now.saturating_duration_since(began) >= WINDOW;
        if state.window_began.is_none_or(is_over) {
            state.window_began = Some(now);
            state.admitted = 0;
        }
        if state.admitted < LINES {
            state.admitted += 1;
            Some(std::mem::take(&mut state.left_out))
        } else {
            state.left_out += 1;
            None
        }
    }
}

/// Lines of one kind in one window. Enough to see that several clients are concerned, and which.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_ten_lines_a_minute_and_a_count() {
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
