//! State that all workers share, behind several locks: two of them rarely meet at one.
//!
//! For `verified` and `throttle`, whose keys are spread by a byte of a MAC or of a keyed hash.

use parking_lot::{Mutex, MutexGuard};

/// The shards.
#[derive(Debug)]
pub(super) struct Sharded<T>([Mutex<T>; SHARDS]);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl<T> Sharded<T> {
    /// The shard for what this byte stands for, locked.
    pub(super) fn of(&self, byte: u8) -> MutexGuard<'_, T> {
        let [zeroth, ..] = &self.0;
        let shard = self.0.get(usize::from(byte) % SHARDS).unwrap_or(zeroth);
        shard.lock()
    }

    /// Each of them, locked one after the other.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(|shard| shard.lock())
    }
}

/// How many there are.
pub(super) const SHARDS: usize = 16;
