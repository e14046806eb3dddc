//! The connections of one endpoint: the idle ones, and the active requests.
//!
//! `endpoint` begins each request here and takes a pooled connection; `response_body` ends the request and returns the
//! connection. Nothing is opened here.
//!
//! A socket belongs to the reactor of the worker that opened it, so each worker has its own list of idle connections. The
//! lock of a list is rarely contended and never held across an `.await`.
//!
//! Only active requests count against the limit of `connections`, from the connect to the last byte of the response. Idle
//! connections do not count, because those of one worker would otherwise starve the other workers. Instead, each worker keeps
//! at most its share of `connections` idle. Together with the requests that the limit has detached (see `request_limit`), an
//! endpoint has at most three times `connections` sockets, and one more per worker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::connect::Stream;
use super::error::Error;
use super::http1::Connection;
use super::request_limit::{OpenRequest, RequestLimit, RequestPermit};
use super::settings::EndpointSettings;
use crate::net::addr::ClientNetwork;

/// The pool of one endpoint, shared by all workers and by the responses that are still being received.
pub(crate) struct Pool {
    limit: Arc<RequestLimit>,
    /// The idle connections of each worker.
    workers: Vec<Mutex<IdleConnections>>,
    /// The number of idle connections that one worker keeps.
    max_idle_per_worker: usize,
    /// A connection that was idle for longer is closed.
    idle_timeout: Duration,
    /// A connection that was opened before this time is closed after its request.
    max_age: Option<Duration>,
}

/// Idle connections and since when each is idle, the longest idle one first.
type IdleConnections = VecDeque<(Instant, Connection<Stream>)>;

/// A request that counts against the limit of its endpoint until it is dropped.
pub(crate) struct ActiveRequest {
    pool: Arc<Pool>,
    worker: usize,
    permit: RequestPermit,
}

impl Pool {
    /// Creates an empty pool. A connection that is older than `max_age` is not reused.
    pub(crate) fn new(
        settings: &EndpointSettings,
        workers: usize,
        max_age: Option<Duration>,
    ) -> Self {
        let limit = RequestLimit::new(settings.connections, settings.queue, settings.queue_wait);
        Self {
            limit: Arc::new(limit),
            workers: (0..workers).map(|_| Mutex::default()).collect(),
            max_idle_per_worker: settings.connections.div_ceil(workers.max(1)),
            idle_timeout: settings.idle,
            max_age,
        }
    }

    /// Begins a request of `client` on `worker`, after a wait in the queue if the limit is reached.
    ///
    /// # Errors
    /// [`Error::Busy`] if the queue is full or the request was queued for too long.
    pub(crate) async fn begin_request(
        self: &Arc<Self>,
        worker: usize,
        client: ClientNetwork,
    ) -> Result<ActiveRequest, Error> {
        let permit = self.limit.acquire(client).await?;
        Ok(ActiveRequest {
            pool: Arc::clone(self),
            worker,
            permit,
        })
    }

    /// The number of active and queued requests.
    pub(crate) fn busy(&self) -> usize {
        self.limit.busy()
    }

    /// Closes connections because the process has no file descriptor left: all idle connections of all workers, or, if there
    /// are none, the connection of the request that has waited longest for its own client. Returns whether any was closed.
    pub(crate) fn free_descriptor(&self) -> bool {
        let mut closed = 0;
        for idle in &self.workers {
            let idle = std::mem::take(&mut *idle.lock());
            closed += idle.len();
        }
        closed > 0 || self.limit.displace_stalled()
    }

    /// Takes the most recently used idle connection of `worker` that the upstream has not closed.
    ///
    /// `ask_kernel` is explained at [`Stream::is_reusable`].
    pub(crate) fn take(
        &self,
        worker: usize,
        now: Instant,
        ask_kernel: bool,
    ) -> Option<Connection<Stream>> {
        let idle = self.workers.get(worker)?;
        loop {
            let (_, mut connection) = {
                let mut idle = idle.lock();
                self.remove_expired(&mut idle, now);
                idle.pop_back()?
            };
            if connection.io_mut().is_reusable(ask_kernel) {
                return Some(connection);
            }
        }
    }

    /// Keeps `connection` for another request on `worker`, unless it is too old or the worker has its share already.
    fn recycle(&self, worker: usize, connection: Connection<Stream>, now: Instant) {
        let age = now.saturating_duration_since(connection.io().opened());
        if self.max_age.is_some_and(|max_age| age >= max_age) {
            return;
        }
        let Some(idle) = self.workers.get(worker) else {
            return;
        };
        let mut idle = idle.lock();
        self.remove_expired(&mut idle, now);
        if idle.len() < self.max_idle_per_worker {
            idle.push_back((now, connection));
        }
    }

    /// Closes the connections of all workers that were idle for too long at `now`.
    pub(crate) fn close_expired(&self, now: Instant) {
        for idle in &self.workers {
            self.remove_expired(&mut idle.lock(), now);
        }
    }

    fn remove_expired(&self, idle: &mut IdleConnections, now: Instant) {
        while let Some((since, _)) = idle.front()
            && now.duration_since(*since) > self.idle_timeout
        {
            idle.pop_front();
        }
    }
}

impl ActiveRequest {
    /// The part of the request that the limit can read and close.
    pub(crate) fn request(&self) -> &OpenRequest {
        self.permit.request()
    }

    /// Ends the request, and keeps its connection if it can be used again.
    pub(crate) fn release(self, connection: Option<Connection<Stream>>) {
        // Returned before the permit is dropped, so that the next queued request finds the connection.
        if let Some(connection) = connection {
            self.pool.recycle(self.worker, connection, Instant::now());
        }
    }
}
