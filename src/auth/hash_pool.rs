//! A bounded pool of threads for password hashing, so that a hash never delays a transfer.
//!
//! `password_verifier` sends jobs to the pool. Jobs wait in a [`FairQueue`], which is bounded in length and which the client
//! networks share fairly. A job whose client has left is skipped.
//!
//! After a restart the login cache is empty, so that many users log in at the same time. While the queue moves, each of
//! them is served in turn, and a 503 would only make clients come again. So a job is given up only when its client network
//! has had no turn for `wait`. Within a network the order is that of arrival: each turn of the network brings a job closer
//! to its own turn, and the length of the queue bounds the number of turns. The client decides how long it waits: docker
//! waits 15 s for a ping or a token, containerd 30 s for a response, skopeo and podman without limit. A client that gives
//! up closes its connection or resets its stream, and then its job costs no hash.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::net::addr::ClientNetwork;
use crate::net::fair_queue::FairQueue;

/// The size of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The number of threads, and so of hashes that are computed at the same time.
    pub threads: usize,
    /// The number of jobs that may wait.
    pub queue: usize,
    /// How long a job may wait without a turn of its client network, and how long its hash may take.
    pub wait: Duration,
}

/// The pool, for jobs with a result of type `T`. Its threads end when the pool is dropped.
#[derive(Debug)]
pub(super) struct HashPool<T> {
    settings: Settings,
    queue: Arc<JobQueue<T>>,
}

/// The pool is at capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

impl<T: Send + 'static> HashPool<T> {
    /// Starts the threads.
    ///
    /// # Errors
    /// The operating system creates no thread.
    pub(super) fn start(settings: Settings) -> io::Result<Self> {
        let queue = Arc::new(JobQueue::new(settings.queue));
        let pool = Self { settings, queue };
        for number in 0..pool.settings.threads {
            let queue = Arc::clone(&pool.queue);
            std::thread::Builder::new()
                .name(format!("tidegate-hash-{number}"))
                .spawn(move || run_jobs(&queue))?;
        }
        Ok(pool)
    }

    /// The settings that the pool was started with.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of jobs that wait for a thread.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Runs `work` for a client of `network` on a hash thread. Dropping the future cancels the job if it still waits.
    ///
    /// # Errors
    /// The queue has no place for the network, or the network has no turn for too long, or `work` panicked.
    pub(super) async fn run(
        &self,
        network: ClientNetwork,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let (sender, receiver) = oneshot::channel();
        let last_turn = self.queue.push(network, Box::new(work), sender)?;
        // The sender was dropped if the work panicked, or if the job was evicted for another network.
        self.wait_while_moving(&last_turn, receiver)
            .await?
            .map_err(|_dropped| Busy)
    }

    /// Waits for a job that another request has sent, from any client network. The wait ends as that of
    /// [`run`](Self::run) for a job of `network` would.
    pub(super) async fn join<R>(
        &self,
        network: ClientNetwork,
        other: impl Future<Output = R>,
    ) -> Result<R, Busy> {
        let last_turn = self.queue.last_turn_of(network);
        self.wait_while_moving(&last_turn, other).await
    }

    /// Waits for `result` until the network of `last_turn` has had no turn for `settings.wait`.
    async fn wait_while_moving<R>(
        &self,
        last_turn: &LastTurn,
        result: impl Future<Output = R>,
    ) -> Result<R, Busy> {
        let mut result = std::pin::pin!(result);
        let mut deadline = Instant::now() + self.settings.wait;
        loop {
            if let Ok(value) = timeout_at(deadline, &mut result).await {
                return Ok(value);
            }
            let next = last_turn.time() + self.settings.wait;
            if next <= deadline {
                return Err(Busy);
            }
            deadline = next;
        }
    }
}

impl<T> Drop for HashPool<T> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The body of a hash thread.
fn run_jobs<T>(queue: &JobQueue<T>) {
    // On Linux, the nice value is that of this thread alone: where cores are short, transfers come before hashes. If the
    // call fails, the thread runs with the usual priority.
    let _ = rustix::process::nice(NICE);
    while let Some(job) = queue.next() {
        // A panic in a job must not end the thread. It drops the sender, which ends the wait of the request.
        if catch_unwind(AssertUnwindSafe(|| job.run())).is_err() {
            tracing::error!("a password check panicked");
        }
    }
}

/// A password check, and the channel to the request that waits for its result.
struct Job<T> {
    work: Box<dyn FnOnce() -> T + Send>,
    result: oneshot::Sender<T>,
    last_turn: Arc<LastTurn>,
}

impl<T> Job<T> {
    /// Whether the request no longer waits.
    fn is_cancelled(&self) -> bool {
        self.result.is_closed()
    }

    fn run(self) {
        // Sending fails if the client left while the hash was computed.
        let _ = self.result.send((self.work)());
    }
}

/// The time at which the last job of one client network began. The waiting requests of the network share it, and see by it
/// whether their queue moves.
#[derive(Debug)]
struct LastTurn(Mutex<Instant>);

impl LastTurn {
    /// The time of the last turn, or of the beginning of the wait if that is later.
    fn time(&self) -> Instant {
        *self.0.lock()
    }

    fn record(&self) {
        *self.0.lock() = Instant::now();
    }
}

/// The blocking queue between the requests and the hash threads.
struct JobQueue<T> {
    state: Mutex<QueueState<T>>,
    /// Wakes a hash thread when there is a job, and all of them when the queue is closed.
    ready: Condvar,
}

struct QueueState<T> {
    jobs: FairQueue<Job<T>>,
    /// The last turns of the networks whose requests wait.
    last_turns: HashMap<ClientNetwork, Weak<LastTurn>>,
    is_closed: bool,
}

impl<T> JobQueue<T> {
    /// Creates an empty queue for at most `max_len` jobs.
    fn new(max_len: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                jobs: FairQueue::new(max_len),
                last_turns: HashMap::new(),
                is_closed: false,
            }),
            ready: Condvar::new(),
        }
    }

    /// Appends a job. If the queue is full, cancelled jobs are dropped, or else a job of the network that has most is evicted,
    /// whose sender is then dropped.
    fn push(
        &self,
        network: ClientNetwork,
        work: Box<dyn FnOnce() -> T + Send>,
        result: oneshot::Sender<T>,
    ) -> Result<Arc<LastTurn>, Busy> {
        let mut state = self.state.lock();
        if state.jobs.is_full() {
            state.jobs.retain(|job| !job.is_cancelled());
        }
        let last_turn = state.last_turn_of(network);
        let job = Job {
            work,
            result,
            last_turn: Arc::clone(&last_turn),
        };
        let evicted = state.jobs.push(network, job).map_err(|_job| Busy)?;
        drop(state);
        drop(evicted);
        self.ready.notify_one();
        Ok(last_turn)
    }

    /// Waits for the next job that is not cancelled. Returns `None` once the queue is closed.
    fn next(&self) -> Option<Job<T>> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return None;
            }
            match state.jobs.pop() {
                Some(job) if !job.is_cancelled() => {
                    job.last_turn.record();
                    return Some(job);
                }
                Some(_cancelled) => {}
                None => self.ready.wait(&mut state),
            }
        }
    }

    /// The last turn of a network.
    fn last_turn_of(&self, network: ClientNetwork) -> Arc<LastTurn> {
        self.state.lock().last_turn_of(network)
    }

    /// The number of jobs that wait.
    fn len(&self) -> usize {
        self.state.lock().jobs.len()
    }

    /// Ends every present and future call of [`next`](Self::next).
    fn close(&self) {
        self.state.lock().is_closed = true;
        self.ready.notify_all();
    }
}

impl<T> QueueState<T> {
    fn last_turn_of(&mut self, network: ClientNetwork) -> Arc<LastTurn> {
        if let Some(last_turn) = self.last_turns.get(&network).and_then(Weak::upgrade) {
            return last_turn;
        }
        let last_turn = Arc::new(LastTurn(Mutex::new(Instant::now())));
        if self.last_turns.len() >= self.last_turns.capacity() {
            // Before the map grows, the networks that no longer wait are removed.
            self.last_turns
                .retain(|_, last_turn| last_turn.strong_count() > 0);
        }
        self.last_turns.insert(network, Arc::downgrade(&last_turn));
        last_turn
    }
}

impl<T> fmt::Debug for JobQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobQueue({} waiting)", self.len())
    }
}

/// The nice value of the hash threads: a ninth of the weight of other threads, so that logins still have their turn on a
/// busy machine.
const NICE: i32 = 10;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::timeout;

    use super::*;
    use crate::net::addr::ClientAddr;

    fn network(number: u32) -> ClientNetwork {
        ClientAddr::new(Ipv4Addr::from(number).into()).network()
    }

    fn home() -> ClientNetwork {
        network(1)
    }

    fn pool<T: Send + 'static>(queue: usize, wait: Duration) -> HashPool<T> {
        HashPool::start(Settings {
            threads: 1,
            queue,
            wait,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn jobs_run_on_other_threads_which_survive_a_panic() {
        let pool = pool(8, Duration::from_secs(10));
        let here = std::thread::current().id();
        assert!(pool.run(home(), || panic!("on purpose")).await.is_err());
        let there = pool.run(home(), || std::thread::current().id()).await;
        assert_ne!(there.unwrap(), here);
    }

    #[tokio::test]
    async fn a_job_waits_while_its_network_has_turns() {
        let wait = Duration::from_secs(1);
        let pool = Arc::new(pool(100, wait));
        let checks: Vec<_> = (0..40)
            .map(|_| {
                let pool = Arc::clone(&pool);
                // Nothing is sent on this channel, so the job takes as long as a hash would.
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
        let (release, held) = std::sync::mpsc::channel::<()>();
        let first = pool.run(home(), move || held.recv().is_ok());
        let first = timeout(Duration::from_secs(5), first).await.unwrap();
        assert_eq!(first, Err(Busy), "waited longer than the pool allows");
        // The thread is still busy: one job fits into the queue, and the next one does not.
        let (second, third) = tokio::join!(pool.run(home(), || true), pool.run(home(), || true));
        assert_eq!((second, third), (Err(Busy), Err(Busy)));
        release.send(()).unwrap();
    }

    /// Pushes a job that returns its name, for the network of the first byte of the name.
    fn push(
        queue: &JobQueue<&'static str>,
        name: &'static str,
    ) -> Option<oneshot::Receiver<&'static str>> {
        let (sender, receiver) = oneshot::channel();
        let network = network(name.as_bytes()[0].into());
        let pushed = queue.push(network, Box::new(move || name), sender);
        pushed.is_ok().then_some(receiver)
    }

    /// Runs the jobs in the queue, and returns the results that the receivers get.
    fn run_all(
        queue: &JobQueue<&'static str>,
        receivers: impl IntoIterator<Item = oneshot::Receiver<&'static str>>,
    ) -> Vec<&'static str> {
        while queue.len() > 0 {
            queue.next().unwrap().run();
        }
        let results = receivers
            .into_iter()
            .map(|mut receiver| receiver.try_recv());
        results.filter_map(Result::ok).collect()
    }

    #[test]
    fn a_cancelled_job_makes_room_and_is_not_run() {
        let queue = JobQueue::new(2);
        let a1 = push(&queue, "a1").unwrap();
        let b1 = push(&queue, "b1").unwrap();
        drop(a1);
        drop(push(&queue, "c1").expect("the cancelled job made room"));
        let b2 = push(&queue, "b2").expect("the cancelled job made room");
        assert_eq!(queue.len(), 2);
        assert_eq!(run_all(&queue, [b1, b2]), ["b1", "b2"]);
    }

    #[test]
    fn each_network_has_its_own_last_turn() {
        let queue = JobQueue::new(8);
        let [a, b] = [b'a', b'b'].map(|name| queue.last_turn_of(network(name.into())));
        let before = [a.time(), b.time()];
        let receivers = ["a1", "b1", "a2"].map(|name| push(&queue, name).unwrap());
        queue.next().unwrap().run();
        assert!(a.time() > before[0]);
        assert_eq!(b.time(), before[1]);
        assert_eq!(run_all(&queue, receivers), ["a1", "b1", "a2"]);
        assert!(b.time() > before[1]);
        drop((a, b));
        for number in 0..100 {
            drop(queue.last_turn_of(network(number)));
        }
        assert!(queue.state.lock().last_turns.len() < 100);
    }

    #[test]
    fn closing_the_queue_ends_the_waits_for_jobs() {
        let queue = Arc::new(JobQueue::<()>::new(2));
        let waiting = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.next().is_none())
        };
        queue.close();
        assert!(waiting.join().unwrap());
    }
}
