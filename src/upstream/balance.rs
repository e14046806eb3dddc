//! The choice of the endpoint for a request.
//!
//! `upstream` calls [`choose`]. The functions here only compute from what the endpoints report; they change nothing.
//!
//! All requests of an upload must reach the same registry process, whichever worker and whichever of several proxies forwards
//! them. Their endpoint therefore depends on the repository name alone, by rendezvous hashing with a fixed hash function that
//! must never change. Any other request goes to the less busy of two endpoints that are drawn at random.

use crate::stable_hash::fnv1a;

/// What the choice needs to know about an endpoint.
pub(crate) trait Candidate {
    /// Whether the endpoint responds, as far as is known.
    fn is_up(&self) -> bool;
    /// The number of active and queued requests.
    fn busy(&self) -> usize;
    /// The [`endpoint_hash`] of the URL of the endpoint.
    fn url_hash(&self) -> u64;
}

/// The largest number of endpoints of one upstream: an `EndpointSet` has one bit for each.
pub const MAX_ENDPOINTS: usize = 64;

/// A set of endpoints, as a bit map over their indices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointSet(u64);

impl EndpointSet {
    /// The set of the first `count` endpoints.
    pub(crate) fn first(count: usize) -> Self {
        let unused_bits = u32::try_from(MAX_ENDPOINTS.saturating_sub(count)).unwrap_or(0);
        Self(u64::MAX.checked_shr(unused_bits).unwrap_or(0))
    }

    pub(crate) fn insert(&mut self, index: usize) {
        self.0 |= bit(index);
    }

    pub(crate) fn remove(&mut self, index: usize) {
        self.0 &= !bit(index);
    }

    fn contains(self, index: usize) -> bool {
        self.0 & bit(index) != 0
    }

    /// The index of the endpoint that has `rank` endpoints with smaller indices in the set.
    fn nth(self, rank: u32) -> usize {
        let mut bits = self.0;
        for _ in 0..rank {
            // Clears the lowest bit.
            bits &= bits.wrapping_sub(1);
        }
        bits.trailing_zeros() as usize
    }
}

fn bit(index: usize) -> u64 {
    u32::try_from(index)
        .ok()
        .and_then(|index| 1u64.checked_shl(index))
        .unwrap_or(0)
}

/// Returns the index of the endpoint for a request, or `None` if all endpoints are in `tried`.
///
/// Endpoints that are down are skipped. If all remaining endpoints are down, one of them is returned nevertheless, so that
/// the last endpoint is never out of rotation. `repository` is the repository of a request that belongs to an upload.
pub(crate) fn choose<C: Candidate>(
    endpoints: &[impl AsRef<C>],
    tried: EndpointSet,
    repository: Option<&str>,
) -> Option<usize> {
    let untried = EndpointSet(EndpointSet::first(endpoints.len()).0 & !tried.0);
    // With a single endpoint there is no choice, so its health is not read.
    if untried.0.is_power_of_two() {
        return Some(untried.nth(0));
    }
    let mut up = untried;
    for (index, endpoint) in endpoints.iter().enumerate() {
        if !endpoint.as_ref().is_up() {
            up.remove(index);
        }
    }
    let eligible = if up.0 == 0 { untried } else { up };
    if eligible.0 == 0 {
        return None;
    }
    match repository {
        Some(repository) => rendezvous(endpoints, eligible, repository),
        None => less_busy(endpoints, eligible),
    }
}

/// Rendezvous hashing: the endpoint with the highest score for the repository.
///
/// If an endpoint goes down, only its own repositories move to other endpoints, and they return with the endpoint.
fn rendezvous<C: Candidate>(
    endpoints: &[impl AsRef<C>],
    eligible: EndpointSet,
    repository: &str,
) -> Option<usize> {
    let key = fnv1a(repository.as_bytes());
    let eligible = (0..endpoints.len()).filter(|index| eligible.contains(*index));
    eligible.max_by_key(|index| {
        let endpoint = endpoints.get(*index);
        splitmix64_finalizer(key ^ endpoint.map_or(0, |endpoint| endpoint.as_ref().url_hash()))
    })
}

/// Draws two endpoints at random and returns the less busy one ("the power of two choices").
///
/// The result is nearly as good as the least busy endpoint of all. It also avoids that all workers move to one endpoint
/// together because they see the same counts at the same moment.
fn less_busy<C: Candidate>(endpoints: &[impl AsRef<C>], eligible: EndpointSet) -> Option<usize> {
    let count = eligible.0.count_ones();
    let random = fastrand::u64(..);
    let (low, high) = (random as u32, (random >> 32) as u32);
    let first = low % count;
    let second = (first + 1 + high % (count - 1).max(1)) % count;
    let candidate = |rank| {
        let index = eligible.nth(rank);
        let endpoint = endpoints.get(index)?;
        Some((index, endpoint.as_ref().busy()))
    };
    let ((first, first_busy), (second, second_busy)) = (candidate(first)?, candidate(second)?);
    Some(if second_busy < first_busy {
        second
    } else {
        first
    })
}

/// The hash of an endpoint's URL, as [`Candidate::url_hash`] reports it.
pub(crate) fn endpoint_hash(url: &str) -> u64 {
    fnv1a(url.as_bytes())
}

/// The finalizer of the `splitmix64` generator. FNV-1a alone gives similar names similar high bits, and the scores of the
/// rendezvous are compared by their high bits.
fn splitmix64_finalizer(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    struct FakeEndpoint {
        is_up: bool,
        busy: usize,
        url_hash: u64,
    }

    impl Candidate for FakeEndpoint {
        fn is_up(&self) -> bool {
            self.is_up
        }
        fn busy(&self) -> usize {
            self.busy
        }
        fn url_hash(&self) -> u64 {
            self.url_hash
        }
    }

    /// `count` idle endpoints, of which those with the indices in `down` are down.
    fn endpoints(count: usize, down: &[usize]) -> Vec<Arc<FakeEndpoint>> {
        (0..count)
            .map(|index| {
                Arc::new(FakeEndpoint {
                    is_up: !down.contains(&index),
                    busy: 0,
                    url_hash: endpoint_hash(&format!("http://registry-{index}.internal:5000")),
                })
            })
            .collect()
    }

    fn choose_any(endpoints: &[Arc<FakeEndpoint>]) -> Option<usize> {
        choose::<FakeEndpoint>(endpoints, EndpointSet::default(), None)
    }

    fn choose_for_upload(endpoints: &[Arc<FakeEndpoint>], repository: &str) -> Option<usize> {
        choose::<FakeEndpoint>(endpoints, EndpointSet::default(), Some(repository))
    }

    /// Proxies of different versions must agree, so these results may never change.
    #[test]
    fn the_endpoint_of_an_upload_is_fixed() {
        let endpoints = endpoints(3, &[]);
        let chosen: Vec<_> = ["team/app", "library/alpine", "a", "b", "c"]
            .iter()
            .map(|repository| choose_for_upload(&endpoints, repository).unwrap())
            .collect();
        assert_eq!(chosen, [0, 0, 2, 1, 1]);
    }

    #[test]
    fn repositories_are_spread_evenly() {
        let endpoints = endpoints(4, &[]);
        let mut counts = [0; 4];
        for number in 0..4000 {
            counts[choose_for_upload(&endpoints, &format!("team/app-{number}")).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..1150).contains(count)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn only_the_repositories_of_a_dead_endpoint_move(
            count in 2usize..12,
            dead in 0usize..12,
            repositories in prop::collection::vec("[a-z0-9]{1,8}(/[a-z0-9-]{1,8}){0,2}", 1..50),
        ) {
            let dead = dead % count;
            let (before, after) = (endpoints(count, &[]), endpoints(count, &[dead]));
            for repository in &repositories {
                let was = choose_for_upload(&before, repository);
                let is = choose_for_upload(&after, repository);
                prop_assert_ne!(is, Some(dead));
                if was != Some(dead) {
                    prop_assert_eq!(was, is);
                }
                // The order of the endpoints does not matter.
                let reversed: Vec<_> = before.iter().rev().cloned().collect();
                prop_assert_eq!(
                    choose_for_upload(&reversed, repository),
                    was.map(|was| count - 1 - was)
                );
            }
        }
    }

    #[test]
    fn the_busiest_of_three_endpoints_is_never_chosen() {
        let busy = |busy| {
            Arc::new(FakeEndpoint {
                is_up: true,
                busy,
                url_hash: 0,
            })
        };
        let endpoints = [busy(9), busy(1), busy(5)];
        let mut counts = [0; 3];
        for _ in 0..600 {
            counts[choose_any(&endpoints).unwrap()] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1] > counts[2] && counts[2] > 0, "{counts:?}");
    }

    #[test]
    fn equally_busy_endpoints_are_chosen_equally_often() {
        for count in 2..=5 {
            let endpoints = endpoints(count, &[]);
            let mut counts = vec![0; count];
            for _ in 0..500 * count {
                counts[choose_any(&endpoints).unwrap()] += 1;
            }
            assert!(
                counts.iter().all(|times| (350..650).contains(times)),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn an_endpoint_that_is_down_is_chosen_only_if_there_is_no_other() {
        let one_down = endpoints(2, &[0]);
        for repository in [None, Some("a"), Some("b"), Some("c")] {
            let mut tried = EndpointSet::default();
            assert_eq!(
                choose::<FakeEndpoint>(&one_down, tried, repository),
                Some(1)
            );
            tried.insert(1);
            assert_eq!(
                choose::<FakeEndpoint>(&one_down, tried, repository),
                Some(0)
            );
            tried.insert(0);
            assert_eq!(choose::<FakeEndpoint>(&one_down, tried, repository), None);
        }
        let all_down = endpoints(3, &[0, 1, 2]);
        assert!(choose_any(&all_down).is_some());
        assert!(choose_for_upload(&all_down, "a").is_some());
        assert_eq!(choose_any(&endpoints(1, &[0])), Some(0));
    }

    #[test]
    fn a_set_has_room_for_the_largest_number_of_endpoints() {
        let mut set = EndpointSet::first(MAX_ENDPOINTS);
        for index in 0..MAX_ENDPOINTS {
            assert!(set.contains(index));
            set.remove(index);
        }
        assert_eq!(set, EndpointSet::default());
        assert_eq!(EndpointSet::first(0), EndpointSet::default());
    }
}
