//! The end: what runs may finish within a limit, and a second command to stop cuts it at once.
//!
//! Called by `server` when nothing is accepted any more.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Command, Server};

impl Server {
    /// Returns how many connections were cut.
    pub(super) async fn stop(mut self, mut commands: mpsc::Receiver<Command>) -> usize {
        let limit = self.gate.snapshot().drain;
        tracing::info!(
            connections = self.workers.open(),
            "draining for at most {limit:?}"
        );
        self.drainer.begin();
        tokio::select! {
            _ = timeout(limit, self.workers.finished()) => {}
            () = wait_second_signal(&mut commands) => tracing::info!("told again: ending at once"),
        }
        let cut = self.workers.open();
        self.drainer.force_close();
        self.workers.abort();
        // What is cut ends at once; a thread that does not is left to the end of the process.
        let _ = timeout(Duration::from_secs(1), self.workers.finished()).await;
        tracing::info!(cut, "stopped");
        if let Some(log) = self.gate.snapshot().access_log().cloned() {
            // The caller may read the log when this returns.
            let _ = spawn_blocking(move || log.finish()).await;
        }
        cut
    }
}

/// Returns at the next `Stop`; never when nobody can send one.
async fn wait_second_signal(commands: &mut mpsc::Receiver<Command>) {
    loop {
        match commands.recv().await {
            Some(Command::Stop) => return,
            Some(Command::Reload(_) | Command::ReopenLogs | Command::Upgrade) => {}
            None => std::future::pending().await,
        }
    }
}
