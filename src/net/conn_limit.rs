//! Limits the open connections: in total, of one client network, and of one client network group.
//!
//! The accept loop acquires capacity before it spends anything else on a connection. A connection whose PROXY header names
//! the client is counted for that client from then on. Dropping the permit ends the count.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Counter;
use crate::net::addr::ClientAddr;
use crate::net::fair_share::{FairLimit, FairPermit, ShareRule};

/// The limit on open connections, shared by all listeners.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    max: usize,
    total: Arc<Semaphore>,
    shares: FairLimit,
    counts: Arc<ConnectionCounts>,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    accepted: Counter,
    rejected: Counter,
}

/// Capacity for one connection whose client is not known yet.
#[derive(Debug)]
pub struct Capacity {
    _permit: OwnedSemaphorePermit,
}

/// One open connection, counted for a client network until the permit is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    share: FairPermit,
    counts: Arc<ConnectionCounts>,
    // Dropped last: the connection that gets this capacity next finds the share of its client network returned.
    _capacity: Capacity,
}

impl ConnectionLimit {
    /// Creates a limit of `connections` in total and `of_one_network` from one client network. No network and no group gets more
    /// than half of the total (see [`ShareRule::AtMost`]).
    pub fn new(connections: usize, of_one_network: usize) -> Self {
        Self {
            max: connections,
            total: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            shares: FairLimit::new(connections, ShareRule::AtMost(of_one_network)),
            counts: Arc::default(),
        }
    }

    /// The number of connections that may be open at the same time.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The number of connections that were counted since the process started.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.get()
    }

    /// The number of connections that were closed because their client network or its group had too many.
    pub fn rejected(&self) -> u64 {
        self.counts.rejected.get()
    }

    /// Waits until there is capacity for one more connection.
    pub(crate) async fn acquire(&self) -> Capacity {
        match Arc::clone(&self.total).acquire_owned().await {
            Ok(permit) => Capacity { _permit: permit },
            // The semaphore is never closed.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Returns capacity for one more connection if there is any now.
    pub(crate) fn try_acquire(&self) -> Option<Capacity> {
        let permit = Arc::clone(&self.total).try_acquire_owned().ok()?;
        Some(Capacity { _permit: permit })
    }

    /// Waits until no connection is open. Connections that are counted meanwhile are waited for as well.
    pub(crate) async fn wait_until_unused(&self) {
        let all = u32::try_from(self.max).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.total.acquire_many(all).await;
    }

    /// Counts a connection of `client`. Returns `None` if its client network or the group of that network has too many.
    pub(crate) fn count(&self, capacity: Capacity, client: ClientAddr) -> Option<ConnectionPermit> {
        let Some(share) = self.shares.try_acquire(client.network()) else {
            self.counts.rejected.count();
            return None;
        };
        self.counts.accepted.count();
        Some(ConnectionPermit {
            share,
            counts: Arc::clone(&self.counts),
            _capacity: capacity,
        })
    }
}

impl ConnectionPermit {
    /// Counts the connection for `client` from now on. Returns `false`, and leaves the count as it is, if its client
    /// network or the group of that network has too many.
    pub fn reassign(&mut self, client: ClientAddr) -> bool {
        let is_reassigned = self.share.reassign(client.network());
        if !is_reassigned {
            self.counts.rejected.count();
        }
        is_reassigned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::PeerAddr;

    fn client(text: &str) -> ClientAddr {
        PeerAddr::new(text.parse().unwrap()).client()
    }

    #[tokio::test]
    async fn a_client_has_its_own_limit_and_a_closed_connection_is_no_longer_counted() {
        let limit = ConnectionLimit::new(10, 1);
        let one = limit
            .count(limit.acquire().await, client("192.0.2.1:1"))
            .unwrap();
        assert!(
            limit
                .count(limit.acquire().await, client("192.0.2.1:2"))
                .is_none()
        );
        assert!(
            limit
                .count(limit.acquire().await, client("[::ffff:192.0.2.1]:3"))
                .is_none()
        );
        let other = limit
            .count(limit.acquire().await, client("192.0.2.2:1"))
            .unwrap();
        drop(one);
        let again = limit
            .count(limit.acquire().await, client("192.0.2.1:4"))
            .unwrap();
        drop((other, again));
        assert_eq!(limit.shares.held(), 0);
        assert_eq!(limit.total.available_permits(), 10);
    }

    #[tokio::test]
    async fn the_addresses_of_a_64_share_a_limit_and_a_48_leaves_capacity_for_others() {
        let limit = ConnectionLimit::new(8, 2);
        let count = async |text: &str| limit.count(limit.acquire().await, client(text));
        let mut open = Vec::new();
        for subnet in 0..10 {
            for address in 1..5 {
                let client = format!("[2001:db8:0:{subnet}::{address}]:1");
                open.extend(count(&client).await);
            }
        }
        assert_eq!(open.len(), 4, "two of one /64, four of the /48");
        assert!(count("[2001:db8:1::1]:1").await.is_some());
        // A connection through a balancer counts for the client that its PROXY header names.
        let mut permit = count("192.0.2.1:1").await.unwrap();
        assert!(!permit.reassign(client("[2001:db8:0:ffff::1]:1")));
        assert!(permit.reassign(client("[2001:db8:1::1]:1")));
    }

    #[tokio::test(start_paused = true)]
    async fn with_all_capacity_in_use_the_next_connection_waits() {
        let limit = ConnectionLimit::new(1, 10);
        let permit = limit
            .count(limit.acquire().await, client("192.0.2.1:1"))
            .unwrap();
        let late = tokio::time::timeout(std::time::Duration::from_secs(1), limit.acquire()).await;
        assert!(late.is_err());
        drop(permit);
        limit.acquire().await;
    }
}
