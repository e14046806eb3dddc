//! A CA's life in a directory. That clients accept what it issues is shown in `tls::tests`.

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

/// The leaf that this CA issues for `a.test`.
fn leaf(authority: &LocalCa, at: OffsetDateTime) -> Certificate {
    let pair = authority.issue(&hosts(&["a.test"]), at).unwrap();
    Certificate::read(pair.chain()[0].clone()).unwrap()
}

fn own(authority: &LocalCa) -> Certificate {
    use rustls_pki_types::pem::PemObject;
    let der =
        rustls_pki_types::CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes());
    Certificate::read(der.unwrap()).unwrap()
}

/// The sentence of the error for what stands in the directory, by what it begins with.
fn refusal(dir: &Path, at: OffsetDateTime) -> String {
    let before: Vec<_> = ["ca.pem", "ca-key.pem"]
        .map(|f| fs::read(dir.join(f)).ok())
        .into();
    let said = load_or_create(dir, at).err().unwrap().to_string();
    let after: Vec<_> = ["ca.pem", "ca-key.pem"]
        .map(|f| fs::read(dir.join(f)).ok())
        .into();
    assert!(before == after, "changed: {said}");
    assert!(said.starts_with(&dir.display().to_string()), "{said}");
    said
}

/// Also where only the certificate has to be made again.
#[test]
fn of_several_processes_that_create_the_ca_at_the_same_time_all_get_the_same() {
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
            let authority = load_or_create(&dir, now()).unwrap();
            let key = authority.issuer.key().serialize_pem();
            (authority.certificate_pem().to_owned(), key)
        };
        let made = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(create));
            threads.map(|one| one.join().unwrap())
        });
        let kept = load_or_create(&dir, now()).unwrap();
        for (certificate, key) in made {
            assert_eq!(certificate, kept.certificate_pem(), "round {round}");
            assert_eq!(key, kept.issuer.key().serialize_pem(), "round {round}");
        }
    }
}

#[test]
fn a_ca_is_made_once_and_kept() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/ca");
    let made = load_or_create(&dir, now()).unwrap();
    assert_eq!(mode(&dir), 0o700);
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["ca-key.pem", "ca.lock", "ca.pem"]);
    for name in names {
        assert_eq!(mode(&dir.join(&name)), 0o600, "{name:?}");
    }
    let path = dir.join("ca.pem");
    assert_eq!(made.path(), Some(path.as_path()));
    assert_eq!(fs::read_to_string(&path).unwrap(), made.certificate_pem());

    let again = load_or_create(&dir, now() + Duration::days(100)).unwrap();
    assert_eq!(again.certificate_pem(), made.certificate_pem());
    assert_eq!(again.path(), made.path());
    let (old, new) = (leaf(&made, now()), leaf(&again, now()));
    assert_eq!(old.issuer, new.issuer);
    assert_eq!(new.issuer, own(&made).subject);
}

#[test]
fn what_is_issued_is_as_clients_want_it() {
    let authority = in_memory(now()).unwrap();
    let ca = own(&authority);
    assert!(ca.is_authority && ca.is_self_issued());
    assert!(
        ca.subject.text.starts_with("CN=tidegate CA "),
        "{}",
        ca.subject.text
    );
    let names = ["A.test", "a.test.", "*.b.test", "[::1]", "10.0.0.1", "*"];
    let pair = authority.issue(&hosts(&names), now()).unwrap();
    let issued: Vec<String> = pair.names().iter().map(ToString::to_string).collect();
    assert_eq!(
        issued,
        ["a.test", "*.b.test", "::1", "10.0.0.1", "localhost"]
    );
    assert_eq!(pair.uncovered(Path::new("c"), &hosts(&names)), []);
    let leaf = Certificate::read(pair.chain()[0].clone()).unwrap();
    assert!(!leaf.is_authority && leaf.key_kind == "EC on P-256");
    assert!(leaf.key_id.is_some());
    let chain = order_chain(vec![leaf, ca], None).unwrap();
    assert_eq!(chain.issuers, 1);
    let (from, until) = (chain.leaf.not_before, pair.not_after());
    assert_eq!((until - from).whole_days(), 398);
    assert!(from < now() - Duration::hours(23));
    assert_eq!(authority.path(), None);
}

#[test]
fn a_leaf_does_not_outlive_its_ca() {
    let authority = in_memory(now()).unwrap();
    let late = now() + Duration::days(3600);
    assert_eq!(leaf(&authority, late).not_after, own(&authority).not_after);
}

#[test]
fn hosts_that_are_no_names_are_refused() {
    let authority = in_memory(now()).unwrap();
    for host in [
        "", "a b", "*.*.x", "a.*", "ä.test", "a..b", "*.", "a:443", "a\nb",
    ] {
        let said = authority
            .issue(&hosts(&["ok.test", host]), now())
            .unwrap_err()
            .to_string();
        assert!(said.starts_with(&format!("{host:?} is neither")), "{said}");
    }
}

#[test]
fn two_cas_differ_in_name() {
    let (one, other) = (in_memory(now()).unwrap(), in_memory(now()).unwrap());
    assert_ne!(own(&one).subject, own(&other).subject);
}

#[test]
fn a_lost_certificate_is_made_again_under_the_same_name() {
    let dir = tempfile::tempdir().unwrap();
    let made = load_or_create(dir.path(), now()).unwrap();
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    // As a crash leaves it.
    fs::write(dir.path().join("ca.draft"), "half").unwrap();
    let again = load_or_create(dir.path(), now() + Duration::days(5)).unwrap();
    let (old, new) = (own(&made), own(&again));
    assert_eq!(
        (&old.subject, &old.public_key, &old.key_id),
        (&new.subject, &new.public_key, &new.key_id)
    );
    assert_eq!(mode(&dir.path().join("ca.pem")), 0o600);
    assert!(!dir.path().join("ca.draft").exists());
}

#[test]
fn a_damaged_ca_is_refused_and_left_alone() {
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
            let said = refusal(dir.path(), now());
            assert!(said.starts_with(&path.display().to_string()), "{said}");
            assert!(said.contains("every client must then trust"), "{said}");
        }
    }
    restore();
    fs::remove_file(&key).unwrap();
    let said = refusal(dir.path(), now());
    assert!(said.starts_with(&key.display().to_string()), "{said}");
    restore();
    load_or_create(dir.path(), now()).unwrap();
}

#[test]
fn a_foreign_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    load_or_create(dir.path(), now()).unwrap();
    let other = in_memory(now()).unwrap();
    fs::write(dir.path().join("ca.pem"), other.certificate_pem()).unwrap();
    let said = refusal(dir.path(), now());
    assert!(
        said.contains("not the CA certificate that belongs to ca-key.pem"),
        "{said}"
    );
}

#[test]
fn an_expired_ca_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    load_or_create(dir.path(), now()).unwrap();
    let said = refusal(dir.path(), now() + Duration::days(3651));
    assert!(said.contains("the CA expired on "), "{said}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let said = load_or_create(&dir.path().join("file/ca"), now())
        .err()
        .unwrap()
        .to_string();
    assert!(said.contains("file/ca"), "{said}");
}
