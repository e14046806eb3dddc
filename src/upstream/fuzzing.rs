//! What must hold whatever bytes an upstream sends, and however they are cut.
//!
//! Compiled for tests and for `cargo fuzz` only: the codec has no other entrance from outside of `upstream`.

#![allow(clippy::panic, reason = "a finding is told by a panic")]

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Method, Request, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::client_wait::ClientWait;
use super::http1::{Connection, exchange};
use crate::body::Body;

/// The request, and how the upstream's stream ends.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// HEAD in place of GET.
    pub is_head: bool,
    /// A body goes along.
    pub has_body: bool,
    /// A reset in place of an orderly end.
    pub ends_in_reset: bool,
}

/// What became of one answer.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// No answer, or one that broke off after these bytes.
    Broken(Vec<u8>),
    Whole {
        body: Vec<u8>,
        /// Another request would be sent over the connection.
        is_kept: bool,
    },
}

/// Reads `bytes` as an answer, in one piece, in pieces, and cut short.
///
/// # Panics
/// When something does not hold.
pub fn check(asked: Asked, bytes: &[u8], cuts: &[u8]) {
    let whole = read(asked, [bytes]);
    let pieces = split(bytes, cuts);
    let pieced = read(asked, pieces.iter().copied());
    check_outcome(asked, bytes, &whole);
    check_outcome(asked, bytes, &pieced);
    match (&whole, &pieced) {
        // With its head a body that breaks off is no answer at all; behind it, what came before was handed on.
        (Outcome::Broken(one), Outcome::Broken(other)) => {
            assert!(
                one.starts_with(other) || other.starts_with(one),
                "{whole:?} {pieced:?}"
            );
        }
        _ => assert_eq!(whole, pieced, "the split makes a difference"),
    }
    if let Outcome::Whole {
        body,
        is_kept: true,
    } = whole
    {
        for cut in [0]
            .into_iter()
            .chain(cuts.iter().map(|at| usize::from(*at)))
        {
            let cut = cut % bytes.len().max(1);
            check_cut(asked, bytes.get(..cut).unwrap_or_default(), &body);
            check_cut(
                asked,
                bytes.get(..bytes.len() - 1 - cut).unwrap_or_default(),
                &body,
            );
        }
    }
}

/// All of the bytes made one answer with a framing of its own, so a part of them makes none.
fn check_cut(asked: Asked, bytes: &[u8], body: &[u8]) {
    match read(asked, [bytes]) {
        Outcome::Broken(part) => assert!(body.starts_with(&part), "{part:?} of {body:?}"),
        clean @ Outcome::Whole { .. } => panic!("{clean:?} of a cut answer"),
    }
}

fn check_outcome(asked: Asked, bytes: &[u8], outcome: &Outcome) {
    let Outcome::Whole { body, is_kept } = outcome else {
        return;
    };
    assert!(body.len() < bytes.len());
    assert!(body.is_empty() || !asked.is_head);
    let head = final_head(bytes).to_ascii_lowercase();
    let named = |name: &[u8]| {
        head.split(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(name))
            .count()
    };
    let framings = named(b"content-length:") + named(b"transfer-encoding:");
    assert!(framings <= 1, "doubtful framing is refused");
    if *is_kept {
        assert!(head.starts_with(b"http/1.1 "), "kept: {outcome:?}");
    }
    let status = head.get(9..12).unwrap_or_default();
    let has_body = !asked.is_head && status != b"204" && status != b"304";
    if has_body && framings == 0 {
        assert!(
            !is_kept && !asked.ends_in_reset,
            "only the end of the stream ends it"
        );
    }
}

/// The head behind those of status 1xx, without its empty line.
fn final_head(mut bytes: &[u8]) -> &[u8] {
    while let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
        let (head, rest) = bytes.split_at(end);
        if head.get(9) != Some(&b'1') {
            return head;
        }
        bytes = rest.get(4..).unwrap_or_default();
    }
    bytes
}

/// Each cut is a number of bytes, as far as they last.
pub(crate) fn split<'a>(bytes: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, more) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
}

fn read<'a>(asked: Asked, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let end = if asked.ends_in_reset {
        End::Reset
    } else {
        End::Orderly
    };
    let wire = Wire::new(pieces.into_iter().map(<[u8]>::to_vec), end);
    let mut request = Request::new(());
    *request.method_mut() = if asked.is_head {
        Method::HEAD
    } else {
        Method::GET
    };
    let (parts, ()) = request.into_parts();
    let body = if asked.has_body {
        Body::full("abc")
    } else {
        Body::empty()
    };
    let connection = Connection::new(wire, Duration::from_secs(1), 64 * 1024);
    let wait = ClientWait::new(Instant::now());
    let Ok((head, mut incoming)) = now(exchange(connection, &parts, body, &wait)) else {
        return Outcome::Broken(Vec::new());
    };
    assert!(matches!(head.version, Version::HTTP_10 | Version::HTTP_11));
    let mut body = Vec::new();
    loop {
        match now(std::future::poll_fn(|cx| incoming.poll_data(cx))) {
            Some(Ok(data)) => {
                assert!(!data.is_empty() && !incoming.is_end_stream() || incoming.is_received());
                body.extend_from_slice(&data);
            }
            Some(Err(_)) => {
                assert!(!incoming.is_end_stream() && incoming.take_connection().is_none());
                return Outcome::Broken(body);
            }
            None => break,
        }
    }
    assert!(incoming.is_end_stream());
    // The pool looks whether there are bytes that nobody asked for.
    let is_kept = incoming
        .take_connection()
        .is_some_and(|it| it.io().pieces.is_empty());
    Outcome::Whole { body, is_kept }
}

/// The wire always has an answer.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(future).as_mut().poll(&mut cx) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("waits though there is nothing to wait for"),
    }
}

/// One piece a read, then the end; it takes whatever is written.
pub(crate) struct Wire {
    pieces: VecDeque<Vec<u8>>,
    end: End,
}

/// What comes behind the last piece.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Orderly,
    Reset,
    /// Silence without end.
    Never,
}

impl Wire {
    pub(crate) fn new(pieces: impl IntoIterator<Item = Vec<u8>>, end: End) -> Self {
        let pieces = pieces.into_iter().filter(|it| !it.is_empty());
        Self {
            pieces: pieces.collect(),
            end,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.pieces.pop_front() else {
            return match self.end {
                End::Orderly => Poll::Ready(Ok(())),
                End::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                End::Never => Poll::Pending,
            };
        };
        let rest = piece.split_off(piece.len().min(out.remaining()));
        out.put_slice(&piece);
        if !rest.is_empty() {
            self.pieces.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
