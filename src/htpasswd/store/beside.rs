//! The new file, beside the old one until it takes its place.
//!
//! For `store`. Its name is random and nothing reads it, so one that a killed process left does no harm; a later edit
//! takes it away. An error on the way removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use rustix::fs::{CWD, RenameFlags, XattrFlags, fgetxattr, fremovexattr, fsetxattr, renameat_with};
use rustix::io::Errno;

use super::directory;
use super::problem::Problem;

/// A file in the making; removed when dropped before it has its name.
pub(super) struct Beside<'a> {
    target: &'a Path,
    path: PathBuf,
    file: File,
    /// Opened first: what cannot be synced must not be changed.
    directory: File,
    is_done: bool,
}

impl<'a> Beside<'a> {
    /// An empty file of this mode, less the umask.
    pub(super) fn create(target: &'a Path, mode: u32) -> Result<Self, Problem> {
        sweep(target);
        let directory = directory(target);
        let failed = |source| Problem::in_directory(directory, source);
        let path = directory.join(name(target).map_err(failed)?);
        let opened = File::open(directory).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let file = options.open(&path).map_err(failed)?;
        Ok(Self {
            target,
            path,
            file,
            directory: opened,
            is_done: false,
        })
    }

    /// Takes over owner, group, mode and access list: the gate must be able to read the new file as it did the old.
    pub(super) fn copy_metadata(&self, old: &File) -> Result<(), Problem> {
        let failed = |source| Problem::failed("read", self.target, source);
        let (wanted, own) = (
            old.metadata().map_err(failed)?,
            self.file.metadata().map_err(failed)?,
        );
        let owner = (wanted.uid() != own.uid()).then_some(wanted.uid());
        let group = (wanted.gid() != own.gid()).then_some(wanted.gid());
        let mode = Permissions::from_mode(wanted.mode() & 0o7777);
        // Last the list: a change of the mode changes it too.
        fchown(&self.file, owner, group)
            .and_then(|()| self.file.set_permissions(mode))
            .and_then(|()| copy_access_list(old, &self.file))
            .map_err(|source| Problem::Owner {
                path: self.target.into(),
                user: wanted.uid(),
                group: wanted.gid(),
                source,
            })
    }

    /// On disk when it returns.
    pub(super) fn write(&mut self, text: &[u8]) -> Result<(), Problem> {
        let written = self
            .file
            .write_all(text)
            .and_then(|()| self.file.sync_all());
        written.map_err(|source| Problem::failed("write", &self.path, source))
    }

    /// Takes the place of the file that is there.
    pub(super) fn replace(mut self) -> Result<(), Problem> {
        fs::rename(&self.path, self.target)
            .map_err(|source| Problem::failed("replace", self.target, source))?;
        self.is_done = true;
        self.sync_directory()
    }

    /// Takes its name if nobody has it; says whether it does.
    pub(super) fn persist(mut self) -> Result<bool, Problem> {
        match renameat_with(CWD, &self.path, CWD, self.target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(Problem::failed("create", self.target, errno.into())),
        }
        self.is_done = true;
        self.sync_directory().map(|()| true)
    }

    fn sync_directory(&self) -> Result<(), Problem> {
        self.directory.sync_all().map_err(|source| {
            Problem::failed(
                "write to disk the new entry of",
                directory(self.target),
                source,
            )
        })
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            // What failed before is what is told.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The list is there on few systems, and where it is it says that the gate may read.
fn copy_access_list(from: &File, to: &File) -> io::Result<()> {
    let mut list = vec![0; MAX_LIST];
    let copied = match fgetxattr(from, ACCESS_LIST, list.as_mut_slice()) {
        Ok(length) => {
            let list = list.get(..length).unwrap_or_default();
            fsetxattr(to, ACCESS_LIST, list, XattrFlags::empty())
        }
        // The directory may have given the new file one.
        Err(Errno::NODATA) => fremovexattr(to, ACCESS_LIST),
        Err(errno) => Err(errno),
    };
    match copied {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// `.FILE.0123456789abcdef.new`
fn name(target: &Path) -> io::Result<OsString> {
    let mut random = [0; 8];
    rand::fill(&mut random).map_err(io::Error::other)?;
    let mut name = start(target)?;
    name.push(format!("{:016x}{END}", u64::from_ne_bytes(random)));
    Ok(name)
}

/// What a killed process left long ago; a failure here is none of the edit's.
fn sweep(target: &Path) {
    let (Ok(start), Ok(entries)) = (start(target), fs::read_dir(directory(target))) else {
        return;
    };
    for entry in entries.flatten() {
        if is_ours(&start, &entry.file_name()) && is_stale(&entry) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_ours(start: &OsStr, name: &OsStr) -> bool {
    let middle = name
        .as_encoded_bytes()
        .strip_prefix(start.as_encoded_bytes())
        .and_then(|rest| rest.strip_suffix(END.as_bytes()));
    middle.is_some_and(|middle| middle.len() == 16 && middle.iter().all(u8::is_ascii_hexdigit))
}

fn is_stale(entry: &fs::DirEntry) -> bool {
    let changed = entry.metadata().and_then(|metadata| metadata.modified());
    let age = changed.map(|at| SystemTime::now().duration_since(at));
    matches!(age, Ok(Ok(age)) if age > STALE)
}

fn start(target: &Path) -> io::Result<OsString> {
    let name = target.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    Ok([OsStr::new("."), name, OsStr::new(".")]
        .into_iter()
        .collect())
}

/// Until owner and mode of the old file are taken over.
pub(super) const PRIVATE: u32 = 0o600;
/// Of a file that is new: see `update_or_create`.
pub(super) const SHARED: u32 = 0o640;
const END: &str = ".new";
/// No edit takes as long.
const STALE: Duration = Duration::from_mins(10);
const ACCESS_LIST: &str = "system.posix_acl_access";
/// `XATTR_SIZE_MAX` of Linux.
const MAX_LIST: usize = 1 << 16;
