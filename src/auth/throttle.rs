//! Bounds the guessing of passwords: how many different wrong credentials one client network may try within a window.
//!
//! `logins` asks before a password is hashed, and reports the wrong ones. The same wrong credentials again are no new
//! guess: containerd sends them five times, docker once for each layer. Guesses are counted by client network alone, so
//! that a user cannot be locked out from another network. A right login forgives the guesses of its network at its own
//! user only, so that a guesser with an account gains nothing from it.
//!
//! A subscriber with an IPv6 /48 has 65,536 client networks. The networks of one /48 therefore also share a bound of
//! [`GROUP_SHARE`] times the guesses of one network.
//!
//! A second bound of the same size limits how many credentials of one network are compared with the logins that other
//! networks have proved (`may_compare`). Without it, a client could send many guesses at once, learn from the immediate
//! answer which one is the password of an active user, and cancel the other requests before they are hashed and counted.
//!
//! Of guesses that arrive at the same moment, as many more than allowed may be hashed as there are hash threads, less
//! one: each guess is judged again when its turn comes. This module reads no clock.

use parking_lot::MutexGuard;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::sharded::{SHARDS, Sharded};
use super::verified::CacheKey;
use crate::net::addr::{ClientNetwork, ClientNetworkGroup};

/// The bounds on guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Different wrong credentials of one client network within the window; zero means no bound.
    pub guesses: usize,
    /// How long a guess counts.
    pub window: Duration,
}

/// The guesses of all client networks.
#[derive(Debug)]
pub(super) struct GuessLimiter {
    shards: Sharded<Shard>,
    hasher: RandomState,
}

/// Credentials that a client network has sent, before it is known whether they are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    network: ClientNetwork,
    /// A keyed hash of the user's name and stored line. If two users have the same hash, a correct password of one clears the
    /// counted guesses at both.
    user: u64,
    mark: CacheKey,
}

/// What is known of credentials before their password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptStatus {
    /// Nothing is known, so the password may be checked.
    Unknown,
    /// The same client network sent them within the window, and they were wrong. They are wrong still, since the mark
    /// covers the user's stored line.
    Wrong,
    /// Too many others were wrong. One of those ceases to count after this time.
    TooMany(Duration),
}

/// Whose bound a guess has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// The bound of one client network.
    Network(ClientNetwork),
    /// The bound that the networks of one IPv6 /48 share.
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
    pub(super) fn network(&self) -> ClientNetwork {
        self.network
    }

    pub(super) fn mark(&self) -> CacheKey {
        self.mark
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
    kind: Kind,
    network: ClientNetwork,
    user: u64,
    mark: CacheKey,
    at: Instant,
    /// Another network of the group has an entry for the same credentials. Then this entry does not count for the group:
    /// a wrong password in the configuration of a cluster with many networks is one guess.
    is_repeat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The credentials were checked and were wrong.
    Wrong,
    /// The credentials were compared with the logins that other networks have proved, and equalled none of them.
    Compared,
}

impl GuessLimiter {
    pub(super) fn new() -> Self {
        Self {
            shards: Sharded::default(),
            hasher: RandomState::new(),
        }
    }

    /// Describes credentials for the other methods. `user` is the name and the stored line, since two password files may
    /// hold different users of the same name; `mark` is the mark of the credentials.
    pub(super) fn attempt(
        &self,
        network: ClientNetwork,
        user: (&[u8], &[u8]),
        mark: CacheKey,
    ) -> Attempt {
        Attempt {
            network,
            user: self.hasher.hash_one(user),
            mark,
        }
    }

    /// Whether the password of a try may be hashed. `logins` asks again when the try's turn comes: of many tries that
    /// arrive at once, those behind the last allowed one are rejected then.
    pub(super) fn before(
        &self,
        tried: &Attempt,
        settings: Settings,
        now: Instant,
    ) -> AttemptStatus {
        if settings.guesses == 0 {
            return AttemptStatus::Unknown;
        }
        let shard = self.shard(tried.network);
        let guesses = shard.of(tried.network);
        if guesses
            .iter()
            .any(|guess| guess.is_for(tried, Kind::Wrong) && guess.is_current(settings, now))
        {
            return AttemptStatus::Wrong;
        }
        match time_until_room(guesses, tried.network, Kind::Wrong, settings, now) {
            Some(left) => AttemptStatus::TooMany(left),
            None => AttemptStatus::Unknown,
        }
    }

    /// Whether a try may be compared with the logins that other client networks have proved or are proving now.
    ///
    /// A comparison counts until the network proves a login of the same user, or until the window has passed. A network
    /// that has used up its comparisons still logs in: its passwords wait for their turn and are hashed.
    pub(super) fn may_compare(&self, tried: &Attempt, settings: Settings, now: Instant) -> bool {
        if settings.guesses == 0 {
            return true;
        }
        let mut shard = self.shard(tried.network);
        shard.forget(tried.network.group(), |guess| {
            guess.is_current(settings, now)
        });
        let guesses = shard.of(tried.network);
        if guesses
            .iter()
            .any(|guess| guess.is_for(tried, Kind::Compared))
        {
            return true;
        }
        if time_until_room(guesses, tried.network, Kind::Compared, settings, now).is_some() {
            return false;
        }
        shard.add(tried, Kind::Compared, settings, now);
        true
    }

    /// Counts a try that was wrong, once. Returns the bound that this try has reached, if any.
    pub(super) fn record_failure(
        &self,
        tried: &Attempt,
        settings: Settings,
        now: Instant,
    ) -> Option<Exceeded> {
        if settings.guesses == 0 {
            return None;
        }
        let mut shard = self.shard(tried.network);
        shard.forget(tried.network.group(), |guess| {
            guess.is_current(settings, now)
        });
        let guesses = shard.of(tried.network);
        if guesses.iter().any(|guess| guess.is_for(tried, Kind::Wrong)) {
            return None;
        }
        let wrong = || guesses.iter().filter(|guess| guess.kind == Kind::Wrong);
        let is_repeat = wrong().any(|guess| guess.mark == tried.mark);
        let own = wrong()
            .filter(|guess| guess.network == tried.network)
            .count();
        let of_group = wrong().filter(|guess| !guess.is_repeat).count();
        shard.add(tried, Kind::Wrong, settings, now);
        if own + 1 == settings.guesses {
            Some(Exceeded::Network(tried.network))
        } else if !is_repeat && of_group + 1 == settings.guesses.saturating_mul(GROUP_SHARE) {
            Some(Exceeded::Group(tried.network.group()))
        } else {
            None
        }
    }

    /// Forgives what the network guessed at this user before it sent the right password.
    pub(super) fn record_success(&self, tried: &Attempt) {
        self.shard(tried.network)
            .forget(tried.network.group(), |guess| {
                guess.network != tried.network || guess.user != tried.user
            });
    }

    /// The shard of a network, which is the same for all networks of its group.
    fn shard(&self, network: ClientNetwork) -> MutexGuard<'_, Shard> {
        let [first, ..] = self.hasher.hash_one(network.group()).to_be_bytes();
        self.shards.of(first)
    }
}

impl FailedGuess {
    fn is_for(&self, tried: &Attempt, kind: Kind) -> bool {
        self.kind == kind && self.network == tried.network && self.mark == tried.mark
    }

    fn time_left(&self, settings: Settings, now: Instant) -> Option<Duration> {
        settings.window.checked_sub(now - self.at)
    }

    fn is_current(&self, settings: Settings, now: Instant) -> bool {
        self.time_left(settings, now).is_some()
    }
}

/// How long `network` has to wait because it or its group has used up its guesses of this kind; `None` while it has not.
fn time_until_room(
    guesses: &[FailedGuess],
    network: ClientNetwork,
    kind: Kind,
    settings: Settings,
    now: Instant,
) -> Option<Duration> {
    let latest_first = || guesses.iter().rev().filter(|guess| guess.kind == kind);
    // The guesses are in the order of their times, so there is room again once the n-th latest has expired.
    let own = latest_first()
        .filter(|guess| guess.network == network)
        .nth(settings.guesses.saturating_sub(1));
    let of_group = latest_first().filter(|guess| !guess.is_repeat).nth(
        settings
            .guesses
            .saturating_mul(GROUP_SHARE)
            .saturating_sub(1),
    );
    let decisive = [own, of_group].into_iter().flatten();
    decisive
        .filter_map(|guess| guess.time_left(settings, now))
        .max()
}

impl Shard {
    fn of(&self, network: ClientNetwork) -> &[FailedGuess] {
        self.groups.get(&network.group()).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, tried: &Attempt, kind: Kind, settings: Settings, now: Instant) {
        let guesses = self.groups.entry(tried.network.group()).or_default();
        let is_repeat = guesses
            .iter()
            .any(|guess| guess.kind == kind && guess.mark == tried.mark);
        guesses.push(FailedGuess {
            kind,
            network: tried.network,
            user: tried.user,
            mark: tried.mark,
            at: now,
            is_repeat,
        });
        self.guesses += 1;
        if self.guesses > MOST / SHARDS {
            self.make_room(settings, now);
        }
    }

    fn forget(&mut self, group: ClientNetworkGroup, keep: impl FnMut(&FailedGuess) -> bool) {
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

    /// Removes the groups whose guesses have all expired. If that is not enough, it removes the groups with the fewest
    /// guesses, and of those the ones that guessed longest ago: a guesser that sends from a million addresses in order
    /// to erase its own count is the last one to be forgotten.
    fn make_room(&mut self, settings: Settings, now: Instant) {
        self.groups.retain(|_, guesses| {
            let latest = guesses.last();
            latest.is_some_and(|latest| latest.is_current(settings, now))
        });
        self.guesses = self.groups.values().map(Vec::len).sum();
        // An eighth at once, since the search looks at all groups.
        let mut least: Vec<_> = self
            .groups
            .iter()
            .filter_map(|(group, guesses)| Some((guesses.len(), guesses.last()?.at, *group)))
            .collect();
        least.sort_unstable_by_key(|(count, at, _)| (*count, *at));
        for (count, _, group) in least {
            if self.guesses <= MOST / SHARDS * 7 / 8 {
                return;
            }
            self.groups.remove(&group);
            self.guesses -= count;
        }
    }
}

/// How many times the guesses of one network all networks of one IPv6 /48 may make together.
///
/// Some providers put many subscribers into one /48. A subscriber with one /64, or with a /60, cannot use up the guesses
/// of all others; one with a /56 can, for as long as it keeps guessing, and then the neighbours' networks can use only
/// the logins that they have proved themselves. Without a bound, a /48 would have 65,536 times the guesses.
pub(super) const GROUP_SHARE: usize = 32;

/// The number of guesses that are kept in all; they and their tables take about 16 MiB.
const MOST: usize = 128 * 1024;

#[cfg(test)]
mod tests;
