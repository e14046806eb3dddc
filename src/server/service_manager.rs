//! What the service manager is told: that the gate is ready, reloads or stops, who its main process is, that it is
//! alive, and one line of status; and where the secrets are that it passes.
//!
//! `server` tells it, `snapshot` asks it. Where no manager listens (`NOTIFY_SOCKET` is not set) nothing is said. The messages are those of
//! sd_notify(3).

use std::time::Duration;

use sd_notify::NotifyState;

/// The manager that started the process, or nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemdNotifier {
    listens: bool,
    watchdog: Option<Duration>,
}

impl SystemdNotifier {
    /// Whoever the environment names.
    pub fn from_env() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        Self {
            listens,
            watchdog: sd_notify::watchdog_enabled().filter(|within| listens && !within.is_zero()),
        }
    }

    /// How often [`alive`](Self::alive) is expected at least.
    pub fn watchdog(self) -> Option<Duration> {
        self.watchdog
    }

    /// Start or reload is done, the latter also when it failed.
    pub fn ready(self, status: &str) {
        let status = one_line(status);
        self.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// A reload begins. `Type=notify-reload` wants the time, to tell it from one that it has not asked for.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot read the monotonic clock"),
        }
    }

    /// One line for `systemctl status`.
    pub fn status(self, status: &str) {
        self.notify(&[NotifyState::Status(&one_line(status))]);
    }

    /// The gate drains, and will end.
    pub fn stopping(self, status: &str) {
        let status = one_line(status);
        self.notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
    }

    /// Another process is the service from now on.
    pub fn main_pid(self, pid: u32) {
        self.notify(&[NotifyState::MainPid(pid)]);
    }

    /// Keeps the watchdog from ending the process.
    pub fn alive(self) {
        self.notify(&[NotifyState::Watchdog]);
    }

    fn notify(self, states: &[NotifyState<'_>]) {
        if self.listens
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "cannot tell the service manager");
        }
    }
}

/// A line break would begin another field of the message.
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
