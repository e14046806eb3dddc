//! How long a request has been waiting for its own client.
//!
//! The codec reports it for a request body that the client does not send, and `answer` for a response body that the client
//! does not take; the request limit reads it from any thread. Time in which the proxy waits for the upstream does not count.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

/// The wait of one request. Only the task of the request changes it.
#[derive(Debug)]
pub(crate) struct ClientWait {
    start: Instant,
    /// Milliseconds from `start` to the beginning of the current wait, plus one; 0 while the client is not waited for.
    since: AtomicU64,
    /// Milliseconds of earlier waits, since the client last moved [`PROGRESS`] bytes.
    waited: AtomicU64,
    /// Bytes that the client has moved since then.
    moved: AtomicU64,
}

/// A client that moves less than this within a wait still counts as waiting, so a byte now and then changes nothing.
const PROGRESS: u64 = 64 * 1024;

impl ClientWait {
    /// Of a request that does not wait for its client.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            since: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            moved: AtomicU64::new(0),
        }
    }

    /// The client has the next move. A wait that has begun already goes on.
    pub(super) fn begin(&self) {
        if !self.is_waiting() {
            self.since.store(self.clock(Instant::now()) + 1, Relaxed);
        }
    }

    /// The upstream has the next move.
    pub(super) fn end(&self) {
        let since = self.since.load(Relaxed);
        if since > 0 {
            let waited = (self.clock(Instant::now()) + 1).saturating_sub(since);
            self.waited.fetch_add(waited, Relaxed);
            self.since.store(0, Relaxed);
        }
    }

    /// The client sent or took so many bytes.
    pub(super) fn moved(&self, bytes: u64) {
        let moved = self.moved.load(Relaxed).saturating_add(bytes);
        if moved < PROGRESS {
            self.moved.store(moved, Relaxed);
            return;
        }
        self.moved.store(0, Relaxed);
        self.waited.store(0, Relaxed);
        if self.is_waiting() {
            self.since.store(self.clock(Instant::now()) + 1, Relaxed);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.since.load(Relaxed) > 0
    }

    /// How long the request has waited for its client; `None` when it does not wait for the client now.
    pub(super) fn duration(&self, now: Instant) -> Option<Duration> {
        let since = self.since.load(Relaxed).checked_sub(1)?;
        let current = self.clock(now).saturating_sub(since);
        let total = current.saturating_add(self.waited.load(Relaxed));
        Some(Duration::from_millis(total))
    }

    fn clock(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(millis: u64) {
        tokio::time::advance(Duration::from_millis(millis)).await;
    }

    fn waited(wait: &ClientWait) -> Option<u128> {
        let waited = wait.duration(Instant::now());
        waited.map(|waited| waited.as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_time_of_the_client_counts() {
        let wait = ClientWait::new(Instant::now());
        pass(500).await;
        assert_eq!(waited(&wait), None);
        wait.begin();
        pass(300).await;
        wait.begin();
        assert_eq!(waited(&wait), Some(300));
        wait.end();
        pass(9000).await;
        assert_eq!(waited(&wait), None);
        wait.begin();
        pass(200).await;
        assert_eq!(waited(&wait), Some(500));
    }

    #[tokio::test(start_paused = true)]
    async fn single_bytes_are_no_progress() {
        let wait = ClientWait::new(Instant::now());
        wait.begin();
        for _ in 0..10 {
            pass(100).await;
            wait.moved(1);
            wait.end();
            wait.begin();
        }
        assert_eq!(waited(&wait), Some(1000));
        wait.moved(PROGRESS);
        assert_eq!(waited(&wait), Some(0));
        pass(100).await;
        assert_eq!(waited(&wait), Some(100));
    }
}
