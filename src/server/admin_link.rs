//! `admin.sock`, a link to the default admin socket of a process.
//!
//! The default socket of each configuration has a name of its own next to the pid file, so that processes with different
//! configurations can share a runtime directory, and `tidegate status` finds the one it was asked for. The link gives other
//! programs (curl, ssh) a name that is known in advance. It belongs to the process that was there first; of two processes that
//! start at the same moment after a crash, either may get it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::net::listener::may_have_unix_listener;

/// A link that this process has created. Dropping the value removes it, unless it leads to another socket by then.
#[derive(Debug)]
pub(crate) struct AdminLink {
    path: PathBuf,
    target: PathBuf,
}

impl AdminLink {
    /// Links `path` to `socket`, a socket of this process in the same directory. `None` if another process may be listening at
    /// `path`.
    ///
    /// # Errors
    /// The path is neither a link nor a socket, or this process has no write permission for the directory.
    pub(crate) fn create(path: &Path, socket: &Path) -> io::Result<Option<Self>> {
        let link = Self {
            path: path.to_owned(),
            target: PathBuf::from(socket.file_name().unwrap_or_default()),
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            // In an upgrade, the process before this one has created the link.
            Ok(_) if link.is_in_place() => return Ok(Some(link)),
            Ok(_) if may_have_unix_listener(path) => return Ok(None),
            // A process that was killed has left the link or the socket.
            Ok(found) if found.is_symlink() || found.file_type().is_socket() => {
                fs::remove_file(path)?;
            }
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        match symlink(&link.target, path) {
            Ok(()) => Ok(Some(link)),
            // Another process has created the link since.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the link to the process that succeeds this one.
    pub(crate) fn leave(mut self) {
        self.target = PathBuf::new();
    }

    fn is_in_place(&self) -> bool {
        fs::read_link(&self.path).is_ok_and(|target| target == self.target)
    }
}

impl Drop for AdminLink {
    fn drop(&mut self) {
        if self.is_in_place() {
            // If this fails, the next process replaces the link, because no process listens behind it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_link_is_taken_from_no_process_that_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let [first, second] = ["first.sock", "second.sock"].map(|name| dir.path().join(name));
        let listener = UnixListener::bind(&first).unwrap();
        let _other = UnixListener::bind(&second).unwrap();
        let link = AdminLink::create(&path, &first).unwrap().unwrap();
        assert!(AdminLink::create(&path, &second).unwrap().is_none());
        assert_eq!(
            fs::canonicalize(&path).unwrap(),
            first.canonicalize().unwrap()
        );
        // The successor in an upgrade has the same name, and the link stays when the old process has left it.
        let successor = AdminLink::create(&path, &first).unwrap().unwrap();
        link.leave();
        assert!(path.is_symlink());
        drop(successor);
        assert!(!path.is_symlink());
        // The first process is killed.
        let killed = AdminLink::create(&path, &first).unwrap().unwrap();
        std::mem::forget(killed);
        drop(listener);
        let link = AdminLink::create(&path, &second).unwrap().unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("second.sock"));
        drop(link);
        fs::write(&path, "mine").unwrap();
        AdminLink::create(&path, &second).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
