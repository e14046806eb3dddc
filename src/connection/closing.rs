//! The end of an HTTP/1 connection, such that the client gets the last answer.
//!
//! Called by `serve` when hyper has let go of the stream.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::drive::CloseReason;
use super::watch::{ConnectionState, TimeoutKind};
use super::{ShutdownSignal, linger};

/// Says what there is to say, and closes.
pub(super) async fn close<IO>(
    mut stream: IO,
    end: CloseReason,
    watch: &ConnectionState,
    drain: ShutdownSignal,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if let CloseReason::Late(TimeoutKind::Head) = end {
        // Nobody else writes here any more: the head never became a request.
        let _ = timeout(CLOSE, stream.write_all(TOO_SLOW.as_bytes())).await;
    }
    // No goodbye after a cut body: to a client of HTTP/1.0 it would make the body look whole.
    let is_cut = matches!(&end, CloseReason::Broken(error) if error.is_user());
    if is_cut || matches!(end, CloseReason::Late(TimeoutKind::Write)) {
        return;
    }
    let closed = timeout(CLOSE, stream.shutdown()).await;
    let is_refused = match &end {
        CloseReason::Done => watch.has_unread_body(),
        CloseReason::Broken(error) => error.is_parse(),
        CloseReason::Late(late) => *late == TimeoutKind::Head,
        CloseReason::Abused => false,
    };
    if matches!(closed, Ok(Ok(()))) && is_refused {
        tokio::select! {
            () = linger::discard(&mut stream) => {}
            () = drain.elapsed_since_start(GRACE) => {}
        }
    }
}

/// How long what is no request may still hold a gate that drains.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// How long the last bytes of a connection may take.
pub(super) const CLOSE: Duration = Duration::from_secs(2);
const TOO_SLOW: &str =
    "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
