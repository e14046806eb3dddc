//! The password files of a config's routes.
//!
//! Called while a snapshot is built.

use std::path::PathBuf;

use crate::config::problem::{Problem, Problems};
use crate::config::table::Placed;
use crate::htpasswd::{self, Severity, Users};

/// The users of a file. Lines that disable a user are warnings: the others must be able to log in.
pub(super) fn load(file: &Placed<PathBuf>, problems: &mut Problems) -> Option<Users> {
    let loaded = match htpasswd::load(file) {
        Ok(loaded) => loaded,
        Err(error) => {
            problems.push(Problem::error(file.place, error.to_string()));
            return None;
        }
    };
    for problem in &loaded.problems {
        let what = format!("{}: {problem}", file.display());
        let warning = Problem::warning(file.place, what);
        problems.push(match problem.severity() {
            Severity::UserDisabled => warning.because("nobody can log in with this line"),
            Severity::Warning => warning,
        });
    }
    if let Some(mode) = loaded.exposed {
        let what = format!(
            "{} is open to every user of this machine (mode {mode:04o})",
            file.display()
        );
        problems.push(
            Problem::warning(file.place, what)
                .because("whoever has the hashes can guess passwords at leisure")
                .fix(format!(
                    "chmod o= {}, and let the gate's group read it",
                    file.display()
                )),
        );
    }
    if loaded.users.is_empty() {
        let what = format!("{} has no usable user", file.display());
        problems.push(
            Problem::warning(file.place, what)
                .because("nobody can log in")
                .fix(format!("tidegate htpasswd add {} USER", file.display())),
        );
    }
    Some(loaded.users)
}
