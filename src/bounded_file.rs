//! Opening and reading regular files of a bounded size.
//!
//! Every file that the configuration or an operator names is read through this module: the configuration itself, password
//! files, certificates, keys, CA bundles, token secrets and nginx configurations. A named pipe, a device or a huge log in the
//! place of such a file must neither block the process nor fill its memory, and a file that is too large is an error: a part
//! of it is never used as if it were the whole.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, access};
use rustix::io::Errno;

/// The reason why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The path leads to a directory, a named pipe, a socket or a device.
    #[error("not a regular file")]
    NotRegular,
    /// The file has more bytes than the caller accepts.
    #[error("larger than {}", size(*.limit))]
    TooLarge {
        /// The largest accepted size in bytes.
        limit: u64,
    },
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Keeps the message of the error, with the kind that the standard library uses for the same failure.
impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error,
            ReadError::NotRegular => Self::new(io::ErrorKind::InvalidInput, error),
            ReadError::TooLarge { .. } => Self::new(io::ErrorKind::FileTooLarge, error),
        }
    }
}

/// A regular file that is open for reading, with the metadata it had when it was opened.
#[derive(Debug)]
pub(crate) struct RegularFile {
    file: File,
    metadata: Metadata,
}

impl RegularFile {
    /// Opens a file for reading, and follows symbolic links. The call never blocks: with O_NONBLOCK, opening a named pipe does not
    /// wait for a process that writes to it.
    pub(crate) fn open(path: &Path) -> Result<Self, ReadError> {
        // Checked before opening as well, because opening a device can have effects (a tape rewinds).
        let metadata = fs::metadata(path).map_err(|error| name_closed_directory(error, path))?;
        require_regular(&metadata)?;
        let file = OpenOptions::new()
            .read(true)
            // Another process may have put a named pipe or a terminal in the file's place in the meantime.
            .custom_flags(flag_bits(OFlags::NONBLOCK | OFlags::NOCTTY))
            .open(path)?;
        let metadata = file.metadata()?;
        require_regular(&metadata)?;
        Ok(Self { file, metadata })
    }

    /// The open descriptor.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The metadata from the moment when the file was opened.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Reads from the current position to the end. A file of more than `limit` bytes is an error.
    ///
    /// The buffer is allocated once with room for the whole file. A buffer that grows would leave copies of a secret in the memory
    /// that it frees.
    pub(crate) fn read(&self, limit: u64) -> Result<Vec<u8>, ReadError> {
        if self.metadata.len() > limit {
            return Err(ReadError::TooLarge { limit });
        }
        let room = usize::try_from(self.metadata.len().saturating_add(1))
            .map_err(|_| ReadError::TooLarge { limit })?;
        let mut bytes = Vec::with_capacity(room);
        // The file may have grown since it was opened, and files of /proc have no size.
        let mut limited = (&self.file).take(limit.saturating_add(1));
        limited.read_to_end(&mut bytes)?;
        if limited.limit() == 0 {
            return Err(ReadError::TooLarge { limit });
        }
        Ok(bytes)
    }
}

/// Reads a whole regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    RegularFile::open(path)?.read(limit)
}

fn require_regular(metadata: &Metadata) -> Result<(), ReadError> {
    if metadata.is_file() {
        Ok(())
    } else {
        Err(ReadError::NotRegular)
    }
}

/// `open(2)` takes its flags as a C `int`.
fn flag_bits(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// A directory of the path of a file is closed to the user of this process, so that the permissions of the file do not matter.
#[derive(Debug, thiserror::Error)]
#[error("permission denied: this user may not enter the directory {}", directory.display())]
struct ClosedDirectory {
    directory: PathBuf,
}

/// Whether the error is about a directory that this process may not enter, rather than about the file.
pub(crate) fn is_closed_directory(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|cause| cause.is::<ClosedDirectory>())
}

/// Whether the error is about a directory that the systemd unit hides from the proxy (`ProtectHome=`), whatever its mode is.
pub(crate) fn is_hidden_by_unit(error: &io::Error) -> bool {
    let closed = error.get_ref().and_then(|cause| cause.downcast_ref());
    closed.is_some_and(|ClosedDirectory { directory }| {
        let hidden = ["/root", "/home", "/run/user"];
        hidden.iter().any(|hidden| directory.starts_with(hidden))
    })
}

/// The error of a file below a directory that is closed to the user of this process, for tests of messages.
#[cfg(test)]
pub(crate) fn closed_directory_error(directory: &Path) -> io::Error {
    let directory = directory.to_owned();
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        ClosedDirectory { directory },
    )
}

/// Names the directory in an error of stat(2), which needs no permission for the file itself.
fn name_closed_directory(error: io::Error, path: &Path) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    match closed_directory(path, MAX_LINKS) {
        Some(directory) => io::Error::new(error.kind(), ClosedDirectory { directory }),
        None => error,
    }
}

/// The outermost directory on the way to a file that this process may not enter. Symbolic links are followed for the last
/// component only: the certificates of certbot are such links.
fn closed_directory(path: &Path, links_left: u8) -> Option<PathBuf> {
    let mut directories: Vec<&Path> = path.ancestors().skip(1).collect();
    directories.reverse();
    let is_closed = |directory: &Path| access(directory, Access::EXEC_OK) == Err(Errno::ACCESS);
    let closed = directories
        .into_iter()
        .filter(|directory| !directory.as_os_str().is_empty())
        .find(|directory| is_closed(directory));
    if closed.is_some() || links_left == 0 {
        return closed.map(Path::to_owned);
    }
    let target = path.parent()?.join(fs::read_link(path).ok()?);
    closed_directory(&target, links_left - 1)
}

/// The number of symbolic links that are followed for a message.
const MAX_LINKS: u8 = 8;

/// A size limit in the unit in which it is a whole number.
fn size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    if bytes >= MIB && bytes.is_multiple_of(MIB) {
        format!("{} MiB", bytes / MIB)
    } else if bytes >= KIB && bytes.is_multiple_of(KIB) {
        format!("{} KiB", bytes / KIB)
    } else {
        format!("{bytes} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn a_file_of_the_largest_size_is_read_and_a_larger_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (length, is_read) in [(0, true), (1023, true), (1024, true), (1025, false)] {
            fs::write(&path, vec![b'x'; length]).unwrap();
            match read(&path, 1024) {
                Ok(bytes) => assert!(is_read && bytes.len() == length, "{length}"),
                Err(error) => {
                    assert!(!is_read, "{length}: {error}");
                    assert_eq!(error.to_string(), "larger than 1 KiB");
                    let error = io::Error::from(error);
                    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
                }
            }
        }
    }

    #[test]
    fn a_file_that_grows_after_it_was_opened_is_not_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "short").unwrap();
        let file = RegularFile::open(&path).unwrap();
        fs::write(&path, "x".repeat(1000)).unwrap();
        assert_eq!(file.read(1000).unwrap().len(), 1000);
        let file = RegularFile::open(&path).unwrap();
        fs::write(&path, "x".repeat(1001)).unwrap();
        assert!(matches!(
            file.read(1000),
            Err(ReadError::TooLarge { limit: 1000 })
        ));
    }

    #[test]
    fn a_file_without_a_size_is_read() {
        assert!(
            !read(Path::new("/proc/self/status"), 1 << 20)
                .unwrap()
                .is_empty()
        );
    }

    /// If one of these calls blocked, the test would never end.
    #[test]
    fn a_path_without_a_regular_file_is_an_error_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for path in [
            dir.path(),
            pipe.as_path(),
            socket.as_path(),
            link.as_path(),
            Path::new("/dev/zero"),
        ] {
            let error = read(path, 1024).unwrap_err();
            assert!(matches!(error, ReadError::NotRegular), "{}", path.display());
        }
        let error = read(&dir.path().join("missing"), 1024).unwrap_err();
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    }
}
