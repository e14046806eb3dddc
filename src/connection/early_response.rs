//! Early responses on HTTP/2: the proxy has responded while the client is still sending its request.
//!
//! `hyper` drops the stream with the last byte of such a response, and `h2` then resets it with NO_ERROR (RFC 9113 section 8.1).
//! A client that is busy sending receives the response and the reset together, and some clients report the reset alone: curl
//! 7.88 prints no status and exits with 92. So `h2_executor` keeps the stream for [`READ_GRACE`] after the response, during
//! which the client can read the response and end or reset its stream itself.
//!
//! A stream that is kept costs no memory for what the client sends: the request body is dropped, so that `h2` discards DATA on
//! arrival, returns the bytes to the window of the connection, and grants none to the stream. `h2` still checks the declared
//! length. The client therefore stops when the window that it had is used up.
//!
//! The number of kept streams is bounded: one connection may have half of `limits.h2_streams`, and all connections together
//! [`MAX_KEPT_STREAMS`]. Of these, the clients of one network group (an IPv4 address, or an IPv6 /48) may have a quarter of what
//! is free. A stream beyond the bound is reset immediately.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::shutdown::ShutdownSignal;
use super::state::ConnectionState;
use crate::net::addr::ClientNetwork;
use crate::net::fair_share::{FairLimit, FairPermit, ShareRule};

/// The limit on the streams of all connections that are kept after an early response. Clones share it.
#[derive(Clone, Debug)]
pub struct EarlyResponses(FairLimit);

impl Default for EarlyResponses {
    fn default() -> Self {
        Self(FairLimit::new(
            MAX_KEPT_STREAMS,
            ShareRule::GroupPartOfFree(4),
        ))
    }
}

/// The streams of one connection that are kept after an early response.
#[derive(Debug)]
pub(crate) struct EarlyStreams {
    all: EarlyResponses,
    network: ClientNetwork,
    kept: Cell<usize>,
    max_kept: usize,
    state: Rc<ConnectionState>,
    shutdown: ShutdownSignal,
}

impl EarlyStreams {
    /// Creates the account of a connection that may have `max_streams` concurrent streams, of a client of `network`.
    pub(crate) fn new(
        all: &EarlyResponses,
        network: ClientNetwork,
        max_streams: u32,
        state: &Rc<ConnectionState>,
        shutdown: ShutdownSignal,
    ) -> Self {
        let max_streams = usize::try_from(max_streams).unwrap_or(usize::MAX);
        Self {
            all: all.clone(),
            network,
            kept: Cell::new(0),
            max_kept: (max_streams / 2).max(1),
            state: Rc::clone(state),
            shutdown,
        }
    }

    /// Returns when a stream whose response is complete may be dropped: after the grace period, or as soon as the client has
    /// ended the requests of all its streams, or when the graceful shutdown has lasted for its own grace period.
    pub(crate) async fn keep_stream(&self) {
        let requests_ended = self.state.requests_ended();
        if !self.state.has_open_requests() {
            return;
        }
        let Some(_kept) = self.try_acquire() else {
            return;
        };
        tokio::select! {
            () = requests_ended => {}
            () = tokio::time::sleep(READ_GRACE) => {}
            () = self.shutdown.clone().grace_elapsed() => {}
        }
    }

    fn try_acquire(&self) -> Option<KeptStream<'_>> {
        let kept = self.kept.get();
        if kept >= self.max_kept {
            return None;
        }
        let permit = self.all.0.try_acquire(self.network)?;
        self.kept.set(kept + 1);
        Some(KeptStream {
            connection: self,
            _permit: permit,
        })
    }
}

/// One kept stream. It is counted until this value is dropped.
struct KeptStream<'a> {
    connection: &'a EarlyStreams,
    _permit: FairPermit,
}

impl Drop for KeptStream<'_> {
    fn drop(&mut self) {
        let kept = &self.connection.kept;
        kept.set(kept.get().saturating_sub(1));
    }
}

/// How long a client has to read the response: as long as in the lingering close of HTTP/1, and as nginx's
/// `lingering_timeout`.
const READ_GRACE: Duration = Duration::from_secs(5);
/// A kept stream costs 4 to 5 KiB, so all of them cost at most 5 MiB.
const MAX_KEPT_STREAMS: usize = 1024;
