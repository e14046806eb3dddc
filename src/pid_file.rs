//! The locked file that says which process serves with a configuration, and the verdict of its last reload.
//!
//! `server` holds one, `tidegate reload` finds the process by it. The lock, not the number in it, says that the process
//! runs: the system takes it away from whoever ends, however he ends. A folder may hold files of several gates.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Held while the gate runs.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
    begun: u64,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process serves with the same configuration.
    #[error("process {pid} serves with this configuration already (it holds {}); tidegate reload makes it read the file again", path.display())]
    Running {
        /// As it wrote itself, or `?`.
        pid: String,
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error("cannot write the pid file {}: {cause}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// How far the reloads of a process have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Reloads that began, since the process started.
    pub begun: u64,
    /// Of these, the one that ended last.
    pub ended: u64,
    /// Why that one failed.
    pub failure: Option<String>,
}

impl PidFile {
    /// Makes and locks the file for `config` in `dir`.
    ///
    /// # Errors
    /// Another process holds it, or it cannot be written.
    pub fn take(dir: &Path, config: &Path) -> Result<Self, Error> {
        let path = place(dir, config);
        let failed = |cause| Error::Write {
            path: path.clone(),
            cause,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed)?;
        if !lock(&file).map_err(failed)? {
            let pid = read_pid(&path).map_or_else(|| "?".to_owned(), |pid| pid.to_string());
            return Err(Error::Running { pid, path });
        }
        Self::own(file, path.clone()).map_err(failed)
    }

    /// Goes on with the file of the process that this one succeeds: its lock came with the descriptor.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn adopt(file: OwnedFd, path: PathBuf) -> io::Result<Self> {
        Self::own(File::from(file), path)
    }

    fn own(mut file: File, path: PathBuf) -> io::Result<Self> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        let own = Self {
            file,
            path,
            begun: 0,
        };
        own.write(&Verdict::default())?;
        Ok(own)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A reload begins.
    pub fn begin(&mut self) {
        self.begun += 1;
        self.tell(None, self.begun - 1);
    }

    /// It has ended.
    pub fn end(&self, failure: Option<String>) {
        self.tell(failure, self.begun);
    }

    fn tell(&self, failure: Option<String>, ended: u64) {
        let verdict = Verdict {
            begun: self.begun,
            ended,
            failure,
        };
        if let Err(error) = self.write(&verdict) {
            tracing::warn!(%error, "cannot write the verdict of a reload beside the pid file");
        }
    }

    /// Whole or not at all: somebody may be reading.
    fn write(&self, verdict: &Verdict) -> io::Result<()> {
        let path = verdict_place(&self.path);
        let draft = path.with_extension("draft");
        let failure = verdict.failure.as_deref().unwrap_or_default();
        fs::write(
            &draft,
            format!("{} {}\n{failure}", verdict.begun, verdict.ended),
        )?;
        fs::rename(&draft, &path)
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The process that serves with `config` and has its file in `dir`; nothing when none does.
pub fn running(dir: &Path, config: &Path) -> Option<u32> {
    let path = place(dir, config);
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read_pid(&path),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// How far its reloads have come.
pub fn verdict(dir: &Path, config: &Path) -> Option<Verdict> {
    let text = fs::read_to_string(verdict_place(&place(dir, config))).ok()?;
    let (numbers, failure) = text.split_once('\n')?;
    let (begun, ended) = numbers.split_once(' ')?;
    Some(Verdict {
        begun: begun.parse().ok()?,
        ended: ended.parse().ok()?,
        failure: Some(failure.to_owned()).filter(|words| !words.is_empty()),
    })
}

/// One file for each configuration, so that gates may share a folder; the name is told apart by the path.
pub fn place(dir: &Path, config: &Path) -> PathBuf {
    let config = fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    let hash = fnv(config.as_os_str().as_bytes());
    dir.join(format!("tidegate-{hash:016x}.pid"))
}

fn verdict_place(pid_file: &Path) -> PathBuf {
    pid_file.with_extension("verdict")
}

fn read_pid(path: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(32)
        .read_to_string(&mut text)
        .ok()?;
    text.trim().parse().ok()
}

/// Who looks whether a process runs holds the lock for a moment.
fn lock(file: &File) -> io::Result<bool> {
    for _ in 0..LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(BETWEEN),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// FNV-1a of 64 bits: the same in every version and process. Nobody gains by a collision in a folder of one's own.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

const LOOKS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_while_it_holds_the_file_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, config) = (dir.path(), Path::new("/etc/x/proxy.toml"));
        assert_eq!(running(dir, config), None);
        let held = PidFile::take(dir, config).unwrap();
        assert_eq!(running(dir, config), Some(std::process::id()));
        assert_eq!(running(dir, Path::new("/etc/y/proxy.toml")), None);
        let second = PidFile::take(dir, config).unwrap_err();
        assert!(
            second.to_string().contains(&std::process::id().to_string()),
            "{second}"
        );
        drop(held);
        assert_eq!(running(dir, config), None);
        PidFile::take(dir, config).unwrap();
    }

    #[test]
    fn the_lock_passes_on_with_the_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, config) = (dir.path(), Path::new("proxy.toml"));
        let old = PidFile::take(dir, config).unwrap();
        let handed = old.as_fd().try_clone_to_owned().unwrap();
        let new = PidFile::adopt(handed, old.path().to_owned()).unwrap();
        drop(old);
        assert_eq!(running(dir, config), Some(std::process::id()));
        drop(new);
        assert_eq!(running(dir, config), None);
    }

    #[test]
    fn a_verdict_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, config) = (dir.path(), Path::new("proxy.toml"));
        let mut held = PidFile::take(dir, config).unwrap();
        let told = || verdict(dir, config).unwrap();
        assert_eq!(told(), Verdict::default());
        held.begin();
        assert_eq!((told().begun, told().ended), (1, 0));
        held.end(Some("2 errors\nof them one bad".to_owned()));
        assert_eq!((told().begun, told().ended), (1, 1));
        assert_eq!(told().failure.unwrap(), "2 errors\nof them one bad");
        held.begin();
        held.end(None);
        assert_eq!(told().failure, None);
    }
}
