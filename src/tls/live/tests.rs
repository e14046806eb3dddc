//! Looks at real files, one after the other: what counts is their number, so no test waits.

use std::fs;
use std::os::unix::fs::symlink;

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use time::Duration;

use super::*;

/// A certificate that lasts 90 days from now, and its key.
fn issue() -> (String, String) {
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_before = now();
    params.not_after = now() + Duration::days(90);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The same for all of a run.
fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)
}

struct Files(TempDir);

impl Files {
    /// `cert` and `key`.
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

    /// Past the confirmation of what was read at the start.
    fn settled(&self) -> Arc<ReloadingCert> {
        let live = self.load();
        for _ in 0..3 {
            assert!(is_silent(&live));
        }
        live
    }

    /// In place, as often as it takes to be another tick of the file system's clock. Looks are far longer apart.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        let before = file_watch::poll(&path);
        while {
            fs::write(&path, &text).unwrap();
            file_watch::poll(&path) == before
        } {}
    }

    fn quiet(&self) -> StableFiles {
        let known = ["cert", "key"].map(|name| {
            let path = self.path(name);
            let read = Some(file_watch::poll(&path));
            LoadedVersion { path, read }
        });
        StableFiles::wait(&known)
    }
}

fn is_silent(live: &ReloadingCert) -> bool {
    matches!(live.poll(now()), CertEvent::Unchanged)
}

fn is_renewed(live: &ReloadingCert) -> bool {
    matches!(live.poll(now()), CertEvent::Renewed(_))
}

fn leaf(live: &ReloadingCert) -> CertificateDer<'static> {
    live.shown().current().unwrap().chain()[0].clone()
}

fn fits(live: &ReloadingCert) -> bool {
    live.shown()
        .current()
        .unwrap()
        .certified()
        .keys_match()
        .is_ok()
}

#[test]
fn a_renewal_written_in_steps_is_shown_when_both_are_there() {
    let files = Files::new();
    let live = files.settled();
    let before = leaf(&live);
    let (cert, key) = issue();
    for length in (0..cert.len()).step_by(7) {
        files.write("cert", &cert.as_bytes()[..length]);
        assert!(is_silent(&live));
    }
    files.write("cert", &cert);
    assert!(is_silent(&live));
    // The writer is slow: meanwhile certificate and key are of different origin.
    assert!(matches!(
        live.poll(now()),
        CertEvent::Failed(Error::Mismatch { .. })
    ));
    assert!(is_silent(&live) && is_silent(&live));
    files.write("key", &key);
    assert!(is_silent(&live));
    assert!(leaf(&live) == before && fits(&live));
    assert!(is_renewed(&live));
    assert!(leaf(&live) != before && fits(&live));
    assert!(is_silent(&live));
}

#[test]
fn a_folder_swapped_amid_the_looks_is_never_mixed() {
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
    assert!(is_silent(&live) && is_silent(&live));
    symlink("2", files.path("next")).unwrap();
    fs::rename(files.path("next"), files.path("now")).unwrap();
    assert!(is_silent(&live));
    assert!(is_renewed(&live));
    assert!(leaf(&live) != first && fits(&live));
}

#[test]
fn every_look_amid_swaps_finds_a_pair_that_fits() {
    let files = Files::new();
    let live = files.settled();
    let pairs = [issue(), issue()];
    for (at, (cert, key)) in pairs.iter().cycle().take(40).enumerate() {
        files.write("cert", cert);
        if at % 3 == 0 {
            live.poll(now());
        }
        live.poll(now());
        assert!(fits(&live));
        files.write("key", key);
        live.poll(now());
        assert!(fits(&live));
    }
    live.poll(now());
    assert_eq!(
        leaf(&live),
        certs::load(&files.path("cert"), &files.path("key"), now())
            .unwrap()
            .0
            .chain()[0]
    );
}

#[test]
fn what_cannot_be_used_is_told_once_and_so_is_its_end() {
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
        assert!(is_silent(&live));
        assert!(matches!(live.poll(now()), CertEvent::Failed(_)));
        assert!(is_silent(&live) && is_silent(&live));
        assert!(leaf(&live) == before && fits(&live));
        let _ = fs::remove_dir(&cert);
        files.write("cert", &good.0);
        files.write("key", &good.1);
        assert!(is_silent(&live));
        assert!(matches!(live.poll(now()), CertEvent::Recovered));
        assert!(is_silent(&live) && is_silent(&live));
    }
}

#[test]
fn a_reload_takes_a_quiet_pair_and_refuses_a_quiet_fault() {
    let files = Files::new();
    let old = files.settled();
    let quiet = files.quiet();
    let (cert, key) = issue();
    files.write("cert", &cert);
    // Half of a renewal is no fault while somebody is writing.
    for quiet in [quiet, StableFiles::default()] {
        assert!(matches!(old.reuse(&quiet, now()), Ok(Reuse::Busy)));
    }
    let fault = old.reuse(&files.quiet(), now());
    assert!(matches!(fault, Err(Error::Mismatch { .. })));
    files.write("key", &key);
    let Ok(Reuse::Read(new, _)) = old.reuse(&files.quiet(), now()) else {
        panic!("not read");
    };
    assert!(leaf(&new) != leaf(&old) && fits(&new));
    assert!(is_silent(&new) && is_silent(&new));
}

#[test]
fn the_end_is_announced_three_times_and_a_renewal_begins_anew() {
    let files = Files::new();
    let live = files.settled();
    let told = |days: i64| {
        let warnings = live
            .shown()
            .take_new_warnings(Path::new("c.pem"), now() + Duration::days(days));
        let words: Vec<_> = warnings.iter().map(Warning::to_string).collect();
        words.join("\n")
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
    for (days, words) in steps {
        let said = told(days);
        assert!(
            said.contains(words) && said.is_empty() == words.is_empty(),
            "{days}: {said}"
        );
    }
    let (cert, key) = issue();
    files.write("cert", cert);
    files.write("key", key);
    assert!(is_silent(&live) && is_renewed(&live));
    assert!(told(0).is_empty() && told(70).contains(expiry));
}
