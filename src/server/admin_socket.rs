//! The admin listener where it is a socket in the file system: bound, moved by a reload, and left to a successor.
//!
//! Called by `listeners`; one with an address is a socket among the others.

use std::path::PathBuf;

use tokio::sync::oneshot;

use crate::admin::Admin;
use crate::config;
use crate::config::problem::{Problem, Problems};
use crate::listen::{Ending, UnixSocket};

/// None, bound, or accepting. Dropped, it accepts no more, and its file goes.
#[derive(Debug, Default)]
pub(super) struct AdminSocket {
    path: Option<PathBuf>,
    /// Bound to the path and not yet accepting.
    bound: Option<(PathBuf, UnixSocket)>,
    stop: Option<oneshot::Sender<Ending>>,
}

impl AdminSocket {
    /// As the configuration has it; `None` when that cannot be, which is reported.
    pub(super) fn bind(admin: &config::Admin, problems: &mut Problems) -> Option<Self> {
        let Some(path) = admin.path() else {
            return Some(Self::default());
        };
        match UnixSocket::bind(path) {
            Ok(socket) => Some(Self {
                path: Some(path.clone()),
                bound: Some((path.clone(), socket)),
                stop: None,
            }),
            Err(error) => {
                let what = format!("cannot listen on unix:{}: {error}", path.display());
                problems.push(Problem::error(None, what).fix(
                    "name a path in a folder that the gate's user may write to, such as one in /run",
                ));
                None
            }
        }
    }

    /// What a new configuration has in its place; nothing when it stays.
    pub(super) fn changed(
        &self,
        admin: &config::Admin,
        problems: &mut Problems,
    ) -> Option<Option<Self>> {
        if self.path.as_ref() == admin.path() {
            return Some(None);
        }
        Self::bind(admin, problems).map(Some)
    }

    /// Takes its place in the file system and accepts, unless it does; needs a runtime.
    pub(super) fn accept(&mut self, admin: &Admin) {
        let Some((path, mut socket)) = self.bound.take() else {
            return;
        };
        if let Err(error) = socket.publish() {
            return tracing::error!(path = %path.display(), %error, "cannot place the admin socket");
        }
        tracing::info!("listening on unix:{} (admin)", path.display());
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        let admin = admin.clone();
        tokio::spawn(async move {
            let handle = |stream, room| admin.serve_unix(stream, room);
            if let Err(error) = socket.accept(admin.slots(), stopped, handle).await {
                tracing::error!(path = %path.display(), %error, "the admin socket failed; restart the gate");
            }
        });
    }

    /// Accepts no more; the file is a successor's.
    pub(super) fn leave(&mut self) {
        if let Some(stop) = self.stop.take() {
            // One that failed has said so.
            let _ = stop.send(Ending::Leave);
        }
    }
}
