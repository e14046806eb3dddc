//! How many requests may be under way at one endpoint, and which client network gets the next place.
//!
//! Called by `node` before each request. The limit is shared by all workers: one short lock for each request that begins and
//! for each that ends. Nothing is opened, read or closed under the lock.
//!
//! **Shares.** A client network gets another place only while it has fewer places than are free, and the client networks of
//! one IPv6 /48 together only while they have fewer than twice the free ones (a "dynamic threshold", Choudhury and Hahne,
//! 1998). One client network alone thus has half of all places, two have a third each, three a quarter each: whatever the
//! networks do that came first, places stay free for the next one. One /48 alone has two thirds. Half for it, too, would
//! let one of its networks use up what its neighbours may have.
//!
//! **The queue.** A request without a place waits in a [`FairQueue`]. No request in the queue may have a place at the moment:
//! each change that frees places hands them out at once, in the order of turns.
//!
//! **Clients that do not read or send.** A request that has waited for its own client for [`STALLED`] takes nothing from the
//! upstream but a connection. While others wait, such a request is detached: it goes on, but it no longer has one of the
//! places. There may be as many detached requests as places, with the same shares. Beyond that, the longest-waiting request
//! of the group that has most is displaced: its upstream connection is closed. A group that has less than twice as many as
//! those that wait loses a request only after [`LONG_STALLED`].

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Error;
use super::client_wait::ClientWait;
use super::http1::BodyReader;
use super::stream::Stream;
use crate::net::addr::{ClientNetwork, ClientNetworkGroup};
use crate::net::fair_queue::FairQueue;

/// The places of one endpoint, and the requests that wait for one.
pub(super) struct RequestLimit {
    places: usize,
    max_wait: Duration,
    state: Mutex<State>,
}

/// A place, given back on drop.
pub(super) struct RequestPermit {
    limit: Arc<RequestLimit>,
    key: usize,
    request: Arc<OpenRequest>,
}

/// What a request under way shares with the limit.
pub(super) struct OpenRequest {
    client_wait: ClientWait,
    /// Set under the lock of the limit, when the request loses its place.
    is_displaced: AtomicBool,
    /// Wakes the task that sends the request, so that it sees `is_displaced`.
    waker: Mutex<Option<Waker>>,
    /// The response body, together with its connection, from the head to its last byte.
    response: Mutex<Option<BodyReader<Stream>>>,
}

struct State {
    /// Requests with a place.
    placed: Shares,
    /// Requests that had a place and go on without one.
    detached: Shares,
    requests: Requests,
    queue: FairQueue<Waiting>,
    next_id: u64,
    /// When the requests are next searched for stalled ones.
    next_search: Instant,
}

/// A request in the queue.
struct Waiting {
    id: u64,
    grant: oneshot::Sender<RequestPermit>,
}

/// Requests under way by their key.
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

/// How many of `max` requests each client network has, and each group.
struct Shares {
    max: usize,
    total: usize,
    /// Groups that have nothing at the moment stay for a while: the next request needs no new entry.
    groups: HashMap<ClientNetworkGroup, GroupShare>,
}

#[derive(Default)]
struct GroupShare {
    total: usize,
    /// The client networks of the group that have any.
    networks: Vec<(ClientNetwork, usize)>,
}

/// What is done after the lock was released.
#[derive(Default)]
struct Outcome {
    granted: Vec<(oneshot::Sender<RequestPermit>, RequestPermit)>,
    displaced: Vec<Arc<OpenRequest>>,
}

impl RequestLimit {
    /// `places` requests at once; `max_waiting` may wait for a place, each for `max_wait`.
    pub(super) fn new(places: usize, max_waiting: usize, max_wait: Duration) -> Self {
        Self {
            places,
            max_wait,
            state: Mutex::new(State {
                placed: Shares::new(places),
                detached: Shares::new(places),
                requests: Requests::default(),
                queue: FairQueue::new(max_waiting),
                next_id: 0,
                next_search: Instant::now(),
            }),
        }
    }

    /// Requests under way and waiting.
    pub(super) fn busy(&self) -> usize {
        let state = self.lock();
        state.placed.total + state.detached.total + state.queue.len()
    }

    /// A place at once, or after a wait in the queue.
    ///
    /// # Errors
    /// [`Error::Busy`] when the queue is full or the wait was too long.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        network: ClientNetwork,
    ) -> Result<RequestPermit, Error> {
        match self.try_acquire(network) {
            Some(permit) => Ok(permit),
            None => Box::pin(self.wait(network)).await,
        }
    }

    fn try_acquire(self: &Arc<Self>, network: ClientNetwork) -> Option<RequestPermit> {
        let request = Arc::new(OpenRequest::new());
        let mut state = self.lock();
        let is_admitted = state.placed.try_add(network);
        is_admitted.then(|| self.admit(&mut state, network, request))
    }

    async fn wait(self: &Arc<Self>, network: ClientNetwork) -> Result<RequestPermit, Error> {
        let (grant, mut granted) = oneshot::channel();
        let mut waiter = self.enqueue(network, grant).ok_or(Error::Busy)?;
        let waiting = async {
            loop {
                self.search(Instant::now());
                match timeout(SEARCH_AGAIN, &mut granted).await {
                    Ok(outcome) => return outcome,
                    Err(_elapsed) => {}
                }
            }
        };
        match timeout(self.max_wait, waiting).await {
            // Granted, or evicted from the queue.
            Ok(outcome) => {
                waiter.is_queued = false;
                outcome.map_err(|_evicted| Error::Busy)
            }
            // A place that is granted at this very moment is given back with the receiver.
            Err(_elapsed) => Err(Error::Busy),
        }
    }

    /// Puts a request into the queue, or gives it a place that became free meanwhile. `None` when the queue is full.
    fn enqueue(
        self: &Arc<Self>,
        network: ClientNetwork,
        grant: oneshot::Sender<RequestPermit>,
    ) -> Option<Waiter<'_>> {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let evicted = state.queue.push(network, Waiting { id, grant }).ok()?;
        let outcome = self.grant(&mut state);
        drop(state);
        // The evicted request learns of it by the end of its channel.
        drop(evicted);
        outcome.finish();
        Some(Waiter {
            limit: self,
            network,
            id,
            is_queued: true,
        })
    }

    /// Makes a permit for a request that has been counted.
    fn admit(
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

    /// Hands out the free places to those in the queue that may have them.
    fn grant(self: &Arc<Self>, state: &mut State) -> Outcome {
        let mut outcome = Outcome::default();
        while state.queue.len() > 0 && state.placed.total < self.places {
            let placed = &state.placed;
            let next = state.queue.pop_where(|network| placed.may_add(network));
            let Some((network, waiting)) = next else {
                break;
            };
            // The network may have one, as was just asked.
            if state.placed.try_add(network) {
                let request = Arc::new(OpenRequest::new());
                let permit = self.admit(state, network, request);
                outcome.granted.push((waiting.grant, permit));
            }
        }
        outcome
    }

    fn release(self: &Arc<Self>, permit: &RequestPermit) {
        let mut state = self.lock();
        if permit.request.is_displaced() {
            return;
        }
        state.remove(permit.key);
        let outcome = self.grant(&mut state);
        drop(state);
        outcome.finish();
    }

    /// Makes room for the requests in the queue at the cost of those that wait for their own clients.
    fn search(self: &Arc<Self>, now: Instant) {
        let mut state = self.lock();
        if now < state.next_search || state.queue.len() == 0 {
            return;
        }
        state.next_search = now + SEARCH_PAUSE;
        let mut outcome = Outcome::default();
        let mut may_displace = DISPLACED_AT_ONCE;
        for (_, key) in state.stalled(now, |entry| !entry.is_detached) {
            if state.queue.len() == 0 {
                break;
            }
            if !state.detach(key) {
                // Once no request may be displaced, others may still be detached, without another walk through all.
                let victim = (may_displace > 0).then(|| state.victim(now)).flatten();
                let Some(victim) = victim else {
                    may_displace = 0;
                    continue;
                };
                may_displace -= 1;
                outcome.displaced.extend(state.displace(victim));
                state.detach(key);
            }
            outcome.granted.extend(self.grant(&mut state).granted);
        }
        drop(state);
        outcome.finish();
    }

    /// Closes the upstream connection of the request that waits most for its client, so that its descriptor can be used.
    /// Returns whether there was one.
    pub(super) fn displace_stalled(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        let stalled = state.stalled(Instant::now(), |_| true);
        let key = stalled.first().map(|(_, key)| *key);
        let displaced = key.and_then(|key| state.displace(key));
        let mut outcome = self.grant(&mut state);
        drop(state);
        outcome.displaced.extend(displaced);
        let is_displaced = !outcome.displaced.is_empty();
        outcome.finish();
        is_displaced
    }

    /// Each change of the state is complete before anything in it can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Requests that have been waiting for their clients for [`STALLED`] and that `is_meant` accepts, the longest first.
    fn stalled(&self, now: Instant, is_meant: impl Fn(&Entry) -> bool) -> Vec<(Duration, usize)> {
        let mut stalled: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, entry)| is_meant(entry))
            .filter_map(|(key, entry)| Some((entry.request.stalled(now)?, key)))
            .collect();
        stalled.sort_unstable_by(|one, other| other.cmp(one));
        stalled
    }

    /// Takes its place from a request that has one, if its network may have another detached request.
    fn detach(&mut self, key: usize) -> bool {
        let Some(entry) = self.requests.get_mut(key) else {
            return false;
        };
        if entry.is_detached || !self.detached.try_add(entry.network) {
            return false;
        }
        entry.is_detached = true;
        self.placed.remove(entry.network);
        true
    }

    /// The request to displace for those in the queue, if one of them may ask for that.
    fn victim(&self, now: Instant) -> Option<usize> {
        let stalled = self.stalled(now, |_| true);
        let groups = stalled.iter().filter_map(|(waited, key)| {
            let group = self.requests.get(*key)?.network.group();
            Some((self.requests_of(group), *waited, group, *key))
        });
        // The longest-waiting request of the group that has most.
        let (most, waited, group, key) =
            groups.max_by_key(|(most, waited, ..)| (*most, *waited))?;
        let others = self.queue.networks().map(ClientNetwork::group);
        // With one request more, the other group still has no more than half of what this one has.
        let is_due = others.filter(|other| *other != group).any(|other| {
            let others_share = self.requests_of(other).saturating_add(1);
            waited >= LONG_STALLED || others_share.saturating_mul(2) <= most
        });
        is_due.then_some(key)
    }

    fn requests_of(&self, group: ClientNetworkGroup) -> usize {
        self.placed.of_group(group) + self.detached.of_group(group)
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
            &mut self.placed
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

    /// Whether `network` may have another request: see the module.
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
        if self.groups.len() >= self.max.saturating_mul(2).saturating_add(UNUSED_GROUPS) {
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
        let own = self.networks.iter().find(|(own, _)| *own == network);
        let of_network = own.map_or(0, |(_, count)| *count);
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
        let Some(at) = networks.position(|(own, _)| *own == network) else {
            return;
        };
        if let Some((_, count)) = self.networks.get_mut(at) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.networks.swap_remove(at);
            }
        }
    }
}

impl Outcome {
    /// Wakes up those who have a place now, and closes what was displaced. Not under the lock: a permit whose receiver
    /// has gone is given back here.
    fn finish(self) {
        for (grant, permit) in self.granted {
            // The receiver has given up.
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

    /// The wait that the request reports.
    pub(super) fn client_wait(&self) -> &ClientWait {
        &self.client_wait
    }

    /// How long the request has waited for its client, if that is too long.
    fn stalled(&self, now: Instant) -> Option<Duration> {
        let waited = self.client_wait.duration(now)?;
        (waited >= STALLED).then_some(waited)
    }

    /// Whether the request has lost its place and must end.
    pub(super) fn is_displaced(&self) -> bool {
        self.is_displaced.load(Ordering::Acquire)
    }

    /// Ready when a request whose body is being sent has lost its place. A request that does not wait for its client cannot.
    pub(super) fn poll_displaced(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_displaced() && self.client_wait.is_waiting() {
            *lock(&self.waker) = Some(cx.waker().clone());
        }
        if self.is_displaced() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Keeps the response body where the limit can close it. That of a displaced request is closed at once.
    pub(super) fn keep_response(&self, incoming: BodyReader<Stream>) {
        let mut response = lock(&self.response);
        if !self.is_displaced() {
            *response = Some(incoming);
        }
    }

    /// The response body; `None` once it was taken, or closed.
    pub(super) fn response(&self) -> MutexGuard<'_, Option<BodyReader<Stream>>> {
        lock(&self.response)
    }

    fn close(&self) {
        let waker = lock(&self.waker).take();
        let response = lock(&self.response).take();
        drop(response);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl RequestPermit {
    /// The request that has the place.
    pub(super) fn request(&self) -> &OpenRequest {
        &self.request
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.limit.release(self);
    }
}

/// A request in the queue, which it leaves when its future is dropped.
struct Waiter<'a> {
    limit: &'a RequestLimit,
    network: ClientNetwork,
    id: u64,
    is_queued: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.is_queued {
            let mut state = self.limit.lock();
            let left = state.queue.remove(self.network, |own| own.id == self.id);
            drop(state);
            drop(left);
        }
    }
}

/// Each change to what is behind these locks is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// A request that has waited for its own client for this long gives its place to others. A client that takes more than
/// 64 KiB a second is never there.
const STALLED: Duration = Duration::from_secs(1);

/// After this long such a request may be displaced by a client network that has as many requests. Less than the default of
/// `limits.upstream_wait`, so that the one that waits still gets its place.
const LONG_STALLED: Duration = Duration::from_secs(3);

/// How often a waiting request asks for a search.
const SEARCH_AGAIN: Duration = Duration::from_millis(250);

/// The shortest time between two searches, however many requests wait.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);

/// How many requests one search may displace: each costs a walk through all requests.
const DISPLACED_AT_ONCE: usize = 16;

/// How many groups without a request may be remembered beyond those that can have one.
const UNUSED_GROUPS: usize = 64;

#[cfg(test)]
mod tests;
