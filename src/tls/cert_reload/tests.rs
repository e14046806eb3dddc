//! Polls real files. A change is detected by the number of polls, not by time, so no test waits.

use std::fs;
use std::os::unix::fs::symlink;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use time::Duration;

use super::*;

/// Issues a certificate that is valid for 90 days from `now()`, and returns it with its key.
fn issue() -> (String, String) {
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_before = now();
    params.not_after = now() + Duration::days(90);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A fixed time.
fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)
}

struct Files(TempDir);

impl Files {
    /// Creates the files `cert` and `key`.
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let (cert, key) = issue();
        fs::write(files.path("cert"), cert).unwrap();
        fs::write(files.path("key"), key).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Arc<ReloadingCert> {
        let loaded = ReloadingCert::load(&self.path("cert"), &self.path("key"), now());
        loaded.unwrap().0
    }

    /// Loads the files, and polls until the state of the files at the start is confirmed.
    fn settled(&self) -> Arc<ReloadingCert> {
        let live = self.load();
        for _ in 0..3 {
            assert!(is_unchanged(&live));
        }
        live
    }

    /// Writes a file in place until its stamp differs: the clock of the file system is coarse. Real polls are seconds apart.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        let before = file_watch::poll(&path);
        while {
            fs::write(&path, &text).unwrap();
            file_watch::poll(&path) == before
        } {}
    }

    fn stable_files(&self) -> StableFiles {
        let known = ["cert", "key"].map(|name| {
            let path = self.path(name);
            let read = Some(file_watch::poll(&path));
            LoadedVersion { path, read }
        });
        StableFiles::wait(&known)
    }
}

fn is_unchanged(live: &ReloadingCert) -> bool {
    matches!(live.poll(now()), CertEvent::Unchanged)
}

fn is_renewed(live: &ReloadingCert) -> bool {
    matches!(live.poll(now()), CertEvent::Renewed(_))
}

fn leaf(live: &ReloadingCert) -> CertificateDer<'static> {
    live.slot().current().unwrap().chain()[0].clone()
}

fn key_matches(live: &ReloadingCert) -> bool {
    live.slot()
        .current()
        .unwrap()
        .certified_key()
        .keys_match()
        .is_ok()
}

#[test]
fn a_renewal_written_in_steps_is_used_when_both_files_are_complete() {
    let files = Files::new();
    let live = files.settled();
    let before = leaf(&live);
    let (cert, key) = issue();
    for length in (0..cert.len()).step_by(7) {
        files.write("cert", &cert.as_bytes()[..length]);
        assert!(is_unchanged(&live));
    }
    files.write("cert", &cert);
    assert!(is_unchanged(&live));
    // The writer is slow, so for two polls the key does not belong to the certificate.
    assert!(matches!(
        live.poll(now()),
        CertEvent::Failed(Error::Mismatch { .. })
    ));
    assert!(is_unchanged(&live) && is_unchanged(&live));
    files.write("key", &key);
    assert!(is_unchanged(&live));
    assert!(leaf(&live) == before && key_matches(&live));
    assert!(is_renewed(&live));
    assert!(leaf(&live) != before && key_matches(&live));
    assert!(is_unchanged(&live));
}

#[test]
fn a_directory_that_is_swapped_between_polls_gives_no_mixed_pair() {
    let files = Files::new();
    for folder in ["1", "2"] {
        let (cert, key) = issue();
        fs::create_dir(files.path(folder)).unwrap();
        fs::write(files.path(folder).join("cert"), cert).unwrap();
        fs::write(files.path(folder).join("key"), key).unwrap();
    }
    symlink("1", files.path("now")).unwrap();
    let (cert, key) = (files.path("now/cert"), files.path("now/key"));
    let (live, _) = ReloadingCert::load(&cert, &key, now()).unwrap();
    let first = leaf(&live);
    assert!(is_unchanged(&live) && is_unchanged(&live));
    symlink("2", files.path("next")).unwrap();
    fs::rename(files.path("next"), files.path("now")).unwrap();
    assert!(is_unchanged(&live));
    assert!(is_renewed(&live));
    assert!(leaf(&live) != first && key_matches(&live));
}

#[test]
fn a_poll_during_a_swap_never_uses_a_pair_that_does_not_match() {
    let files = Files::new();
    let live = files.settled();
    let pairs = [issue(), issue()];
    for (at, (cert, key)) in pairs.iter().cycle().take(40).enumerate() {
        files.write("cert", cert);
        if at % 3 == 0 {
            live.poll(now());
        }
        live.poll(now());
        assert!(key_matches(&live));
        files.write("key", key);
        live.poll(now());
        assert!(key_matches(&live));
    }
    live.poll(now());
    assert_eq!(
        leaf(&live),
        load_pair(&files.path("cert"), &files.path("key"), now())
            .unwrap()
            .0
            .chain()[0]
    );
}

#[test]
fn a_failure_is_reported_once_and_so_is_the_recovery() {
    let files = Files::new();
    let live = files.settled();
    let before = leaf(&live);
    let (cert, key) = (files.path("cert"), files.path("key"));
    let good = (fs::read(&cert).unwrap(), fs::read(&key).unwrap());
    let other = issue().1;
    type Break<'a> = Box<dyn Fn() + 'a>;
    let faults: [Break<'_>; 5] = [
        Box::new(|| files.write("cert", "nonsense")),
        Box::new(|| files.write("cert", "-----BEGIN CERTIFICATE-----\nAAAA")),
        Box::new(|| files.write("key", &other)),
        Box::new(|| fs::remove_file(&key).unwrap()),
        Box::new(|| {
            fs::remove_file(&cert).unwrap();
            fs::create_dir(&cert).unwrap();
        }),
    ];
    for fault in faults {
        fault();
        assert!(is_unchanged(&live));
        assert!(matches!(live.poll(now()), CertEvent::Failed(_)));
        assert!(is_unchanged(&live) && is_unchanged(&live));
        assert!(leaf(&live) == before && key_matches(&live));
        let _ = fs::remove_dir(&cert);
        files.write("cert", &good.0);
        files.write("key", &good.1);
        assert!(is_unchanged(&live));
        assert!(matches!(live.poll(now()), CertEvent::Recovered));
        assert!(is_unchanged(&live) && is_unchanged(&live));
    }
}

#[test]
fn a_reload_reads_stable_files_and_reports_their_failure() {
    let files = Files::new();
    let old = files.settled();
    let stable = files.stable_files();
    let (cert, key) = issue();
    files.write("cert", &cert);
    // While a file is being written, a key that does not match is no failure.
    for stable in [stable, StableFiles::default()] {
        assert!(matches!(old.reuse(&stable, now()), Ok(Reuse::Busy)));
    }
    let failure = old.reuse(&files.stable_files(), now());
    assert!(matches!(failure, Err(Error::Mismatch { .. })));
    files.write("key", &key);
    let Ok(Reuse::Read(new, _)) = old.reuse(&files.stable_files(), now()) else {
        panic!("not read");
    };
    assert!(leaf(&new) != leaf(&old) && key_matches(&new));
    assert!(is_unchanged(&new) && is_unchanged(&new));
}

#[test]
fn the_expiry_is_reported_three_times_and_again_after_a_renewal() {
    let files = Files::new();
    let live = files.settled();
    let warnings = |days: i64| {
        let warnings = live
            .slot()
            .take_new_expiry_warnings(Path::new("c.pem"), now() + Duration::days(days));
        let messages: Vec<_> = warnings.iter().map(CertWarning::to_string).collect();
        messages.join("\n")
    };
    let expiry = "expires on 2025-01-02: renew it";
    let steps = [
        (0, ""),
        (68, ""),
        (70, expiry),
        (71, ""),
        (82, ""),
        (84, expiry),
        (89, ""),
        (91, "expired on 2025-01-02"),
        (400, ""),
    ];
    for (days, expected) in steps {
        let message = warnings(days);
        assert!(
            message.contains(expected) && message.is_empty() == expected.is_empty(),
            "{days}: {message}"
        );
    }
    let (cert, key) = issue();
    files.write("cert", cert);
    files.write("key", key);
    assert!(is_unchanged(&live) && is_renewed(&live));
    assert!(warnings(0).is_empty() && warnings(70).contains(expiry));
}
