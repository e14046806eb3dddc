//! The password checks that wait for a hash thread, shared fairly by client network (see [`FairQueue`]).

use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Busy;
use crate::addr::Network;
use crate::fair_queue::FairQueue;

/// A password check.
pub(super) trait Work: Send {
    /// Whether the request that asked for the check still waits for its result.
    fn is_wanted(&self) -> bool;
    /// Computes the hash and sends the result.
    fn run(self: Box<Self>);
}

type Boxed = Box<dyn Work>;

/// A blocking queue between the requests and the hash threads.
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
}

struct State {
    waiting: FairQueue<Boxed>,
    is_closed: bool,
}

impl Queue {
    /// Creates an empty queue for at most `max_len` checks.
    pub(super) fn new(max_len: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: FairQueue::new(max_len),
                is_closed: false,
            }),
            ready: Condvar::new(),
        }
    }

    /// Appends a check. A full queue drops checks that are no longer wanted, or evicts a check of the network that has
    /// most; the request that waits for an evicted check sees its channel close.
    pub(super) fn push(&self, network: Network, work: Boxed) -> Result<(), Busy> {
        let mut state = self.state();
        if state.waiting.is_full() {
            state.waiting.retain(|work| work.is_wanted());
        }
        let evicted = state.waiting.push(network, work).map_err(|_| Busy)?;
        drop(state);
        drop(evicted);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for the next check that is still wanted. `None` when the queue is closed.
    pub(super) fn next(&self) -> Option<Boxed> {
        let mut state = self.state();
        loop {
            if state.is_closed {
                return None;
            }
            match state.waiting.pop() {
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
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
            while queue.len() > 0 {
                queue.next().unwrap().run();
            }
            std::mem::take(&mut self.done.lock().unwrap())
        }
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
