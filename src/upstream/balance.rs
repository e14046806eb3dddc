//! Which endpoint a request goes to.
//!
//! Called by `upstream`; pure arithmetic over what the endpoints say of themselves. The requests of an upload must meet one
//! registry, whichever worker or gate passes them on, so their endpoint follows from the repository alone: by rendezvous
//! hashing, whose function is fixed here and may never change. Everything else goes to the less busy of two.

use std::hash::{BuildHasher as _, RandomState};

/// What is asked of an endpoint.
pub(super) trait Candidate {
    /// It answers, as far as is known.
    fn is_up(&self) -> bool;
    /// Requests under way or waiting.
    fn busy(&self) -> usize;
    /// [`hash`] of its URL.
    fn seed(&self) -> u64;
}

/// Endpoints by their number, at most [`MOST`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointSet(u64);

/// As many endpoints as a route may have.
pub const MOST: usize = 64;

impl EndpointSet {
    /// The first `count`.
    pub(super) fn first(count: usize) -> Self {
        let rest = u32::try_from(MOST.saturating_sub(count)).unwrap_or(0);
        Self(u64::MAX.checked_shr(rest).unwrap_or(0))
    }

    pub(super) fn add(&mut self, number: usize) {
        self.0 |= bit(number);
    }

    pub(super) fn remove(&mut self, number: usize) {
        self.0 &= !bit(number);
    }

    fn has(self, number: usize) -> bool {
        self.0 & bit(number) != 0
    }

    /// The number that has `before` smaller ones in the set.
    fn nth(self, before: u32) -> usize {
        let mut rest = self.0;
        for _ in 0..before {
            rest &= rest.wrapping_sub(1);
        }
        rest.trailing_zeros() as usize
    }
}

fn bit(number: usize) -> u64 {
    u32::try_from(number)
        .ok()
        .and_then(|number| 1u64.checked_shl(number))
        .unwrap_or(0)
}

/// The endpoint for a request, of those not yet tried: one that is up, or any when none is, so that the last is never
/// given up. `repository` is that of an upload. `None` when all were tried.
pub(super) fn choose<C: Candidate>(
    all: &[impl AsRef<C>],
    tried: EndpointSet,
    repository: Option<&str>,
) -> Option<usize> {
    let left = EndpointSet(EndpointSet::first(all.len()).0 & !tried.0);
    // Of one endpoint nothing needs to be known.
    if left.0.is_power_of_two() {
        return Some(left.nth(0));
    }
    let mut up = left;
    for (number, candidate) in all.iter().enumerate() {
        if !candidate.as_ref().is_up() {
            up.remove(number);
        }
    }
    let eligible = if up.0 == 0 { left } else { up };
    if eligible.0 == 0 {
        return None;
    }
    match repository {
        Some(repository) => rendezvous(all, eligible, repository),
        None => less_busy(all, eligible),
    }
}

/// The highest score wins: when an endpoint goes, only what it had moves, and comes back with it.
fn rendezvous<C: Candidate>(
    all: &[impl AsRef<C>],
    eligible: EndpointSet,
    repository: &str,
) -> Option<usize> {
    let key = hash(repository);
    let eligible = (0..all.len()).filter(|number| eligible.has(*number));
    eligible.max_by_key(|number| {
        let seed = all
            .get(*number)
            .map_or(0, |candidate| candidate.as_ref().seed());
        mix(key ^ seed)
    })
}

/// Two at random, and the less busy of them: nearly as good as the least busy of all, and no herd follows old news.
fn less_busy<C: Candidate>(all: &[impl AsRef<C>], eligible: EndpointSet) -> Option<usize> {
    let count = eligible.0.count_ones();
    let random = RandomState::new().hash_one(0u8);
    let (low, high) = (random as u32, (random >> 32) as u32);
    let first = low % count;
    let second = (first + 1 + high % (count - 1).max(1)) % count;
    let of = |before| {
        let number = eligible.nth(before);
        all.get(number)
            .map(|candidate| (number, candidate.as_ref()))
    };
    let (one, other) = (of(first)?, of(second)?);
    Some(if other.1.busy() < one.1.busy() {
        other.0
    } else {
        one.0
    })
}

/// FNV-1a of 64 bits.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finaliser of `splitmix64`: FNV alone leaves similar names with similar high bits.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
