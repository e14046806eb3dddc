//! `tidegate serve`: starts a server from a configuration file, runs it, and turns its end into an exit code.
//!
//! A process that an upgrade has started takes the listening sockets and the pid file over from the old process.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::logging;
use super::output::{EXIT_CONFIG_REJECTED, fail, rejection_message, warn};
use crate::config::problem::Problems;
use crate::config::{self, Config};
use crate::server::pid_file::{self, PidFile};
use crate::server::service_manager::SystemdNotifier;
use crate::server::signals;
use crate::server::upgrade::{HandoverReceiver, LaunchCommand};
use crate::server::{Command, InheritedSockets, ProcessContext, Server, StartError};
use crate::snapshot::{BuildMode, Snapshot};
use crate::{log, state_file};

pub(crate) fn run(file: &Path) -> ExitCode {
    let handover = match HandoverReceiver::receive() {
        Ok(handover) => handover,
        Err(error) => return fail(&format!("cannot take over from the old process: {error}")),
    };
    let (inherited, handover) = match handover {
        Some(mut handover) => (Ok(std::mem::take(&mut handover.inherited)), Some(handover)),
        None => (InheritedSockets::from_env(), None),
    };
    let started = match inherited {
        Ok(inherited) => start(file, inherited, handover.as_ref()),
        Err(error) => {
            let reason = format!("cannot use the sockets that systemd passed: {error}");
            Err(ServeError::runtime(reason))
        }
    };
    let ended = started.and_then(|started| serve(started, handover, file));
    log::finish_all();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            warn(&error.message);
            ExitCode::from(error.exit_code)
        }
    }
}

/// The reason why the server did not start or serve.
struct ServeError {
    message: String,
    exit_code: u8,
}

impl ServeError {
    fn runtime(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_code: 1,
        }
    }

    fn invalid_config(problems: &Problems) -> Self {
        Self {
            message: rejection_message(problems),
            exit_code: EXIT_CONFIG_REJECTED,
        }
    }
}

/// A server whose sockets listen, the runtime of its main thread, and the commands of the signals that arrived since.
struct StartedServer {
    server: Server,
    runtime: Runtime,
    commands: mpsc::Receiver<Command>,
}

fn start(
    file: &Path,
    inherited: InheritedSockets,
    handover: Option<&HandoverReceiver>,
) -> Result<StartedServer, ServeError> {
    let started = build(file, inherited, handover.is_some());
    if let (Err(error), Some(handover)) = (&started, handover) {
        // The old process logs the last line only. All lines are on standard error.
        handover.failed(error.message.lines().last().unwrap_or_default());
    }
    started
}

/// `is_successor` is set in a process that an upgrade has started. It takes over the pid file later, when it is ready.
fn build(
    file: &Path,
    inherited: InheritedSockets,
    is_successor: bool,
) -> Result<StartedServer, ServeError> {
    let (config, mut problems) = config::load(file);
    let Some(config) = config else {
        return Err(ServeError::invalid_config(&problems));
    };
    if problems.has_errors() {
        // Adds the problems of the files that the configuration names, so that all are reported in one run.
        Snapshot::build(&config, None, BuildMode::Check, &mut problems);
        return Err(ServeError::invalid_config(&problems));
    }
    let log = match logging::start(&config.log) {
        Ok(log) => log,
        Err(error) => {
            // Reports the log file in the same way as `tidegate check`, and all other problems as well.
            Snapshot::build(&config, None, BuildMode::Check, &mut problems);
            return Err(if problems.has_errors() {
                ServeError::invalid_config(&problems)
            } else {
                ServeError::runtime(format!("cannot write log.file: {error}"))
            });
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ServeError::runtime(format!("cannot start: {error}")))?;
    // The pid file and READY=1 tell others where to send signals, and a HUP without a handler ends the process. A command that
    // arrives before the server runs waits for it.
    let commands = runtime
        .block_on(async { signals::commands() })
        .map_err(|error| ServeError::runtime(format!("cannot listen for signals: {error}")))?;
    let pid_file = if is_successor {
        None
    } else {
        take_pid_file(file, &config)?
    };
    let process = ProcessContext {
        log: Some(log),
        manager: SystemdNotifier::from_env(),
        inherited,
        launch_command: LaunchCommand::of_this_process().ok(),
    };
    let started = Server::start(file, &config, problems, process);
    let (mut server, problems) = match started {
        Ok(started) => started,
        Err(error) => {
            if let Some(pid_file) = pid_file {
                pid_file.remove();
            }
            return Err(match error {
                StartError::InvalidConfig(problems) => ServeError::invalid_config(&problems),
                StartError::Runtime(problems) => {
                    ServeError::runtime(format!("{problems}\nnot started"))
                }
            });
        }
    };
    for problem in problems.warnings() {
        tracing::warn!("{}", problems.line(problem));
    }
    if let Some(pid_file) = pid_file {
        server.set_pid_file(pid_file);
    }
    Ok(StartedServer {
        server,
        runtime,
        commands,
    })
}

fn serve(
    started: StartedServer,
    handover: Option<HandoverReceiver>,
    file: &Path,
) -> Result<(), ServeError> {
    let StartedServer {
        mut server,
        runtime,
        commands,
    } = started;
    let ended = runtime.block_on(async {
        if let Some(handover) = handover {
            server.check_upstreams().await;
            take_over(&mut server, handover, file)?;
        }
        for note in server.notes() {
            tracing::info!("{note}");
        }
        for address in server.descriptions() {
            tracing::info!("listening on {address}");
        }
        let ended = server.run(commands).await;
        ended.map_err(|error| ServeError::runtime(error.to_string()))?;
        Ok(())
    });
    // Dropping the runtime would wait for ever, if a reload or an order waits for a disk or a lock.
    runtime.shutdown_timeout(BLOCKED_WORK_TIMEOUT);
    ended
}

/// The time for work on the threads that may block, such as writing a certificate, when the server has ended.
const BLOCKED_WORK_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits until the old process lets this one serve, and takes over its pid file.
fn take_over(
    server: &mut Server,
    handover: HandoverReceiver,
    config: &Path,
) -> Result<(), ServeError> {
    handover.ready().map_err(|error| {
        ServeError::runtime(format!("the old process continues to serve: {error}"))
    })?;
    if let Some((path, file)) = handover.pid_file {
        match PidFile::adopt(file, path, config) {
            Ok(pid_file) => server.set_pid_file(pid_file),
            Err(error) => tracing::warn!(%error, "cannot write the pid file"),
        }
    }
    Ok(())
}

/// Creates and locks the pid file. A second process with the same configuration is an error. A directory that cannot be written
/// to is only logged, because the server works without a pid file.
fn take_pid_file(file: &Path, config: &Config) -> Result<Option<PidFile>, ServeError> {
    let dir = config::runtime_directory().unwrap_or_else(|| config.state_dir.clone());
    // If this fails, creating the file fails as well, and that error is reported.
    let _ = state_file::make_state_dir(&dir);
    match PidFile::take(&dir, file) {
        Ok(pid_file) => Ok(Some(pid_file)),
        Err(error @ pid_file::Error::Running { .. }) => {
            Err(ServeError::runtime(format!("{error}\nnot started")))
        }
        Err(error @ pid_file::Error::Write { .. }) => {
            tracing::warn!("{error}; tidegate reload will not find this process");
            Ok(None)
        }
    }
}
