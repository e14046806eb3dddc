//! `tidegate reload`: checks the file, tells the process that serves with it, and waits for the verdict.
//!
//! The process is found by its locked pid file. No transfer is waited for: running ones go on.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{fail, refuse, say, serve};
use crate::config;
use crate::pid_file::{self, Verdict};
use crate::snapshot::{Purpose, Snapshot};

pub(super) fn run(file: &Path) -> ExitCode {
    let (config, mut problems) = config::load(file);
    let built = config.and_then(|config| {
        Snapshot::build(&config, None, Purpose::Check, &mut problems)?;
        Some(config)
    });
    let Some(config) = built else {
        refuse(&problems);
        return ExitCode::FAILURE;
    };
    let places = places(&config.state_dir);
    let found = places
        .iter()
        .find_map(|dir| Some((dir, pid_file::running(dir, file)?)));
    let Some((dir, pid)) = found else {
        let looked: Vec<_> = places
            .iter()
            .map(|dir| pid_file::place(dir, file).display().to_string())
            .collect();
        return fail(&format!(
            "no gate serves with {} (no process holds {}); start one with tidegate serve, or see whether it was started \
             with another path or as another user",
            file.display(),
            looked.join(", nor ")
        ));
    };
    let before = pid_file::verdict(dir, file).unwrap_or_default();
    if let Err(error) = signal(dir, file, pid) {
        return fail(&format!("cannot signal process {pid}: {error}"));
    }
    match wait(dir, file, pid, &before) {
        Ok(None) => {
            if !problems.is_empty() {
                say(&problems.to_string());
            }
            say(&format!("process {pid} has reloaded {}", file.display()));
            ExitCode::SUCCESS
        }
        Ok(Some(failure)) => fail(&format!(
            "process {pid} has not reloaded, and serves on with the old configuration: {failure}"
        )),
        Err(why) => fail(&format!("process {pid} {why}")),
    }
}

/// In the order of likelihood: a shell does not have the service's environment.
fn places(state_dir: &Path) -> Vec<PathBuf> {
    let mut places: Vec<_> = serve::runtime_directory().into_iter().collect();
    places.push(PathBuf::from("/run/tidegate"));
    places.push(state_dir.to_owned());
    places
}

/// The descriptor names one process for ever; that it is still the right one is asked after it was opened.
fn signal(dir: &Path, file: &Path, pid: u32) -> std::io::Result<()> {
    let gone = || std::io::Error::new(std::io::ErrorKind::NotFound, "it has ended");
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = pidfd_open(raw.ok_or_else(gone)?, PidfdFlags::empty())?;
    if pid_file::running(dir, file) != Some(pid) {
        return Err(gone());
    }
    Ok(pidfd_send_signal(&process, Signal::HUP)?)
}

/// What came of the first reload that began after the signal.
fn wait(dir: &Path, file: &Path, pid: u32, before: &Verdict) -> Result<Option<String>, String> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(now) = pid_file::verdict(dir, file)
            && now.ended > before.begun
        {
            return Ok(now.failure);
        }
        if pid_file::running(dir, file) != Some(pid) {
            return Err("ended before it said what came of it; see its log".to_owned());
        }
        std::thread::park_timeout(BETWEEN);
    }
    Err(format!("has not answered within {PATIENCE:?}; see its log"))
}

/// A reload takes as long as reading the files does.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN: Duration = Duration::from_millis(10);
