//! The password files of a config's routes.
//!
//! Called while a snapshot is built.

use std::path::PathBuf;

use crate::config::problem::{Problem, Problems, quote};
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
    if loaded.users.is_empty() {
        let what = format!("{} has no usable user", file.display());
        problems.push(
            Problem::warning(file.place, what)
                .because("nobody can log in")
                .fix(format!("htpasswd -B {} NAME", file.display())),
        );
    }
    Some(loaded.users)
}

/// Warns of those whom a right is given and who cannot log in.
pub(super) fn check_named(
    named: &[Placed<String>],
    users: &Users,
    file: &Placed<PathBuf>,
    problems: &mut Problems,
) {
    let missing = |name: &&Placed<String>| users.find(name.as_bytes()).is_none();
    for name in named.iter().filter(missing) {
        let what = format!(
            "{} stands in no usable line of {}",
            quote(name),
            file.display()
        );
        problems.push(
            Problem::warning(name.place, what)
                .because("rights are given to someone who cannot log in")
                .fix(format!(
                    "htpasswd -B {} NAME, or another name here",
                    file.display()
                )),
        );
    }
}
