//! A listening socket in the file system, which takes its place by a rename: whoever connects meets the old one or the
//! new one, never none.
//!
//! Bound by `server` for the admin listener. Its rights are those of its folder, and of the file: owner and group.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::net::conn_limit::{Capacity, ConnectionLimit};
use crate::net::listener::OnClose;

/// Bound beside its path until it is published; gone from there when dropped.
#[derive(Debug)]
pub struct UnixSocket {
    socket: Option<UnixListener>,
    place: Place,
}

/// Where it is, and which file it is.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// While it has not taken its place.
    aside: Option<PathBuf>,
    /// Device and number: another process may have taken the path since.
    identity: (u64, u64),
}

impl UnixSocket {
    /// Binds beside `path`.
    ///
    /// # Errors
    /// There is something else than a socket, or no right to the folder.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "what is there is no socket",
            ));
        }
        let mut aside = path.as_os_str().to_owned();
        // Short, since the whole path must fit into a socket's address.
        aside.push(".new");
        let aside = PathBuf::from(aside);
        // Of a process that was killed before it published.
        let _ = fs::remove_file(&aside);
        let socket = UnixListener::bind(&aside)?;
        socket.set_nonblocking(true)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o660))?;
        let place = Place {
            path: path.to_owned(),
            identity: inode_id(&aside)?,
            aside: Some(aside),
        };
        Ok(Self {
            socket: Some(socket),
            place,
        })
    }

    /// Takes its place; what was there gets no further connections.
    pub fn publish(&mut self) -> io::Result<()> {
        if let Some(aside) = &self.place.aside {
            fs::rename(aside, &self.place.path)?;
            self.place.aside = None;
        }
        Ok(())
    }

    /// Accepts until `stop` says how to end, or is gone; needs a runtime. Left, it stays in the file system, where a
    /// successor has taken its place or is about to.
    pub async fn accept(
        mut self,
        slots: ConnectionLimit,
        mut stop: oneshot::Receiver<OnClose>,
        mut handle: impl FnMut(UnixStream, Capacity),
    ) -> io::Result<()> {
        let Some(socket) = self.socket.take() else {
            return Ok(());
        };
        let socket = tokio::net::UnixListener::from_std(socket)?;
        let ending = tokio::select! {
            ending = &mut stop => ending,
            never = accept_all(&socket, &slots, &mut handle) => match never {},
        };
        if ending == Ok(OnClose::Leave) {
            self.place.identity = NONE;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let path = self.aside.as_ref().unwrap_or(&self.path);
        if inode_id(path).is_ok_and(|found| found == self.identity) {
            // Who may no longer remove it leaves a file that refuses connections.
            let _ = fs::remove_file(path);
        }
    }
}

async fn accept_all(
    socket: &tokio::net::UnixListener,
    slots: &ConnectionLimit,
    handle: &mut impl FnMut(UnixStream, Capacity),
) -> Infallible {
    loop {
        let room = slots.room().await;
        match socket.accept().await {
            Ok((stream, _nameless)) => handle(stream, room),
            // Descriptors or memory have run out, which the TCP listeners tell.
            Err(_) => tokio::time::sleep(EXHAUSTED).await,
        }
    }
}

fn inode_id(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// No file has the number 0.
const NONE: (u64, u64) = (0, 0);
const EXHAUSTED: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream as Client;

    #[test]
    fn it_takes_the_place_of_another_and_leaves_only_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin");
        let mut first = UnixSocket::bind(&path).unwrap();
        assert!(Client::connect(&path).is_err());
        first.publish().unwrap();
        Client::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        let mut second = UnixSocket::bind(&path).unwrap();
        Client::connect(&path).expect("the first one is still there");
        second.publish().unwrap();
        drop(first);
        Client::connect(&path).expect("the second one is not the first one's to remove");
        drop(second);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn one_that_was_never_published_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixSocket::bind(&dir.path().join("admin")).unwrap());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        fs::write(&path, "mine").unwrap();
        assert!(UnixSocket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
