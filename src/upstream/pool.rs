//! Idle connections of one endpoint, and how many requests may use it at once.
//!
//! Called by `node` around each request. A socket belongs to the reactor of the worker that opened
//! it, so each worker has a list of its own; its lock is never contended and never held across an
//! await. Nothing is opened here.
//!
//! Only requests under way hold a slot, from the connect to the answer's last byte. Idle connections
//! hold none: otherwise those of one worker would starve the others. They are bounded by
//! themselves, each worker keeping its share of `connections`, so that there are at most twice as many
//! sockets as `connections` (and one more a worker).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::Instant;

use super::http1::Connection;
use super::stream::Stream;
use super::{EndpointSettings, Error};

/// Shared by all workers and by every answer that is still coming.
pub(super) struct Pool {
    slots: Semaphore,
    connections: usize,
    waiting: AtomicUsize,
    queue: usize,
    queue_wait: Duration,
    workers: Vec<Mutex<Idle>>,
    /// Connections a worker keeps.
    share: usize,
    idle: Duration,
}

/// Oldest first.
type Idle = VecDeque<(Instant, Connection<Stream>)>;

impl Pool {
    pub(super) fn new(settings: &EndpointSettings, workers: usize) -> Self {
        let connections = settings.connections.min(Semaphore::MAX_PERMITS);
        Self {
            slots: Semaphore::new(connections),
            connections,
            waiting: AtomicUsize::new(0),
            queue: settings.queue,
            queue_wait: settings.queue_wait,
            workers: (0..workers).map(|_| Mutex::default()).collect(),
            share: connections.div_ceil(workers.max(1)),
            idle: settings.idle,
        }
    }

    /// A slot at once, or after a wait in the queue, first come, first served. It is the caller's to release.
    ///
    /// # Errors
    /// [`Error::Busy`] when the queue is full or the wait in it was too long.
    pub(super) async fn reserve(&self) -> Result<(), Error> {
        match self.slots.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::Closed) => return Err(Error::Busy),
            Err(TryAcquireError::NoPermits) => Box::pin(self.wait()).await?,
        }
        Ok(())
    }

    /// Gives a slot back.
    pub(super) fn release(&self) {
        self.slots.add_permits(1);
    }

    /// Requests under way and waiting.
    pub(super) fn busy(&self) -> usize {
        let free = self.slots.available_permits();
        self.connections.saturating_sub(free) + self.waiting.load(Ordering::Relaxed)
    }

    async fn wait(&self) -> Result<(), Error> {
        let _place = Place::take(&self.waiting, self.queue).ok_or(Error::Busy)?;
        match tokio::time::timeout(self.queue_wait, self.slots.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(())
            }
            _ => Err(Error::Busy),
        }
    }

    /// The newest idle connection of `worker` that is still alive. `certain`: see [`Stream::is_quiet`].
    pub(super) fn take(
        &self,
        worker: usize,
        now: Instant,
        certain: bool,
    ) -> Option<Connection<Stream>> {
        let idle = self.workers.get(worker)?;
        loop {
            let (_, mut connection) = {
                let mut idle = lock(idle);
                self.drop_old(&mut idle, now);
                idle.pop_back()?
            };
            if connection.io_mut().is_quiet(certain) {
                return Some(connection);
            }
        }
    }

    /// Keeps `connection`, which has been idle since `now`, unless its worker has its share already.
    pub(super) fn put(&self, worker: usize, connection: Connection<Stream>, now: Instant) {
        let Some(idle) = self.workers.get(worker) else {
            return;
        };
        let mut idle = lock(idle);
        self.drop_old(&mut idle, now);
        if idle.len() < self.share {
            idle.push_back((now, connection));
        }
    }

    /// Closes what is too old, on every worker.
    pub(super) fn trim(&self, now: Instant) {
        for idle in &self.workers {
            self.drop_old(&mut lock(idle), now);
        }
    }

    fn drop_old(&self, idle: &mut Idle, now: Instant) {
        while let Some((since, _)) = idle.front()
            && now.duration_since(*since) > self.idle
        {
            idle.pop_front();
        }
    }
}

/// A place in the queue, counted while it lives.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, queue: usize) -> Option<Self> {
        let place = Self(waiting);
        let ahead = waiting.fetch_add(1, Ordering::Relaxed);
        (ahead < queue).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A list stays whole whatever panicked while holding it: each change is one push or one pop.
fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
