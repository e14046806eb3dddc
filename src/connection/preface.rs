//! Decides by the first bytes of a connection without TLS whether the peer uses HTTP/2 with prior knowledge.
//!
//! `connection` calls [`read`] on connections to `listen.behind_proxy`. Over TLS, ALPN decides instead.

use std::future::poll_fn;
use std::io;
use std::task::ready;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::time::timeout;

use crate::buffer_pool::Buffer;

/// Reads until the bytes differ from the preface of HTTP/2 or contain it. Returns whether they contain it, and the bytes.
///
/// `idle` bounds the wait for the first byte, because proxies open connections ahead of requests; `head` bounds the rest.
///
/// # Errors
/// The peer closes the connection before that, or a wait takes too long.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    idle: Duration,
    head: Duration,
) -> io::Result<(bool, Buffer)> {
    // While nothing arrives, the connection keeps no buffer.
    let first = poll_fn(|cx| {
        let mut buffer = Buffer::small();
        let count = ready!(buffer.poll_read(stream, cx))?;
        buffer.grow(count);
        std::task::Poll::Ready(io::Result::Ok(buffer))
    });
    let mut buffer = timeout(idle, first).await??;
    if buffer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let is_http2 = timeout(head, async {
        loop {
            if let Some(is_http2) = starts_with_preface(buffer.filled()) {
                return Ok(is_http2);
            }
            let count = poll_fn(|cx| buffer.poll_read(stream, cx)).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            buffer.grow(count);
        }
    });
    let is_http2 = is_http2.await??;
    Ok((is_http2, buffer))
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
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const WAIT: Duration = Duration::from_secs(15);

    /// What is decided after `pieces` have arrived one by one, and the bytes that were read until then.
    async fn decide(pieces: &[&[u8]]) -> io::Result<(bool, Vec<u8>)> {
        let (mut near, mut far) = tokio::io::duplex(1);
        let send = async {
            for piece in pieces {
                near.write_all(piece).await.unwrap();
            }
            drop(near);
        };
        let (read, ()) = tokio::join!(read(&mut far, WAIT, WAIT), async {
            let _ = timeout(WAIT, send).await;
        });
        read.map(|(is_http2, buffer)| (is_http2, buffer.filled().to_vec()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_decide_and_none_is_lost() {
        assert_eq!(decide(&[PREFACE]).await.unwrap(), (true, PREFACE.to_vec()));
        for (bytes, read) in [
            (&b"GET / HTTP/1.1\r\n"[..], &b"G"[..]),
            (b"PUT /", b"PU"),
            (b"PRI * HTTP/1.1\r\n", b"PRI * HTTP/1"),
            (b"\x16\x03\x01", b"\x16"),
        ] {
            let (mut near, mut far) = tokio::io::duplex(1);
            let write = async move {
                let _ = near.write_all(bytes).await;
                near
            };
            let (decided, _near) = tokio::join!(super::read(&mut far, WAIT, WAIT), async {
                timeout(WAIT, write).await
            });
            let (is_http2, buffer) = decided.unwrap();
            assert_eq!((is_http2, buffer.filled()), (false, read));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_or_a_silence_before_the_decision_is_an_error() {
        for pieces in [&[][..], &[&b"PRI"[..]]] {
            let error = decide(pieces).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let (_near, mut far) = tokio::io::duplex(1);
        let error = read(&mut far, WAIT, WAIT).await.err();
        assert_eq!(
            error.map(|error| error.kind()),
            Some(io::ErrorKind::TimedOut)
        );
    }
}
