//! The HTTP client of one endpoint: sends requests over pooled or new connections, and performs health checks.
//!
//! `upstream` chooses the endpoint and calls [`EndpointClient::send`]; the main runtime runs the [`HealthCheck`]s.
//!
//! Nothing is sent twice, with one exception: a GET or HEAD without a body, if the reused connection died before the first
//! byte of a response, or if the first bytes on the reused connection are no status line. Whether another endpoint is tried
//! is decided in `upstream`.

use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, request, response};
use tokio::time::{Instant, sleep, timeout};

use super::balance::{Candidate, endpoint_hash};
use super::client_wait::ClientWait;
use super::connect::{self, Stream};
use super::error::Error;
use super::health::Health;
use super::http1::{self, BodyReader, Connection, ExchangeError};
use super::pool::{ActiveRequest, Pool};
use super::response_body::ResponseBody;
use super::settings::{Endpoint, EndpointSettings};
use crate::body::Body;
use crate::net::addr::ClientNetwork;

/// The client of one endpoint, shared by all workers and by every route that uses the endpoint with the same settings.
pub(crate) struct EndpointClient {
    endpoint: Endpoint,
    settings: EndpointSettings,
    url_hash: u64,
    pool: Arc<Pool>,
    health: Arc<Health>,
}

/// A request to send.
pub(crate) struct OutboundRequest<'a> {
    /// The number of the worker that serves the client.
    pub(crate) worker: usize,
    /// The network of the client.
    pub(crate) client: ClientNetwork,
    /// The repository name if the request belongs to an upload.
    pub(crate) upload: Option<&'a str>,
    pub(crate) parts: request::Parts,
    /// The body; empty after the request was sent.
    pub(crate) body: Body,
    /// Whether the request may be sent a second time.
    pub(crate) is_repeatable: bool,
    /// Whether another endpoint that was not tried yet can serve the request.
    pub(crate) may_go_elsewhere: bool,
}

/// Why an endpoint did not respond to a request.
pub(crate) struct SendError {
    pub(crate) error: Error,
    /// Whether another endpoint may be tried: nothing was sent, or what was sent may be sent once more.
    pub(crate) may_try_another: bool,
}

/// A health check that is due. Only one exists at a time for each endpoint.
pub struct HealthCheck {
    client: Arc<EndpointClient>,
}

impl<'a> OutboundRequest<'a> {
    pub(crate) fn new(
        worker: usize,
        client: ClientNetwork,
        upload: Option<&'a str>,
        request: Request<Body>,
    ) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            worker,
            client,
            upload,
            is_repeatable: is_repeatable(&parts, &body),
            parts,
            body,
            may_go_elsewhere: false,
        }
    }
}

/// RFC 9110 section 9.2.2 allows a retry of every idempotent method. The PUT or DELETE of an upload is not repeated: it may
/// have taken effect, and the second response would then be an error.
fn is_repeatable(parts: &request::Parts, body: &Body) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) && http_body::Body::is_end_stream(body)
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        Self {
            may_try_another: error.may_try_another_endpoint(),
            error,
        }
    }
}

impl EndpointClient {
    /// Creates a client without connections. `health` is the state of the endpoint if it is known already.
    pub(crate) fn new(
        endpoint: Endpoint,
        settings: EndpointSettings,
        workers: usize,
        health: Option<Arc<Health>>,
    ) -> Self {
        let url = endpoint.to_string();
        let max_age = endpoint.is_dns_name().then_some(MAX_AGE_OF_NAMED);
        Self {
            url_hash: endpoint_hash(&url),
            pool: Arc::new(Pool::new(&settings, workers, max_age)),
            health: health.unwrap_or_else(|| Arc::new(Health::new(url, Instant::now()))),
            endpoint,
            settings,
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn settings(&self) -> &EndpointSettings {
        &self.settings
    }

    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sends a request over a pooled connection of its worker or over a new one, and returns as soon as the final response
    /// head has arrived.
    ///
    /// If the error [permits another endpoint](Error::may_try_another_endpoint), the body of the request is untouched. A
    /// repeatable request is sent again on this endpoint only if no other endpoint is left for it.
    pub(crate) async fn send(
        &self,
        request: &mut OutboundRequest<'_>,
    ) -> Result<Box<Response<ResponseBody>>, SendError> {
        let worker = request.worker;
        let active = self.pool.begin_request(worker, request.client).await?;
        let ask_kernel = !request.is_repeatable;
        let mut pooled = self.pool.take(worker, Instant::now(), ask_kernel);
        loop {
            let is_reused = pooled.is_some();
            let connection = match pooled.take() {
                Some(connection) => connection,
                // Boxed like everything that is rarely done: name resolution and TLS make a large future.
                None => Box::pin(self.connect()).await?,
            };
            let body = mem::take(&mut request.body);
            let failure = match exchange(&active, connection, &request.parts, body).await {
                Ok((head, reader)) => {
                    self.health.record_response(Instant::now());
                    return Ok(Box::new(ResponseBody::new(head, reader, active)));
                }
                Err(failure) => failure,
            };
            // `mem::take` makes sure that a request is repeated only once.
            if failure.died_without_response && mem::take(&mut request.is_repeatable) {
                if request.may_go_elsewhere {
                    return Err(SendError {
                        error: failure.error,
                        may_try_another: true,
                    });
                }
                if is_reused {
                    continue;
                }
            }
            // The endpoint is alive, and a new connection cannot hold bytes that belong to an earlier response.
            if failure.is_out_of_step && is_reused && mem::take(&mut request.is_repeatable) {
                tracing::debug!(endpoint = %self.endpoint, "a reused connection had bytes of an earlier response; sending the request again");
                continue;
            }
            return Err(failure.error.into());
        }
    }

    async fn connect(&self) -> Result<Connection<Stream>, Error> {
        let mut connected = connect::open(&self.endpoint, &self.settings).await;
        if matches!(connected, Err(Error::Exhausted(_))) && self.pool.free_descriptor() {
            connected = connect::open(&self.endpoint, &self.settings).await;
            if matches!(connected, Err(Error::Exhausted(_))) {
                // An upload or a tunnel closes its connection when its task runs, perhaps on another worker.
                sleep(DISPLACED_CLOSE).await;
                connected = connect::open(&self.endpoint, &self.settings).await;
            }
        }
        match connected {
            Ok(stream) => {
                self.health.record_connect(Instant::now());
                let settings = &self.settings;
                Ok(Connection::new(
                    stream,
                    settings.read_timeout,
                    settings.head_size,
                ))
            }
            Err(error) => {
                if error.may_try_another_endpoint() {
                    self.health
                        .record_connect_failure(Instant::now(), &error.with_source());
                }
                Err(error)
            }
        }
    }

    /// The health check that is due at `now`, if any. `is_one_of_several` is explained at [`Health::try_start_check`].
    pub(crate) fn due_check(
        self: &Arc<Self>,
        now: Instant,
        is_one_of_several: bool,
    ) -> Option<HealthCheck> {
        let is_due = self.health.try_start_check(now, is_one_of_several);
        is_due.then(|| HealthCheck {
            client: Arc::clone(self),
        })
    }

    /// Sends `GET /v2/` over a new connection and returns the response head. Pooled connections belong to the workers.
    pub(crate) async fn probe(&self) -> Result<response::Parts, Error> {
        let probing = async {
            let stream = connect::open(&self.endpoint, &self.settings).await?;
            let connection = Connection::new(stream, PROBE_TIMEOUT, self.settings.head_size);
            let wait = ClientWait::new(Instant::now());
            let request = self.probe_request();
            let exchanged = http1::exchange(connection, &request, Body::empty(), &wait).await;
            let (head, _body) = exchanged.map_err(|failure| failure.error)?;
            Ok(head)
        };
        let probed = timeout(PROBE_TIMEOUT, probing).await;
        probed.unwrap_or(Err(Error::Silent(PROBE_TIMEOUT)))
    }

    fn probe_request(&self) -> request::Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = Method::GET;
        parts.uri = http::Uri::from_static("/v2/");
        // The configuration accepts only authorities that are legal field values.
        if let Ok(host) = HeaderValue::from_str(&self.endpoint.authority()) {
            parts.headers.insert(HOST, host);
        }
        let agent = HeaderValue::from_static("tidegate-check");
        parts.headers.insert(USER_AGENT, agent);
        parts
    }
}

/// Sends a request on `connection` and waits for the final response head.
///
/// If the request limit displaces the request meanwhile, the exchange is dropped, which closes the connection.
async fn exchange(
    active: &ActiveRequest,
    connection: Connection<Stream>,
    parts: &request::Parts,
    body: Body,
) -> Result<(response::Parts, BodyReader<Stream>), ExchangeError> {
    let request = active.request();
    // Created where it is polled: a variable in between would cost a copy of the whole future.
    let mut exchange = pin!(http1::exchange(
        connection,
        parts,
        body,
        request.client_wait()
    ));
    poll_fn(|cx| {
        if let Poll::Ready(done) = exchange.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        request
            .poll_displaced(cx)
            .map(|()| Err(ExchangeError::from(Error::Busy)))
    })
    .await
}

impl Candidate for EndpointClient {
    fn is_up(&self) -> bool {
        self.health.is_up()
    }

    fn busy(&self) -> usize {
        self.pool.busy()
    }

    fn url_hash(&self) -> u64 {
        self.url_hash
    }
}

impl HealthCheck {
    /// Probes the endpoint and records the result. Every response counts as success, whatever its status.
    pub async fn run(self) {
        let probed = self.client.probe().await;
        let result = probed.map(drop).map_err(|error| error.with_source());
        self.client.health.record_check(Instant::now(), result);
    }
}

impl Drop for HealthCheck {
    fn drop(&mut self) {
        self.client.health.end_check();
    }
}

/// The time for a health check, from the connect to the response head.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The time for the task of a displaced request to close its connection.
const DISPLACED_CLOSE: Duration = Duration::from_millis(20);

/// The longest lifetime of a connection to a host name. The name may resolve to other addresses by then, and a connection
/// that is never idle would never be replaced.
const MAX_AGE_OF_NAMED: Duration = Duration::from_secs(60);
