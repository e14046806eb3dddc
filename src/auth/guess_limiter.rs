//! Limits the guessing of passwords: how many different wrong credentials a client network may try within a window.
//!
//! `password_verifier` asks before a password is hashed, and records the result. Wrong credentials that are sent again are
//! not a new guess: containerd sends them five times, docker once for each layer. Guesses are counted for the client network
//! alone, so that a client cannot lock a user out from another network. A successful login clears the guesses of its network
//! at its own user only, so that a guesser with an account gains nothing from it.
//!
//! A subscriber with an IPv6 /48 has 65,536 client networks. The networks of one /48 therefore share a second limit, of
//! [`GROUP_SHARE`] times the guesses of one network.
//!
//! A further limit of the same size bounds how many credentials of one network are compared with the logins that other
//! networks have proved (`may_compare`). Without it, a client could send many guesses at the same time, learn from the one
//! immediate response which of them is the password of an active user, and cancel the other requests before they are hashed
//! and counted.
//!
//! Concurrent attempts are checked against the limit again when their hashing starts. So up to one attempt less than there
//! are hash threads can be hashed beyond the limit. This module reads no clock.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::login_cache::CacheKey;
use super::sharded::{SHARDS, Sharded};
use crate::net::addr::{ClientNetwork, ClientNetworkGroup};
use crate::net::cidr::Cidr;

/// The limit on guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The number of different wrong credentials that one client network may send within the window. Zero turns the limiter
    /// off.
    pub guesses: usize,
    /// How long a guess counts.
    pub window: Duration,
}

/// The limiter, with the guesses of all client networks.
#[derive(Debug)]
pub(super) struct GuessLimiter {
    shards: Sharded<Shard>,
    hasher: RandomState,
}

/// Credentials that a client network has sent, before it is known whether they are valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    network: ClientNetwork,
    /// A keyed hash of the user's name and stored hash. If two users have the same value, a correct password of one clears
    /// the counted guesses at both.
    user: u64,
    key: CacheKey,
}

/// What the limiter knows of an attempt before its password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptStatus {
    /// The password may be hashed.
    Unknown,
    /// The same client network sent the same credentials within the window, and they were wrong. They still are, because the
    /// key covers the stored hash of the user.
    Wrong,
    /// The network has reached the limit. After this time, one of its guesses no longer counts.
    TooMany(Duration),
}

/// What an operator has cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClearedGuesses {
    /// The number of client networks that had guesses.
    pub networks: usize,
    /// The number of wrong passwords that were counted.
    pub guesses: usize,
    /// The IPv6 /48 of the cleared networks, if its other networks still use up the limit that all its networks share.
    pub limited_group: Option<ClientNetworkGroup>,
}

/// The limit that a failed attempt has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// The limit of one client network.
    Network(ClientNetwork),
    /// The limit that the networks of one IPv6 /48 share.
    Group(ClientNetworkGroup),
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Group(group) => group.fmt(f),
        }
    }
}

impl Attempt {
    /// The client network that sent the credentials.
    pub(super) fn network(&self) -> ClientNetwork {
        self.network
    }

    /// The key of the credentials in the login cache.
    pub(super) fn key(&self) -> CacheKey {
        self.key
    }
}

#[derive(Debug, Default)]
struct Shard {
    /// The guesses of each group in the order of their times. No list is empty.
    groups: HashMap<ClientNetworkGroup, Vec<FailedGuess>>,
    /// The number of guesses in all lists.
    guesses: usize,
}

#[derive(Debug)]
struct FailedGuess {
    kind: GuessKind,
    network: ClientNetwork,
    user: u64,
    key: CacheKey,
    at: Instant,
    /// Another network of the group has a guess of the same credentials. Then this guess does not count for the group: a
    /// wrong password in the configuration of a cluster with many networks is one guess.
    is_repeat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GuessKind {
    /// The password was hashed and was wrong.
    Wrong,
    /// The credentials were compared with the logins that other networks have proved, and equalled none of them.
    Compared,
}

impl GuessLimiter {
    /// Creates a limiter without guesses.
    pub(super) fn new() -> Self {
        Self {
            shards: Sharded::default(),
            hasher: RandomState::new(),
        }
    }

    /// Describes credentials for the other methods. `user` is the name and the stored hash, because two password files may
    /// have different users of the same name. `key` is the key of the credentials in the login cache.
    pub(super) fn attempt(
        &self,
        network: ClientNetwork,
        user: (&[u8], &[u8]),
        key: CacheKey,
    ) -> Attempt {
        Attempt {
            network,
            user: self.hasher.hash_one(user),
            key,
        }
    }

    /// Whether the password of an attempt may be hashed. `password_verifier` asks again when the hashing starts: of many
    /// attempts that arrive at the same time, those after the last allowed one are rejected then.
    pub(super) fn status(
        &self,
        attempt: &Attempt,
        settings: Settings,
        now: Instant,
    ) -> AttemptStatus {
        if settings.guesses == 0 {
            return AttemptStatus::Unknown;
        }
        let shard = self.shard(attempt.network);
        let guesses = shard.guesses_of_group(attempt.network);
        if guesses
            .iter()
            .any(|guess| guess.is_for(attempt, GuessKind::Wrong) && guess.is_current(settings, now))
        {
            return AttemptStatus::Wrong;
        }
        match time_until_allowed(guesses, attempt.network, GuessKind::Wrong, settings, now) {
            Some(left) => AttemptStatus::TooMany(left),
            None => AttemptStatus::Unknown,
        }
    }

    /// Whether an attempt may be compared with the logins that other client networks have proved or are proving now.
    ///
    /// A comparison counts until the network proves a login of the same user, or until the window has passed. A network
    /// that has used up its comparisons can still log in: its passwords wait for their turn and are hashed.
    pub(super) fn may_compare(&self, attempt: &Attempt, settings: Settings, now: Instant) -> bool {
        if settings.guesses == 0 {
            return true;
        }
        let mut shard = self.current_shard(attempt.network, settings, now);
        let guesses = shard.guesses_of_group(attempt.network);
        if guesses
            .iter()
            .any(|guess| guess.is_for(attempt, GuessKind::Compared))
        {
            return true;
        }
        if time_until_allowed(guesses, attempt.network, GuessKind::Compared, settings, now)
            .is_some()
        {
            return false;
        }
        shard.add(attempt, GuessKind::Compared, settings, now);
        true
    }

    /// Counts an attempt that failed, once. Returns the limit that this attempt has reached, if any.
    pub(super) fn record_failure(
        &self,
        attempt: &Attempt,
        settings: Settings,
        now: Instant,
    ) -> Option<Exceeded> {
        if settings.guesses == 0 {
            return None;
        }
        let mut shard = self.current_shard(attempt.network, settings, now);
        let guesses = shard.guesses_of_group(attempt.network);
        if guesses
            .iter()
            .any(|guess| guess.is_for(attempt, GuessKind::Wrong))
        {
            return None;
        }
        let wrong = || {
            guesses
                .iter()
                .filter(|guess| guess.kind == GuessKind::Wrong)
        };
        let is_repeat = wrong().any(|guess| guess.key == attempt.key);
        let own = wrong()
            .filter(|guess| guess.network == attempt.network)
            .count();
        let of_group = wrong().filter(|guess| !guess.is_repeat).count();
        shard.add(attempt, GuessKind::Wrong, settings, now);
        if own + 1 == settings.guesses {
            Some(Exceeded::Network(attempt.network))
        } else if !is_repeat && of_group + 1 == group_limit(settings) {
            Some(Exceeded::Group(attempt.network.group()))
        } else {
            None
        }
    }

    /// Clears the guesses of the network at the user of the attempt, because the network has sent the right password.
    pub(super) fn record_success(&self, attempt: &Attempt) {
        self.shard(attempt.network)
            .retain(attempt.network.group(), |guess| {
                guess.network != attempt.network || guess.user != attempt.user
            });
    }

    /// Clears the guesses of every client network that overlaps `network`. Expired guesses do not count as cleared.
    pub(super) fn clear(&self, network: Cidr, settings: Settings, now: Instant) -> ClearedGuesses {
        let (mut networks, mut guesses, mut limited_group) = (HashSet::new(), 0, None);
        for mut shard in self.shards.lock_each() {
            let shard = &mut *shard;
            shard.groups.retain(|group, of_group| {
                let before = of_group.len();
                of_group.retain(|guess| {
                    let is_cleared = guess.network.overlaps(network);
                    let is_counted =
                        guess.kind == GuessKind::Wrong && guess.is_current(settings, now);
                    if is_cleared && is_counted {
                        networks.insert(guess.network);
                        guesses += 1;
                    }
                    !is_cleared
                });
                shard.guesses -= before - of_group.len();
                // Guesses are left only if `network` is smaller than the group, so there is at most one such group.
                if group.overlaps(network) && is_group_limited(of_group, settings, now) {
                    limited_group = Some(*group);
                }
                !of_group.is_empty()
            });
        }
        ClearedGuesses {
            networks: networks.len(),
            guesses,
            limited_group,
        }
    }

    /// The shard of a network, without the guesses of its group that no longer count.
    fn current_shard(
        &self,
        network: ClientNetwork,
        settings: Settings,
        now: Instant,
    ) -> MutexGuard<'_, Shard> {
        let mut shard = self.shard(network);
        shard.retain(network.group(), |guess| guess.is_current(settings, now));
        shard
    }

    /// The shard of a network, which is the same for all networks of its group.
    fn shard(&self, network: ClientNetwork) -> MutexGuard<'_, Shard> {
        let [first, ..] = self.hasher.hash_one(network.group()).to_be_bytes();
        self.shards.lock(first)
    }
}

impl FailedGuess {
    fn is_for(&self, attempt: &Attempt, kind: GuessKind) -> bool {
        self.kind == kind && self.network == attempt.network && self.key == attempt.key
    }

    /// The time for which the guess still counts.
    fn time_left(&self, settings: Settings, now: Instant) -> Option<Duration> {
        settings.window.checked_sub(now - self.at)
    }

    fn is_current(&self, settings: Settings, now: Instant) -> bool {
        self.time_left(settings, now).is_some()
    }
}

/// The time until `network` may guess again, if it or its group has used up its guesses of this kind.
fn time_until_allowed(
    guesses: &[FailedGuess],
    network: ClientNetwork,
    kind: GuessKind,
    settings: Settings,
    now: Instant,
) -> Option<Duration> {
    // The guesses are in the order of their times, so the network is below the limit once the n-th latest has expired.
    let latest_first = guesses.iter().rev().filter(|guess| guess.kind == kind);
    let mut own = latest_first.filter(|guess| guess.network == network);
    let own = own.nth(settings.guesses.saturating_sub(1));
    let of_group = decisive_of_group(guesses, kind, settings);
    let decisive = [own, of_group].into_iter().flatten();
    decisive
        .filter_map(|guess| guess.time_left(settings, now))
        .max()
}

/// The guess of this kind with which the networks of a group are below their common limit once it has expired. `None` if they
/// are below it now.
fn decisive_of_group(
    guesses: &[FailedGuess],
    kind: GuessKind,
    settings: Settings,
) -> Option<&FailedGuess> {
    let mut counted = guesses
        .iter()
        .rev()
        .filter(|guess| guess.kind == kind && !guess.is_repeat);
    counted.nth(group_limit(settings).saturating_sub(1))
}

/// The number of guesses of one kind that the networks of a group have together.
fn group_limit(settings: Settings) -> usize {
    let shared = settings.guesses.saturating_mul(GROUP_SHARE);
    shared.min(MAX_GROUP_LIMIT).max(settings.guesses)
}

/// Whether the networks of a group have used up the wrong passwords that they share.
fn is_group_limited(guesses: &[FailedGuess], settings: Settings, now: Instant) -> bool {
    let decisive = decisive_of_group(guesses, GuessKind::Wrong, settings);
    settings.guesses > 0 && decisive.is_some_and(|guess| guess.is_current(settings, now))
}

impl Shard {
    /// The guesses of all networks in the group of `network`.
    fn guesses_of_group(&self, network: ClientNetwork) -> &[FailedGuess] {
        self.groups.get(&network.group()).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, attempt: &Attempt, kind: GuessKind, settings: Settings, now: Instant) {
        let guesses = self.groups.entry(attempt.network.group()).or_default();
        let is_repeat = guesses
            .iter()
            .any(|guess| guess.kind == kind && guess.key == attempt.key);
        guesses.push(FailedGuess {
            kind,
            network: attempt.network,
            user: attempt.user,
            key: attempt.key,
            at: now,
            is_repeat,
        });
        self.guesses += 1;
        if guesses.len() > MAX_OF_GROUP {
            let before = guesses.len();
            guesses.retain(|guess| !guess.is_repeat);
            self.guesses -= before - guesses.len();
        }
        if self.guesses > MAX_GUESSES / SHARDS {
            self.make_room(settings, now);
        }
    }

    /// Removes the guesses of a group for which `keep` returns `false`.
    fn retain(&mut self, group: ClientNetworkGroup, keep: impl FnMut(&FailedGuess) -> bool) {
        let Some(guesses) = self.groups.get_mut(&group) else {
            return;
        };
        let before = guesses.len();
        guesses.retain(keep);
        self.guesses -= before - guesses.len();
        if guesses.is_empty() {
            self.groups.remove(&group);
        }
    }

    /// Removes the groups whose guesses have all expired. If that is not enough, removes the groups with the fewest guesses,
    /// and of those first the ones whose last guess is oldest. A client that sends from a million addresses in order to erase the
    /// count of one of them fails, because that group has more guesses than the others.
    fn make_room(&mut self, settings: Settings, now: Instant) {
        self.groups.retain(|_, guesses| {
            let latest = guesses.last();
            latest.is_some_and(|latest| latest.is_current(settings, now))
        });
        self.guesses = self.groups.values().map(Vec::len).sum();
        // An eighth is removed at a time, because the search visits all groups.
        let mut smallest: Vec<_> = self
            .groups
            .iter()
            .filter_map(|(group, guesses)| Some((guesses.len(), guesses.last()?.at, *group)))
            .collect();
        smallest.sort_unstable_by_key(|(count, at, _)| (*count, *at));
        for (count, _, group) in smallest {
            if self.guesses <= MAX_GUESSES / SHARDS * 7 / 8 {
                return;
            }
            self.groups.remove(&group);
            self.guesses -= count;
        }
    }
}

/// The limit of an IPv6 /48 as a multiple of the limit of one network.
///
/// Some providers put many subscribers into one /48. A subscriber with one /64, or with a /60, cannot use up the guesses
/// of all others. A subscriber with a /56 can, for as long as it keeps guessing, and then the other networks of the /48 can
/// use only the logins that they have proved themselves. Without this limit, a /48 would have 65,536 times the guesses.
pub(super) const GROUP_SHARE: usize = 32;

/// The limit of a group for settings with so many guesses that a group would fill a shard, and would erase its own guesses.
const MAX_GROUP_LIMIT: usize = 512;
/// The number of guesses of a group above which its repeats are dropped. They do not count for the group, so that it could fill a
/// shard with them and erase the guesses that count.
const MAX_OF_GROUP: usize = 2 * MAX_GROUP_LIMIT;
/// The maximum number of guesses that are kept. They and their tables take about 16 MiB.
const MAX_GUESSES: usize = 128 * 1024;

#[cfg(test)]
mod tests;
