//! Slots: how many connections are open, in all and for one client, counted by guard.
//!
//! Taken by the accept loop before anything costly happens, passed on when a balancer says who the client is, given back
//! by dropping.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::addr::ClientAddr;
use crate::metrics::Counter;

/// The connections that may be open at once, shared by all listeners.
#[derive(Clone, Debug)]
pub struct Slots {
    most: usize,
    all: Arc<Semaphore>,
    clients: Arc<Clients>,
}

#[derive(Debug)]
struct Clients {
    most: usize,
    open: Mutex<HashMap<ClientAddr, usize>>,
    accepted: Counter,
    refused: Counter,
}

/// Room for one connection whose client is not known yet.
#[derive(Debug)]
pub struct Room {
    _permit: OwnedSemaphorePermit,
}

/// One open connection of one client; dropping it makes room again.
#[derive(Debug)]
pub struct Slot {
    _room: Room,
    client: ClientAddr,
    clients: Arc<Clients>,
}

impl Slots {
    /// At most `connections` in all, `of_one_client` from one address.
    pub fn new(connections: usize, of_one_client: usize) -> Self {
        let clients = Clients {
            most: of_one_client,
            open: Mutex::default(),
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

    /// Connections that were closed since their client had too many.
    pub fn refused(&self) -> u64 {
        self.clients.refused.get()
    }

    /// Waits until there is room for one more connection.
    pub(super) async fn room(&self) -> Room {
        match Arc::clone(&self.all).acquire_owned().await {
            Ok(permit) => Room { _permit: permit },
            // The semaphore is never closed.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Room for one more connection, if there is any.
    pub(super) fn room_now(&self) -> Option<Room> {
        let permit = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Room { _permit: permit })
    }

    /// Counts a connection of `client`, or says no when it has too many.
    pub(super) fn take(&self, room: Room, client: ClientAddr) -> Option<Slot> {
        let mut open = self.clients.lock();
        let count = open.entry(client).or_insert(0);
        if *count >= self.clients.most {
            self.clients.refused.count();
            return None;
        }
        *count += 1;
        self.clients.accepted.count();
        Some(Slot {
            _room: room,
            client,
            clients: Arc::clone(&self.clients),
        })
    }
}

impl Slot {
    /// Counts the connection for `client` from now on; says no, and leaves it where it is, when that one has too many.
    pub fn pass_to(&mut self, client: ClientAddr) -> bool {
        if client == self.client {
            return true;
        }
        let mut open = self.clients.lock();
        let count = open.entry(client).or_insert(0);
        if *count >= self.clients.most {
            self.clients.refused.count();
            return false;
        }
        *count += 1;
        leave(&mut open, self.client);
        self.client = client;
        true
    }
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClientAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry goes at zero, so that the map is never larger than what is open.
fn leave(open: &mut HashMap<ClientAddr, usize>, client: ClientAddr) {
    if let Some(count) = open.get_mut(&client) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            open.remove(&client);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        leave(&mut self.clients.lock(), self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PeerAddr;

    fn client(text: &str) -> ClientAddr {
        PeerAddr::new(text.parse().unwrap()).client()
    }

    #[tokio::test]
    async fn a_client_has_its_own_bound_and_gets_its_slot_back() {
        let slots = Slots::new(10, 1);
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
        assert!(slots.clients.open.lock().unwrap().is_empty());
        assert_eq!(slots.all.available_permits(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn with_every_slot_taken_the_next_one_waits() {
        let slots = Slots::new(1, 10);
        let slot = slots
            .take(slots.room().await, client("192.0.2.1:1"))
            .unwrap();
        let late = tokio::time::timeout(std::time::Duration::from_secs(1), slots.room()).await;
        assert!(late.is_err());
        drop(slot);
        slots.room().await;
    }
}
