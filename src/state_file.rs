//! Files of the gate's own, in `state.dir`: never readable by others, and whole or not at all.
//!
//! `tls` keeps its CA in them, `auth` the secret of its tokens. What they mean is known there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

/// 0700, unless it is there already.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Whether [`make_dir`] would succeed and files could be made in `dir`, judged by the rights of this process; nothing is
/// made. A directory that is missing directly below `/var/lib` counts as there: systemd makes it for a service with
/// `StateDirectory=`, and `check` runs outside of the service.
pub(crate) fn may_make(dir: &Path) -> io::Result<()> {
    let mut existing = dir;
    loop {
        match fs::metadata(existing) {
            Ok(found) if !found.is_dir() => return Err(Errno::NOTDIR.into()),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        existing = match existing.parent() {
            Some(parent) if parent == Path::new("/var/lib") => return Ok(()),
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
    }
    Ok(access(existing, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Writes a file, perhaps in the place of another: after a crash either the old content or the new is there.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    write_draft(&draft, content)?;
    fs::rename(&draft, path)?;
    sync_dir(path)
}

/// Writes a file, unless there is one: of two processes that do so at once, one does, and both find the same.
pub(crate) fn make(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    write_draft(&draft, content)?;
    // Unlike a rename, a link takes no name that is taken.
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(path)
}

/// 0600 from the first moment.
fn write_draft(draft: &Path, content: &[u8]) -> io::Result<()> {
    // What a crash left behind may have another mode or owner.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The new name itself must be on the disk (fsync(2)).
fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
