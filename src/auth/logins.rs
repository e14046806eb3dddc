//! Whether a login is right: remembered, being checked already, or to be hashed now.
//!
//! `snapshot` keeps one for the process; `auth` asks. Many requests that carry the same credentials at
//! the same time, as a push begins with, wait for one hash: the same in the sense of a mark, which covers
//! the submitted password, so nobody rides on another's answer.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::basic::Credentials;
use super::hashing::{self, Busy, Hashing};
use super::throttle::{self, Before, Throttle, Try};
use super::verified::{Mark, Verified};
use crate::addr::Network;
use crate::htpasswd::{Entry, Users};
use crate::metrics::Logins as Counts;

/// The hash threads, and what they found lately.
#[derive(Debug)]
pub struct Logins {
    hashing: Arc<Hashing>,
    throttle: throttle::Settings,
    memory: Arc<Memory>,
}

/// What outlives a change of the settings.
#[derive(Debug)]
struct Memory {
    verified: Verified,
    throttle: Throttle,
    running: Mutex<Running>,
    counts: Counts,
}

/// What came of a login that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Remembered,
    Right,
    Wrong,
}

type Running = HashMap<Mark, Arc<OnceCell<bool>>>;

/// Why there is no saying whether a login is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unchecked {
    /// The hash threads are at capacity.
    Busy,
    /// Too many others of this client network were wrong; ask again after this time.
    TooMany(Duration),
}

impl From<Busy> for Unchecked {
    fn from(Busy: Busy) -> Self {
        Self::Busy
    }
}

impl Logins {
    /// Starts the threads; fails when the system gives none, or no random bytes.
    pub fn start(hashing: hashing::Settings, throttle: throttle::Settings) -> io::Result<Self> {
        Ok(Self {
            hashing: Arc::new(Hashing::start(hashing)?),
            throttle,
            memory: Arc::new(Memory {
                verified: Verified::new().map_err(io::Error::other)?,
                throttle: Throttle::new(),
                running: Mutex::default(),
                counts: Counts::default(),
            }),
        })
    }

    /// The same with other settings: what is remembered stays, of right logins and of wrong ones.
    pub fn with(
        &self,
        hashing: &hashing::Settings,
        throttle: throttle::Settings,
    ) -> io::Result<Self> {
        let hashing = match self.hashing.settings() == hashing {
            true => Arc::clone(&self.hashing),
            false => Arc::new(Hashing::start(hashing.clone())?),
        };
        Ok(Self {
            hashing,
            throttle,
            memory: Arc::clone(&self.memory),
        })
    }

    /// What came of passwords so far.
    pub fn counts(&self) -> &Counts {
        &self.memory.counts
    }

    /// Passwords that wait for a hash thread.
    pub fn waiting(&self) -> usize {
        self.hashing.waiting()
    }

    /// Whether the credentials, which came from `network`, are those of one of `users`.
    pub(super) async fn check(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        network: Network,
    ) -> Result<bool, Unchecked> {
        let found = self.look(users, credentials, network).await;
        let counts = self.counts();
        let counter = match found {
            Ok(Found::Remembered) => &counts.remembered,
            Ok(Found::Right) => &counts.right,
            Ok(Found::Wrong) => &counts.wrong,
            Err(Unchecked::Busy) => &counts.busy,
            Err(Unchecked::TooMany(_)) => &counts.throttled,
        };
        counter.count();
        found.map(|found| found != Found::Wrong)
    }

    async fn look(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        network: Network,
    ) -> Result<Found, Unchecked> {
        let memory = &self.memory;
        let stored = users.find(&credentials.user).map_or(&[][..], Entry::stored);
        let mark = memory
            .verified
            .mark(&credentials.user, &credentials.password, stored);
        if memory.verified.knows(&mark, Instant::now()) {
            return Ok(Found::Remembered);
        }
        let user = (credentials.user.as_slice(), stored);
        let tried = memory.throttle.name(network, user, mark);
        if memory.was_wrong(&tried, self.throttle)? {
            return Ok(Found::Wrong);
        }
        let joined = Joined::join(memory, mark);
        let hash = || self.hash(users, credentials, tried);
        // Those who wait for another's hash wait no longer than for one of their own.
        let wait = self.hashing.settings().wait;
        // In a box: nearly every login is a remembered one, and carries no room for this.
        let found = Box::pin(timeout(wait, joined.cell.get_or_try_init(hash))).await;
        let is_right = *found.map_err(|_elapsed| Unchecked::Busy)??;
        // Also for those who joined, from whatever network.
        memory.note(&tried, is_right, self.throttle);
        Ok(if is_right { Found::Right } else { Found::Wrong })
    }

    async fn hash(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        tried: Try,
    ) -> Result<bool, Unchecked> {
        let (memory, throttle) = (Arc::clone(&self.memory), self.throttle);
        let work = move || {
            // Another may have been right meanwhile with the same credentials, whose asker then left.
            if memory.verified.knows(&tried.mark(), Instant::now()) {
                return Ok(true);
            }
            // Others may have been wrong while this one waited.
            if memory.was_wrong(&tried, throttle)? {
                return Ok(false);
            }
            let is_right = verify(&users, &credentials);
            memory.counts.hashes.count();
            // Here, before the next one's turn: whoever asked may be gone.
            memory.note(&tried, is_right, throttle);
            Ok(is_right)
        };
        self.hashing.run(tried.network(), work).await?
    }
}

impl Memory {
    /// Whether it is known to be wrong; an error when it may not be found out.
    fn was_wrong(&self, tried: &Try, settings: throttle::Settings) -> Result<bool, Unchecked> {
        match self.throttle.before(tried, settings, Instant::now()) {
            Before::Unknown => Ok(false),
            Before::Wrong => Ok(true),
            Before::TooMany(left) => Err(Unchecked::TooMany(left)),
        }
    }

    fn note(&self, tried: &Try, is_right: bool, settings: throttle::Settings) {
        let now = Instant::now();
        if is_right {
            self.verified.remember(tried.mark(), now);
            self.throttle.right(tried);
        } else if self.throttle.wrong(tried, settings, now) {
            let network = tried.network();
            tracing::warn!(%network, "too many wrong passwords; for a while no more are checked");
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of those who wait for the same hash; the last one to leave takes the entry along.
struct Joined<'a> {
    memory: &'a Memory,
    mark: Mark,
    cell: Arc<OnceCell<bool>>,
}

impl<'a> Joined<'a> {
    fn join(memory: &'a Memory, mark: Mark) -> Self {
        let cell = Arc::clone(memory.running().entry(mark).or_default());
        Self { memory, mark, cell }
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut running = self.memory.running();
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
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::htpasswd::parse;
    use crate::secret::Password;

    fn users(file: &str) -> Arc<Users> {
        Arc::new(parse(file.as_bytes()).users)
    }

    fn home() -> Network {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        crate::addr::PeerAddr::new(address).client().network()
    }

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials {
            user: user.into(),
            password: Password::new(password.into()),
        }
    }

    /// With no time to wait, only what needs no hash is answered.
    fn logins(wait: Duration) -> Logins {
        let hashing = hashing::Settings {
            threads: 1,
            queue: 1,
            wait,
        };
        Logins::start(hashing, THROTTLE).unwrap()
    }

    const THROTTLE: throttle::Settings = throttle::Settings {
        guesses: 3,
        window: Duration::from_secs(300),
    };
    const ALICE: &str = "alice:$apr1$saltsalt$x78Y39ym2RjUNQHTLgwHz/\n";
    const CHANGED: &str = "alice:$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.\n";

    #[tokio::test]
    async fn a_right_login_is_remembered_and_a_wrong_one_is_not() {
        let logins = logins(Duration::from_secs(10));
        for _ in 0..2 {
            assert!(matches!(
                logins
                    .check(users(ALICE), credentials("alice", "pw"), home())
                    .await,
                Ok(true)
            ));
            assert!(matches!(
                logins
                    .check(users(ALICE), credentials("alice", "no"), home())
                    .await,
                Ok(false)
            ));
            assert!(matches!(
                logins
                    .check(users(ALICE), credentials("bob", "pw"), home())
                    .await,
                Ok(false)
            ));
        }
        let known = |user: &str, password: &str, stored: &[u8]| {
            let password = Password::new(password.into());
            let mark = logins
                .memory
                .verified
                .mark(user.as_bytes(), &password, stored);
            logins.memory.verified.knows(&mark, Instant::now())
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
        assert!(logins.memory.running().is_empty());
    }

    #[tokio::test]
    async fn a_changed_line_ends_a_remembered_login() {
        let logins = logins(Duration::from_secs(10));
        assert!(matches!(
            logins
                .check(users(ALICE), credentials("alice", "pw"), home())
                .await,
            Ok(true)
        ));
        assert!(matches!(
            logins
                .check(users(CHANGED), credentials("alice", "pw"), home())
                .await,
            Ok(false)
        ));
        assert!(matches!(
            logins
                .check(users("bob:x\n"), credentials("alice", "pw"), home())
                .await,
            Ok(false)
        ));
        assert!(matches!(
            logins
                .check(users(ALICE), credentials("alice", "pw"), home())
                .await,
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
                        .check(users(ALICE), credentials("alice", password), home())
                        .await
                })
            });
            let checks: Vec<_> = checks.collect();
            for check in checks {
                assert_eq!(check.await.unwrap().unwrap(), password == "pw");
            }
        }
        assert!(logins.memory.running().is_empty());
    }

    #[tokio::test]
    async fn one_who_leaves_does_not_take_the_others_answer_along() {
        let logins = Arc::new(logins(Duration::from_secs(10)));
        let first = logins.check(users(ALICE), credentials("alice", "pw"), home());
        let gone = timeout(Duration::ZERO, first).await;
        let second = logins
            .check(users(ALICE), credentials("alice", "pw"), home())
            .await;
        assert!(matches!(second, Ok(true)), "{gone:?}");
        assert!(logins.memory.running().is_empty());
    }

    #[tokio::test]
    async fn too_many_guesses_are_refused_and_a_remembered_login_is_not() {
        let logins = logins(Duration::from_secs(10));
        let right = || logins.check(users(ALICE), credentials("alice", "pw"), home());
        assert_eq!(right().await, Ok(true));
        for guess in ["a", "b", "c"] {
            let wrong = logins.check(users(ALICE), credentials("alice", guess), home());
            assert_eq!(wrong.await, Ok(false));
        }
        let fourth = logins.check(users(ALICE), credentials("nobody", "d"), home());
        assert!(matches!(fourth.await, Err(Unchecked::TooMany(left)) if left <= THROTTLE.window));
        let again = logins.check(users(ALICE), credentials("alice", "a"), home());
        assert_eq!(again.await, Ok(false));
        assert_eq!(right().await, Ok(true));
        // What is known lives on under other settings.
        let off = throttle::Settings {
            guesses: 0,
            ..THROTTLE
        };
        let after = logins.with(logins.hashing.settings(), off).unwrap();
        let fourth = after.check(users(ALICE), credentials("nobody", "d"), home());
        assert_eq!(fourth.await, Ok(false));
        assert!(Arc::ptr_eq(&after.memory, &logins.memory));
    }

    #[tokio::test]
    async fn of_many_guesses_at_once_no_more_are_hashed_than_are_allowed() {
        let hashing = hashing::Settings {
            threads: 1,
            queue: 100,
            wait: Duration::from_secs(10),
        };
        let logins = Arc::new(Logins::start(hashing, THROTTLE).unwrap());
        for user in ["alice", "nobody"] {
            let logins = Arc::new(logins.with(logins.hashing.settings(), THROTTLE).unwrap());
            let checks: Vec<_> = (0..20)
                .map(|guess| {
                    let logins = Arc::clone(&logins);
                    let address = SocketAddr::from((Ipv4Addr::from(u32::from(user == "alice")), 1));
                    let network = crate::addr::PeerAddr::new(address).client().network();
                    let guess = Credentials {
                        user: user.into(),
                        password: Password::new(vec![b'a' + guess]),
                    };
                    tokio::spawn(async move { logins.check(users(ALICE), guess, network).await })
                })
                .collect();
            let mut wrong = 0;
            for check in checks {
                match check.await.unwrap() {
                    Ok(is_right) => wrong += usize::from(!is_right),
                    Err(refused) => assert!(matches!(refused, Unchecked::TooMany(_))),
                }
            }
            assert_eq!(wrong, THROTTLE.guesses, "{user}");
        }
    }

    #[tokio::test]
    async fn who_waits_for_the_same_hash_waits_no_longer_than_for_one() {
        let wait = Duration::from_millis(200);
        let logins = Arc::new(logins(wait));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        // The one thread is held, so no check gets its turn.
        let holder = Arc::clone(&logins);
        let held = tokio::spawn(async move {
            holder
                .hashing
                .run(home(), move || held.recv())
                .await
                .is_ok()
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        let checks: Vec<_> = (0..10)
            .map(|_| {
                let logins = Arc::clone(&logins);
                tokio::spawn(async move {
                    logins
                        .check(users(ALICE), credentials("alice", "pw"), home())
                        .await
                })
            })
            .collect();
        for check in checks {
            assert_eq!(check.await.unwrap(), Err(Unchecked::Busy));
        }
        assert!(start.elapsed() < wait * 5, "{:?}", start.elapsed());
        hold.send(()).unwrap();
        drop(held);
    }
}
