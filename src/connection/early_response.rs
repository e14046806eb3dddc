//! Early responses on HTTP/2: the proxy has responded while the client is still sending its request.
//!
//! `hyper` drops the stream with the last byte of such a response, and `h2` then resets it with NO_ERROR (RFC 9113 section 8.1).
//! A client that is busy sending receives the response and the reset together, and some clients report the reset alone: curl
//! 7.88 prints no status and exits with 92. So `h2_executor` keeps the stream for [`READ_GRACE`] after the response, during
//! which the client can read the response and end or reset its stream itself.
//!
//! A stream that is kept costs no memory for what the client sends: the request body is dropped, so that `h2` discards DATA on
//! arrival, returns the bytes to the window of the connection, and grants none to the stream. `h2` still checks the declared
//! length. The client therefore stops when the window that it had is used up.
//!
//! The number of kept streams is bounded: one connection may have half of `limits.h2_streams`, and all connections together
//! [`MAX_KEPT_STREAMS`]. Of these, the clients of one network group (an IPv4 address, or an IPv6 /48) may have a quarter of what
//! is free. A stream beyond the bound is reset immediately.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::shutdown::ShutdownSignal;
use super::state::ConnectionState;
use crate::net::addr::ClientNetworkGroup;

/// The streams of all connections that are kept after an early response.
#[derive(Debug, Default)]
pub struct EarlyResponses {
    kept: Mutex<KeptStreams>,
}

#[derive(Debug, Default)]
struct KeptStreams {
    count: usize,
    /// The number of each group. No entry is zero, so the map is never larger than the number of kept streams.
    by_group: HashMap<ClientNetworkGroup, usize>,
}

impl EarlyResponses {
    /// Counts one more stream of the group. Returns false, and counts nothing, if the group is at its limit.
    ///
    /// A group may have a quarter of what is free, so that a group that takes all that it can get leaves room for others, and so
    /// do many such groups.
    fn try_acquire(&self, group: ClientNetworkGroup) -> bool {
        let mut kept = self.kept.lock();
        let free = MAX_KEPT_STREAMS.saturating_sub(kept.count);
        let of_group = kept.by_group.get(&group).copied().unwrap_or_default();
        if of_group >= free / 4 {
            return false;
        }
        kept.count += 1;
        kept.by_group.insert(group, of_group + 1);
        true
    }

    fn release(&self, group: ClientNetworkGroup) {
        let mut kept = self.kept.lock();
        kept.count = kept.count.saturating_sub(1);
        if let Some(of_group) = kept.by_group.get_mut(&group) {
            *of_group = of_group.saturating_sub(1);
            if *of_group == 0 {
                kept.by_group.remove(&group);
            }
        }
    }
}

/// The streams of one connection that are kept after an early response.
#[derive(Debug)]
pub(crate) struct EarlyStreams {
    all: Arc<EarlyResponses>,
    group: ClientNetworkGroup,
    kept: Cell<usize>,
    max_kept: usize,
    state: Rc<ConnectionState>,
    shutdown: ShutdownSignal,
}

impl EarlyStreams {
    /// Creates the account of a connection that may have `max_streams` concurrent streams, of a client of `group`.
    pub(crate) fn new(
        all: &Arc<EarlyResponses>,
        group: ClientNetworkGroup,
        max_streams: u32,
        state: &Rc<ConnectionState>,
        shutdown: ShutdownSignal,
    ) -> Self {
        let max_streams = usize::try_from(max_streams).unwrap_or(usize::MAX);
        Self {
            all: Arc::clone(all),
            group,
            kept: Cell::new(0),
            max_kept: (max_streams / 2).max(1),
            state: Rc::clone(state),
            shutdown,
        }
    }

    /// Returns when a stream whose response is complete may be dropped: after the grace period, or as soon as the client has
    /// ended the requests of all its streams, or when the graceful shutdown has lasted for its own grace period.
    pub(crate) async fn keep_stream(&self) {
        let requests_ended = self.state.requests_ended();
        if !self.state.has_open_requests() {
            return;
        }
        let Some(_kept) = self.try_acquire() else {
            return;
        };
        tokio::select! {
            () = requests_ended => {}
            () = tokio::time::sleep(READ_GRACE) => {}
            () = self.shutdown.clone().grace_elapsed() => {}
        }
    }

    fn try_acquire(&self) -> Option<KeptStream<'_>> {
        let kept = self.kept.get();
        if kept >= self.max_kept || !self.all.try_acquire(self.group) {
            return None;
        }
        self.kept.set(kept + 1);
        Some(KeptStream(self))
    }
}

/// One kept stream. It is counted until this value is dropped.
struct KeptStream<'a>(&'a EarlyStreams);

impl Drop for KeptStream<'_> {
    fn drop(&mut self) {
        self.0.kept.set(self.0.kept.get().saturating_sub(1));
        self.0.all.release(self.0.group);
    }
}

/// How long a client has to read the response: as long as in the lingering close of HTTP/1, and as nginx's
/// `lingering_timeout`.
const READ_GRACE: Duration = Duration::from_secs(5);
/// A kept stream costs 4 to 5 KiB, so all of them cost at most 5 MiB.
const MAX_KEPT_STREAMS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::ClientAddr;

    fn group(text: &str) -> ClientNetworkGroup {
        ClientAddr::new(text.parse().unwrap()).network().group()
    }

    fn acquire_all(all: &EarlyResponses, group: ClientNetworkGroup) -> usize {
        (0..MAX_KEPT_STREAMS * 2)
            .take_while(|_| all.try_acquire(group))
            .count()
    }

    #[test]
    fn a_greedy_group_leaves_room_and_so_do_many() {
        let all = EarlyResponses::default();
        let first = group("2001:db8:1::1");
        let acquired = acquire_all(&all, first);
        let expected = MAX_KEPT_STREAMS / 8..=MAX_KEPT_STREAMS / 4;
        assert!(expected.contains(&acquired), "{acquired}");
        // Another /64 of the same /48 has no share of its own.
        assert!(!all.try_acquire(group("2001:db8:1:2::1")));
        let others: Vec<usize> = (0..20)
            .map(|last| acquire_all(&all, group(&format!("192.0.2.{last}"))))
            .collect();
        assert!(others.iter().all(|acquired| *acquired > 0), "{others:?}");
        assert!(all.try_acquire(group("198.51.100.1")));
    }

    #[test]
    fn released_streams_leave_no_entry() {
        let all = EarlyResponses::default();
        let one = group("192.0.2.1");
        let acquired = acquire_all(&all, one);
        for _ in 0..acquired {
            all.release(one);
        }
        let kept = all.kept.lock();
        assert!(kept.count == 0 && kept.by_group.is_empty());
    }
}
