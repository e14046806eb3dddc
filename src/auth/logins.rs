//! Whether a login is right: remembered, being checked already, or to be hashed now.
//!
//! `snapshot` keeps one for the process; `auth` asks. Many requests that carry the same credentials at
//! the same time, as a push begins with, wait for one hash: the same in the sense of a mark, which covers
//! the submitted password, so nobody rides on another's answer.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::basic::Credentials;
use super::hashing::{Busy, Hashing, Settings};
use super::verified::{Mark, Verified};
use crate::htpasswd::{Entry, Users};

/// The hash threads, and what they found lately.
#[derive(Debug)]
pub struct Logins {
    hashing: Hashing,
    verified: Verified,
    running: Mutex<Running>,
}

type Running = HashMap<Mark, Arc<OnceCell<bool>>>;

impl Logins {
    /// Starts the threads; fails when the system gives none, or no random bytes.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let hashing = Hashing::start(settings)?;
        let verified = Verified::new().map_err(io::Error::other)?;
        Ok(Self {
            hashing,
            verified,
            running: Mutex::default(),
        })
    }

    /// What the threads were made from.
    pub fn settings(&self) -> &Settings {
        self.hashing.settings()
    }

    /// Whether the credentials are those of one of `users`.
    pub(super) async fn check(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
    ) -> Result<bool, Busy> {
        let stored = users.find(&credentials.user).map_or(&[][..], Entry::stored);
        let mark = self
            .verified
            .mark(&credentials.user, &credentials.password, stored);
        if self.verified.knows(&mark, Instant::now()) {
            return Ok(true);
        }
        let joined = Joined::join(self, mark);
        let hash = || self.hashing.run(move || verify(&users, &credentials));
        let is_right = *joined.cell.get_or_try_init(hash).await?;
        if is_right {
            self.verified.remember(mark, Instant::now());
        }
        Ok(is_right)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of those who wait for the same hash; the last one to leave takes the entry along.
struct Joined<'a> {
    logins: &'a Logins,
    mark: Mark,
    cell: Arc<OnceCell<bool>>,
}

impl<'a> Joined<'a> {
    fn join(logins: &'a Logins, mark: Mark) -> Self {
        let cell = Arc::clone(logins.running().entry(mark).or_default());
        Self { logins, mark, cell }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut running = self.logins.running();
        // The map's and ours: counted under the lock, under which alone others join.
        if Arc::strong_count(&self.cell) <= 2 {
            running.remove(&self.mark);
        }
    }
}

/// Runs on a hash thread. An unknown user costs what a known one costs.
fn verify(users: &Users, credentials: &Credentials) -> bool {
    match users.find(&credentials.user) {
        Some(entry) => entry.verify(&credentials.password),
        None => {
            if let Some(stand_in) = users.prevailing() {
                stand_in.verify(&credentials.password);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::htpasswd::parse;
    use crate::secret::Password;

    fn users(file: &str) -> Arc<Users> {
        Arc::new(parse(file.as_bytes()).users)
    }

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials {
            user: user.into(),
            password: Password::new(password.into()),
        }
    }

    /// With no time to wait, only what needs no hash is answered.
    fn logins(wait: Duration) -> Logins {
        Logins::start(Settings {
            threads: 1,
            queue: 1,
            wait,
        })
        .unwrap()
    }

    const ALICE: &str = "alice:$apr1$saltsalt$x78Y39ym2RjUNQHTLgwHz/\n";
    const CHANGED: &str = "alice:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n";

    #[tokio::test]
    async fn a_right_login_is_remembered_and_a_wrong_one_is_not() {
        let logins = logins(Duration::from_secs(10));
        for _ in 0..2 {
            assert!(matches!(
                logins.check(users(ALICE), credentials("alice", "pw")).await,
                Ok(true)
            ));
            assert!(matches!(
                logins.check(users(ALICE), credentials("alice", "no")).await,
                Ok(false)
            ));
            assert!(matches!(
                logins.check(users(ALICE), credentials("bob", "pw")).await,
                Ok(false)
            ));
        }
        let known = |user: &str, password: &str, stored: &[u8]| {
            let password = Password::new(password.into());
            let mark = logins.verified.mark(user.as_bytes(), &password, stored);
            logins.verified.knows(&mark, Instant::now())
        };
        assert!(known(
            "alice",
            "pw",
            b"$apr1$saltsalt$x78Y39ym2RjUNQHTLgwHz/"
        ));
        assert!(!known(
            "alice",
            "no",
            b"$apr1$saltsalt$x78Y39ym2RjUNQHTLgwHz/"
        ));
        assert!(!known("bob", "pw", b""));
        assert!(logins.running().is_empty());
    }

    #[tokio::test]
    async fn a_changed_line_ends_a_remembered_login() {
        let logins = logins(Duration::from_secs(10));
        assert!(matches!(
            logins.check(users(ALICE), credentials("alice", "pw")).await,
            Ok(true)
        ));
        assert!(matches!(
            logins
                .check(users(CHANGED), credentials("alice", "pw"))
                .await,
            Ok(false)
        ));
        assert!(matches!(
            logins
                .check(users("bob:x\n"), credentials("alice", "pw"))
                .await,
            Ok(false)
        ));
        assert!(matches!(
            logins.check(users(ALICE), credentials("alice", "pw")).await,
            Ok(true)
        ));
    }

    #[tokio::test]
    async fn the_same_login_many_times_at_once_is_one_hash() {
        let logins = Arc::new(logins(Duration::from_secs(10)));
        // With a queue of one, twenty hashes at once would be refused.
        for password in ["pw", "no"] {
            let checks = (0..20).map(|_| {
                let logins = Arc::clone(&logins);
                tokio::spawn(async move {
                    logins
                        .check(users(ALICE), credentials("alice", password))
                        .await
                })
            });
            let checks: Vec<_> = checks.collect();
            for check in checks {
                assert_eq!(check.await.unwrap().unwrap(), password == "pw");
            }
        }
        assert!(logins.running().is_empty());
    }

    #[tokio::test]
    async fn one_who_leaves_does_not_take_the_others_answer_along() {
        let logins = Arc::new(logins(Duration::from_secs(10)));
        let first = logins.check(users(ALICE), credentials("alice", "pw"));
        let gone = tokio::time::timeout(Duration::ZERO, first).await;
        let second = logins.check(users(ALICE), credentials("alice", "pw")).await;
        assert!(matches!(second, Ok(true)), "{gone:?}");
        assert!(logins.running().is_empty());
    }
}
