//! Decides whether a user name and a password are valid: the login is cached, or its hash is being computed already, or the
//! password is hashed now.
//!
//! `snapshot` keeps one [`PasswordVerifier`] for the process, and `password_auth` calls it. Requests that carry the same
//! credentials at the same time, as at the beginning of a push, wait for one hash. The key that identifies credentials
//! covers the password as it was sent, so that no request uses the result for another password.
//!
//! A client network that has used up its guesses must not learn more about passwords. Before the guess limiter has agreed,
//! a network may therefore use only logins that it has proved itself. Logins that other networks have proved, or for which
//! a hash is being computed, are used only after the limiter has agreed, and only for a bounded number of different
//! credentials (`GuessLimiter::may_compare`).

use std::collections::hash_map::{self, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::basic::Credentials;
use super::guess_limiter::{self, Attempt, AttemptStatus, ClearedGuesses, GuessLimiter};
use super::hash_pool::{self, Busy, HashPool};
use super::login_cache::{CacheKey, LoginCache, Lookup};
use crate::htpasswd::{Entry, Users};
use crate::metrics::LoginCounts;
use crate::net::addr::ClientNetwork;
use crate::net::cidr::Cidr;

/// Verifies passwords: the hash threads, the login cache and the guess limiter of the process.
#[derive(Debug)]
pub struct PasswordVerifier {
    hash_pool: Arc<HashPool<HashResult>>,
    limits: guess_limiter::Settings,
    state: Arc<VerifierState>,
}

/// The state that a change of the settings does not affect.
#[derive(Debug)]
struct VerifierState {
    cache: LoginCache,
    limiter: GuessLimiter,
    in_flight: Mutex<InFlight>,
    counts: LoginCounts,
}

/// The result of a login for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The login is valid, and no password was hashed.
    Cached,
    /// The password was hashed and is right.
    Valid,
    /// The user or the password is wrong.
    Invalid,
}

/// The reason why a password was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VerifyError {
    /// The hash threads are at capacity.
    Busy,
    /// The client network has reached the limit of wrong passwords, and may guess again after this time.
    TooMany(Duration),
}

/// The result of a job of the hash pool: whether the password is right.
type HashResult = Result<bool, VerifyError>;

/// The hashes that are being computed.
type InFlight = HashMap<FlightKey, PendingHash>;

/// A hash that is being computed, for one request or for several with the same credentials.
#[derive(Debug, Default)]
struct PendingHash {
    /// Gets the result.
    cell: Arc<OnceCell<bool>>,
    /// The number of requests that wait for the result.
    requests: usize,
}

/// Identifies the requests that wait for the same hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum FlightKey {
    /// Requests with the same credentials, from all client networks that may compare theirs with others.
    AllNetworks(CacheKey),
    /// Requests with the same credentials from one client network, which waits for its own turn.
    OneNetwork(CacheKey, ClientNetwork),
}

impl From<Busy> for VerifyError {
    fn from(Busy: Busy) -> Self {
        Self::Busy
    }
}

impl PasswordVerifier {
    /// Starts the hash threads, with an empty login cache.
    ///
    /// # Errors
    /// The operating system creates no thread, or provides no random bytes.
    pub fn start(
        hashing: hash_pool::Settings,
        limits: guess_limiter::Settings,
    ) -> io::Result<Self> {
        Ok(Self {
            hash_pool: Arc::new(HashPool::start(hashing)?),
            limits,
            state: Arc::new(VerifierState {
                cache: LoginCache::new().map_err(io::Error::other)?,
                limiter: GuessLimiter::new(),
                in_flight: Mutex::default(),
                counts: LoginCounts::default(),
            }),
        })
    }

    /// Creates a verifier with other settings, which shares the login cache and the counted guesses with this one.
    ///
    /// # Errors
    /// The operating system creates no thread.
    pub fn with_settings(
        &self,
        hashing: &hash_pool::Settings,
        limits: guess_limiter::Settings,
    ) -> io::Result<Self> {
        let hash_pool = match self.hash_pool.settings() == hashing {
            true => Arc::clone(&self.hash_pool),
            false => Arc::new(HashPool::start(hashing.clone())?),
        };
        Ok(Self {
            hash_pool,
            limits,
            state: Arc::clone(&self.state),
        })
    }

    /// The counters of verified logins.
    pub fn counts(&self) -> &LoginCounts {
        &self.state.counts
    }

    /// Clears the wrong passwords that were counted for every client network that overlaps `network`.
    pub(crate) fn clear_guesses(&self, network: Cidr) -> ClearedGuesses {
        self.state
            .limiter
            .clear(network, self.limits, Instant::now())
    }

    /// The number of passwords that wait for a hash thread.
    pub fn waiting(&self) -> usize {
        self.hash_pool.waiting()
    }

    /// Whether the credentials, which came from `network`, are those of one of `users`.
    pub(super) async fn verify(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        network: ClientNetwork,
    ) -> Result<bool, VerifyError> {
        let outcome = self.verify_uncounted(users, credentials, network).await;
        let counts = self.counts();
        let counter = match outcome {
            Ok(Outcome::Cached) => &counts.cached,
            Ok(Outcome::Valid) => &counts.verified,
            Ok(Outcome::Invalid) => &counts.wrong_password,
            Err(VerifyError::Busy) => &counts.busy,
            Err(VerifyError::TooMany(_)) => &counts.throttled,
        };
        counter.count();
        outcome.map(|outcome| outcome != Outcome::Invalid)
    }

    async fn verify_uncounted(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        network: ClientNetwork,
    ) -> Result<Outcome, VerifyError> {
        let state = &self.state;
        let stored = users.find(&credentials.user).map_or(&[][..], Entry::stored);
        let key = state
            .cache
            .key(&credentials.user, &credentials.password, stored);
        let now = Instant::now();
        if state.cache.look_up(&key, network, now) == Lookup::Hit {
            return Ok(Outcome::Cached);
        }
        let user = (credentials.user.as_slice(), stored);
        let attempt = state.limiter.attempt(network, user, key);
        if state.is_known_wrong(&attempt, self.limits)? {
            return Ok(Outcome::Invalid);
        }
        let may_compare = state.limiter.may_compare(&attempt, self.limits, now);
        if may_compare && state.cache.prove(&key, network, now) {
            state.limiter.record_success(&attempt);
            return Ok(Outcome::Cached);
        }
        let flight_key = if may_compare {
            FlightKey::AllNetworks(key)
        } else {
            FlightKey::OneNetwork(key, network)
        };
        let flight = SingleFlight::join(state, flight_key);
        let hash = || self.hash(users, credentials, attempt);
        // A request that waits for the hash of another one waits no longer than for a hash of its own.
        let result = self
            .hash_pool
            .join(network, flight.cell.get_or_try_init(hash));
        // The future is boxed because nearly every login is cached, and the future of a cached login should be small.
        let is_valid = *Box::pin(result).await??;
        // The hash thread has recorded the result for the network that asked for the hash. This request may be of another
        // network.
        if is_valid {
            state.cache.prove(&key, network, Instant::now());
        }
        state.record_result(&attempt, is_valid, self.limits);
        Ok(if is_valid {
            Outcome::Valid
        } else {
            Outcome::Invalid
        })
    }

    /// Hashes the password of an attempt on a hash thread.
    async fn hash(
        &self,
        users: Arc<Users>,
        credentials: Credentials,
        attempt: Attempt,
    ) -> HashResult {
        let (state, limits) = (Arc::clone(&self.state), self.limits);
        let work = move || {
            let (key, network, now) = (attempt.key(), attempt.network(), Instant::now());
            // While this job waited, the network may have proved the login, by a request that the client then cancelled.
            if state.cache.look_up(&key, network, now) == Lookup::Hit {
                return Ok(true);
            }
            // Other credentials of the network may have been wrong meanwhile. This check comes before the next one, which
            // uses logins that other networks have proved.
            if state.is_known_wrong(&attempt, limits)? {
                return Ok(false);
            }
            if state.cache.prove(&key, network, now) {
                state.limiter.record_success(&attempt);
                return Ok(true);
            }
            let is_valid = verify_password(&users, &credentials);
            state.counts.hashes.count();
            // The result is recorded here, before the next job begins, because the client may have left.
            if is_valid {
                state.cache.insert(key, network, Instant::now());
            }
            state.record_result(&attempt, is_valid, limits);
            Ok(is_valid)
        };
        self.hash_pool.run(attempt.network(), work).await?
    }
}

impl VerifierState {
    /// Whether the credentials are known to be wrong.
    ///
    /// # Errors
    /// [`VerifyError::TooMany`] if they may not be verified.
    fn is_known_wrong(
        &self,
        attempt: &Attempt,
        limits: guess_limiter::Settings,
    ) -> Result<bool, VerifyError> {
        match self.limiter.status(attempt, limits, Instant::now()) {
            AttemptStatus::Unknown => Ok(false),
            AttemptStatus::Wrong => Ok(true),
            AttemptStatus::TooMany(left) => Err(VerifyError::TooMany(left)),
        }
    }

    /// Records the result of a hash for a network that sent the credentials.
    fn record_result(&self, attempt: &Attempt, is_valid: bool, limits: guess_limiter::Settings) {
        if is_valid {
            self.limiter.record_success(attempt);
        } else if let Some(network) = self.limiter.record_failure(attempt, limits, Instant::now()) {
            tracing::warn!(%network, "too many wrong passwords; for a while no more are checked");
        }
    }
}

/// One of the requests that wait for the same hash. The last of them removes the entry from the map.
struct SingleFlight<'a> {
    state: &'a VerifierState,
    key: FlightKey,
    cell: Arc<OnceCell<bool>>,
}

impl<'a> SingleFlight<'a> {
    fn join(state: &'a VerifierState, key: FlightKey) -> Self {
        let mut in_flight = state.in_flight.lock();
        let pending = in_flight.entry(key).or_default();
        pending.requests += 1;
        let cell = Arc::clone(&pending.cell);
        Self { state, key, cell }
    }
}

impl Drop for SingleFlight<'_> {
    fn drop(&mut self) {
        if let hash_map::Entry::Occupied(mut flight) = self.state.in_flight.lock().entry(self.key) {
            let requests = &mut flight.get_mut().requests;
            *requests = requests.saturating_sub(1);
            if *requests == 0 {
                flight.remove();
            }
        }
    }
}

/// Hashes a password; runs on a hash thread. For an unknown user, the decoy of the file is hashed, so that the time of the
/// response does not show which users exist.
fn verify_password(users: &Users, credentials: &Credentials) -> bool {
    match users.find(&credentials.user) {
        Some(entry) => entry.verify(&credentials.password),
        None => {
            if let Some(decoy) = users.decoy() {
                decoy.verify(&credentials.password);
            }
            false
        }
    }
}

#[cfg(test)]
mod tests;
