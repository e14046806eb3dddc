//! What waits for a hash thread: a queue for each client network, served in turn.
//!
//! So whoever floods the gate with logins waits behind himself, and everyone else behind one of his at most. When
//! there is no room, the network that has most in it gives up its latest for one that has less.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Busy;
use crate::addr::Network;

/// Something to do for somebody.
pub(super) trait Work: Send {
    /// Whether anybody still waits for it.
    fn is_wanted(&self) -> bool;
    /// Does it.
    fn run(self: Box<Self>);
}

type Boxed = Box<dyn Work>;

/// The queues of all networks.
pub(super) struct Queue {
    most: usize,
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    /// None of them empty.
    waiting: HashMap<Network, VecDeque<Boxed>>,
    /// Each network that waits, once, in the order in which they are served.
    turns: VecDeque<Network>,
    count: usize,
    is_closed: bool,
}

impl Queue {
    /// With room for `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
            ready: Condvar::new(),
        }
    }

    /// Adds work at the end of its network's queue, if need be in place of another network's.
    pub(super) fn push(&self, network: Network, work: Boxed) -> Result<(), Busy> {
        let mut state = self.state();
        if state.count >= self.most {
            state.drop_unwanted();
        }
        if state.count >= self.most && !state.displace_for(network) {
            return Err(Busy);
        }
        state.add(network, work);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// The next work that is wanted, of the network whose turn it is; waits for some. `None` when the queue is closed.
    pub(super) fn next(&self) -> Option<Boxed> {
        let mut state = self.state();
        loop {
            if state.is_closed {
                return None;
            }
            match state.take() {
                Some(work) if work.is_wanted() => return Some(work),
                Some(_unwanted) => {}
                None => {
                    state = self
                        .ready
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        self.state().count
    }

    /// Ends every wait in [`next`](Self::next), now and later.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.ready.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, network: Network, work: Boxed) {
        let own = self.waiting.entry(network).or_default();
        if own.is_empty() {
            self.turns.push_back(network);
        }
        own.push_back(work);
        self.count += 1;
    }

    fn take(&mut self) -> Option<Boxed> {
        let network = self.turns.pop_front()?;
        let own = self.waiting.get_mut(&network)?;
        let work = own.pop_front()?;
        self.count -= 1;
        if own.is_empty() {
            self.waiting.remove(&network);
        } else {
            self.turns.push_back(network);
        }
        Some(work)
    }

    fn drop_unwanted(&mut self) {
        for own in self.waiting.values_mut() {
            own.retain(|work| work.is_wanted());
        }
        self.tidy();
    }

    /// Makes room by the latest of the longest queue, unless that would only turn the tables.
    fn displace_for(&mut self, network: Network) -> bool {
        let own = self.waiting.get(&network).map_or(0, VecDeque::len);
        let longest = self.waiting.values_mut().max_by_key(|queue| queue.len());
        let Some(longest) = longest.filter(|longest| longest.len() > own + 1) else {
            return false;
        };
        longest.pop_back();
        self.tidy();
        true
    }

    fn tidy(&mut self) {
        self.waiting.retain(|_, own| !own.is_empty());
        self.turns
            .retain(|network| self.waiting.contains_key(network));
        self.count = self.waiting.values().map(VecDeque::len).sum();
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} of {})", self.state().count, self.most)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::addr::PeerAddr;

    /// Writes its name down, unless it is given up.
    struct Note(&'static str, Arc<Mutex<Vec<&'static str>>>, Arc<AtomicBool>);

    impl Work for Note {
        fn is_wanted(&self) -> bool {
            self.2.load(Ordering::Relaxed)
        }

        fn run(self: Box<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[derive(Default)]
    struct Lab {
        done: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Lab {
        fn push(&self, queue: &Queue, name: &'static str) -> Option<Arc<AtomicBool>> {
            let source = u32::from(name.as_bytes()[0]);
            let address = SocketAddr::from((Ipv4Addr::from(source), 1));
            let network = PeerAddr::new(address).client().network();
            let wanted = Arc::new(AtomicBool::new(true));
            let note = Note(name, Arc::clone(&self.done), Arc::clone(&wanted));
            queue.push(network, Box::new(note)).ok().map(|()| wanted)
        }

        fn run(&self, queue: &Queue) -> Vec<&'static str> {
            while queue.state().count > 0 {
                queue.next().unwrap().run();
            }
            std::mem::take(&mut self.done.lock().unwrap())
        }
    }

    #[test]
    fn networks_take_turns() {
        let (queue, lab) = (Queue::new(10), Lab::default());
        for name in ["a1", "a2", "a3", "b1", "c1", "c2"] {
            assert!(lab.push(&queue, name).is_some());
        }
        assert_eq!(lab.run(&queue), ["a1", "b1", "c1", "a2", "c2", "a3"]);
    }

    #[test]
    fn who_has_most_gives_way_and_nobody_turns_the_tables() {
        let (queue, lab) = (Queue::new(4), Lab::default());
        for name in ["a1", "a2", "a3", "a4", "b1", "b2"] {
            assert!(lab.push(&queue, name).is_some(), "{name}");
        }
        assert!(lab.push(&queue, "a5").is_none());
        assert!(lab.push(&queue, "b3").is_none());
        assert!(lab.push(&queue, "c1").is_some());
        assert!(lab.push(&queue, "d1").is_some());
        // All have one now.
        assert!(lab.push(&queue, "e1").is_none());
        let done = lab.run(&queue);
        assert_eq!(done, ["a1", "b1", "c1", "d1"]);
    }

    #[test]
    fn what_nobody_waits_for_makes_room_and_is_not_done() {
        let (queue, lab) = (Queue::new(2), Lab::default());
        let first = lab.push(&queue, "a1").unwrap();
        lab.push(&queue, "b1").unwrap();
        first.store(false, Ordering::Relaxed);
        let second = lab.push(&queue, "c1").unwrap();
        second.store(false, Ordering::Relaxed);
        lab.push(&queue, "b2").unwrap();
        assert_eq!(lab.run(&queue), ["b1", "b2"]);
    }

    #[test]
    fn a_closed_queue_ends_those_who_wait_for_work() {
        let queue = Arc::new(Queue::new(2));
        let waiting = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.next().is_none())
        };
        queue.close();
        assert!(waiting.join().unwrap());
    }
}
