//! `tidegate serve`: from a file to a gate that runs, and to the exit code when it has ended.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::runtime::Runtime;

use super::{REFUSED, warn};
use crate::config::problem::Problems;
use crate::config::{self, Config};
use crate::server::InheritedSockets;
use crate::server::pid_file;
use crate::server::pid_file::PidFile;
use crate::server::service_manager::SystemdNotifier;
use crate::server::signals;
use crate::server::upgrade::{HandoverReceiver, LaunchCommand};
use crate::server::{Process, Server, StartError};
use crate::snapshot::{BuildMode, Snapshot};
use crate::{log, state_file};

/// A gate whose sockets listen, and what it runs on.
struct Started {
    server: Server,
    runtime: Runtime,
}

/// Why the gate does not serve.
struct Ended {
    why: String,
    code: u8,
}

impl Ended {
    fn unable(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            code: 1,
        }
    }

    fn refused(problems: &Problems) -> Self {
        let file = problems.file().display();
        let summary = problems.summary();
        Self {
            why: format!("{problems}\n{file}: the configuration is refused: {summary}"),
            code: REFUSED,
        }
    }
}

pub(super) fn run(file: &Path) -> ExitCode {
    let handover = match HandoverReceiver::receive() {
        Ok(handover) => handover,
        Err(error) => {
            warn(&format!("cannot take over from another process: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (inherited, succession) = match handover {
        Some(mut handover) => (Ok(std::mem::take(&mut handover.inherited)), Some(handover)),
        None => (InheritedSockets::from_env(), None),
    };
    let started = match inherited {
        Ok(inherited) => start(file, inherited, succession.as_ref()),
        Err(error) => Err(Ended::unable(format!(
            "cannot use the sockets of systemd: {error}"
        ))),
    };
    let ended = started.and_then(|started| serve(started, succession, file));
    log::finish_all();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ended { why, code }) => {
            warn(&why);
            ExitCode::from(code)
        }
    }
}

fn start(
    file: &Path,
    inherited: InheritedSockets,
    succession: Option<&HandoverReceiver>,
) -> Result<Started, Ended> {
    let started = build(file, inherited, succession.is_some());
    if let (Err(ended), Some(handover)) = (&started, succession) {
        // The other process shows one line of it; the rest is on standard error.
        handover.failed(ended.why.lines().last().unwrap_or_default());
    }
    started
}

fn build(file: &Path, inherited: InheritedSockets, succeeds: bool) -> Result<Started, Ended> {
    let (config, mut problems) = config::load(file);
    let Some(config) = config else {
        return Err(Ended::refused(&problems));
    };
    if problems.has_errors() {
        // For what is wrong with the files it names.
        Snapshot::build(&config, None, BuildMode::Check, &mut problems);
        return Err(Ended::refused(&problems));
    }
    let log = match super::log::start(&config.log) {
        Ok(log) => log,
        Err(error) => {
            // In the words of `check`, and with everything else that is wrong.
            Snapshot::build(&config, None, BuildMode::Check, &mut problems);
            return Err(if problems.has_errors() {
                Ended::refused(&problems)
            } else {
                Ended::unable(format!("cannot write log.file: {error}"))
            });
        }
    };
    let pid_file = if succeeds {
        None
    } else {
        take_pid_file(file, &config)?
    };
    let process = Process {
        log: Some(log),
        manager: SystemdNotifier::from_env(),
        inherited,
        start: LaunchCommand::of_this_process().ok(),
    };
    let (mut server, problems) =
        Server::start(file, &config, problems, process).map_err(|failure| match failure {
            StartError::Refused(problems) => Ended::refused(&problems),
            StartError::Unable(problems) => Ended::unable(format!("{problems}\nnot started")),
        })?;
    for problem in problems.warnings() {
        tracing::warn!("{}", problems.line(problem));
    }
    if let Some(pid_file) = pid_file {
        server.serve_until_stopped(pid_file);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Ended::unable(format!("cannot start: {error}")))?;
    Ok(Started { server, runtime })
}

fn serve(started: Started, succession: Option<HandoverReceiver>, file: &Path) -> Result<(), Ended> {
    let Started {
        mut server,
        runtime,
    } = started;
    runtime.block_on(async {
        // Before anybody is told that the gate is there.
        let commands = signals::commands()
            .map_err(|error| Ended::unable(format!("cannot listen for signals: {error}")))?;
        if let Some(handover) = succession {
            server.check_upstreams().await;
            succeed(&mut server, handover, file)?;
        }
        for note in server.notes() {
            tracing::info!("{note}");
        }
        for address in server.addresses() {
            tracing::info!("listening on {address}");
        }
        server.run(commands).await;
        Ok(())
    })
}

fn succeed(server: &mut Server, handover: HandoverReceiver, config: &Path) -> Result<(), Ended> {
    handover
        .ready()
        .map_err(|error| Ended::unable(format!("the old process goes on: {error}")))?;
    if let Some((path, file)) = handover.pid_file {
        match PidFile::adopt(file, path, config) {
            Ok(pid_file) => server.serve_until_stopped(pid_file),
            Err(error) => tracing::warn!(%error, "cannot write the pid file"),
        }
    }
    Ok(())
}

/// A second gate with the same configuration is refused; a folder that cannot be written to is only told, since the
/// gate can serve.
fn take_pid_file(file: &Path, config: &Config) -> Result<Option<PidFile>, Ended> {
    let dir = own_directory(config);
    // Why it cannot be made is seen when the file cannot.
    let _ = state_file::make_dir(&dir);
    match PidFile::take(&dir, file) {
        Ok(pid_file) => Ok(Some(pid_file)),
        Err(error @ pid_file::Error::Running { .. }) => {
            Err(Ended::unable(format!("{error}\nnot started")))
        }
        Err(error @ pid_file::Error::Write { .. }) => {
            tracing::warn!("{error}; tidegate reload will not find this process");
            Ok(None)
        }
    }
}

fn own_directory(config: &Config) -> PathBuf {
    runtime_directory().unwrap_or_else(|| config.state_dir.clone())
}

/// Where systemd has made a folder for the service; the first, when there are several.
pub(super) fn runtime_directory() -> Option<PathBuf> {
    let all = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&all).next()
}
