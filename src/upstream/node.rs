//! One endpoint: its connections, its health, and an exchange with it.
//!
//! Called by `upstream`, which has chosen it, and by the checks of the main runtime. It sends nothing twice but a bodiless GET
//! or HEAD whose reused connection died before any byte, or brought first what is no status line; whether another endpoint
//! is tried is decided above, for these even where a fresh one died.

use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, request, response};
use tokio::time::{Instant, timeout};

use super::answer::ResponseBody;
use super::balance::{self, Candidate};
use super::client_wait::ClientWait;
use super::connect::{self, Endpoint};
use super::health::Health;
use super::http1::{self, BodyReader, Connection};
use super::pool::Pool;
use super::request_limit::{OpenRequest, RequestPermit};
use super::stream::Stream;
use super::{EndpointSettings, Error, Failure, OutboundRequest};
use crate::body::Body;
use crate::net::addr::ClientNetwork;

/// Shared by all workers, and by every route that leads to it.
pub(super) struct EndpointNode {
    endpoint: Endpoint,
    settings: EndpointSettings,
    seed: u64,
    is_named: bool,
    pool: Pool,
    health: Arc<Health>,
}

/// A request under way at an endpoint; its place in the limit is given back on drop.
pub(super) struct ActiveRequest {
    node: Arc<EndpointNode>,
    worker: usize,
    permit: RequestPermit,
}

/// A check that is due, to be run; one at a time for each endpoint.
pub struct HealthCheck {
    node: Arc<EndpointNode>,
}

impl EndpointNode {
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
            is_named: endpoint.is_dns_name(),
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

    /// Sends a request of `client` over a connection of `worker`, or over a new one. As long as the error [is
    /// unsent](Error::is_unsent), so is the request. One that may be repeated is, here where no other endpoint would do.
    pub(super) async fn send(
        self: &Arc<Self>,
        worker: usize,
        client: ClientNetwork,
        request: &mut OutboundRequest,
    ) -> Result<Response<ResponseBody>, Failure> {
        let slot = ActiveRequest {
            permit: self.pool.acquire(client).await?,
            node: Arc::clone(self),
            worker,
        };
        let mut pooled = self.pool.take(worker, Instant::now(), !request.may_repeat);
        loop {
            let is_pooled = pooled.is_some();
            let connection = match pooled.take() {
                Some(connection) => connection,
                // In a box, as all that is rarely done: resolving and TLS make a large future.
                None => Box::pin(self.connect()).await?,
            };
            let body = mem::take(&mut request.body);
            let failure = match slot.exchange(connection, &request.parts, body).await {
                Ok((head, incoming)) => {
                    self.health.answered(Instant::now());
                    return Ok(ResponseBody::new(head, incoming, slot));
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
            // The endpoint is there, and a fresh connection has nothing of an answer before.
            if failure.is_out_of_step && is_pooled && mem::take(&mut request.may_repeat) {
                tracing::debug!(endpoint = %self.endpoint, "bytes without a request on a reused connection: asking again");
                continue;
            }
            return Err(failure.error.into());
        }
    }

    async fn connect(&self) -> Result<Connection<Stream>, Error> {
        let mut opened = connect::open(&self.endpoint, &self.settings).await;
        if matches!(opened, Err(Error::Exhausted(_))) && self.pool.spare_descriptor() {
            opened = connect::open(&self.endpoint, &self.settings).await;
        }
        match opened {
            Ok(stream) => {
                self.health.connected(Instant::now());
                let (timeout, head) = (self.settings.read_timeout, self.settings.head_size);
                Ok(Connection::new(stream, timeout, head))
            }
            Err(error) => {
                if error.is_unsent() {
                    self.health.refused(Instant::now(), &error.with_source());
                }
                Err(error)
            }
        }
    }

    /// Keeps a connection for the next request, unless it is to be made anew: a name may lead elsewhere by now, and a
    /// connection that is always busy would never find out.
    fn recycle(&self, worker: usize, connection: Connection<Stream>, now: Instant) {
        let age = now.saturating_duration_since(connection.io().opened());
        if !self.is_named || age < RESOLVED_ANEW {
            self.pool.put(worker, connection, now);
        }
    }

    /// The check that is due at `now`. `always` as in [`Health::try_start_check`].
    pub(super) fn due_check(self: &Arc<Self>, now: Instant, always: bool) -> Option<HealthCheck> {
        let is_due = self.health.try_start_check(now, always);
        is_due.then(|| HealthCheck {
            node: Arc::clone(self),
        })
    }

    /// Sends `GET /v2/` over a new connection, since pooled connections belong to the workers, and returns the head of the
    /// response.
    pub(super) async fn probe(&self) -> Result<response::Parts, Error> {
        let asking = async {
            let stream = connect::open(&self.endpoint, &self.settings).await?;
            let connection = Connection::new(stream, CHECK, self.settings.head_size);
            let wait = ClientWait::new(Instant::now());
            let question = self.question();
            let exchanged = connection.exchange(&question, Body::empty(), &wait);
            let exchanged = exchanged.await;
            let (head, _body) = exchanged.map_err(|failure| failure.error)?;
            Ok(head)
        };
        let probed = timeout(CHECK, asking).await;
        probed.unwrap_or(Err(Error::Silent(CHECK)))
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

impl HealthCheck {
    /// Asks the endpoint whether it is there, and notes the outcome.
    pub async fn run(self) {
        // Any response will do.
        let probed = self.node.probe().await;
        let outcome = probed.map(drop).map_err(|error| error.with_source());
        self.node.health.checked(Instant::now(), outcome);
    }
}

impl Drop for HealthCheck {
    fn drop(&mut self) {
        self.node.health.end_check();
    }
}

impl Candidate for EndpointNode {
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

impl ActiveRequest {
    /// Sends a request and waits for the final head of its answer, unless the request loses its place before: then its
    /// connection is closed.
    async fn exchange(
        &self,
        connection: Connection<Stream>,
        parts: &request::Parts,
        body: Body,
    ) -> Result<(response::Parts, BodyReader<Stream>), http1::Failure> {
        let request = self.request();
        let mut exchange = pin!(connection.exchange(parts, body, request.client_wait()));
        poll_fn(|cx| {
            if let Poll::Ready(done) = exchange.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            request.poll_displaced(cx).map(|()| {
                Err(http1::Failure {
                    error: Error::Busy,
                    is_unanswered: false,
                    is_out_of_step: false,
                })
            })
        })
        .await
    }

    /// The request as the limit sees it.
    pub(super) fn request(&self) -> &OpenRequest {
        self.permit.request()
    }

    /// Ends the request, and keeps its connection if it can be used again.
    pub(super) fn release(self, connection: Option<Connection<Stream>>) {
        // First the connection, so that the next request finds it.
        if let Some(connection) = connection {
            self.node.recycle(self.worker, connection, Instant::now());
        }
    }
}

/// An answer to `GET /v2/` that takes longer is none.
const CHECK: Duration = Duration::from_secs(5);

/// Longest life of a connection to a name.
const RESOLVED_ANEW: Duration = Duration::from_secs(60);
