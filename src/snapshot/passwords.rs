//! The password files of a configuration. Each file is read once, and all routes that name it share it.
//!
//! Used while a snapshot is built. A reload reads the files into new values while the old ones stay in use, so that a rejected
//! configuration changes nothing. `server::file_watcher` logs later changes of the files with [`file_warnings`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::Subjects;
use crate::config::Spanned;
use crate::config::nearest::nearest;
use crate::config::problem::{Problem, Problems, quote};
use crate::config::{Auth, Config};
use crate::file_watch::StableFiles;
use crate::htpasswd::generate::USUAL_COST;
use crate::htpasswd::{self, LiveUsers, Scheme, Severity, UnevenTimes};
use crate::registry::is_name;

/// Reads every password file. A file that cannot be read is an error, unless `old` has its last content.
pub(crate) fn load_all(
    config: &Config,
    old: &[Arc<LiveUsers>],
    stable_files: &StableFiles,
    problems: &mut Problems,
) -> Vec<Arc<LiveUsers>> {
    let mut distinct: Vec<&Spanned<PathBuf>> = Vec::new();
    let routes = config.sites.iter().flat_map(|site| &site.routes);
    for file in routes.filter_map(|route| file_of(&route.auth)) {
        if !distinct.iter().any(|known| known.value == file.value) {
            distinct.push(file);
        }
    }
    let loaded = distinct.into_iter().filter_map(|file| {
        let users = load(file, find(old, file), stable_files, problems)?;
        report_warnings(&users, file, problems);
        Some(users)
    });
    loaded.collect()
}

/// The loaded password file with this path.
pub(crate) fn find<'a>(all: &'a [Arc<LiveUsers>], path: &Path) -> Option<&'a Arc<LiveUsers>> {
    all.iter().find(|users| users.path() == path)
}

/// The password file of a route, if its `auth` has one.
pub(crate) fn file_of(auth: &Auth) -> Option<&Spanned<PathBuf>> {
    match auth {
        Auth::Basic { htpasswd, .. } | Auth::Token { htpasswd, .. } => Some(htpasswd),
        Auth::LeftToUpstream | Auth::Open => None,
    }
}

fn load(
    file: &Spanned<PathBuf>,
    old: Option<&Arc<LiveUsers>>,
    stable_files: &StableFiles,
    problems: &mut Problems,
) -> Option<Arc<LiveUsers>> {
    let loaded = match old {
        Some(old) => old.reuse(stable_files.seen(file)),
        None => LiveUsers::load(file),
    };
    let error = match loaded {
        Ok(users) => return Some(users),
        Err(error) => error,
    };
    let what = error.to_string();
    let problem = match old {
        Some(_) => Problem::warning(file.place, what).because(KEEPS_LAST_USERS),
        None => Problem::error(file.place, what),
    };
    problems.push(match error.remedy() {
        Some(remedy) => problem.fix(remedy),
        None => problem,
    });
    old.cloned()
}

fn report_warnings(users: &LiveUsers, file: &Spanned<PathBuf>, problems: &mut Problems) {
    for warning in file_warnings(users.path(), &users.problems(), &users.current()) {
        problems.push(Problem {
            place: Some(file.place),
            what: format!("{}: {}", file.display(), warning.what),
            ..warning
        });
    }
}

/// The warnings about a password file, without its path, which the caller prepends. A line with which a user cannot log in is
/// only a warning, because the other users must be able to log in. Lines with the same problem share one warning, so that an
/// old file with many users does not hide other warnings.
pub(crate) fn file_warnings(
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
    let mut warnings: Vec<_> = groups
        .iter()
        .filter_map(|group| line_warning(path, group))
        .collect();
    warnings.extend(timing_warning(path, users));
    if users.is_empty() {
        warnings.push(
            Problem::warning(None, "there is no usable user")
                .because("no user can log in")
                .fix(htpasswd::add_command(path, None)),
        );
    }
    warnings
}

/// One warning for all lines with the same problem.
fn line_warning(path: &Path, group: &[&htpasswd::Problem]) -> Option<Problem> {
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
            format!("{}: {what}", first_names(names, MAX_NAMES_OF_LINES))
        }
    };
    let warning = Problem::warning(None, what).fix(remedy);
    Some(match first.severity() {
        Severity::UserDisabled => warning.because("no user can log in with this line"),
        Severity::Warning => warning,
    })
}

/// A warning about hashes with different verification times: by the time of a response a client can tell which user names exist.
fn timing_warning(path: &Path, users: &htpasswd::Users) -> Option<Problem> {
    let UnevenTimes { slowest, quicker } = users.uneven_times()?;
    let name = |user: &[u8]| String::from_utf8_lossy(user).into_owned();
    let names = quicker
        .iter()
        .map(|(user, entry)| format!("{} (line {})", quote(&name(user)), entry.line()));
    let what = format!(
        "the passwords of {} are checked in less time than those of other users ({slowest})",
        first_names(names, MAX_NAMES_OF_LINES)
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
                "set the password again with {command}{cost}{others}"
            )),
    )
}

/// Lists the first names: `a, b, c and 57 more`.
fn first_names(names: impl ExactSizeIterator<Item = String>, limit: usize) -> String {
    let count = names.len();
    let first: Vec<_> = names.take(limit).collect();
    match count - first.len() {
        0 => first.join(", "),
        left => format!("{} and {left} more", first.join(", ")),
    }
}

/// Warns of users in grants and groups that cannot log in.
pub(crate) fn check_named_users(
    named: &[Spanned<String>],
    users: &htpasswd::Users,
    file: &Path,
    problems: &mut Problems,
) {
    let missing = |name: &&Spanned<String>| users.find(name.as_bytes()).is_none();
    for name in named.iter().filter(missing) {
        let what = format!("{} is in no usable line of {}", quote(name), file.display());
        problems.push(
            Problem::warning(name.place, what)
                .because("a user without a usable line cannot log in and use these rights")
                .fix(remedy_for_unknown_user(name, users, file)),
        );
    }
}

/// What to write in the place of a user whom the password file does not have.
fn remedy_for_unknown_user(name: &str, users: &htpasswd::Users, file: &Path) -> String {
    if matches!(name, "*" | "all" | "any" | "everyone") {
        return "write \"@users\" for every user, or \"@anonymous\" for every client".to_owned();
    }
    let create = htpasswd::add_command(file, Some(name));
    let known = users.by_line().into_iter();
    let known: Vec<_> = known
        .map(|(user, _)| String::from_utf8_lossy(user).into_owned())
        .collect();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {}? Or add the user: {create}", quote(meant)),
        None => format!("{create}, or write another name here"),
    }
}

/// Warns of users for whom a pattern with `{user}` matches nothing, because their name cannot be a path component of a
/// repository.
pub(crate) fn check_user_patterns(
    patterns: &[(Spanned<String>, Subjects)],
    users: &htpasswd::Users,
    file: &Path,
    problems: &mut Problems,
) {
    let by_line = users.by_line();
    for (pattern, subjects) in patterns {
        let unmatched = by_line.iter().filter_map(|(user, entry)| {
            let name = String::from_utf8_lossy(user);
            let has_grant = subjects.include(Some(&*name));
            let is_component = is_name(&name) && !name.contains('/');
            (has_grant && !is_component)
                .then(|| format!("{} (line {})", quote(&name), entry.line()))
        });
        let unmatched: Vec<_> = unmatched.collect();
        if unmatched.is_empty() {
            continue;
        }
        let what = format!(
            "{} matches nothing for {} of {}",
            quote(pattern),
            first_names(unmatched.into_iter(), MAX_NAMES_OF_PATTERN),
            file.display()
        );
        problems.push(
            Problem::warning(pattern.place, what)
                .because(
                    "the user's name must be a path component: lower case letters and digits, separated by one \
                     \".\", \"_\" or \"__\" or by \"-\"",
                )
                .fix("rename these users, or give them grants of their own"),
        );
    }
}

/// The consequence of a file that cannot be read, for messages.
pub(crate) const KEEPS_LAST_USERS: &str = "the users as last read stay";
/// The number of users that one warning about a `{user}` pattern names.
const MAX_NAMES_OF_PATTERN: usize = 5;
/// The number of users or lines that one warning about lines or hashes names.
const MAX_NAMES_OF_LINES: usize = 3;
