//! The password files of a config: each is read once and shared by all routes that name it.
//!
//! Called while a snapshot is built. A reload reads them anew, beside those in use, so that a refused one changes
//! nothing. `server` reports later changes in the words of [`remarks`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Snapshot;
use crate::access::Subjects;
use crate::config::problem::{Problem, Problems, quote};
use crate::config::table::Placed;
use crate::config::{Auth, Config};
use crate::htpasswd::{self, LiveUsers, Severity};
use crate::live_file::Quiet;
use crate::registry::is_name;

/// Reads every file. One that cannot be read is an error, unless `old` still has what it said.
pub(super) fn load_all(
    config: &Config,
    old: Option<&Snapshot>,
    quiet: &Quiet,
    problems: &mut Problems,
) -> Vec<Arc<LiveUsers>> {
    let old = old.map_or(&[][..], Snapshot::passwords);
    let mut distinct: Vec<&Placed<PathBuf>> = Vec::new();
    let routes = config.sites.iter().flat_map(|site| &site.routes);
    for file in routes.filter_map(|route| file_of(&route.auth)) {
        if !distinct.iter().any(|known| known.value == file.value) {
            distinct.push(file);
        }
    }
    let loaded = distinct.into_iter().filter_map(|file| {
        let live = load(file, find(old, file), quiet, problems)?;
        report(&live, file, problems);
        Some(live)
    });
    loaded.collect()
}

/// The one of this path.
pub(super) fn find<'a>(all: &'a [Arc<LiveUsers>], path: &Path) -> Option<&'a Arc<LiveUsers>> {
    all.iter().find(|live| live.path() == path)
}

/// The password file of a route, where there is one.
pub(super) fn file_of(auth: &Auth) -> Option<&Placed<PathBuf>> {
    match auth {
        Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. } => Some(htpasswd),
        Auth::LeftToUpstream | Auth::Open => None,
    }
}

fn load(
    file: &Placed<PathBuf>,
    old: Option<&Arc<LiveUsers>>,
    quiet: &Quiet,
    problems: &mut Problems,
) -> Option<Arc<LiveUsers>> {
    let loaded = match old {
        Some(old) => old.again(quiet.seen(file)),
        None => LiveUsers::load(file),
    };
    let error = match loaded {
        Ok(live) => return Some(live),
        Err(error) => error.to_string(),
    };
    problems.push(match old {
        Some(_) => Problem::warning(file.place, error).because(KEPT),
        None => Problem::error(file.place, error),
    });
    old.cloned()
}

fn report(live: &LiveUsers, file: &Placed<PathBuf>, problems: &mut Problems) {
    let is_empty = live.current().is_empty();
    for remark in remarks(live.path(), &live.problems(), is_empty) {
        problems.push(Problem {
            place: Some(file.place),
            what: format!("{}: {}", file.display(), remark.what),
            ..remark
        });
    }
}

/// What to tell of a file; its name is to be put in front. Lines that disable a user are warnings: the others must be
/// able to log in.
pub(crate) fn remarks(path: &Path, lines: &[htpasswd::Problem], is_empty: bool) -> Vec<Problem> {
    let of_line = |problem: &htpasswd::Problem| {
        let warning = Problem::warning(None, problem.to_string());
        match problem.severity() {
            Severity::UserDisabled => warning.because("nobody can log in with this line"),
            Severity::Warning => warning,
        }
    };
    let of_file = is_empty.then(|| {
        Problem::warning(None, "there is no usable user")
            .because("nobody can log in")
            .fix(format!("tidegate htpasswd add {} USER", path.display()))
    });
    lines.iter().map(of_line).chain(of_file).collect()
}

/// Why a file that cannot be read is no reason to stop.
pub(crate) const KEPT: &str = "the users as last read stay";

/// Warns of those whom a right is given and who cannot log in.
pub(super) fn check_named(
    named: &[Placed<String>],
    users: &htpasswd::Users,
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
                    "tidegate htpasswd add {} USER, or write another name here",
                    file.display()
                )),
        );
    }
}

/// Warns of those whose name no path component can be: what is theirs by `{user}` is nothing.
pub(super) fn check_homes(
    homes: &[(Placed<String>, Subjects)],
    users: &htpasswd::Users,
    file: &Placed<PathBuf>,
    problems: &mut Problems,
) {
    let by_line = users.by_line();
    for (pattern, subjects) in homes {
        let homeless = by_line.iter().filter_map(|(user, entry)| {
            let name = String::from_utf8_lossy(user);
            let is_meant = subjects.include(Some(&*name));
            let is_component = is_name(&name) && !name.contains('/');
            (is_meant && !is_component).then(|| format!("{} (line {})", quote(&name), entry.line()))
        });
        let homeless: Vec<_> = homeless.collect();
        let Some((shown, left)) = homeless.split_at_checked(homeless.len().min(LISTED)) else {
            continue;
        };
        if shown.is_empty() {
            continue;
        }
        let more = match left.len() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let what = format!(
            "{} matches nothing for {}{more} of {}",
            quote(pattern),
            shown.join(", "),
            file.display()
        );
        problems.push(
            Problem::warning(pattern.place, what)
                .because(
                    "a user's name stands there as a path component: lower case letters and digits, separated by one \
                     \".\", \"_\" or \"__\" or by \"-\"",
                )
                .fix("give such users other names, or grants of their own"),
        );
    }
}

/// Users that are named in one warning.
const LISTED: usize = 5;
