//! Early responses on HTTP/2: the proxy has responded while the client is still sending its request.
//!
//! `hyper` drops the stream with the last byte of such a response, and `h2` then resets it with NO_ERROR (RFC 9113
//! section 8.1). A client that is busy sending meets the response and the reset at once, and some clients report the
//! reset alone: curl 7.88 prints no status and exits with 92. So `streams` keeps the stream for [`GRACE`] after the
//! response, until which the client can read the response and end or reset its stream itself.
//!
//! A stream that is kept costs no memory for what the client sends: the request body is dropped, so that `h2` discards
//! DATA on arrival, gives the bytes back to the window of the connection, and grants none to the stream. It still checks
//! the announced length. The client is therefore stopped by the window that it had.
//!
//! The number of kept streams is bounded: one connection may have half of `limits.h2_streams`, and all connections
//! together [`MOST`], of which the clients of one network group (an IPv4 address, or an IPv6 /48) get less the fewer are
//! left. A stream beyond the bound is reset at once.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::watch::ConnectionState;
use super::{ConnectionContext, ConnectionInfo, ShutdownSignal, closing};
use crate::net::addr::ClientNetworkGroup;

/// The streams of all connections that are kept after an early response.
#[derive(Debug, Default)]
pub struct EarlyResponses {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    count: usize,
    /// No entry is zero.
    by_group: HashMap<ClientNetworkGroup, usize>,
}

/// The part of one connection.
#[derive(Debug)]
pub(super) struct EarlyStreams {
    all: Arc<EarlyResponses>,
    group: ClientNetworkGroup,
    /// Kept streams of this connection, and how many there may be.
    own: AtomicUsize,
    most: usize,
    watch: Arc<ConnectionState>,
    drain: ShutdownSignal,
}

/// The place of one kept stream; dropping it makes room again.
struct Place<'a>(&'a EarlyStreams);

impl EarlyStreams {
    pub(super) fn new(
        info: &ConnectionInfo,
        terms: &ConnectionContext<'_>,
        watch: &Arc<ConnectionState>,
    ) -> Self {
        let streams = usize::try_from(terms.settings.h2_streams).unwrap_or(usize::MAX);
        Self {
            all: Arc::clone(terms.early_responses),
            group: info.client.network().group(),
            own: AtomicUsize::new(0),
            most: (streams / 2).max(1),
            watch: Arc::clone(watch),
            drain: terms.drain.clone(),
        }
    }

    /// Returns when a stream whose response is complete may be dropped: after the grace period, or as soon as every client
    /// stream of the connection has ended, or the proxy has been shutting down for a second.
    pub(super) async fn keep(&self) {
        let ended = self.watch.requests_end();
        if !self.watch.has_open_requests() {
            return;
        }
        let Some(_place) = self.take_place() else {
            return;
        };
        tokio::select! {
            () = ended => {}
            () = tokio::time::sleep(GRACE) => {}
            () = self.drain.clone().elapsed_since_start(closing::GRACE) => {}
        }
    }

    fn take_place(&self) -> Option<Place<'_>> {
        let own = self.own.load(Ordering::Relaxed);
        if own >= self.most || !self.all.enter(self.group) {
            return None;
        }
        // All streams of a connection run on its thread.
        self.own.store(own + 1, Ordering::Relaxed);
        Some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.own.fetch_sub(1, Ordering::Relaxed);
        self.0.all.leave(self.0.group);
    }
}

impl EarlyResponses {
    /// Counts one more stream of the group, or says no. A group may have a quarter of what is free, so that a group that
    /// takes all it can get leaves room for others, and many such groups do so too.
    fn enter(&self, group: ClientNetworkGroup) -> bool {
        let mut kept = self.lock();
        let free = MOST.saturating_sub(kept.count);
        let own = kept.by_group.get(&group).copied().unwrap_or_default();
        if own >= free / 4 {
            return false;
        }
        kept.count += 1;
        kept.by_group.insert(group, own + 1);
        true
    }

    fn leave(&self, group: ClientNetworkGroup) {
        let mut kept = self.lock();
        kept.count = kept.count.saturating_sub(1);
        if let Some(own) = kept.by_group.get_mut(&group) {
            *own = own.saturating_sub(1);
            // So that the map is never larger than what is kept.
            if *own == 0 {
                kept.by_group.remove(&group);
            }
        }
    }

    /// Each change behind the lock is complete before anything can panic.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock()
    }
}

/// How long a client has to read the response: as nginx's `lingering_timeout`, and as after HTTP/1.
const GRACE: Duration = Duration::from_secs(5);
/// A kept stream costs 4 to 5 KiB, so all of them cost a few megabytes.
const MOST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::ClientAddr;

    fn group(text: &str) -> ClientNetworkGroup {
        ClientAddr::new(text.parse().unwrap()).network().group()
    }

    fn take_all(all: &EarlyResponses, group: ClientNetworkGroup) -> usize {
        (0..MOST * 2).take_while(|_| all.enter(group)).count()
    }

    #[test]
    fn a_greedy_group_leaves_room_and_so_do_many() {
        let all = EarlyResponses::default();
        let first = group("2001:db8:1::1");
        let taken = take_all(&all, first);
        assert!((MOST / 8..=MOST / 4).contains(&taken), "{taken}");
        // Another /64 of the same /48 has no share of its own, and neither has another address of the same /64.
        assert!(!all.enter(group("2001:db8:1:2::1")));
        let others: Vec<usize> = (0..20)
            .map(|last| take_all(&all, group(&format!("192.0.2.{last}"))))
            .collect();
        assert!(others.iter().all(|taken| *taken > 0), "{others:?}");
        assert!(all.enter(group("198.51.100.1")));
    }

    #[test]
    fn what_is_left_is_given_back() {
        let all = EarlyResponses::default();
        let one = group("192.0.2.1");
        let taken = take_all(&all, one);
        for _ in 0..taken {
            all.leave(one);
        }
        let kept = all.lock();
        assert!(kept.count == 0 && kept.by_group.is_empty());
    }
}
