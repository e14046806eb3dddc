//! The body of an upstream's response, and the release of its connection. After a 101, the connection itself.
//!
//! `endpoint` creates it, and hyper polls it on behalf of the client. Until its last byte was read from the socket, the body
//! is stored in the [`OpenRequest`](super::request_limit::OpenRequest), where the request limit can close it: between two
//! polls the body only waits for its own client.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, response};
use http_body::{Frame, SizeHint};

use super::connect::Stream;
use super::error::Error;
use super::http1::BodyReader;
use super::pool::ActiveRequest;
use super::tunnel::UpstreamTunnel;
use crate::body::{self, TunnelEnd};

/// The body of an upstream's response. If it is dropped before its end, the connection is closed.
pub struct ResponseBody {
    state: State,
}

#[allow(
    clippy::large_enum_variant,
    reason = "a box would cost each response an allocation, and a response body is never moved in bulk"
)]
enum State {
    /// More bytes are expected from the socket. The reader is stored in the request.
    Receiving(ActiveRequest),
    /// Nothing more is read from the socket, and the request has ended. The reader may still hold bytes for the client.
    Received(BodyReader<Stream>),
    /// The request limit has closed the connection, and the body has returned the error.
    Displaced,
    /// The upstream has switched protocols. The bytes of the connection are no body.
    Switched(ActiveRequest, BodyReader<Stream>),
}

impl ResponseBody {
    /// Joins the head of a response with the rest of its connection.
    pub(crate) fn new(
        head: response::Parts,
        reader: BodyReader<Stream>,
        active: ActiveRequest,
    ) -> Response<Self> {
        let state = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            State::Switched(active, reader)
        } else if reader.is_received() {
            State::received(active, reader)
        } else {
            active.request().client_wait().begin();
            active.request().store_response(reader);
            State::Receiving(active)
        };
        Response::from_parts(head, Self { state })
    }

    /// Takes the connection of an upstream that has switched protocols, and the bytes that followed the response head.
    pub(crate) fn into_tunnel(self) -> Option<(Box<dyn TunnelEnd>, Bytes)> {
        let State::Switched(active, reader) = self.state else {
            return None;
        };
        let (connection, first) = reader.into_tunnel()?;
        Some((Box::new(UpstreamTunnel::new(connection, active)), first))
    }

    /// Whether everything was read from the socket and the request has ended.
    #[cfg(test)]
    pub(crate) fn is_received(&self) -> bool {
        matches!(self.state, State::Received(_))
    }
}

impl State {
    /// Ends the request and releases the connection as soon as nothing more is read from it. This cannot wait for the last
    /// poll: hyper does not poll a body of known length after its last byte, and the client may take long to read the rest.
    fn received(active: ActiveRequest, mut reader: BodyReader<Stream>) -> Self {
        active.release(reader.take_connection());
        Self::Received(reader)
    }
}

type PolledData = Poll<Option<Result<Bytes, Error>>>;

/// Polls a body that is still being received.
///
/// Returns `None` if the request limit has closed it. The second value is the reader, once nothing more is read from the
/// socket.
fn poll_receiving(
    active: &ActiveRequest,
    cx: &mut Context<'_>,
) -> Option<(PolledData, Option<BodyReader<Stream>>)> {
    let request = active.request();
    let mut response = request.response();
    let reader = response.as_mut()?;
    let polled = reader.poll_data(cx);
    match &polled {
        Poll::Pending => request.client_wait().end(),
        Poll::Ready(Some(Ok(data))) => {
            request.client_wait().record_transfer(data.len() as u64);
            request.client_wait().begin();
        }
        Poll::Ready(_) => {}
    }
    let received = if reader.is_received() {
        response.take()
    } else {
        None
    };
    Some((polled, received))
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let state = &mut self.get_mut().state;
        let polled = match state {
            State::Displaced | State::Switched(..) => return Poll::Ready(None),
            State::Received(reader) => reader.poll_data(cx),
            State::Receiving(active) => match poll_receiving(active, cx) {
                Some((polled, None)) => polled,
                Some((polled, Some(reader))) => {
                    if let State::Receiving(active) = mem::replace(state, State::Displaced) {
                        *state = State::received(active, reader);
                    }
                    polled
                }
                None => {
                    *state = State::Displaced;
                    return Poll::Ready(Some(Err(body::Error::Displaced)));
                }
            },
        };
        polled.map(|frame| {
            frame.map(|data| match data {
                Ok(data) => Ok(Frame::data(data)),
                Err(Error::Silent(time)) => Err(body::Error::Silent(time)),
                Err(error) => Err(body::Error::Upstream(Box::new(error))),
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Receiving(_) | State::Displaced => false,
            State::Switched(..) => true,
            State::Received(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Receiving(active) => {
                let response = active.request().response();
                response
                    .as_ref()
                    .map_or_else(SizeHint::new, BodyReader::size_hint)
            }
            State::Received(reader) => reader.size_hint(),
            State::Displaced => SizeHint::new(),
            State::Switched(..) => SizeHint::with_exact(0),
        }
    }
}
