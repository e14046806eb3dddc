//! The locked pid file of a running process, and the status file with the result of its last reload.
//!
//! `server` holds a [`PidFile`]; `tidegate reload` finds the process with [`find`]. The lock (flock(2)), not the process id in
//! the file, shows that the process runs: the kernel releases the lock however the process ends. Several processes may keep
//! their files in one directory.
//!
//! The file records the path of the configuration as the command line gave it, without resolving symbolic links, because the
//! process reads that path again on a reload. So the process is still found after a link in the path has changed (release
//! directories, a ConfigMap's `..data`), and two configurations are never confused: a process matches if it was started with
//! the same path, or if the path it was started with leads to the same file now.
//!
//! A clean end of the process removes both files. After an upgrade they belong to the new process.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

use crate::bounded_file::RegularFile;
use crate::stable_hash;
use crate::state_file::write_remedy;

/// The pid file of this process. The lock is held until the value is dropped.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
    /// The number of reloads that have started.
    reloads_started: u64,
}

/// The reason why this process has no pid file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process serves with the same configuration.
    #[error("process {pid} serves with this configuration already (it holds {}); tidegate reload makes it read the file again", path.display())]
    Running {
        /// The process id from the file, or `?`.
        pid: String,
        /// The pid file.
        path: PathBuf,
    },
    /// The file cannot be created or written.
    #[error("cannot write the pid file {}: {cause}; {}", path.display(), write_remedy(cause))]
    Write {
        /// The pid file.
        path: PathBuf,
        /// The error of the operating system.
        cause: io::Error,
    },
}

/// The content of the status file next to the pid file: how many reloads have started and ended, and how the last one ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadStatus {
    /// The number of reloads that have started since the process started.
    pub started: u64,
    /// The number of the reload that ended last.
    pub ended: u64,
    /// The reason why that reload failed.
    pub failure: Option<String>,
}

impl PidFile {
    /// Creates and locks the file in `dir` for a process that serves with `config`.
    ///
    /// # Errors
    /// Another process with this configuration has its file in `dir`, or the file cannot be written.
    pub fn take(dir: &Path, config: &Path) -> Result<Self, Error> {
        let config = absolute(config);
        let path = path_in(dir, &config);
        let failed = |cause| Error::Write {
            path: path.clone(),
            cause,
        };
        // A process that was started with another path to the same file has another pid file in this directory.
        let mut search = Search::new(&config);
        search.add_directory(dir);
        if let Some((_, other)) = search.found.into_iter().next() {
            let (pid, path) = (other.pid.to_string(), other.path);
            return Err(Error::Running { pid, path });
        }
        for _ in 0..OPEN_ATTEMPTS {
            // Through a symbolic link, any user who may write to the directory could choose the file that is overwritten here.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .custom_flags(flags.bits().cast_signed())
                .open(&path)
                .map_err(failed)?;
            if !file.metadata().map_err(failed)?.is_file() {
                return Err(failed(io::Error::other("not a regular file")));
            }
            if !lock(&file).map_err(failed)? {
                let record = Record::read(&file);
                let pid = record.map_or_else(|| "?".to_owned(), |record| record.pid.to_string());
                return Err(Error::Running { pid, path });
            }
            // A process that ended may have removed the file after it was opened here. A lock on it would protect nothing.
            if is_at(&file, &path) {
                return Self::initialize(file, path.clone(), &config).map_err(failed);
            }
        }
        let cause = io::Error::other("other processes replace the file again and again");
        Err(failed(cause))
    }

    /// Takes over the file of the process that this one succeeds in an upgrade. The lock came with the descriptor.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn adopt(file: OwnedFd, path: PathBuf, config: &Path) -> io::Result<Self> {
        Self::initialize(File::from(file), path, &absolute(config))
    }

    fn initialize(file: File, path: PathBuf, config: &Path) -> io::Result<Self> {
        let mut record = format!("{}\n", std::process::id()).into_bytes();
        record.extend_from_slice(config.as_os_str().as_bytes());
        record.push(b'\n');
        // Written before the rest is cut off: on a full disk, a successor can replace the record, but not write it anew.
        file.write_all_at(&record, 0)?;
        file.set_len(record.len().try_into().map_err(io::Error::other)?)?;
        let pid_file = Self {
            file,
            path,
            reloads_started: 0,
        };
        // Without the status, the lock still keeps a second process from starting.
        pid_file.write_status(None, 0);
        Ok(pid_file)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file and the status file next to it, at a clean end of the process. Until both are gone, this process holds
    /// the lock, so that no other process with this configuration starts in between.
    pub fn remove(self) {
        // Another file at this path belongs to another process.
        if !is_at(&self.file, &self.path) {
            return;
        }
        for path in [&status_path(&self.path), &self.path] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "cannot remove {}", path.display());
            }
        }
    }

    /// Writes to the status file that a reload has started.
    pub fn record_reload_start(&mut self) {
        self.reloads_started += 1;
        self.write_status(None, self.reloads_started - 1);
    }

    /// Writes to the status file that the reload has ended. `failure` is the reason of a failed one.
    pub fn record_reload_end(&self, failure: Option<String>) {
        self.write_status(failure, self.reloads_started);
    }

    fn write_status(&self, failure: Option<String>, ended: u64) {
        let status = ReloadStatus {
            started: self.reloads_started,
            ended,
            failure,
        };
        if let Err(error) = self.replace_status(&status) {
            tracing::warn!(%error, "cannot write the result of a reload next to the pid file");
        }
    }

    /// Replaces the status file by a rename, because `tidegate reload` may be reading it.
    fn replace_status(&self, status: &ReloadStatus) -> io::Result<()> {
        let path = status_path(&self.path);
        let draft = path.with_extension("draft");
        let mut text = format!("{} {}\n", status.started, status.ended);
        if let Some(failure) = &status.failure {
            text.push_str(failure);
        }
        // Never write to a file that exists: it may be the rest of a crash, or a link that another user created.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&draft, &path)
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A process that holds the lock on its pid file.
#[derive(Debug)]
pub struct RunningProcess {
    pid: u32,
    path: PathBuf,
    file: RegularFile,
}

/// The reason why no process was found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No process with this configuration holds a pid file in these directories, or anywhere else as far as `/proc` shows.
    #[error("no process serves with {} (no lock on its pid file is held in {}){ignored}", config.display(), list(directories))]
    Missing {
        /// The absolute path of the configuration.
        config: PathBuf,
        /// The directories that were searched.
        directories: Vec<PathBuf>,
        /// A description of the pid files that were not trusted.
        ignored: String,
    },
    /// Several processes match, and only one of them can be meant.
    #[error("several processes serve with {}: {}; signal the right one with kill -HUP", config.display(), pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))]
    Several {
        /// The absolute path of the configuration.
        config: PathBuf,
        /// Their process ids.
        pids: Vec<u32>,
    },
}

/// The reason why the process was not signalled.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The process ended after it had been found.
    #[error("it has ended")]
    Ended,
    /// The process whose id is in the file is not the one that holds the lock.
    #[error(
        "it does not hold the lock on {}, so that the process id in this file is not trusted; signal the right process with kill -HUP",
        path.display()
    )]
    NotTheHolder {
        /// The pid file.
        path: PathBuf,
    },
    /// The operating system reported an error.
    #[error("{0}; run the command as root, or as the user that serves")]
    System(#[from] io::Error),
}

/// Finds the process that serves with `config`: in the pid files of the directories, and else in the pid files that the
/// processes of this machine have open, because `state.dir` may have been edited since the process started.
///
/// # Errors
/// No process was found, or several.
pub fn find(directories: &[PathBuf], config: &Path) -> Result<RunningProcess, FindError> {
    let config = absolute(config);
    let mut search = Search::new(&config);
    for directory in directories {
        search.add_directory(directory);
    }
    if search.found.is_empty() {
        for path in open_pid_files() {
            search.add(&path);
        }
    }
    search.finish(directories)
}

/// How a process matches a configuration, the best match first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    /// The process was started with the same path.
    SamePath,
    /// The path that the process was started with leads to the same file now.
    SameFile,
}

/// A search for the processes that serve with one configuration.
struct Search<'a> {
    config: &'a Path,
    /// The file that the path leads to now.
    resolved: Option<PathBuf>,
    /// Device and inode numbers of the pid files that were examined.
    seen: BTreeSet<(u64, u64)>,
    found: Vec<(Match, RunningProcess)>,
    ignored: String,
}

impl<'a> Search<'a> {
    /// `config` is absolute.
    fn new(config: &'a Path) -> Self {
        Self {
            config,
            resolved: fs::canonicalize(config).ok(),
            seen: BTreeSet::new(),
            found: Vec::new(),
            ignored: String::new(),
        }
    }

    fn add_directory(&mut self, directory: &Path) {
        // A directory that is missing or not readable contributes nothing.
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if is_pid_file(&path) {
                self.add(&path);
            }
        }
    }

    fn add(&mut self, path: &Path) {
        // Never through a link: any user who may create one in a shared directory could choose the file.
        if fs::symlink_metadata(path).map_or(true, |metadata| !metadata.is_file()) {
            return;
        }
        let Ok(file) = RegularFile::open(path) else {
            return;
        };
        let id = (file.metadata().dev(), file.metadata().ino());
        if !self.seen.insert(id) || !is_locked(file.file()) {
            return;
        }
        let Some(record) = Record::read(file.file()) else {
            return;
        };
        let Some(rank) = self.rank(path, &record) else {
            return;
        };
        let owner = file.metadata().uid();
        if !is_trusted(owner, path) {
            // Writing to a string cannot fail.
            let _ = write!(
                self.ignored,
                "; {} is ignored, because it belongs to user {owner}, who is neither root, nor this user, nor the owner of \
                 the directory",
                path.display()
            );
            return;
        }
        let process = RunningProcess {
            pid: record.pid,
            path: path.to_owned(),
            file,
        };
        self.found.push((rank, process));
    }

    fn rank(&self, path: &Path, record: &Record) -> Option<Match> {
        let Some(config) = &record.config else {
            // An older version wrote no path, and derived the file name from the resolved path.
            let resolved = self.resolved.as_deref()?;
            return (path.file_name() == Some(file_name(resolved).as_ref()))
                .then_some(Match::SameFile);
        };
        if config == self.config {
            return Some(Match::SamePath);
        }
        let resolved = self.resolved.as_ref()?;
        (fs::canonicalize(config).ok().as_ref() == Some(resolved)).then_some(Match::SameFile)
    }

    /// Returns the process with the best match, which must be the only one with this match.
    fn finish(mut self, directories: &[PathBuf]) -> Result<RunningProcess, FindError> {
        let config = self.config.to_owned();
        let Some(best) = self.found.iter().map(|(rank, _)| *rank).min() else {
            return Err(FindError::Missing {
                config,
                directories: directories.to_vec(),
                ignored: self.ignored,
            });
        };
        self.found.retain(|(rank, _)| *rank == best);
        let pids: BTreeSet<u32> = self.found.iter().map(|(_, process)| process.pid).collect();
        match self.found.pop() {
            Some((_, process)) if pids.len() == 1 => Ok(process),
            _ => Err(FindError::Several {
                config,
                pids: pids.into_iter().collect(),
            }),
        }
    }
}

impl RunningProcess {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The admin socket of the process, if the configuration names none.
    pub fn default_admin_socket(&self) -> PathBuf {
        self.path.with_extension(SOCKET_EXTENSION)
    }

    /// Whether the process still holds the lock.
    pub fn is_running(&self) -> bool {
        let record = Record::read(self.file.file());
        is_locked(self.file.file()) && record.is_some_and(|record| record.pid == self.pid)
    }

    /// The content of the status file. `None` if there is none, or if it belongs to another user than the pid file does.
    pub fn reload_status(&self) -> Option<ReloadStatus> {
        let file = RegularFile::open(&status_path(&self.path)).ok()?;
        if file.metadata().uid() != self.file.metadata().uid() {
            return None;
        }
        let text = String::from_utf8(file.read(MAX_STATUS_SIZE).ok()?).ok()?;
        let (numbers, failure) = text.split_once('\n')?;
        let (started, ended) = numbers.split_once(' ')?;
        Some(ReloadStatus {
            started: started.parse().ok()?,
            ended: ended.parse().ok()?,
            failure: Some(failure.to_owned()).filter(|failure| !failure.is_empty()),
        })
    }

    /// Sends HUP to the process, after verifying that it is the process that holds the lock: any user who may write to the
    /// directory could have put another process id into the file.
    ///
    /// # Errors
    /// The process has ended or is not the holder, or this user may not signal it.
    pub fn signal_reload(&self) -> Result<(), SignalError> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(SignalError::Ended)?;
        // From here on the descriptor refers to this process, even if it ends and its id is used again.
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Err(SignalError::Ended),
            opened => opened.map_err(io::Error::from)?,
        };
        if !self.is_running() {
            return Err(SignalError::Ended);
        }
        match holds_lock(self.pid, self.file.metadata()) {
            Ok(true) => {}
            Ok(false) => {
                return Err(SignalError::NotTheHolder {
                    path: self.path.clone(),
                });
            }
            // The kernel hides the descriptors of a process with capabilities from its own user. That user can only signal its
            // own processes, which bounds the damage of a wrong id. Root could signal every process, so root needs the proof.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && !geteuid().is_root() => {}
            Err(error) => return Err(error.into()),
        }
        pidfd_send_signal(&process, Signal::HUP).map_err(io::Error::from)?;
        Ok(())
    }
}

/// The content of a pid file.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    pid: u32,
    /// `None` in the file of an older version.
    config: Option<PathBuf>,
}

impl Record {
    /// Reads the record. `None` while the process is writing the file, and if the file is not a pid file.
    fn read(file: &File) -> Option<Self> {
        let mut bytes = [0; MAX_RECORD_SIZE];
        let mut length = 0;
        while let Some(space) = bytes.get_mut(length..).filter(|space| !space.is_empty()) {
            match file.read_at(space, u64::try_from(length).ok()?) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Self::parse(bytes.get(..length)?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = text.splitn(2, |byte| *byte == b'\n');
        let pid = std::str::from_utf8(lines.next()?)
            .ok()?
            .trim()
            .parse()
            .ok()?;
        // A path may contain a line feed.
        let config = lines.next().and_then(|rest| rest.strip_suffix(b"\n"));
        let config = config.filter(|path| !path.is_empty());
        Some(Self {
            pid,
            config: config.map(|path| std::ffi::OsString::from_vec(path.to_vec()).into()),
        })
    }
}

/// Whether the process has the file open with an exclusive flock(2) on it, as `/proc` shows it (proc_pid_fdinfo(5)). After an
/// upgrade the lock belongs to the descriptor that the old process passed on, and `/proc` shows it for both processes.
fn holds_lock(pid: u32, file: &Metadata) -> io::Result<bool> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    for entry in fs::read_dir(process.join("fd"))? {
        let entry = entry?;
        let open = match fs::metadata(entry.path()) {
            Ok(open) => open,
            // The user of a process may list its descriptors, but not follow them, if the process has capabilities that the
            // command lacks: ptrace(2), "Ptrace access mode checking".
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // The process has closed the descriptor meanwhile.
            Err(_) => continue,
        };
        if (open.dev(), open.ino()) != (file.dev(), file.ino()) {
            continue;
        }
        let Ok(info) = fs::read_to_string(process.join("fdinfo").join(entry.file_name())) else {
            continue;
        };
        let mut locks = info.lines().filter(|line| line.starts_with("lock:"));
        if locks.any(|line| line.contains(" FLOCK ") && line.contains(" WRITE ")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The paths of the pid files that processes have open, as far as `/proc` shows them to this user.
fn open_pid_files() -> BTreeSet<PathBuf> {
    let mut paths = BTreeSet::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return paths;
    };
    for process in processes.flatten() {
        if !process
            .file_name()
            .as_bytes()
            .iter()
            .all(u8::is_ascii_digit)
        {
            continue;
        }
        // Only root and the user of the process may read this directory.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let targets = descriptors
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        paths.extend(targets.filter(|path| path.is_absolute() && is_pid_file(path)));
    }
    paths
}

/// Whether a pid file of this owner is trusted: root, this user, or the owner of the directory. Any other user could lead the
/// command to a process of its own.
fn is_trusted(owner: u32, path: &Path) -> bool {
    let directory = path
        .parent()
        .and_then(|directory| fs::metadata(directory).ok());
    owner == 0
        || owner == geteuid().as_raw()
        || directory.is_some_and(|directory| directory.uid() == owner)
}

/// The path of the pid file for a configuration. Each configuration has its own file, so that processes may share a directory.
pub fn path_in(directory: &Path, config: &Path) -> PathBuf {
    directory.join(file_name(&absolute(config)))
}

/// The path of the admin socket for a configuration that names none. Each configuration has its own, next to its pid file.
pub(crate) fn default_admin_socket_in(directory: &Path, config: &Path) -> PathBuf {
    path_in(directory, config).with_extension(SOCKET_EXTENSION)
}

/// Whether the path leads to the open file itself, and not through a link.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(found)) => (file.dev(), file.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

/// A collision of the hash is harmless, because the file also records the path.
fn file_name(config: &Path) -> String {
    let hash = stable_hash::fnv1a(config.as_os_str().as_bytes());
    format!("{PREFIX}{hash:016x}{SUFFIX}")
}

fn is_pid_file(path: &Path) -> bool {
    let name = path.file_name().map(OsStrExt::as_bytes);
    let name = name.and_then(|name| name.strip_prefix(PREFIX.as_bytes()));
    name.is_some_and(|name| name.ends_with(SUFFIX.as_bytes()))
}

fn status_path(pid_file: &Path) -> PathBuf {
    pid_file.with_extension("reload")
}

/// Makes a path absolute without resolving symbolic links, so that it stays the same when a link changes.
fn absolute(path: &Path) -> PathBuf {
    // An error means that the path is empty or that there is no working directory; then nothing can be read by it either.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn list(directories: &[PathBuf]) -> String {
    let all: Vec<_> = directories
        .iter()
        .map(|dir| dir.display().to_string())
        .collect();
    all.join(", ")
}

/// Whether another open file description holds the lock.
fn is_locked(file: &File) -> bool {
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => true,
        Ok(()) => {
            // If this fails, closing the file releases the lock.
            let _ = file.unlock();
            false
        }
        Err(TryLockError::Error(_)) => false,
    }
}

/// Takes the lock; `false` if another process holds it. Several attempts are made, because [`is_locked`] in another process
/// holds the lock for a moment.
fn lock(file: &File) -> io::Result<bool> {
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_INTERVAL),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

const PREFIX: &str = "tidegate-";
const SUFFIX: &str = ".pid";
const SOCKET_EXTENSION: &str = "sock";
/// How often the file is opened again if the process that held it has removed it meanwhile.
const OPEN_ATTEMPTS: u32 = 10;
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// The largest pid file in bytes: a process id and a path (PATH_MAX is 4096).
const MAX_RECORD_SIZE: usize = 8192;
/// The largest status file in bytes.
const MAX_STATUS_SIZE: u64 = 1 << 20;

#[cfg(test)]
mod tests;
