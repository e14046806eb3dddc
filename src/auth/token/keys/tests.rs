//! Tests of parsing secrets and of creating the secret file.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const ONE: &str = "q8vX0m3nT5kL7pR9sW1yZ2bC4dF6gH8jK0lM2nP4qS6=";
/// The beginning of a valid secret, one character too short.
const SHORT: &str = "q8vX0m3nT5kL7pR9sW1yZ2bC4dF6gH8";
const TWO: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn one_line_or_two_lines_are_parsed() {
    let one = SigningKeys::parse(ONE.as_bytes()).unwrap();
    let both = SigningKeys::parse(format!("\n  {TWO}\r\n\n{ONE}\n").as_bytes()).unwrap();
    assert_eq!(
        both.signing().id,
        SigningKeys::parse(TWO.as_bytes()).unwrap().signing().id
    );
    assert!(both.find(one.signing().id).is_some());
    assert!(one.find(both.signing().id).is_none());
    assert_ne!(one.signing().id, both.signing().id);
}

#[test]
fn weak_secrets_are_rejected() {
    let rejected = |text: &str| SigningKeys::parse(text.as_bytes()).err();
    assert_eq!(rejected(""), Some(WeakSecret::Lines(0)));
    assert_eq!(
        rejected(&format!("{ONE}\n{TWO}\n{ONE}")),
        Some(WeakSecret::Lines(3))
    );
    assert_eq!(rejected(SHORT), Some(WeakSecret::Short(1)));
    assert_eq!(
        rejected(&format!("{ONE}\n\nhunter2")),
        Some(WeakSecret::Short(3))
    );
    assert_eq!(rejected(&"abc".repeat(20)), Some(WeakSecret::Monotonous(1)));
    assert_eq!(
        rejected(&format!("{ONE} {TWO}")),
        Some(WeakSecret::Letters(1))
    );
    assert_eq!(rejected(&format!("{ONE}ü")), Some(WeakSecret::Letters(1)));
}

#[test]
fn no_error_repeats_a_secret() {
    let text = SigningKeys::parse(SHORT.as_bytes())
        .unwrap_err()
        .to_string();
    assert!(!text.contains(SHORT) && text.contains("line 1"), "{text}");
    let keys = SigningKeys::parse(ONE.as_bytes()).unwrap();
    assert_eq!(format!("{keys:?}"), "SigningKeys(..)");
}

#[test]
fn a_secret_file_is_created_once_and_only_its_owner_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    assert!(find(&state).unwrap().is_none());
    assert!(!state.exists());
    let created = find_or_make(&state).unwrap();
    let again = find_or_make(&state).unwrap();
    assert_eq!(created.keys.signing().id, again.keys.signing().id);
    assert_eq!(created.exposed, None);
    let names: Vec<_> = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["token-secret"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&state), mode(&secret_file(&state))), (0o711, 0o600));
    let text = fs::read_to_string(secret_file(&state)).unwrap();
    assert_eq!(Base64::decode_vec(text.trim()).unwrap().len(), 32);
    let other = find_or_make(&dir.path().join("other")).unwrap();
    assert_ne!(created.keys.signing().id, other.keys.signing().id);
}

#[test]
fn creating_a_secret_file_does_not_replace_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = secret_file(dir.path());
    fs::write(&path, ONE).unwrap();
    state_file::make(&path, TWO.as_bytes()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), ONE);
}

/// The threads have the same process id, as the first processes of several containers have.
#[test]
fn processes_that_create_the_secret_at_the_same_time_use_the_same_one() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let start = std::sync::Barrier::new(4);
        let make = || {
            start.wait();
            find_or_make(dir.path()).unwrap().keys.signing().id
        };
        let ids = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(make));
            threads.map(|one| one.join().unwrap())
        });
        let kept = load(&secret_file(dir.path())).unwrap().keys.signing().id;
        assert_eq!(ids, [kept; 4]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn other_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(load(dir.path()), Err(Error::Read { .. })));
    assert!(matches!(
        load(&dir.path().join("none")),
        Err(Error::Read { .. })
    ));
    let path = dir.path().join("large");
    fs::write(&path, "x".repeat(9000)).unwrap();
    let error = load(&path).unwrap_err();
    assert!(matches!(
        error,
        Error::Weak {
            weak: WeakSecret::Large,
            ..
        }
    ));
    assert!(error.to_string().contains("openssl rand -base64 32"));
    fs::write(&path, ONE).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(load(&path).unwrap().exposed, Some(0o644));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(load(&path).unwrap().exposed, None);
}
