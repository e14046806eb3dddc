//! The password checks that wait for a hash thread, shared fairly by client network (see [`FairQueue`]).

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::Busy;
use crate::net::addr::ClientNetwork;
use crate::net::fair_queue::FairQueue;

/// A password check.
pub(super) trait HashJob: Send {
    /// Whether the request that asked for the check still waits for its result.
    fn is_wanted(&self) -> bool;
    /// Computes the hash and sends the result.
    fn run(self: Box<Self>);
}

type BoxedJob = Box<dyn HashJob>;

/// When a check of one client network began last. The requests of the network that wait share it, and see by it that their
/// queue moves.
#[derive(Debug)]
pub(super) struct Turns(Mutex<Instant>);

impl Turns {
    /// The time of the latest turn, or of the beginning of the wait if that is later.
    pub(super) fn latest(&self) -> Instant {
        *self.0.lock()
    }

    fn note(&self) {
        *self.0.lock() = Instant::now();
    }
}

/// A blocking queue between the requests and the hash threads.
pub(super) struct HashQueue {
    state: Mutex<State>,
    ready: Condvar,
}

struct State {
    waiting: FairQueue<(BoxedJob, Arc<Turns>)>,
    /// The turns of the networks whose requests wait.
    turns: HashMap<ClientNetwork, Weak<Turns>>,
    is_closed: bool,
}

impl HashQueue {
    /// Creates an empty queue for at most `max_len` checks.
    pub(super) fn new(max_len: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: FairQueue::new(max_len),
                turns: HashMap::new(),
                is_closed: false,
            }),
            ready: Condvar::new(),
        }
    }

    /// Appends a check. A full queue drops checks that are no longer wanted, or evicts a check of the network that has
    /// most; the request that waits for an evicted check sees its channel close.
    pub(super) fn push(&self, network: ClientNetwork, work: BoxedJob) -> Result<Arc<Turns>, Busy> {
        let mut state = self.state();
        if state.waiting.is_full() {
            state.waiting.retain(|(work, _)| work.is_wanted());
        }
        let turns = state.turns_of(network);
        let entry = (work, Arc::clone(&turns));
        let evicted = state.waiting.push(network, entry).map_err(|_| Busy)?;
        drop(state);
        drop(evicted);
        self.ready.notify_one();
        Ok(turns)
    }

    /// The turns of a network, for a request that waits for the check of another request.
    pub(super) fn turns_of(&self, network: ClientNetwork) -> Arc<Turns> {
        self.state().turns_of(network)
    }

    /// Waits for the next check that is still wanted. `None` when the queue is closed.
    pub(super) fn next(&self) -> Option<BoxedJob> {
        let mut state = self.state();
        loop {
            if state.is_closed {
                return None;
            }
            match state.waiting.pop() {
                Some((work, turns)) if work.is_wanted() => {
                    turns.note();
                    return Some(work);
                }
                Some(_unwanted) => {}
                None => {
                    self.ready.wait(&mut state);
                }
            }
        }
    }

    /// The number of checks that wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Ends every wait in [`next`](Self::next), now and later.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.ready.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn turns_of(&mut self, network: ClientNetwork) -> Arc<Turns> {
        if let Some(turns) = self.turns.get(&network).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::new(Turns(Mutex::new(Instant::now())));
        if self.turns.len() >= self.turns.capacity() {
            // Before the map grows, the networks that do not wait any more are removed.
            self.turns.retain(|_, turns| turns.strong_count() > 0);
        }
        self.turns.insert(network, Arc::downgrade(&turns));
        turns
    }
}

impl fmt::Debug for HashQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} waiting)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::net::addr::PeerAddr;

    /// Writes its name down, unless it is given up.
    struct Note(&'static str, Arc<Mutex<Vec<&'static str>>>, Arc<AtomicBool>);

    impl HashJob for Note {
        fn is_wanted(&self) -> bool {
            self.2.load(Ordering::Relaxed)
        }

        fn run(self: Box<Self>) {
            self.1.lock().push(self.0);
        }
    }

    #[derive(Default)]
    struct Lab {
        done: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Lab {
        fn push(&self, queue: &HashQueue, name: &'static str) -> Option<Arc<AtomicBool>> {
            let source = u32::from(name.as_bytes()[0]);
            let address = SocketAddr::from((Ipv4Addr::from(source), 1));
            let network = PeerAddr::new(address).client().network();
            let wanted = Arc::new(AtomicBool::new(true));
            let note = Note(name, Arc::clone(&self.done), Arc::clone(&wanted));
            queue
                .push(network, Box::new(note))
                .ok()
                .map(|_turns| wanted)
        }

        fn run(&self, queue: &HashQueue) -> Vec<&'static str> {
            while queue.len() > 0 {
                queue.next().unwrap().run();
            }
            std::mem::take(&mut self.done.lock())
        }
    }

    #[test]
    fn what_nobody_waits_for_makes_room_and_is_not_done() {
        let (queue, lab) = (HashQueue::new(2), Lab::default());
        let first = lab.push(&queue, "a1").unwrap();
        lab.push(&queue, "b1").unwrap();
        first.store(false, Ordering::Relaxed);
        let second = lab.push(&queue, "c1").unwrap();
        second.store(false, Ordering::Relaxed);
        lab.push(&queue, "b2").unwrap();
        assert_eq!(lab.run(&queue), ["b1", "b2"]);
    }

    #[test]
    fn each_network_sees_its_own_turns() {
        let (queue, lab) = (HashQueue::new(8), Lab::default());
        let network = |name: u8| {
            let address = SocketAddr::from((Ipv4Addr::from(u32::from(name)), 1));
            PeerAddr::new(address).client().network()
        };
        let [a, b] = [b'a', b'b'].map(|name| queue.turns_of(network(name)));
        let before = [a.latest(), b.latest()];
        for name in ["a1", "b1", "a2"] {
            assert!(lab.push(&queue, name).is_some());
        }
        queue.next().unwrap().run();
        assert!(a.latest() > before[0]);
        assert_eq!(b.latest(), before[1]);
        assert_eq!(lab.run(&queue), ["a1", "b1", "a2"]);
        assert!(b.latest() > before[1]);
        drop((a, b));
        for name in 0..100 {
            drop(queue.turns_of(network(name)));
        }
        assert!(queue.state().turns.len() < 100);
    }

    #[test]
    fn a_closed_queue_ends_those_who_wait_for_work() {
        let queue = Arc::new(HashQueue::new(2));
        let waiting = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.next().is_none())
        };
        queue.close();
        assert!(waiting.join().unwrap());
    }
}
