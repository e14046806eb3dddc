//! Decides by the first bytes of a connection without TLS whether the peer uses HTTP/2 with prior knowledge.
//!
//! `connection` calls [`read`] on connections to `listen.behind_proxy`. Over TLS, ALPN decides instead.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::time::{Instant, timeout_at};

use super::state::TimeoutKind;
use crate::buffer_pool::Buffer;

/// The HTTP version that the first bytes of a connection announce, and these bytes.
pub(crate) struct Preface {
    pub(crate) is_http2: bool,
    /// Every byte that was read; the preface of HTTP/2 is a part of it.
    pub(crate) read: Buffer,
}

/// The reason why the HTTP version is not known.
#[derive(Debug)]
pub(crate) enum Error {
    /// The peer closed the connection before its first byte.
    Closed,
    /// The connection failed, or the peer closed it within what may be the preface.
    Io(io::Error),
    /// A wait took too long: for the first byte (`Idle`), or for the rest of what may be the preface (`Head`).
    TimedOut(TimeoutKind),
}

/// Reads until the bytes differ from the preface of HTTP/2 or contain it.
///
/// `idle` bounds the wait for the first byte, because proxies open connections before they have a request; `head` bounds the
/// wait for the rest. While nothing arrives, the connection occupies no pooled buffer.
///
/// # Errors
/// The connection ends before the HTTP version is known, or a wait takes too long.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    idle: Duration,
    head: Duration,
) -> Result<Preface, Error> {
    let mut deadline = (Instant::now() + idle, TimeoutKind::Idle);
    // The beginning of the preface, if a part of it has arrived.
    let mut start = Vec::new();
    loop {
        let read = match timeout_at(deadline.0, read_after(&start, stream)).await {
            Ok(read) => read.map_err(Error::Io)?,
            Err(_elapsed) => return Err(Error::TimedOut(deadline.1)),
        };
        if read.is_empty() {
            return Err(Error::Closed);
        }
        if read.filled().len() == start.len() {
            return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(is_http2) = starts_with_preface(read.filled()) {
            return Ok(Preface { is_http2, read });
        }
        if start.is_empty() {
            deadline = (Instant::now() + head, TimeoutKind::Head);
        }
        start = read.filled().to_vec();
    }
}

/// Reads once, and returns a buffer with `start` and the bytes that arrived. At the end of the stream, it has no more than `start`.
async fn read_after<S: AsyncRead + Unpin>(start: &[u8], stream: &mut S) -> io::Result<Buffer> {
    poll_fn(|cx| {
        let mut buffer = Buffer::small();
        buffer.append(start);
        let count = ready!(buffer.poll_read(stream, cx))?;
        buffer.grow(count);
        Poll::Ready(Ok(buffer))
    })
    .await
}

/// Whether `bytes` begin with the preface; `None` if that depends on bytes that have not arrived.
fn starts_with_preface(bytes: &[u8]) -> Option<bool> {
    if bytes.starts_with(PREFACE) {
        Some(true)
    } else if PREFACE.starts_with(bytes) {
        None
    } else {
        Some(false)
    }
}

/// The first bytes of a client that uses HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream};

    use super::*;
    use crate::buffer_pool;

    const IDLE: Duration = Duration::from_secs(75);
    const HEAD: Duration = Duration::from_secs(15);

    /// The connection of a peer that has sent `bytes`. Each read returns one byte.
    async fn after_sending(bytes: &[u8]) -> (tokio::task::JoinHandle<DuplexStream>, DuplexStream) {
        let (mut peer, accepted) = tokio::io::duplex(1);
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            let _ = peer.write_all(&bytes).await;
            peer
        });
        (sending, accepted)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_decide_and_none_is_lost() {
        for (bytes, is_http2, read) in [
            (PREFACE, true, PREFACE),
            (b"GET / HTTP/1.1\r\n", false, b"G"),
            (b"PUT /", false, b"PU"),
            (b"PRI * HTTP/1.1\r\n", false, b"PRI * HTTP/1"),
            (b"\x16\x03\x01", false, b"\x16"),
        ] {
            let (_sending, mut accepted) = after_sending(bytes).await;
            let preface = super::read(&mut accepted, IDLE, HEAD).await.unwrap();
            assert_eq!((preface.is_http2, preface.read.filled()), (is_http2, read));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_before_the_version_is_known_is_an_error() {
        for sent in [&b""[..], b"PRI"] {
            let (sending, mut accepted) = after_sending(sent).await;
            let closed = tokio::spawn(async { drop(sending.await) });
            let error = read(&mut accepted, IDLE, HEAD).await.err().unwrap();
            assert_eq!(matches!(error, Error::Closed), sent.is_empty(), "{error:?}");
            assert_eq!(matches!(error, Error::Io(_)), !sent.is_empty(), "{error:?}");
            closed.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_times_out() {
        for (sent, kind, limit) in [
            (&b""[..], TimeoutKind::Idle, IDLE),
            (b"PRI", TimeoutKind::Head, HEAD),
        ] {
            let (_sending, mut accepted) = after_sending(sent).await;
            let began = Instant::now();
            let error = read(&mut accepted, IDLE, HEAD).await.err();
            assert!(
                matches!(error, Some(Error::TimedOut(found)) if found == kind),
                "{error:?}"
            );
            assert_eq!(began.elapsed(), limit);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_a_part_of_the_preface_occupies_no_pooled_buffer() {
        let (_sending, mut accepted) = after_sending(b"PRI").await;
        let mut reading = Box::pin(read(&mut accepted, IDLE, HEAD));
        let second = Duration::from_secs(1);
        assert!(tokio::time::timeout(second, &mut reading).await.is_err());
        let in_pool = buffer_pool::kept();
        drop(reading);
        assert_eq!(buffer_pool::kept(), in_pool, "the read had a buffer");
    }
}
