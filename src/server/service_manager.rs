//! Reports the state of the server to systemd (sd_notify(3)), and the results of reloads to `tidegate reload`.
//!
//! `cli` creates the [`SystemdNotifier`] from the environment, and `server` reports every change of state through
//! `StatusReporter`. Where `NOTIFY_SOCKET` is not set, no message is sent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;

use super::pid_file::PidFile;

/// Sends each change of state to the service manager, and writes the result of each reload next to the pid file. The default
/// reports nowhere.
#[derive(Debug, Default)]
pub(crate) struct StatusReporter {
    manager: SystemdNotifier,
    pid_file: Option<PidFile>,
}

impl StatusReporter {
    pub(crate) fn new(manager: SystemdNotifier) -> Self {
        Self {
            manager,
            pid_file: None,
        }
    }

    pub(crate) fn set_pid_file(&mut self, pid_file: PidFile) {
        self.pid_file = Some(pid_file);
    }

    /// Removes the pid file at a clean end of the process.
    pub(crate) fn remove_pid_file(&mut self) {
        if let Some(pid_file) = self.pid_file.take() {
            pid_file.remove();
        }
    }

    pub(crate) fn manager(&self) -> SystemdNotifier {
        self.manager
    }

    /// Reports that the server accepts connections. `serving` is the status line of a server that works.
    pub(crate) fn ready(&self, serving: &str) {
        self.manager.ready(serving);
    }

    pub(crate) fn reload_started(&mut self) {
        self.manager.reloading();
        if let Some(pid_file) = &mut self.pid_file {
            pid_file.record_reload_start();
        }
    }

    /// Reports the end of a reload. systemd expects READY=1 also after a failed reload, because the server still serves, with
    /// the old configuration.
    pub(crate) fn reload_finished(&self, failure: Option<String>, serving: &str) {
        match &failure {
            None => self.manager.ready(serving),
            Some(reason) => self.manager.ready(&format!(
                "{serving}; the last reload failed, and the old configuration stays in use: {reason}"
            )),
        }
        if let Some(pid_file) = &self.pid_file {
            pid_file.record_reload_end(failure);
        }
    }

    pub(crate) fn draining(&self, delay: Duration, limit: Duration) {
        let mut status = format!("draining for at most {limit:?}");
        if !delay.is_zero() {
            status = format!("not ready, and {status} in {delay:?}");
        }
        let time = delay.saturating_add(limit).saturating_add(END_MARGIN);
        self.manager.stopping(&status, time);
    }

    /// A duplicate of the descriptor of the pid file, for the successor in an upgrade. The lock belongs to the open file
    /// description, so it passes on with the duplicate.
    pub(crate) fn duplicate_pid_file(&self) -> io::Result<Option<(PathBuf, OwnedFd)>> {
        let duplicate = |pid_file: &PidFile| {
            let descriptor = pid_file.as_fd().try_clone_to_owned()?;
            Ok((pid_file.path().to_owned(), descriptor))
        };
        self.pid_file.as_ref().map(duplicate).transpose()
    }
}

/// The service manager that started the process. The default value is for a process without a service manager.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemdNotifier {
    has_socket: bool,
    watchdog: Option<Duration>,
}

impl SystemdNotifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` from the environment.
    pub fn from_env() -> Self {
        let has_socket = std::env::var_os("NOTIFY_SOCKET").is_some();
        let watchdog = sd_notify::watchdog_enabled();
        Self {
            has_socket,
            watchdog: watchdog.filter(|timeout| has_socket && !timeout.is_zero()),
        }
    }

    /// The watchdog timeout: the service manager ends the process if [`alive`](Self::alive) is not called for this long.
    pub fn watchdog(self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends READY=1: the start or a reload is finished.
    pub fn ready(self, status: &str) {
        let status = one_line(status);
        self.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Sends RELOADING=1. `Type=notify-reload` requires the time as well, so that systemd can tell this reload from one that
    /// began before its request.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot read the monotonic clock"),
        }
    }

    /// Sends STATUS=, the line that `systemctl status` shows.
    pub fn status(self, status: &str) {
        self.notify(&[NotifyState::Status(&one_line(status))]);
    }

    /// Sends STOPPING=1: the server drains, and the process will end within `time`. systemd then waits for that long, also if
    /// `TimeoutStopSec=` is less.
    pub fn stopping(self, status: &str, time: Duration) {
        let status = one_line(status);
        let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.notify(&[
            NotifyState::Stopping,
            NotifyState::Status(&status),
            NotifyState::ExtendTimeoutUsec(time),
        ]);
    }

    /// Sends MAINPID=: another process is the service from now on.
    pub fn main_pid(self, pid: u32) {
        self.notify(&[NotifyState::MainPid(pid)]);
    }

    /// Sends WATCHDOG=1, which restarts the watchdog timeout.
    pub fn alive(self) {
        self.notify(&[NotifyState::Watchdog]);
    }

    fn notify(self, states: &[NotifyState<'_>]) {
        if self.has_socket
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

/// The time from the end of the drain to the end of the process, on a busy machine.
const END_MARGIN: Duration = Duration::from_secs(10);

/// Replaces line breaks and other control characters: a line break would begin another field of the message.
fn one_line(text: &str) -> String {
    text.split(char::is_control)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\nREADY=1\r\n\tb"), "a READY=1 b");
    }
}
