//! Who is told how the gate is: the service manager, and whoever asks with `tidegate reload`.
//!
//! Called by `server` at each turn of its life.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::problem::Problems;
use crate::server::pid_file::PidFile;
use crate::server::service_manager::SystemdNotifier;

/// The manager and the pid file, where there are any.
#[derive(Debug, Default)]
pub(super) struct Supervision {
    pub(super) manager: SystemdNotifier,
    pub(super) pid_file: Option<PidFile>,
}

impl Supervision {
    /// The gate accepts.
    pub(super) fn ready(&self, serving: &str) {
        self.manager.ready(serving);
    }

    pub(super) fn reload_begins(&mut self) {
        self.manager.reloading();
        if let Some(pid_file) = &mut self.pid_file {
            pid_file.begin();
        }
    }

    /// READY=1 also after a failed one: the gate serves, with what it had.
    pub(super) fn reload_ended(&self, failure: Option<&Problems>, serving: &str) {
        let failure = failure.map(summary);
        match &failure {
            None => self.manager.ready(serving),
            Some(words) => self.manager.ready(&format!(
                "{serving}; the last reload failed, the old configuration stays: {words}"
            )),
        }
        if let Some(pid_file) = &self.pid_file {
            pid_file.end(failure);
        }
    }

    /// For a successor: the lock goes with the descriptor.
    pub(super) fn pid_file_duplicate(&self) -> io::Result<Option<(PathBuf, OwnedFd)>> {
        let duplicate = |pid_file: &PidFile| {
            let descriptor = pid_file.as_fd().try_clone_to_owned()?;
            Ok((pid_file.path().to_owned(), descriptor))
        };
        self.pid_file.as_ref().map(duplicate).transpose()
    }

    pub(super) fn drains(&self, limit: Duration) {
        self.manager
            .stopping(&format!("draining for at most {limit:?}"));
    }
}

/// The first error stands for all, with how many there are.
pub(super) fn summary(problems: &Problems) -> String {
    let first = problems.errors().next();
    let first = first.map_or_else(String::new, |problem| problems.line(problem));
    format!("{first} ({})", problems.summary())
}
