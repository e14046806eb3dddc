//! The running gate: listeners, workers, the snapshot in use, and the commands that change them.
//!
//! `cli` starts one and runs it until it is told to stop; a test starts one on port 0. Everything that
//! outlives a reload is held here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::body::Budget;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config};
use crate::connection::Drainer;
use crate::listen::{Inherited, Slots};
use crate::log::Sink;
use crate::pid_file::PidFile;
use crate::snapshot::{Purpose, Snapshot};
use crate::systemd::Manager;

mod certificates;
mod checks;
mod commands;
mod descriptors;
mod drain;
mod files;
mod fixed;
mod listeners;
mod orders;
mod reload;
mod sockets;
mod succession;
mod supervision;
pub mod upgrade;
mod watchdog;
mod workers;

use commands::{End, Underway};
use files::Files;
use fixed::Fixed;
use listeners::Listeners;
pub use sockets::{Address, Scheme};
use supervision::Supervision;
use upgrade::Start;
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
    pub log: Option<Sink>,
    /// Who is told how it is.
    pub manager: Manager,
    /// Sockets that were there before it.
    pub inherited: Inherited,
    /// How to start it once more.
    pub start: Option<Start>,
}

/// A gate whose sockets listen.
#[derive(Debug)]
pub struct Server {
    file: PathBuf,
    shared: Arc<Shared>,
    listeners: Listeners,
    workers: Workers,
    drainer: Drainer,
    log: Option<Sink>,
    fixed: Fixed,
    supervision: Supervision,
    start: Option<Start>,
    _files: Files,
}

/// Why there is no gate.
#[derive(Debug)]
pub enum Failure {
    /// The configuration would never start.
    Refused(Problems),
    /// It would, but not now and here: an address is taken, or the system gave no thread.
    Unable(Problems),
}

impl From<Failure> for Problems {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(problems) | Failure::Unable(problems) => problems,
        }
    }
}

/// What every connection looks at.
#[derive(Debug)]
pub(crate) struct Shared {
    snapshot: ArcSwap<Snapshot>,
    budget: Arc<Budget>,
}

impl Shared {
    /// What serves now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The cap on what HTTP/2 uploads hold.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
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
    ) -> Result<(Self, Problems), Failure> {
        let descriptors = descriptors::raise();
        let Some(snapshot) = Snapshot::build(config, None, Purpose::Serve, &mut problems) else {
            return Err(Failure::Refused(problems));
        };
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            budget: Arc::new(Budget::new(config.h2_memory)),
        });
        let drainer = Drainer::new();
        let inherited = process.inherited;
        let Some(listeners) = Listeners::bind(&config.listen, inherited, &mut problems) else {
            return Err(Failure::Unable(problems));
        };
        let watchdog = process.manager.watchdog();
        let started = Workers::start(config.listen.workers, &shared, &drainer, watchdog)
            .and_then(|workers| Ok((workers, Files::start(&shared)?)));
        let (workers, files) = match started {
            Ok(started) => started,
            Err(error) => {
                let what = format!("cannot start the threads: {error}");
                problems.push(Problem::error(None, what));
                return Err(Failure::Unable(problems));
            }
        };
        let most = config.connections.min((descriptors / 2).max(1));
        if most < config.connections {
            tracing::debug!(
                most,
                descriptors,
                "fewer connections than limits.connections: half the descriptors"
            );
        }
        let slots = Slots::new(most, config.connections_per_client);
        let listeners = listeners.with(slots, workers.dispatcher());
        Ok((
            Self {
                file: file.to_owned(),
                shared,
                listeners,
                workers,
                drainer,
                log: process.log,
                fixed: Fixed::of(config),
                supervision: Supervision {
                    manager: process.manager,
                    pid_file: None,
                },
                start: process.start,
                _files: files,
            },
            problems,
        ))
    }

    /// Reads a file and starts: what a test and the demo need.
    pub fn open(file: &Path) -> Result<(Self, Problems), Failure> {
        match config::load(file) {
            (Some(config), problems) => Self::start(file, &config, problems, Process::default()),
            (None, problems) => Err(Failure::Refused(problems)),
        }
    }

    /// The addresses in use.
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.addresses()
    }

    /// What an operator should be told once.
    pub fn notes(&self) -> Vec<String> {
        self.shared.snapshot().notes.clone()
    }

    /// The locked file that leads to this process, held until the end.
    pub fn hold(&mut self, pid_file: PidFile) {
        self.supervision.pid_file = Some(pid_file);
    }

    /// Accepts connections and obeys commands until told to stop; when nobody can command any more, it
    /// stops as well. Returns how many connections were cut at the end.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> usize {
        self.listeners.accept();
        self.supervision.ready(&self.serving());
        let mut underway = Underway {
            watchdog: watchdog::start(self.supervision.manager, &self.workers),
            ..Underway::default()
        };
        let end = self.obey(&mut commands, &mut underway).await;
        if let End::Succeeded(successor) = end {
            self.hand_over(&successor).await;
            if let Some(watchdog) = underway.watchdog.take() {
                watchdog.abort();
            }
        } else {
            self.supervision.drains(self.shared.snapshot().drain);
            self.listeners.close().await;
        }
        self.stop(commands).await
    }

    fn serving(&self) -> String {
        let addresses: Vec<_> = self.addresses().iter().map(ToString::to_string).collect();
        format!("serving on {}", addresses.join(", "))
    }
}
