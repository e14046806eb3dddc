//! The HTTP/1.1 codec of the client's side: one request out, one answer in, on one connection.
//!
//! Called by `upstream`. It is generic over the socket, and knows neither pools nor endpoints. Both
//! directions run at once: while the request is written the answer is watched for, because an upstream
//! may refuse an upload long before its end (RFC 9112 9.3). What it does not do: pipelining, upgrades,
//! trailers, compression.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Error;
use super::client_wait::ClientWait;
use crate::body::Body;
use crate::buffer_pool;

mod chunked;
mod deadline;
mod encoder;
mod framing;
mod head;
mod inbox;
mod incoming;
mod outgoing;

pub(crate) use incoming::BodyReader;

use deadline::Deadline;
use head::Head;
use inbox::HeadBuffer;
use outgoing::RequestWriter;

/// A connection with nothing under way. Dropped, it is closed.
pub(crate) struct Connection<S> {
    io: S,
    deadline: Deadline,
    head_size: usize,
    /// The buffer that request heads are written into, kept for its capacity.
    lead: Vec<u8>,
}

/// An exchange without an answer; its connection is closed.
pub(crate) struct Failure {
    pub(super) error: Error,
    /// The connection died before a single byte of an answer. If it had been idle before, its death
    /// has most likely nothing to do with this request.
    pub(super) is_unanswered: bool,
    /// The first bytes that came are no status line. If the connection was used before, they most likely belong to the
    /// answer before: an upstream that sends a body in response to HEAD, say. Then nothing is known of this request.
    pub(super) is_out_of_step: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Over a fresh stream. `read_timeout` and `head_size` as in the settings.
    pub(crate) fn new(io: S, read_timeout: Duration, head_size: usize) -> Self {
        Self {
            io,
            deadline: Deadline::new(read_timeout),
            head_size: head_size.min(buffer_pool::LARGE),
            lead: Vec::new(),
        }
    }

    /// The stream, for a look at it.
    pub(crate) fn io(&self) -> &S {
        &self.io
    }

    /// The stream, to be asked what it has.
    pub(super) fn io_mut(&mut self) -> &mut S {
        &mut self.io
    }

    /// Sends a request and waits for the final head of its answer. `client_wait` learns when the rest of the request body
    /// is waited for.
    pub(crate) async fn exchange(
        mut self,
        parts: &Parts,
        body: Body,
        client_wait: &ClientWait,
    ) -> Result<(response::Parts, BodyReader<S>), Failure> {
        let lead = std::mem::take(&mut self.lead);
        let outgoing = RequestWriter::new(lead, parts, body).map_err(Failure::of)?;
        let mut exchange = Exchange {
            inbox: HeadBuffer::new(self.head_size, parts.method == Method::HEAD),
            connection: self,
            outgoing,
            client_wait,
            refused: None,
        };
        match poll_fn(|cx| exchange.poll(cx)).await {
            Ok((head, rest)) => exchange.finish(head, rest).map_err(Failure::of),
            Err(error) => Err(Failure {
                is_unanswered: exchange.inbox.received() == 0
                    && matches!(error, Error::Closed(_) | Error::Write(_)),
                is_out_of_step: exchange.inbox.began_without_status_line(),
                error,
            }),
        }
    }
}

impl Failure {
    fn of(error: Error) -> Self {
        Self {
            error,
            is_unanswered: false,
            is_out_of_step: false,
        }
    }
}

/// Both directions until the answer's head is there.
struct Exchange<'a, S> {
    connection: Connection<S>,
    outgoing: RequestWriter,
    client_wait: &'a ClientWait,
    inbox: HeadBuffer,
    /// Why the upstream takes no more bytes. Its answer may lie in the receive buffer all the same.
    refused: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Head, Bytes), Error>> {
        let before = self.moved();
        let written = self.outgoing.written();
        self.write(cx)?;
        self.report_wait(self.outgoing.written().wrapping_sub(written));
        if let Poll::Ready(found) = self.inbox.poll_head(&mut self.connection.io, cx) {
            return Poll::Ready(found.map_err(|error| self.explain(error)));
        }
        if self.moved() != before || self.waits_for_client() {
            self.connection.deadline.stop();
        }
        if self.waits_for_client() {
            return Poll::Pending;
        }
        ready!(self.connection.deadline.poll(cx));
        Poll::Ready(Err(self.connection.deadline.error()))
    }

    /// Writes what can be written. A broken client is an error at once; a socket that refuses bytes
    /// only ends the writing, since an early answer (413, say) followed by a close looks like that.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if self.refused.is_some() {
            return Ok(());
        }
        match self.outgoing.poll(&mut self.connection.io, cx) {
            Poll::Ready(Err(Error::Write(error))) => self.refused = Some(error),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(())
    }

    fn report_wait(&self, sent: u64) {
        if sent > 0 {
            self.client_wait.moved(sent);
        }
        if self.waits_for_client() {
            self.client_wait.begin();
        } else {
            self.client_wait.end();
        }
    }

    fn waits_for_client(&self) -> bool {
        self.refused.is_none() && self.outgoing.waits_for_body()
    }

    /// Bytes moved in either direction.
    fn moved(&self) -> u64 {
        self.outgoing.written().wrapping_add(self.inbox.received())
    }

    /// After a refused write the refusal says more than the end of the stream that follows it.
    fn explain(&mut self, error: Error) -> Error {
        match (error, self.refused.take()) {
            (Error::Closed(_), Some(refusal)) => Error::Write(refusal),
            (error, _) => error,
        }
    }

    /// A request that has not been sent to its end spoils the connection (pool poisoning).
    fn finish(
        mut self,
        head: Head,
        rest: Bytes,
    ) -> Result<(response::Parts, BodyReader<S>), Error> {
        let is_whole = self.refused.is_none() && self.outgoing.is_complete();
        // The rest of the request body is not waited for any more.
        self.client_wait.end();
        self.connection.lead = self.outgoing.into_lead();
        self.connection.deadline.stop();
        let is_reusable = head.is_reusable && is_whole;
        let mut incoming = BodyReader::new(self.connection, head.framing, is_reusable);
        if self.refused.is_some() {
            incoming.distrust_end();
        }
        incoming.begin(rest);
        Ok((head.parts, incoming.check()?))
    }
}

#[cfg(test)]
mod tests;
