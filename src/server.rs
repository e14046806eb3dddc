//! The running gate: listeners, workers, the snapshot in use, and the commands that change them.
//!
//! `cli` starts one and runs it until it is told to stop; a test starts one on port 0. Everything that
//! outlives a reload is held here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::body::Budget;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config};
use crate::connection::Drainer;
use crate::listen::Slots;
use crate::log::Sink;
use crate::snapshot::{Purpose, Snapshot};

mod descriptors;
mod files;
mod fixed;
mod listeners;
mod workers;

use files::Files;
use fixed::Fixed;
use listeners::Listeners;
pub use listeners::{Address, Scheme};
use workers::Workers;

/// What a running gate can be told.
#[derive(Debug)]
pub enum Command {
    /// Read the configuration again; the verdict is sent back when somebody wants it.
    Reload(Option<oneshot::Sender<Result<(), Problems>>>),
    /// Open the log files anew.
    ReopenLogs,
    /// Stop accepting, let transfers finish, and end; a second one ends at once.
    Stop,
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
        log: Option<Sink>,
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
        let Some(listeners) = Listeners::bind(&config.listen, &mut problems) else {
            return Err(Failure::Unable(problems));
        };
        let started = Workers::start(config.listen.workers, &shared, &drainer)
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
                log,
                fixed: Fixed::of(config),
                _files: files,
            },
            problems,
        ))
    }

    /// Reads a file and starts: what a test and the demo need.
    pub fn open(file: &Path) -> Result<(Self, Problems), Failure> {
        match config::load(file) {
            (Some(config), problems) => Self::start(file, &config, problems, None),
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

    /// Accepts connections and obeys commands until told to stop; when nobody can command any more, it
    /// stops as well. Returns how many connections were cut at the end.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> usize {
        self.listeners.accept();
        let mut tick = tokio::time::interval(TICK);
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                _ = tick.tick() => {
                    self.shared.snapshot().service.sites.close_idle();
                    continue;
                }
            };
            match command {
                Some(Command::Reload(verdict)) => {
                    let result = self.reload();
                    if let Some(verdict) = verdict {
                        // Whoever asked may have gone.
                        let _ = verdict.send(result);
                    }
                }
                Some(Command::ReopenLogs) => self.reopen_logs(),
                Some(Command::Stop) | None => break,
            }
        }
        self.stop(commands).await
    }

    fn reload(&mut self) -> Result<(), Problems> {
        let outcome = self.try_reload();
        match &outcome {
            Ok(problems) => {
                for problem in problems.warnings() {
                    tracing::warn!("{}", problems.line(problem));
                }
                tracing::info!("reloaded");
            }
            Err(problems) => {
                for problem in problems.errors() {
                    tracing::error!("{}", problems.line(problem));
                }
                tracing::error!(
                    "not reloaded: {}; the old configuration stays in use",
                    problems.summary()
                );
            }
        }
        outcome.map(|_warnings| ())
    }

    fn try_reload(&mut self) -> Result<Problems, Problems> {
        let (config, mut problems) = config::load(&self.file);
        let Some(mut config) = config else {
            return Err(problems);
        };
        for key in self.fixed.changed(&config) {
            let what = format!("{key} takes effect at the next start");
            problems.push(Problem::warning(None, what));
        }
        config.listen.workers = self.workers.count();
        let old = self.shared.snapshot();
        let Some(snapshot) = Snapshot::build(&config, Some(&old), Purpose::Serve, &mut problems)
        else {
            return Err(problems);
        };
        // The last thing that can fail: from here on everything is swapped.
        self.listeners
            .change(&config.listen, &mut problems)
            .then_some(())
            .ok_or_else(|| problems.clone())?;
        self.shared.snapshot.store(Arc::new(snapshot));
        self.shared.budget.set_limit(config.h2_memory);
        Ok(problems)
    }

    fn reopen_logs(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
        if let Some(log) = self.shared.snapshot().access_log() {
            log.reopen();
        }
        tracing::info!("log files reopened");
    }

    async fn stop(mut self, mut commands: mpsc::Receiver<Command>) -> usize {
        let limit = self.shared.snapshot().drain;
        tracing::info!(
            connections = self.workers.open(),
            "draining for at most {limit:?}"
        );
        self.listeners.close();
        self.drainer.begin();
        tokio::select! {
            _ = timeout(limit, self.workers.finished()) => {}
            () = second_stop(&mut commands) => tracing::info!("told again: ending at once"),
        }
        let cut = self.workers.open();
        self.drainer.cut();
        self.workers.cut();
        // What is cut ends at once; a thread that does not is left to the end of the process.
        let _ = timeout(Duration::from_secs(1), self.workers.finished()).await;
        tracing::info!(cut, "stopped");
        cut
    }
}

/// Returns at the next `Stop`; never when nobody can send one.
async fn second_stop(commands: &mut mpsc::Receiver<Command>) {
    loop {
        match commands.recv().await {
            Some(Command::Stop) => return,
            Some(Command::Reload(_) | Command::ReopenLogs) => {}
            None => std::future::pending().await,
        }
    }
}

/// How often connections to upstreams that nobody uses any more are closed.
const TICK: Duration = Duration::from_secs(15);
