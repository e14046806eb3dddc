//! Guessing is slowed: how many different wrong credentials a client network has tried lately.
//!
//! `logins` asks before a password is hashed, and reports what was wrong. The same wrong credentials again are no new
//! guess: containerd tries five times, docker once a layer. Counted by network alone, so that nobody can lock a user
//! out from elsewhere; and a right login forgives that user's guesses only, so that a guesser with an account of his
//! own gains nothing by it. Of tries at the same moment as many more than allowed may be hashed as there are hash
//! threads, less one: each is judged when its turn comes. Reads no clock.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::MutexGuard;
use std::time::Duration;

use tokio::time::Instant;

use super::sharded::{SHARDS, Sharded};
use super::verified::Mark;
use crate::addr::Network;

/// How much guessing is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Different wrong credentials of one network within the window; zero is no limit.
    pub guesses: usize,
    /// How long one counts.
    pub window: Duration,
}

/// The guesses of all networks.
#[derive(Debug)]
pub(super) struct Throttle {
    shards: Sharded<Shard>,
    hasher: RandomState,
}

/// Credentials on their way to being checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Try {
    network: Network,
    /// Of the user's name, under a key of this process; two users with the same one are forgiven together.
    user: u64,
    mark: Mark,
}

/// What is known of a try before its password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing: it may be checked.
    Unknown,
    /// It was wrong a moment ago; it is wrong still, since its mark covers the stored line.
    Wrong,
    /// Too many others were wrong; one of them ceases to count after this time.
    TooMany(Duration),
}

impl Try {
    pub(super) fn network(&self) -> Network {
        self.network
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }
}

#[derive(Debug, Default)]
struct Shard {
    networks: HashMap<Network, Vec<Guess>>,
    /// Of all its networks.
    guesses: usize,
}

#[derive(Debug)]
struct Guess {
    user: u64,
    mark: Mark,
    at: Instant,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            shards: Sharded::default(),
            hasher: RandomState::new(),
        }
    }

    /// Names a try; `user` is the name and the stored line, since two files may have different people of one name,
    /// and `mark` is that of the credentials.
    pub(super) fn name(&self, network: Network, user: (&[u8], &[u8]), mark: Mark) -> Try {
        Try {
            network,
            user: self.hasher.hash_one(user),
            mark,
        }
    }

    /// Whether a try may be hashed. Asked again when its turn comes: of many tries at once, those behind the last
    /// that is allowed are refused then.
    pub(super) fn before(&self, tried: &Try, settings: Settings, now: Instant) -> Before {
        if settings.guesses == 0 {
            return Before::Unknown;
        }
        let shard = self.shard(tried.network);
        let guesses = shard.networks.get(&tried.network).map_or(&[][..], |g| g);
        let left = |guess: &Guess| settings.window.checked_sub(now - guess.at);
        let current = guesses.iter().filter(|guess| left(guess).is_some());
        let mut count = 0;
        for guess in current {
            if guess.mark == tried.mark {
                return Before::Wrong;
            }
            count += 1;
        }
        // They stand in the order of their times: the one whose end makes room is this many before the last.
        match guesses.iter().rev().nth(settings.guesses - 1) {
            Some(guess) if count >= settings.guesses => {
                Before::TooMany(left(guess).unwrap_or_default())
            }
            _ => Before::Unknown,
        }
    }

    /// Counts a try that was wrong, once. Says whether it is the one that makes them too many.
    pub(super) fn wrong(&self, tried: &Try, settings: Settings, now: Instant) -> bool {
        if settings.guesses == 0 {
            return false;
        }
        let mut shard = self.shard(tried.network);
        shard.forget(tried.network, |guess| now - guess.at <= settings.window);
        let guesses = shard.networks.entry(tried.network).or_default();
        if guesses.iter().any(|guess| guess.mark == tried.mark) {
            return false;
        }
        guesses.push(Guess {
            user: tried.user,
            mark: tried.mark,
            at: now,
        });
        let count = guesses.len();
        shard.guesses += 1;
        if shard.guesses > MOST / SHARDS {
            shard.make_room(settings.window, now);
        }
        count == settings.guesses
    }

    /// Forgives what the network guessed at this user before it had the password right.
    pub(super) fn right(&self, tried: &Try) {
        self.shard(tried.network)
            .forget(tried.network, |guess| guess.user != tried.user);
    }

    fn shard(&self, network: Network) -> MutexGuard<'_, Shard> {
        let [first, ..] = self.hasher.hash_one(network).to_be_bytes();
        self.shards.of(first)
    }
}

impl Shard {
    fn forget(&mut self, network: Network, keep: impl FnMut(&Guess) -> bool) {
        let Some(guesses) = self.networks.get_mut(&network) else {
            return;
        };
        let before = guesses.len();
        guesses.retain(keep);
        self.guesses -= before - guesses.len();
        if guesses.is_empty() {
            self.networks.remove(&network);
        }
    }

    /// What is over goes; else the network that guessed least, the longest ago: whoever sends from a million addresses
    /// to wipe out his own count is the last to be forgotten.
    fn make_room(&mut self, window: Duration, now: Instant) {
        let over =
            |guesses: &Vec<Guess>| guesses.last().is_none_or(|latest| now - latest.at > window);
        self.networks.retain(|_, guesses| !over(guesses));
        self.guesses = self.networks.values().map(Vec::len).sum();
        // A part of them at once, since looking for them costs a look at all.
        let mut least: Vec<_> = self
            .networks
            .iter()
            .filter_map(|(network, guesses)| Some((guesses.len(), guesses.last()?.at, *network)))
            .collect();
        least.sort_unstable_by_key(|(count, at, _)| (*count, *at));
        for (count, _, network) in least {
            if self.guesses <= MOST / SHARDS * 7 / 8 {
                return;
            }
            self.networks.remove(&network);
            self.guesses -= count;
        }
    }
}

/// Guesses that are remembered in all, some 16 MiB with their tables.
const MOST: usize = 128 * 1024;

#[cfg(test)]
mod tests;
