//! A value split into several parts with a lock each, so that two worker threads rarely wait for the same lock.
//!
//! `login_cache` and `guess_limiter` keep their entries in it. Their keys spread entries over the parts by one byte of a
//! MAC or of a keyed hash, which clients cannot choose.

use parking_lot::{Mutex, MutexGuard};

/// The parts, called shards.
#[derive(Debug)]
pub(super) struct Sharded<T>([Mutex<T>; SHARDS]);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<T> Sharded<T> {
    /// Locks the shard that keys with this byte belong to.
    pub(super) fn lock(&self, byte: u8) -> MutexGuard<'_, T> {
        let [zeroth, ..] = &self.0;
        let shard = self.0.get(usize::from(byte) % SHARDS).unwrap_or(zeroth);
        shard.lock()
    }

    /// Locks all shards, one after the other.
    pub(super) fn lock_each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(|shard| shard.lock())
    }
}

/// The number of shards.
pub(super) const SHARDS: usize = 16;
