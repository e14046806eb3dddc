//! The body of an answer, read from the socket when it is asked for.
//!
//! Made by the exchange, polled through `Answer`. A frame is all the socket has, up to 256 KiB, and the
//! buffer is borrowed only from the first of its bytes on. Nothing is read ahead of a slow client.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::SizeHint;
use tokio::io::{AsyncRead, AsyncWrite};

use super::framing::Framing;
use super::{Connection, Error};
use crate::buffer_pool::Buffer;

/// A body of which some may have come with the head.
pub(crate) struct BodyReader<S> {
    /// None once it was given back, or closed because it cannot be used again.
    connection: Option<Connection<S>>,
    framing: Framing,
    /// Body bytes that came with the head.
    ready: Bytes,
    /// What follows the frames handed out so far.
    then: AfterBody,
    is_reusable: bool,
    is_end_trusted: bool,
}

enum AfterBody {
    More,
    End,
    Failure(Error),
    /// The failure was told.
    Nothing,
}

impl<S: AsyncRead + AsyncWrite + Unpin> BodyReader<S> {
    /// Of a connection that may be used again if `is_reusable`. [`Self::begin`] must follow.
    pub(super) fn new(connection: Connection<S>, framing: Framing, is_reusable: bool) -> Self {
        Self {
            connection: Some(connection),
            framing,
            ready: Bytes::new(),
            then: AfterBody::More,
            is_reusable,
            is_end_trusted: true,
        }
    }

    /// The end of the stream does not prove the end of the body. After a reset the kernel hands out what
    /// it had received and then says end of stream, though more may have been lost on the way.
    pub(super) fn distrust_end(&mut self) {
        self.is_end_trusted = false;
    }

    /// Takes what came behind the head.
    pub(super) fn begin(&mut self, rest: Bytes) {
        match self.framing {
            Framing::Chunked(_) => {
                let mut bytes = rest.to_vec();
                let payload = self.accept(&mut bytes);
                bytes.truncate(payload);
                self.ready = Bytes::from(bytes);
            }
            Framing::Length(_) | Framing::Close => self.slice(rest),
        }
    }

    /// Without chunks the body is a part of the buffer as it is. No copy.
    fn slice(&mut self, mut rest: Bytes) {
        if let Framing::Length(due) = &mut self.framing {
            let body = super::framing::take(due, rest.len());
            self.is_reusable &= body == rest.len();
            rest.truncate(body);
        }
        self.ready = rest;
        self.settle();
    }

    /// The next bytes, never empty.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if !self.ready.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.ready))));
        }
        if matches!(self.then, AfterBody::More) {
            match self.fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(data) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                Poll::Ready(_) => {}
            }
        }
        match std::mem::replace(&mut self.then, AfterBody::Nothing) {
            AfterBody::Failure(error) => Poll::Ready(Some(Err(error))),
            AfterBody::End => {
                self.then = AfterBody::End;
                Poll::Ready(None)
            }
            AfterBody::More | AfterBody::Nothing => Poll::Ready(None),
        }
    }

    /// Reads until the socket has no more, the buffer is full, or the body is over; the frame is empty
    /// only when it is over.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let mut buffer = Buffer::large();
        while matches!(self.then, AfterBody::More) && !buffer.is_full() {
            let Some(connection) = &mut self.connection else {
                self.then = AfterBody::Nothing;
                break;
            };
            match buffer.poll_read(&mut connection.io, cx) {
                Poll::Pending if buffer.is_empty() => return self.wait(cx).map(|()| Bytes::new()),
                Poll::Pending => break,
                Poll::Ready(Err(error)) => self.fail(Error::Closed(error)),
                Poll::Ready(Ok(0)) => self.end_of_stream(),
                Poll::Ready(Ok(_)) => {
                    connection.deadline.stop();
                    let payload = self.accept(buffer.fresh());
                    buffer.grow(payload);
                }
            }
        }
        Poll::Ready(frame(buffer))
    }

    /// Ready only when the upstream has been silent for too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection {
            ready!(connection.deadline.poll(cx));
            let error = connection.deadline.error();
            self.fail(error);
        }
        Poll::Ready(())
    }

    /// Decodes `fresh` in place and notes what follows from it; says how many bytes of body are in it.
    fn accept(&mut self, fresh: &mut [u8]) -> usize {
        match self.framing.decode(fresh) {
            Err(error) => {
                self.fail(error);
                0
            }
            Ok(decoded) => {
                // Bytes behind the answer belong to nobody: they must not answer the next request.
                self.is_reusable &= decoded.consumed == fresh.len();
                self.settle();
                decoded.payload
            }
        }
    }

    fn settle(&mut self) {
        if self.framing.is_done() {
            self.then = AfterBody::End;
            self.connection.take_if(|_| !self.is_reusable);
        }
    }

    fn end_of_stream(&mut self) {
        if matches!(self.framing, Framing::Close) && self.is_end_trusted {
            self.then = AfterBody::End;
            self.connection = None;
        } else {
            self.fail(Error::Closed(io::ErrorKind::UnexpectedEof.into()));
        }
    }

    fn fail(&mut self, error: Error) {
        self.then = AfterBody::Failure(error);
        self.connection = None;
    }

    /// The failure of a body that broke before anything of it was handed out: the head has not been
    /// passed on yet, so the client can be told.
    pub(super) fn check(self) -> Result<Self, Error> {
        match self.then {
            AfterBody::Failure(error) => Err(error),
            AfterBody::More | AfterBody::End | AfterBody::Nothing => Ok(self),
        }
    }

    /// True when nothing more is read from the socket, for whatever reason.
    pub(crate) fn is_read(&self) -> bool {
        !matches!(self.then, AfterBody::More)
    }

    /// The connection, once [`Self::is_read`], if another request can be sent over it.
    pub(crate) fn reclaim(&mut self) -> Option<Connection<S>> {
        match self.then {
            AfterBody::End => self.connection.take(),
            AfterBody::More | AfterBody::Failure(_) | AfterBody::Nothing => None,
        }
    }

    /// True after a clean end, once every byte was handed out.
    pub(crate) fn is_ended(&self) -> bool {
        self.ready.is_empty() && matches!(self.then, AfterBody::End)
    }

    /// Exact for a body with a length, and for any that came whole with its head.
    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        let ready = self.ready.len() as u64;
        match self.framing.due() {
            Some(due) => SizeHint::with_exact(ready.saturating_add(due)),
            None => {
                let mut hint = SizeHint::new();
                hint.set_lower(ready);
                hint
            }
        }
    }
}

/// A frame that leaves most of its buffer empty is copied: an upstream that sends a few bytes at a time
/// to a slow client would else tie up 256 KiB for each.
fn frame(buffer: Buffer) -> Bytes {
    if buffer.filled().len() < COPIED {
        Bytes::copy_from_slice(buffer.filled())
    } else {
        buffer.freeze()
    }
}

/// Frames below this size are copied.
const COPIED: usize = 16 * 1024;
