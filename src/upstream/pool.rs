//! Idle connections of one endpoint, and how many requests may use the endpoint at once.
//!
//! Called by `node` around each request. A socket belongs to the reactor of the worker that opened
//! it, so each worker has a list of its own; its lock is rarely contended and never held across an
//! await. Nothing is opened here.
//!
//! Only requests under way have a place in the limit, from the connect to the answer's last byte. Idle connections
//! have none: otherwise those of one worker would starve the others. They are bounded by
//! themselves, each worker keeping its share of `connections`. Together with the requests that the limit has detached,
//! there are at most three times as many sockets as `connections` (and one more a worker).

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::http1::Connection;
use super::request_limit::{RequestLimit, RequestPermit};
use super::stream::Stream;
use super::{EndpointSettings, Error};
use crate::net::addr::ClientNetwork;

/// Shared by all workers and by every answer that is still coming.
pub(super) struct Pool {
    limit: Arc<RequestLimit>,
    workers: Vec<Mutex<Idle>>,
    /// Connections a worker keeps.
    share: usize,
    idle: Duration,
}

/// Oldest first.
type Idle = VecDeque<(Instant, Connection<Stream>)>;

impl Pool {
    pub(super) fn new(settings: &EndpointSettings, workers: usize) -> Self {
        let limit = RequestLimit::new(settings.connections, settings.queue, settings.queue_wait);
        Self {
            limit: Arc::new(limit),
            workers: (0..workers).map(|_| Mutex::default()).collect(),
            share: settings.connections.div_ceil(workers.max(1)),
            idle: settings.idle,
        }
    }

    /// A place for one request, which lasts until the permit is dropped.
    ///
    /// # Errors
    /// [`Error::Busy`] when the queue is full or the wait in it was too long.
    pub(super) async fn acquire(&self, client: ClientNetwork) -> Result<RequestPermit, Error> {
        self.limit.acquire(client).await
    }

    /// Requests under way and waiting.
    pub(super) fn busy(&self) -> usize {
        self.limit.busy()
    }

    /// Closes what can be spared when the process has no descriptor left: all idle connections of all workers, else that of
    /// the request that has waited longest for its own client. Returns whether there was any.
    pub(super) fn spare_descriptor(&self) -> bool {
        let mut closed = 0;
        for idle in &self.workers {
            let idle = std::mem::take(&mut *lock(idle));
            closed += idle.len();
        }
        closed > 0 || self.limit.displace_stalled()
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

/// A list stays whole whatever panicked while holding it: each change is one push or one pop.
fn lock(idle: &Mutex<Idle>) -> MutexGuard<'_, Idle> {
    idle.lock()
}
