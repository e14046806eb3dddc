//! The file on disk: read whole, with a stamp that tells whether it has changed since.
//!
//! `load` and `live` read here. Nothing here decides when to read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{LoadError, LoadedUsers, MAX_FILE, Problem, ProblemKind, parse};
use crate::bounded_file::{ReadError, RegularFile};
use crate::file_watch::{FileStamp, Seen};

/// A file as read.
pub(super) struct Content {
    pub(super) loaded: LoadedUsers,
    /// None when the file changed meanwhile.
    pub(super) stamp: Option<FileStamp>,
}

impl Content {
    /// Whether this is what a look saw.
    pub(super) fn is(&self, seen: Seen) -> bool {
        self.stamp.is_some_and(|stamp| seen == Ok(stamp))
    }
}

/// Reads and parses.
pub(super) fn read(path: &Path) -> Result<Content, LoadError> {
    let failed = |error| failed(path, error);
    let file = RegularFile::open(path).map_err(failed)?;
    let before = FileStamp::from(file.metadata());
    let bytes = file.read(MAX_FILE).map_err(failed)?;
    let metadata = file
        .file()
        .metadata()
        .map_err(|error| failed(error.into()))?;
    let after = FileStamp::from(&metadata);
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

fn failed(path: &Path, error: ReadError) -> LoadError {
    let path = path.into();
    match error {
        ReadError::NotRegular => LoadError::NotAFile { path },
        ReadError::TooLarge { .. } => LoadError::TooLarge { path },
        ReadError::Io(source) => LoadError::Read { path, source },
    }
}
