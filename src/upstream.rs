//! What a route leads to: sends a request to one endpoint and streams its answer back.
//!
//! Called by `forward`, which has made the header set, the Host field included. The codec below owns
//! the framing alone: `content-length`, `transfer-encoding` and `connection` of the caller are never
//! written, and lengths are enforced in both directions. There is no task and no channel between the
//! caller and the socket: the future and the answer's body poll it themselves, which saves two to three
//! wake-ups a request.
//!
//! It decides nothing about a request, does not follow redirects, does not choose between endpoints,
//! and sends nothing twice but a bodiless GET or HEAD whose reused connection died before any byte.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, mem};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::body::{self, Body};

mod connect;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http1;
mod pool;

pub use connect::Endpoint;

use connect::Stream;
use http1::{Connection, Incoming};
use pool::{Pool, Slot};

/// What an upstream is given; all durations are between two events, none is a total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// For the name's resolution and all its addresses together.
    pub connect_timeout: Duration,
    /// Silence of the upstream while the gate waits for it: for a head once the request is out, for
    /// bytes of a body, or for room to write. A client that is slow to send or to read does not count.
    pub read_timeout: Duration,
    /// Requests under way at once, all workers together. Idle connections do not count, see `pool`.
    pub connections: usize,
    /// Requests that may wait for one of `connections`.
    pub queue: usize,
    /// How long each of them may wait.
    pub queue_wait: Duration,
    /// A connection idle for longer is not used again.
    pub idle: Duration,
    /// Largest head of an answer in bytes; more than 256 KiB counts as 256 KiB.
    pub head_size: usize,
}

/// One endpoint with its connections, shared by all workers.
pub struct Upstream {
    settings: Settings,
    pool: Arc<Pool>,
}

/// The body of an answer. Dropped before its end, it closes the connection at once.
pub struct Answer {
    incoming: Incoming<Stream>,
    /// None as soon as the last byte was read from the socket.
    slot: Option<Slot>,
    worker: usize,
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens there, or its name has no address. Nothing was sent.
    #[error("cannot connect to the upstream")]
    Connect(#[source] io::Error),
    /// The process has no descriptor for one more connection. Nothing was sent.
    #[error("no connection to the upstream can be opened")]
    Exhausted(#[source] io::Error),
    /// No address took the connection in time. Nothing was sent.
    #[error("the upstream took no connection for {0:?}")]
    ConnectTimeout(Duration),
    /// All connections are in use, and the queue is full or the wait in it was too long. Nothing was sent.
    #[error("all connections to the upstream are in use")]
    Busy,
    /// The upstream neither sent nor took a byte for `read_timeout`.
    #[error("the upstream was silent for {0:?}")]
    Silent(Duration),
    /// The connection ended before a complete head, or before the end of the body.
    #[error("the upstream broke off")]
    Closed(#[source] io::Error),
    /// The upstream's framing breaks HTTP (or, as a last line of defence, the request's would).
    #[error("malformed HTTP: {0}")]
    Malformed(&'static str),
    /// The client's body broke off; the upstream sees a cut request, never a shorter one.
    #[error("the request's body broke off: {0}")]
    Body(#[source] body::Error),
    /// The upstream stopped reading the request and left no answer behind.
    #[error("the upstream stopped reading the request")]
    Write(#[source] io::Error),
}

impl Upstream {
    /// Without any connection yet. Worker numbers are below `workers`; another one gets no pooling.
    pub fn new(settings: Settings, workers: usize) -> Self {
        let pool = Arc::new(Pool::new(&settings, workers));
        Self { settings, pool }
    }

    /// What it was made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends `request` from `worker` and returns as soon as a final head has come, even if the request's
    /// body has not ended: its rest is dropped then, and the connection closed after the answer.
    ///
    /// The request's URI is in origin-form, its header map complete. Its body decides the framing: at its
    /// end already (no body), an exact size hint (`content-length`), else chunked. The body is not polled
    /// before there is a connection. Dropping the future closes the connection.
    pub async fn send(
        &self,
        worker: usize,
        request: Request<Body>,
    ) -> Result<Response<Answer>, Error> {
        let (parts, mut body) = request.into_parts();
        let repeatable = is_repeatable(&parts, &body);
        let slot = self.pool.reserve().await?;
        if let Some(connection) = self.pool.take(worker, Instant::now(), !repeatable) {
            let sent = connection.exchange(&parts, mem::take(&mut body)).await;
            match sent {
                Err(failure) if repeatable && failure.is_unanswered => {}
                Err(failure) => return Err(failure.error),
                Ok((head, incoming)) => return Ok(answer(head, incoming, slot, worker)),
            }
        }
        let stream = connect::open(&self.settings.endpoint, self.settings.connect_timeout).await?;
        let connection =
            Connection::new(stream, self.settings.read_timeout, self.settings.head_size);
        match connection.exchange(&parts, body).await {
            Ok((head, incoming)) => Ok(answer(head, incoming, slot, worker)),
            Err(failure) => Err(failure.error),
        }
    }

    /// Closes pooled connections that were idle for too long at `now`. They are never used again
    /// anyway; this gives their descriptors back on a worker without traffic.
    pub fn close_idle(&self, now: Instant) {
        self.pool.trim(now);
    }
}

/// RFC 9110 9.2.2 would allow every idempotent method; an upload's PUT or DELETE is never worth the doubt.
fn is_repeatable(parts: &Parts, body: &Body) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) && http_body::Body::is_end_stream(body)
}

fn answer(
    head: http::response::Parts,
    incoming: Incoming<Stream>,
    slot: Slot,
    worker: usize,
) -> Response<Answer> {
    let mut answer = Answer {
        incoming,
        slot: Some(slot),
        worker,
    };
    answer.settle();
    Response::from_parts(head, answer)
}

impl Answer {
    /// Lets go of the connection the moment nothing more will be read from it: hyper does not poll
    /// past the last byte of a body whose length it knows, and the caller may hold on to the rest.
    fn settle(&mut self) {
        if !self.incoming.is_read() {
            return;
        }
        if let Some(slot) = self.slot.take()
            && let Some(connection) = self.incoming.reclaim()
        {
            slot.pool().put(self.worker, connection, Instant::now());
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let frame = ready!(self.incoming.poll_data(cx));
        self.settle();
        Poll::Ready(frame.map(|data| match data {
            Ok(data) => Ok(Frame::data(data)),
            Err(Error::Silent(time)) => Err(body::Error::Silent(time)),
            Err(error) => Err(body::Error::Upstream(Box::new(error))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
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
