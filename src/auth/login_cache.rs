//! The cache of verified logins. It makes the hundredth request of a push as cheap as one without a password.
//!
//! `password_verifier` looks logins up and inserts them. Only valid logins are cached, so that wrong guesses evict nothing.
//! The key of a login is a MAC over the user, the password as it was sent and the stored hash, each with its length in
//! front. The key of the MAC never leaves the process. Therefore two different logins have different keys, a changed line
//! in the password file makes its cached logins unreachable immediately, and a dump of the memory has nothing that could be
//! compared with a list of passwords.
//!
//! Several passwords may match one line: DES crypt reads 8 characters of a password, bcrypt 72 bytes. So each line has room
//! for a few logins only, and a user evicts only logins of the same line.
//!
//! Each login keeps the client networks that have sent it lately. Only these networks may use it without asking the guess
//! limiter: a network that has used up its guesses must not learn from a cached login which password is right.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use aws_lc_rs::rand::SystemRandom;
use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::sharded::{SHARDS, Sharded};
use crate::net::addr::ClientNetwork;
use crate::secret::Password;

/// The logins that were verified lately.
pub(super) struct LoginCache {
    mac_key: Key,
    hasher: RandomState,
    shards: Sharded<Shard>,
}

/// Identifies a user name, a password and a stored hash. Two keys are equal only if all three are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    mac: [u8; 32],
    /// A keyed hash of the user name and the stored hash. Two lines with the same value share their room in the cache, and
    /// nothing else.
    line: u64,
}

#[derive(Default)]
struct Shard {
    /// The logins by line. No list is empty.
    logins: HashMap<u64, Vec<Login>>,
    /// The number of logins in all lists.
    count: usize,
}

struct Login {
    mac: [u8; 32],
    /// The time at which the password was hashed.
    verified: Instant,
    used: Instant,
    /// The client networks that have proved this login, with the time at which each used it last.
    proofs: Vec<Proof>,
}

#[derive(Clone, Copy)]
struct Proof {
    network: ClientNetwork,
    used: Instant,
}

/// The result of looking up a login for a client network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    /// The login is not cached.
    Miss,
    /// Other client networks have proved the login, but not this one.
    OtherNetwork,
    /// The client network has proved the login, and has used it since without a pause of [`MAX_IDLE`].
    Hit,
}

impl LoginCache {
    /// Creates an empty cache with a fresh MAC key.
    ///
    /// # Errors
    /// The operating system provides no random bytes.
    pub(super) fn new() -> Result<Self, Unspecified> {
        Ok(Self {
            mac_key: Key::generate(HMAC_SHA256, &SystemRandom::new())?,
            hasher: RandomState::new(),
            shards: Sharded::default(),
        })
    }

    /// The key of a login as it was sent. `stored` is the stored hash of the user, or empty for an unknown user.
    pub(super) fn key(&self, user: &[u8], password: &Password, stored: &[u8]) -> CacheKey {
        let mut context = Context::with_key(&self.mac_key);
        for part in [user, password.as_bytes(), stored] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut mac = [0; 32];
        for (to, from) in mac.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        CacheKey {
            mac,
            line: self.hasher.hash_one((user, stored)),
        }
    }

    /// Looks a login up for `network`. Only a hit counts as a use of the login.
    pub(super) fn look_up(&self, key: &CacheKey, network: ClientNetwork, now: Instant) -> Lookup {
        let mut shard = self.shard(key);
        let Some(login) = shard.current(key, now) else {
            return Lookup::Miss;
        };
        match login.proof(network) {
            Some(proof) if now < proof.used + MAX_IDLE => {
                proof.used = now;
                login.used = now;
                Lookup::Hit
            }
            _ => Lookup::OtherNetwork,
        }
    }

    /// Records that `network` has sent this login, if the login is cached, and returns whether it is. The login is not cached
    /// for longer than before, because no password was hashed.
    pub(super) fn prove(&self, key: &CacheKey, network: ClientNetwork, now: Instant) -> bool {
        let mut shard = self.shard(key);
        let login = shard.current(key, now);
        let is_cached = login.is_some();
        if let Some(login) = login {
            login.used = now;
            login.add_proof(network, now);
        }
        is_cached
    }

    /// Caches a login of `network` whose password was hashed and is right.
    pub(super) fn insert(&self, key: CacheKey, network: ClientNetwork, now: Instant) {
        let mut shard = self.shard(&key);
        let proofs = shard.evict(&key);
        if shard.count >= MAX_LOGINS / SHARDS {
            shard.make_room(now);
        }
        let mut login = Login {
            mac: key.mac,
            verified: now,
            used: now,
            proofs,
        };
        login.add_proof(network, now);
        shard.logins.entry(key.line).or_default().push(login);
        shard.count += 1;
    }

    fn shard(&self, key: &CacheKey) -> MutexGuard<'_, Shard> {
        let [first, ..] = key.line.to_be_bytes();
        self.shards.lock(first)
    }
}

impl Login {
    fn is_current(&self, now: Instant) -> bool {
        now < self.used + MAX_IDLE && now < self.verified + MAX_AGE
    }

    fn proof(&mut self, network: ClientNetwork) -> Option<&mut Proof> {
        self.proofs
            .iter_mut()
            .find(|proof| proof.network == network)
    }

    /// Adds or renews the proof of `network`. A login with [`MAX_PROOFS`] of them loses the one that was used longest ago.
    fn add_proof(&mut self, network: ClientNetwork, now: Instant) {
        if let Some(proof) = self.proof(network) {
            proof.used = now;
            return;
        }
        self.proofs.retain(|proof| now < proof.used + MAX_IDLE);
        if self.proofs.len() >= MAX_PROOFS {
            let oldest = self.proofs.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, proof)| proof.used);
            if let Some(at) = oldest.map(|(at, _)| at) {
                self.proofs.swap_remove(at);
            }
        }
        self.proofs.push(Proof { network, used: now });
    }
}

impl Shard {
    /// The cached login with this key, unless it has expired.
    fn current(&mut self, key: &CacheKey, now: Instant) -> Option<&mut Login> {
        let mut of_line = self.logins.get_mut(&key.line)?.iter_mut();
        of_line.find(|login| login.mac == key.mac && login.is_current(now))
    }

    /// Removes the login with this key and returns its proofs. If its line then still has as many logins as allowed, the one
    /// that was used longest ago is removed too.
    fn evict(&mut self, key: &CacheKey) -> Vec<Proof> {
        let mut proofs = Vec::new();
        let Some(of_line) = self.logins.get_mut(&key.line) else {
            return proofs;
        };
        let before = of_line.len();
        of_line.retain_mut(|login| {
            let is_same = login.mac == key.mac;
            if is_same {
                proofs = std::mem::take(&mut login.proofs);
            }
            !is_same
        });
        if of_line.len() >= MAX_PER_LINE {
            let oldest = of_line.iter().map(|login| login.used).min();
            of_line.retain(|login| Some(login.used) != oldest);
        }
        self.count -= before - of_line.len();
        if of_line.is_empty() {
            self.logins.remove(&key.line);
        }
        proofs
    }

    /// Removes the expired logins, or else all logins of the line that was used least recently.
    fn make_room(&mut self, now: Instant) {
        self.logins.retain(|_, of_line| {
            of_line.retain(|login| login.is_current(now));
            !of_line.is_empty()
        });
        self.count = self.logins.values().map(Vec::len).sum();
        if self.count < MAX_LOGINS / SHARDS {
            return;
        }
        let last_use = |of_line: &Vec<Login>| of_line.iter().map(|login| login.used).max();
        let oldest = self
            .logins
            .iter()
            .min_by_key(|(_, of_line)| last_use(of_line));
        let Some(line) = oldest.map(|(line, _)| *line) else {
            return;
        };
        let removed = self.logins.remove(&line);
        self.count -= removed.map_or(0, |of_line| of_line.len());
    }
}

/// Does not show the key: equal keys would reveal which logins are equal.
impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKey(..)")
    }
}

impl fmt::Debug for LoginCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginCache(..)")
    }
}

/// How long a login is cached without being used: longer than the pauses within a push.
const MAX_IDLE: Duration = Duration::from_secs(300);
/// How long a login is cached in all: a working day. A client that never pauses costs two hashes a day.
const MAX_AGE: Duration = Duration::from_secs(12 * 60 * 60);
/// The maximum number of cached logins. One login takes 150 to 500 bytes.
const MAX_LOGINS: usize = 16 * 1024;
/// The maximum number of client networks that are kept with one login. A further network proves the login like a new one.
const MAX_PROOFS: usize = 8;
/// The maximum number of logins with one line of the password file. A password usually has one spelling, or two where one
/// client still has an old, longer password of which the hash does not read the end.
const MAX_PER_LINE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::ClientAddr;

    fn network(address: &str) -> ClientNetwork {
        ClientAddr::new(address.parse().unwrap()).network()
    }

    fn home() -> ClientNetwork {
        network("127.0.0.1")
    }

    fn contains(cache: &LoginCache, key: &CacheKey, now: Instant) -> bool {
        cache.look_up(key, home(), now) == Lookup::Hit
    }

    fn key(cache: &LoginCache, user: &[u8], password: &[u8], stored: &[u8]) -> CacheKey {
        cache.key(user, &Password::new(password.to_vec()), stored)
    }

    #[test]
    fn a_login_is_cached_while_it_is_used() {
        let cache = LoginCache::new().unwrap();
        let start = Instant::now();
        let tick = Duration::from_millis(1);
        let alice = key(&cache, b"alice", b"pw", b"$2y$1");
        assert!(!contains(&cache, &alice, start));
        cache.insert(alice, home(), start);
        // The idle time counts from the last use.
        let mut now = start;
        for _ in 0..3 {
            now += MAX_IDLE - tick;
            assert!(contains(&cache, &alice, now));
        }
        assert!(!contains(&cache, &alice, now + MAX_IDLE));
        // A miss is not a use.
        assert!(!contains(&cache, &alice, now + MAX_IDLE));
    }

    #[test]
    fn only_a_network_that_has_proved_a_login_gets_a_hit() {
        let cache = LoginCache::new().unwrap();
        let start = Instant::now();
        let alice = key(&cache, b"alice", b"pw", b"$2y$1");
        let (other, third) = (network("192.0.2.1"), network("2001:db8::1"));
        assert!(!cache.prove(&alice, other, start), "nothing is cached");
        cache.insert(alice, home(), start);
        assert_eq!(cache.look_up(&alice, home(), start), Lookup::Hit);
        assert_eq!(cache.look_up(&alice, other, start), Lookup::OtherNetwork);
        assert!(cache.prove(&alice, other, start));
        assert_eq!(cache.look_up(&alice, other, start), Lookup::Hit);
        // The address within a client network does not count.
        assert!(cache.prove(&alice, third, start));
        let neighbour = network("2001:db8::2");
        assert_eq!(cache.look_up(&alice, neighbour, start), Lookup::Hit);
        // A proof ends with a pause of its own network, while others keep the login alive.
        let middle = start + MAX_IDLE / 2;
        assert_eq!(cache.look_up(&alice, home(), middle), Lookup::Hit);
        let later = start + MAX_IDLE;
        assert_eq!(cache.look_up(&alice, other, later), Lookup::OtherNetwork);
        assert_eq!(cache.look_up(&alice, home(), later), Lookup::Hit);
    }

    #[test]
    fn a_login_keeps_the_latest_networks_and_a_proof_does_not_extend_its_age() {
        let cache = LoginCache::new().unwrap();
        let start = Instant::now();
        let tick = Duration::from_millis(1);
        let alice = key(&cache, b"alice", b"pw", b"$2y$1");
        cache.insert(alice, home(), start);
        let numbered = |number: usize| network(&format!("192.0.2.{number}"));
        let mut now = start;
        for number in 1..=MAX_PROOFS {
            now += tick;
            assert!(cache.prove(&alice, numbered(number), now));
        }
        assert_eq!(cache.look_up(&alice, home(), now), Lookup::OtherNetwork);
        for number in 1..=MAX_PROOFS {
            assert_eq!(cache.look_up(&alice, numbered(number), now), Lookup::Hit);
        }
        while now + MAX_IDLE / 2 < start + MAX_AGE {
            now += MAX_IDLE / 2;
            assert!(cache.prove(&alice, home(), now));
        }
        assert!(!cache.prove(&alice, home(), start + MAX_AGE));
    }

    #[test]
    fn a_login_expires_after_its_maximum_age_however_often_it_is_used() {
        let cache = LoginCache::new().unwrap();
        let start = Instant::now();
        let alice = key(&cache, b"alice", b"pw", b"$2y$1");
        cache.insert(alice, home(), start);
        let mut now = start;
        while now + MAX_IDLE / 2 < start + MAX_AGE {
            now += MAX_IDLE / 2;
            assert!(contains(&cache, &alice, now));
        }
        assert!(contains(
            &cache,
            &alice,
            start + MAX_AGE - Duration::from_millis(1)
        ));
        assert!(!contains(&cache, &alice, start + MAX_AGE));
        cache.insert(alice, home(), start + MAX_AGE);
        assert!(contains(&cache, &alice, start + MAX_AGE));
    }

    #[test]
    fn a_user_evicts_only_logins_of_the_same_line() {
        let cache = LoginCache::new().unwrap();
        let start = Instant::now();
        let login = |n: u32| key(&cache, b"eve", format!("password{n}").as_bytes(), b"des");
        let bob = key(&cache, b"bob", b"pw", b"line");
        cache.insert(bob, home(), start);
        let count = 3 * u32::try_from(MAX_LOGINS).unwrap();
        for n in 0..count {
            cache.insert(
                login(n),
                home(),
                start + Duration::from_micros(u64::from(n)),
            );
        }
        let now = start + Duration::from_secs(1);
        assert!(contains(&cache, &bob, now));
        let kept = (0..count).filter(|n| contains(&cache, &login(*n), now));
        let last: Vec<_> = (count - 4..count).collect();
        assert_eq!(kept.collect::<Vec<_>>(), last);
        // The same stored hash with another user name is another line.
        let other = key(&cache, b"mallory", b"password1", b"des");
        cache.insert(other, home(), now);
        assert!(contains(&cache, &login(count - 4), now) && contains(&cache, &other, now));
        // Inserting the same login again needs no further room.
        for _ in 0..10 {
            cache.insert(login(count - 1), home(), now);
        }
        assert!(contains(&cache, &login(count - 4), now));
    }

    #[test]
    fn keys_depend_on_user_password_stored_hash_and_mac_key() {
        let cache = LoginCache::new().unwrap();
        let now = Instant::now();
        cache.insert(key(&cache, b"alice", b"pw", b"$2y$1"), home(), now);
        for (user, password, stored) in [
            (&b"alice"[..], &b"pw"[..], &b"$2y$2"[..]),
            (b"alice", b"PW", b"$2y$1"),
            (b"Alice", b"pw", b"$2y$1"),
            (b"alic", b"epw", b"$2y$1"),
            (b"alice", b"", b"pw$2y$1"),
            (b"alice", b"pw", b""),
            (b"alicepw$2y$1", b"", b""),
        ] {
            assert!(!contains(&cache, &key(&cache, user, password, stored), now));
        }
        let other = LoginCache::new().unwrap();
        assert!(key(&other, b"alice", b"pw", b"$2y$1") != key(&cache, b"alice", b"pw", b"$2y$1"));
    }

    #[test]
    fn the_number_of_logins_is_bounded_and_the_latest_are_kept() {
        let cache = LoginCache::new().unwrap();
        let start = Instant::now();
        let login = |n: u32| key(&cache, &n.to_be_bytes(), b"pw", b"line");
        let count = u32::try_from(MAX_LOGINS).unwrap() + 5000;
        for n in 0..count {
            cache.insert(
                login(n),
                home(),
                start + Duration::from_millis(u64::from(n)),
            );
        }
        let kept: usize = cache
            .shards
            .lock_each()
            .map(|shard| {
                let all: usize = shard.logins.values().map(Vec::len).sum();
                assert_eq!(all, shard.count);
                all
            })
            .sum();
        assert!(kept <= MAX_LOGINS, "{kept}");
        let now = start + Duration::from_millis(u64::from(count));
        assert!((count - 100..count).all(|n| contains(&cache, &login(n), now)));
    }

    proptest::proptest! {
        #[test]
        fn keys_are_equal_for_equal_logins_only(a: [Vec<u8>; 3], b: [Vec<u8>; 3], cut in 0..8_usize) {
            let cache = LoginCache::new().unwrap();
            let key_of = |login: &[Vec<u8>; 3]| key(&cache, &login[0], &login[1], &login[2]);
            proptest::prop_assert_eq!(key_of(&a) == key_of(&b), a == b);
            // The same bytes with another boundary between the parts.
            let all = a.concat();
            let cut = cut.min(all.len());
            let moved = [all[..cut].to_vec(), all[cut..].to_vec(), Vec::new()];
            proptest::prop_assert_eq!(key_of(&a) == key_of(&moved), a == moved);
        }
    }
}
