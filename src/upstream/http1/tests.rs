//! The codec over a scripted stream in place of a socket.

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

use super::{BodyReader, Connection, ExchangeError, exchange as http1_exchange};
use crate::body::{self, Body};
use crate::upstream::client_wait::ClientWait;
use crate::upstream::error::Error;

mod malformed;
mod random;
mod requests;
mod responses;

fn wait() -> ClientWait {
    ClientWait::new(tokio::time::Instant::now())
}

/// What the stream does after its last byte.
#[derive(Clone, Copy, PartialEq)]
enum After {
    End,
    Reset,
    Silence,
}

/// A stream that returns one scripted piece per read, and records what is written.
struct Wire {
    pieces: VecDeque<Vec<u8>>,
    after: After,
    written: Arc<Mutex<Vec<u8>>>,
    /// The number of slices of each vectored write.
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

/// A request body from a list of frames, with an optional size hint.
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

    /// Two bytes, then an error.
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

type ExchangeResult = Result<(response::Parts, BodyReader<Wire>), ExchangeError>;

/// The read timeout. Only tests of silent upstreams wait for it.
const READ_TIMEOUT: Duration = Duration::from_millis(20);

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

async fn exchange(wire: Wire, method: Method, body: Body) -> ExchangeResult {
    let request = Request::builder().method(method).uri("/v2/").body(body);
    let (parts, body) = request.unwrap().into_parts();
    let connection = Connection::new(wire, READ_TIMEOUT, 64 * 1024);
    http1_exchange(connection, &parts, body, &wait()).await
}

async fn collect(reader: &mut BodyReader<Wire>) -> (Vec<u8>, Option<Error>) {
    let mut all = Vec::new();
    loop {
        match std::future::poll_fn(|cx| reader.poll_data(cx)).await {
            None => return (all, None),
            Some(Err(error)) => return (all, Some(error)),
            Some(Ok(data)) => {
                assert!(!data.is_empty(), "an empty frame");
                all.extend_from_slice(&data);
            }
        }
    }
}

/// What the codec returns for one response.
struct Received {
    parts: response::Parts,
    body: Vec<u8>,
    error: Option<Error>,
    is_pooled: bool,
}

fn get(
    pieces: impl IntoIterator<Item = impl AsRef<[u8]>>,
    after: After,
) -> Result<Received, Error> {
    response_to(Method::GET, Wire::new(pieces, after))
}

fn response_to(method: Method, wire: Wire) -> Result<Received, Error> {
    run(async {
        let (parts, mut reader) = exchange(wire, method, Body::empty())
            .await
            .map_err(|failure| failure.error)?;
        let (body, error) = collect(&mut reader).await;
        assert!(reader.is_received());
        assert_eq!(reader.is_end_stream(), error.is_none());
        Ok(Received {
            parts,
            body,
            error,
            is_pooled: reader.take_connection().is_some(),
        })
    })
}
