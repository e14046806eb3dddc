//! Decides whether a login is right: it is remembered, it is being checked already, or its password is hashed now.
//!
//! `snapshot` keeps one [`PasswordVerifier`] for the process; `auth` asks it. Many requests that carry the same credentials at the
//! same time, as at the beginning of a push, wait for one hash. They are recognised by a mark, which covers the submitted
//! password, so that no request uses the verdict on another password.
//!
//! A client network that has used up its guesses must not learn more about passwords. Before the guess limiter has agreed,
//! a network may therefore use only logins that it has proved itself. What other networks have proved or are proving is
//! used only after the limiter has agreed, and only for a bounded number of different credentials (`may_compare`).

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::basic::Credentials;
use super::hashing::{self, Busy, HashPool};
use super::throttle::{self, Attempt, AttemptStatus, GuessLimiter};
use super::verified::{CacheKey, Known, LoginCache};
use crate::htpasswd::{Entry, Users};
use crate::metrics::LoginCounts as Counts;
use crate::net::addr::ClientNetwork;

/// The hash threads, and what they found lately.
#[derive(Debug)]
pub struct PasswordVerifier {
    hashing: Arc<HashPool>,
    throttle: throttle::Settings,
    memory: Arc<VerifierState>,
}

/// What outlives a change of the settings.
#[derive(Debug)]
struct VerifierState {
    verified: LoginCache,
    throttle: GuessLimiter,
    running: Mutex<InFlight>,
    counts: Counts,
}

/// What came of a login that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheLookup {
    Remembered,
    Right,
    Wrong,
}

type InFlight = HashMap<Flight, Arc<OnceCell<bool>>>;

/// The requests that wait for the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flight {
    /// Requests with the same credentials, from all client networks that may compare theirs with others.
    Shared(CacheKey),
    /// Requests with the same credentials from one client network. It waits for its own turn.
    Own(CacheKey, ClientNetwork),
}

/// Why there is no saying whether a login is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VerifyError {
    /// The hash threads are at capacity.
    Busy,
    /// Too many others of this client network were wrong; ask again after this time.
    TooMany(Duration),
}

impl From<Busy> for VerifyError {
    fn from(Busy: Busy) -> Self {
        Self::Busy
    }
}

impl PasswordVerifier {
    /// Starts the threads; fails when the system gives none, or no random bytes.
    pub fn start(hashing: hashing::Settings, throttle: throttle::Settings) -> io::Result<Self> {
        Ok(Self {
            hashing: Arc::new(HashPool::start(hashing)?),
            throttle,
            memory: Arc::new(VerifierState {
                verified: LoginCache::new().map_err(io::Error::other)?,
                throttle: GuessLimiter::new(),
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
            false => Arc::new(HashPool::start(hashing.clone())?),
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
        network: ClientNetwork,
    ) -> Result<bool, VerifyError> {
        let found = self.lookup(users, credentials, network).await;
        let counts = self.counts();
        let counter = match found {
            Ok(CacheLookup::Remembered) => &counts.cached,
            Ok(CacheLookup::Right) => &counts.verified,
            Ok(CacheLookup::Wrong) => &counts.wrong_password,
            Err(VerifyError::Busy) => &counts.busy,
            Err(VerifyError::TooMany(_)) => &counts.throttled,
        };
        counter.count();
        found.map(|found| found != CacheLookup::Wrong)
    }

    async fn lookup(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        network: ClientNetwork,
    ) -> Result<CacheLookup, VerifyError> {
        let memory = &self.memory;
        let stored = users.find(&credentials.user).map_or(&[][..], Entry::stored);
        let mark = memory
            .verified
            .mark(&credentials.user, &credentials.password, stored);
        let now = Instant::now();
        if memory.verified.look_up(&mark, network, now) == Known::Here {
            return Ok(CacheLookup::Remembered);
        }
        let user = (credentials.user.as_slice(), stored);
        let tried = memory.throttle.attempt(network, user, mark);
        if memory.was_wrong(&tried, self.throttle)? {
            return Ok(CacheLookup::Wrong);
        }
        let may_compare = memory.throttle.may_compare(&tried, self.throttle, now);
        if may_compare && memory.verified.prove(&mark, network, now) {
            memory.throttle.record_success(&tried);
            return Ok(CacheLookup::Remembered);
        }
        let flight = if may_compare {
            Flight::Shared(mark)
        } else {
            Flight::Own(mark, network)
        };
        let joined = SingleFlight::join(memory, flight);
        let hash = || self.hash(users, credentials, tried);
        // A request that waits for the hash of another one waits no longer than for a hash of its own.
        let shared = self
            .hashing
            .join(network, joined.cell.get_or_try_init(hash));
        // In a box: nearly every login is a remembered one, whose future then has no room for this one.
        let is_right = *Box::pin(shared).await??;
        // The hash thread noted the verdict for the network that asked for the hash; others may have joined.
        memory.note_shared(&tried, is_right, self.throttle);
        Ok(if is_right {
            CacheLookup::Right
        } else {
            CacheLookup::Wrong
        })
    }

    async fn hash(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        tried: Attempt,
    ) -> Result<bool, VerifyError> {
        let (memory, throttle) = (Arc::clone(&self.memory), self.throttle);
        let work = move || {
            let (mark, network, now) = (tried.mark(), tried.network(), Instant::now());
            // The network may have proved the login meanwhile, by a request that the client then gave up.
            if memory.verified.look_up(&mark, network, now) == Known::Here {
                return Ok(true);
            }
            // Other credentials of the network may have been wrong while these waited. This comes before the next look,
            // which uses what other networks have proved.
            if memory.was_wrong(&tried, throttle)? {
                return Ok(false);
            }
            if memory.verified.prove(&mark, network, now) {
                memory.throttle.record_success(&tried);
                return Ok(true);
            }
            let is_right = verify(&users, &credentials);
            memory.counts.hashes.count();
            // Noted here, before the next check begins: the client may have left.
            memory.record(&tried, is_right, throttle);
            Ok(is_right)
        };
        self.hashing.run(tried.network(), work).await?
    }
}

impl VerifierState {
    /// Whether the credentials are known to be wrong; an error when they may not be checked.
    fn was_wrong(
        &self,
        tried: &Attempt,
        settings: throttle::Settings,
    ) -> Result<bool, VerifyError> {
        match self.throttle.before(tried, settings, Instant::now()) {
            AttemptStatus::Unknown => Ok(false),
            AttemptStatus::Wrong => Ok(true),
            AttemptStatus::TooMany(left) => Err(VerifyError::TooMany(left)),
        }
    }

    /// Notes the verdict of a hash.
    fn record(&self, tried: &Attempt, is_right: bool, settings: throttle::Settings) {
        if is_right {
            let now = Instant::now();
            self.verified.insert(tried.mark(), tried.network(), now);
            self.throttle.record_success(tried);
        } else {
            self.note_wrong(tried, settings);
        }
    }

    /// Notes the verdict of a hash for a network whose request waited for it.
    fn note_shared(&self, tried: &Attempt, is_right: bool, settings: throttle::Settings) {
        if is_right {
            let now = Instant::now();
            self.verified.prove(&tried.mark(), tried.network(), now);
            self.throttle.record_success(tried);
        } else {
            self.note_wrong(tried, settings);
        }
    }

    fn note_wrong(&self, tried: &Attempt, settings: throttle::Settings) {
        if let Some(network) = self
            .throttle
            .record_failure(tried, settings, Instant::now())
        {
            tracing::warn!(%network, "too many wrong passwords; for a while no more are checked");
        }
    }

    fn running(&self) -> MutexGuard<'_, InFlight> {
        self.running.lock()
    }
}

/// A request that waits for a hash. The last request of a flight that leaves removes the flight's entry.
struct SingleFlight<'a> {
    memory: &'a VerifierState,
    flight: Flight,
    cell: Arc<OnceCell<bool>>,
}

impl<'a> SingleFlight<'a> {
    fn join(memory: &'a VerifierState, flight: Flight) -> Self {
        let cell = Arc::clone(memory.running().entry(flight).or_default());
        Self {
            memory,
            flight,
            cell,
        }
    }
}

impl Drop for SingleFlight<'_> {
    fn drop(&mut self) {
        let mut running = self.memory.running();
        // The map's and ours: counted under the lock, under which alone others join.
        if Arc::strong_count(&self.cell) <= 2 {
            running.remove(&self.flight);
        }
    }
}

/// Runs on a hash thread. An unknown user costs what a known one costs.
fn verify(users: &Users, credentials: &Credentials) -> bool {
    match users.find(&credentials.user) {
        Some(entry) => entry.verify(&credentials.password),
        None => {
            if let Some(stand_in) = users.decoy() {
                stand_in.verify(&credentials.password);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::time::timeout;

    use super::*;
    use crate::htpasswd::parse;
    use crate::secret::Password;

    fn users(file: &str) -> Arc<Users> {
        Arc::new(parse(file.as_bytes()).users)
    }

    fn home() -> ClientNetwork {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        crate::net::addr::PeerAddr::new(address).client().network()
    }

    fn elsewhere(last: u8) -> ClientNetwork {
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 1));
        crate::net::addr::PeerAddr::new(address).client().network()
    }

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials {
            user: user.into(),
            password: Password::new(password.into()),
        }
    }

    /// With no time to wait, only what needs no hash is answered.
    fn logins(wait: Duration) -> PasswordVerifier {
        let hashing = hashing::Settings {
            threads: 1,
            queue: 1,
            wait,
        };
        PasswordVerifier::start(hashing, THROTTLE).unwrap()
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
            logins
                .memory
                .verified
                .look_up(&mark, home(), Instant::now())
                == Known::Here
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
        assert!(matches!(fourth.await, Err(VerifyError::TooMany(left)) if left <= THROTTLE.window));
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
    async fn a_network_without_guesses_uses_only_logins_that_it_has_proved() {
        let logins = logins(Duration::from_secs(10));
        let check =
            |password, network| logins.check(users(ALICE), credentials("alice", password), network);
        assert_eq!(check("pw", home()).await, Ok(true));
        for guess in ["a", "b", "c"] {
            assert_eq!(check(guess, elsewhere(1)).await, Ok(false));
        }
        for guess in ["pw", "d"] {
            let found = check(guess, elsewhere(1)).await;
            assert!(
                matches!(found, Err(VerifyError::TooMany(_))),
                "{guess}: {found:?}"
            );
        }
        // Another network proves the login without a hash, and then keeps it when its guesses are used up.
        let hashes = logins.counts().hashes.get();
        assert_eq!(check("pw", elsewhere(2)).await, Ok(true));
        assert_eq!(logins.counts().hashes.get(), hashes);
        for guess in ["a", "b", "c"] {
            assert_eq!(check(guess, elsewhere(2)).await, Ok(false));
        }
        assert_eq!(check("pw", elsewhere(2)).await, Ok(true));
        assert!(matches!(
            check("d", elsewhere(2)).await,
            Err(VerifyError::TooMany(_))
        ));
    }

    #[tokio::test]
    async fn guesses_that_are_given_up_before_they_count_find_out_no_remembered_password() {
        let hashing = hashing::Settings {
            threads: 1,
            queue: 100,
            wait: Duration::from_secs(10),
        };
        let logins = Arc::new(PasswordVerifier::start(hashing, THROTTLE).unwrap());
        let right = || credentials("alice", "pw");
        assert_eq!(logins.check(users(ALICE), right(), home()).await, Ok(true));
        // The one thread is held, so that no guess has its turn.
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let holder = Arc::clone(&logins);
        let holding = tokio::spawn(async move {
            holder
                .hashing
                .run(home(), move || held.recv())
                .await
                .is_ok()
        });
        while logins.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        while logins.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        for guess in 0..THROTTLE.guesses {
            let wrong = credentials("alice", &guess.to_string());
            let given_up = logins.check(users(ALICE), wrong, elsewhere(1));
            assert!(timeout(Duration::ZERO, given_up).await.is_err());
        }
        let given_up = logins.check(users(ALICE), right(), elsewhere(1));
        assert!(
            timeout(Duration::ZERO, given_up).await.is_err(),
            "told at once"
        );
        // It is not locked out: its passwords have their turn.
        let waiting = logins.check(users(ALICE), right(), elsewhere(1));
        hold.send(()).unwrap();
        assert_eq!(waiting.await, Ok(true));
        assert!(holding.await.unwrap());
        assert!(logins.memory.running().is_empty());
    }

    #[tokio::test]
    async fn of_many_guesses_at_once_no_more_are_hashed_than_are_allowed() {
        let hashing = hashing::Settings {
            threads: 1,
            queue: 100,
            wait: Duration::from_secs(10),
        };
        let logins = Arc::new(PasswordVerifier::start(hashing, THROTTLE).unwrap());
        for user in ["alice", "nobody"] {
            let logins = Arc::new(logins.with(logins.hashing.settings(), THROTTLE).unwrap());
            let checks: Vec<_> = (0..20)
                .map(|guess| {
                    let logins = Arc::clone(&logins);
                    let address = SocketAddr::from((Ipv4Addr::from(u32::from(user == "alice")), 1));
                    let network = crate::net::addr::PeerAddr::new(address).client().network();
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
                    Err(refused) => assert!(matches!(refused, VerifyError::TooMany(_))),
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
            assert_eq!(check.await.unwrap(), Err(VerifyError::Busy));
        }
        assert!(start.elapsed() < wait * 5, "{:?}", start.elapsed());
        hold.send(()).unwrap();
        drop(held);
    }
}
