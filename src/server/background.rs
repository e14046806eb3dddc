//! The main runtime's loop: obeys commands, and does what is due, until the gate is to end.
//!
//! Called by `server` once its sockets accept.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::reload::Reloading;
use super::upgrade::{SuccessorProcess, UpgradeState};
use super::{Command, Server, checks, orders};

/// What is going on beside serving.
#[derive(Default)]
pub(super) struct BackgroundTasks {
    pub(super) reloading: Reloading,
    pub(super) upgrading: UpgradeState,
    pub(super) watchdog: Option<JoinHandle<()>>,
}

/// Why the gate no longer accepts.
pub(super) enum End {
    Stopped,
    Succeeded(SuccessorProcess),
}

impl Server {
    /// Returns when the gate is to accept no more.
    pub(super) async fn run_commands(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        underway: &mut BackgroundTasks,
    ) -> End {
        let mut tick = tokio::time::interval(TICK);
        let gate = Arc::clone(&self.gate);
        let mut checks = Box::pin(checks::run(&gate));
        let mut orders = Box::pin(orders::run(&gate));
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Reload(asker)) => underway.reloading.ask(asker),
                    Some(Command::ReopenLogs) => self.reopen_logs(),
                    Some(Command::Upgrade) => self.upgrade(underway),
                    Some(Command::Stop) | None => return End::Stopped,
                },
                (built, askers) = underway.reloading.built() => {
                    let outcome = self.finish_reload(built);
                    for asker in askers {
                        // Whoever asked may have gone.
                        let _ = asker.send(outcome.clone());
                    }
                }
                outcome = underway.upgrading.outcome() => match outcome {
                    Ok(successor) => return End::Succeeded(successor),
                    Err(why) => self.not_upgraded(&why),
                },
                _ = tick.tick() => self.gate.snapshot().service.sites.close_idle(),
                () = &mut checks => {}
                () = &mut orders => {}
            }
            // A successor reads the configuration itself.
            if underway.reloading.is_due() && !underway.upgrading.is_running() {
                self.supervision.reload_begins();
                let workers = self.workers.count();
                let (file, old) = (self.file.clone(), self.gate.snapshot());
                underway.reloading.begin(file, workers, old);
            }
        }
    }

    fn reopen_logs(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
        if let Some(log) = self.gate.snapshot().access_log() {
            log.reopen();
        }
        tracing::info!("log files reopened");
    }
}

/// How often connections to upstreams that nobody uses any more are closed.
const TICK: Duration = Duration::from_secs(15);
