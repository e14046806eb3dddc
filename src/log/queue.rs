//! The lines of a log that wait to be written: one buffer, to which callers append and which the thread of the log
//! takes as a whole.
//!
//! A line costs its caller one copy, without an allocation of its own, and without a wake-up of the thread while that
//! writes or sleeps. The lock is never held during a write to the file.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// The queue between the callers of a log and its thread.
#[derive(Default)]
pub(super) struct Queue {
    pending: Mutex<Pending>,
    has_lines: Condvar,
    /// The number of lost lines that were not yet reported in the log.
    unreported: AtomicU64,
    /// The number of all lines that were lost.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Pending {
    drained: Drained,
    /// The number of lines that are not written yet, including those that the thread has taken.
    lines: usize,
    /// The bytes of these lines.
    bytes: usize,
    is_closed: bool,
    /// The thread waits for `has_lines`.
    is_thread_waiting: bool,
}

/// What the thread takes from the queue.
#[derive(Default)]
pub(super) struct Drained {
    pub(super) batch: Batch,
    /// When to reopen the file: after each of these numbers of lines.
    pub(super) reopens: Vec<usize>,
}

/// Lines in one buffer.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) text: Vec<u8>,
    /// The end of each line in `text`.
    pub(super) ends: Vec<usize>,
}

impl Queue {
    /// Appends a line. Drops and counts it if the queue is full.
    pub(super) fn push(&self, line: &[u8]) {
        let mut pending = self.pending.lock();
        if pending.lines >= MAX_QUEUED_LINES
            || pending.bytes.saturating_add(line.len()) > MAX_QUEUED_BYTES
        {
            drop(pending);
            self.count_lost(1);
            return;
        }
        pending.lines += 1;
        pending.bytes += line.len();
        pending.drained.batch.push(line);
        self.wake(pending);
    }

    /// Makes the thread reopen the file after the lines that are queued now.
    pub(super) fn reopen(&self) {
        let mut pending = self.pending.lock();
        let lines = pending.drained.batch.ends.len();
        pending.drained.reopens.push(lines);
        pending.drained.reopens.dedup();
        self.wake(pending);
    }

    /// Makes [`take`](Self::take) return `false` once the queue is empty.
    pub(super) fn close(&self) {
        let mut pending = self.pending.lock();
        pending.is_closed = true;
        self.wake(pending);
    }

    /// Waits until something is queued, and replaces the content of `drained` by all of it. Returns `false` if the
    /// queue is empty and closed.
    pub(super) fn take(&self, drained: &mut Drained) -> bool {
        drained.batch.clear();
        drained.reopens.clear();
        let mut pending = self.pending.lock();
        while pending.drained.is_empty() {
            if pending.is_closed {
                return false;
            }
            pending.is_thread_waiting = true;
            self.has_lines.wait(&mut pending);
        }
        pending.is_thread_waiting = false;
        mem::swap(&mut pending.drained, drained);
        true
    }

    /// Records that lines which the thread has taken are written, or lost.
    pub(super) fn finish(&self, lines: usize, bytes: usize) {
        let mut pending = self.pending.lock();
        pending.lines = pending.lines.saturating_sub(lines);
        pending.bytes = pending.bytes.saturating_sub(bytes);
    }

    /// The number of bytes that are not written yet.
    pub(super) fn bytes(&self) -> usize {
        self.pending.lock().bytes
    }

    /// Counts lost lines.
    pub(super) fn count_lost(&self, lines: u64) {
        self.unreported.fetch_add(lines, Ordering::Relaxed);
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// The number of lost lines that were not yet reported in the log.
    pub(super) fn unreported(&self) -> u64 {
        self.unreported.load(Ordering::Relaxed)
    }

    /// Records that the log has a line about this number of lost lines.
    pub(super) fn mark_reported(&self, lines: u64) {
        self.unreported.fetch_sub(lines, Ordering::Relaxed);
    }

    /// The number of all lines that were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn wake(&self, mut pending: MutexGuard<'_, Pending>) {
        if mem::take(&mut pending.is_thread_waiting) {
            drop(pending);
            self.has_lines.notify_one();
        }
    }
}

impl Drained {
    fn is_empty(&self) -> bool {
        self.batch.ends.is_empty() && self.reopens.is_empty()
    }
}

impl Batch {
    pub(super) fn push(&mut self, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.ends.push(self.text.len());
    }

    /// Where the line with this index starts.
    pub(super) fn start_of(&self, line: usize) -> usize {
        let before = line.checked_sub(1).and_then(|before| self.ends.get(before));
        before.copied().unwrap_or(0)
    }

    /// The number of lines that fit into a write of `max_bytes`, of the lines that end at `ends` and the first of
    /// which starts at `from`. It is at least one, however long that line is.
    pub(super) fn count_fitting(from: usize, ends: &[usize], max_bytes: usize) -> usize {
        ends.partition_point(|end| *end <= from + max_bytes).max(1)
    }

    /// Removes all lines and keeps the allocation, unless a line of unusual length has made it large.
    fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(MAX_BATCH_BYTES);
        self.ends.clear();
    }
}

/// The maximum number of bytes of one write to a file.
pub(super) const MAX_BATCH_BYTES: usize = 64 * 1024;
/// The maximum number of queued lines: a few seconds of a busy proxy.
pub(super) const MAX_QUEUED_LINES: usize = 32 * 1024;
/// The maximum number of queued bytes. A line may have some KiB, if a client chooses long names.
pub(super) const MAX_QUEUED_BYTES: usize = 8 << 20;
