//! Tests with real files. Only the number of polls counts, so no test waits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::htpasswd::{ProblemKind, Scheme};

const ALICE: &str = "alice:$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n";
/// A file of the same length.
const CAROL: &str = "carol:$2y$04$CCCCCCCCCCCCCCCCCCCCC.31NqtHBKsxWbnyluzScP.pcWeG7T10u\n";
const WEAK: &str = "bob:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n";

struct Files {
    dir: TempDir,
}

impl Files {
    /// A directory with a file `htpasswd` that has the user alice.
    fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::write(files.path("htpasswd"), ALICE).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn live(&self) -> Arc<LiveUsers> {
        LiveUsers::load(&self.path("htpasswd")).unwrap()
    }

    /// Writes the file in place until its modification time differs. The clock of the file system has ticks, and real polls are far
    /// longer apart.
    fn write(&self, text: impl AsRef<[u8]>) {
        let path = self.path("htpasswd");
        let before = file_watch::poll(&path);
        while {
            fs::write(&path, &text).unwrap();
            file_watch::poll(&path) == before
        } {}
    }
}

fn names(live: &LiveUsers) -> Vec<String> {
    let users = live.current();
    let names = users
        .names()
        .map(|name| String::from_utf8_lossy(name).into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

fn change(event: Event) -> Change {
    match event {
        Event::Changed(change) => change,
        other => panic!("{other:?}"),
    }
}

fn is_silent(live: &LiveUsers) -> bool {
    matches!(live.poll(), Event::Unchanged)
}

/// A file whose first version a poll has confirmed.
fn settled(files: &Files) -> Arc<LiveUsers> {
    let live = files.live();
    for _ in 0..3 {
        assert!(is_silent(&live));
    }
    live
}

#[test]
fn a_change_is_read_after_the_second_poll_that_sees_it() {
    let files = Files::new();
    let live = settled(&files);
    files.write(CAROL);
    assert!(is_silent(&live));
    assert_eq!(names(&live), ["alice"]);
    let change = change(live.poll());
    assert_eq!(
        (change.users, change.added, change.removed, change.changed),
        (1, 1, 1, 0)
    );
    assert_eq!(names(&live), ["carol"]);
    assert!(is_silent(&live) && is_silent(&live));
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let files = Files::new();
    let live = settled(&files);
    let text = format!("{ALICE}{CAROL}");
    // The writer pauses within lines and between them.
    for length in 0..=text.len() {
        files.write(&text.as_bytes()[..length]);
        assert!(is_silent(&live));
        assert_eq!(names(&live), ["alice"]);
    }
    assert_eq!(change(live.poll()).added, 1);
    assert_eq!(names(&live), ["alice", "carol"]);
}

#[test]
fn a_write_within_the_resolution_of_the_clock_is_found() {
    let files = Files::new();
    let live = files.live();
    // As if the file had these users when it was read, and was written since within one tick of its clock.
    live.users.store(Arc::new(parse(CAROL.as_bytes()).users));
    assert!(is_silent(&live));
    assert_eq!(change(live.poll()).added, 1);
    assert_eq!(names(&live), ["alice"]);
}

#[test]
fn a_file_that_is_renamed_over_the_old_one_is_read() {
    let files = Files::new();
    let live = settled(&files);
    fs::write(files.path("new"), CAROL).unwrap();
    // Length and modification time are the same.
    let modified = fs::metadata(files.path("htpasswd"))
        .unwrap()
        .modified()
        .unwrap();
    let new = fs::File::options()
        .append(true)
        .open(files.path("new"))
        .unwrap();
    new.set_modified(modified).unwrap();
    fs::rename(files.path("new"), files.path("htpasswd")).unwrap();
    assert!(is_silent(&live));
    change(live.poll());
    assert_eq!(names(&live), ["carol"]);
}

#[test]
fn an_earlier_modification_time_is_a_change() {
    let files = Files::new();
    let live = settled(&files);
    let path = files.path("htpasswd");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    files.write(CAROL);
    let file = fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(modified).unwrap();
    assert!(is_silent(&live));
    change(live.poll());
    assert_eq!(names(&live), ["carol"]);
}

#[test]
fn symbolic_links_are_followed() {
    let files = Files::new();
    for (folder, text) in [("1", ALICE), ("2", CAROL)] {
        fs::create_dir(files.path(folder)).unwrap();
        fs::write(files.path(folder).join("htpasswd"), text).unwrap();
    }
    fs::remove_file(files.path("htpasswd")).unwrap();
    symlink("1", files.path("..data")).unwrap();
    symlink("..data/htpasswd", files.path("htpasswd")).unwrap();
    let live = settled(&files);
    assert_eq!(names(&live), ["alice"]);
    symlink("2", files.path("..new")).unwrap();
    fs::rename(files.path("..new"), files.path("..data")).unwrap();
    assert!(is_silent(&live));
    change(live.poll());
    assert_eq!(names(&live), ["carol"]);
}

#[test]
fn a_read_error_is_reported_once_and_keeps_the_users() {
    let files = Files::new();
    let live = settled(&files);
    let path = files.path("htpasswd");
    let gone = || fs::rename(&path, files.path("aside")).unwrap();
    gone();
    // A writer that deletes and then creates the file is not reported between these steps.
    assert!(is_silent(&live));
    assert!(matches!(live.poll(), Event::Failed(LoadError::Read { .. })));
    assert!(is_silent(&live) && is_silent(&live));

    fs::create_dir(&path).unwrap();
    assert!(is_silent(&live));
    assert!(matches!(
        live.poll(),
        Event::Failed(LoadError::NotAFile { .. })
    ));
    fs::remove_dir(&path).unwrap();
    assert!(is_silent(&live));
    assert!(matches!(live.poll(), Event::Failed(LoadError::Read { .. })));
    assert_eq!(names(&live), ["alice"]);

    fs::rename(files.path("aside"), &path).unwrap();
    assert!(is_silent(&live));
    assert!(matches!(live.poll(), Event::Recovered));
    assert!(is_silent(&live));
    gone();
    assert!(is_silent(&live));
    assert!(matches!(live.poll(), Event::Failed(_)));
    fs::write(&path, CAROL).unwrap();
    assert!(is_silent(&live));
    assert_eq!(change(live.poll()).added, 1);
    assert!(is_silent(&live));
}

#[test]
fn a_pipe_is_an_error_and_is_not_waited_for() {
    let files = Files::new();
    let live = settled(&files);
    let path = files.path("htpasswd");
    fs::remove_file(&path).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
    assert!(is_silent(&live));
    assert!(matches!(
        live.poll(),
        Event::Failed(LoadError::NotAFile { .. })
    ));
    assert!(LiveUsers::load(&path).is_err());
    assert_eq!(names(&live), ["alice"]);
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let files = Files::new();
    let live = settled(&files);
    let path = files.path("htpasswd");
    let file = fs::File::options().append(true).open(&path).unwrap();
    file.set_len(MAX_FILE + 1).unwrap();
    assert!(is_silent(&live));
    assert!(matches!(
        live.poll(),
        Event::Failed(LoadError::TooLarge { .. })
    ));
    assert_eq!(names(&live), ["alice"]);
}

#[test]
fn an_empty_file_has_no_users() {
    let files = Files::new();
    let live = settled(&files);
    files.write("");
    assert!(is_silent(&live));
    let change = change(live.poll());
    assert_eq!((change.users, change.removed), (0, 1));
    assert!(live.current().is_empty());
}

#[test]
fn only_new_problems_are_reported() {
    let files = Files::new();
    let path = files.path("htpasswd");
    fs::write(&path, WEAK).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let live = settled(&files);
    assert_eq!(live.problems().len(), 1);
    // The weak line moves down, which is not a new problem. The other one is.
    files.write(format!("{ALICE}{WEAK}plain:secret\n"));
    assert!(is_silent(&live));
    let first = change(live.poll());
    assert_eq!((first.users, first.added, first.removed), (2, 1, 0));
    let [problem] = &first.problems[..] else {
        panic!("{first:?}");
    };
    assert_eq!((problem.line, problem.user.as_deref()), (3, Some("plain")));
    assert_eq!(live.problems().len(), 2);
    // A comment does not change the users.
    files.write(format!("# people\n{ALICE}{WEAK}plain:secret\n"));
    assert!(is_silent(&live) && is_silent(&live));
    assert_eq!(live.current().find(b"alice").unwrap().line(), 2);
    // The hash changes.
    files.write(ALICE.replace("31Nq", "32Nq"));
    assert!(is_silent(&live));
    let last = change(live.poll());
    assert_eq!(
        (last.added, last.removed, last.changed, last.problems.len()),
        (0, 1, 1, 0)
    );
}

#[test]
fn a_problem_without_a_user_is_known_by_its_line() {
    let problem = |line, user: Option<&str>| Problem {
        line,
        user: user.map(str::to_owned),
        kind: ProblemKind::Weak(Scheme::Apr1),
    };
    let before = [problem(1, None), problem(2, Some("bob"))];
    let after = [
        problem(1, None),
        problem(3, None),
        problem(4, Some("bob")),
        problem(5, Some("eve")),
    ];
    assert_eq!(
        new_problems(&before, &after),
        [problem(3, None), problem(5, Some("eve"))]
    );
}

#[test]
fn a_reload_uses_only_a_version_that_two_polls_saw() {
    let files = Files::new();
    let old = settled(&files);
    let path = files.path("htpasswd");
    let quiet = Some(file_watch::poll(&path));
    // As after a writer has truncated the file: unchanged, but not for two polls.
    files.write("");
    for quiet in [None, quiet] {
        let kept = old.reuse(quiet).unwrap();
        assert!(Arc::ptr_eq(&kept, &old));
    }
    files.write(CAROL);
    let quiet = Some(file_watch::poll(&path));
    let new = old.reuse(quiet).unwrap();
    assert_eq!(
        (names(&new), names(&old)),
        (vec!["carol".to_owned()], vec!["alice".to_owned()])
    );
    // The version was stable when it was read, so a poll has nothing to confirm.
    assert_eq!(new.file_state().read, quiet);
    assert!(is_silent(&new) && is_silent(&new));
    fs::remove_file(&path).unwrap();
    let gone = Some(file_watch::poll(&path));
    assert!(old.reuse(gone).is_err());
}
