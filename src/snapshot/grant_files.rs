//! The files with the grants of routes (`route.grant_file`), which may change at any time.
//!
//! Used while a snapshot is built, which creates one [`LiveGrantFile`] for each route that names a file. A thread of `server`
//! calls [`LiveGrantFile::poll`] at intervals and logs the result. A file is used in full or not at all: if it cannot be read, or
//! has an error, its content as last read stays in use. A reload reads that content again with the groups and the other grants of
//! the new configuration, so that no right outlives the line that gave it.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::passwords;
use crate::access::LiveGrants;
use crate::config::problem::{Problem, Problems};
use crate::config::{self, Config, GrantFile, RouteGrants};
use crate::file_watch::{self, ChangeDetector, FileStamp, LoadedVersion, Seen, StableFiles};
use crate::htpasswd::LiveUsers;

/// The grants of a route as its file was last read.
#[derive(Debug)]
pub(crate) struct LiveGrantFile {
    /// The names of the site and of the route, by which a reload finds the file again.
    route: (String, String),
    file: GrantFile,
    grants: Arc<LiveGrants>,
    /// The password file of the route, for warnings about users that it does not have.
    users: Option<Arc<LiveUsers>>,
    /// Requests never take this lock, because its holder may be waiting for a disk.
    last_read: Mutex<LastRead>,
}

#[derive(Debug)]
struct LastRead {
    detector: ChangeDetector<Seen>,
    /// The content from which the grants were parsed.
    bytes: Arc<[u8]>,
}

/// The result of a poll.
#[derive(Debug)]
pub(crate) enum GrantEvent {
    /// Nothing changed that an earlier poll has not reported.
    Unchanged,
    /// The file was read, and its grants are in use from now on. The problems are warnings.
    Changed(Problems),
    /// The file cannot be used; the grants stay. Reported again only for another reason.
    Failed(Problems),
}

/// The content of a file that can be used.
struct Content {
    bytes: Arc<[u8]>,
    parsed: RouteGrants,
    warnings: Problems,
    /// The version of the file that was read. `None` if the file changed while it was read.
    stamp: Option<FileStamp>,
}

/// Reads the file of every route that names one. A file that cannot be used is an error, unless `old` has its last grants.
pub(crate) fn load_all(
    config: &Config,
    passwords: &[Arc<LiveUsers>],
    old: &[Arc<LiveGrantFile>],
    stable_files: &StableFiles,
    problems: &mut Problems,
) -> Vec<Arc<LiveGrantFile>> {
    let mut all = Vec::new();
    for site in &config.sites {
        for route in &site.routes {
            let Some(file) = &route.grant_file else {
                continue;
            };
            let users = passwords::file_of(&route.auth);
            let users = users
                .and_then(|file| passwords::find(passwords, file))
                .cloned();
            let old = find(old, &site.name, &route.path);
            let old = old.filter(|old| *old.file.path == *file.path);
            let loader = Loader {
                route: (site.name.clone(), route.path.clone()),
                file,
                users,
                old,
            };
            let loaded = loader.load(stable_files.seen(&file.path), problems);
            all.extend(loaded.map(Arc::new));
        }
    }
    all
}

/// The loaded file of this route.
pub(crate) fn find<'a>(
    all: &'a [Arc<LiveGrantFile>],
    site: &str,
    route: &str,
) -> Option<&'a Arc<LiveGrantFile>> {
    all.iter()
        .find(|file| file.route.0 == site && file.route.1 == route)
}

/// What is needed to read the file of a route for the first time, or for a reload.
struct Loader<'a> {
    route: (String, String),
    file: &'a GrantFile,
    users: Option<Arc<LiveUsers>>,
    old: Option<&'a Arc<LiveGrantFile>>,
}

impl Loader<'_> {
    /// Reads the file. `stable` is the result of two equal polls of it; without it, another process may be writing the file, and
    /// the old grants stay until a later poll.
    fn load(self, stable: Option<Seen>, problems: &mut Problems) -> Option<LiveGrantFile> {
        let users = self.users.as_deref();
        let is_stable = |content: &Content| {
            let stamp = content.stamp;
            stamp.is_some_and(|stamp| stable == Some(Ok(stamp)))
        };
        let last_content = |old: &LiveGrantFile| {
            let bytes = Arc::clone(&old.last_read.lock().bytes);
            (parse(self.file, bytes, None, users), None)
        };
        let (content, version) = match (read(self.file, users), self.old) {
            (Ok(content), Some(_)) if is_stable(&content) => (Ok(content), stable),
            (Ok(_), Some(old)) => last_content(old),
            (Err(failure), Some(old)) => {
                let what = format!("{}: {}", self.file.path.display(), first_error(&failure));
                let place = self.file.path.place;
                problems.push(Problem::warning(place, what).because(KEEPS_LAST_GRANTS));
                last_content(old)
            }
            (content, None) => (content, None),
        };
        let content = content
            .map_err(|failure| report(self.file, failure, problems))
            .ok()?;
        report(self.file, content.warnings, problems);
        Some(LiveGrantFile {
            route: self.route,
            file: self.file.clone(),
            grants: LiveGrants::new(content.parsed.grants),
            users: self.users,
            last_read: Mutex::new(LastRead {
                detector: ChangeDetector::new(version),
                bytes: content.bytes,
            }),
        })
    }
}

impl LiveGrantFile {
    /// The grants, which later polls replace.
    pub(crate) fn grants(&self) -> &Arc<LiveGrants> {
        &self.grants
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    /// The path of the file, and the version of it that is in use.
    pub(crate) fn file_state(&self) -> LoadedVersion {
        LoadedVersion {
            path: self.path().to_owned(),
            read: self.last_read.lock().detector.read(),
        }
    }

    /// Checks whether the file has changed, and reads it if the poll before saw the same change.
    pub(crate) fn poll(&self) -> GrantEvent {
        let mut last_read = self.last_read.lock();
        let seen = file_watch::poll(self.path());
        if !last_read.detector.is_due(seen) {
            return GrantEvent::Unchanged;
        }
        match read(&self.file, self.users.as_deref()) {
            Ok(content) if content.stamp.is_some_and(|stamp| seen == Ok(stamp)) => {
                let before = self.grants.current();
                let has_recovered = last_read.detector.succeeded(seen);
                last_read.bytes = content.bytes;
                if before == content.parsed.grants && !has_recovered {
                    return GrantEvent::Unchanged;
                }
                self.grants.replace(content.parsed.grants);
                GrantEvent::Changed(content.warnings)
            }
            // The file was written between the poll and the reading. A later poll sees it unchanged.
            Ok(_) => GrantEvent::Unchanged,
            Err(failure) if last_read.detector.failed(failure.to_string()) => {
                GrantEvent::Failed(failure)
            }
            Err(_) => GrantEvent::Unchanged,
        }
    }
}

fn read(file: &GrantFile, users: Option<&LiveUsers>) -> Result<Content, Problems> {
    let content = file_watch::read(&file.path, config::MAX_FILE_SIZE).map_err(|error| {
        let what = format!("cannot read the grants: {error}");
        let mut problems = Problems::new(&*file.path);
        problems.push(Problem::error(None, what).fix(
            "correct the path, which is relative to the folder of the file that has the route, or let the user of the proxy read it",
        ));
        problems
    })?;
    parse(file, content.bytes.into(), content.stamp, users)
}

/// Parses the content of a file, and warns of users that the password file does not have.
fn parse(
    file: &GrantFile,
    bytes: Arc<[u8]>,
    stamp: Option<FileStamp>,
    users: Option<&LiveUsers>,
) -> Result<Content, Problems> {
    let (parsed, mut problems) = file.parse(&bytes);
    let Some(parsed) = parsed else {
        return Err(problems);
    };
    if let Some(users) = users {
        let (path, users) = (users.path(), users.current());
        passwords::check_named_users(&parsed.named_users, &users, path, &mut problems);
        passwords::check_user_patterns(&parsed.user_patterns, &users, path, &mut problems);
    }
    Ok(Content {
        bytes,
        parsed,
        warnings: problems,
        stamp,
    })
}

/// Adds the problems of the file to those of the configuration. A problem without a position, such as a file that cannot be
/// read, is reported at the key that names the file.
fn report(file: &GrantFile, found: Problems, problems: &mut Problems) {
    let number = problems.add_included(&*file.path);
    for problem in found.sorted() {
        let mut problem = problem.clone();
        match &mut problem.place {
            Some(place) => place.file = number,
            None => {
                problem.place = Some(file.path.place);
                problem.what = format!("{}: {}", file.path.display(), problem.what);
            }
        }
        problems.push(problem);
    }
}

fn first_error(problems: &Problems) -> String {
    let error = problems.errors().next();
    error.map_or_else(String::new, |error| match error.place {
        Some(place) => format!("line {}: {}", place.line, error.what),
        None => error.what.clone(),
    })
}

/// The consequence of a file that cannot be used, for messages.
pub(crate) const KEEPS_LAST_GRANTS: &str = "the grants as last read stay in use";
