//! Bounds how many connections are open: in all, for one client network, and for one client network group.
//!
//! The accept loop takes a slot before anything costly happens. The slot is passed on when a balancer says who the client
//! is, and given back when it is dropped.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Counter;
use crate::net::addr::{ClientAddr, ClientNetwork};
use crate::net::fair_share::FairShare;

/// The connections that may be open at once, shared by all listeners.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    most: usize,
    all: Arc<Semaphore>,
    clients: Arc<Clients>,
}

#[derive(Debug)]
struct Clients {
    open: Mutex<FairShare>,
    accepted: Counter,
    refused: Counter,
}

/// Room for one connection whose client is not known yet.
#[derive(Debug)]
pub struct Capacity {
    _permit: OwnedSemaphorePermit,
}

/// One open connection of one client network; dropping it makes room again.
#[derive(Debug)]
pub struct ConnectionPermit {
    _room: Capacity,
    network: ClientNetwork,
    clients: Arc<Clients>,
}

impl ConnectionLimit {
    /// At most `connections` in all and `of_one_network` from one client network. No network
    /// and no group holds more than half (see `FairShare`).
    pub fn new(connections: usize, of_one_network: usize) -> Self {
        let clients = Clients {
            open: Mutex::new(FairShare::new(connections, of_one_network)),
            accepted: Counter::default(),
            refused: Counter::default(),
        };
        Self {
            most: connections,
            all: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            clients: Arc::new(clients),
        }
    }

    /// How many connections may be open.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Connections that got a slot so far.
    pub fn accepted(&self) -> u64 {
        self.clients.accepted.get()
    }

    /// Connections that were closed because their client network or its group had too many.
    pub fn refused(&self) -> u64 {
        self.clients.refused.get()
    }

    /// Waits until there is room for one more connection.
    pub(crate) async fn room(&self) -> Capacity {
        match Arc::clone(&self.all).acquire_owned().await {
            Ok(permit) => Capacity { _permit: permit },
            // The semaphore is never closed.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Room for one more connection, if there is any.
    pub(crate) fn try_acquire(&self) -> Option<Capacity> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Capacity { _permit: permit })
    }

    /// Counts a connection of `client`. Returns `None` if its client network or the group of that network has too many.
    pub(crate) fn take(&self, room: Capacity, client: ClientAddr) -> Option<ConnectionPermit> {
        let network = client.network();
        if !self.clients.lock().take(network) {
            self.clients.refused.count();
            return None;
        }
        self.clients.accepted.count();
        Some(ConnectionPermit {
            _room: room,
            network,
            clients: Arc::clone(&self.clients),
        })
    }
}

impl ConnectionPermit {
    /// Counts the connection for `client` from now on. Returns `false`, and leaves the count as it is, if its client
    /// network or the group of that network has too many.
    pub fn reassign(&mut self, client: ClientAddr) -> bool {
        let network = client.network();
        let is_passed = self.clients.lock().pass(self.network, network);
        if is_passed {
            self.network = network;
        } else {
            self.clients.refused.count();
        }
        is_passed
    }
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, FairShare> {
        self.open.lock()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.clients.lock().give_back(self.network);
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
    async fn a_client_has_its_own_bound_and_gets_its_slot_back() {
        let slots = ConnectionLimit::new(10, 1);
        let one = slots
            .take(slots.room().await, client("192.0.2.1:1"))
            .unwrap();
        assert!(
            slots
                .take(slots.room().await, client("192.0.2.1:2"))
                .is_none()
        );
        assert!(
            slots
                .take(slots.room().await, client("[::ffff:192.0.2.1]:3"))
                .is_none()
        );
        let other = slots
            .take(slots.room().await, client("192.0.2.2:1"))
            .unwrap();
        drop(one);
        let again = slots
            .take(slots.room().await, client("192.0.2.1:4"))
            .unwrap();
        drop((other, again));
        assert_eq!(slots.clients.lock().held(), 0);
        assert_eq!(slots.all.available_permits(), 10);
    }

    #[tokio::test]
    async fn the_addresses_of_a_64_share_their_bound_and_a_48_leaves_room_for_others() {
        let slots = ConnectionLimit::new(8, 2);
        let take = async |text: &str| slots.take(slots.room().await, client(text));
        let mut open = Vec::new();
        for subnet in 0..10 {
            for address in 1..5 {
                let client = format!("[2001:db8:0:{subnet}::{address}]:1");
                open.extend(take(&client).await);
            }
        }
        assert_eq!(open.len(), 4, "two of one /64, four of the /48");
        assert!(take("[2001:db8:1::1]:1").await.is_some());
        // A connection that a balancer passes on counts for whom the header names.
        let mut slot = take("192.0.2.1:1").await.unwrap();
        assert!(!slot.reassign(client("[2001:db8:0:ffff::1]:1")));
        assert!(slot.reassign(client("[2001:db8:1::1]:1")));
    }

    #[tokio::test(start_paused = true)]
    async fn with_every_slot_taken_the_next_one_waits() {
        let slots = ConnectionLimit::new(1, 10);
        let slot = slots
            .take(slots.room().await, client("192.0.2.1:1"))
            .unwrap();
        let late = tokio::time::timeout(std::time::Duration::from_secs(1), slots.room()).await;
        assert!(late.is_err());
        drop(slot);
        slots.room().await;
    }
}
