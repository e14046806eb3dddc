//! A reload: everything new is built on a thread of its own, so that accepting and signals go on, and is swapped in at
//! once, or not at all.
//!
//! Called by `server`, which runs one at a time.

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Server;
use super::supervision::summary;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config};
use crate::snapshot::{BuildMode, Snapshot};

/// Who waits for a verdict.
pub(super) type ReplySender = oneshot::Sender<Result<(), Problems>>;

/// What a reload comes to when nothing is wrong.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) config: Config,
    pub(super) snapshot: Snapshot,
    pub(super) problems: Problems,
}

/// What is asked for, and what is being built.
#[derive(Debug, Default)]
pub(super) struct Reloading {
    is_asked: bool,
    askers: Vec<ReplySender>,
    building: Option<Building>,
}

#[derive(Debug)]
struct Building {
    task: JoinHandle<Result<Built, Problems>>,
    askers: Vec<ReplySender>,
}

impl Reloading {
    /// Whoever asks while one is being built gets the next one: his change may have come too late for it.
    pub(super) fn ask(&mut self, asker: Option<ReplySender>) {
        self.is_asked = true;
        self.askers.extend(asker);
    }

    /// Whether one is asked for, and none is being built.
    pub(super) fn is_due(&self) -> bool {
        self.is_asked && self.building.is_none()
    }

    /// Starts building, on a thread of its own; needs a runtime.
    pub(super) fn begin(&mut self, file: PathBuf, workers: usize, old: Arc<Snapshot>) {
        self.is_asked = false;
        self.building = Some(Building {
            task: spawn_blocking(move || build(&file, workers, &old)),
            askers: std::mem::take(&mut self.askers),
        });
    }

    /// What was built, and who waits for the verdict; never when nothing is being built.
    pub(super) async fn built(&mut self) -> (Result<Built, Problems>, Vec<ReplySender>) {
        let Some(building) = &mut self.building else {
            return pending().await;
        };
        let built = (&mut building.task).await.unwrap_or_else(|error| {
            let mut problems = Problems::new("");
            let what = format!("building the new configuration panicked: {error}");
            problems.push(Problem::error(None, what));
            Err(problems)
        });
        let askers = self.building.take().map(|building| building.askers);
        (built, askers.unwrap_or_default())
    }
}

impl Server {
    /// Swaps in what was built, and tells everyone who wants to know.
    pub(super) fn finish_reload(&mut self, built: Result<Built, Problems>) -> Result<(), Problems> {
        let outcome = built.and_then(|built| self.swap(built));
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
        let failure = outcome.as_ref().err().map(summary);
        self.gate.reloads().note(SystemTime::now(), failure);
        let serving = self.serving();
        self.supervision
            .reload_ended(outcome.as_ref().err(), &serving);
        outcome.map(|_warnings| ())
    }

    fn swap(&mut self, built: Built) -> Result<Problems, Problems> {
        let Built {
            config,
            snapshot,
            mut problems,
        } = built;
        for key in self.fixed.diff(&config) {
            let what = format!("{key} takes effect at the next start");
            problems.push(Problem::warning(None, what));
        }
        // The last thing that can fail: from here on everything is swapped.
        if !self.listeners.change(&config.listen, &mut problems) {
            return Err(problems);
        }
        self.gate.publish(snapshot, config.h2_memory);
        Ok(problems)
    }
}

fn build(file: &std::path::Path, workers: usize, old: &Snapshot) -> Result<Built, Problems> {
    let (config, mut problems) = config::load(file);
    let Some(mut config) = config else {
        return Err(problems);
    };
    let written = config.listen.workers;
    config.listen.workers = workers;
    let snapshot = Snapshot::build(&config, Some(old), BuildMode::Serve, &mut problems);
    config.listen.workers = written;
    match snapshot {
        Some(snapshot) => Ok(Built {
            config,
            snapshot,
            problems,
        }),
        None => Err(problems),
    }
}
