//! Divides a limited number of permits between client networks, and keeps a part of the permits for other networks.
//!
//! This is for permits that a client does not wait for: `net` limits open connections with it, and `service` limits
//! requests that cost more than a forwarded request. Two rules apply in addition to the total:
//!
//! - A client network (an IPv4 address, or an IPv6 /64) holds at most a fixed number of permits, and never more than half of
//!   the total.
//! - A client network group (an IPv4 address, or an IPv6 /48) may hold as many permits as one network. Beyond that, it gets
//!   another permit only while it holds fewer than are free. A single group therefore never holds more than half.
//!
//! Without the second rule, a subscriber with an IPv6 /48 could hold all permits from a few of its 65,536 networks. The
//! structure is plain data: the caller locks it.

use std::collections::HashMap;
use std::hash::Hash;

use crate::net::addr::{ClientNetwork, ClientNetworkGroup};

/// The number of permits held: in total, by client network, and by client network group.
#[derive(Debug)]
pub(crate) struct FairShare {
    limit: usize,
    network_limit: usize,
    held: usize,
    networks: HashMap<ClientNetwork, usize>,
    groups: HashMap<ClientNetworkGroup, usize>,
}

impl FairShare {
    /// Creates `limit` permits, of which one client network may hold `network_limit`, or half of `limit` if that is less.
    pub(crate) fn new(limit: usize, network_limit: usize) -> Self {
        Self {
            limit,
            network_limit: network_limit.min(limit.div_ceil(2)),
            held: 0,
            networks: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    /// Takes a permit for `network`. Returns `false` and changes nothing if all permits are held, or if the network or its group
    /// has its share.
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

    /// Returns a permit of `network`.
    pub(crate) fn give_back(&mut self, network: ClientNetwork) {
        self.held = self.held.saturating_sub(1);
        self.remove(network);
    }

    /// Passes a permit of `from` on to `to`. Returns `false` and changes nothing if `to` or its group has its share.
    #[must_use]
    pub(crate) fn pass(&mut self, from: ClientNetwork, to: ClientNetwork) -> bool {
        if from == to {
            return true;
        }
        // While the shares of the new holder are checked, the permit counts as free.
        self.remove(from);
        let free = self.limit.saturating_sub(self.held).saturating_add(1);
        let has_room = self.has_room(to, free);
        self.add(if has_room { to } else { from });
        has_room
    }

    /// The number of permits held.
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

/// Subtracts one from a count. A count of zero is removed, so that a map never has more entries than there are held permits.
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
    fn a_network_has_its_share_and_returns_it() {
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
    fn no_48_holds_more_than_half_and_a_new_group_always_gets_one() {
        for limit in [1, 2, 3, 64, 10_000] {
            let mut share = FairShare::new(limit, 1024);
            let taken = (0..20_000).filter(|number| share.take(subnet(1, *number)));
            assert_eq!(taken.count(), limit.div_ceil(2), "of {limit}");
            let mut new_groups = 0;
            for group in 2..100 {
                new_groups += usize::from(share.take(subnet(group, 0)));
            }
            assert_eq!(new_groups, (limit / 2).min(98), "of {limit}");
        }
    }

    #[test]
    fn several_networks_with_full_shares_hold_all_permits() {
        let mut share = FairShare::new(16, 4);
        for last in 1..=4 {
            let own = network(&format!("192.0.2.{last}"));
            assert!((0..4).all(|_| share.take(own)), "{last}");
        }
        assert!(!share.take(network("192.0.2.5")));
    }

    #[test]
    fn a_permit_that_is_passed_on_counts_for_its_new_holder() {
        let mut share = FairShare::new(4, 2);
        let (balancer, client) = (network("192.0.2.1"), network("192.0.2.2"));
        assert!(share.take(balancer) && share.pass(balancer, client));
        assert!(share.take(balancer) && share.pass(balancer, client));
        assert!(share.take(balancer));
        assert!(!share.pass(balancer, client), "the client has its share");
        assert!(share.pass(balancer, balancer));
        assert_eq!(share.networks[&balancer], 1);
        assert_eq!((share.networks[&client], share.held()), (2, 3));
        // The last free permit can be passed on to a client that holds none.
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
