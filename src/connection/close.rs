//! Closes a connection such that the client can read the last response.
//!
//! Closing a socket with unread bytes makes the kernel send RST, and the client then discards the response that it has not read
//! yet (RFC 9112 section 9.6). After a response that was sent before its request was complete, the proxy therefore closes the
//! write side first, and then reads and discards for a while what the client still sends: the lingering close. An HTTP/2 client
//! sends WINDOW_UPDATE frames while it reads, so the close of an HTTP/2 connection always lingers.
//!
//! `serve` calls [`close`] when hyper is done with an HTTP/1 stream. It calls [`linger`] for HTTP/2, where h2 has closed the write
//! side, and so does `http_on_https_port`.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout};

use super::driver::CloseReason;
use super::shutdown::ShutdownSignal;
use super::state::{ConnectionState, TimeoutKind};

/// Closes the connection: sends 408 after an incomplete header section, then close_notify and FIN, and lingers if the client
/// may still be sending.
pub(crate) async fn close<IO>(
    mut stream: IO,
    reason: CloseReason,
    state: &ConnectionState,
    shutdown: ShutdownSignal,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if let CloseReason::TimedOut(TimeoutKind::Head) = reason {
        // hyper did not see a request, and so it sends no response.
        let _ = timeout(
            CLOSE_TIMEOUT,
            stream.write_all(REQUEST_TIMEOUT_RESPONSE.as_bytes()),
        )
        .await;
    }
    // Do not send close_notify after a truncated response body: an HTTP/1.0 client would take the clean close for the end of
    // the body.
    let is_truncated = matches!(&reason, CloseReason::Broken(error) if error.is_user());
    if is_truncated || matches!(reason, CloseReason::TimedOut(TimeoutKind::Write)) {
        return;
    }
    state.set_end_marked_by_close(false);
    let closed = timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
    let may_be_sending = match &reason {
        CloseReason::Done => state.has_unread_body(),
        CloseReason::Broken(error) => error.is_parse(),
        CloseReason::TimedOut(kind) => *kind == TimeoutKind::Head,
        CloseReason::Abuse => false,
    };
    if matches!(closed, Ok(Ok(()))) && may_be_sending {
        tokio::select! {
            () = linger(&mut stream) => {}
            () = shutdown.grace_elapsed() => {}
        }
    }
}

/// Reads and discards until the client closes, sends nothing for [`LINGER_SILENCE`], or [`LINGER_TOTAL`] has elapsed.
pub(crate) async fn linger(stream: &mut (impl AsyncRead + Unpin)) {
    let until = Instant::now() + LINGER_TOTAL;
    let mut bytes_left = MAX_LINGER_BYTES;
    while bytes_left > 0 && Instant::now() < until {
        match timeout(LINGER_SILENCE, read_once(stream)).await {
            Ok(Some(read)) if read > 0 => bytes_left = bytes_left.saturating_sub(read as u64),
            _ => return,
        }
    }
}

/// Reads once and returns the number of bytes; `None` on an error.
///
/// The buffer exists only during a poll, so that a connection that waits has none.
async fn read_once(stream: &mut (impl AsyncRead + Unpin)) -> Option<usize> {
    poll_fn(|cx| {
        let mut space = [0_u8; 16 * 1024];
        let mut buffer = ReadBuf::new(&mut space);
        Pin::new(&mut *stream)
            .poll_read(cx, &mut buffer)
            .map(|result| result.ok().map(|()| buffer.filled().len()))
    })
    .await
}

/// How long the last bytes of a connection may take: a 408 response, close_notify, or GOAWAY.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The same as nginx's `lingering_timeout`.
const LINGER_SILENCE: Duration = Duration::from_secs(5);
/// The same as nginx's `lingering_time`.
const LINGER_TOTAL: Duration = Duration::from_secs(30);
/// More than 1 Gbit/s transfers in [`LINGER_TOTAL`], so that the time ends the close of a slower client first. This limit bounds
/// the cost of a faster one.
const MAX_LINGER_BYTES: u64 = 4 << 30;
const REQUEST_TIMEOUT_RESPONSE: &str =
    "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
