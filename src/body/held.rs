//! What unread HTTP/2 request bodies hold, and the cap on what those of all connections hold together.
//!
//! `connection` reports what it reads and asks before it reads; [`Inbound`](super::Inbound) reports what it takes. On
//! HTTP/1 nothing is held: there a body is read from the socket when it is asked for.
//!
//! A window that has been announced cannot be taken back, and hyper has no way to announce less to a connection that
//! runs. So what is bounded is the reading. The cap is shared by client network group (an IPv4 address, or an IPv6 /48):
//! while a group holds more than is left of the cap, a connection of that group that holds more than [`FLOOR`] is not read
//! from. A single group therefore holds at most half of the cap, and the connections of others are read on. This cannot lock up. What a paused connection holds is in memory already, so whoever takes it
//! needs no further byte of that socket; and a request whose upstream does not take it ends by a deadline of its own,
//! which gives up its body. Either way the connection comes below the floor, and is read from again.
//!
//! What is counted is bytes of the connection, not of bodies: frame heads, padding and frames of streams that are gone
//! are never taken. That error does not grow, since nothing is held once every body that is open waits for data.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use crate::addr::NetworkGroup;

mod part;

pub(super) use part::Part;

/// The cap, and what all connections hold of it.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicUsize,
    held: AtomicUsize,
    groups: Mutex<HashMap<NetworkGroup, Weak<Group>>>,
    /// The groups that have connections which are not read from.
    paused: Mutex<Vec<Arc<Group>>>,
}

/// What the connections of one client network group hold together. It lives as long as they do.
#[derive(Debug, Default)]
struct Group {
    held: AtomicUsize,
    /// Connections that are not read from. Changed only under the lock of [`Budget::paused`].
    paused: Mutex<Vec<Weak<Holding>>>,
}

/// What one connection holds. All calls come from the thread of the connection.
#[derive(Debug)]
pub struct Holding {
    budget: Arc<Budget>,
    group: Arc<Group>,
    held: AtomicUsize,
    open: AtomicUsize,
    /// Bodies of `open` that have asked for data since the last of theirs came.
    waiting: AtomicUsize,
    /// Pauses that began and pauses that ended: odd during one.
    turns: AtomicU64,
    is_listed: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl Budget {
    /// A cap of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            held: AtomicUsize::new(0),
            groups: Mutex::default(),
            paused: Mutex::default(),
        }
    }

    /// Another cap, for connections that are open too.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.wake_groups();
    }

    /// What is held now, without less than [`FLOOR`] of each connection.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a group holds more than is left of the cap.
    fn is_exceeded_by(&self, group: &Group) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let left = limit.saturating_sub(self.held());
        group.held.load(Ordering::Relaxed) > left
    }

    /// A connection of `group` held `before` and holds `now`.
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
    fn group(&self, group: NetworkGroup) -> Arc<Group> {
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

    fn list(&self, holding: &Arc<Holding>) {
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

impl Holding {
    /// Of a connection that has read nothing yet, of a client of `group`.
    pub fn new(budget: &Arc<Budget>, group: NetworkGroup) -> Arc<Self> {
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

    /// The connection is about to read, and all requests that it has read are known.
    pub fn begin_turn(&self) {
        self.settle();
    }

    /// `count` bytes were read.
    pub fn read(&self, count: usize) {
        let held = self.held.load(Ordering::Relaxed);
        self.set(held.saturating_add(count));
    }

    /// Ready when the connection may be read from.
    pub fn poll_read_on(self: &Arc<Self>, cx: &Context<'_>) -> Poll<()> {
        if self.must_pause() {
            *lock(&self.reader) = Some(cx.waker().clone());
            if !self.is_listed.swap(true, Ordering::Relaxed) {
                self.budget.list(self);
            }
            // Another thread may have brought the sum down before this one was on the list.
            if self.must_pause() {
                self.note(true);
                // No body will say that it took anything: what was read are other frames, or requests that are not
                // known before this turn ends. The next one sees.
                if self.is_settled() {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
        self.note(false);
        Poll::Ready(())
    }

    /// True when the connection was not read from for some of the time since `seen`, which is brought up to now: a
    /// client that could not be heard was not silent.
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

    fn must_pause(&self) -> bool {
        self.held.load(Ordering::Relaxed) > FLOOR && self.budget.is_exceeded_by(&self.group)
    }

    fn take(&self, count: usize) {
        let held = self.held.load(Ordering::Relaxed);
        self.set(held.saturating_sub(count));
        self.resume();
    }

    /// A body that waits has taken all of its data, and a connection whose bodies all wait holds none.
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
        if self.turns.load(Ordering::Relaxed) % 2 == 1 && !self.must_pause() {
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

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What a connection counts for in the sum: all threads share that, so small requests leave it alone.
fn shared(held: usize) -> usize {
    held - held % FLOOR
}

/// Each change to what is behind a lock here is one push or one swap.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What any connection may hold: about the window that HTTP/2 begins with (RFC 9113 section 6.9.2).
pub const FLOOR: usize = 64 * 1024;

#[cfg(test)]
mod tests;
