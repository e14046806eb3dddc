//! One endpoint: its connections, its health, and an exchange with it.
//!
//! Called by `upstream`, which has chosen it, and by the checks of the main runtime. It sends nothing twice but a bodiless GET
//! or HEAD whose reused connection died before any byte; whether another endpoint is tried is decided above, for these even
//! where a fresh one died.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, request};
use tokio::time::{Instant, timeout};

use super::answer::Answer;
use super::balance::{self, Candidate};
use super::connect::{self, Endpoint};
use super::health::Health;
use super::http1::Connection;
use super::pool::Pool;
use super::stream::Stream;
use super::{EndpointSettings, Error, Failure, Outbound};
use crate::body::Body;

/// Shared by all workers, and by every route that leads to it.
pub(super) struct Node {
    endpoint: Endpoint,
    settings: EndpointSettings,
    seed: u64,
    is_named: bool,
    pool: Pool,
    health: Arc<Health>,
}

/// The right to have one request under way at an endpoint; given back when released or dropped.
pub(super) struct Slot {
    node: Arc<Node>,
    is_held: bool,
}

/// A check that is due, to be run; one at a time for each endpoint.
pub struct Check {
    node: Arc<Node>,
}

impl Node {
    /// Without a connection. `health` is what is known of the endpoint already.
    pub(super) fn new(
        endpoint: Endpoint,
        settings: EndpointSettings,
        workers: usize,
        health: Option<Arc<Health>>,
    ) -> Self {
        let name = endpoint.to_string();
        Self {
            seed: balance::hash(&name),
            is_named: endpoint.is_named(),
            pool: Pool::new(&settings, workers),
            health: health.unwrap_or_else(|| Arc::new(Health::new(name, Instant::now()))),
            endpoint,
            settings,
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn settings(&self) -> &EndpointSettings {
        &self.settings
    }

    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sends a request over a connection of `worker`, or over a new one. As long as the error [is
    /// unsent](Error::is_unsent), so is the request. One that may be repeated is, here where no other endpoint would do.
    pub(super) async fn send(
        self: &Arc<Self>,
        worker: usize,
        request: &mut Outbound,
    ) -> Result<Response<Answer>, Failure> {
        let slot = self.slot().await?;
        let mut pooled = self.pool.take(worker, Instant::now(), !request.may_repeat);
        loop {
            let is_pooled = pooled.is_some();
            let connection = match pooled.take() {
                Some(connection) => connection,
                // In a box, as all that is rarely done: resolving and TLS make a large future.
                None => Box::pin(self.connect()).await?,
            };
            let body = mem::take(&mut request.body);
            let failure = match connection.exchange(&request.parts, body).await {
                Ok((head, incoming)) => {
                    self.health.answered(Instant::now());
                    return Ok(Answer::new(head, incoming, slot, worker));
                }
                Err(failure) => failure,
            };
            if failure.is_unanswered && mem::take(&mut request.may_repeat) {
                if request.has_others {
                    return Err(Failure::to_be_repeated(failure.error));
                }
                if is_pooled {
                    continue;
                }
            }
            return Err(failure.error.into());
        }
    }

    async fn slot(self: &Arc<Self>) -> Result<Slot, Error> {
        self.pool.reserve().await?;
        Ok(Slot {
            node: Arc::clone(self),
            is_held: true,
        })
    }

    async fn connect(&self) -> Result<Connection<Stream>, Error> {
        match connect::open(&self.endpoint, &self.settings).await {
            Ok(stream) => {
                self.health.connected(Instant::now());
                let (timeout, head) = (self.settings.read_timeout, self.settings.head_size);
                Ok(Connection::new(stream, timeout, head))
            }
            Err(error) => {
                if error.is_unsent() {
                    self.health.refused(Instant::now(), &error.in_full());
                }
                Err(error)
            }
        }
    }

    /// Keeps a connection for the next request, unless it is to be made anew: a name may lead elsewhere by now, and a
    /// connection that is always busy would never find out.
    fn keep(&self, worker: usize, connection: Connection<Stream>, now: Instant) {
        let age = now.saturating_duration_since(connection.io().opened());
        if !self.is_named || age < RESOLVED_ANEW {
            self.pool.put(worker, connection, now);
        }
    }

    /// The check that is due at `now`. `always` as in [`Health::claim_check`].
    pub(super) fn due_check(self: &Arc<Self>, now: Instant, always: bool) -> Option<Check> {
        let is_due = self.health.claim_check(now, always);
        is_due.then(|| Check {
            node: Arc::clone(self),
        })
    }

    /// Asks as a registry is asked, and says what it answers or why it does not. Over a connection of its own: the pool's
    /// belong to the workers.
    pub(super) async fn ask(&self) -> Result<StatusCode, String> {
        let asking = async {
            let stream = connect::open(&self.endpoint, &self.settings).await?;
            let connection = Connection::new(stream, CHECK, self.settings.head_size);
            let exchanged = connection.exchange(&self.question(), Body::empty()).await;
            let (head, _body) = exchanged.map_err(|failure| failure.error)?;
            Ok(head.status)
        };
        match timeout(CHECK, asking).await {
            Ok(asked) => asked.map_err(|error: Error| error.in_full()),
            Err(_) => Err(format!("no answer to a check for {CHECK:?}")),
        }
    }

    fn question(&self) -> request::Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = Method::GET;
        parts.uri = http::Uri::from_static("/v2/");
        // An authority of a configuration is legal in a header.
        if let Ok(host) = HeaderValue::from_str(&self.endpoint.authority()) {
            parts.headers.insert(HOST, host);
        }
        let agent = HeaderValue::from_static("tidegate-check");
        parts.headers.insert(USER_AGENT, agent);
        parts
    }
}

impl Check {
    /// Asks the endpoint whether it is there, and notes the outcome.
    pub async fn run(self) {
        // Any answer will do.
        let outcome = self.node.ask().await.map(|_status| ());
        self.node.health.checked(Instant::now(), outcome);
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.node.health.end_check();
    }
}

impl Candidate for Node {
    fn is_up(&self) -> bool {
        self.health.is_up()
    }

    fn busy(&self) -> usize {
        self.pool.busy()
    }

    fn seed(&self) -> u64 {
        self.seed
    }
}

impl Slot {
    /// Gives it back, and the connection, if it can be used again. Once is enough.
    pub(super) fn release(&mut self, worker: usize, connection: Option<Connection<Stream>>) {
        if let Some(connection) = connection {
            self.node.keep(worker, connection, Instant::now());
        }
        if mem::take(&mut self.is_held) {
            self.node.pool.release();
        }
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_held {
            self.node.pool.release();
        }
    }
}

/// An answer to `GET /v2/` that takes longer is none.
const CHECK: Duration = Duration::from_secs(5);

/// Longest life of a connection to a name.
const RESOLVED_ANEW: Duration = Duration::from_secs(60);
