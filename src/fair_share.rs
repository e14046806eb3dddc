//! Counts what client networks hold of something of which only so many may be held at once, and leaves a part for others.
//!
//! Used where the holder does not wait in a queue: by `listen` for open connections and by `service` for requests that
//! cost more than one that is passed on. Two rules apply beside the total:
//!
//! - A client network (an IPv4 address, or an IPv6 /64) holds at most a fixed number, and never more than half.
//! - A client network group (an IPv4 address, or an IPv6 /48) may hold as many as one network. Beyond that, it takes a
//!   further one only while it holds fewer than are free. A single group therefore never holds more than half.
//!
//! Without the second rule a subscriber with an IPv6 /48 could hold everything from a few of its 65,536 networks. The
//! structure is plain data: the caller locks it.

use std::collections::HashMap;
use std::hash::Hash;

use crate::net::addr::{ClientNetwork, ClientNetworkGroup};

/// How many of something are held, in all, by client network, and by client network group.
#[derive(Debug)]
pub(crate) struct FairShare {
    limit: usize,
    network_limit: usize,
    held: usize,
    networks: HashMap<ClientNetwork, usize>,
    groups: HashMap<ClientNetworkGroup, usize>,
}

impl FairShare {
    /// At most `limit` in all and `network_limit` of one client network, or half of `limit` if that is less.
    pub(crate) fn new(limit: usize, network_limit: usize) -> Self {
        Self {
            limit,
            network_limit: network_limit.min(limit.div_ceil(2)),
            held: 0,
            networks: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    /// Takes one for `network`. Returns `false` and changes nothing if all are held or the network or its group has its
    /// share.
    #[must_use]
    pub(crate) fn take(&mut self, network: ClientNetwork) -> bool {
        let free = self.limit.saturating_sub(self.held);
        if free == 0 || !self.has_room(network, free) {
            return false;
        }
        self.held += 1;
        self.add(network);
        true
    }

    /// Gives back one that `network` holds.
    pub(crate) fn give_back(&mut self, network: ClientNetwork) {
        self.held = self.held.saturating_sub(1);
        self.remove(network);
    }

    /// Counts one that `from` holds for `to` instead. Returns `false` and changes nothing if `to` or its group has its
    /// share.
    #[must_use]
    pub(crate) fn pass(&mut self, from: ClientNetwork, to: ClientNetwork) -> bool {
        if from == to {
            return true;
        }
        // The passed one counts as free while its new holder is looked at.
        self.remove(from);
        let free = self.limit.saturating_sub(self.held).saturating_add(1);
        let has_room = self.has_room(to, free);
        self.add(if has_room { to } else { from });
        has_room
    }

    /// How many are held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    fn has_room(&self, network: ClientNetwork, free: usize) -> bool {
        let of_network = self.networks.get(&network).copied().unwrap_or_default();
        let of_group = self.groups.get(&network.group());
        let group_limit = free.max(self.network_limit);
        of_network < self.network_limit && of_group.copied().unwrap_or_default() < group_limit
    }

    fn add(&mut self, network: ClientNetwork) {
        *self.networks.entry(network).or_default() += 1;
        *self.groups.entry(network.group()).or_default() += 1;
    }

    fn remove(&mut self, network: ClientNetwork) {
        decrement(&mut self.networks, network);
        decrement(&mut self.groups, network.group());
    }
}

/// An entry is removed at zero, so that a map is never larger than what is held.
fn decrement<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::addr::PeerAddr;

    fn network(text: &str) -> ClientNetwork {
        let address: std::net::IpAddr = text.parse().unwrap();
        PeerAddr::new((address, 1).into()).client().network()
    }

    fn subnet(group: u8, number: u16) -> ClientNetwork {
        network(&format!("2001:db8:{group}:{number:x}::1"))
    }

    #[test]
    fn a_network_has_its_share_and_gives_it_back() {
        let mut share = FairShare::new(10, 2);
        let (home, other) = (network("2001:db8::1"), network("192.0.2.1"));
        let neighbour = network("2001:db8::2");
        assert!(share.take(home) && share.take(neighbour));
        assert!(!share.take(home) && !share.take(neighbour));
        assert!(share.take(other));
        share.give_back(home);
        assert!(share.take(neighbour));
        for held in [home, neighbour, other] {
            share.give_back(held);
        }
        assert_eq!(share.held(), 0);
        assert!(share.networks.is_empty() && share.groups.is_empty());
    }

    #[test]
    fn no_48_holds_more_than_half_and_a_newcomer_always_gets_one() {
        for limit in [1, 2, 3, 64, 10_000] {
            let mut share = FairShare::new(limit, 1024);
            let taken = (0..20_000).filter(|number| share.take(subnet(1, *number)));
            assert_eq!(taken.count(), limit.div_ceil(2), "of {limit}");
            let mut newcomers = 0;
            for group in 2..100 {
                newcomers += usize::from(share.take(subnet(group, 0)));
            }
            assert_eq!(newcomers, (limit / 2).min(98), "of {limit}");
        }
    }

    #[test]
    fn as_many_networks_as_have_their_share_use_all_of_it() {
        let mut share = FairShare::new(16, 4);
        for last in 1..=4 {
            let own = network(&format!("192.0.2.{last}"));
            assert!((0..4).all(|_| share.take(own)), "{last}");
        }
        assert!(!share.take(network("192.0.2.5")));
    }

    #[test]
    fn one_that_is_passed_on_counts_for_its_new_holder() {
        let mut share = FairShare::new(4, 2);
        let (balancer, client) = (network("192.0.2.1"), network("192.0.2.2"));
        assert!(share.take(balancer) && share.pass(balancer, client));
        assert!(share.take(balancer) && share.pass(balancer, client));
        assert!(share.take(balancer));
        assert!(!share.pass(balancer, client), "the client has its share");
        assert!(share.pass(balancer, balancer));
        assert_eq!(share.networks[&balancer], 1);
        assert_eq!((share.networks[&client], share.held()), (2, 3));
        // The last one reaches a client that holds nothing.
        share.give_back(balancer);
        assert!(share.take(network("192.0.2.3")) && share.take(balancer));
        assert!(share.pass(balancer, network("192.0.2.4")));
        assert_eq!(share.held(), 4);
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_a_plain_list(steps in prop::collection::vec((0..3_u8, 0..3_u8, 0..3_u16), 0..200)) {
            let mut share = FairShare::new(12, 3);
            let mut list: Vec<ClientNetwork> = Vec::new();
            for (step, group, number) in steps {
                let own = subnet(group, number);
                match step {
                    0 => if share.take(own) { list.push(own) },
                    1 => if let Some(held) = list.pop() { share.give_back(held) },
                    _ => if let Some(held) = list.last_mut() && share.pass(*held, own) { *held = own },
                }
                prop_assert_eq!(share.held(), list.len());
                let of = |wanted| list.iter().filter(|held| **held == wanted).count();
                prop_assert_eq!(share.networks.get(&own).copied().unwrap_or_default(), of(own));
                prop_assert!(of(own) <= 3);
                let of_group = list.iter().filter(|held| held.group() == own.group()).count();
                prop_assert_eq!(share.groups.get(&own.group()).copied().unwrap_or_default(), of_group);
            }
        }
    }
}
