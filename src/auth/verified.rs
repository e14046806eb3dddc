//! Verified logins, remembered for a while: what makes the hundredth request of a push as cheap as an open one.
//!
//! Used by `logins`. Only successes are kept, so that a guesser displaces nobody. What is kept is a mark:
//! a MAC, under a key that never leaves the process, over the user, the password as submitted and the
//! stored hash line, each with its length in front. So no two logins share a mark by where one part ends
//! and the next begins, a line that changes makes every mark of it worthless at once, and memory holds
//! nothing that could be tried against a password list.
//!
//! One line may have many right passwords: DES crypt reads 8 characters of one, bcrypt 72. So each line has room for a
//! few marks only, and its user displaces none but his own.
//!
//! Each login keeps the client networks that have sent it lately. Only those networks may use it without asking the guess
//! limiter: a network that has used up its guesses must not learn from a remembered login which password is right.

use parking_lot::MutexGuard;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use aws_lc_rs::rand::SystemRandom;
use tokio::time::Instant;

use super::sharded::{SHARDS, Sharded};
use crate::net::addr::ClientNetwork;
use crate::secret::Password;

/// The logins that were verified lately.
pub(super) struct LoginCache {
    key: Key,
    hasher: RandomState,
    shards: Sharded<Shard>,
}

/// Stands for one user, one password and one stored line; equal for equal ones only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    mac: [u8; 32],
    /// Of the user and the line, under a key of this process; two of the same share their room, and nothing else.
    owner: u64,
}

#[derive(Default)]
struct Shard {
    /// By owner; none of them empty.
    logins: HashMap<u64, Vec<Login>>,
    /// Of all owners.
    count: usize,
}

struct Login {
    mac: [u8; 32],
    /// When the password was hashed.
    since: Instant,
    used: Instant,
    /// The client networks that have proved this login, and when each of them used it last.
    proofs: Vec<Proof>,
}

#[derive(Clone, Copy)]
struct Proof {
    network: ClientNetwork,
    used: Instant,
}

/// Whether a login is remembered, and for which client network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is not remembered.
    No,
    /// Other client networks have proved it, but not the one that asks now.
    Elsewhere,
    /// The client network that asks has proved it and has used it since without a pause of [`IDLE`].
    Here,
}

impl LoginCache {
    /// None remembered, under a fresh key; fails when the system has no random bytes.
    pub(super) fn new() -> Result<Self, Unspecified> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new())?;
        Ok(Self {
            key,
            hasher: RandomState::new(),
            shards: Sharded::default(),
        })
    }

    /// The mark of a login as it was submitted; `stored` is the user's hash, or empty for an unknown user.
    pub(super) fn mark(&self, user: &[u8], password: &Password, stored: &[u8]) -> CacheKey {
        let mut mac = Context::with_key(&self.key);
        for part in [user, password.as_bytes(), stored] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let mut mark = [0; 32];
        for (to, from) in mark.iter_mut().zip(mac.sign().as_ref()) {
            *to = *from;
        }
        CacheKey {
            mac: mark,
            owner: self.hasher.hash_one((user, stored)),
        }
    }

    /// Whether this login was verified, and whether `network` has proved it. Only a login that `network` has proved counts
    /// as used now.
    pub(super) fn look_up(&self, mark: &CacheKey, network: ClientNetwork, now: Instant) -> Known {
        let mut shard = self.shard(mark);
        let Some(login) = shard.current(mark, now) else {
            return Known::No;
        };
        match login.proof(network) {
            Some(proof) if now < proof.used + IDLE => {
                proof.used = now;
                login.used = now;
                Known::Here
            }
            _ => Known::Elsewhere,
        }
    }

    /// Notes that `network` has sent this login, if the login is remembered, and returns whether it is. How long the
    /// login is remembered in all stays as it was, since nothing was hashed.
    pub(super) fn prove(&self, mark: &CacheKey, network: ClientNetwork, now: Instant) -> bool {
        let mut shard = self.shard(mark);
        let login = shard.current(mark, now);
        let is_known = login.is_some();
        if let Some(login) = login {
            login.used = now;
            login.add_proof(network, now);
        }
        is_known
    }

    /// Remembers a login of `network` whose password was hashed and is right.
    pub(super) fn insert(&self, mark: CacheKey, network: ClientNetwork, now: Instant) {
        let mut shard = self.shard(&mark);
        let proofs = shard.evict(&mark);
        if shard.count >= MOST / SHARDS {
            shard.make_room(now);
        }
        let mut login = Login {
            mac: mark.mac,
            since: now,
            used: now,
            proofs,
        };
        login.add_proof(network, now);
        shard.logins.entry(mark.owner).or_default().push(login);
        shard.count += 1;
    }

    fn shard(&self, mark: &CacheKey) -> MutexGuard<'_, Shard> {
        let [first, ..] = mark.owner.to_be_bytes();
        self.shards.of(first)
    }
}

impl Login {
    fn is_current(&self, now: Instant) -> bool {
        now < self.used + IDLE && now < self.since + LIFE
    }

    fn proof(&mut self, network: ClientNetwork) -> Option<&mut Proof> {
        self.proofs
            .iter_mut()
            .find(|proof| proof.network == network)
    }

    /// Adds or renews the proof of `network`. A login with [`PROOFS`] of them loses the one that was used longest ago.
    fn add_proof(&mut self, network: ClientNetwork, now: Instant) {
        if let Some(proof) = self.proof(network) {
            proof.used = now;
            return;
        }
        self.proofs.retain(|proof| now < proof.used + IDLE);
        if self.proofs.len() >= PROOFS {
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
    /// The remembered login with this mark, unless its time is over.
    fn current(&mut self, mark: &CacheKey, now: Instant) -> Option<&mut Login> {
        let mut own = self.logins.get_mut(&mark.owner)?.iter_mut();
        own.find(|login| login.mac == mark.mac && login.is_current(now))
    }

    /// Removes this login and returns its proofs. If its owner then still has as many logins as allowed, the one that was
    /// used longest ago is removed too.
    fn evict(&mut self, mark: &CacheKey) -> Vec<Proof> {
        let mut proofs = Vec::new();
        let Some(own) = self.logins.get_mut(&mark.owner) else {
            return proofs;
        };
        let before = own.len();
        own.retain_mut(|login| {
            let is_it = login.mac == mark.mac;
            if is_it {
                proofs = std::mem::take(&mut login.proofs);
            }
            !is_it
        });
        if own.len() >= MAX_PER_LINE {
            let oldest = own.iter().map(|login| login.used).min();
            own.retain(|login| Some(login.used) != oldest);
        }
        self.count -= before - own.len();
        if own.is_empty() {
            self.logins.remove(&mark.owner);
        }
        proofs
    }

    /// What is over goes; else the owner who was here least lately.
    fn make_room(&mut self, now: Instant) {
        self.logins.retain(|_, own| {
            own.retain(|login| login.is_current(now));
            !own.is_empty()
        });
        self.count = self.logins.values().map(Vec::len).sum();
        if self.count < MOST / SHARDS {
            return;
        }
        let lately = |own: &Vec<Login>| own.iter().map(|login| login.used).max();
        let oldest = self.logins.iter().min_by_key(|(_, own)| lately(own));
        let Some(owner) = oldest.map(|(owner, _)| *owner) else {
            return;
        };
        let gone = self.logins.remove(&owner);
        self.count -= gone.map_or(0, |own| own.len());
    }
}

/// Silent: equal marks would tell which logins are equal.
impl std::fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mark(..)")
    }
}

impl std::fmt::Debug for LoginCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verified(..)")
    }
}

/// How long a login is remembered without being used: the pauses of a push, and no more than a coffee.
const IDLE: Duration = Duration::from_secs(300);
/// How long it is remembered at all: a working day. A robot that never pauses costs two hashes a day.
const LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// The number of logins that are remembered; one takes 150 to 500 bytes.
const MOST: usize = 16 * 1024;
/// The number of client networks that are kept with one login. A further network proves the login like a new one.
const PROOFS: usize = 8;
/// Of one user with one line: a password has one right spelling, or two where a client has an old, longer one.
const MAX_PER_LINE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::PeerAddr;

    fn network(address: &str) -> ClientNetwork {
        let address: std::net::IpAddr = address.parse().unwrap();
        PeerAddr::new((address, 1).into()).client().network()
    }

    fn home() -> ClientNetwork {
        network("127.0.0.1")
    }

    fn contains(verified: &LoginCache, mark: &CacheKey, now: Instant) -> bool {
        verified.look_up(mark, home(), now) == Known::Here
    }

    fn mark(verified: &LoginCache, user: &[u8], password: &[u8], stored: &[u8]) -> CacheKey {
        verified.mark(user, &Password::new(password.to_vec()), stored)
    }

    #[test]
    fn a_login_is_known_while_it_is_used() {
        let verified = LoginCache::new().unwrap();
        let start = Instant::now();
        let tick = Duration::from_millis(1);
        let alice = mark(&verified, b"alice", b"pw", b"$2y$1");
        assert!(!contains(&verified, &alice, start));
        verified.insert(alice, home(), start);
        // Each use counts from its own moment.
        let mut now = start;
        for _ in 0..3 {
            now += IDLE - tick;
            assert!(contains(&verified, &alice, now));
        }
        assert!(!contains(&verified, &alice, now + IDLE));
        // To ask in vain is no use.
        assert!(!contains(&verified, &alice, now + IDLE));
    }

    #[test]
    fn only_a_network_that_has_proved_a_login_may_use_it_unasked() {
        let verified = LoginCache::new().unwrap();
        let start = Instant::now();
        let alice = mark(&verified, b"alice", b"pw", b"$2y$1");
        let (other, third) = (network("192.0.2.1"), network("2001:db8::1"));
        assert!(
            !verified.prove(&alice, other, start),
            "nothing is remembered"
        );
        verified.insert(alice, home(), start);
        assert_eq!(verified.look_up(&alice, home(), start), Known::Here);
        assert_eq!(verified.look_up(&alice, other, start), Known::Elsewhere);
        assert!(verified.prove(&alice, other, start));
        assert_eq!(verified.look_up(&alice, other, start), Known::Here);
        // The address within a client network does not count.
        assert!(verified.prove(&alice, third, start));
        let neighbour = network("2001:db8::2");
        assert_eq!(verified.look_up(&alice, neighbour, start), Known::Here);
        // A proof ends with a pause of its own network, while others keep the login alive.
        let middle = start + IDLE / 2;
        assert_eq!(verified.look_up(&alice, home(), middle), Known::Here);
        let later = start + IDLE;
        assert_eq!(verified.look_up(&alice, other, later), Known::Elsewhere);
        assert_eq!(verified.look_up(&alice, home(), later), Known::Here);
    }

    #[test]
    fn a_login_keeps_the_latest_networks_and_a_proof_does_not_prolong_its_life() {
        let verified = LoginCache::new().unwrap();
        let start = Instant::now();
        let tick = Duration::from_millis(1);
        let alice = mark(&verified, b"alice", b"pw", b"$2y$1");
        verified.insert(alice, home(), start);
        let numbered = |number: usize| network(&format!("192.0.2.{number}"));
        let mut now = start;
        for number in 1..=PROOFS {
            now += tick;
            assert!(verified.prove(&alice, numbered(number), now));
        }
        assert_eq!(verified.look_up(&alice, home(), now), Known::Elsewhere);
        for number in 1..=PROOFS {
            assert_eq!(verified.look_up(&alice, numbered(number), now), Known::Here);
        }
        while now + IDLE / 2 < start + LIFE {
            now += IDLE / 2;
            assert!(verified.prove(&alice, home(), now));
        }
        assert!(!verified.prove(&alice, home(), start + LIFE));
    }

    #[test]
    fn however_busy_its_password_is_hashed_again_in_the_end() {
        let verified = LoginCache::new().unwrap();
        let start = Instant::now();
        let alice = mark(&verified, b"alice", b"pw", b"$2y$1");
        verified.insert(alice, home(), start);
        let mut now = start;
        while now + IDLE / 2 < start + LIFE {
            now += IDLE / 2;
            assert!(contains(&verified, &alice, now));
        }
        assert!(contains(
            &verified,
            &alice,
            start + LIFE - Duration::from_millis(1)
        ));
        assert!(!contains(&verified, &alice, start + LIFE));
        verified.insert(alice, home(), start + LIFE);
        assert!(contains(&verified, &alice, start + LIFE));
    }

    #[test]
    fn one_user_displaces_nobody_else() {
        let verified = LoginCache::new().unwrap();
        let start = Instant::now();
        let login = |n: u32| mark(&verified, b"eve", format!("password{n}").as_bytes(), b"des");
        let bob = mark(&verified, b"bob", b"pw", b"line");
        verified.insert(bob, home(), start);
        let count = 3 * u32::try_from(MOST).unwrap();
        for n in 0..count {
            verified.insert(
                login(n),
                home(),
                start + Duration::from_micros(u64::from(n)),
            );
        }
        let now = start + Duration::from_secs(1);
        assert!(contains(&verified, &bob, now));
        let own = (0..count).filter(|n| contains(&verified, &login(*n), now));
        let last: Vec<_> = (count - 4..count).collect();
        assert_eq!(own.collect::<Vec<_>>(), last);
        // The same line under another name is another's room.
        let other = mark(&verified, b"mallory", b"password1", b"des");
        verified.insert(other, home(), now);
        assert!(contains(&verified, &login(count - 4), now) && contains(&verified, &other, now));
        // Again the same is no further one.
        for _ in 0..10 {
            verified.insert(login(count - 1), home(), now);
        }
        assert!(contains(&verified, &login(count - 4), now));
    }

    #[test]
    fn another_line_another_password_or_another_key_is_another_login() {
        let verified = LoginCache::new().unwrap();
        let now = Instant::now();
        verified.insert(mark(&verified, b"alice", b"pw", b"$2y$1"), home(), now);
        for (user, password, stored) in [
            (&b"alice"[..], &b"pw"[..], &b"$2y$2"[..]),
            (b"alice", b"PW", b"$2y$1"),
            (b"Alice", b"pw", b"$2y$1"),
            (b"alic", b"epw", b"$2y$1"),
            (b"alice", b"", b"pw$2y$1"),
            (b"alice", b"pw", b""),
            (b"alicepw$2y$1", b"", b""),
        ] {
            assert!(!contains(
                &verified,
                &mark(&verified, user, password, stored),
                now
            ));
        }
        let other = LoginCache::new().unwrap();
        assert!(
            mark(&other, b"alice", b"pw", b"$2y$1") != mark(&verified, b"alice", b"pw", b"$2y$1")
        );
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let verified = LoginCache::new().unwrap();
        let start = Instant::now();
        let login = |n: u32| mark(&verified, &n.to_be_bytes(), b"pw", b"line");
        let count = u32::try_from(MOST).unwrap() + 5000;
        for n in 0..count {
            verified.insert(
                login(n),
                home(),
                start + Duration::from_millis(u64::from(n)),
            );
        }
        let kept: usize = verified
            .shards
            .all()
            .map(|shard| {
                let all: usize = shard.logins.values().map(Vec::len).sum();
                assert_eq!(all, shard.count);
                all
            })
            .sum();
        assert!(kept <= MOST, "{kept}");
        let now = start + Duration::from_millis(u64::from(count));
        assert!((count - 100..count).all(|n| contains(&verified, &login(n), now)));
    }

    proptest::proptest! {
        #[test]
        fn marks_are_equal_for_equal_logins_only(a: [Vec<u8>; 3], b: [Vec<u8>; 3], cut in 0..8_usize) {
            let verified = LoginCache::new().unwrap();
            let of = |login: &[Vec<u8>; 3]| mark(&verified, &login[0], &login[1], &login[2]);
            proptest::prop_assert_eq!(of(&a) == of(&b), a == b);
            // The same bytes, split elsewhere.
            let all = a.concat();
            let cut = cut.min(all.len());
            let moved = [all[..cut].to_vec(), all[cut..].to_vec(), Vec::new()];
            proptest::prop_assert_eq!(of(&a) == of(&moved), a == moved);
        }
    }
}
