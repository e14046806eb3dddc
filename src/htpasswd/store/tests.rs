//! Tests of concurrent writers, and of what is left after a failure.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::SystemTime;

use super::*;
use crate::htpasswd::edit;

const WAIT: Duration = Duration::from_secs(30);

fn add(path: &Path, user: &str) -> Result<(Edited, bool), Error> {
    update_or_create(path, WAIT, |text| edit::set(text, user.as_bytes(), b"h"))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_created_and_then_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    assert!(add(&path, "a").unwrap().1);
    assert!(!add(&path, "b").unwrap().1);
    assert_eq!(fs::read(&path).unwrap(), b"a:h\nb:h\n");
    assert_eq!(names(dir.path()), ["users"]);
    let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
    assert_eq!(mode & !0o640, 0, "{mode:o}");
}

#[test]
fn the_mode_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    fs::write(&path, "").unwrap();
    for mode in [0o604, 0o640, 0o400] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        add(&path, "a").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
    }
}

#[test]
fn symbolic_links_are_followed_also_to_a_missing_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    symlink("second", dir.path().join("first")).unwrap();
    symlink("data/users", dir.path().join("second")).unwrap();
    for user in ["a", "b"] {
        add(&dir.path().join("first"), user).unwrap();
    }
    assert_eq!(
        fs::read(dir.path().join("data/users")).unwrap(),
        b"a:h\nb:h\n"
    );
    assert_eq!(names(dir.path()), ["data", "first", "second"]);
    assert!(fs::read_link(dir.path().join("first")).is_ok());
    assert_eq!(names(&dir.path().join("data")), ["users"]);
    symlink("loop", dir.path().join("loop")).unwrap();
    assert!(matches!(
        add(&dir.path().join("loop"), "a"),
        Err(Error::Failed { .. })
    ));
}

#[test]
fn an_edit_waits_for_the_lock_up_to_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    fs::write(&path, "a:h\n").unwrap();
    let held = File::open(&path).unwrap();
    held.lock().unwrap();
    let edit = |text: &[u8]| edit::remove(text, b"a");
    let rejected = update(&path, Duration::from_millis(20), edit);
    assert!(
        matches!(rejected, Err(Error::Locked { .. })),
        "{rejected:?}"
    );
    assert_eq!(
        (fs::read(&path).unwrap(), names(dir.path())),
        (b"a:h\n".to_vec(), vec!["users".to_owned()])
    );
    thread::scope(|scope| {
        let waiting = scope.spawn(|| add(&path, "b"));
        // The lock belongs to the replaced file, so the waiting writer must edit the new text.
        fs::write(dir.path().join("other"), "c:h\n").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        drop(held);
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(&path).unwrap(), b"c:h\nb:h\n");
}

#[test]
fn a_lock_on_a_replaced_file_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    fs::write(&path, "").unwrap();
    let opened = open(&path).unwrap();
    add(&path, "a").unwrap();
    assert!(try_lock(opened, &path).unwrap().is_none());
    let opened = open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(try_lock(opened, &path).unwrap().is_none());
    add(&path, "a").unwrap();
    assert!(try_lock(open(&path).unwrap(), &path).unwrap().is_some());
}

#[test]
fn concurrent_writers_lose_no_edit_even_when_the_file_is_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                (0..20).for_each(|user| drop(add(path, &format!("{writer}-{user}")).unwrap()))
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 80, "{text}");
    assert_eq!(names(dir.path()), ["users"]);
}

#[test]
fn a_reader_never_sees_a_partial_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let long = [&[b'#'; 100_000], b"\n".as_slice()].concat();
    fs::write(&path, &long).unwrap();
    thread::scope(|scope| {
        let writer =
            scope.spawn(|| (0..30).for_each(|user| drop(add(&path, &user.to_string()).unwrap())));
        while !writer.is_finished() {
            let text = fs::read(&path).unwrap();
            assert!(text.starts_with(&long) && text.ends_with(b"\n"));
        }
    });
}

#[test]
fn stale_files_of_killed_processes_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    let old = SystemTime::now() - Duration::from_hours(1);
    for (name, is_old) in [
        (".users.0123456789abcdef.new", true),
        (".users.fedcba9876543210.new", false),
        (".users.0123456789abcde.new", true),
        (".other.0123456789abcdef.new", true),
    ] {
        let file = File::create(dir.path().join(name)).unwrap();
        if is_old {
            file.set_modified(old).unwrap();
        }
    }
    add(&path, "a").unwrap();
    let left = [
        ".other.0123456789abcdef.new",
        ".users.0123456789abcde.new",
        ".users.fedcba9876543210.new",
        "users",
    ];
    assert_eq!(names(dir.path()), left);
}

#[test]
fn a_failed_edit_is_reported_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(matches!(
        update(&missing, WAIT, |_| None),
        Err(Error::Missing { .. })
    ));
    assert!(matches!(read(&missing), Err(Error::Missing { .. })));
    assert!(matches!(read_to_edit(&missing), Ok(None)));
    assert!(matches!(add(dir.path(), "a"), Err(Error::NotAFile { .. })));
    let nowhere = missing.join("users");
    assert!(matches!(
        read_to_edit(&nowhere),
        Err(Error::NoDirectory { .. })
    ));
    assert!(matches!(add(&nowhere, "a"), Err(Error::NoDirectory { .. })));
    assert!(names(dir.path()).is_empty());
}
