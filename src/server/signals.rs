//! UNIX signals, as commands for the server.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::server::Command;

/// Listens from now on; needs a runtime. HUP reloads, USR1 reopens the logs, USR2 upgrades, TERM and
/// INT drain, and a second one of these ends at once.
pub fn commands() -> io::Result<mpsc::Receiver<Command>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let command = tokio::select! {
                _ = hangup.recv() => Command::Reload(None),
                _ = reopen.recv() => Command::ReopenLogs,
                _ = upgrade.recv() => Command::Upgrade,
                _ = terminate.recv() => Command::Stop,
                _ = interrupt.recv() => Command::Stop,
            };
            if sender.send(command).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
