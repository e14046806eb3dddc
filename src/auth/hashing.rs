//! Threads of their own for password hashes, so that a hash never holds up a transfer.
//!
//! Used by `logins`, which sends it work. The queue is bounded in length and
//! in time, and work that nobody waits for any more is skipped.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// The size of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Hashes computed at once.
    pub threads: usize,
    /// Hashes that may wait.
    pub queue: usize,
    /// How long one may wait and be computed.
    pub wait: Duration,
}

/// The pool; its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct Hashing {
    settings: Settings,
    queue: SyncSender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

/// No thread had time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

impl Hashing {
    /// Starts the threads; fails when the system gives none.
    pub(super) fn start(settings: Settings) -> io::Result<Self> {
        let (queue, work) = sync_channel(settings.queue);
        let work = Arc::new(Mutex::new(work));
        for number in 0..settings.threads {
            let work = Arc::clone(&work);
            std::thread::Builder::new()
                .name(format!("tidegate-hash-{number}"))
                .spawn(move || run_all(&work))?;
        }
        Ok(Self { settings, queue })
    }

    /// What the pool was made from.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs `work` on a hash thread; says [`Busy`] when the queue is full or the wait too long.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, Busy>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let work = move || {
            if !done.is_closed() {
                // The asker may have gone while the hash was computed.
                let _ = done.send(work());
            }
        };
        self.queue.try_send(Box::new(work)).map_err(|_full| Busy)?;
        match timeout(self.settings.wait, result).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_panicked)) => Err(Busy),
            Err(_elapsed) => Err(Busy),
        }
    }
}

fn run_all(work: &Mutex<Receiver<Work>>) {
    loop {
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // A hash that panics must not take its thread along.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
            tracing::error!("a password check panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(queue: usize, wait: Duration) -> Hashing {
        Hashing::start(Settings {
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
        assert!(pool.run(|| -> () { panic!("on purpose") }).await.is_err());
        assert_ne!(
            pool.run(|| std::thread::current().id()).await.unwrap(),
            here
        );
    }

    #[tokio::test]
    async fn a_full_queue_and_a_long_wait_are_busy() {
        let pool = pool(1, Duration::from_millis(50));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let first = pool.run(move || held.recv().is_ok());
        let first = timeout(Duration::from_secs(5), first).await.unwrap();
        assert!(
            matches!(first, Err(Busy)),
            "waited longer than the pool allows"
        );
        // The thread is still held: one fits the queue, the next does not.
        let (second, third) = tokio::join!(pool.run(|| ()), pool.run(|| ()));
        assert!(matches!((second, third), (Err(Busy), Err(Busy))));
        hold.send(()).unwrap();
    }
}
