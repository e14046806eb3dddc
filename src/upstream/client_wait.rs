//! How long a request has been waiting for its own client.
//!
//! Between two polls of a response body, and throughout a tunnel, a request counts as waiting for its client, because the poll that
//! follows comes when the client has taken what it got before.
//!
//! The `http1` codec reports the wait for a request body that the client does not send, and `response_body` the wait for a
//! client that does not read the response. `request_limit` reads the duration from any thread. Time in which the proxy waits
//! for the upstream does not count.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

/// The time that one request has waited for its client. Only the task of the request changes it.
#[derive(Debug)]
pub(crate) struct ClientWait {
    created: Instant,
    /// Milliseconds from `created` to the beginning of the current wait, plus one; 0 if the request does not wait for the
    /// client.
    waiting_since: AtomicU64,
    /// Milliseconds of earlier waits since the client last transferred [`PROGRESS_BYTES`].
    earlier_waits: AtomicU64,
    /// The bytes that the client has transferred since then.
    transferred: AtomicU64,
}

/// The number of bytes that a client must send or read before its earlier waits are forgotten. A client that transfers a
/// byte now and then still counts as waiting.
const PROGRESS_BYTES: u64 = 64 * 1024;

impl ClientWait {
    /// Creates the state of a request that does not wait for its client.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            created: now,
            waiting_since: AtomicU64::new(0),
            earlier_waits: AtomicU64::new(0),
            transferred: AtomicU64::new(0),
        }
    }

    /// Records that the request waits for the client. A wait that has begun already continues.
    pub(crate) fn begin(&self) {
        if !self.is_waiting() {
            self.restart();
        }
    }

    /// Records that the request waits for the upstream.
    pub(crate) fn end(&self) {
        let since = self.waiting_since.load(Relaxed);
        if since > 0 {
            let waited = (self.clock(Instant::now()) + 1).saturating_sub(since);
            self.earlier_waits.fetch_add(waited, Relaxed);
            self.waiting_since.store(0, Relaxed);
        }
    }

    /// Records that the client sent or read `bytes`.
    pub(crate) fn record_transfer(&self, bytes: u64) {
        let transferred = self.transferred.load(Relaxed).saturating_add(bytes);
        if transferred < PROGRESS_BYTES {
            self.transferred.store(transferred, Relaxed);
            return;
        }
        self.transferred.store(0, Relaxed);
        self.earlier_waits.store(0, Relaxed);
        if self.is_waiting() {
            self.restart();
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting_since.load(Relaxed) > 0
    }

    /// How long the request has waited for its client. `None` if it does not wait for the client now.
    pub(crate) fn duration(&self, now: Instant) -> Option<Duration> {
        let since = self.waiting_since.load(Relaxed).checked_sub(1)?;
        let current = self.clock(now).saturating_sub(since);
        let total = current.saturating_add(self.earlier_waits.load(Relaxed));
        Some(Duration::from_millis(total))
    }

    fn restart(&self) {
        self.waiting_since
            .store(self.clock(Instant::now()) + 1, Relaxed);
    }

    fn clock(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.created).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn advance(millis: u64) {
        tokio::time::advance(Duration::from_millis(millis)).await;
    }

    fn waited(wait: &ClientWait) -> Option<u128> {
        let waited = wait.duration(Instant::now());
        waited.map(|waited| waited.as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_time_of_the_client_counts() {
        let wait = ClientWait::new(Instant::now());
        advance(500).await;
        assert_eq!(waited(&wait), None);
        wait.begin();
        advance(300).await;
        wait.begin();
        assert_eq!(waited(&wait), Some(300));
        wait.end();
        advance(9000).await;
        assert_eq!(waited(&wait), None);
        wait.begin();
        advance(200).await;
        assert_eq!(waited(&wait), Some(500));
    }

    #[tokio::test(start_paused = true)]
    async fn single_bytes_are_no_progress() {
        let wait = ClientWait::new(Instant::now());
        wait.begin();
        for _ in 0..10 {
            advance(100).await;
            wait.record_transfer(1);
            wait.end();
            wait.begin();
        }
        assert_eq!(waited(&wait), Some(1000));
        wait.record_transfer(PROGRESS_BYTES);
        assert_eq!(waited(&wait), Some(0));
        advance(100).await;
        assert_eq!(waited(&wait), Some(100));
    }
}
