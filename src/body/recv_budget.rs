//! The bound on the memory of unread HTTP/2 request bodies, for all connections together (`limits.h2_memory`).
//!
//! `connection` reports how many bytes it reads, and asks before it reads more. `RequestBody` reports how many bytes the
//! upstream took. On HTTP/1, no bytes wait in memory, because the proxy reads a body from the socket only when the upstream
//! takes more.
//!
//! A flow-control window that was announced to a client cannot be taken back, and hyper cannot announce a smaller window on
//! an open connection. The proxy therefore bounds what it reads. Client network groups (an IPv4 address, or an IPv6 /48)
//! share the limit: while a group uses more than is left of the limit, the proxy does not read from those of its connections
//! that use more than [`MIN_UNTHROTTLED`]. A single group therefore uses at most half of the limit, and the connections of
//! other groups continue. No deadlock is possible. The bytes that a paused connection uses are in memory, so the upstream can
//! take them without another byte from the socket; a request whose upstream takes nothing ends by its own deadline, which
//! drops the body. In both cases the connection falls below the threshold, and the proxy reads from it again.
//!
//! The count is of bytes on the connection, not of bytes in bodies: frame headers, padding, and frames of closed streams are
//! counted when they are read, and no body ever reports them as taken. This error does not accumulate, because the count is
//! reset to zero whenever every open body waits for data.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use crate::net::addr::ClientNetworkGroup;

/// The limit, and the number of bytes that all connections use.
#[derive(Debug)]
pub struct RecvBudget {
    limit: AtomicUsize,
    used: AtomicUsize,
    groups: Mutex<HashMap<ClientNetworkGroup, Weak<Group>>>,
    /// The groups that have paused connections.
    paused: Mutex<Vec<Arc<Group>>>,
}

/// What the connections of one client network group use together. A group lives as long as its connections.
#[derive(Debug, Default)]
struct Group {
    used: AtomicUsize,
    /// The paused connections. The list is changed only under the lock of [`RecvBudget::paused`].
    paused: Mutex<Vec<Weak<ConnectionShare>>>,
}

impl RecvBudget {
    /// Creates a budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            groups: Mutex::default(),
            paused: Mutex::default(),
        }
    }

    /// Changes the limit, for open connections as well.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.wake_groups();
    }

    /// The number of bytes in use. Of each connection, only multiples of [`MIN_UNTHROTTLED`] count.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether a group uses more than is left of the limit.
    fn is_exceeded_by(&self, group: &Group) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let left = limit.saturating_sub(self.used());
        group.used.load(Ordering::Relaxed) > left
    }

    /// Changes the share of one connection of `group` from `before` to `now`.
    fn change(&self, group: &Group, before: usize, now: usize) {
        if now > before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
            group.used.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            group.used.fetch_sub(before - now, Ordering::Relaxed);
            let used = self.used.fetch_sub(before - now, Ordering::Relaxed);
            // At half of the limit or less, no group uses more than is left, so that none is paused.
            if used > self.limit.load(Ordering::Relaxed) / 2 {
                self.wake_groups();
            }
        }
    }

    /// The counter of a group, which its connections share.
    fn group(&self, group: ClientNetworkGroup) -> Arc<Group> {
        let mut groups = self.groups.lock();
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

    /// Adds a connection to the paused ones of its group.
    fn add_paused(&self, share: &Arc<ConnectionShare>) {
        let mut groups = self.paused.lock();
        let mut paused = share.group.paused.lock();
        if paused.is_empty() {
            groups.push(Arc::clone(&share.group));
        }
        paused.retain(|share| share.strong_count() > 0);
        paused.push(Arc::downgrade(share));
    }

    /// Wakes the connections of the groups that may be read from again.
    fn wake_groups(&self) {
        let mut resumed = Vec::new();
        self.paused.lock().retain(|group| {
            if self.is_exceeded_by(group) {
                return true;
            }
            let paused = std::mem::take(&mut *group.paused.lock());
            for share in paused.iter().filter_map(Weak::upgrade) {
                share.is_listed.store(false, Ordering::Relaxed);
                resumed.push(share);
            }
            false
        });
        // The lock is released before: if the connection has ended meanwhile, the reference here is the last one, and the drop of
        // the share locks the list again.
        for share in resumed {
            share.wake();
        }
    }
}

/// What one connection uses of the budget.
///
/// All calls come from the thread of the connection, except the one with which the budget wakes a paused connection: that one
/// comes from any thread, which is why the fields are atomics and a lock.
#[derive(Debug)]
pub struct ConnectionShare {
    budget: Arc<RecvBudget>,
    group: Arc<Group>,
    /// Bytes that were read and that no body has passed on.
    unread: AtomicUsize,
    open_bodies: AtomicUsize,
    /// The number of open bodies that were polled without success since their last data.
    waiting_bodies: AtomicUsize,
    /// The number of starts and ends of pauses together; it is odd during a pause.
    pauses: AtomicU64,
    /// Whether the connection is among [`Group::paused`].
    is_listed: AtomicBool,
    /// The task that reads from the connection, while it is paused.
    reader: Mutex<Option<Waker>>,
}

impl ConnectionShare {
    /// Creates the share of a connection that has read nothing yet, of a client of `group`.
    pub fn new(budget: &Arc<RecvBudget>, group: ClientNetworkGroup) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            group: budget.group(group),
            unread: AtomicUsize::new(0),
            open_bodies: AtomicUsize::new(0),
            waiting_bodies: AtomicUsize::new(0),
            pauses: AtomicU64::new(0),
            is_listed: AtomicBool::new(false),
            reader: Mutex::default(),
        })
    }

    /// Resets the count if no data is left. Must be called before each poll of the connection, when every request that it has
    /// read so far has its body registered.
    pub fn begin_poll(&self) {
        self.reset_if_all_wait();
    }

    /// Records that the connection read `count` bytes.
    pub fn record_read(&self, count: usize) {
        let unread = self.unread.load(Ordering::Relaxed);
        self.set_unread(unread.saturating_add(count));
    }

    /// Ready if the connection may read. Otherwise the task is woken when it may.
    pub fn poll_may_read(self: &Arc<Self>, cx: &Context<'_>) -> Poll<()> {
        if self.should_pause() {
            *self.reader.lock() = Some(cx.waker().clone());
            if !self.is_listed.swap(true, Ordering::Relaxed) {
                self.budget.add_paused(self);
            }
            // Check again after registering: another worker may have released memory before this waker was on the list.
            if self.should_pause() {
                self.set_paused(true);
                // No open body can report progress: the bytes are other frames, or requests whose bodies are registered
                // only after this poll. Poll again, so that `begin_poll` can reset the count.
                if self.do_all_wait() {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
        self.set_paused(false);
        Poll::Ready(())
    }

    /// Whether the proxy paused reading from the connection at any time since `seen`, which is updated. The time of a pause
    /// does not count as inactivity of the client.
    pub fn paused_since(&self, seen: &mut u64) -> bool {
        let pauses = self.pauses.load(Ordering::Relaxed);
        let has_paused = pauses != *seen || pauses % 2 == 1;
        *seen = pauses;
        has_paused
    }

    fn set_paused(&self, is_paused: bool) {
        if self.is_paused() != is_paused {
            let pauses = self.pauses.load(Ordering::Relaxed);
            self.pauses.store(pauses.wrapping_add(1), Ordering::Relaxed);
        }
    }

    fn is_paused(&self) -> bool {
        self.pauses.load(Ordering::Relaxed) % 2 == 1
    }

    fn should_pause(&self) -> bool {
        self.unread.load(Ordering::Relaxed) > MIN_UNTHROTTLED
            && self.budget.is_exceeded_by(&self.group)
    }

    /// Records that the upstream took `count` bytes.
    fn release(&self, count: usize) {
        let unread = self.unread.load(Ordering::Relaxed);
        self.set_unread(unread.saturating_sub(count));
        self.wake_if_resumable();
    }

    /// Resets the count if every open body waits for data, because then no data is left.
    fn reset_if_all_wait(&self) {
        if self.do_all_wait() {
            self.set_unread(0);
        }
        self.wake_if_resumable();
    }

    fn do_all_wait(&self) -> bool {
        self.waiting_bodies.load(Ordering::Relaxed) == self.open_bodies.load(Ordering::Relaxed)
    }

    fn wake_if_resumable(&self) {
        if self.is_paused() && !self.should_pause() {
            self.wake();
        }
    }

    fn wake(&self) {
        let reader = self.reader.lock().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn set_unread(&self, unread: usize) {
        let before = self.unread.swap(unread, Ordering::Relaxed);
        self.budget
            .change(&self.group, counted_part(before), counted_part(unread));
    }
}

impl Drop for ConnectionShare {
    fn drop(&mut self) {
        self.set_unread(0);
    }
}

/// The part of a connection's bytes that counts in the sum. All threads share the sum, so requests smaller than
/// [`MIN_UNTHROTTLED`] do not touch it.
fn counted_part(unread: usize) -> usize {
    unread - unread % MIN_UNTHROTTLED
}

/// Bytes that every connection may use, however much the others use: about the initial window of HTTP/2 (RFC 9113 section
/// 6.9.2).
pub const MIN_UNTHROTTLED: usize = 64 * 1024;

/// The share of one request body. It tracks for its connection whether the body is open and whether it waits for data.
#[derive(Debug)]
pub(crate) struct StreamShare {
    connection: Arc<ConnectionShare>,
    is_open: AtomicBool,
    is_waiting: AtomicBool,
}

impl StreamShare {
    /// Registers an open body.
    pub(crate) fn new(connection: &Arc<ConnectionShare>) -> Arc<Self> {
        connection.open_bodies.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            connection: Arc::clone(connection),
            is_open: AtomicBool::new(true),
            is_waiting: AtomicBool::new(false),
        })
    }

    /// The share of the connection.
    pub(crate) fn connection(&self) -> &ConnectionShare {
        &self.connection
    }

    /// Records that the upstream took `count` bytes.
    pub(crate) fn record_taken(&self, count: usize) {
        self.clear_waiting();
        self.connection.release(count);
    }

    /// Records that a poll with [`Self::waker`] found no data.
    pub(crate) fn record_waiting(&self) {
        if self.is_open.load(Ordering::Relaxed) && !self.is_waiting.swap(true, Ordering::Relaxed) {
            self.connection
                .waiting_bodies
                .fetch_add(1, Ordering::Relaxed);
            self.connection.reset_if_all_wait();
        }
    }

    /// Records that no more of the body will be taken.
    pub(crate) fn close(&self) {
        self.clear_waiting();
        if self.is_open.swap(false, Ordering::Relaxed) {
            self.connection.open_bodies.fetch_sub(1, Ordering::Relaxed);
            self.connection.reset_if_all_wait();
        }
    }

    /// A waker that wakes `task` when there is data.
    pub(crate) fn waker(self: &Arc<Self>, task: &Waker) -> Waker {
        Waker::from(Arc::new(DataWaker {
            share: Arc::clone(self),
            task: task.clone(),
        }))
    }

    fn clear_waiting(&self) {
        if self.is_waiting.swap(false, Ordering::Relaxed) {
            self.connection
                .waiting_bodies
                .fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for StreamShare {
    fn drop(&mut self) {
        self.close();
    }
}

/// A waker that marks the body as not waiting before it wakes the task that polls it.
struct DataWaker {
    share: Arc<StreamShare>,
    task: Waker,
}

impl Wake for DataWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.share.clear_waiting();
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests;
