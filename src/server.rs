//! The running gate: listeners, workers, the snapshot in use, and the commands that change them.
//!
//! `cli` starts one and runs it until it is told to stop; a test starts one on port 0. Everything that
//! outlives a reload is held here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::admin::Admin;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config};
use crate::connection::ShutdownTrigger;
use crate::log::LogWriter;
use crate::net::conn_limit::ConnectionLimit;
use crate::server::pid_file::PidFile;
use crate::server::service_manager::SystemdNotifier;
use crate::snapshot::{BuildMode, Snapshot};
use crate::state::{LifecyclePhase, ServerState};

mod admin_socket;
mod certificates;
mod checks;
mod commands;
mod descriptors;
mod drain;
mod files;
mod fixed;
mod history;
mod inherited;
mod listeners;
mod orders;
pub mod pid_file;
mod reload;
pub mod service_manager;
pub mod signals;
mod sockets;
mod succession;
mod supervision;
pub mod upgrade;
mod watchdog;
mod workers;

use commands::{BackgroundTasks, End};
use files::Files;
use fixed::StartupSettings;
pub use inherited::InheritedSockets;
use listeners::Listeners;
pub use sockets::{Address, Scheme};
use supervision::Supervision;
use upgrade::LaunchCommand;
use workers::Workers;

/// What a running gate can be told.
#[derive(Debug)]
pub enum Command {
    /// Read the configuration again; the verdict is sent back when somebody wants it.
    Reload(Option<oneshot::Sender<Result<(), Problems>>>),
    /// Open the log files anew.
    ReopenLogs,
    /// Start the program anew, and leave the service to it.
    Upgrade,
    /// Stop accepting, let transfers finish, and end; a second one ends at once.
    Stop,
}

/// What the process brings along.
#[derive(Debug, Default)]
pub struct Process {
    /// Its own log, to be reopened.
    pub log: Option<LogWriter>,
    /// Who is told how it is.
    pub manager: SystemdNotifier,
    /// Sockets that were there before it.
    pub inherited: InheritedSockets,
    /// How to start it once more.
    pub start: Option<LaunchCommand>,
}

/// A gate whose sockets listen.
#[derive(Debug)]
pub struct Server {
    file: PathBuf,
    gate: Arc<ServerState>,
    listeners: Listeners,
    workers: Workers,
    drainer: ShutdownTrigger,
    log: Option<LogWriter>,
    fixed: StartupSettings,
    supervision: Supervision,
    start: Option<LaunchCommand>,
    _files: Files,
}

/// Why there is no gate.
#[derive(Debug)]
pub enum StartError {
    /// The configuration would never start.
    Refused(Problems),
    /// It would, but not now and here: an address is taken, or the system gave no thread.
    Unable(Problems),
}

impl From<StartError> for Problems {
    fn from(failure: StartError) -> Self {
        match failure {
            StartError::Refused(problems) | StartError::Unable(problems) => problems,
        }
    }
}

impl Server {
    /// Builds everything, binds every address and starts the workers; connections wait in the kernel
    /// until [`run`](Self::run). The problems hold warnings when it worked, and errors when it did not.
    pub fn start(
        file: &Path,
        config: &Config,
        mut problems: Problems,
        process: Process,
    ) -> Result<(Self, Problems), StartError> {
        // First, as the rest opens files.
        let slots = slots(config);
        let Some(snapshot) = Snapshot::build(config, None, BuildMode::Serve, &mut problems) else {
            return Err(StartError::Refused(problems));
        };
        let log = process.log.clone();
        let gate = Arc::new(ServerState::new(
            snapshot,
            config.h2_memory,
            slots.clone(),
            log,
        ));
        let drainer = ShutdownTrigger::new();
        let inherited = process.inherited;
        let Some(listeners) = Listeners::bind(&config.listen, inherited, &mut problems) else {
            return Err(StartError::Unable(problems));
        };
        let watchdog = process.manager.watchdog();
        let started = Workers::start(config.listen.workers, &gate, &drainer, watchdog)
            .and_then(|workers| Ok((workers, Files::start(&gate)?)));
        let (workers, files) = match started {
            Ok(started) => started,
            Err(error) => {
                let what = format!("cannot start the threads: {error}");
                problems.push(Problem::error(None, what));
                return Err(StartError::Unable(problems));
            }
        };
        let admin = Admin::new(Arc::clone(&gate));
        let listeners = listeners.with(slots, workers.dispatcher(), admin);
        let server = Self {
            file: file.to_owned(),
            gate,
            listeners,
            workers,
            drainer,
            log: process.log,
            fixed: StartupSettings::of(config),
            supervision: Supervision {
                manager: process.manager,
                pid_file: None,
            },
            start: process.start,
            _files: files,
        };
        Ok((server, problems))
    }

    /// Reads a file and starts: what a test and the demo need.
    pub fn open(file: &Path) -> Result<(Self, Problems), StartError> {
        match config::load(file) {
            (Some(config), problems) => Self::start(file, &config, problems, Process::default()),
            (None, problems) => Err(StartError::Refused(problems)),
        }
    }

    /// The addresses in use.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.addresses()
    }

    /// What an operator should be told once.
    pub fn notes(&self) -> Vec<String> {
        self.gate.snapshot().notes.clone()
    }

    /// Runs the first health checks, for two seconds at most: for a process that takes over from another one, so that
    /// `/readyz` does not say between the two that nothing is known of the registry.
    pub async fn check_upstreams(&self) {
        checks::first(&self.gate).await;
    }

    /// The locked file that leads to this process, held until the end.
    pub fn serve_until_stopped(&mut self, pid_file: PidFile) {
        self.supervision.pid_file = Some(pid_file);
    }

    /// Accepts connections and obeys commands until told to stop; when nobody can command any more, it
    /// stops as well. Returns how many connections were cut at the end.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> usize {
        self.gate.set_phase(LifecyclePhase::Serving);
        self.listeners.accept();
        self.supervision.ready(&self.serving());
        // To the end: what drains may move for long.
        let history = tokio::spawn(history::run(Arc::clone(&self.gate)));
        let mut underway = BackgroundTasks {
            watchdog: watchdog::start(self.supervision.manager, &self.workers),
            ..BackgroundTasks::default()
        };
        let end = self.run_commands(&mut commands, &mut underway).await;
        if let End::Succeeded(successor) = end {
            // Whoever still asks this process how the gate is means its successor.
            self.hand_over(&successor).await;
            if let Some(watchdog) = underway.watchdog.take() {
                watchdog.abort();
            }
        } else {
            self.gate.set_phase(LifecyclePhase::Draining);
            self.supervision.drains(self.gate.snapshot().drain);
            self.listeners.close().await;
        }
        let cut = self.stop(commands).await;
        history.abort();
        cut
    }

    fn serving(&self) -> String {
        let addresses: Vec<_> = self.addresses().iter().map(ToString::to_string).collect();
        format!("serving on {}", addresses.join(", "))
    }
}

/// For as many clients as the configuration allows, and the descriptors: a client takes another one for its registry.
fn slots(config: &Config) -> ConnectionLimit {
    let descriptors = descriptors::raise();
    let most = config.connections.min((descriptors / 2).max(1));
    if most < config.connections {
        tracing::debug!(
            most,
            descriptors,
            "fewer connections than limits.connections: half the descriptors"
        );
    }
    ConnectionLimit::new(most, config.connections_per_client)
}
