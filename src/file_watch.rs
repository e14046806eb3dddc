//! Files that may change at any time: what the system notes of one, and whether it is quiet enough to be read.
//!
//! `htpasswd` and `tls` keep a [`ChangeDetector`] for each of theirs, which a thread of `server` asks at intervals; `snapshot`
//! waits with [`StableFiles`] before a reload reads them. Nothing here reads a file, and nothing logs.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the system notes of a file, and changes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    number: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Cannot be set back, as the other time can.
    changed: (i64, i64),
}

impl From<&Metadata> for FileStamp {
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

/// What a look at a path saw: the stamp of what it leads to, or why there is none.
pub(crate) type Seen = Result<FileStamp, io::ErrorKind>;

/// Symbolic links are followed, so that another target is another stamp.
pub(crate) fn poll(path: &Path) -> Seen {
    let metadata = fs::metadata(path).map_err(|error| error.kind())?;
    Ok(FileStamp::from(&metadata))
}

/// What is known of a file, or of several that belong together, from one look to the next.
#[derive(Debug)]
pub(crate) struct ChangeDetector<S> {
    last: Option<S>,
    /// What was read. None while that was not after two equal looks, as at the start: a write just before or after that
    /// reading may have left no trace in the stamp, whose clock ticks in milliseconds.
    read: Option<S>,
    trouble: Option<String>,
}

impl<S: Copy + PartialEq> ChangeDetector<S> {
    pub(crate) fn new(read: Option<S>) -> Self {
        Self {
            last: None,
            read,
            trouble: None,
        }
    }

    /// Whether it has to be read: other than what was read, and the same at this look as at the one before. What could
    /// not be read is tried again, since not all that helps shows in the stamp.
    pub(crate) fn is_due(&mut self, seen: S) -> bool {
        let is_quiet = self.last.replace(seen) == Some(seen);
        is_quiet && (self.trouble.is_some() || self.read != Some(seen))
    }

    /// It has been read under this stamp; whether it could not be before.
    pub(crate) fn succeeded(&mut self, seen: S) -> bool {
        self.read = Some(seen);
        self.trouble.take().is_some()
    }

    /// It cannot be read; whether that is news.
    pub(crate) fn failed(&mut self, why: String) -> bool {
        let is_news = self.trouble.as_ref() != Some(&why);
        self.trouble = Some(why);
        is_news
    }

    /// What was read after two equal looks.
    pub(crate) fn read(&self) -> Option<S> {
        self.read
    }
}

/// A file, and what is in use of it: what [`ChangeDetector::read`] says.
#[derive(Debug)]
pub(crate) struct LoadedVersion {
    pub(crate) path: PathBuf,
    pub(crate) read: Option<Seen>,
}

/// The files that nobody is writing, as far as two looks can tell.
#[derive(Debug, Default)]
pub(crate) struct StableFiles(HashMap<PathBuf, Seen>);

impl StableFiles {
    /// Waits while one of them changes, for two seconds at most; not at all when each is as it was read.
    #[expect(
        clippy::disallowed_methods,
        reason = "a reload is built on a thread of its own"
    )]
    pub(crate) fn wait(files: &[LoadedVersion]) -> Self {
        Self::wait_with(files, LOOKS, || std::thread::sleep(PAUSE))
    }

    fn wait_with(files: &[LoadedVersion], looks: usize, mut pause: impl FnMut()) -> Self {
        let mut last: Vec<(&LoadedVersion, Option<Seen>)> =
            files.iter().map(|file| (file, file.read)).collect();
        let mut quiet = HashMap::new();
        for number in 0..looks {
            if number > 0 && !last.is_empty() {
                pause();
            }
            last.retain_mut(|(file, before)| {
                let seen = poll(&file.path);
                let is_same = before.replace(seen) == Some(seen);
                if is_same {
                    quiet.insert(file.path.clone(), seen);
                }
                !is_same
            });
        }
        Self(quiet)
    }

    /// What was seen of it twice; none when it was changing all the time, or is none of them.
    pub(crate) fn seen(&self, path: &Path) -> Option<Seen> {
        self.0.get(path).copied()
    }
}

/// As long as between two looks of the watching thread.
const PAUSE: Duration = Duration::from_millis(500);
const LOOKS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir, name: &str, read: Option<Seen>) -> LoadedVersion {
        let path = dir.path().join(name);
        LoadedVersion { path, read }
    }

    #[test]
    fn what_is_as_it_was_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        let seen = poll(&dir.path().join("a"));
        let gone = poll(&dir.path().join("b"));
        let files = [file(&dir, "a", Some(seen)), file(&dir, "b", Some(gone))];
        let quiet = StableFiles::wait_with(&files, LOOKS, || panic!("a pause"));
        assert_eq!(quiet.seen(&files[0].path), Some(seen));
        assert_eq!(
            quiet.seen(&files[1].path),
            Some(Err(io::ErrorKind::NotFound))
        );
        assert_eq!(quiet.seen(Path::new("c")), None);
    }

    #[test]
    fn a_change_is_quiet_when_it_is_seen_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "1").unwrap();
        let files = [file(&dir, "a", None)];
        let mut pauses = 0;
        let quiet = StableFiles::wait_with(&files, LOOKS, || {
            pauses += 1;
            if pauses < 3 {
                fs::write(&path, "1".repeat(pauses + 1)).unwrap();
            }
        });
        assert_eq!((pauses, quiet.seen(&path)), (3, Some(poll(&path))));
    }

    #[test]
    fn what_changes_all_the_time_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "").unwrap();
        let mut pauses = 0;
        let quiet = StableFiles::wait_with(&[file(&dir, "a", None)], LOOKS, || {
            pauses += 1;
            fs::write(&path, "1".repeat(pauses)).unwrap();
        });
        assert_eq!((pauses, quiet.seen(&path)), (LOOKS - 1, None));
    }
}
