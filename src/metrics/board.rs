//! What moves right now, and what was refused lately: the part of the numbers that has names in it.
//!
//! `service` and `access_log` note it, the status page shows it. It is bounded in number and in the length of every
//! text, and whoever notes something never waits: where a lock is taken, or there is no room, it is not noted.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

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

    /// What runs, the oldest first, at most `most`; and how many there are in all.
    pub fn running(&self, most: usize) -> (Vec<Arc<Transfer>>, usize) {
        let mut all = Vec::new();
        for shard in &self.running {
            all.extend(lock(shard).values().cloned());
        }
        let count = all.len();
        all.sort_by_key(|transfer| transfer.began);
        all.truncate(most);
        (all, count)
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
            let (running, _) = board.running(10);
            running.iter().map(|one| one.repository.clone()).collect()
        };
        assert_eq!(names(), ["one", "two"]);
        assert_eq!((board.running(1).0.len(), board.running(1).1), (1, 2));
        drop(first);
        assert_eq!(names(), ["two"]);
        drop(second);
        assert!(names().is_empty());
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
