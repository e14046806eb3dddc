//! What moves right now, and what was refused lately: the part of the numbers that has names in it.
//!
//! `service` and `access_log` note it, `admin` takes down rates and shows it. It is bounded in number and in the length of every
//! text, and whoever notes something never waits: where a lock is taken, or there is no room, it is not noted.
//!
//! Both lists are shared by all clients, so that no client may hide what others do: a client network group (an IPv4
//! address, or an IPv6 /48) has no more transfers listed than would remain free, and a new rejection takes the place of
//! the oldest one of the group that has most in the list.

use parking_lot::{Mutex, MutexGuard};
use std::cmp::Reverse;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant, SystemTime};

use crate::metrics::counter::{THREADS, thread};
use crate::metrics::{Operation, Reason};
use crate::net::addr::ClientNetworkGroup;

/// One for the process; it outlives reloads.
#[derive(Debug)]
pub struct ActivityTracker {
    running: [Mutex<HashMap<u64, Arc<Transfer>>>; THREADS],
    count: AtomicUsize,
    /// The transfers of each client network group. A group has the counter that a hash of it under a key of this process
    /// says: no map has to be locked for each transfer, and a client cannot choose whose counter it shares.
    of_groups: [AtomicUsize; GROUP_COUNTERS],
    hasher: RandomState,
    next: AtomicU64,
    refused: Mutex<VecDeque<(ClientNetworkGroup, Refused)>>,
}

impl Default for ActivityTracker {
    fn default() -> Self {
        Self {
            running: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            of_groups: std::array::from_fn(|_| AtomicUsize::new(0)),
            hasher: RandomState::new(),
            next: AtomicU64::new(0),
            refused: Mutex::default(),
        }
    }
}

/// A request that moves bytes of a repository.
#[derive(Debug)]
pub struct Transfer {
    /// Push or pull.
    pub operation: Operation,
    /// Who; empty for nobody in particular.
    pub user: String,
    /// From where.
    pub client: String,
    /// To which site.
    pub site: String,
    /// Of which repository.
    pub repository: String,
    /// Since when.
    pub began: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    /// Bytes in both directions when its rate was measured last.
    seen: AtomicU64,
    rate: AtomicU64,
}

/// A request that the gate answered itself.
#[derive(Clone, Debug)]
pub struct Refused {
    /// When.
    pub at: SystemTime,
    /// From where.
    pub client: String,
    /// Who, as far as is known.
    pub user: String,
    /// To which site, as far as is known.
    pub site: String,
    /// Method and path.
    pub asked: String,
    /// Of what kind.
    pub reason: Reason,
    /// In the words of the access log.
    pub why: String,
}

/// A transfer is on the board as long as this lives.
#[derive(Debug)]
pub struct TransferGuard {
    board: Arc<ActivityTracker>,
    shard: usize,
    group: usize,
    number: u64,
    /// What is shown.
    pub transfer: Arc<Transfer>,
}

impl Transfer {
    /// Nothing has moved yet.
    pub fn new(operation: Operation, texts: [&str; 4], began: Instant) -> Self {
        let [user, client, site, repository] = texts.map(truncate);
        Self {
            operation,
            user,
            client,
            site,
            repository,
            began,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            rate: AtomicU64::new(UNMEASURED),
        }
    }

    /// Bytes that came from the client, and that went to it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    pub(crate) fn received(&self, more: u64) {
        self.received.fetch_add(more, Relaxed);
    }

    /// Notes bytes that go to the client.
    pub fn sent(&self, more: u64) {
        self.sent.fetch_add(more, Relaxed);
    }

    /// Bytes a second, of late; before it was measured, since it began.
    pub fn rate(&self, now: Instant) -> u64 {
        match self.rate.load(Relaxed) {
            UNMEASURED => each_second(self.both(), now.saturating_duration_since(self.began)),
            rate => rate,
        }
    }

    /// Half of a rate is that of the last interval, a quarter that of the one before, and so on: it follows what happens,
    /// and can be read.
    fn measure(&self, now: Instant, interval: Duration) {
        let both = self.both();
        let moved = both.saturating_sub(self.seen.swap(both, Relaxed));
        let lived = now.saturating_duration_since(self.began);
        let latest = each_second(moved, interval.min(lived));
        let rate = match self.rate.load(Relaxed) {
            UNMEASURED => latest,
            before => before.midpoint(latest),
        };
        self.rate.store(rate, Relaxed);
    }

    fn both(&self) -> u64 {
        let (received, sent) = self.bytes();
        received.saturating_add(sent)
    }
}

impl ActivityTracker {
    /// Lists a transfer of a client of `group`, if there is room and the group has room.
    pub fn show(
        self: &Arc<Self>,
        group: ClientNetworkGroup,
        transfer: Transfer,
    ) -> Option<TransferGuard> {
        let group = self.counter_of(group);
        let free = MOST_RUNNING.checked_sub(self.count.fetch_add(1, Relaxed));
        let of_group = self.of_groups.get(group);
        let before = of_group.map_or(0, |count| count.fetch_add(1, Relaxed));
        if free.is_none_or(|free| before >= free) {
            self.uncount(group);
            return None;
        }
        let running = TransferGuard {
            board: Arc::clone(self),
            shard: thread(),
            group,
            number: self.next.fetch_add(1, Relaxed),
            transfer: Arc::new(transfer),
        };
        if let Some(shard) = self.running.get(running.shard) {
            lock(shard).insert(running.number, Arc::clone(&running.transfer));
        }
        Some(running)
    }

    fn counter_of(&self, group: ClientNetworkGroup) -> usize {
        let hash = self.hasher.hash_one(group) % GROUP_COUNTERS as u64;
        usize::try_from(hash).unwrap_or_default()
    }

    fn uncount(&self, group: usize) {
        self.count.fetch_sub(1, Relaxed);
        if let Some(count) = self.of_groups.get(group) {
            count.fetch_sub(1, Relaxed);
        }
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// The `most` that moved most, the oldest first, each with a number of its own; and how many there are in all.
    pub fn top_n(&self, most: usize) -> (Vec<(u64, Arc<Transfer>)>, usize) {
        let mut all = Vec::new();
        for shard in &self.running {
            let shard = lock(shard);
            all.extend(shard.iter().map(|(number, one)| (*number, Arc::clone(one))));
        }
        let count = all.len();
        if count > most {
            // They go on moving: what is compared must not change.
            let mut sized: Vec<_> = all.into_iter().map(|one| (one.1.both(), one)).collect();
            sized.sort_unstable_by_key(|(bytes, (number, _))| (Reverse(*bytes), Reverse(*number)));
            all = sized.into_iter().take(most).map(|(_, one)| one).collect();
        }
        all.sort_unstable_by_key(|(number, transfer)| (transfer.began, *number));
        (all, count)
    }

    /// Takes down the rate of everything that runs, `interval` after the last time.
    pub fn measure(&self, now: Instant, interval: Duration) {
        for shard in &self.running {
            for transfer in lock(shard).values() {
                transfer.measure(now, interval);
            }
        }
    }

    /// Notes the rejection of a request from `group`. A full list loses the oldest rejection of the group that has most.
    /// `refused` is called only when the rejection can be noted.
    pub fn refused(&self, group: ClientNetworkGroup, refused: impl FnOnce() -> Refused) {
        let Some(mut all) = self.refused.try_lock() else {
            return;
        };
        if all.len() >= MOST_REFUSED
            && let Some(oldest) = oldest_of_largest(&all, group)
        {
            all.remove(oldest);
        }
        let refused = refused();
        let refused = Refused {
            client: truncate(&refused.client),
            user: truncate(&refused.user),
            site: truncate(&refused.site),
            asked: truncate(&refused.asked),
            why: truncate(&refused.why),
            ..refused
        };
        all.push_back((group, refused));
    }

    /// What was refused lately, the latest first.
    pub fn refusals(&self) -> Vec<Refused> {
        let all = lock(&self.refused);
        all.iter().rev().map(|(_, one)| one.clone()).collect()
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        if let Some(shard) = self.board.running.get(self.shard) {
            lock(shard).remove(&self.number);
        }
        self.board.uncount(self.group);
    }
}

/// The position of the oldest rejection of the group that has most of them, with the one that `newcomer` is about to add.
fn oldest_of_largest(
    all: &VecDeque<(ClientNetworkGroup, Refused)>,
    newcomer: ClientNetworkGroup,
) -> Option<usize> {
    let mut counts = HashMap::from([(newcomer, 1)]);
    for (group, _) in all {
        *counts.entry(*group).or_insert(0) += 1;
    }
    let most = counts.values().max().copied()?;
    let is_largest = |(group, _): &(ClientNetworkGroup, Refused)| counts.get(group) == Some(&most);
    // The newcomer's group may be the largest one without having any in the list only where all have one each.
    all.iter().position(is_largest).or(Some(0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// As much of a text as is shown.
fn truncate(text: &str) -> String {
    let mut short = text
        .get(..text.floor_char_boundary(LONGEST))
        .unwrap_or_default()
        .to_owned();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn each_second(bytes: u64, time: Duration) -> u64 {
    let nanos = u128::from(bytes) * 1_000_000_000;
    let rate = nanos.checked_div(time.as_nanos()).unwrap_or_default();
    // The last number says that there is none.
    u64::try_from(rate).map_or(UNMEASURED - 1, |rate| rate.min(UNMEASURED - 1))
}

const UNMEASURED: u64 = u64::MAX;
/// As many as there are connections by default.
const MOST_RUNNING: usize = 10_000;
const MOST_REFUSED: usize = 50;
const GROUP_COUNTERS: usize = 1024;
/// Longer than a repository's name usually is.
const LONGEST: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::PeerAddr;

    fn group(text: &str) -> ClientNetworkGroup {
        let address: std::net::IpAddr = text.parse().unwrap();
        PeerAddr::new((address, 1).into())
            .client()
            .network()
            .group()
    }

    fn home() -> ClientNetworkGroup {
        group("192.0.2.1")
    }

    fn transfer(repository: &str) -> Transfer {
        Transfer::new(
            Operation::Pull,
            ["alice", "192.0.2.1", "a", repository],
            Instant::now(),
        )
    }

    #[test]
    fn a_transfer_is_shown_as_long_as_it_runs() {
        let board = Arc::<ActivityTracker>::default();
        let (first, second) = (
            board.show(home(), transfer("one")),
            board.show(home(), transfer("two")),
        );
        let names = || -> Vec<_> {
            let (running, _) = board.top_n(10);
            running
                .iter()
                .map(|(_, one)| one.repository.clone())
                .collect()
        };
        assert_eq!(names(), ["one", "two"]);
        let (largest, count) = board.top_n(1);
        assert_eq!((largest.len(), count), (1, 2));
        drop(first);
        assert_eq!(names(), ["two"]);
        drop(second);
        assert!(names().is_empty());
    }

    #[test]
    fn what_moved_most_is_shown_in_the_order_it_began() {
        let board = Arc::<ActivityTracker>::default();
        let running: Vec<_> = (0..5)
            .filter_map(|number| board.show(home(), transfer(&number.to_string())))
            .collect();
        for (number, bytes) in [(1, 7), (3, 9), (4, 8)] {
            running[number].transfer.sent(bytes);
        }
        let (largest, count) = board.top_n(3);
        let names: Vec<_> = largest
            .iter()
            .map(|(_, one)| one.repository.as_str())
            .collect();
        assert_eq!((names, count), (vec!["1", "3", "4"], 5));
    }

    #[test]
    fn a_rate_follows_what_moves() {
        let second = Duration::from_secs(1);
        let one = transfer("a");
        let mut now = one.began + second;
        one.sent(1000);
        assert_eq!(one.rate(now), 1000);
        one.received(1000);
        one.measure(now, second);
        assert_eq!(one.rate(now), 2000);
        for _ in 0..12 {
            now += second;
            one.measure(now, second);
        }
        assert_eq!(one.rate(now), 0);
        // It was there for a part of the interval only.
        let late = transfer("b");
        late.sent(1000);
        late.measure(late.began + second / 2, second);
        assert_eq!(late.rate(now), 2000);
        late.measure(late.began, Duration::ZERO);
    }

    fn rejection(group: ClientNetworkGroup, why: String) -> Refused {
        Refused {
            at: SystemTime::UNIX_EPOCH,
            client: group.to_string(),
            user: "é".repeat(1000),
            site: String::new(),
            asked: String::new(),
            reason: Reason::Path,
            why,
        }
    }

    #[test]
    fn the_lists_are_bounded_and_a_48_leaves_room_for_others() {
        let board = Arc::<ActivityTracker>::default();
        let flood = |number: usize| group(&format!("2001:db8:0:{number:x}::1"));
        let mut shown: Vec<_> = (0..MOST_RUNNING)
            .filter_map(|number| board.show(flood(number), transfer("a")))
            .collect();
        assert_eq!(shown.len(), MOST_RUNNING / 2);
        let other = board.show(home(), transfer("b"));
        assert!(other.is_some());
        assert!(board.show(flood(0), transfer("a")).is_none());
        shown.truncate(shown.len() - 2);
        assert!(board.show(flood(0), transfer("a")).is_some());
        drop((shown, other));
        assert_eq!(board.count(), 0);
        let all = board.of_groups.iter();
        assert_eq!(all.map(|count| count.load(Relaxed)).sum::<usize>(), 0);
    }

    #[test]
    fn rejections_of_one_48_displace_their_own() {
        let board = ActivityTracker::default();
        board.refused(home(), || rejection(home(), "mine".to_owned()));
        for number in 0..2 * MOST_REFUSED {
            let own = group(&format!("2001:db8:0:{number:x}::1"));
            board.refused(own, || rejection(own, number.to_string()));
        }
        let refusals = board.refusals();
        assert_eq!(refusals.len(), MOST_REFUSED);
        assert_eq!(refusals[0].why, (2 * MOST_REFUSED - 1).to_string());
        assert!(refusals.iter().any(|one| one.why == "mine"));
        assert!(refusals[0].user.len() <= LONGEST + '…'.len_utf8());
        // Where every group has one, the oldest goes.
        for number in 0..2 * MOST_REFUSED {
            let own = group(&format!("192.0.2.{}", number + 10));
            board.refused(own, || rejection(own, number.to_string()));
        }
        assert_eq!(board.refusals()[0].why, (2 * MOST_REFUSED - 1).to_string());
    }
}
