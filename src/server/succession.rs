//! The old side of an upgrade, as the gate sees it: what is handed over, and what is said when that worked or did not.
//!
//! Part of `server`; how the two processes talk is known in `upgrade`.

use super::Server;
use super::commands::BackgroundTasks;
use super::supervision::Supervision;
use super::upgrade::{HandoverPayload, SuccessorProcess};

impl Server {
    pub(super) fn upgrade(&self, underway: &mut BackgroundTasks) {
        if underway.upgrading.is_running() {
            return tracing::info!("an upgrade is under way already");
        }
        let Some(start) = self.start.clone() else {
            return self.not_upgraded("this process does not know how it was started");
        };
        tracing::info!("starting the program anew");
        let begun = self
            .estate()
            .and_then(|estate| underway.upgrading.begin(start, estate));
        if let Err(error) = begun {
            self.not_upgraded(&error.to_string());
        }
    }

    fn estate(&self) -> std::io::Result<HandoverPayload> {
        Ok(HandoverPayload {
            sockets: self.listeners.duplicates()?,
            pid_file: self.supervision.pid_file_duplicate()?,
        })
    }

    pub(super) fn not_upgraded(&self, why: &str) {
        tracing::error!("not upgraded: {why}; this process goes on");
        let serving = self.serving();
        let manager = self.supervision.manager;
        manager.status(&format!("{serving}; the last upgrade failed: {why}"));
    }

    pub(super) async fn hand_over(&mut self, successor: &SuccessorProcess) {
        tracing::info!(pid = successor.pid, "the new process serves");
        self.supervision.manager.main_pid(successor.pid);
        // Nothing more is said: another process is the service. Its lock came with the descriptor.
        self.supervision = Supervision::default();
        if let Err(error) = successor.go() {
            tracing::warn!(%error, "the new process does not listen any more");
        }
        self.listeners.hand_over().await;
    }
}
