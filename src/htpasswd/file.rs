//! The file on disk: read whole, with a stamp that tells whether it has changed since.
//!
//! `load` and `live` read here. Symbolic links are followed, so that another target is another stamp. Nothing here
//! decides when to read.

use std::fs::{self, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::{LoadError, Loaded, MAX_FILE, Problem, ProblemKind, parse};

/// What the system notes of a file, and changes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    number: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Cannot be set back, as the other time can.
    changed: (i64, i64),
}

/// A file as read.
pub(super) struct Content {
    pub(super) loaded: Loaded,
    /// None when the file changed meanwhile.
    pub(super) stamp: Option<Stamp>,
}

impl Content {
    /// This content, if it is what stands under that stamp.
    pub(super) fn if_still(self, stamp: Stamp) -> Option<Self> {
        (self.stamp == Some(stamp)).then_some(self)
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The stamp of what the path leads to.
pub(super) fn look(path: &Path) -> Result<Stamp, LoadError> {
    let metadata = fs::metadata(path).map_err(|source| failed(path, source))?;
    stamp(&metadata, path)
}

/// Reads and parses.
pub(super) fn read(path: &Path) -> Result<Content, LoadError> {
    let failed = |source| failed(path, source);
    // Asked before opening as well: to open a device may set it going.
    look(path)?;
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
