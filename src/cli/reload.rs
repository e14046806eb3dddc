//! `tidegate reload`: checks the configuration, signals the process that serves with it, and waits for the result.
//!
//! The process is found by its locked pid file, and never by its name. It is signalled even if the command's own check finds
//! errors: the process checks what it reads, keeps the old configuration, and reports the failure in its log, its metrics and
//! its status page, just as after HUP. Otherwise a failed `systemctl reload` would leave no trace where operators look. The
//! command does not wait for transfers, because a reload does not interrupt them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::output::{fail, print_line, warn};
use super::progress::Progress;
use crate::config::problem::Problems;
use crate::config::{self, Config};
use crate::server::pid_file::{self, ReloadStatus, RunningProcess};
use crate::snapshot::{BuildMode, Snapshot};

pub(crate) fn run(file: &Path) -> ExitCode {
    let (config, problems) = check(file);
    let process = match pid_file::find(&pid_file_directories(config.as_ref()), file) {
        Ok(process) => process,
        Err(error) => {
            warn_errors(&problems);
            return fail(&format!(
                "{error}; start one with tidegate serve, or see whether it was started with another path or as another user"
            ));
        }
    };
    let pid = process.pid();
    let before = process.reload_status().unwrap_or_default();
    if let Err(error) = process.signal_reload() {
        warn_errors(&problems);
        return fail(&format!("cannot signal process {pid}: {error}"));
    }
    let progress = Progress::start();
    progress.show(&format!("waiting until process {pid} has reloaded"));
    let result = wait_for_result(&process, &before);
    drop(progress);
    match result {
        Ok(None) => {
            if problems.has_errors() {
                warn(&format!(
                    "{problems}\nwith these errors, the next start would fail; the running process keeps the users and the grants as last read while their files cannot be used"
                ));
            } else if !problems.is_empty() {
                print_line(&problems.to_string());
            }
            print_line(&format!("process {pid} has reloaded {}", file.display()));
            ExitCode::SUCCESS
        }
        Ok(Some(failure)) => {
            // The process reports only one line. The own check has every error with its position.
            warn_errors(&problems);
            fail(&format!(
                "process {pid} has not reloaded, and continues to serve with the old configuration: {failure}"
            ))
        }
        Err(reason) => {
            warn_errors(&problems);
            fail(&format!("process {pid} {reason}"))
        }
    }
}

/// Checks the configuration as `tidegate check` does. There may be a configuration even if the problems have errors.
fn check(file: &Path) -> (Option<Config>, Problems) {
    let (config, mut problems) = config::load(file);
    if let Some(config) = &config {
        Snapshot::build(config, None, BuildMode::Check, &mut problems);
    }
    (config, problems)
}

fn warn_errors(problems: &Problems) {
    if problems.has_errors() {
        warn(&problems.to_string());
    }
}

/// The directories where the pid file may be, the likeliest first. `/run/tidegate` is among them, because a shell does not have
/// the environment of the service, and because the `state.dir` of a configuration that cannot be read is unknown.
pub(crate) fn pid_file_directories(config: Option<&Config>) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    let runtime = config::runtime_directory();
    let state = config.map(|config| config.state_dir.clone());
    let candidates = runtime.into_iter().chain([PathBuf::from("/run/tidegate")]);
    for directory in candidates.chain(state) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories
}

/// Waits for the end of a reload that started after the signal, and returns the reason if it failed. A reload that was in
/// progress at the time of the signal may have read the old file, so its result does not count.
fn wait_for_result(
    process: &RunningProcess,
    before: &ReloadStatus,
) -> Result<Option<String>, String> {
    let deadline = Instant::now() + RELOAD_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(now) = process.reload_status()
            && now.ended > before.started
        {
            return Ok(now.failure);
        }
        if !process.is_running() {
            return Err(
                "has ended, or was replaced in an upgrade, before it reported the result; see the log"
                    .to_owned(),
            );
        }
        std::thread::park_timeout(POLL_INTERVAL);
    }
    Err(format!(
        "has not reported a result within {RELOAD_TIMEOUT:?}; see its log"
    ))
}

/// A reload takes as long as reading its files. They may be many, and on a slow disk.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
