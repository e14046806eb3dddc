//! An answer's body, and what becomes of its connection.
//!
//! Made by `node`, polled by whoever sends it to the client. Until its last byte was read from the socket, the body lies
//! where the request limit can close it: between two polls it only waits for its own client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, response};
use http_body::{Frame, SizeHint};

use super::Error;
use super::http1::BodyReader;
use super::node::ActiveRequest;
use super::stream::Stream;
use crate::body;

/// The body of an answer. Dropped before its end, it closes the connection at once.
pub struct ResponseBody {
    source: Source,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a box would cost each response an allocation, and a response body is never moved in bulk"
)]
enum Source {
    /// More is to be read from the socket. The body is in the slot's request.
    Open(ActiveRequest),
    /// Nothing more is read from the socket, and the slot was given back.
    Read(BodyReader<Stream>),
    /// The request limit has closed the connection, and the body has said so.
    Displaced,
}

impl ResponseBody {
    pub(super) fn new(
        head: response::Parts,
        incoming: BodyReader<Stream>,
        slot: ActiveRequest,
    ) -> Response<Self> {
        let source = if incoming.is_read() {
            Source::settle(slot, incoming)
        } else {
            slot.request().client_wait().begin();
            slot.request().keep_response(incoming);
            Source::Open(slot)
        };
        Response::from_parts(head, Self { source })
    }

    /// True once its slot was given back.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.source, Source::Read(_))
    }
}

impl Source {
    /// Lets go of the connection the moment nothing more will be read from it: hyper does not poll
    /// past the last byte of a body whose length it knows, and the caller may hold on to the rest.
    fn settle(slot: ActiveRequest, mut incoming: BodyReader<Stream>) -> Self {
        slot.release(incoming.reclaim());
        Self::Read(incoming)
    }
}

/// Polls a body that is still being read. `None` when the request limit has closed it. The second value is the body once
/// nothing more is read from the socket.
fn poll_open(
    slot: &ActiveRequest,
    cx: &mut Context<'_>,
) -> Option<(Poll<Polled>, Option<BodyReader<Stream>>)> {
    let request = slot.request();
    let mut response = request.response();
    let incoming = response.as_mut()?;
    let polled = incoming.poll_data(cx);
    match &polled {
        Poll::Pending => request.client_wait().end(),
        Poll::Ready(Some(Ok(data))) => {
            request.client_wait().moved(data.len() as u64);
            request.client_wait().begin();
        }
        Poll::Ready(_) => {}
    }
    let is_read = incoming.is_read();
    let read = if is_read { response.take() } else { None };
    Some((polled, read))
}

type Polled = Option<Result<Bytes, Error>>;

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let source = &mut self.get_mut().source;
        let polled = match source {
            Source::Displaced => return Poll::Ready(None),
            Source::Read(incoming) => incoming.poll_data(cx),
            Source::Open(slot) => match poll_open(slot, cx) {
                Some((polled, None)) => polled,
                Some((polled, Some(incoming))) => {
                    let before = std::mem::replace(source, Source::Displaced);
                    if let Source::Open(slot) = before {
                        *source = Source::settle(slot, incoming);
                    }
                    polled
                }
                None => {
                    *source = Source::Displaced;
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
        match &self.source {
            // What is still being read has not ended.
            Source::Open(_) | Source::Displaced => false,
            Source::Read(incoming) => incoming.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Open(slot) => {
                let response = slot.request().response();
                response
                    .as_ref()
                    .map_or_else(SizeHint::new, BodyReader::size_hint)
            }
            Source::Read(incoming) => incoming.size_hint(),
            Source::Displaced => SizeHint::new(),
        }
    }
}
