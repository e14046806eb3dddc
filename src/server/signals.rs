//! Turns UNIX signals into commands for the server.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Command;

/// Installs the signal handlers and returns the receiver for [`Server::run`](super::Server::run). HUP reloads, USR1 reopens the
/// logs, USR2 upgrades, and TERM and INT stop; a second TERM or INT closes all connections immediately. Must be called within
/// a runtime.
///
/// # Errors
/// The system does not accept a handler.
pub fn commands() -> io::Result<mpsc::Receiver<Command>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
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

/// The main loop takes commands faster than signals arrive. The kernel merges equal signals that are pending.
const QUEUE_LENGTH: usize = 16;
