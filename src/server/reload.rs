//! The building half of a reload: loads the configuration and builds a snapshot on a thread of the blocking pool, so that
//! accepting and signals continue meanwhile.
//!
//! `server` owns one [`ReloadQueue`] and puts the result into use, all of it or nothing. One reload is built at a time.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config, Log};
use crate::snapshot::{BuildMode, Snapshot};

/// Receives the result of a reload.
pub(crate) type ReplySender = oneshot::Sender<Result<(), Problems>>;

/// The reload that is being built, and the requests for the next one.
#[derive(Debug, Default)]
pub(crate) struct ReloadQueue {
    is_requested: bool,
    replies: Vec<ReplySender>,
    building: Option<Building>,
}

#[derive(Debug)]
struct Building {
    task: JoinHandle<Result<BuiltConfig, Problems>>,
    replies: Vec<ReplySender>,
}

/// A valid configuration, and the snapshot that was built from it.
#[derive(Debug)]
pub(crate) struct BuiltConfig {
    pub(crate) config: Config,
    pub(crate) snapshot: Snapshot,
    /// Warnings.
    pub(crate) problems: Problems,
}

impl ReloadQueue {
    /// Requests a reload. A request that arrives while one is being built leads to another reload, because the change that the
    /// caller made may have come too late for the current one. All requests that wait share the next reload.
    pub(crate) fn request(&mut self, reply: Option<ReplySender>) {
        self.is_requested = true;
        self.replies.extend(reply);
    }

    /// Whether a reload is requested and none is being built.
    pub(crate) fn is_due(&self) -> bool {
        self.is_requested && !self.is_building()
    }

    /// Whether a reload is being built.
    pub(crate) fn is_building(&self) -> bool {
        self.building.is_some()
    }

    /// Starts to build the snapshot of the requested reload from the configuration in `file`, on a thread that may block. `running`
    /// has the settings that only a new start can change, and `old` is the snapshot in use. Must be called within a tokio runtime.
    pub(crate) fn start(&mut self, file: PathBuf, running: StartupSettings, old: Arc<Snapshot>) {
        self.is_requested = false;
        self.building = Some(Building {
            task: spawn_blocking(move || build(&file, &running, &old)),
            replies: std::mem::take(&mut self.replies),
        });
    }

    /// Waits for the build in progress, and returns its result and the callers that wait for it. Stays pending while nothing is
    /// being built.
    pub(crate) async fn built(&mut self) -> (Result<BuiltConfig, Problems>, Vec<ReplySender>) {
        let Some(building) = &mut self.building else {
            return pending().await;
        };
        let built = (&mut building.task).await.unwrap_or_else(|error| {
            let mut problems = Problems::new("");
            let what = format!("building the new configuration panicked: {error}");
            let remedy = "report it with the line in the log that names the place of the panic";
            problems.push(Problem::error(None, what).fix(remedy));
            Err(problems)
        });
        let replies = self.building.take().map(|building| building.replies);
        (built, replies.unwrap_or_default())
    }
}

fn build(file: &Path, running: &StartupSettings, old: &Snapshot) -> Result<BuiltConfig, Problems> {
    let (config, mut problems) = config::load(file);
    let Some(mut config) = config else {
        return Err(problems);
    };
    for key in running.changed_keys(&config) {
        let what = format!("{key} takes effect at the next start");
        problems.push(Problem::warning(None, what));
    }
    // The snapshot is built for the workers that run, and its access log keeps the format of the process log.
    config.listen.workers = running.workers;
    config.log.format = running.log.format;
    match Snapshot::build(&config, Some(old), BuildMode::Serve, &mut problems) {
        Some(snapshot) => Ok(BuiltConfig {
            config,
            snapshot,
            problems,
        }),
        None => Err(problems),
    }
}

/// The settings that take effect at a start only, as they were at the start. A reload warns when they have changed.
#[derive(Clone, Debug)]
pub(crate) struct StartupSettings {
    workers: usize,
    connections: usize,
    connections_per_client: usize,
    log: Log,
}

impl StartupSettings {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            workers: config.listen.workers,
            connections: config.connections,
            connections_per_client: config.connections_per_client,
            log: config.log.clone(),
        }
    }

    /// The keys whose value differs in `config`.
    fn changed_keys(&self, config: &Config) -> Vec<&'static str> {
        let log = &config.log;
        let keys = [
            ("listen.workers", self.workers != config.listen.workers),
            ("limits.connections", self.connections != config.connections),
            (
                "limits.connections_per_client",
                self.connections_per_client != config.connections_per_client,
            ),
            ("log.level", self.log.level != log.level),
            ("log.file", self.log.destination != log.destination),
            ("log.format", self.log.format != log.format),
        ];
        keys.into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| key)
            .collect()
    }
}
