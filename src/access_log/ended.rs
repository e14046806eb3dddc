//! How a request ended, as its body tells or its drop; then its line is written.
//!
//! The body of the answer carries the record as its observer.

use super::Record;
use crate::body::{self, AbortReason, BodyEnd, Observer};
use crate::log::with_line_buffer;

impl Observer for Record {
    fn on_data(&mut self, bytes: usize) {
        self.counts.shard().sent(self.operation, bytes as u64);
        if let Some(running) = &self.running {
            running.transfer.sent(bytes as u64);
        }
    }

    fn on_end(mut self: Box<Self>, bytes: u64, end: BodyEnd<'_>) {
        self.facts.bytes_out = bytes;
        self.facts.ended = match end {
            BodyEnd::Whole if self.is_client_gone => CLIENT_ABORT,
            BodyEnd::Whole => "",
            BodyEnd::Broken(error) => culprit(error),
            BodyEnd::Dropped => CLIENT_ABORT,
        };
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Whose body is dropped has left, unless it was the gate that let go.
        if self.facts.ended == CLIENT_ABORT && !self.is_client_gone {
            self.facts.ended = match self.received.abort_reason() {
                Some(AbortReason::Drain) => "drain",
                Some(AbortReason::Timeout) => TIMEOUT,
                None if std::thread::panicking() => "panic",
                None => CLIENT_ABORT,
            };
        }
        let took = self.began.elapsed();
        let (shard, facts) = (self.counts.shard(), &self.facts);
        shard.request(self.operation, facts.status, took);
        if !facts.ended.is_empty() {
            shard.broken(facts.ended);
        }
        if let Some(log) = &self.log {
            with_line_buffer(|line| {
                self.write(line, log.json, took);
                log.sink.write(line.as_bytes());
            });
        }
    }
}

/// Who broke an answer off.
fn culprit(error: &body::Error) -> &'static str {
    use body::Error as E;
    match error {
        E::Client(_) | E::Reset => CLIENT_ABORT,
        E::Idle(_) | E::Slow(_) | E::Silent(_) | E::Displaced => TIMEOUT,
        E::Upstream(_) | E::TooLarge { .. } => "upstream_abort",
    }
}

pub(super) const CLIENT_ABORT: &str = "client_abort";
const TIMEOUT: &str = "timeout";
/// nginx's status for a client that left before its answer; here, for any request without one.
pub(super) const CLIENT_GONE: u16 = 499;
