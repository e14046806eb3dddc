//! Locks and files, in a fresh folder.

use tempfile::TempDir;

use super::*;

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn store(dir: &TempDir, directory: &str) -> Store {
    let store = Store::new(dir.path(), directory);
    store.prepare().unwrap();
    store
}

fn issue(host: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn one_process_orders_and_two_directories_do_not_meet() {
    let dir = TempDir::new().unwrap();
    let (one, same, other) = (store(&dir, "a"), store(&dir, "a"), store(&dir, "b"));
    let held = one.lock_host("a.test").unwrap().unwrap();
    assert!(same.lock_host("a.test").unwrap().is_none());
    assert!(same.lock_host("b.test").unwrap().is_some());
    assert!(other.lock_host("a.test").unwrap().is_some());
    drop(held);
    assert!(same.lock_host("a.test").unwrap().is_some());
}

#[test]
fn what_cannot_be_served_replaces_nothing() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, "a");
    assert!(store.load("a.test", now()).unwrap().is_none());
    let (chain, key) = issue("a.test");
    store.save("a.test", &chain, &key, now()).unwrap();
    let (foreign, its_key) = issue("b.test");
    for (chain, key) in [
        (&chain, &its_key),
        (&foreign, &its_key),
        (&String::new(), &key),
    ] {
        assert!(store.save("a.test", chain, key, now()).is_err());
    }
    let stored = store.load("a.test", now()).unwrap().unwrap();
    assert!(stored.covers("a.test"));
}

#[test]
fn a_forgotten_account_is_laid_aside() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, "a");
    assert!(store.account().unwrap().is_none());
    store.save_account(b"{}").unwrap();
    assert_eq!(store.account().unwrap().unwrap().as_slice(), b"{}");
    store.forget_account().unwrap();
    assert!(store.account().unwrap().is_none());
    assert!(store.account_path().with_extension("lost").exists());
}
