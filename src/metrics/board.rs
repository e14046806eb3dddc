//! What moves right now, and what was refused lately: the part of the numbers that has names in it.
//!
//! `service` and `access_log` note it, `admin` takes down rates and shows it. It is bounded in number and in the length of every
//! text, and whoever notes something never waits: where a lock is taken, or there is no room, it is not noted.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::counter::{THREADS, thread};
use super::{Operation, Reason};

/// One for the process; it outlives reloads.
#[derive(Debug, Default)]
pub struct Board {
    running: [Mutex<HashMap<u64, Arc<Transfer>>>; THREADS],
    count: AtomicUsize,
    next: AtomicU64,
    refused: Mutex<VecDeque<Refused>>,
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
pub struct Running {
    board: Arc<Board>,
    shard: usize,
    number: u64,
    /// What is shown.
    pub transfer: Arc<Transfer>,
}

impl Transfer {
    /// Nothing has moved yet.
    pub fn new(operation: Operation, texts: [&str; 4], began: Instant) -> Self {
        let [user, client, site, repository] = texts.map(short);
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

    pub(super) fn received(&self, more: u64) {
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

impl Board {
    /// Puts a transfer on the board, if there is room.
    pub fn show(self: &Arc<Self>, transfer: Transfer) -> Option<Running> {
        if self.count.fetch_add(1, Relaxed) >= MOST_RUNNING {
            self.count.fetch_sub(1, Relaxed);
            return None;
        }
        let running = Running {
            board: Arc::clone(self),
            shard: thread(),
            number: self.next.fetch_add(1, Relaxed),
            transfer: Arc::new(transfer),
        };
        if let Some(shard) = self.running.get(running.shard) {
            lock(shard).insert(running.number, Arc::clone(&running.transfer));
        }
        Some(running)
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// The `most` that moved most, the oldest first, each with a number of its own; and how many there are in all.
    pub fn largest(&self, most: usize) -> (Vec<(u64, Arc<Transfer>)>, usize) {
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

    /// Notes a refusal in place of the oldest one; `refused` is made only when it can be noted.
    pub fn refused(&self, refused: impl FnOnce() -> Refused) {
        let Ok(mut all) = self.refused.try_lock() else {
            return;
        };
        if all.len() >= MOST_REFUSED {
            all.pop_front();
        }
        let refused = refused();
        all.push_back(Refused {
            client: short(&refused.client),
            user: short(&refused.user),
            site: short(&refused.site),
            asked: short(&refused.asked),
            why: short(&refused.why),
            ..refused
        });
    }

    /// What was refused lately, the latest first.
    pub fn refusals(&self) -> Vec<Refused> {
        lock(&self.refused).iter().rev().cloned().collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(shard) = self.board.running.get(self.shard) {
            lock(shard).remove(&self.number);
        }
        self.board.count.fetch_sub(1, Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As much of a text as is shown.
fn short(text: &str) -> String {
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
/// Longer than a repository's name usually is.
const LONGEST: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(repository: &str) -> Transfer {
        Transfer::new(
            Operation::Pull,
            ["alice", "192.0.2.1", "a", repository],
            Instant::now(),
        )
    }

    #[test]
    fn a_transfer_is_shown_as_long_as_it_runs() {
        let board = Arc::<Board>::default();
        let (first, second) = (board.show(transfer("one")), board.show(transfer("two")));
        let names = || -> Vec<_> {
            let (running, _) = board.largest(10);
            running
                .iter()
                .map(|(_, one)| one.repository.clone())
                .collect()
        };
        assert_eq!(names(), ["one", "two"]);
        let (largest, count) = board.largest(1);
        assert_eq!((largest.len(), count), (1, 2));
        drop(first);
        assert_eq!(names(), ["two"]);
        drop(second);
        assert!(names().is_empty());
    }

    #[test]
    fn what_moved_most_is_shown_in_the_order_it_began() {
        let board = Arc::<Board>::default();
        let running: Vec<_> = (0..5)
            .filter_map(|number| board.show(transfer(&number.to_string())))
            .collect();
        for (number, bytes) in [(1, 7), (3, 9), (4, 8)] {
            running[number].transfer.sent(bytes);
        }
        let (largest, count) = board.largest(3);
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

    #[test]
    fn the_board_is_bounded() {
        let board = Arc::<Board>::default();
        let mut shown: Vec<_> = (0..MOST_RUNNING)
            .map(|_| board.show(transfer("a")))
            .collect();
        assert!(board.show(transfer("a")).is_none());
        shown.pop();
        assert!(board.show(transfer("a")).is_some());
        for number in 0..2 * MOST_REFUSED {
            board.refused(|| Refused {
                at: SystemTime::UNIX_EPOCH,
                client: String::new(),
                user: "é".repeat(1000),
                site: String::new(),
                asked: String::new(),
                reason: Reason::Path,
                why: number.to_string(),
            });
        }
        let refusals = board.refusals();
        assert_eq!(refusals.len(), MOST_REFUSED);
        assert_eq!(refusals[0].why, (2 * MOST_REFUSED - 1).to_string());
        assert!(refusals[0].user.len() <= LONGEST + '…'.len_utf8());
    }
}
