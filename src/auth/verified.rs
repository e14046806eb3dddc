//! Verified logins, remembered for a while: what makes the hundredth request of a push as cheap as an open one.
//!
//! Used by `logins`. Only successes are kept, so that a guesser displaces nobody. What is kept is a mark:
//! a MAC, under a key that never leaves the process, over the user, the password as submitted and the
//! stored hash line, each with its length in front. So no two logins share a mark by where one part ends
//! and the next begins, a line that changes makes every mark of it worthless at once, and memory holds
//! nothing that could be tried against a password list.

use std::collections::HashMap;
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
    shards: Sharded<HashMap<Mark, Instant>>,
}

/// Stands for one user, one password and one stored line; equal for equal ones only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark([u8; 32]);

impl Verified {
    /// None remembered, under a fresh key; fails when the system has no random bytes.
    pub(super) fn new() -> Result<Self, Unspecified> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new())?;
        Ok(Self {
            key,
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
        Mark(mark)
    }

    /// Whether this very login was verified within [`LIFE`].
    pub(super) fn knows(&self, mark: &Mark, now: Instant) -> bool {
        self.shard(mark).get(mark).is_some_and(|until| now < *until)
    }

    /// Remembers a login whose password was right.
    pub(super) fn remember(&self, mark: Mark, now: Instant) {
        let mut shard = self.shard(&mark);
        if shard.len() >= MOST / SHARDS && !shard.contains_key(&mark) {
            make_room(&mut shard, now);
        }
        shard.insert(mark, now + LIFE);
    }

    fn shard(&self, mark: &Mark) -> MutexGuard<'_, HashMap<Mark, Instant>> {
        let [first, ..] = mark.0;
        self.shards.of(first)
    }
}

/// What is over goes; else what would be over first.
fn make_room(shard: &mut HashMap<Mark, Instant>, now: Instant) {
    shard.retain(|_, until| now < *until);
    if shard.len() >= MOST / SHARDS
        && let Some(oldest) = shard
            .iter()
            .min_by_key(|(_, until)| **until)
            .map(|(mark, _)| *mark)
    {
        shard.remove(&oldest);
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

/// How long a login is remembered: a push of some size, and no more than a coffee.
const LIFE: Duration = Duration::from_secs(300);
/// Logins remembered at most; a mark and its time take some 100 bytes.
const MOST: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(verified: &Verified, user: &[u8], password: &[u8], stored: &[u8]) -> Mark {
        verified.mark(user, &Password::new(password.to_vec()), stored)
    }

    #[test]
    fn a_login_is_known_until_its_life_is_over() {
        let verified = Verified::new().unwrap();
        let now = Instant::now();
        let alice = mark(&verified, b"alice", b"pw", b"$2y$1");
        assert!(!verified.knows(&alice, now));
        verified.remember(alice, now);
        assert!(verified.knows(&alice, now + LIFE - Duration::from_millis(1)));
        assert!(!verified.knows(&alice, now + LIFE));
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
        let kept: usize = verified.shards.all().map(|shard| shard.len()).sum();
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
