//! The codec over a scripted stream: no sockets, every split and every cut.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, response};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BodyReader, ClientWait, Connection, Error, Failure};
use crate::body::{self, Body};

mod answers;
mod malformed;
mod random;
mod requests;

fn wait() -> ClientWait {
    ClientWait::new(tokio::time::Instant::now())
}

/// What the upstream does after its last byte.
#[derive(Clone, Copy, PartialEq)]
enum After {
    End,
    Reset,
    Silence,
}

/// A stream that reads from a script, one piece a read, and records what is written.
struct Wire {
    pieces: VecDeque<Vec<u8>>,
    after: After,
    written: Arc<Mutex<Vec<u8>>>,
    /// Slices of each write.
    writes: Arc<Mutex<Vec<usize>>>,
}

impl Wire {
    fn new(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>, after: After) -> Self {
        Self {
            pieces: pieces.into_iter().map(|it| it.as_ref().to_vec()).collect(),
            after,
            written: Arc::default(),
            writes: Arc::default(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(piece) = self.pieces.front_mut() {
            let count = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..count]);
            piece.drain(..count);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        match self.after {
            After::End => Poll::Ready(Ok(())),
            After::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            After::Silence => Poll::Pending,
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.lock().unwrap().push(slices.len());
        let mut written = self.written.lock().unwrap();
        slices.iter().for_each(|it| written.extend_from_slice(it));
        Poll::Ready(Ok(slices.iter().map(|it| it.len()).sum()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client's body from a list of frames, with any size hint.
struct Frames {
    frames: VecDeque<Result<Bytes, body::Error>>,
    length: Option<u64>,
}

impl Frames {
    fn body(frames: &[&[u8]], length: Option<u64>) -> Body {
        let frames = frames
            .iter()
            .map(|it| Ok(Bytes::copy_from_slice(it)))
            .collect();
        Body::stream(Self { frames, length })
    }

    /// Two bytes, then the client is gone.
    fn broken(length: Option<u64>) -> Body {
        let frames = [
            Ok(Bytes::from_static(b"ab")),
            Err(body::Error::TooLarge { limit: 2 }),
        ];
        Body::stream(Self {
            frames: frames.into(),
            length,
        })
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        Poll::Ready(self.frames.pop_front().map(|it| it.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

type Begun = Result<(response::Parts, BodyReader<Wire>), Failure>;

/// Only an upstream that is meant to be silent is ever waited for.
const SILENCE: Duration = Duration::from_millis(20);

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

async fn exchange(wire: Wire, method: Method, body: Body) -> Begun {
    let request = Request::builder().method(method).uri("/v2/").body(body);
    let (parts, body) = request.unwrap().into_parts();
    let connection = Connection::new(wire, SILENCE, 64 * 1024);
    connection.exchange(&parts, body, &wait()).await
}

async fn collect(incoming: &mut BodyReader<Wire>) -> (Vec<u8>, Option<Error>) {
    let mut all = Vec::new();
    loop {
        match std::future::poll_fn(|cx| incoming.poll_data(cx)).await {
            None => return (all, None),
            Some(Err(error)) => return (all, Some(error)),
            Some(Ok(data)) => {
                assert!(!data.is_empty(), "an empty frame");
                all.extend_from_slice(&data);
            }
        }
    }
}

/// What a client of the codec learns of one answer.
struct Seen {
    parts: response::Parts,
    body: Vec<u8>,
    error: Option<Error>,
    is_pooled: bool,
}

fn get(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>, after: After) -> Result<Seen, Error> {
    answer_to(Method::GET, Wire::new(pieces, after))
}

fn answer_to(method: Method, wire: Wire) -> Result<Seen, Error> {
    run(async {
        let (parts, mut incoming) = exchange(wire, method, Body::empty())
            .await
            .map_err(|failure| failure.error)?;
        let (body, error) = collect(&mut incoming).await;
        assert!(incoming.is_read());
        assert_eq!(incoming.is_ended(), error.is_none());
        Ok(Seen {
            parts,
            body,
            error,
            is_pooled: incoming.reclaim().is_some(),
        })
    })
}
