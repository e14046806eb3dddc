//! The lingering close: an answer that went out before the request had come is not lost.
//!
//! Closing a socket with unread bytes makes the kernel send a reset, and the peer then throws away the
//! answer it has not read yet (RFC 9112 section 9.6). So the write side is closed at once, and what the
//! peer still sends is read and discarded for a while.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, timeout};

/// Reads and discards until the peer closes, is silent for [`SILENCE`], or [`TOTAL`] is over.
pub(super) async fn discard(stream: &mut (impl AsyncRead + Unpin)) {
    let until = Instant::now() + TOTAL;
    let mut left = MOST;
    while left > 0 && Instant::now() < until {
        match timeout(SILENCE, read_once(stream)).await {
            Ok(Some(read)) if read > 0 => left = left.saturating_sub(read as u64),
            _ => return,
        }
    }
}

/// Bytes read at once; `None` on an error.
///
/// The buffer lives only during the read: a waiting connection holds none.
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

/// As nginx's `lingering_timeout`.
const SILENCE: Duration = Duration::from_secs(5);
/// As nginx's `lingering_time`.
const TOTAL: Duration = Duration::from_secs(30);
/// More than 30 s of a gigabit: the time ends a close long before, this bounds what it may cost.
const MOST: u64 = 4 << 30;
