//! The file on disk: read whole, with a stamp that tells whether it has changed since.
//!
//! `load` and `live` read here. Nothing here decides when to read.

use std::fs::{self, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::{LoadError, Loaded, MAX_FILE, Problem, ProblemKind, parse};
use crate::live_file::{Seen, Stamp};

/// A file as read.
pub(super) struct Content {
    pub(super) loaded: Loaded,
    /// None when the file changed meanwhile.
    pub(super) stamp: Option<Stamp>,
}

impl Content {
    /// Whether this is what a look saw.
    pub(super) fn is(&self, seen: Seen) -> bool {
        self.stamp.is_some_and(|stamp| seen == Ok(stamp))
    }
}

/// Reads and parses.
pub(super) fn read(path: &Path) -> Result<Content, LoadError> {
    let failed = |source| failed(path, source);
    // Asked before opening as well: to open a device may set it going.
    stamp(&fs::metadata(path).map_err(failed)?, path)?;
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut file = OpenOptions::new()
        .read(true)
        // A pipe that has taken the file's place would be waited for.
        .custom_flags(nonblocking)
        .open(path)
        .map_err(failed)?;
    let before = stamp(&file.metadata().map_err(failed)?, path)?;
    let mut bytes = Vec::new();
    let mut limited = (&mut file).take(MAX_FILE + 1);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    if limited.limit() == 0 {
        return Err(LoadError::TooLarge { path: path.into() });
    }
    let metadata = file.metadata().map_err(failed)?;
    let after = Stamp::from(&metadata);
    let mut loaded = parse(&bytes);
    loaded.problems.splice(..0, exposed(&metadata));
    Ok(Content {
        loaded,
        stamp: (before == after).then_some(after),
    })
}

/// Whether those who are neither owner nor group may read or write it.
fn exposed(metadata: &Metadata) -> Option<Problem> {
    let mode = metadata.mode() & 0o7777;
    (mode & 0o006 != 0).then(|| Problem::new(0, None, ProblemKind::Exposed { mode }))
}

fn stamp(metadata: &Metadata, path: &Path) -> Result<Stamp, LoadError> {
    if !metadata.is_file() {
        return Err(LoadError::NotAFile { path: path.into() });
    }
    if metadata.len() > MAX_FILE {
        return Err(LoadError::TooLarge { path: path.into() });
    }
    Ok(Stamp::from(metadata))
}

fn failed(path: &Path, source: std::io::Error) -> LoadError {
    LoadError::Read {
        path: path.into(),
        source,
    }
}
