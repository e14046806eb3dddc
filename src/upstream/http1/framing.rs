//! Where the body of an answer ends.
//!
//! Made by `head`, used by `incoming`. It looks at bytes only; what the end of the stream means is
//! asked of it too.

use super::Error;
use super::chunked::Chunked;

/// RFC 9112 6.3.
pub(super) enum Framing {
    /// So many bytes are still to come; 0 for answers without a body.
    Length(u64),
    /// Until the last chunk.
    Chunked(Chunked),
    /// Until the upstream closes the connection.
    Close,
}

/// What was made of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Bytes of the body, now at the front.
    pub(super) payload: usize,
    /// Bytes that belong to this answer. Fewer than were given: its end was found.
    pub(super) consumed: usize,
}

impl Framing {
    /// Takes the framing out of `bytes`, in place.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Error> {
        let all = bytes.len();
        let payload = match self {
            Self::Chunked(chunked) => return chunked.decode(bytes),
            Self::Close => all,
            Self::Length(due) => take(due, all),
        };
        Ok(Decoded {
            payload,
            consumed: payload,
        })
    }

    /// True when nothing more belongs to the answer.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(due) => *due == 0,
            Self::Chunked(chunked) => chunked.is_done(),
            Self::Close => false,
        }
    }

    /// Bytes of the body still to come, where that is known.
    pub(super) fn due(&self) -> Option<u64> {
        match self {
            Self::Length(due) => Some(*due),
            Self::Chunked(chunked) => chunked.is_done().then_some(0),
            Self::Close => None,
        }
    }
}

/// Takes up to `have` from `due`; says how many.
pub(super) fn take(due: &mut u64, have: usize) -> usize {
    let taken = usize::try_from(*due).map_or(have, |due| due.min(have));
    *due = due.saturating_sub(taken as u64);
    taken
}
