//! Where the access log goes: the open log of the old snapshot, where the destination is the same, else a new one.
//!
//! Part of the building of a snapshot.

use super::paths::unwritable;
use super::{BuildMode, SnapshotBuilder};
use crate::config::problem::{Problem, Problems};
use crate::log::{Destination, LogWriter, lost_lines};

impl SnapshotBuilder<'_> {
    /// `None` also when the log is off, or nothing is to be written.
    pub(super) fn access(&self, problems: &mut Problems) -> Option<(Destination, LogWriter)> {
        let wanted = self
            .config
            .log
            .access
            .clone()
            .filter(|_| self.purpose == BuildMode::Serve)?;
        if let Some((destination, sink)) = self.old.and_then(|old| old.access.as_ref())
            && *destination == wanted
        {
            return Some((wanted, sink.clone()));
        }
        let lost_line = if self.config.log.json {
            |lost| lost_lines(true, lost)
        } else {
            |lost| lost_lines(false, lost)
        };
        match LogWriter::open(wanted.clone(), lost_line) {
            Ok(sink) => Some((wanted, sink)),
            Err(error) => {
                problems.push(match &wanted {
                    Destination::File(path) => unwritable(
                        "log.access_file",
                        path,
                        &error,
                        self.config.places.access_file,
                    ),
                    Destination::Stdout => {
                        Problem::error(None, format!("cannot write to standard output: {error}"))
                            .fix("name a file in log.access_file")
                    }
                });
                None
            }
        }
    }
}
