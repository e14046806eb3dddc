//! The paths that the proxy writes to: the access log is opened, and the log files, the directories of sockets and `state.dir`
//! are examined.
//!
//! Used while a snapshot is built. `tidegate check` opens no log, so it examines by the rights of its own process whether
//! `tidegate serve` could open one.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::build_mode::BuildMode;
use crate::config::problem::{Position, Problem, Problems};
use crate::config::{self, Config, toml_string};
use crate::htpasswd::shell_word;
use crate::log::{Destination, LogWriter};
use crate::net::listener::ListenAddr;
use crate::state_file;

/// Opens the access log, or returns the open log of the old snapshot if the destination is the same. `None` if the log is off,
/// if nothing is to be written, or if it cannot be opened, which is reported.
pub(crate) fn open_access_log(
    config: &Config,
    old: Option<&LogWriter>,
    mode: BuildMode,
    problems: &mut Problems,
) -> Option<LogWriter> {
    let destination = config
        .log
        .access
        .clone()
        .filter(|_| mode == BuildMode::Serve)?;
    let format = config.log.format;
    if let Some(writer) = old
        && (writer.destination(), writer.format()) == (&destination, format)
    {
        return Some(writer.clone());
    }
    match LogWriter::open(destination.clone(), format) {
        Ok(writer) => Some(writer),
        Err(error) => {
            problems.push(match &destination {
                Destination::File(path) => {
                    let place = config.places.access_file;
                    not_writable("log.access_file", path, &error, place)
                }
                Destination::Stdout => {
                    Problem::error(None, format!("cannot write to standard output: {error}"))
                        .fix("name a file in log.access_file")
                }
            });
            None
        }
    }
}

/// Reports each log file that this process could not write.
pub(crate) fn check_logs(config: &Config, problems: &mut Problems) {
    let log = &config.log;
    let all = [
        ("log.file", Some(&log.destination), config.places.log_file),
        (
            "log.access_file",
            log.access.as_ref(),
            config.places.access_file,
        ),
    ];
    for (key, destination, place) in all {
        let Some(Destination::File(path)) = destination else {
            continue;
        };
        if let Err(error) = check_appendable(path) {
            problems.push(not_writable(key, path, &error, place));
        }
    }
}

/// Reports each Unix socket of `[listen]` that this process could not create. The default admin socket is not examined, because
/// the proxy serves without it.
pub(crate) fn check_sockets(config: &Config, problems: &mut Problems) {
    let (listen, places) = (&config.listen, &config.places);
    let admin = listen.admin.path().filter(|_| !listen.admin.is_default);
    if let Some(path) = admin {
        let otherwise = config.state_dir.join("admin.sock");
        let otherwise = std::path::absolute(&otherwise).unwrap_or(otherwise);
        check_socket("admin", path, &otherwise, places.admin, config, problems);
    }
    for address in &listen.behind_proxy {
        if let ListenAddr::Unix(path) = address {
            let otherwise = config.state_dir.join("http.sock");
            let otherwise = std::path::absolute(&otherwise).unwrap_or(otherwise);
            let place = places.behind_proxy;
            check_socket("behind_proxy", path, &otherwise, place, config, problems);
        }
    }
}

/// Reports a socket that this process could not create. `otherwise` is a path at which the proxy could create it.
fn check_socket(
    key: &str,
    path: &Path,
    otherwise: &Path,
    place: Option<Position>,
    config: &Config,
    problems: &mut Problems,
) {
    let dir = directory(path);
    // The proxy creates `state.dir`, which `check_state_dirs` examines.
    if dir == config.state_dir {
        return;
    }
    let checked = access(dir, Access::WRITE_OK | Access::EXEC_OK);
    let Err(error) = checked.map_err(io::Error::from) else {
        return;
    };
    let value = toml_string(&format!("unix:{}", otherwise.display()));
    // A list may have further addresses, which are right.
    let otherwise = match key {
        "admin" => format!("write admin = {value}"),
        _ => format!(
            "write {value} in the place of {}",
            toml_string(&format!("unix:{}", path.display()))
        ),
    };
    if error.kind() != io::ErrorKind::NotFound {
        let what = format!(
            "listen.{key}: cannot create a socket in {}: {error}",
            dir.display()
        );
        problems.push(Problem::error(place, what).fix(format!(
            "let the proxy's user write to {}, or {otherwise}",
            dir.display()
        )));
        return;
    }
    let what = format!("listen.{key}: there is no directory {}", dir.display());
    let remedy = format!("mkdir -p {}", shell_word(&dir.to_string_lossy()));
    let may_be_runtime_directory = dir.parent() == Some(Path::new("/run"));
    let problem = if may_be_runtime_directory && config::runtime_directory().is_none() {
        Problem::warning(place, what)
            .because("the proxy does not start without it, unless systemd creates it (RuntimeDirectory=)")
            .fix(format!("{otherwise}, unless the unit has RuntimeDirectory="))
    } else {
        Problem::error(place, what)
            .because("the proxy creates the socket, not its directory")
            .fix(format!(
                "{remedy}, and let the proxy's user write there; or {otherwise}"
            ))
    };
    problems.push(problem);
}

/// Warns of a `state.dir` in which the proxy can create no file, and of a `state.dir` or a directory of ticket keys in which every
/// user of the machine may.
pub(crate) fn check_state_dirs(config: &Config, mode: BuildMode, problems: &mut Problems) {
    let contents = "a CA, a token secret or a certificate";
    let (dir, place) = (&config.state_dir, config.places.state_dir);
    if mode == BuildMode::Check {
        match state_file::may_make(dir) {
            Err(error) => problems.push(unusable_state_dir(dir, place, &error)),
            Ok(()) => {
                let dependent = "a proxy that keeps a CA, a token secret or certificates there";
                warn_if_left_to_systemd("state.dir", dir, place, dependent, problems);
            }
        }
    }
    warn_of_open_dir("state.dir", dir, place, contents, problems);
    if let Some(dir) = &config.ticket_keys {
        if mode == BuildMode::Check {
            let place = Some(dir.place);
            warn_if_left_to_systemd("tls.ticket_keys", dir, place, "the proxy", problems);
        }
        warn_of_open_dir("tls.ticket_keys", dir, Some(dir.place), "a key", problems);
    }
}

/// The problem of a `state.dir` in which this process can create no file. It is a warning, because not every configuration has
/// state; where it is needed, an error follows.
fn unusable_state_dir(dir: &Path, place: Option<Position>, error: &io::Error) -> Problem {
    let word = shell_word(&dir.to_string_lossy());
    let what = format!(
        "state.dir: this user can create no file in {}: {error}",
        dir.display()
    );
    Problem::warning(place, what)
        .because("tidegate reload, status and a restart would not find the process, which keeps its pid file there unless systemd gives it a runtime directory")
        .fix(format!("mkdir -p {word} && chown USER {word} for the user of the proxy, or write another [state] dir"))
}

/// Warns of a directory below `/var/lib` that only systemd can create, outside of a service of systemd: [`state_file::may_make`]
/// takes it for existing. `dependent` needs the directory.
fn warn_if_left_to_systemd(
    key: &str,
    dir: &Path,
    place: Option<Position>,
    dependent: &str,
    problems: &mut Problems,
) {
    let parent = Path::new("/var/lib");
    let state = dir.ancestors().find(|dir| dir.parent() == Some(parent));
    let is_left = |state: &&Path| {
        !state.exists()
            && std::env::var_os("STATE_DIRECTORY").is_none()
            && access(parent, Access::WRITE_OK | Access::EXEC_OK).is_err()
    };
    if let Some(missing) = state.filter(is_left) {
        let what = format!(
            "{key}: there is no directory {}, and this user may not create it",
            missing.display()
        );
        problems.push(
            Problem::warning(place, what)
                .because(format!(
                    "{dependent} does not start, unless systemd creates it (StateDirectory=)"
                ))
                .fix("start tidegate as a service, or name another directory"),
        );
    }
}

fn warn_of_open_dir(
    key: &str,
    dir: &Path,
    place: Option<Position>,
    contents: &str,
    problems: &mut Problems,
) {
    let Ok(metadata) = fs::metadata(dir) else {
        return;
    };
    if !metadata.is_dir() || metadata.mode() & 0o002 == 0 {
        return;
    }
    let what = format!(
        "every user of this machine can create files in {key}, {} (mode {:04o})",
        dir.display(),
        metadata.mode() & 0o7777
    );
    problems.push(
        Problem::warning(place, what)
            .because(format!(
                "the proxy would use {contents} that another user puts there"
            ))
            .fix(format!(
                "chmod o-w {}, and remove files that the proxy has not created",
                shell_word(&dir.to_string_lossy())
            )),
    );
}

/// The problem of a log file that cannot be written. It is an error, except for a missing directory directly below `/var/log`:
/// systemd creates that one when it starts a service with `LogsDirectory=`, so a check outside the service only warns.
fn not_writable(key: &str, path: &Path, error: &io::Error, place: Option<Position>) -> Problem {
    let dir = directory(path);
    if error.kind() == io::ErrorKind::NotFound && !dir.exists() {
        let what = format!("{key}: there is no directory {}", dir.display());
        let remedy = format!("mkdir -p {}", shell_word(&dir.to_string_lossy()));
        let may_be_logs_directory = dir.parent() == Some(Path::new("/var/log"));
        if may_be_logs_directory && std::env::var_os("LOGS_DIRECTORY").is_none() {
            return Problem::warning(place, what)
                .because("the proxy does not start without it, unless systemd creates it (LogsDirectory=)")
                .fix(format!("{remedy}, unless the unit has LogsDirectory="));
        }
        return Problem::error(place, what)
            .because("the proxy creates the file, not its directory")
            .fix(format!("{remedy}, and let the proxy's user write there"));
    }
    let what = format!("{key}: cannot write {}: {error}", path.display());
    Problem::error(place, what).fix(match fs::metadata(path) {
        Ok(found) if found.file_type().is_fifo() => "let the proxy's user read and write the named pipe",
        _ => "name a file that the proxy's user may write, in a directory where that user may create files",
    })
}

/// Whether a file could be created or opened for appending. The file is not opened. A named pipe is opened for reading as well.
fn check_appendable(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(Errno::ISDIR.into()),
        Ok(metadata) if metadata.file_type().is_fifo() => {
            Ok(access(path, Access::READ_OK | Access::WRITE_OK)?)
        }
        Ok(_) => Ok(access(path, Access::WRITE_OK)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(access(directory(path), Access::WRITE_OK | Access::EXEC_OK)?)
        }
        Err(error) => Err(error),
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
