//! The CA in a directory: created, loaded, damaged, expired. `tls::tests` checks that clients accept its certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn hosts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Issues a certificate for `a.test` at the time `at`.
fn leaf(ca: &LocalCa, at: OffsetDateTime) -> Certificate {
    let pair = ca.issue(&hosts(&["a.test"]), at).unwrap();
    Certificate::parse(pair.chain()[0].clone()).unwrap()
}

/// The certificate of the CA itself.
fn own(ca: &LocalCa) -> Certificate {
    Certificate::parse(ca.certificate().clone()).unwrap()
}

/// Fails to load the CA in `dir`, and returns the error message, which begins with the path of a file in `dir`.
fn load_error(dir: &Path, at: OffsetDateTime) -> String {
    let before: Vec<_> = ["ca.pem", "ca-key.pem"]
        .map(|f| fs::read(dir.join(f)).ok())
        .into();
    let message = load_or_create(dir, at).err().unwrap().to_string();
    let after: Vec<_> = ["ca.pem", "ca-key.pem"]
        .map(|f| fs::read(dir.join(f)).ok())
        .into();
    assert!(before == after, "changed: {message}");
    assert!(message.starts_with(&dir.display().to_string()), "{message}");
    message
}

/// In every second round, only the certificate is missing.
#[test]
fn processes_that_create_the_ca_at_the_same_time_get_the_same_ca() {
    for round in 0..20 {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        if round % 2 == 1 {
            load_or_create(&dir, now()).unwrap();
            fs::remove_file(dir.join("ca.pem")).unwrap();
        }
        let start = std::sync::Barrier::new(4);
        let create = || {
            start.wait();
            let ca = load_or_create(&dir, now()).unwrap();
            let key = ca.issuer.key().serialize_pem();
            (ca.certificate().clone(), key)
        };
        let made = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(create));
            threads.map(|one| one.join().unwrap())
        });
        let kept = load_or_create(&dir, now()).unwrap();
        for (certificate, key) in made {
            assert_eq!(certificate, *kept.certificate(), "round {round}");
            assert_eq!(key, kept.issuer.key().serialize_pem(), "round {round}");
        }
    }
}

#[test]
fn a_ca_is_created_once_and_then_loaded() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/ca");
    let made = load_or_create(&dir, now()).unwrap();
    assert_eq!(mode(&dir), 0o711);
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["ca-key.pem", "ca.lock", "ca.pem"]);
    for name in names {
        let expected = if name == "ca.pem" { 0o644 } else { 0o600 };
        assert_eq!(mode(&dir.join(&name)), expected, "{name:?}");
    }
    let path = dir.join("ca.pem");
    assert_eq!(made.path(), Some(path.as_path()));
    let stored = read_certificates(&path).unwrap().remove(0);
    assert_eq!(stored.der, *made.certificate());

    let again = load_or_create(&dir, now() + Duration::days(100)).unwrap();
    assert_eq!(again.certificate(), made.certificate());
    assert_eq!(again.path(), made.path());
    let (old, new) = (leaf(&made, now()), leaf(&again, now()));
    assert_eq!(old.issuer, new.issuer);
    assert_eq!(new.issuer, own(&made).subject);
}

#[test]
fn issued_certificates_meet_the_requirements_of_clients() {
    let ca = in_memory(now()).unwrap();
    let root = own(&ca);
    assert!(root.is_ca && root.is_self_issued());
    assert!(
        root.subject.text.starts_with("CN=tidegate CA "),
        "{}",
        root.subject.text
    );
    let names = ["A.test", "a.test.", "*.b.test", "[::1]", "10.0.0.1", "*"];
    let pair = ca.issue(&hosts(&names), now()).unwrap();
    let issued: Vec<String> = pair.names().iter().map(ToString::to_string).collect();
    assert_eq!(
        issued,
        ["a.test", "*.b.test", "::1", "10.0.0.1", "localhost"]
    );
    assert_eq!(pair.uncovered(Path::new("c"), &hosts(&names)), []);
    let leaf = Certificate::parse(pair.chain()[0].clone()).unwrap();
    assert!(!leaf.is_ca && leaf.key_kind == "EC on P-256");
    assert!(leaf.key_id.is_some());
    let chain = order_chain(vec![leaf, root], None).unwrap();
    assert_eq!(chain.issuers, 1);
    let (from, until) = (chain.leaf.not_before, pair.not_after());
    assert_eq!((until - from).whole_days(), 398);
    assert!(from < now() - Duration::hours(23));
    assert_eq!(ca.path(), None);
}

#[test]
fn a_leaf_does_not_outlive_its_ca() {
    let ca = in_memory(now()).unwrap();
    let late = now() + Duration::days(3600);
    assert_eq!(leaf(&ca, late).not_after, own(&ca).not_after);
}

#[test]
fn invalid_host_names_are_rejected() {
    let ca = in_memory(now()).unwrap();
    for host in [
        "", "a b", "*.*.x", "a.*", "ä.test", "a..b", "*.", "a:443", "a\nb",
    ] {
        let message = ca
            .issue(&hosts(&["ok.test", host]), now())
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with(&format!("{host:?} is neither")),
            "{message}"
        );
    }
}

#[test]
fn two_cas_have_different_names() {
    let (one, other) = (in_memory(now()).unwrap(), in_memory(now()).unwrap());
    assert_ne!(own(&one).subject, own(&other).subject);
}

#[test]
fn a_lost_ca_certificate_is_created_again_with_the_same_name_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let made = load_or_create(dir.path(), now()).unwrap();
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    // A draft that a crash has left behind.
    fs::write(dir.path().join("ca.draft"), "half").unwrap();
    let again = load_or_create(dir.path(), now() + Duration::days(5)).unwrap();
    let (old, new) = (own(&made), own(&again));
    assert_eq!(
        (&old.subject, &old.public_key, &old.key_id),
        (&new.subject, &new.public_key, &new.key_id)
    );
    assert_eq!(mode(&dir.path().join("ca.pem")), 0o644);
    assert!(!dir.path().join("ca.draft").exists());
}

#[test]
fn a_damaged_ca_is_rejected_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("ca.pem"), dir.path().join("ca-key.pem"));
    load_or_create(dir.path(), now()).unwrap();
    let (good_cert, good_key) = (fs::read(&cert).unwrap(), fs::read(&key).unwrap());
    let restore = || {
        fs::write(&cert, &good_cert).unwrap();
        fs::write(&key, &good_key).unwrap();
    };
    for damaged in [
        &b""[..],
        b"junk",
        &good_cert[..100],
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ] {
        for path in [&cert, &key] {
            restore();
            fs::write(path, damaged).unwrap();
            let message = load_error(dir.path(), now());
            assert!(
                message.starts_with(&path.display().to_string()),
                "{message}"
            );
            assert!(
                message.contains("every client must then trust"),
                "{message}"
            );
        }
    }
    restore();
    fs::remove_file(&key).unwrap();
    let message = load_error(dir.path(), now());
    assert!(message.starts_with(&key.display().to_string()), "{message}");
    restore();
    load_or_create(dir.path(), now()).unwrap();
}

#[test]
fn the_certificate_of_another_ca_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    load_or_create(dir.path(), now()).unwrap();
    let other = tempfile::tempdir().unwrap();
    load_or_create(other.path(), now()).unwrap();
    fs::copy(other.path().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
    let message = load_error(dir.path(), now());
    assert!(
        message.contains("not the CA certificate that belongs to ca-key.pem"),
        "{message}"
    );
}

#[test]
fn an_expired_ca_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    load_or_create(dir.path(), now()).unwrap();
    let message = load_error(dir.path(), now() + Duration::days(3651));
    assert!(message.contains("the CA expired on "), "{message}");
}

#[test]
fn the_error_names_a_directory_that_cannot_be_created() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let message = load_or_create(&dir.path().join("file/ca"), now())
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("file/ca"), "{message}");
}
