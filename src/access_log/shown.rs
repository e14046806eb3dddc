//! What of a request is shown while it runs, and where its bytes count.
//!
//! Called by `service` once it is known what is asked for.

use std::sync::Arc;

use super::Record;
use crate::activity::{ActivityTracker, Transfer};
use crate::metrics::{ByteCounter, Operation};

impl Record {
    /// Something of a repository is about to move: it is on the board until it ends.
    pub fn show(&mut self, board: &Arc<ActivityTracker>) {
        let facts = &self.facts;
        if matches!(self.operation, Operation::Pull | Operation::Push) {
            let client = facts.client.to_string();
            let texts = [&*facts.user, &*client, self.site_name(), &*facts.repository];
            let group = facts.client.network().group();
            self.running = board.show(group, Transfer::new(self.operation, texts, self.began));
        }
    }

    /// Where its bytes count.
    pub fn flow(&self) -> ByteCounter {
        ByteCounter {
            site: Arc::clone(&self.counts),
            operation: self.operation,
            transfer: self
                .running
                .as_ref()
                .map(|running| Arc::clone(&running.transfer)),
        }
    }
}
