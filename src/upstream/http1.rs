//! An HTTP/1.1 client codec: sends one request and receives its response on one connection.
//!
//! `endpoint` calls [`exchange`]. The codec is generic over the socket, and it knows neither pools nor endpoints. It does not
//! implement pipelining, trailers or content codings. A request with `Upgrade` may get a 101 response; its connection then
//! leaves the codec.
//!
//! hyper has an HTTP/1 client as well. This codec is used in its place for three reasons:
//!
//! - hyper's client needs a task for each connection, and a channel between it and the request. Here, the future of the request
//!   and the response body poll the socket themselves, so that dropping them closes the connection immediately.
//! - The codec reports whether a connection died before the first byte of a response, and whether its first bytes were no
//!   status line. The retry rules of `upstream` depend on both.
//! - A response is received while the request is still being sent. An upstream may reject an upload long before its end
//!   (RFC 9112 section 9.3) and close the connection; the client must get that response.
//!
//! Speed is not a reason: in `benches/small` on an AVX-512 Xeon, a ping by hyper's client takes 9.5 µs, and a ping through this
//! codec takes 11.5 µs together with the choice of an endpoint, the pool, the limits and the rewriting of header fields.
//!
//! The codec accepts less than hyper's does: it rejects every response whose framing could be read in two ways.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::response;
use tokio::io::{AsyncRead, AsyncWrite};

use super::client_wait::ClientWait;
use super::error::Error;
use crate::body::Body;

mod connection;
mod read_body;
mod read_head;
mod write;

pub(crate) use connection::Connection;
pub(crate) use read_body::BodyReader;

use read_head::{HeadBuffer, RequestKind, ResponseHead};
use write::RequestWriter;

/// Why an exchange ended without a response. Its connection is closed.
pub(crate) struct ExchangeError {
    pub(crate) error: Error,
    /// Whether the connection died before the first byte of a response. On a reused connection, this most likely has nothing to
    /// do with the request: the upstream closed an idle connection at that moment.
    pub(crate) died_without_response: bool,
    /// Whether the first bytes that were received are no status line. On a reused connection, they most likely belong to the
    /// response before, for example the body of an upstream that sends one in response to HEAD. They say nothing about this
    /// request then.
    pub(crate) is_out_of_step: bool,
}

impl From<Error> for ExchangeError {
    fn from(error: Error) -> Self {
        Self {
            error,
            died_without_response: false,
            is_out_of_step: false,
        }
    }
}

/// Sends a request over `connection` and waits for the final response head.
///
/// The exchange reports to `client_wait` when it waits for the rest of the request body.
pub(crate) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<S>,
    parts: &Parts,
    body: Body,
    client_wait: &ClientWait,
) -> Result<(response::Parts, BodyReader<S>), ExchangeError> {
    let writer = RequestWriter::new(connection.take_head_buffer(), parts, body)?;
    let mut exchange = Exchange {
        head_buffer: HeadBuffer::new(connection.max_head_size(), RequestKind::of(parts)),
        connection,
        writer,
        client_wait,
        write_error: None,
    };
    match poll_fn(|cx| exchange.poll(cx)).await {
        Ok((head, rest)) => Ok(exchange.finish(head, rest)?),
        Err(error) => Err(ExchangeError {
            died_without_response: exchange.head_buffer.received() == 0
                && matches!(error, Error::Closed(_) | Error::Write(_)),
            is_out_of_step: exchange.head_buffer.begins_without_status_line(),
            error,
        }),
    }
}

/// Both directions of a connection until the response head is complete.
struct Exchange<'a, S> {
    connection: Connection<S>,
    writer: RequestWriter,
    client_wait: &'a ClientWait,
    head_buffer: HeadBuffer,
    /// The error of a failed write. The response may nevertheless be in the receive buffer of the socket.
    write_error: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(ResponseHead, Bytes), Error>> {
        let transferred_before = self.transferred();
        let written_before = self.writer.written();
        self.write(cx)?;
        self.report_client_wait(self.writer.written().wrapping_sub(written_before));
        if let Poll::Ready(head) = self.head_buffer.poll_head(self.connection.io_mut(), cx) {
            return Poll::Ready(head.map_err(|error| self.prefer_write_error(error)));
        }
        if self.transferred() != transferred_before || self.waits_for_client() {
            self.connection.deadline.stop();
        }
        if self.waits_for_client() {
            return Poll::Pending;
        }
        ready!(self.connection.deadline.poll(cx));
        Poll::Ready(Err(self.connection.deadline.error()))
    }

    /// Writes as much of the request as the client has sent and the socket accepts.
    ///
    /// An error of the client's body is returned. An error of the socket only ends the writing: an upstream that sends an early
    /// response (413, for example) and closes looks like this.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if self.write_error.is_some() {
            return Ok(());
        }
        match self.writer.poll(self.connection.io_mut(), cx) {
            Poll::Ready(Err(Error::Write(error))) => self.write_error = Some(error),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(())
    }

    fn report_client_wait(&self, written: u64) {
        if written > 0 {
            self.client_wait.record_transfer(written);
        }
        if self.waits_for_client() {
            self.client_wait.begin();
        } else {
            self.client_wait.end();
        }
    }

    fn waits_for_client(&self) -> bool {
        self.write_error.is_none() && self.writer.waits_for_body()
    }

    /// The number of bytes transferred in both directions.
    fn transferred(&self) -> u64 {
        self.writer
            .written()
            .wrapping_add(self.head_buffer.received())
    }

    /// After a failed write, its error says more than the end of the stream that follows it.
    fn prefer_write_error(&mut self, error: Error) -> Error {
        match (error, self.write_error.take()) {
            (Error::Closed(_), Some(write_error)) => Error::Write(write_error),
            (error, _) => error,
        }
    }

    /// Joins the head with a reader for the body.
    ///
    /// A connection whose request was not sent completely is not reused: the upstream would take the next request for the rest
    /// of the body.
    fn finish(
        mut self,
        head: ResponseHead,
        rest: Bytes,
    ) -> Result<(response::Parts, BodyReader<S>), Error> {
        let is_request_complete = self.write_error.is_none() && self.writer.is_complete();
        // The rest of the request body is not expected any more.
        self.client_wait.end();
        self.connection
            .return_head_buffer(self.writer.into_head_buffer());
        self.connection.deadline.stop();
        let is_reusable = head.is_reusable && is_request_complete;
        let mut reader = BodyReader::new(self.connection, head.framing, is_reusable);
        if self.write_error.is_some() {
            reader.require_explicit_end();
        }
        reader.begin(rest);
        Ok((head.parts, reader.check()?))
    }
}

#[cfg(test)]
mod tests;
