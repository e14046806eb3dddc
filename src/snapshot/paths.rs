//! What the file system says about the logs and about `state.dir`, before anything is opened there.
//!
//! Called while a snapshot is built. `check` opens no log, so it judges by the rights of its own process whether `serve`
//! could open one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::config::Config;
use crate::config::problem::{Position, Problem, Problems};
use crate::htpasswd::shell_word;
use crate::log::Destination;

/// Reports each log that this process could not write.
pub(super) fn check_logs(config: &Config, problems: &mut Problems) {
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
        if let Err(error) = may_append(path) {
            problems.push(unwritable(key, path, &error, place));
        }
    }
}

/// The report of a log that cannot be written: an error, except for a directory that systemd makes when it starts a
/// service with `LogsDirectory=`, and that only the service itself can expect to be there.
pub(super) fn unwritable(
    key: &str,
    path: &Path,
    error: &io::Error,
    place: Option<Position>,
) -> Problem {
    let dir = directory(path);
    if error.kind() == io::ErrorKind::NotFound && !dir.exists() {
        let what = format!("{key}: there is no directory {}", dir.display());
        let remedy = format!("mkdir -p {}", shell_word(&dir.to_string_lossy()));
        let is_systemds = dir.parent() == Some(Path::new("/var/log"));
        if is_systemds && std::env::var_os("LOGS_DIRECTORY").is_none() {
            return Problem::warning(place, what)
                .because(
                    "the proxy does not start without it, unless systemd makes it (LogsDirectory=)",
                )
                .fix(format!("{remedy}, unless the unit has LogsDirectory="));
        }
        return Problem::error(place, what)
            .because("the proxy makes the file, not its directory")
            .fix(format!("{remedy}, and let the proxy's user write there"));
    }
    Problem::error(place, format!("{key}: cannot write {}: {error}", path.display()))
        .fix("name a file that the proxy's user may write, in a directory where that user may make files")
}

/// Warns of a `state.dir` in which every user of the machine may make files.
pub(super) fn check_state_dir(config: &Config, problems: &mut Problems) {
    let dir = &config.state_dir;
    let Ok(found) = fs::metadata(dir) else {
        return;
    };
    if !found.is_dir() || found.mode() & 0o002 == 0 {
        return;
    }
    let what = format!(
        "every user of this machine can make files in state.dir, {} (mode {:04o})",
        dir.display(),
        found.mode() & 0o7777
    );
    problems.push(
        Problem::warning(config.places.state_dir, what)
            .because("a CA, a token secret or a certificate that another user puts there would be the proxy's")
            .fix(format!(
                "chmod o-w {}, and remove files that the proxy has not made",
                shell_word(&dir.to_string_lossy())
            )),
    );
}

/// Whether a file could be opened to append to it, or made. It is not opened: opening a pipe waits for a reader.
fn may_append(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(Errno::ISDIR.into()),
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
