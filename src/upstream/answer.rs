//! An answer's body, and what becomes of its connection.
//!
//! Made by `node`, polled by whoever sends it to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, response};
use http_body::{Frame, SizeHint};

use super::Error;
use super::http1::Incoming;
use super::node::Slot;
use super::stream::Stream;
use crate::body;

/// The body of an answer. Dropped before its end, it closes the connection at once.
pub struct Answer {
    incoming: Incoming<Stream>,
    /// Given back as soon as the last byte was read from the socket.
    slot: Slot,
    worker: usize,
}

impl Answer {
    pub(super) fn new(
        head: response::Parts,
        incoming: Incoming<Stream>,
        slot: Slot,
        worker: usize,
    ) -> Response<Self> {
        let mut answer = Self {
            incoming,
            slot,
            worker,
        };
        answer.settle();
        Response::from_parts(head, answer)
    }

    /// Lets go of the connection the moment nothing more will be read from it: hyper does not poll
    /// past the last byte of a body whose length it knows, and the caller may hold on to the rest.
    fn settle(&mut self) {
        if !self.is_settled() && self.incoming.is_read() {
            let connection = self.incoming.reclaim();
            self.slot.release(self.worker, connection);
        }
    }

    /// True once its slot was given back.
    pub(super) fn is_settled(&self) -> bool {
        !self.slot.is_held()
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
