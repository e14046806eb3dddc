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

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::MutexGuard;
use std::time::Duration;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
use aws_lc_rs::rand::SystemRandom;
use tokio::time::Instant;

use super::sharded::{SHARDS, Sharded};
use crate::secret::Password;

/// The logins that were verified lately.
pub(super) struct Verified {
    key: Key,
    hasher: RandomState,
    shards: Sharded<Shard>,
}

/// Stands for one user, one password and one stored line; equal for equal ones only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark {
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
}

impl Verified {
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
    pub(super) fn mark(&self, user: &[u8], password: &Password, stored: &[u8]) -> Mark {
        let mut mac = Context::with_key(&self.key);
        for part in [user, password.as_bytes(), stored] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let mut mark = [0; 32];
        for (to, from) in mark.iter_mut().zip(mac.sign().as_ref()) {
            *to = *from;
        }
        Mark {
            mac: mark,
            owner: self.hasher.hash_one((user, stored)),
        }
    }

    /// Whether this very login was verified, and used since without a pause of [`IDLE`]; it is used now.
    pub(super) fn knows(&self, mark: &Mark, now: Instant) -> bool {
        let mut shard = self.shard(mark);
        let mut own = shard.logins.get_mut(&mark.owner).into_iter().flatten();
        match own.find(|login| login.mac == mark.mac) {
            Some(login) if login.is_current(now) => {
                login.used = now;
                true
            }
            _ => false,
        }
    }

    /// Remembers a login whose password was right.
    pub(super) fn remember(&self, mark: Mark, now: Instant) {
        let mut shard = self.shard(&mark);
        shard.forget(&mark);
        if shard.count >= MOST / SHARDS {
            shard.make_room(now);
        }
        shard.logins.entry(mark.owner).or_default().push(Login {
            mac: mark.mac,
            since: now,
            used: now,
        });
        shard.count += 1;
    }

    fn shard(&self, mark: &Mark) -> MutexGuard<'_, Shard> {
        let [first, ..] = mark.owner.to_be_bytes();
        self.shards.of(first)
    }
}

impl Login {
    fn is_current(&self, now: Instant) -> bool {
        now < self.used + IDLE && now < self.since + LIFE
    }
}

impl Shard {
    /// Takes out this login, and of its owner's others the one that was used least lately when there is no room for
    /// one more.
    fn forget(&mut self, mark: &Mark) {
        let Some(own) = self.logins.get_mut(&mark.owner) else {
            return;
        };
        let before = own.len();
        own.retain(|login| login.mac != mark.mac);
        if own.len() >= OF_ONE {
            let oldest = own.iter().map(|login| login.used).min();
            own.retain(|login| Some(login.used) != oldest);
        }
        self.count -= before - own.len();
        if own.is_empty() {
            self.logins.remove(&mark.owner);
        }
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
impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mark(..)")
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verified(..)")
    }
}

/// How long a login is remembered without being used: the pauses of a push, and no more than a coffee.
const IDLE: Duration = Duration::from_secs(300);
/// How long it is remembered at all: a working day. A robot that never pauses costs two hashes a day.
const LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// Logins remembered at most; one takes some 150 bytes.
const MOST: usize = 16 * 1024;
/// Of one user with one line: a password has one right spelling, or two where a client has an old, longer one.
const OF_ONE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(verified: &Verified, user: &[u8], password: &[u8], stored: &[u8]) -> Mark {
        verified.mark(user, &Password::new(password.to_vec()), stored)
    }

    #[test]
    fn a_login_is_known_while_it_is_used() {
        let verified = Verified::new().unwrap();
        let start = Instant::now();
        let tick = Duration::from_millis(1);
        let alice = mark(&verified, b"alice", b"pw", b"$2y$1");
        assert!(!verified.knows(&alice, start));
        verified.remember(alice, start);
        // Each use counts from its own moment.
        let mut now = start;
        for _ in 0..3 {
            now += IDLE - tick;
            assert!(verified.knows(&alice, now));
        }
        assert!(!verified.knows(&alice, now + IDLE));
        // To ask in vain is no use.
        assert!(!verified.knows(&alice, now + IDLE));
    }

    #[test]
    fn however_busy_its_password_is_hashed_again_in_the_end() {
        let verified = Verified::new().unwrap();
        let start = Instant::now();
        let alice = mark(&verified, b"alice", b"pw", b"$2y$1");
        verified.remember(alice, start);
        let mut now = start;
        while now + IDLE / 2 < start + LIFE {
            now += IDLE / 2;
            assert!(verified.knows(&alice, now));
        }
        assert!(verified.knows(&alice, start + LIFE - Duration::from_millis(1)));
        assert!(!verified.knows(&alice, start + LIFE));
        verified.remember(alice, start + LIFE);
        assert!(verified.knows(&alice, start + LIFE));
    }

    #[test]
    fn one_user_displaces_nobody_else() {
        let verified = Verified::new().unwrap();
        let start = Instant::now();
        let login = |n: u32| mark(&verified, b"eve", format!("password{n}").as_bytes(), b"des");
        let bob = mark(&verified, b"bob", b"pw", b"line");
        verified.remember(bob, start);
        let count = 3 * u32::try_from(MOST).unwrap();
        for n in 0..count {
            verified.remember(login(n), start + Duration::from_micros(u64::from(n)));
        }
        let now = start + Duration::from_secs(1);
        assert!(verified.knows(&bob, now));
        let own = (0..count).filter(|n| verified.knows(&login(*n), now));
        let last: Vec<_> = (count - 4..count).collect();
        assert_eq!(own.collect::<Vec<_>>(), last);
        // The same line under another name is another's room.
        let other = mark(&verified, b"mallory", b"password1", b"des");
        verified.remember(other, now);
        assert!(verified.knows(&login(count - 4), now) && verified.knows(&other, now));
        // Again the same is no further one.
        for _ in 0..10 {
            verified.remember(login(count - 1), now);
        }
        assert!(verified.knows(&login(count - 4), now));
    }

    #[test]
    fn another_line_another_password_or_another_key_is_another_login() {
        let verified = Verified::new().unwrap();
        let now = Instant::now();
        verified.remember(mark(&verified, b"alice", b"pw", b"$2y$1"), now);
        for (user, password, stored) in [
            (&b"alice"[..], &b"pw"[..], &b"$2y$2"[..]),
            (b"alice", b"PW", b"$2y$1"),
            (b"Alice", b"pw", b"$2y$1"),
            (b"alic", b"epw", b"$2y$1"),
            (b"alice", b"", b"pw$2y$1"),
            (b"alice", b"pw", b""),
            (b"alicepw$2y$1", b"", b""),
        ] {
            assert!(!verified.knows(&mark(&verified, user, password, stored), now));
        }
        let other = Verified::new().unwrap();
        assert!(
            mark(&other, b"alice", b"pw", b"$2y$1") != mark(&verified, b"alice", b"pw", b"$2y$1")
        );
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let verified = Verified::new().unwrap();
        let start = Instant::now();
        let login = |n: u32| mark(&verified, &n.to_be_bytes(), b"pw", b"line");
        let count = u32::try_from(MOST).unwrap() + 5000;
        for n in 0..count {
            verified.remember(login(n), start + Duration::from_millis(u64::from(n)));
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
        assert!((count - 100..count).all(|n| verified.knows(&login(n), now)));
    }

    proptest::proptest! {
        #[test]
        fn marks_are_equal_for_equal_logins_only(a: [Vec<u8>; 3], b: [Vec<u8>; 3], cut in 0..8_usize) {
            let verified = Verified::new().unwrap();
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
