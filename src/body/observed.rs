//! A body that reports its bytes and its end to an observer, for the access log and the metrics.
//!
//! `service` wraps the bodies of requests and responses in it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::{Body, Error};

/// How a body ended.
#[derive(Debug)]
pub enum BodyEnd<'a> {
    /// Every byte was passed on.
    Whole,
    /// The source of the body failed.
    Broken(&'a Error),
    /// The reader dropped the body before its end.
    Dropped,
}

/// Receives the progress and the end of a body.
pub trait Observer: Send {
    /// Called after `bytes` more bytes were passed on.
    fn on_data(&mut self, bytes: usize);
    /// Called once, when the body ended after `bytes` bytes.
    fn on_end(self: Box<Self>, bytes: u64, end: BodyEnd<'_>);
}

pub(super) struct ObservedBody {
    body: Body,
    bytes: u64,
    observer: Option<Box<dyn Observer>>,
}

impl ObservedBody {
    pub(super) fn new(body: Body, observer: Box<dyn Observer>) -> Self {
        Self {
            body,
            bytes: 0,
            observer: Some(observer),
        }
    }

    fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(observer) = &mut self.observer {
            observer.on_data(bytes);
        }
    }

    fn tell(&mut self, end: BodyEnd<'_>) {
        if let Some(observer) = self.observer.take() {
            observer.on_end(self.bytes, end);
        }
    }
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.tell(BodyEnd::Whole),
            Some(Err(error)) => self.tell(BodyEnd::Broken(error)),
            Some(Ok(frame)) => self.moved(frame.data_ref().map_or(0, Bytes::len)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ObservedBody {
    /// hyper drops a body of known length after its last byte, without polling for the `None` after it.
    fn drop(&mut self) {
        let end = if self.body.is_end_stream() {
            BodyEnd::Whole
        } else {
            BodyEnd::Dropped
        };
        self.tell(end);
    }
}
