//! The client side of the proxy: sends a request to one of the endpoints of an upstream and streams the response back.
//!
//! `forward` calls [`Upstream::send`] with a complete header section, including Host. Only the message framing is decided
//! here: `content-length`, `transfer-encoding` and `connection` of the caller are never written, and body lengths are enforced
//! in both directions. There is no task and no channel between the caller and the socket: the future of the request and the
//! response body poll the socket themselves, which saves two to three wake-ups per request.
//!
//! This module makes no decision about the content of a request, and it follows no redirects. Its retry rules are:
//!
//! - While nothing was sent, other endpoints are tried, for any method.
//! - A GET or HEAD without a body is sent once more if its connection died before the first byte of a response. It goes to
//!   another endpoint if there is one, and back to the first if the others refuse connections. Without another endpoint, it
//!   is sent over a new connection if the first one was reused.
//! - A GET or HEAD without a body is sent once more to the same endpoint, over a new connection, if the first bytes on a reused
//!   connection are no status line.
//! - Nothing else is sent twice.

use std::sync::Arc;

use http::{Request, Response, header, response};
use tokio::time::Instant;

use crate::body::Body;
use crate::net::addr::ClientNetwork;

mod balance;
mod client_wait;
mod connect;
mod endpoint;
mod error;
mod health;
mod http1;
mod pool;
mod request_limit;
mod resolve;
mod response_body;
mod settings;
mod tls;
mod tunnel;

pub use balance::MAX_ENDPOINTS;
#[cfg(any(test, fuzzing))]
pub(crate) use client_wait::ClientWait;
pub use endpoint::HealthCheck;
pub use error::Error;
pub use health::{Outage, Status};
#[cfg(any(test, fuzzing))]
pub(crate) use http1::{Connection as Http1Connection, exchange};
pub use response_body::ResponseBody;
pub use settings::{Endpoint, EndpointSettings, HostHeader, Settings};
pub use tls::{HandshakeError, HandshakeFault, ServerRoots, TrustError};

use balance::EndpointSet;
use endpoint::{EndpointClient, OutboundRequest};

/// The endpoints of an upstream with their connections, shared by all workers.
pub struct Upstream {
    settings: Settings,
    endpoints: Vec<Arc<EndpointClient>>,
    authorities: Vec<String>,
}

/// The state of an endpoint at one moment, for the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Identifies the endpoint in this process. Routes that share an endpoint report the same id.
    pub id: usize,
    /// The URL of the endpoint.
    pub name: String,
    /// Whether the endpoint responds.
    pub status: Status,
    /// The number of active and queued requests.
    pub busy: usize,
}

impl Upstream {
    /// Creates an upstream for workers with the numbers 0 to `workers - 1`. A worker with another number has no connection
    /// pool.
    ///
    /// An endpoint that one of the `known` upstreams has as well keeps its health, and also its connections if its settings are
    /// the same.
    pub fn new(settings: Settings, workers: usize, known: &[Arc<Self>]) -> Self {
        let known = || known.iter().flat_map(|upstream| &upstream.endpoints);
        let client = |endpoint: &Endpoint| {
            let same_address = || known().filter(|client| client.endpoint() == endpoint);
            let reusable = same_address().find(|client| *client.settings() == settings.each);
            reusable.cloned().unwrap_or_else(|| {
                let health = same_address().next();
                let health = health.map(|client| Arc::clone(client.health()));
                let each = settings.each.clone();
                Arc::new(EndpointClient::new(endpoint.clone(), each, workers, health))
            })
        };
        let endpoints = settings.endpoints.iter().map(client).collect();
        let authorities = settings.endpoints.iter().map(Endpoint::authority).collect();
        Self {
            settings,
            endpoints,
            authorities,
        }
    }

    /// The [authority](Endpoint::authority) of each endpoint.
    pub fn authorities(&self) -> &[String] {
        &self.authorities
    }

    /// The settings that the upstream was created with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a request of `client` from `worker`, and returns as soon as a final response head has arrived.
    ///
    /// If the response arrives before the end of the request body, the rest of the request body is dropped, and the connection
    /// is closed after the response.
    ///
    /// The URI of the request is in origin-form. The request body decides the framing: no body if it is at its end already,
    /// `content-length` if its size hint is exact, and the chunked transfer coding otherwise. The body is not polled before
    /// there is a connection. Dropping the future closes the connection.
    ///
    /// `upload` is the repository name if the request belongs to an upload: all requests of uploads to a repository go to one
    /// endpoint.
    ///
    /// The response is boxed, because it is returned through several futures, and each of them would copy its 280 bytes.
    pub fn send<'a>(
        &'a self,
        worker: usize,
        client: ClientNetwork,
        upload: Option<&'a str>,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Box<Response<ResponseBody>>, Error>> + Send + 'a {
        // Outside of the async block, which would reserve space for the request and for its parts. This future is part of the
        // future of every request.
        let mut request = OutboundRequest::new(worker, client, upload, request);
        async move { self.send_with_retry(&mut request).await }
    }

    async fn send_with_retry(
        &self,
        request: &mut OutboundRequest<'_>,
    ) -> Result<Box<Response<ResponseBody>>, Error> {
        let (mut skip, mut deadline) = (EndpointSet::default(), None);
        loop {
            let error = match self.try_endpoints(skip, request).await {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            let now = Instant::now();
            let deadline = *deadline.get_or_insert(now + self.settings.connect_retry);
            skip = Box::pin(self.wait_for_retry(deadline)).await.ok_or(error)?;
        }
    }

    /// Tries one endpoint after another until the request was sent, except those in `tried`.
    ///
    /// A repeatable request goes to another endpoint if the first connection died under it, because the first endpoint may be
    /// shutting down.
    async fn try_endpoints(
        &self,
        mut tried: EndpointSet,
        request: &mut OutboundRequest<'_>,
    ) -> Result<Box<Response<ResponseBody>>, Error> {
        let (mut last_error, mut died) = (Error::Busy, None);
        while let Some((index, endpoint)) = self.choose(tried, request.upload) {
            tried.insert(index);
            // An endpoint that was down a moment ago counts as an alternative. During a rolling restart, in which each
            // endpoint is restarted as soon as the one before it is ready, it is up again.
            request.may_go_elsewhere =
                request.upload.is_none() && tried != EndpointSet::first(self.endpoints.len());
            self.set_host(request, endpoint);
            match endpoint.send(request).await {
                Ok(response) => return Ok(response),
                Err(failure) if failure.may_try_another => last_error = failure.error,
                Err(failure) => return Err(failure.error),
            }
            if !last_error.may_try_another_endpoint() {
                died = Some(endpoint);
            }
        }
        let Some(endpoint) = died else {
            return Err(last_error);
        };
        // All other endpoints refuse connections. The one whose connection died may only have closed that connection.
        request.may_go_elsewhere = false;
        self.set_host(request, endpoint);
        let sent = Box::pin(endpoint.send(request)).await;
        sent.map_err(|failure| failure.error)
    }

    /// Sets the `Host` of the request, where it depends on the endpoint.
    fn set_host(&self, request: &mut OutboundRequest<'_>, endpoint: &EndpointClient) {
        if self.settings.host == HostHeader::Endpoint
            && let Some(host) = endpoint.endpoint().host_header()
        {
            request.parts.headers.insert(header::HOST, host);
        }
    }

    fn choose(
        &self,
        tried: EndpointSet,
        upload: Option<&str>,
    ) -> Option<(usize, &Arc<EndpointClient>)> {
        let index = balance::choose::<EndpointClient>(&self.endpoints, tried, upload)?;
        Some((index, self.endpoints.get(index)?))
    }

    /// All endpoints refuse connections: waits until one of them may be retried, and returns the set of endpoints to skip.
    ///
    /// Returns `None` at `deadline`, or when all endpoints have been failing for `connect_retry`.
    async fn wait_for_retry(&self, deadline: Instant) -> Option<EndpointSet> {
        loop {
            let now = Instant::now();
            let failing_since = self
                .endpoints
                .iter()
                .filter_map(|endpoint| endpoint.health().failing_since());
            let outage_limit = failing_since
                .max()
                .map(|since| since + self.settings.connect_retry);
            let deadline = outage_limit.map_or(deadline, |limit| limit.min(deadline));
            if now >= deadline {
                return None;
            }
            let pause = health::RETRY_INTERVAL / 2;
            tokio::time::sleep(deadline.duration_since(now).min(pause)).await;
            let now = Instant::now();
            let all = EndpointSet::first(self.endpoints.len());
            let mut skip = all;
            for (index, endpoint) in self.endpoints.iter().enumerate() {
                if endpoint.health().try_acquire_retry(now) {
                    skip.remove(index);
                }
            }
            if skip != all {
                return Some(skip);
            }
        }
    }

    /// Closes pooled connections that have been idle for too long at `now`.
    ///
    /// They are never used again in any case. This call frees their file descriptors on workers without traffic.
    pub fn close_idle(&self, now: Instant) {
        for endpoint in &self.endpoints {
            endpoint.pool().close_expired(now);
        }
    }

    /// The health checks that are due at `now`. `health` describes when they are.
    pub fn due_checks(&self, now: Instant) -> impl Iterator<Item = HealthCheck> {
        let is_one_of_several = self.endpoints.len() > 1;
        let endpoints = self.endpoints.iter();
        endpoints.filter_map(move |endpoint| endpoint.due_check(now, is_one_of_several))
    }

    /// The status of each endpoint, in the order of the configuration.
    pub fn statuses(&self) -> impl Iterator<Item = EndpointStatus> {
        self.endpoints.iter().map(|endpoint| EndpointStatus {
            id: Arc::as_ptr(endpoint) as usize,
            name: endpoint.endpoint().to_string(),
            status: endpoint.health().status(),
            busy: endpoint.pool().busy(),
        })
    }

    /// The names and outages of all endpoints if all of them are down, otherwise `None`.
    ///
    /// During such an outage requests fail, unless an endpoint comes up while they wait.
    pub fn outage(&self) -> Option<Vec<(String, Outage)>> {
        let outages = self.statuses().map(|endpoint| match endpoint.status {
            Status::Down(outage) => Some((endpoint.name, outage)),
            Status::Up | Status::Unchecked => None,
        });
        outages.collect()
    }

    /// Records checks of every endpoint that failed until it is down.
    #[cfg(test)]
    pub fn assume_it_is_down(&self, cause: &str) {
        for endpoint in &self.endpoints {
            let check = || {
                endpoint
                    .health()
                    .record_check(Instant::now(), Err(cause.to_owned()))
            };
            (0..10).for_each(|_| check());
        }
    }

    /// Records a successful check of every endpoint. Tests of the admin listener have no registry that could respond.
    #[cfg(test)]
    pub fn assume_it_responds(&self) {
        for endpoint in &self.endpoints {
            endpoint.health().record_check(Instant::now(), Ok(()));
        }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Sends `GET /v2/` without credentials to an endpoint and returns the response head, within a few seconds.
///
/// The connection is not pooled, and the result does not count as a health check. `check --live` uses this function.
///
/// # Errors
/// The same errors that a request through the proxy would get.
pub async fn probe(
    endpoint: &Endpoint,
    settings: &EndpointSettings,
) -> Result<response::Parts, Error> {
    EndpointClient::new(endpoint.clone(), settings.clone(), 0, None)
        .probe()
        .await
}

#[cfg(test)]
mod tests;
