//! The part of an opened record that its reader had no room for.

use tokio::io::ReadBuf;

use crate::buffer_pool::Buffer;

/// Bytes that were opened and not taken. Of one record at most, so that the small buffer holds them.
#[derive(Default)]
pub(super) struct Plaintext {
    kept: Option<Buffer>,
    taken: usize,
}

impl Plaintext {
    /// Gives out what was kept; false when there is nothing.
    pub(super) fn give(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let Some(kept) = &self.kept else {
            return false;
        };
        let rest = kept.filled().get(self.taken..).unwrap_or_default();
        let (now, later) = rest.split_at(rest.len().min(out.remaining()));
        out.put_slice(now);
        self.taken += now.len();
        if later.is_empty() {
            self.kept = None;
            self.taken = 0;
        }
        true
    }

    /// True while something is kept.
    pub(super) fn is_some(&self) -> bool {
        self.kept.is_some()
    }

    /// Takes a record's bytes: to `out`, and what does not fit is kept. False when that is more than can be kept.
    #[must_use]
    pub(super) fn take(&mut self, record: &[u8], out: &mut ReadBuf<'_>) -> bool {
        let room = if self.kept.is_some() {
            0
        } else {
            record.len().min(out.remaining())
        };
        let (now, later) = record.split_at(room);
        out.put_slice(now);
        if later.is_empty() {
            return true;
        }
        let kept = self.kept.get_or_insert_with(Buffer::small);
        let has_room = later.len() <= kept.spare().len();
        kept.append(later);
        has_room
    }
}
