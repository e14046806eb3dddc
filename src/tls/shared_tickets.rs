//! The keys of session tickets in a directory that several instances of the proxy share, so that a client resumes its session at
//! any of them.
//!
//! `snapshot` opens the directory of `tls.ticket_keys`, and the thread of `server::file_watcher` calls
//! [`SharedTicketKeys::poll`]. A handshake uses the keys in memory and never waits for the directory.
//!
//! Time is divided into intervals of six hours since 1970. Each interval has one key, which the first instance that needs it
//! creates under a lock. A ticket is encrypted with the key of the interval in which it is issued, and is accepted until the end of
//! the next interval. A key that is older than that is neither used nor kept, even if the directory has become unavailable: then
//! clients make full handshakes.
//!
//! Each set of client CAs is a domain with keys of its own, which are derived from the key of the interval: a ticket represents a
//! verified client certificate, and must be worth nothing at a site that accepts other certificates.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{digest, hmac, rand};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::client_auth::ClientCa;
use crate::{bounded_file, state_file};

/// The keys of one directory, as far as they are in memory.
pub struct SharedTicketKeys {
    dir: PathBuf,
    keys: ArcSwap<LoadedKeys>,
    is_failing: AtomicBool,
}

struct LoadedKeys {
    current: IntervalKey,
    previous: Option<IntervalKey>,
}

#[derive(Clone)]
struct IntervalKey {
    interval: u64,
    secret: hmac::Key,
}

/// The result of [`SharedTicketKeys::poll`].
#[derive(Debug)]
pub(crate) enum TicketKeyEvent {
    /// The interval of the key in memory has not ended, or the failure to get the next key was reported already.
    Unchanged,
    /// A new interval has begun, and its key is in use.
    Rotated,
    /// The key of the new interval can be neither read nor created. Reported once until a poll succeeds.
    Failed(Error),
}

/// The reason why a directory cannot be used for ticket keys.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    /// A file or the directory could not be read, created or locked.
    #[error("{path}: {cause}; {}", state_file::write_remedy(cause), path = path.display())]
    Io { path: PathBuf, cause: io::Error },
    /// A key file has another length than a key.
    #[error("{path}: not a ticket key, which has {KEY_SIZE} bytes; remove it: a new key is created", path = path.display())]
    Damaged { path: PathBuf },
    /// The system returned no random bytes.
    #[error("the system provides no random bytes for a ticket key")]
    Random,
}

impl SharedTicketKeys {
    /// Reads the keys of this moment from a directory. The directory and the current key are created if they are missing.
    ///
    /// # Errors
    /// The directory or a file in it cannot be used.
    pub fn open(dir: &Path, now: SystemTime) -> Result<Self, Error> {
        state_file::make_dir(dir).map_err(io_error(dir))?;
        let keys = load(dir, interval_of(now), None, LOCK_TIMEOUT)?;
        Ok(Self {
            dir: dir.to_owned(),
            keys: ArcSwap::from_pointee(keys),
            is_failing: AtomicBool::new(false),
        })
    }

    /// Whether [`Self::open`] would succeed, as far as that can be judged without writing anything.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn inspect(dir: &Path, now: SystemTime) -> Result<(), Error> {
        match read_key(dir, interval_of(now))? {
            Some(_) => Ok(()),
            None => state_file::may_make(dir).map_err(io_error(dir)),
        }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads or creates the key of a new interval. May block for as long as the directory does.
    pub(crate) fn poll(&self, now: SystemTime) -> TicketKeyEvent {
        let (interval, loaded) = (interval_of(now), self.keys.load_full());
        if loaded.current.interval == interval {
            return TicketKeyEvent::Unchanged;
        }
        match load(&self.dir, interval, Some(&loaded), POLL_LOCK_TIMEOUT) {
            Ok(keys) => {
                self.keys.store(Arc::new(keys));
                self.is_failing.store(false, Ordering::Relaxed);
                TicketKeyEvent::Rotated
            }
            // Each failure is reported once, however often it is polled.
            Err(_) if self.is_failing.swap(true, Ordering::Relaxed) => TicketKeyEvent::Unchanged,
            Err(error) => TicketKeyEvent::Failed(error),
        }
    }

    /// Returns the ticketer of a set of client CAs, or of the sites that request no client certificate.
    pub(super) fn ticketer(
        self: &Arc<Self>,
        client_ca: Option<&ClientCa>,
    ) -> Arc<dyn ProducesTickets> {
        let mut domain = digest::Context::new(&digest::SHA256);
        if let Some(client_ca) = client_ca {
            client_ca.hash_into(|bytes| domain.update(bytes));
        }
        Arc::new(SharedTicketer {
            keys: Arc::clone(self),
            domain: domain.finish(),
        })
    }

    fn encrypt(&self, domain: &[u8], plain: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let key = Some(&keys.current).filter(|key| key.is_valid(now))?;
        let interval = key.interval.to_be_bytes();
        let mut sealed = plain.to_vec();
        let nonce = key
            .aead_key(domain)?
            .seal_in_place_append_tag(Aad::from(interval), &mut sealed);
        let mut ticket = interval.to_vec();
        ticket.extend_from_slice(nonce.ok()?.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, domain: &[u8], ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (interval, rest) = ticket.split_first_chunk::<8>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys.load();
        let mut known = std::iter::once(&keys.current).chain(&keys.previous);
        let key = known.find(|key| key.interval.to_be_bytes() == *interval)?;
        if !key.is_valid(now) {
            return None;
        }
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut opened = sealed.to_vec();
        let key = key.aead_key(domain)?;
        let plain = key.open_in_place(nonce, Aad::from(*interval), &mut opened);
        Some(plain.ok()?.to_vec())
    }
}

impl IntervalKey {
    /// Whether tickets of this key are accepted: in its interval and in the next one. The interval before is accepted as well,
    /// because the clock of this machine may be slower than that of the machine that created the key.
    fn is_valid(&self, now: SystemTime) -> bool {
        interval_of(now).abs_diff(self.interval) <= 1
    }

    fn aead_key(&self, domain: &[u8]) -> Option<RandomizedNonceKey> {
        let mut derived = hmac::Context::with_key(&self.secret);
        derived.update(b"tidegate session tickets, version 1\0");
        derived.update(domain);
        RandomizedNonceKey::new(&AES_256_GCM, derived.sign().as_ref()).ok()
    }
}

/// The keys for the sites of one domain. rustls calls it in a handshake.
struct SharedTicketer {
    keys: Arc<SharedTicketKeys>,
    domain: digest::Digest,
}

impl ProducesTickets for SharedTicketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        2 * INTERVAL_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys
            .encrypt(self.domain.as_ref(), plain, SystemTime::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.keys
            .decrypt(self.domain.as_ref(), ticket, SystemTime::now())
    }
}

fn interval_of(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() / u64::from(INTERVAL_SECONDS)
}

/// Reads the keys of an interval and of the one before it. The current key in `known`, the keys in memory, is not read again.
fn load(
    dir: &Path,
    interval: u64,
    known: Option<&LoadedKeys>,
    lock_timeout: Duration,
) -> Result<LoadedKeys, Error> {
    let current = match read_key(dir, interval)? {
        Some(key) => key,
        None => create(dir, interval, lock_timeout)?,
    };
    let before = interval.saturating_sub(1);
    let known = known.map(|known| &known.current);
    let previous = match known.filter(|key| key.interval == before) {
        Some(key) => Some(key.clone()),
        None => read_key(dir, before)?,
    };
    Ok(LoadedKeys { current, previous })
}

/// Creates the key of an interval, unless another instance does so first, and removes the keys that no instance accepts any more.
fn create(dir: &Path, interval: u64, lock_timeout: Duration) -> Result<IntervalKey, Error> {
    let lock = dir.join("ticket-keys.lock");
    let _lock = state_file::lock(&lock, lock_timeout).map_err(io_error(&lock))?;
    if let Some(key) = read_key(dir, interval)? {
        return Ok(key);
    }
    let mut secret = Zeroizing::new([0; KEY_SIZE]);
    rand::fill(&mut *secret).map_err(|Unspecified| Error::Random)?;
    let path = key_path(dir, interval);
    state_file::replace(&path, &*secret).map_err(io_error(&path))?;
    remove_keys_before(dir, interval.saturating_sub(1));
    Ok(interval_key(interval, &*secret))
}

/// A file that cannot be removed does no harm: its key is not accepted.
fn remove_keys_before(dir: &Path, oldest: u64) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let interval = name.to_str().and_then(|name| name.strip_prefix(KEY_NAME));
        let interval = interval.and_then(|interval| interval.parse::<u64>().ok());
        if interval.is_some_and(|interval| interval < oldest) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Reads the key of an interval; `None` if there is none.
fn read_key(dir: &Path, interval: u64) -> Result<Option<IntervalKey>, Error> {
    let path = key_path(dir, interval);
    let limit = u64::try_from(KEY_SIZE).unwrap_or(u64::MAX);
    match bounded_file::read(&path, limit) {
        Ok(secret) => {
            let secret = Zeroizing::new(secret);
            if secret.len() != KEY_SIZE {
                return Err(Error::Damaged { path });
            }
            Ok(Some(interval_key(interval, &secret)))
        }
        Err(bounded_file::ReadError::TooLarge { .. }) => Err(Error::Damaged { path }),
        Err(error) => match io::Error::from(error) {
            error if error.kind() == io::ErrorKind::NotFound => Ok(None),
            cause => Err(Error::Io { path, cause }),
        },
    }
}

fn interval_key(interval: u64, secret: &[u8]) -> IntervalKey {
    IntervalKey {
        interval,
        secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
    }
}

fn key_path(dir: &Path, interval: u64) -> PathBuf {
    dir.join(format!("{KEY_NAME}{interval}"))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |cause| Error::Io {
        path: path.to_owned(),
        cause,
    }
}

/// No key appears in debug output.
impl fmt::Debug for SharedTicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTicketKeys({})", self.dir.display())
    }
}

impl fmt::Debug for SharedTicketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedTicketer(..)")
    }
}

/// The time for which a key encrypts new tickets. It is the same as in rustls' own ticket rotation.
const INTERVAL_SECONDS: u32 = 6 * 60 * 60;
const KEY_SIZE: usize = 32;
/// The prefix of the name of a key's file. The rest of the name is the number of the interval in which the key encrypts tickets.
const KEY_NAME: &str = "ticket-key-";
/// The maximum wait for the lock while another instance creates a key, which takes some milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum wait for this lock in [`SharedTicketKeys::poll`], whose thread also polls password files and certificates.
const POLL_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(interval: u64) -> SystemTime {
        let seconds = interval * u64::from(INTERVAL_SECONDS) + 7;
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_ticket_is_accepted_by_every_instance_until_the_end_of_the_next_interval() {
        let dir = tempfile::tempdir().unwrap();
        let one = SharedTicketKeys::open(dir.path(), at(1000)).unwrap();
        let other = SharedTicketKeys::open(dir.path(), at(1000)).unwrap();
        let ticket = one.encrypt(b"a", b"session", at(1000)).unwrap();
        let opened = |keys: &SharedTicketKeys, now| keys.decrypt(b"a", &ticket, now);
        assert_eq!(opened(&other, at(1000)).as_deref(), Some(&b"session"[..]));
        for keys in [&one, &other] {
            assert!(matches!(keys.poll(at(1001)), TicketKeyEvent::Rotated));
            assert!(matches!(keys.poll(at(1001)), TicketKeyEvent::Unchanged));
            assert!(opened(keys, at(1001)).is_some());
        }
        let started = SharedTicketKeys::open(dir.path(), at(1001)).unwrap();
        assert!(opened(&started, at(1001)).is_some());
        let newer = one.encrypt(b"a", b"session", at(1001)).unwrap();
        assert!(other.decrypt(b"a", &newer, at(1001)).is_some());
        assert!(matches!(one.poll(at(1002)), TicketKeyEvent::Rotated));
        assert_eq!(opened(&one, at(1002)), None);
        let mut files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        files.sort();
        assert_eq!(
            files,
            ["ticket-key-1001", "ticket-key-1002", "ticket-keys.lock"]
        );
    }

    #[test]
    fn a_ticket_of_another_domain_or_a_changed_one_is_worth_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let keys = SharedTicketKeys::open(dir.path(), at(5)).unwrap();
        let ticket = keys.encrypt(b"a", b"session", at(5)).unwrap();
        assert_eq!(keys.decrypt(b"b", &ticket, at(5)), None);
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(keys.decrypt(b"a", &changed, at(5)), None, "byte {index}");
            assert_eq!(keys.decrypt(b"a", &ticket[..index], at(5)), None);
        }
    }

    #[test]
    fn without_the_directory_the_last_key_serves_one_more_interval() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("keys");
        let keys = SharedTicketKeys::open(&dir, at(5)).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!(matches!(
            keys.poll(at(6)),
            TicketKeyEvent::Failed(Error::Io { .. })
        ));
        assert!(
            matches!(keys.poll(at(6)), TicketKeyEvent::Unchanged),
            "reported once"
        );
        let ticket = keys.encrypt(b"a", b"session", at(6)).unwrap();
        assert!(keys.decrypt(b"a", &ticket, at(6)).is_some());
        assert_eq!(keys.encrypt(b"a", b"session", at(7)), None);
        assert_eq!(keys.decrypt(b"a", &ticket, at(7)), None);
    }

    #[test]
    fn instances_that_start_together_have_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let tickets: Vec<_> = std::thread::scope(|scope| {
            let open = || SharedTicketKeys::open(dir.path(), at(9)).unwrap();
            let threads = [(); 8].map(|()| scope.spawn(open));
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let ticket = tickets[0].encrypt(b"", b"x", at(9)).unwrap();
        assert!(
            tickets
                .iter()
                .all(|keys| keys.decrypt(b"", &ticket, at(9)).is_some())
        );
    }

    #[test]
    fn a_damaged_key_is_an_error_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        for content in ["short", "a key that is longer than the length of a key"] {
            fs::write(dir.path().join("ticket-key-3"), content).unwrap();
            let error = SharedTicketKeys::open(dir.path(), at(3)).unwrap_err();
            assert!(error.to_string().contains("remove it"), "{error}");
            assert!(SharedTicketKeys::inspect(dir.path(), at(3)).is_err());
        }
    }
}
