//! Files that another program may write at any time: detects changes, and whether a file is being written right now.
//!
//! A file is read only after two polls in a row have seen the same metadata, so that a file that is being written is not read
//! half-way. `htpasswd`, `tls` and `snapshot::grant_files` keep a [`ChangeDetector`] for each password file, certificate and
//! grant file, which `server::file_watcher` polls at intervals. `snapshot` waits with [`StableFiles`] before a reload reads
//! such files. This module logs nothing.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bounded_file::{ReadError, RegularFile};

/// The metadata that changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// The modification time in seconds and nanoseconds.
    modified: (i64, i64),
    /// The time of the last status change. Unlike the modification time, no program can set it back.
    changed: (i64, i64),
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The result of polling a path: the stamp of the file, or the kind of the error.
pub(crate) type Seen = Result<FileStamp, io::ErrorKind>;

/// Reads the metadata of a file. Symbolic links are followed, so another target gives another stamp.
pub(crate) fn poll(path: &Path) -> Seen {
    let metadata = fs::metadata(path).map_err(|error| error.kind())?;
    Ok(FileStamp::from(&metadata))
}

/// The content of a file.
#[derive(Debug)]
pub(crate) struct FileContent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) metadata: Metadata,
    /// `None` if the file changed while it was read.
    pub(crate) stamp: Option<FileStamp>,
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<FileContent, ReadError> {
    let file = RegularFile::open(path)?;
    let before = FileStamp::from(file.metadata());
    let bytes = file.read(limit)?;
    let metadata = file.file().metadata()?;
    let after = FileStamp::from(&metadata);
    Ok(FileContent {
        bytes,
        metadata,
        stamp: (before == after).then_some(after),
    })
}

/// Decides when a file, or several files that belong together, must be read again. `S` is the result of one poll.
#[derive(Debug)]
pub(crate) struct ChangeDetector<S> {
    /// The result of the last poll.
    last: Option<S>,
    /// The result of the poll before the file was read. `None` if the file was read without two equal polls before, as at the
    /// start: a write just before or after that reading may be invisible in the stamp, because the clock of the file system
    /// ticks in milliseconds.
    read: Option<S>,
    /// The reason why the last reading failed.
    failure: Option<String>,
}

impl<S: Copy + PartialEq> ChangeDetector<S> {
    pub(crate) fn new(read: Option<S>) -> Self {
        Self {
            last: None,
            read,
            failure: None,
        }
    }

    /// Takes the result of a poll. Returns whether the file must be read: it differs from what was read, and is the same as at
    /// the poll before. After a failure the file is read at every poll, because the cause may be gone without a change of the
    /// stamp.
    pub(crate) fn is_due(&mut self, seen: S) -> bool {
        let is_stable = self.last.replace(seen) == Some(seen);
        is_stable && (self.failure.is_some() || self.read != Some(seen))
    }

    /// Records that the file was read. Returns whether the reading before had failed.
    pub(crate) fn succeeded(&mut self, seen: S) -> bool {
        self.read = Some(seen);
        self.failure.take().is_some()
    }

    /// Records that the file could not be read. Returns whether the reason is another one than before, so that it is logged
    /// once.
    pub(crate) fn failed(&mut self, reason: String) -> bool {
        let is_new = self.failure.as_ref() != Some(&reason);
        self.failure = Some(reason);
        is_new
    }

    /// The result of the poll after which the file was read, if it was read after two equal polls.
    pub(crate) fn read(&self) -> Option<S> {
        self.read
    }
}

/// A file, and its version in use: the value of [`ChangeDetector::read`].
#[derive(Debug)]
pub(crate) struct LoadedVersion {
    pub(crate) path: PathBuf,
    pub(crate) read: Option<Seen>,
}

/// The files that no program is writing, judged by two equal polls.
#[derive(Debug, Default)]
pub(crate) struct StableFiles(HashMap<PathBuf, Seen>);

impl StableFiles {
    /// Waits while one of the files changes, for at most two seconds. Returns without waiting if every file is unchanged since it
    /// was read.
    #[expect(
        clippy::disallowed_methods,
        reason = "a reload is built on a thread of its own"
    )]
    pub(crate) fn wait(files: &[LoadedVersion]) -> Self {
        Self::wait_with(files, || std::thread::sleep(POLL_INTERVAL))
    }

    fn wait_with(files: &[LoadedVersion], mut sleep: impl FnMut()) -> Self {
        let mut pending: Vec<(&LoadedVersion, Option<Seen>)> =
            files.iter().map(|file| (file, file.read)).collect();
        let mut stable = HashMap::new();
        for number in 0..MAX_POLLS {
            if number > 0 && !pending.is_empty() {
                sleep();
            }
            pending.retain_mut(|(file, before)| {
                let seen = poll(&file.path);
                let is_same = before.replace(seen) == Some(seen);
                if is_same {
                    stable.insert(file.path.clone(), seen);
                }
                !is_same
            });
        }
        Self(stable)
    }

    /// The result of two equal polls of a file. `None` if the file was changing all the time, or was not polled.
    pub(crate) fn seen(&self, path: &Path) -> Option<Seen> {
        self.0.get(path).copied()
    }
}

/// The time between two polls of a file. A change takes effect when two polls in a row see the same new state of the file,
/// which is at most one second after the last write.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(500);
const MAX_POLLS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir, name: &str, read: Option<Seen>) -> LoadedVersion {
        let path = dir.path().join(name);
        LoadedVersion { path, read }
    }

    #[test]
    fn a_file_that_is_unchanged_since_it_was_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        let seen = poll(&dir.path().join("a"));
        let gone = poll(&dir.path().join("b"));
        let files = [file(&dir, "a", Some(seen)), file(&dir, "b", Some(gone))];
        let stable = StableFiles::wait_with(&files, || panic!("it waits"));
        assert_eq!(stable.seen(&files[0].path), Some(seen));
        assert_eq!(
            stable.seen(&files[1].path),
            Some(Err(io::ErrorKind::NotFound))
        );
        assert_eq!(stable.seen(Path::new("c")), None);
    }

    #[test]
    fn a_file_is_stable_when_two_polls_are_equal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "1").unwrap();
        let files = [file(&dir, "a", None)];
        let mut sleeps = 0;
        let stable = StableFiles::wait_with(&files, || {
            sleeps += 1;
            if sleeps < 3 {
                fs::write(&path, "1".repeat(sleeps + 1)).unwrap();
            }
        });
        assert_eq!((sleeps, stable.seen(&path)), (3, Some(poll(&path))));
    }

    #[test]
    fn a_file_that_changes_all_the_time_is_not_stable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "").unwrap();
        let mut sleeps = 0;
        let stable = StableFiles::wait_with(&[file(&dir, "a", None)], || {
            sleeps += 1;
            fs::write(&path, "1".repeat(sleeps)).unwrap();
        });
        assert_eq!((sleeps, stable.seen(&path)), (MAX_POLLS - 1, None));
    }
}
