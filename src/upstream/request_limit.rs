//! The limit on active requests of one endpoint, shared fairly between client networks.
//!
//! `pool` acquires a [`RequestPermit`] for each request. All workers share the limit: one short lock when a request begins and
//! one when it ends. Nothing is opened, read or closed under the lock.
//!
//! **Shares.** A client network gets another permit only while it has fewer permits than are free, and the client networks of
//! one IPv6 /48 together only while they have fewer than twice the free ones (a "dynamic threshold", Choudhury and Hahne,
//! 1998). One client network alone can therefore use half of all permits, two can use a third each, three a quarter each.
//! Whatever the first networks do, permits stay free for the next one. One /48 alone can use two thirds. If it could use only
//! half, one of its networks could use up what its neighbours may have.
//!
//! **The queue.** A request without a permit waits in a [`FairQueue`]. Every change that frees permits grants them immediately,
//! in the order of turns, so that no request in the queue could have a permit.
//!
//! **Clients that do not read or send.** A request that has waited for its own client for [`STALLED`] uses nothing of the
//! upstream but a connection. While other requests are queued, such a request is *detached*: it continues, but it no longer
//! holds a permit. There can be as many detached requests as permits, with the same shares. Beyond that, a request is
//! *displaced*: its upstream connection is closed. The victim is the longest-waiting request of the client network group that
//! has the most requests. A group that has less than twice as many requests as the group of a queued request loses a request
//! only after [`LONG_STALLED`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::client_wait::ClientWait;
use super::connect::Stream;
use super::error::Error;
use super::http1::BodyReader;
use crate::net::addr::{ClientNetwork, ClientNetworkGroup};
use crate::net::fair_queue::FairQueue;

/// The permits of one endpoint, and the queue of requests that wait for one.
pub(crate) struct RequestLimit {
    max_active: usize,
    max_wait: Duration,
    state: Mutex<State>,
}

/// The right to have an active request. It is released on drop.
pub(crate) struct RequestPermit {
    limit: Arc<RequestLimit>,
    key: usize,
    request: Arc<OpenRequest>,
}

/// The part of a request that the limit can read and close from any thread.
pub(crate) struct OpenRequest {
    client_wait: ClientWait,
    /// Whether the request was displaced. Set under the lock of the limit.
    is_displaced: AtomicBool,
    /// Wakes the task that sends the request, so that it sees `is_displaced`.
    waker: Mutex<Option<Waker>>,
    /// The response body with its connection, from the response head to its last byte.
    response: Mutex<Option<BodyReader<Stream>>>,
}

struct State {
    /// The requests that hold a permit.
    active: Shares,
    /// The requests that held a permit and continue without one.
    detached: Shares,
    requests: Requests,
    queue: FairQueue<QueuedRequest>,
    next_id: u64,
    /// The earliest time of the next search for stalled requests.
    next_search: Instant,
}

/// A request in the queue.
struct QueuedRequest {
    id: u64,
    grant: oneshot::Sender<RequestPermit>,
}

/// The active and detached requests by their key. Keys are reused.
#[derive(Default)]
struct Requests {
    entries: Vec<Option<Entry>>,
    free_keys: Vec<usize>,
}

#[derive(Clone)]
struct Entry {
    network: ClientNetwork,
    is_detached: bool,
    request: Arc<OpenRequest>,
}

/// The number of requests of each client network and of each group, up to `max` in total.
struct Shares {
    max: usize,
    total: usize,
    /// Groups without requests stay in the map for a while, so that the next request needs no new entry.
    groups: HashMap<ClientNetworkGroup, GroupShare>,
}

#[derive(Default)]
struct GroupShare {
    total: usize,
    /// The client networks of the group that have requests, with their number.
    networks: Vec<(ClientNetwork, usize)>,
}

/// What to do after the lock is released.
#[derive(Default)]
struct Outcome {
    granted: Vec<(oneshot::Sender<RequestPermit>, RequestPermit)>,
    displaced: Vec<Arc<OpenRequest>>,
}

impl RequestLimit {
    /// Creates a limit of `max_active` requests at the same time. Up to `max_queued` further requests can be queued, each for
    /// at most `max_wait`.
    pub(crate) fn new(max_active: usize, max_queued: usize, max_wait: Duration) -> Self {
        Self {
            max_active,
            max_wait,
            state: Mutex::new(State {
                active: Shares::new(max_active),
                detached: Shares::new(max_active),
                requests: Requests::default(),
                queue: FairQueue::new(max_queued),
                next_id: 0,
                next_search: Instant::now(),
            }),
        }
    }

    /// The number of active, detached and queued requests.
    pub(crate) fn busy(&self) -> usize {
        let state = self.state.lock();
        state.active.total + state.detached.total + state.queue.len()
    }

    /// Returns a permit, after a wait in the queue if there is none for `network` now.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full or the wait was too long.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        network: ClientNetwork,
    ) -> Result<RequestPermit, Error> {
        match self.try_acquire(network) {
            Some(permit) => Ok(permit),
            None => Box::pin(self.wait_in_queue(network)).await,
        }
    }

    fn try_acquire(self: &Arc<Self>, network: ClientNetwork) -> Option<RequestPermit> {
        let request = Arc::new(OpenRequest::new());
        let mut state = self.state.lock();
        let is_admitted = state.active.try_add(network);
        is_admitted.then(|| self.permit(&mut state, network, request))
    }

    async fn wait_in_queue(
        self: &Arc<Self>,
        network: ClientNetwork,
    ) -> Result<RequestPermit, Error> {
        let (grant, mut granted) = oneshot::channel();
        let mut guard = self.enqueue(network, grant).ok_or(Error::Busy)?;
        let waiting = async {
            loop {
                self.make_room(Instant::now());
                match timeout(SEARCH_INTERVAL, &mut granted).await {
                    Ok(outcome) => return outcome,
                    Err(_elapsed) => {}
                }
            }
        };
        match timeout(self.max_wait, waiting).await {
            // A permit was granted, or the request was evicted from the queue, which drops the sender.
            Ok(outcome) => {
                guard.is_queued = false;
                outcome.map_err(|_evicted| Error::Busy)
            }
            // A permit that is granted at this moment is released together with the receiver.
            Err(_elapsed) => Err(Error::Busy),
        }
    }

    /// Adds a request to the queue, and grants it a permit if one became free meanwhile. `None` if the queue is full.
    fn enqueue(
        self: &Arc<Self>,
        network: ClientNetwork,
        grant: oneshot::Sender<RequestPermit>,
    ) -> Option<QueueGuard<'_>> {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let evicted = state
            .queue
            .push(network, QueuedRequest { id, grant })
            .ok()?;
        let outcome = self.grant_free_permits(&mut state);
        drop(state);
        // The task of the evicted request sees its channel close.
        drop(evicted);
        outcome.finish();
        Some(QueueGuard {
            limit: self,
            network,
            id,
            is_queued: true,
        })
    }

    /// Makes a permit for a request that is counted in `state.active` already.
    fn permit(
        self: &Arc<Self>,
        state: &mut State,
        network: ClientNetwork,
        request: Arc<OpenRequest>,
    ) -> RequestPermit {
        let key = state.requests.insert(Entry {
            network,
            is_detached: false,
            request: Arc::clone(&request),
        });
        RequestPermit {
            limit: Arc::clone(self),
            key,
            request,
        }
    }

    /// Grants the free permits to the queued requests whose networks may have another one.
    fn grant_free_permits(self: &Arc<Self>, state: &mut State) -> Outcome {
        let mut outcome = Outcome::default();
        while state.queue.len() > 0 && state.active.total < self.max_active {
            let active = &state.active;
            let next = state.queue.pop_where(
                |group| active.may_add_to(group),
                |network| active.may_add(network),
            );
            let Some((network, queued)) = next else {
                break;
            };
            // Succeeds, because `may_add` was true for the network.
            if state.active.try_add(network) {
                let request = Arc::new(OpenRequest::new());
                let permit = self.permit(state, network, request);
                outcome.granted.push((queued.grant, permit));
            }
        }
        outcome
    }

    fn release(self: &Arc<Self>, permit: &RequestPermit) {
        let mut state = self.state.lock();
        if permit.request.is_displaced() {
            return;
        }
        state.remove(permit.key);
        let outcome = self.grant_free_permits(&mut state);
        drop(state);
        outcome.finish();
    }

    /// Detaches and displaces requests that wait for their own clients, until the queue is empty or no such request is left.
    fn make_room(self: &Arc<Self>, now: Instant) {
        let mut state = self.state.lock();
        if now < state.next_search || state.queue.len() == 0 {
            return;
        }
        state.next_search = now + MIN_SEARCH_PAUSE;
        let mut outcome = Outcome::default();
        let mut may_displace = MAX_DISPLACED_PER_SEARCH;
        for (_, key) in state.stalled(now, |entry| !entry.is_detached) {
            if state.queue.len() == 0 {
                break;
            }
            if !state.detach(key) {
                // Once no request can be displaced, others can still be detached, without another pass over all requests.
                let victim = (may_displace > 0).then(|| state.victim(now)).flatten();
                let Some(victim) = victim else {
                    may_displace = 0;
                    continue;
                };
                may_displace -= 1;
                outcome.displaced.extend(state.displace(victim));
                state.detach(key);
            }
            outcome
                .granted
                .extend(self.grant_free_permits(&mut state).granted);
        }
        drop(state);
        outcome.finish();
    }

    /// Closes the upstream connection of the request that has waited longest for its client, so that its file descriptor can
    /// be used. Returns whether there was such a request.
    pub(crate) fn displace_stalled(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        let stalled = state.stalled(Instant::now(), |_| true);
        let key = stalled.first().map(|(_, key)| *key);
        let displaced = key.and_then(|key| state.displace(key));
        let mut outcome = self.grant_free_permits(&mut state);
        drop(state);
        outcome.displaced.extend(displaced);
        let is_displaced = !outcome.displaced.is_empty();
        outcome.finish();
        is_displaced
    }
}

impl State {
    /// The requests that have waited for their clients for [`STALLED`] and that match `filter`, the longest wait first.
    fn stalled(&self, now: Instant, filter: impl Fn(&Entry) -> bool) -> Vec<(Duration, usize)> {
        let mut stalled: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, entry)| filter(entry))
            .filter_map(|(key, entry)| Some((entry.request.stalled(now)?, key)))
            .collect();
        stalled.sort_unstable_by(|one, other| other.cmp(one));
        stalled
    }

    /// Frees the permit of a request, if its network may have another detached request.
    fn detach(&mut self, key: usize) -> bool {
        let Some(entry) = self.requests.get_mut(key) else {
            return false;
        };
        if entry.is_detached || !self.detached.try_add(entry.network) {
            return false;
        }
        entry.is_detached = true;
        self.active.remove(entry.network);
        true
    }

    /// The request to displace in favour of the queued requests. `None` if none of them justifies it.
    fn victim(&self, now: Instant) -> Option<usize> {
        let stalled = self.stalled(now, |_| true);
        let candidates = stalled.iter().filter_map(|(waited, key)| {
            let group = self.requests.get(*key)?.network.group();
            Some((self.requests_of(group), *waited, group, *key))
        });
        // The longest-waiting request of the group that has the most requests.
        let (requests, waited, group, key) =
            candidates.max_by_key(|(requests, waited, ..)| (*requests, *waited))?;
        let queued_groups = self.queue.networks().map(ClientNetwork::group);
        // With one more request, the group of a queued request would still have at most half as many as this one.
        let is_justified = queued_groups
            .filter(|queued| *queued != group)
            .any(|queued| {
                let with_one_more = self.requests_of(queued).saturating_add(1);
                waited >= LONG_STALLED || with_one_more.saturating_mul(2) <= requests
            });
        is_justified.then_some(key)
    }

    fn requests_of(&self, group: ClientNetworkGroup) -> usize {
        self.active.of_group(group) + self.detached.of_group(group)
    }

    fn displace(&mut self, key: usize) -> Option<Arc<OpenRequest>> {
        let entry = self.remove(key)?;
        entry.request.is_displaced.store(true, Ordering::Release);
        Some(entry.request)
    }

    fn remove(&mut self, key: usize) -> Option<Entry> {
        let entry = self.requests.remove(key)?;
        let shares = if entry.is_detached {
            &mut self.detached
        } else {
            &mut self.active
        };
        shares.remove(entry.network);
        Some(entry)
    }
}

impl Requests {
    fn insert(&mut self, entry: Entry) -> usize {
        if let Some(key) = self.free_keys.pop()
            && let Some(free) = self.entries.get_mut(key)
        {
            *free = Some(entry);
            return key;
        }
        self.entries.push(Some(entry));
        self.entries.len() - 1
    }

    fn remove(&mut self, key: usize) -> Option<Entry> {
        let entry = self.entries.get_mut(key)?.take()?;
        self.free_keys.push(key);
        Some(entry)
    }

    fn get(&self, key: usize) -> Option<&Entry> {
        self.entries.get(key)?.as_ref()
    }

    fn get_mut(&mut self, key: usize) -> Option<&mut Entry> {
        self.entries.get_mut(key)?.as_mut()
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(key, entry)| Some((key, entry.as_ref()?)))
    }
}

impl Shares {
    fn new(max: usize) -> Self {
        Self {
            max,
            total: 0,
            groups: HashMap::new(),
        }
    }

    fn free(&self) -> usize {
        self.max.saturating_sub(self.total)
    }

    /// Whether a network of `group` that has no request may have one.
    fn may_add_to(&self, group: ClientNetworkGroup) -> bool {
        self.of_group(group) < self.free().saturating_mul(2)
    }

    /// Whether `network` may have another request, by the thresholds in the description of the module.
    fn may_add(&self, network: ClientNetwork) -> bool {
        let free = self.free();
        let group = self.groups.get(&network.group());
        group.map_or(free > 0, |group| group.may_add(network, free))
    }

    /// Counts another request of `network` if it may have one.
    fn try_add(&mut self, network: ClientNetwork) -> bool {
        let free = self.free();
        if free == 0 {
            return false;
        }
        if self.groups.len() >= self.max.saturating_mul(2).saturating_add(MAX_UNUSED_GROUPS) {
            self.groups.retain(|_, group| group.total > 0);
        }
        let group = self.groups.entry(network.group()).or_default();
        let may_add = group.may_add(network, free);
        if may_add {
            group.add(network);
            self.total += 1;
        }
        may_add
    }

    fn remove(&mut self, network: ClientNetwork) {
        if let Some(group) = self.groups.get_mut(&network.group()) {
            group.remove(network);
            self.total = self.total.saturating_sub(1);
        }
    }

    fn of_group(&self, group: ClientNetworkGroup) -> usize {
        self.groups.get(&group).map_or(0, |group| group.total)
    }
}

impl GroupShare {
    fn may_add(&self, network: ClientNetwork, free: usize) -> bool {
        let entry = self.networks.iter().find(|(own, _)| *own == network);
        let of_network = entry.map_or(0, |(_, count)| *count);
        of_network < free && self.total < free.saturating_mul(2)
    }

    fn add(&mut self, network: ClientNetwork) {
        self.total += 1;
        match self.networks.iter_mut().find(|(own, _)| *own == network) {
            Some((_, count)) => *count += 1,
            None => self.networks.push((network, 1)),
        }
    }

    fn remove(&mut self, network: ClientNetwork) {
        self.total = self.total.saturating_sub(1);
        let mut networks = self.networks.iter_mut();
        let Some(index) = networks.position(|(own, _)| *own == network) else {
            return;
        };
        if let Some((_, count)) = self.networks.get_mut(index) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.networks.swap_remove(index);
            }
        }
    }
}

impl Outcome {
    /// Sends the granted permits, and closes the displaced requests.
    ///
    /// Must not be called under the lock: a permit whose receiver is gone is dropped here, which takes the lock.
    fn finish(self) {
        for (grant, permit) in self.granted {
            // An error returns the permit of a receiver that has given up.
            let _ = grant.send(permit);
        }
        for request in self.displaced {
            request.close();
        }
    }
}

impl OpenRequest {
    fn new() -> Self {
        Self {
            client_wait: ClientWait::new(Instant::now()),
            is_displaced: AtomicBool::new(false),
            waker: Mutex::new(None),
            response: Mutex::new(None),
        }
    }

    /// The time that the request has waited for its client, which its task reports.
    pub(crate) fn client_wait(&self) -> &ClientWait {
        &self.client_wait
    }

    /// How long the request has waited for its client, if that is at least [`STALLED`].
    fn stalled(&self, now: Instant) -> Option<Duration> {
        let waited = self.client_wait.duration(now)?;
        (waited >= STALLED).then_some(waited)
    }

    /// Whether the request was displaced and must end.
    pub(crate) fn is_displaced(&self) -> bool {
        self.is_displaced.load(Ordering::Acquire)
    }

    /// Ready when a request whose body is being sent was displaced. A request that does not wait for its client is never
    /// displaced, so its waker is not stored.
    pub(crate) fn poll_displaced(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_displaced() && self.client_wait.is_waiting() {
            *self.waker.lock() = Some(cx.waker().clone());
        }
        if self.is_displaced() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Stores the response body where the limit can close it. If the request was displaced already, the body is closed
    /// immediately.
    pub(crate) fn store_response(&self, reader: BodyReader<Stream>) {
        let mut response = self.response.lock();
        if !self.is_displaced() {
            *response = Some(reader);
        }
    }

    /// The stored response body. `None` after it was taken or closed.
    pub(crate) fn response(&self) -> MutexGuard<'_, Option<BodyReader<Stream>>> {
        self.response.lock()
    }

    fn close(&self) {
        let waker = self.waker.lock().take();
        let response = self.response.lock().take();
        drop(response);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl RequestPermit {
    /// The request that holds the permit.
    pub(crate) fn request(&self) -> &OpenRequest {
        &self.request
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.limit.release(self);
    }
}

/// Removes a request from the queue when its future is dropped.
struct QueueGuard<'a> {
    limit: &'a RequestLimit,
    network: ClientNetwork,
    id: u64,
    is_queued: bool,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        if self.is_queued {
            let mut state = self.limit.state.lock();
            let removed = state
                .queue
                .remove(self.network, |queued| queued.id == self.id);
            drop(state);
            // Dropped after the lock is released, because dropping the sender wakes the receiver.
            drop(removed);
        }
    }
}

/// The wait for its own client after which a request can be detached. A client that transfers more than 64 KiB per second
/// never reaches it.
const STALLED: Duration = Duration::from_secs(1);

/// The wait after which a request can be displaced in favour of a client network group that has as many requests. It is
/// shorter than the default of `limits.upstream_wait`, so that the queued request still gets a permit.
const LONG_STALLED: Duration = Duration::from_secs(3);

/// How often each queued request starts a search for stalled requests.
const SEARCH_INTERVAL: Duration = Duration::from_millis(250);

/// The shortest time between two searches, however many requests are queued.
const MIN_SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// How many requests one search may displace. Each of them costs a pass over all requests.
const MAX_DISPLACED_PER_SEARCH: usize = 16;

/// How many groups without requests may stay in the map, in addition to those that can have one.
const MAX_UNUSED_GROUPS: usize = 64;

#[cfg(test)]
mod tests;
