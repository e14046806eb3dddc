//! What waits to be written: lines in one buffer, which its writers append to and the log's thread takes as a whole.
//!
//! A line costs its writer one copy: no memory of its own, and no wake of the thread while that is busy or naps. Nobody holds
//! the lock while he writes to a file.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

use super::batch::Batch;

/// Both ends of a log.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
    /// Lines that nobody was told of yet.
    lost: AtomicU64,
    /// All lines that were lost so far.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    taken: Drained,
    /// Lines and bytes that are not written yet, those that the thread has taken among them.
    lines: usize,
    bytes: usize,
    is_closed: bool,
    /// The thread waits to be told.
    is_idle: bool,
}

/// What the thread takes at once.
#[derive(Default)]
pub(super) struct Drained {
    pub(super) batch: Batch,
    /// Where the file is to be opened anew: behind so many lines.
    pub(super) reopens: Vec<usize>,
}

impl Drained {
    fn is_empty(&self) -> bool {
        self.batch.ends.is_empty() && self.reopens.is_empty()
    }
}

impl Queue {
    /// Appends a line; drops and counts it when too much waits.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines >= QUEUE || waiting.bytes.saturating_add(line.len()) > QUEUE_BYTES {
            drop(waiting);
            self.drop_line(1);
            return;
        }
        waiting.lines += 1;
        waiting.bytes += line.len();
        waiting.taken.batch.push(line);
        self.wake(waiting);
    }

    /// Has the file opened anew behind the lines so far.
    pub(super) fn reopen(&self) {
        let mut waiting = self.lock();
        let lines = waiting.taken.batch.ends.len();
        waiting.taken.reopens.push(lines);
        waiting.taken.reopens.dedup();
        self.wake(waiting);
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        self.wake(waiting);
    }

    /// Waits for something and takes it all, in place of what `taken` held; false when there is nothing and nothing more comes.
    pub(super) fn take(&self, taken: &mut Drained) -> bool {
        taken.batch = mem::take(&mut taken.batch).emptied();
        taken.reopens.clear();
        let mut waiting = self.lock();
        while waiting.taken.is_empty() {
            if waiting.is_closed {
                return false;
            }
            waiting.is_idle = true;
            self.came.wait(&mut waiting);
        }
        waiting.is_idle = false;
        mem::swap(&mut waiting.taken, taken);
        true
    }

    /// Lines are written, or lost for good.
    pub(super) fn done(&self, lines: usize, bytes: usize) {
        let mut waiting = self.lock();
        waiting.lines = waiting.lines.saturating_sub(lines);
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
    }

    /// Bytes that are not written yet.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// So many lines are lost.
    pub(super) fn drop_line(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// Lines that were lost and not told of.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// So many of them were told of.
    pub(super) fn told(&self, lines: u64) {
        self.lost.fetch_sub(lines, Ordering::Relaxed);
    }

    /// All lines that were lost so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        if mem::take(&mut waiting.is_idle) {
            drop(waiting);
            self.came.notify_one();
        }
    }
}

/// Lines that may wait: some seconds of a busy gate.
pub(super) const QUEUE: usize = 32 * 1024;
/// What they may hold: a line may be as long as a path.
pub(super) const QUEUE_BYTES: usize = 8 << 20;
