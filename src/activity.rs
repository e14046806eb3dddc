//! The active transfers and the recent rejections: the part of the observations that contains names.
//!
//! `service` and `access_log` record both, and `admin` shows them on the status page. Both lists are bounded in their
//! number of entries, and each text is bounded in its length. Recording never waits for a reader: a rejection is not
//! recorded while another thread has the list locked, and a transfer is not recorded if there is no room.
//!
//! All clients share both lists, so no client may displace the entries of others. A client network group (an IPv4
//! address, or an IPv6 /48) lists no more transfers than would remain free after that, and a new rejection replaces
//! the oldest one of the group that has most entries.

use std::cmp::Reverse;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::metrics::counter::{SHARDS, thread_shard};
use crate::metrics::{Operation, RejectionReason};
use crate::net::addr::ClientNetworkGroup;
use crate::text::shorten;

/// Tracks the active transfers and the recent rejections of the process. It outlives reloads.
#[derive(Debug)]
pub struct ActivityTracker {
    transfers: [Mutex<HashMap<u64, Arc<Transfer>>>; SHARDS],
    transfer_count: AtomicUsize,
    /// The number of transfers of each client network group. The counter of a group is chosen by a hash of the group
    /// under a key of this process: no map has to be locked for each transfer, and a client cannot choose whose
    /// counter it shares.
    group_counters: [AtomicUsize; GROUP_COUNTERS],
    hasher: RandomState,
    next_number: AtomicU64,
    rejections: Mutex<VecDeque<(ClientNetworkGroup, RejectedRequest)>>,
}

/// A request that moves content of a repository, or a WebSocket.
#[derive(Debug)]
pub struct Transfer {
    /// Push, pull or WebSocket.
    pub operation: Operation,
    /// The user; empty for an anonymous client.
    pub user: String,
    /// The address of the client.
    pub client: String,
    /// The name of the site.
    pub site: String,
    /// The repository; the path of a WebSocket.
    pub repository: String,
    /// When the request arrived.
    pub started: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    /// The length of the body that the transfer moves, or [`NO_LENGTH`].
    length: AtomicU64,
    /// The last readings of the number of bytes, the oldest first: as many as [`RATE_WINDOW`] needs. Only the sampler and
    /// the readers of the rate lock it, never the request.
    readings: Mutex<VecDeque<Reading>>,
    cut: CutSignal,
}

/// Wakes the task of a transfer when an operator ends the transfer. A transfer has one task at any time: it handles the request
/// and then sends the body of the response.
#[derive(Debug, Default)]
struct CutSignal {
    is_cut: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// The number of bytes that a transfer had moved at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    bytes: u64,
}

/// A request that the proxy rejected, or several that differ only in their time.
#[derive(Clone, Debug)]
pub struct RejectedRequest {
    /// When the request was rejected; of several, the last one.
    pub at: SystemTime,
    /// When the first of several requests was rejected.
    pub first_at: SystemTime,
    /// The number of requests.
    pub count: u64,
    /// The address of the client.
    pub client: String,
    /// The user, as far as it is known.
    pub user: String,
    /// The name of the site, as far as it is known.
    pub site: String,
    /// Method and path.
    pub request: String,
    /// The kind of rejection.
    pub reason: RejectionReason,
    /// The reason in words, as in the access log.
    pub message: String,
}

/// Lists a transfer until the guard is dropped.
#[derive(Debug)]
pub struct TransferGuard {
    tracker: Arc<ActivityTracker>,
    shard: usize,
    group_counter: usize,
    number: u64,
    /// The transfer that is listed.
    pub transfer: Arc<Transfer>,
}

impl Default for ActivityTracker {
    fn default() -> Self {
        Self {
            transfers: std::array::from_fn(|_| Mutex::default()),
            transfer_count: AtomicUsize::new(0),
            group_counters: std::array::from_fn(|_| AtomicUsize::new(0)),
            hasher: RandomState::new(),
            next_number: AtomicU64::new(1),
            rejections: Mutex::default(),
        }
    }
}

impl ActivityTracker {
    /// Lists a transfer of a client of `group`. Returns `None` if the list is full or the group has its share.
    pub fn start_transfer(
        self: &Arc<Self>,
        group: ClientNetworkGroup,
        transfer: Transfer,
    ) -> Option<TransferGuard> {
        let group_counter = self.counter_of(group);
        let free = MAX_TRANSFERS.checked_sub(self.transfer_count.fetch_add(1, Relaxed));
        let counter = self.group_counters.get(group_counter);
        let of_group = counter.map_or(0, |count| count.fetch_add(1, Relaxed));
        if free.is_none_or(|free| of_group >= free) {
            self.uncount(group_counter);
            return None;
        }
        let guard = TransferGuard {
            tracker: Arc::clone(self),
            shard: thread_shard(),
            group_counter,
            number: self.next_number.fetch_add(1, Relaxed),
            transfer: Arc::new(transfer),
        };
        if let Some(shard) = self.transfers.get(guard.shard) {
            shard
                .lock()
                .insert(guard.number, Arc::clone(&guard.transfer));
        }
        Some(guard)
    }

    fn counter_of(&self, group: ClientNetworkGroup) -> usize {
        let hash = self.hasher.hash_one(group) % GROUP_COUNTERS as u64;
        usize::try_from(hash).unwrap_or_default()
    }

    fn uncount(&self, group_counter: usize) {
        self.transfer_count.fetch_sub(1, Relaxed);
        if let Some(count) = self.group_counters.get(group_counter) {
            count.fetch_sub(1, Relaxed);
        }
    }

    /// Ends the transfer with this number, and returns it. `None` if no active transfer has the number.
    ///
    /// The task of the transfer is woken and ends the transfer. If the client does not read, hyper does not poll the response
    /// body, and the transfer ends when the client reads again or when `limits.write_idle` aborts the connection.
    pub(crate) fn cut_transfer(&self, number: u64) -> Option<Arc<Transfer>> {
        let mut shards = self.transfers.iter();
        let transfer = shards.find_map(|shard| shard.lock().get(&number).map(Arc::clone))?;
        transfer.cut.set();
        Some(transfer)
    }

    /// The number of active transfers.
    pub fn transfer_count(&self) -> usize {
        self.transfer_count.load(Relaxed)
    }

    /// The `limit` transfers that have moved most bytes, in the order of their start, each with its unique number;
    /// and the number of all transfers.
    pub fn largest_transfers(&self, limit: usize) -> (Vec<(u64, Arc<Transfer>)>, usize) {
        let mut all = Vec::new();
        for shard in &self.transfers {
            let shard = shard.lock();
            all.extend(
                shard
                    .iter()
                    .map(|(number, transfer)| (*number, Arc::clone(transfer))),
            );
        }
        let count = all.len();
        if count > limit {
            // The transfers go on while they are sorted, so each is sorted by one reading of its bytes.
            let mut sized: Vec<_> = all
                .into_iter()
                .map(|entry| (entry.1.total_bytes(), entry))
                .collect();
            sized.sort_unstable_by_key(|(bytes, (number, _))| (Reverse(*bytes), Reverse(*number)));
            all = sized
                .into_iter()
                .take(limit)
                .map(|(_, entry)| entry)
                .collect();
        }
        all.sort_unstable_by_key(|(number, transfer)| (transfer.started, *number));
        (all, count)
    }

    /// Reads the number of bytes of each active transfer, from which the transfer calculates its rate. The caller does so
    /// about once a second.
    pub fn sample_rates(&self, now: Instant) {
        for shard in &self.transfers {
            for transfer in shard.lock().values() {
                transfer.sample_rate(now);
            }
        }
    }

    /// Records the rejection of a request from `group`. A rejection that repeats a recent one is added to its entry, so
    /// that a client that tries again and again does not fill the list. If the list is full, the oldest rejection of the
    /// group with the most entries is dropped. `rejection` is called only if the rejection can be recorded.
    pub fn record_rejection(
        &self,
        group: ClientNetworkGroup,
        rejection: impl FnOnce() -> RejectedRequest,
    ) {
        let Some(mut all) = self.rejections.try_lock() else {
            return;
        };
        let rejection = rejection();
        let mut rejection = RejectedRequest {
            client: truncate(&rejection.client),
            user: truncate(&rejection.user),
            site: truncate(&rejection.site),
            request: truncate(&rejection.request),
            message: truncate(&rejection.message),
            ..rejection
        };
        let repeated = all.iter().position(|(_, one)| rejection.repeats(one));
        if let Some((_, earlier)) = repeated.and_then(|position| all.remove(position)) {
            rejection.count += earlier.count;
            rejection.first_at = earlier.first_at;
        } else if all.len() >= MAX_REJECTIONS
            && let Some(oldest) = oldest_of_largest_group(&all, group)
        {
            all.remove(oldest);
        }
        all.push_back((group, rejection));
    }

    /// The recent rejections, the latest first.
    pub fn recent_rejections(&self) -> Vec<RejectedRequest> {
        let all = self.rejections.lock();
        let latest_first = all.iter().rev();
        latest_first
            .map(|(_, rejection)| rejection.clone())
            .collect()
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        if let Some(shard) = self.tracker.transfers.get(self.shard) {
            shard.lock().remove(&self.number);
        }
        self.tracker.uncount(self.group_counter);
    }
}

/// The position of the oldest rejection of the group that will have most entries once `newcomer` has one more.
fn oldest_of_largest_group(
    all: &VecDeque<(ClientNetworkGroup, RejectedRequest)>,
    newcomer: ClientNetworkGroup,
) -> Option<usize> {
    let mut counts = HashMap::from([(newcomer, 1)]);
    for (group, _) in all {
        *counts.entry(*group).or_insert(0) += 1;
    }
    let largest = counts.values().max().copied()?;
    let is_largest =
        |(group, _): &(ClientNetworkGroup, RejectedRequest)| counts.get(group) == Some(&largest);
    // The newcomer's group can be the largest one without an entry in the list only if every group has one entry.
    all.iter().position(is_largest).or(Some(0))
}

impl RejectedRequest {
    /// Whether this rejection differs from a recent one only in its time. The message does not count, because the message
    /// of a throttled request can have a time in it.
    fn repeats(&self, earlier: &Self) -> bool {
        let since = self.at.duration_since(earlier.at).unwrap_or_default();
        self.reason == earlier.reason
            && self.client == earlier.client
            && self.user == earlier.user
            && self.site == earlier.site
            && self.request == earlier.request
            && since <= REPEATS_WITHIN
    }
}

impl Transfer {
    /// Creates a transfer without any bytes. `texts` are the user, the client, the site and the repository.
    pub fn new(operation: Operation, texts: [&str; 4], started: Instant) -> Self {
        let [user, client, site, repository] = texts.map(truncate);
        Self {
            operation,
            user,
            client,
            site,
            repository,
            started,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            length: AtomicU64::new(NO_LENGTH),
            readings: Mutex::default(),
            cut: CutSignal::default(),
        }
    }

    /// Ready once an operator has ended the transfer. Until then the task of `cx` is woken when that happens.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        self.cut.poll(cx)
    }

    /// The number of bytes received from the client, and the number of bytes sent to it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    /// Adds bytes that were received from the client.
    pub(crate) fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// Adds bytes that were sent to the client.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// Sets the length of the body that the transfer moves.
    pub fn set_length(&self, bytes: u64) {
        self.length.store(bytes, Relaxed);
    }

    /// The length of the body that the transfer moves; `None` if the body is chunked or empty, or its length is not known
    /// yet.
    pub fn length(&self) -> Option<u64> {
        Some(self.length.load(Relaxed)).filter(|length| !matches!(*length, 0 | NO_LENGTH))
    }

    /// The rate in bytes per second: the average over the last [`RATE_WINDOW`], or since the start of a transfer that is
    /// younger. A transfer moves in bursts, because buffers on its way fill and drain, so the average of a few seconds
    /// can be off by orders of magnitude.
    pub fn rate(&self, now: Instant) -> u64 {
        let oldest = self.readings.lock().front().copied();
        let Reading { at, bytes } = oldest.unwrap_or_else(|| self.first_reading());
        let moved = self.total_bytes().saturating_sub(bytes);
        // In the first second, the first buffer would look like a high rate.
        let time = now
            .saturating_duration_since(at)
            .max(Duration::from_secs(1));
        bytes_per_second(moved, time)
    }

    /// Adds a reading if the last one is old enough, and drops those that the window no longer needs. The oldest reading
    /// that is kept is the beginning of the window.
    fn sample_rate(&self, now: Instant) {
        let age = |reading: &Reading| now.saturating_duration_since(reading.at);
        let mut readings = self.readings.lock();
        if readings.is_empty() {
            readings.push_back(self.first_reading());
        }
        if readings
            .back()
            .is_some_and(|last| age(last) >= READING_INTERVAL)
        {
            readings.push_back(Reading {
                at: now,
                bytes: self.total_bytes(),
            });
        }
        while readings.get(1).is_some_and(|next| age(next) >= RATE_WINDOW) {
            readings.pop_front();
        }
    }

    fn first_reading(&self) -> Reading {
        Reading {
            at: self.started,
            bytes: 0,
        }
    }

    fn total_bytes(&self) -> u64 {
        let (received, sent) = self.bytes();
        received.saturating_add(sent)
    }
}

impl CutSignal {
    fn set(&self) {
        self.is_cut.store(true, Relaxed);
        // The lock is released before the waker runs: the code of a waker may lock as well.
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_cut.load(Relaxed) {
            let mut waker = self.waker.lock();
            match &*waker {
                Some(known) if known.will_wake(cx.waker()) => {}
                _ => *waker = Some(cx.waker().clone()),
            }
        }
        // The lock orders this second reading after a `set` that found no waker.
        match self.is_cut.load(Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// The text, shortened to [`MAX_TEXT_BYTES`].
fn truncate(text: &str) -> String {
    shorten(text, MAX_TEXT_BYTES).into_owned()
}

fn bytes_per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = u128::from(bytes) * 1_000_000_000;
    let rate = nanos.checked_div(time.as_nanos()).unwrap_or_default();
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// The value of `Transfer::length` while the length is not known. No body is as long.
const NO_LENGTH: u64 = u64::MAX;
/// The time over which the rate of a transfer is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(30);
/// The time between two readings of a transfer. A transfer keeps at most 17 readings.
const READING_INTERVAL: Duration = Duration::from_secs(2);
/// The time within which a rejection that happens again is added to the entry of the earlier one.
const REPEATS_WITHIN: Duration = Duration::from_secs(3600);
/// The maximum number of listed transfers: the default of `limits.connections`.
const MAX_TRANSFERS: usize = 10_000;
/// The maximum number of listed rejections.
const MAX_REJECTIONS: usize = 50;
const GROUP_COUNTERS: usize = 1024;
/// The maximum length of a text: more than the usual length of a repository name.
const MAX_TEXT_BYTES: usize = 160;

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
    fn a_transfer_is_listed_until_its_guard_is_dropped() {
        let activity = Arc::<ActivityTracker>::default();
        let (first, second) = (
            activity.start_transfer(home(), transfer("one")),
            activity.start_transfer(home(), transfer("two")),
        );
        let repositories = || -> Vec<_> {
            let (running, _) = activity.largest_transfers(10);
            running
                .iter()
                .map(|(_, one)| one.repository.clone())
                .collect()
        };
        assert_eq!(repositories(), ["one", "two"]);
        let (largest, count) = activity.largest_transfers(1);
        assert_eq!((largest.len(), count), (1, 2));
        drop(first);
        assert_eq!(repositories(), ["two"]);
        drop(second);
        assert!(repositories().is_empty());
    }

    #[test]
    fn the_largest_transfers_are_listed_in_the_order_of_their_start() {
        let activity = Arc::<ActivityTracker>::default();
        let running: Vec<_> = (0..5)
            .filter_map(|number| activity.start_transfer(home(), transfer(&number.to_string())))
            .collect();
        for (number, bytes) in [(1, 7), (3, 9), (4, 8)] {
            running[number].transfer.add_sent(bytes);
        }
        let (largest, count) = activity.largest_transfers(3);
        let names: Vec<_> = largest
            .iter()
            .map(|(_, one)| one.repository.as_str())
            .collect();
        assert_eq!((names, count), (vec!["1", "3", "4"], 5));
    }

    #[test]
    fn the_rate_is_the_average_of_thirty_seconds() {
        let second = Duration::from_secs(1);
        let one = transfer("a");
        let mut now = one.started;
        one.add_sent(1000);
        // The first buffer of a transfer is no rate of 1000 bytes per millisecond.
        assert_eq!(one.rate(now + second / 1000), 1000);
        assert_eq!(one.rate(now + 2 * second), 500);
        // 60 KiB/s in a burst every six seconds.
        for tick in 1..=120 {
            now += second;
            if tick % 6 == 0 {
                one.add_sent(6 * 60 * 1024);
            }
            one.sample_rate(now);
            if tick > 30 {
                let rate = one.rate(now);
                assert!((48 * 1024..=72 * 1024).contains(&rate), "{rate} at {tick}");
            }
        }
        assert!(one.readings.lock().len() <= 17);
        for _ in 0..29 {
            now += second;
            one.sample_rate(now);
        }
        assert!(one.rate(now) > 0);
        for _ in 0..3 {
            now += second;
            one.sample_rate(now);
        }
        assert_eq!(one.rate(now), 0);
    }

    #[test]
    fn a_length_is_known_once_it_is_set() {
        let one = transfer("a");
        assert_eq!(one.length(), None);
        one.set_length(0);
        assert_eq!(one.length(), None);
        one.set_length(7);
        assert_eq!(one.length(), Some(7));
    }

    #[test]
    fn a_rejection_that_happens_again_is_added_to_its_entry() {
        let activity = ActivityTracker::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let reject = |seconds, reason, request: &str| {
            activity.record_rejection(home(), || RejectedRequest {
                at: at(seconds),
                first_at: at(seconds),
                request: request.to_owned(),
                reason,
                ..rejection(home(), seconds.to_string())
            });
        };
        for seconds in [0, 10, 20] {
            reject(seconds, RejectionReason::Throttled, "GET /v2/");
            reject(seconds + 1, RejectionReason::Path, "GET /other");
        }
        reject(30, RejectionReason::Throttled, "GET /v2/a/tags/list");
        let listed = || -> Vec<_> {
            let listed = activity.recent_rejections();
            let row =
                |one: &RejectedRequest| (one.request.clone(), one.count, one.first_at, one.at);
            listed.iter().map(row).collect()
        };
        let row =
            |request: &str, count, first, last| (request.to_owned(), count, at(first), at(last));
        assert_eq!(
            listed(),
            [
                row("GET /v2/a/tags/list", 1, 30, 30),
                row("GET /other", 3, 1, 21),
                row("GET /v2/", 3, 0, 20),
            ]
        );
        assert_eq!(activity.recent_rejections()[2].message, "20");
        // Hours later it is another event.
        reject(3600 + 21, RejectionReason::Throttled, "GET /v2/");
        assert_eq!(listed()[0], row("GET /v2/", 1, 3621, 3621));
        assert_eq!(listed().len(), 4);
    }

    #[test]
    fn a_cut_wakes_the_task_of_the_transfer_and_no_other() {
        let activity = Arc::<ActivityTracker>::default();
        let start = |name| activity.start_transfer(home(), transfer(name)).unwrap();
        let (one, two) = (start("a"), start("b"));
        let cx = Context::from_waker(Waker::noop());
        for guard in [&one, &two] {
            assert!(guard.transfer.poll_cut(&cx).is_pending());
        }
        let cut = activity.cut_transfer(one.number).unwrap();
        assert!(Arc::ptr_eq(&cut, &one.transfer));
        assert!(one.transfer.poll_cut(&cx).is_ready());
        assert!(one.transfer.cut.waker.lock().is_none());
        assert!(two.transfer.poll_cut(&cx).is_pending());
        let number = one.number;
        drop(one);
        assert!(activity.cut_transfer(number).is_none());
    }

    fn rejection(group: ClientNetworkGroup, message: String) -> RejectedRequest {
        RejectedRequest {
            at: SystemTime::UNIX_EPOCH,
            first_at: SystemTime::UNIX_EPOCH,
            count: 1,
            client: group.to_string(),
            user: "é".repeat(1000),
            site: String::new(),
            request: message.clone(),
            reason: RejectionReason::Path,
            message,
        }
    }

    #[test]
    fn transfers_are_bounded_and_one_48_lists_at_most_half() {
        let activity = Arc::<ActivityTracker>::default();
        let flood = |number: usize| group(&format!("2001:db8:0:{number:x}::1"));
        let mut shown: Vec<_> = (0..MAX_TRANSFERS)
            .filter_map(|number| activity.start_transfer(flood(number), transfer("a")))
            .collect();
        assert_eq!(shown.len(), MAX_TRANSFERS / 2);
        let other = activity.start_transfer(home(), transfer("b"));
        assert!(other.is_some());
        assert!(activity.start_transfer(flood(0), transfer("a")).is_none());
        shown.truncate(shown.len() - 2);
        assert!(activity.start_transfer(flood(0), transfer("a")).is_some());
        drop((shown, other));
        assert_eq!(activity.transfer_count(), 0);
        let all = activity.group_counters.iter();
        assert_eq!(all.map(|count| count.load(Relaxed)).sum::<usize>(), 0);
    }

    #[test]
    fn rejections_of_one_48_displace_rejections_of_the_same_48() {
        let activity = ActivityTracker::default();
        activity.record_rejection(home(), || rejection(home(), "mine".to_owned()));
        for number in 0..2 * MAX_REJECTIONS {
            let own = group(&format!("2001:db8:0:{number:x}::1"));
            activity.record_rejection(own, || rejection(own, number.to_string()));
        }
        let rejections = activity.recent_rejections();
        assert_eq!(rejections.len(), MAX_REJECTIONS);
        assert_eq!(rejections[0].message, (2 * MAX_REJECTIONS - 1).to_string());
        assert!(
            rejections
                .iter()
                .any(|rejection| rejection.message == "mine")
        );
        assert!(rejections[0].user.len() <= MAX_TEXT_BYTES + '…'.len_utf8());
        // If each group has one rejection, the oldest one is displaced.
        for number in 0..2 * MAX_REJECTIONS {
            let own = group(&format!("192.0.2.{}", number + 10));
            activity.record_rejection(own, || rejection(own, number.to_string()));
        }
        assert_eq!(
            activity.recent_rejections()[0].message,
            (2 * MAX_REJECTIONS - 1).to_string()
        );
    }
}
