//! `tidegate reload`: checks the configuration, signals the process that serves with it, and waits for the result.
//!
//! The process is found by its locked pid file, and never by its name. It is signalled even when the command's own check finds
//! errors: the process judges what it reads, keeps the old configuration, and reports the failure in its log, its metrics and
//! its status page, just as after HUP. Otherwise a failed `systemctl reload` would leave no trace where operators look. No
//! transfer is waited for: transfers go on.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{fail, print_line, serve, warn};
use crate::config::problem::Problems;
use crate::config::{self, Config};
use crate::server::pid_file;
use crate::server::pid_file::{ReloadStatus, Running};
use crate::snapshot::{BuildMode, Snapshot};

pub(super) fn run(file: &Path) -> ExitCode {
    let (config, problems) = check(file);
    let running = match pid_file::find(&directories(config.as_ref()), file) {
        Ok(running) => running,
        Err(error) => {
            print_errors(&problems);
            return fail(&format!(
                "{error}; start one with tidegate serve, or see whether it was started with another path or as another user"
            ));
        }
    };
    let pid = running.pid();
    let before = running.verdict().unwrap_or_default();
    if let Err(error) = running.signal_reload() {
        print_errors(&problems);
        return fail(&format!("cannot signal process {pid}: {error}"));
    }
    match wait(&running, &before) {
        Ok(None) => {
            if problems.has_errors() {
                warn(&format!(
                    "{problems}\nthis user finds errors that process {pid} did not find"
                ));
            } else if !problems.is_empty() {
                print_line(&problems.to_string());
            }
            print_line(&format!("process {pid} has reloaded {}", file.display()));
            ExitCode::SUCCESS
        }
        Ok(Some(failure)) => {
            // Every error with its place; the process reports one line.
            print_errors(&problems);
            fail(&format!(
                "process {pid} has not reloaded, and serves on with the old configuration: {failure}"
            ))
        }
        Err(why) => {
            print_errors(&problems);
            fail(&format!("process {pid} {why}"))
        }
    }
}

/// As `tidegate check` does it. With errors among the problems there may still be a configuration.
fn check(file: &Path) -> (Option<Config>, Problems) {
    let (config, mut problems) = config::load(file);
    if let Some(config) = &config {
        Snapshot::build(config, None, BuildMode::Check, &mut problems);
    }
    (config, problems)
}

fn print_errors(problems: &Problems) {
    if problems.has_errors() {
        warn(&problems.to_string());
    }
}

/// Where the pid file may be, the likeliest first: a shell does not have the environment of the service, and a configuration
/// that cannot be read does not say its `state.dir`.
fn directories(config: Option<&Config>) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    let runtime = serve::runtime_directory();
    let state = config.map(|config| config.state_dir.clone());
    let likely = runtime.into_iter().chain([PathBuf::from("/run/tidegate")]);
    for directory in likely.chain(state) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

/// The result of the first reload that began after the signal.
fn wait(running: &Running, before: &ReloadStatus) -> Result<Option<String>, String> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(now) = running.verdict()
            && now.ended > before.begun
        {
            return Ok(now.failure);
        }
        if !running.is_running() {
            return Err("ended before it reported the result; see its log".to_owned());
        }
        std::thread::park_timeout(INTERVAL);
    }
    Err(format!("has not answered within {PATIENCE:?}; see its log"))
}

/// A reload takes as long as reading the files does.
const PATIENCE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(10);
