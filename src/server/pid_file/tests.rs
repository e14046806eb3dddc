//! Finding the process of a configuration. `tests/it/reload_command.rs` tests the signal with real processes.

use std::os::unix::fs::symlink;

use super::*;

fn found(dir: &Path, config: &Path) -> Result<u32, FindError> {
    find(&[dir.to_owned()], config).map(|process| process.pid())
}

/// Whether no process is found, within some seconds: a child that another test has forked holds a copy of every descriptor, and
/// of its lock, until it calls `exec`.
fn is_missing(dir: &Path, config: &Path) -> bool {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match found(dir, config) {
            Err(FindError::Missing { .. }) => return true,
            _ if std::time::Instant::now() > until => return false,
            _ => std::thread::yield_now(),
        }
    }
}

#[test]
fn a_process_is_found_while_it_holds_the_file_and_only_then() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, config) = (dir.path(), Path::new("/etc/x/proxy.toml"));
    assert!(is_missing(dir, config));
    let held = PidFile::take(dir, config).unwrap();
    assert_eq!(found(dir, config), Ok(std::process::id()));
    assert!(is_missing(dir, Path::new("/etc/y/proxy.toml")));
    let second = PidFile::take(dir, config).unwrap_err();
    assert!(
        second.to_string().contains(&std::process::id().to_string()),
        "{second}"
    );
    drop(held);
    assert!(is_missing(dir, config));
    PidFile::take(dir, config).unwrap();
}

#[test]
fn the_lock_is_held_also_if_the_status_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, config) = (dir.path(), Path::new("/etc/x/proxy.toml"));
    let draft = status_path(&path_in(dir, config)).with_extension("draft");
    fs::create_dir(draft).unwrap();
    let _held = PidFile::take(dir, config).unwrap();
    assert_eq!(found(dir, config), Ok(std::process::id()));
    let second = PidFile::take(dir, config);
    assert!(matches!(second, Err(Error::Running { .. })), "{second:?}");
}

#[test]
fn a_record_that_is_replaced_by_a_shorter_one_has_no_rest_of_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, config) = (dir.path(), Path::new("/etc/x/proxy.toml"));
    let path = path_in(dir, config);
    fs::write(
        &path,
        "4194304\n/a/much/longer/path/than/that/of/the/successor.toml\n",
    )
    .unwrap();
    let _held = PidFile::take(dir, config).unwrap();
    let expected = format!("{}\n/etc/x/proxy.toml\n", std::process::id());
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn the_lock_passes_on_with_the_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, config) = (dir.path(), Path::new("proxy.toml"));
    let old = PidFile::take(dir, config).unwrap();
    let handed = old.as_fd().try_clone_to_owned().unwrap();
    let new = PidFile::adopt(handed, old.path().to_owned(), config).unwrap();
    drop(old);
    assert_eq!(found(dir, config), Ok(std::process::id()));
    drop(new);
    assert!(is_missing(dir, config));
}

#[test]
fn the_reload_status_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, config) = (dir.path(), Path::new("proxy.toml"));
    let mut held = PidFile::take(dir, config).unwrap();
    let running = find(&[dir.to_owned()], config).unwrap();
    let status = || running.reload_status().unwrap();
    assert_eq!(status(), ReloadStatus::default());
    held.record_reload_start();
    assert_eq!((status().started, status().ended), (1, 0));
    held.record_reload_end(Some("2 errors\nof them one bad".to_owned()));
    assert_eq!((status().started, status().ended), (1, 1));
    assert_eq!(status().failure.unwrap(), "2 errors\nof them one bad");
    held.record_reload_start();
    held.record_reload_end(None);
    assert_eq!(status().failure, None);
}

/// As with release directories: `current` leads to r1 when the process starts, and to r2 later.
#[test]
fn a_path_through_a_link_that_has_changed_leads_to_its_process_and_to_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for release in ["r1", "r2"] {
        fs::create_dir(dir.join(release)).unwrap();
        fs::write(dir.join(release).join("proxy.toml"), "").unwrap();
    }
    let current = dir.join("current");
    symlink("r1", &current).unwrap();
    let given = current.join("proxy.toml");
    let [r1, r2] = ["r1", "r2"].map(|release| dir.join(release).join("proxy.toml"));
    let held = PidFile::take(dir, &given).unwrap();
    assert!(found(dir, &given).is_ok() && found(dir, &r1).is_ok());
    assert!(is_missing(dir, &r2));
    assert!(matches!(
        PidFile::take(dir, &r1),
        Err(Error::Running { .. })
    ));

    fs::remove_file(&current).unwrap();
    symlink("r2", &current).unwrap();
    assert!(found(dir, &given).is_ok());
    assert!(matches!(
        PidFile::take(dir, &given),
        Err(Error::Running { .. })
    ));
    // A reload of the process would read r2 now.
    assert!(found(dir, &r2).is_ok());
    assert!(is_missing(dir, &r1));
    // Another process may be started with r1, and the two are never confused.
    let other = PidFile::take(dir, &r1).unwrap();
    assert_ne!(other.path(), held.path());
    let other = find(&[dir.to_owned()], &r1).unwrap();
    let first = find(&[dir.to_owned()], &given).unwrap();
    assert_ne!(other.path, first.path);
}

#[test]
fn a_file_that_became_a_link_or_is_gone_still_leads_to_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (file, target) = (dir.join("proxy.toml"), dir.join("other.toml"));
    fs::write(&file, "").unwrap();
    let _held = PidFile::take(dir, &file).unwrap();
    fs::rename(&file, &target).unwrap();
    assert!(found(dir, &file).is_ok());
    assert!(is_missing(dir, &target));
    symlink(&target, &file).unwrap();
    assert!(found(dir, &file).is_ok() && found(dir, &target).is_ok());
}

/// As after a change of `state.dir`: the process has no file in the directory that the command searches.
#[test]
fn a_pid_file_in_another_directory_is_found_by_the_open_descriptor() {
    let [old, new] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    let config = old.path().join("proxy.toml");
    let held = PidFile::take(old.path(), &config).unwrap();
    let running = find(&[new.path().to_owned()], &config).unwrap();
    assert_eq!(running.path, held.path());
    drop(held);
    assert!(is_missing(new.path(), &config));
}

#[test]
fn a_file_of_an_older_version_is_found_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("proxy.toml");
    fs::write(&config, "").unwrap();
    let resolved = fs::canonicalize(&config).unwrap();
    let path = dir.path().join(file_name(&resolved));
    fs::write(&path, "4711\n").unwrap();
    let file = File::open(&path).unwrap();
    file.lock().unwrap();
    assert_eq!(found(dir.path(), &config), Ok(4711));
    assert!(is_missing(dir.path(), Path::new("/etc/y/proxy.toml")));
    assert!(matches!(
        PidFile::take(dir.path(), &config),
        Err(Error::Running { .. })
    ));
}

#[test]
fn several_processes_with_one_path_are_an_error_that_names_them() {
    let [one, two] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    let config = one.path().join("proxy.toml");
    let _held = PidFile::take(one.path(), &config).unwrap();
    let path = path_in(two.path(), &config);
    fs::write(&path, format!("4711\n{}\n", config.display())).unwrap();
    let file = File::open(&path).unwrap();
    file.lock().unwrap();
    let dirs = [one.path().to_owned(), two.path().to_owned()];
    let error = find(&dirs, &config).unwrap_err();
    assert!(error.to_string().contains("4711"), "{error}");
}

/// The process whose id is in the file exists and may be signalled, but another process holds the lock.
#[test]
fn a_process_that_does_not_hold_the_lock_gets_no_signal() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("proxy.toml");
    let mut victim = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let path = path_in(dir.path(), &config);
    fs::write(&path, format!("{}\n{}\n", victim.id(), config.display())).unwrap();
    let file = File::open(&path).unwrap();
    file.lock().unwrap();
    let running = find(&[dir.path().to_owned()], &config).unwrap();
    assert_eq!(running.pid(), victim.id());
    let error = running.signal_reload().unwrap_err();
    assert!(matches!(error, SignalError::NotTheHolder { .. }), "{error}");
    assert!(victim.try_wait().unwrap().is_none(), "it was signalled");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let ended = running.signal_reload().unwrap_err();
    assert!(matches!(ended, SignalError::Ended), "{ended}");
}

#[test]
fn the_holder_of_the_lock_is_known_by_the_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("proxy.toml");
    let held = PidFile::take(dir.path(), &config).unwrap();
    let metadata = held.file.metadata().unwrap();
    assert!(holds_lock(std::process::id(), &metadata).unwrap());
    // A file that is open without a lock.
    let other = File::open(config_file(dir.path())).unwrap();
    assert!(!holds_lock(std::process::id(), &other.metadata().unwrap()).unwrap());
    let kept = File::open(held.path()).unwrap();
    drop(held);
    assert!(!holds_lock(std::process::id(), &kept.metadata().unwrap()).unwrap());
}

fn config_file(dir: &Path) -> PathBuf {
    let path = dir.join("other");
    fs::write(&path, "").unwrap();
    path
}

#[test]
fn links_and_files_of_other_users_in_a_shared_directory_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("proxy.toml");
    let path = path_in(dir.path(), &config);
    // Nothing is written through a link in the place of the pid file or of the draft of the status file.
    let target = dir.path().join("target");
    fs::write(&target, "unchanged").unwrap();
    symlink(&target, &path).unwrap();
    let error = PidFile::take(dir.path(), &config).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    fs::remove_file(&path).unwrap();
    symlink(&target, status_path(&path).with_extension("draft")).unwrap();
    let held = PidFile::take(dir.path(), &config).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "unchanged");
    if !geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(held.path(), Some(12_345), None).unwrap();
    let error = found(dir.path(), &config).unwrap_err();
    assert!(error.to_string().contains("user 12345"), "{error}");
    std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
    assert!(found(dir.path(), &config).is_ok());
}

#[test]
fn a_record_is_parsed_also_with_a_line_feed_in_the_path() {
    for (text, record) in [
        ("7\n/etc/a\n", Some((7, Some("/etc/a")))),
        ("7\n/etc/a\nb\n", Some((7, Some("/etc/a\nb")))),
        ("7\n", Some((7, None))),
        ("7", Some((7, None))),
        ("", None),
        ("x\n/etc/a\n", None),
        ("-7\n/etc/a\n", None),
    ] {
        let read = Record::parse(text.as_bytes());
        let record = record.map(|(pid, config)| Record {
            pid,
            config: config.map(PathBuf::from),
        });
        assert_eq!(read, record, "{text:?}");
    }
}
