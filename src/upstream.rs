//! What a route leads to: sends a request to one of its endpoints and streams the answer back.
//!
//! Called by `forward`, which has made the header set, the Host field included. The codec below owns
//! the framing alone: `content-length`, `transfer-encoding` and `connection` of the caller are never
//! written, and lengths are enforced in both directions. There is no task and no channel between the
//! caller and the socket: the future and the answer's body poll it themselves, which saves two to three
//! wake-ups a request.
//!
//! It decides nothing about a request and does not follow redirects. Another endpoint is tried only as long as nothing was
//! sent; what was sent is never sent again, but for a bodiless GET or HEAD whose connection died before any byte: once, and
//! over a fresh connection only where there is another endpoint. The same holds where the first bytes on a reused
//! connection are no status line; then the same endpoint is asked over a fresh one.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response};
use tokio::time::Instant;

use crate::body::Body;
use crate::net::addr::ClientNetwork;

mod answer;
mod balance;
mod client_wait;
mod connect;
mod error;
mod health;
mod http1;
mod node;
mod pool;
mod request_limit;
mod resolve;
mod state;
mod stream;
mod trust;

pub use answer::ResponseBody;
pub use balance::MOST as MOST_ENDPOINTS;
#[cfg(any(test, fuzzing))]
pub(crate) use client_wait::ClientWait;
pub use connect::Endpoint;
pub use error::Error;
pub use health::{Outage, Status};
#[cfg(any(test, fuzzing))]
pub(crate) use http1::Connection as Http1Connection;
pub use node::HealthCheck;
pub use state::{State, probe};
pub use trust::{HandshakeError, HandshakeFault, ServerRoots, TrustError};

use balance::EndpointSet;
use error::Failure;
use node::EndpointNode;

/// What an upstream is made of; all durations are between two events, none is a total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens: one at least, [`MOST_ENDPOINTS`] at most.
    pub endpoints: Vec<Endpoint>,
    /// How long a request waits for an upstream that refuses connections, counted from the first refusal: so a restart
    /// costs no request, and an outage answers at once.
    pub connect_retry: Duration,
    /// What holds for each of them.
    pub each: EndpointSettings,
}

/// What holds for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Who vouches for one that speaks TLS; without it there is no connection to such a one.
    pub trust: Option<ServerRoots>,
    /// For the name's resolution, all its addresses and the handshake together.
    pub connect_timeout: Duration,
    /// Silence of the upstream while the gate waits for it: for a head once the request is out, for
    /// bytes of a body, or for room to write. A client that is slow to send or to read does not count.
    pub read_timeout: Duration,
    /// Requests under way at once, all workers together, shared by client network. Idle connections do not count, see
    /// `pool`, and neither do requests that only wait for their own clients while others wait, see `request_limit`.
    pub connections: usize,
    /// Requests that may wait for one of `connections`, in turn by client network.
    pub queue: usize,
    /// How long each of them may wait.
    pub queue_wait: Duration,
    /// A connection idle for longer is not used again.
    pub idle: Duration,
    /// Largest head of an answer in bytes; more than 256 KiB counts as 256 KiB.
    pub head_size: usize,
}

/// Endpoints with their connections, shared by all workers.
pub struct Upstream {
    settings: Settings,
    nodes: Vec<Arc<EndpointNode>>,
    authorities: Vec<String>,
}

/// The worker that serves a request, and the network of its client.
type Origin = (usize, ClientNetwork);

/// A request that is to be sent.
struct OutboundRequest {
    parts: Parts,
    /// Taken at the moment it is sent.
    body: Body,
    may_repeat: bool,
    /// Another endpoint would do as well, and has not been tried.
    has_others: bool,
}

impl OutboundRequest {
    fn new(request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            may_repeat: is_repeatable(&parts, &body),
            parts,
            body,
            has_others: false,
        }
    }
}

impl Upstream {
    /// Worker numbers are below `workers`; another one gets no pooling. An endpoint of one of the `known` upstreams is the
    /// same endpoint: its state lives on, and its connections too when it is used in the same way.
    pub fn new(settings: Settings, workers: usize, known: &[Arc<Self>]) -> Self {
        let known = || known.iter().flat_map(|upstream| &upstream.nodes);
        let node = |endpoint: &Endpoint| {
            let same = || known().filter(|node| node.endpoint() == endpoint);
            let alike = same().find(|node| *node.settings() == settings.each);
            alike.cloned().unwrap_or_else(|| {
                let health = same().next().map(|node| Arc::clone(node.health()));
                let each = settings.each.clone();
                Arc::new(EndpointNode::new(endpoint.clone(), each, workers, health))
            })
        };
        let nodes = settings.endpoints.iter().map(node).collect();
        let authorities = settings.endpoints.iter().map(Endpoint::authority).collect();
        Self {
            settings,
            nodes,
            authorities,
        }
    }

    /// The [authority](Endpoint::authority) of each endpoint.
    pub fn authorities(&self) -> &[String] {
        &self.authorities
    }

    /// What it was made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends `request` of `client` from `worker` and returns as soon as a final head has come, even if the request's
    /// body has not ended: its rest is dropped then, and the connection closed after the answer.
    ///
    /// The request's URI is in origin-form, its header map complete. Its body decides the framing: at its
    /// end already (no body), an exact size hint (`content-length`), else chunked. The body is not polled
    /// before there is a connection. Dropping the future closes the connection. `upload` is the repository of a request
    /// that belongs to an upload: all of them meet one endpoint.
    pub fn send<'a>(
        &'a self,
        worker: usize,
        client: ClientNetwork,
        upload: Option<&'a str>,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Error>> + Send + 'a {
        // Outside of the block, which would keep room for what it takes apart: this is within every request's future.
        let mut request = OutboundRequest::new(request);
        async move {
            self.send_with_retry((worker, client), upload, &mut request)
                .await
        }
    }

    async fn send_with_retry(
        &self,
        origin: Origin,
        upload: Option<&str>,
        request: &mut OutboundRequest,
    ) -> Result<Response<ResponseBody>, Error> {
        let (mut tried, mut until) = (EndpointSet::default(), None);
        loop {
            let failure = match self.try_endpoints(origin, upload, tried, request).await {
                Err(failure) if failure.is_transient() => failure,
                done => return done,
            };
            let now = Instant::now();
            let until = *until.get_or_insert(now + self.settings.connect_retry);
            tried = Box::pin(self.wait(until)).await.ok_or(failure)?;
        }
    }

    /// One endpoint after another, until a request was sent; those in `tried` are left out. What may be sent twice goes
    /// to another endpoint when the first one died on it: it may be on its way down.
    async fn try_endpoints(
        &self,
        (worker, client): Origin,
        upload: Option<&str>,
        mut tried: EndpointSet,
        request: &mut OutboundRequest,
    ) -> Result<Response<ResponseBody>, Error> {
        let (mut failure, mut died) = (Error::Busy, None);
        while let Some((number, node)) = self.choose(tried, upload) {
            tried.add(number);
            // Also one that was down a moment ago: where each is restarted as soon as the last one is ready, it is back.
            request.has_others = upload.is_none() && tried != EndpointSet::first(self.nodes.len());
            match node.send(worker, client, request).await {
                Ok(answer) => return Ok(answer),
                Err(failed) if failed.may_go_on => failure = failed.error,
                Err(failed) => return Err(failed.error),
            }
            if !failure.is_unsent() {
                died = Some(node);
            }
        }
        let Some(node) = died else {
            return Err(failure);
        };
        // The others refuse, and it may only have closed a connection.
        request.has_others = false;
        let sent = Box::pin(node.send(worker, client, request)).await;
        sent.map_err(|failed| failed.error)
    }

    fn choose(
        &self,
        tried: EndpointSet,
        upload: Option<&str>,
    ) -> Option<(usize, &Arc<EndpointNode>)> {
        let number = balance::choose::<EndpointNode>(&self.nodes, tried, upload)?;
        Some((number, self.nodes.get(number)?))
    }

    /// Waits until an endpoint may be tried again, all of which refuse; says which may not. `None` when that has lasted
    /// for too long, or `until` has come.
    async fn wait(&self, until: Instant) -> Option<EndpointSet> {
        loop {
            let now = Instant::now();
            let failing = self
                .nodes
                .iter()
                .filter_map(|node| node.health().failing_since());
            let last = failing
                .max()
                .map(|since| since + self.settings.connect_retry);
            let until = last.map_or(until, |last| last.min(until));
            if now >= until {
                return None;
            }
            tokio::time::sleep(until.duration_since(now).min(health::STEP / 2)).await;
            let now = Instant::now();
            let all = EndpointSet::first(self.nodes.len());
            let mut barred = all;
            for (number, node) in self.nodes.iter().enumerate() {
                if node.health().try_acquire_retry(now) {
                    barred.remove(number);
                }
            }
            if barred != all {
                return Some(barred);
            }
        }
    }

    /// Closes pooled connections that were idle for too long at `now`. They are never used again
    /// anyway; this gives their descriptors back on a worker without traffic.
    pub fn close_idle(&self, now: Instant) {
        for node in &self.nodes {
            node.pool().trim(now);
        }
    }

    /// Checks of endpoints that are due at `now`. `health::Health` says when they are.
    pub fn due_checks(&self, now: Instant) -> impl Iterator<Item = HealthCheck> {
        let always = self.nodes.len() > 1;
        let nodes = self.nodes.iter();
        nodes.filter_map(move |node| node.due_check(now, always))
    }
}

/// RFC 9110 9.2.2 would allow every idempotent method; an upload's PUT or DELETE is never worth the doubt.
fn is_repeatable(parts: &Parts, body: &Body) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) && http_body::Body::is_end_stream(body)
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
