//! Threads of their own for password hashes, so that a hash never holds up a transfer.
//!
//! Used by `logins`, which sends it work. Checks wait in a queue that is bounded in number and in time and that client
//! networks share fairly (`queue`). A check whose client has left is skipped.
//!
//! After a restart no login is remembered, so that many users log in at once. While the queue moves, each of them is served
//! in turn, and a 503 would only make clients come again. So a check is given up only when its client network has had no
//! turn for a while. Within a network the order is that of arrival, so that each turn brings a check closer to its own,
//! and the queue bounds the number of turns. How long to wait then is the client's choice: docker waits 15 s for a ping or
//! a token, containerd 30 s for a response, skopeo and podman without limit. A client that gives up closes its connection
//! or resets its stream, and then its check costs no hash.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::net::addr::ClientNetwork;

mod queue;

use queue::{HashJob, HashQueue, Turns};

/// The size of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Hashes computed at once.
    pub threads: usize,
    /// Hashes that may wait.
    pub queue: usize,
    /// How long a check may wait without a turn of its client network, and how long it may be computed.
    pub wait: Duration,
}

/// The pool; its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct HashPool {
    settings: Settings,
    queue: Arc<HashQueue>,
}

/// No thread had time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

impl HashPool {
    /// Starts the threads; fails when the system gives none.
    pub(super) fn start(settings: Settings) -> io::Result<Self> {
        let queue = Arc::new(HashQueue::new(settings.queue));
        let pool = Self { settings, queue };
        for number in 0..pool.settings.threads {
            let queue = Arc::clone(&pool.queue);
            std::thread::Builder::new()
                .name(format!("tidegate-hash-{number}"))
                .spawn(move || run_all(&queue))?;
        }
        Ok(pool)
    }

    /// What the pool was made from.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many wait for a thread.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Runs `work` for a client of `network` on a hash thread.
    ///
    /// # Errors
    /// The queue has no room for that network, or the network has no turn for too long.
    pub(super) async fn run<T, F>(&self, network: ClientNetwork, work: F) -> Result<T, Busy>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let task = HashTask { work, done };
        let turns = self.queue.push(network, Box::new(task))?;
        // The sender is gone if the work panicked, or if it was evicted for another network.
        self.while_it_moves(&turns, result)
            .await?
            .map_err(|_gone| Busy)
    }

    /// Waits for a check that another request of any client network has begun, as long as [`run`](Self::run) would wait for
    /// a check of `network`.
    pub(super) async fn join<T>(
        &self,
        network: ClientNetwork,
        other: impl Future<Output = T>,
    ) -> Result<T, Busy> {
        let turns = self.queue.turns_of(network);
        self.while_it_moves(&turns, other).await
    }

    async fn while_it_moves<T>(
        &self,
        turns: &Turns,
        result: impl Future<Output = T>,
    ) -> Result<T, Busy> {
        let mut result = std::pin::pin!(result);
        let mut deadline = Instant::now() + self.settings.wait;
        loop {
            if let Ok(value) = timeout_at(deadline, &mut result).await {
                return Ok(value);
            }
            let next = turns.latest() + self.settings.wait;
            if next <= deadline {
                return Err(Busy);
            }
            deadline = next;
        }
    }
}

impl Drop for HashPool {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Work, and where its result is wanted.
struct HashTask<T, F> {
    work: F,
    done: oneshot::Sender<T>,
}

impl<T, F> HashJob for HashTask<T, F>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    fn is_wanted(&self) -> bool {
        !self.done.is_closed()
    }

    fn run(self: Box<Self>) {
        // The asker may have gone while the hash was computed.
        let _ = self.done.send((self.work)());
    }
}

fn run_all(queue: &HashQueue) {
    // Of this thread alone, on Linux: where cores are short, a transfer goes before a hash. No matter if it is refused.
    let _ = rustix::process::nice(NICE);
    while let Some(work) = queue.next() {
        // A hash that panics must not take its thread along.
        let work = std::panic::AssertUnwindSafe(|| work.run());
        if std::panic::catch_unwind(work).is_err() {
            tracing::error!("a password check panicked");
        }
    }
}

/// A ninth of the weight of other threads, so that a login still has its turn on a busy machine.
const NICE: i32 = 10;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::time::timeout;

    use super::*;
    use crate::net::addr::PeerAddr;

    fn home() -> ClientNetwork {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        PeerAddr::new(address).client().network()
    }

    fn pool(queue: usize, wait: Duration) -> HashPool {
        HashPool::start(Settings {
            threads: 1,
            queue,
            wait,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn work_is_done_elsewhere_and_outlives_a_panic() {
        let pool = pool(8, Duration::from_secs(10));
        let here = std::thread::current().id();
        assert!(
            pool.run(home(), || -> () { panic!("on purpose") })
                .await
                .is_err()
        );
        assert_ne!(
            pool.run(home(), || std::thread::current().id())
                .await
                .unwrap(),
            here
        );
    }

    #[tokio::test]
    async fn a_check_waits_as_long_as_its_network_has_turns() {
        let wait = Duration::from_secs(1);
        let pool = Arc::new(pool(100, wait));
        let checks: Vec<_> = (0..40)
            .map(|_| {
                let pool = Arc::clone(&pool);
                // Nothing comes over this channel, so the work takes as long as a hash.
                let (open, never) = std::sync::mpsc::channel::<()>();
                let work = move || {
                    let _ = never.recv_timeout(Duration::from_millis(50));
                    drop(open);
                };
                tokio::spawn(async move { pool.run(home(), work).await })
            })
            .collect();
        let begin = Instant::now();
        for check in checks {
            assert_eq!(check.await.unwrap(), Ok(()));
        }
        assert!(begin.elapsed() > wait, "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn a_full_queue_and_a_long_wait_are_busy() {
        let pool = pool(1, Duration::from_millis(50));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let first = pool.run(home(), move || held.recv().is_ok());
        let first = timeout(Duration::from_secs(5), first).await.unwrap();
        assert!(
            matches!(first, Err(Busy)),
            "waited longer than the pool allows"
        );
        // The thread is still held: one fits the queue, the next does not.
        let (second, third) = tokio::join!(pool.run(home(), || ()), pool.run(home(), || ()));
        assert!(matches!((second, third), (Err(Busy), Err(Busy))));
        hold.send(()).unwrap();
    }
}
