//! The admin listener where it is a socket in the file system: bound, moved by a reload, and left to a successor.
//!
//! Called by `listeners`; one with an address is a socket among the others.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use crate::admin::Admin;
use crate::config;
use crate::config::problem::{Problem, Problems};
use crate::htpasswd::shell_word;
use crate::net::listener::{OnClose, UnixSocket};

/// None, bound, or accepting. Dropped, it accepts no more, and its file goes.
#[derive(Debug, Default)]
pub(super) struct AdminSocket {
    path: Option<PathBuf>,
    /// Bound to the path and not yet accepting.
    bound: Option<(PathBuf, UnixSocket)>,
    stop: Option<oneshot::Sender<OnClose>>,
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
                problems.push(Problem::error(None, what).fix(remedy(path, &error)));
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
            let _ = stop.send(OnClose::Abandon);
        }
    }
}

/// What to do about a path at which no socket can be made, by its cause.
fn remedy(path: &Path, error: &io::Error) -> String {
    let dir = path.parent().unwrap_or_else(|| Path::new("/"));
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "mkdir -p {}, and let the proxy's user write there, or set RuntimeDirectory= in the unit",
            shell_word(&dir.to_string_lossy())
        ),
        io::ErrorKind::PermissionDenied => format!(
            "let the proxy's user write to {}, or name a path in $RUNTIME_DIRECTORY of the service",
            dir.display()
        ),
        io::ErrorKind::AlreadyExists => "name another path, or remove the file".to_owned(),
        _ => {
            "name a path in a directory where the proxy's user may make files, such as one in /run"
                .to_owned()
        }
    }
}
