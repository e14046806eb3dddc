//! The password files of a config: each is read once and shared by all routes that name it.
//!
//! Called while a snapshot is built. A reload reads them anew, beside those in use, so that a refused one changes
//! nothing. `server` reports later changes in the words of [`remarks`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Snapshot;
use crate::access::Subjects;
use crate::config::Spanned;
use crate::config::problem::{Problem, Problems, quote};
use crate::config::{Auth, Config};
use crate::file_watch::StableFiles;
use crate::htpasswd::make::USUAL_COST;
use crate::htpasswd::{self, LiveUsers, Scheme, Severity, UnevenTimes};
use crate::registry::is_name;

/// Reads every file. One that cannot be read is an error, unless `old` still has what it said.
pub(super) fn load_all(
    config: &Config,
    old: Option<&Snapshot>,
    quiet: &StableFiles,
    problems: &mut Problems,
) -> Vec<Arc<LiveUsers>> {
    let old = old.map_or(&[][..], Snapshot::passwords);
    let mut distinct: Vec<&Spanned<PathBuf>> = Vec::new();
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
pub(super) fn file_of(auth: &Auth) -> Option<&Spanned<PathBuf>> {
    match auth {
        Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. } => Some(htpasswd),
        Auth::LeftToUpstream | Auth::Open => None,
    }
}

fn load(
    file: &Spanned<PathBuf>,
    old: Option<&Arc<LiveUsers>>,
    quiet: &StableFiles,
    problems: &mut Problems,
) -> Option<Arc<LiveUsers>> {
    let loaded = match old {
        Some(old) => old.reuse(quiet.seen(file)),
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

fn report(live: &LiveUsers, file: &Spanned<PathBuf>, problems: &mut Problems) {
    for remark in remarks(live.path(), &live.problems(), &live.current()) {
        problems.push(Problem {
            place: Some(file.place),
            what: format!("{}: {}", file.display(), remark.what),
            ..remark
        });
    }
}

/// The warnings about a password file; its name is to be put in front. A line that disables a user is a warning as well:
/// the other users must be able to log in. Lines with the same problem share one warning, so that an old file of many
/// users does not hide the warnings about anything else.
pub(crate) fn remarks(
    path: &Path,
    lines: &[htpasswd::Problem],
    users: &htpasswd::Users,
) -> Vec<Problem> {
    let mut groups: Vec<Vec<&htpasswd::Problem>> = Vec::new();
    for line in lines {
        let same = |group: &&mut Vec<&htpasswd::Problem>| {
            group
                .first()
                .is_some_and(|first| first.kind.is_like(line.kind))
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(line),
            None => groups.push(vec![line]),
        }
    }
    let mut remarks: Vec<_> = groups
        .iter()
        .filter_map(|group| of_lines(path, group))
        .collect();
    remarks.extend(uneven(path, users));
    if users.is_empty() {
        remarks.push(
            Problem::warning(None, "there is no usable user")
                .because("nobody can log in")
                .fix(htpasswd::add_command(path, None)),
        );
    }
    remarks
}

/// One warning for all lines with the same problem.
fn of_lines(path: &Path, group: &[&htpasswd::Problem]) -> Option<Problem> {
    let first = group.first()?;
    let (what, mut remedy) = first.explain(path);
    let what = match group {
        [one] if one.line == 0 => what,
        [one] => match &one.user {
            Some(user) => format!("line {}, user \"{user}\": {what}", one.line),
            None => format!("line {}: {what}", one.line),
        },
        several => {
            let names = several.iter().map(|problem| match &problem.user {
                Some(user) => format!("\"{user}\" (line {})", problem.line),
                None => format!("line {}", problem.line),
            });
            remedy.push_str(", and likewise for the others");
            format!("{}: {what}", listed(names))
        }
    };
    let warning = Problem::warning(None, what).fix(remedy);
    Some(match first.severity() {
        Severity::UserDisabled => warning.because("nobody can log in with this line"),
        Severity::Warning => warning,
    })
}

/// A warning about hashes that take so different a time to check that the time of a response shows which names exist.
fn uneven(path: &Path, users: &htpasswd::Users) -> Option<Problem> {
    let UnevenTimes { slowest, quicker } = users.uneven_times()?;
    let name = |user: &[u8]| String::from_utf8_lossy(user).into_owned();
    let names = quicker
        .iter()
        .map(|(user, entry)| format!("{} (line {})", quote(&name(user)), entry.line()));
    let what = format!(
        "the passwords of {} are checked in less time than those of other users ({slowest})",
        listed(names)
    );
    let cost = match slowest {
        Scheme::Bcrypt { cost } if cost != USUAL_COST => format!(" --cost {cost}"),
        _ => String::new(),
    };
    let (first, _) = quicker.first()?;
    let user = Some(name(first)).filter(|user| !user.contains(htpasswd::is_invisible));
    let command = htpasswd::add_command(path, user.as_deref());
    let others = if quicker.len() > 1 {
        ", and likewise for the others"
    } else {
        ""
    };
    Some(
        Problem::warning(None, what)
            .because("a client can tell by the time of a response which user names exist")
            .fix(format!(
                "set the password anew with {command}{cost}{others}"
            )),
    )
}

/// `a, b, c and 57 more`
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let count = names.len();
    let shown: Vec<_> = names.take(NAMED).collect();
    match count - shown.len() {
        0 => shown.join(", "),
        left => format!("{} and {left} more", shown.join(", ")),
    }
}

/// Why a file that cannot be read is no reason to stop.
pub(crate) const KEPT: &str = "the users as last read stay";

/// Warns of those whom a right is given and who cannot log in.
pub(super) fn check_named(
    named: &[Spanned<String>],
    users: &htpasswd::Users,
    file: &Spanned<PathBuf>,
    problems: &mut Problems,
) {
    let missing = |name: &&Spanned<String>| users.find(name.as_bytes()).is_none();
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
                    "{}, or write another name here",
                    htpasswd::add_command(file, Some(name))
                )),
        );
    }
}

/// Warns of those whose name no path component can be: what is theirs by `{user}` is nothing.
pub(super) fn check_homes(
    homes: &[(Spanned<String>, Subjects)],
    users: &htpasswd::Users,
    file: &Spanned<PathBuf>,
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

/// Users that are named in one warning about their names.
const LISTED: usize = 5;
/// Users or lines that are named in one warning about their hashes.
const NAMED: usize = 3;
