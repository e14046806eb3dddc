//! The bound on the memory of unread HTTP/2 request bodies, for all connections together (`limits.h2_memory`).
//!
//! `connection` reports how many bytes it reads, and asks before it reads more. [`Inbound`](super::Inbound) reports how many
//! bytes the upstream took. On HTTP/1, no bytes wait in memory, because the proxy reads a body from the socket only when the
//! upstream takes more.
//!
//! A flow-control window that was announced to a client cannot be taken back, and hyper cannot announce a smaller window on
//! an open connection. The proxy therefore bounds what it reads. Client network groups (an IPv4 address, or an IPv6 /48)
//! share the limit: while a group holds more than is left of the limit, the proxy does not read from those of its connections
//! that hold more than [`MIN_UNTHROTTLED`]. A single group therefore holds at most half of the limit, and the connections of other
//! groups continue. No deadlock is possible. The bytes that a paused connection holds are in memory, so the upstream can
//! take them without another byte from the socket; a request whose upstream takes nothing ends by its own deadline, which
//! drops the body. In both cases the connection falls below the threshold, and the proxy reads from it again.
//!
//! The count is of bytes on the connection, not of bytes in bodies: frame headers, padding, and frames of closed streams are
//! counted when they are read, and no body ever reports them as taken. This error does not accumulate, because the count is
//! reset to zero whenever every open body waits for data.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use crate::net::addr::ClientNetworkGroup;

mod part;

pub(super) use part::StreamShare;

/// The limit, and the number of bytes that all connections hold.
#[derive(Debug)]
pub struct RecvBudget {
    limit: AtomicUsize,
    held: AtomicUsize,
    groups: Mutex<HashMap<ClientNetworkGroup, Weak<Group>>>,
    /// The groups that have connections which are not read from.
    paused: Mutex<Vec<Arc<Group>>>,
}

/// What the connections of one client network group hold together. It lives as long as they do.
#[derive(Debug, Default)]
struct Group {
    held: AtomicUsize,
    /// Connections that are not read from. Changed only under the lock of [`RecvBudget::paused`].
    paused: Mutex<Vec<Weak<ConnectionShare>>>,
}

/// The number of bytes that one connection holds. All calls come from the thread of the connection.
#[derive(Debug)]
pub struct ConnectionShare {
    budget: Arc<RecvBudget>,
    group: Arc<Group>,
    held: AtomicUsize,
    open: AtomicUsize,
    /// The number of open bodies that were polled without success since their last data.
    waiting: AtomicUsize,
    /// The number of starts and ends of pauses together; it is odd during a pause.
    turns: AtomicU64,
    is_listed: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl RecvBudget {
    /// Creates a budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            held: AtomicUsize::new(0),
            groups: Mutex::default(),
            paused: Mutex::default(),
        }
    }

    /// Changes the limit, for open connections as well.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.wake_groups();
    }

    /// The number of bytes that are held now. Of each connection, only multiples of [`MIN_UNTHROTTLED`] count.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a group holds more than is left of the cap.
    fn is_exceeded_by(&self, group: &Group) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let left = limit.saturating_sub(self.held());
        group.held.load(Ordering::Relaxed) > left
    }

    /// Changes the share of one connection of `group` from `before` to `now`.
    fn change(&self, group: &Group, before: usize, now: usize) {
        if now > before {
            self.held.fetch_add(now - before, Ordering::Relaxed);
            group.held.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            group.held.fetch_sub(before - now, Ordering::Relaxed);
            let was = self.held.fetch_sub(before - now, Ordering::Relaxed);
            // With less, no group holds more than is left, so that none is paused.
            if was > self.limit.load(Ordering::Relaxed) / 2 {
                self.wake_groups();
            }
        }
    }

    /// The counter of a group, which its connections share.
    fn group(&self, group: ClientNetworkGroup) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        if let Some(known) = groups.get(&group).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::<Group>::default();
        if groups.len() >= groups.capacity() {
            // Before the map grows, the groups that have no connection any more are removed.
            groups.retain(|_, group| group.strong_count() > 0);
        }
        groups.insert(group, Arc::downgrade(&new));
        new
    }

    fn list(&self, holding: &Arc<ConnectionShare>) {
        let mut groups = lock(&self.paused);
        let mut paused = lock(&holding.group.paused);
        if paused.is_empty() {
            groups.push(Arc::clone(&holding.group));
        }
        paused.retain(|holding| holding.strong_count() > 0);
        paused.push(Arc::downgrade(holding));
    }

    /// Wakes the connections of the groups that may be read from again.
    fn wake_groups(&self) {
        lock(&self.paused).retain(|group| {
            if self.is_exceeded_by(group) {
                return true;
            }
            let paused = std::mem::take(&mut *lock(&group.paused));
            for holding in paused.iter().filter_map(Weak::upgrade) {
                holding.is_listed.store(false, Ordering::Relaxed);
                holding.wake();
            }
            false
        });
    }
}

impl ConnectionShare {
    /// Creates the share of a connection that has read nothing yet, of a client of `group`.
    pub fn new(budget: &Arc<RecvBudget>, group: ClientNetworkGroup) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            group: budget.group(group),
            held: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            turns: AtomicU64::new(0),
            is_listed: AtomicBool::new(false),
            reader: Mutex::default(),
        })
    }

    /// Must be called before the connection reads, when every request that it has read so far has its body registered.
    pub fn begin_turn(&self) {
        self.settle();
    }

    /// Records that the connection read `count` bytes.
    pub fn read(&self, count: usize) {
        let held = self.held.load(Ordering::Relaxed);
        self.set(held.saturating_add(count));
    }

    /// Ready if the connection may read. Otherwise the task is woken when it may.
    pub fn poll_read_on(self: &Arc<Self>, cx: &Context<'_>) -> Poll<()> {
        if self.should_pause() {
            *lock(&self.reader) = Some(cx.waker().clone());
            if !self.is_listed.swap(true, Ordering::Relaxed) {
                self.budget.list(self);
            }
            // Check again after registering: another worker may have released memory before this waker was on the list.
            if self.should_pause() {
                self.note(true);
                // No open body can report progress: the bytes are other frames, or requests whose bodies are registered
                // only after this poll. Poll again, so that `begin_turn` can reset the count.
                if self.is_settled() {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
        self.note(false);
        Poll::Ready(())
    }

    /// Whether the proxy paused reading from the connection at any time since `seen`, which is updated. The time of a pause
    /// does not count as inactivity of the client.
    pub fn has_paused(&self, seen: &mut u64) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        let had = turns != *seen || turns % 2 == 1;
        *seen = turns;
        had
    }

    fn note(&self, is_paused: bool) {
        let turns = self.turns.load(Ordering::Relaxed);
        if (turns % 2 == 1) != is_paused {
            self.turns.store(turns.wrapping_add(1), Ordering::Relaxed);
        }
    }

    fn should_pause(&self) -> bool {
        self.held.load(Ordering::Relaxed) > MIN_UNTHROTTLED
            && self.budget.is_exceeded_by(&self.group)
    }

    fn take(&self, count: usize) {
        let held = self.held.load(Ordering::Relaxed);
        self.set(held.saturating_sub(count));
        self.resume();
    }

    /// Resets the count if every open body waits for data, because then no data is left.
    fn settle(&self) {
        if self.is_settled() {
            self.set(0);
        }
        self.resume();
    }

    fn is_settled(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == self.open.load(Ordering::Relaxed)
    }

    fn resume(&self) {
        if self.turns.load(Ordering::Relaxed) % 2 == 1 && !self.should_pause() {
            self.wake();
        }
    }

    fn wake(&self) {
        let reader = lock(&self.reader).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn set(&self, held: usize) {
        let before = self.held.swap(held, Ordering::Relaxed);
        self.budget
            .change(&self.group, shared(before), shared(held));
    }
}

impl Drop for ConnectionShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The part of a connection's bytes that counts in the sum. All threads share the sum, so requests smaller than [`MIN_UNTHROTTLED`]
/// do not touch it.
fn shared(held: usize) -> usize {
    held - held % MIN_UNTHROTTLED
}

/// Locks a mutex and ignores poisoning: every change behind these locks is a single push or swap.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Bytes that every connection may hold whatever the others hold: about the initial window of HTTP/2 (RFC 9113 section
/// 6.9.2).
pub const MIN_UNTHROTTLED: usize = 64 * 1024;

#[cfg(test)]
mod tests;
