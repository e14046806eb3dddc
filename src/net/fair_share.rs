//! Divides a limited number of permits between client networks, so that no client can take them all.
//!
//! The owners of such limits choose one of the [`ShareRule`]s: `conn_limit` for open connections, `upstream` for the requests to an
//! endpoint, `service` for requests that cost more than a forwarded one, `connection` for the streams that are kept after an early
//! response, and `activity` for the transfers on the status page.
//!
//! Each rule compares what a client holds with what is free (a "dynamic threshold", Choudhury and Hahne, 1998), so that permits
//! stay free for the next client, whatever the others do. Each rule has a bound for a client network group (an IPv4 address, or
//! an IPv6 /48), because a subscriber with an IPv6 /48 could otherwise hold all permits from a few of its 65,536 networks.
//!
//! [`FairShare`] is plain data, which its owner locks. [`FairLimit`] is the same for owners that need no other data under the lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::net::addr::{ClientNetwork, ClientNetworkGroup};

/// How many permits a client network and its group may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShareRule {
    /// A network holds at most this number of permits, and never more than half of all. A group may hold as many as one network.
    /// Beyond that, it gets another permit only while it holds fewer than are free, so a group alone gets half of all.
    AtMost(usize),
    /// A network gets another permit only while it holds fewer than are free, and a group while it holds fewer than twice the free
    /// ones. One network alone gets half of all, two get a third each, three a quarter each. A group alone gets two thirds: if it
    /// got only half, one of its networks could use up what its neighbours may have.
    FewerThanFree,
    /// A group gets another permit only while it holds less than the free ones divided by this number. Its networks have no bound
    /// of their own.
    GroupPartOfFree(usize),
}

/// The number of permits held: in total, by client network group, and by client network.
#[derive(Debug)]
pub(crate) struct FairShare {
    limit: usize,
    rule: ShareRule,
    held: usize,
    /// A group that holds no permits any more stays in the map for a while, so that its next permit needs no new entry.
    groups: HashMap<ClientNetworkGroup, GroupCount>,
}

/// The number of permits that one group holds.
#[derive(Debug, Default)]
struct GroupCount {
    held: usize,
    /// The networks of the group that hold permits, with their number. Empty for an IPv4 address, which is its own group.
    networks: HashMap<ClientNetwork, usize>,
}

impl ShareRule {
    /// Whether a network that holds `of_network` permits, in a group that holds `of_group`, gets another one while `free` permits of
    /// `limit` are not held.
    fn allows(self, limit: usize, free: usize, of_network: usize, of_group: usize) -> bool {
        if free == 0 {
            return false;
        }
        match self {
            Self::AtMost(max) => {
                let max = max.min(limit.div_ceil(2));
                of_network < max && of_group < free.max(max)
            }
            Self::FewerThanFree => of_network < free && of_group < free.saturating_mul(2),
            Self::GroupPartOfFree(divisor) => free
                .checked_div(divisor)
                .is_some_and(|part| of_group < part),
        }
    }
}

impl FairShare {
    /// Creates `limit` permits.
    pub(crate) fn new(limit: usize, rule: ShareRule) -> Self {
        Self {
            limit,
            rule,
            held: 0,
            groups: HashMap::new(),
        }
    }

    /// The number of permits held.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// The number of permits that nothing holds.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.held)
    }

    /// The number of permits that the networks of `group` hold.
    pub(crate) fn held_by(&self, group: ClientNetworkGroup) -> usize {
        self.groups.get(&group).map_or(0, |count| count.held)
    }

    /// Whether `network` would get a permit.
    pub(crate) fn may_take(&self, network: ClientNetwork) -> bool {
        let count = self.groups.get(&network.group());
        let (of_network, of_group) =
            count.map_or((0, 0), |count| (count.held_by(network), count.held));
        self.rule
            .allows(self.limit, self.free(), of_network, of_group)
    }

    /// Whether a network of `group` that holds no permit would get one.
    pub(crate) fn may_take_in(&self, group: ClientNetworkGroup) -> bool {
        self.rule
            .allows(self.limit, self.free(), 0, self.held_by(group))
    }

    /// Takes a permit for `network`. Returns `false` and changes nothing if all permits are held, or if the network or its group
    /// has its share.
    #[must_use]
    pub(crate) fn take(&mut self, network: ClientNetwork) -> bool {
        let (rule, limit, free) = (self.rule, self.limit, self.free());
        // One look-up of a group that is known, because this is called for each request.
        if let Some(count) = self.groups.get_mut(&network.group()) {
            if !rule.allows(limit, free, count.held_by(network), count.held) {
                return false;
            }
            count.add(network);
        } else {
            if !rule.allows(limit, free, 0, 0) {
                return false;
            }
            self.count_of(network.group()).add(network);
        }
        self.held += 1;
        true
    }

    /// Returns a permit of `network`.
    pub(crate) fn give_back(&mut self, network: ClientNetwork) {
        self.held = self.held.saturating_sub(1);
        if let Some(count) = self.groups.get_mut(&network.group()) {
            count.remove(network);
        }
    }

    /// Passes a permit of `from` on to `to`. Returns `false` and changes nothing if `to` or its group has its share.
    #[must_use]
    pub(crate) fn pass(&mut self, from: ClientNetwork, to: ClientNetwork) -> bool {
        if from == to {
            return true;
        }
        // While the shares of the new holder are checked, the permit counts as free.
        self.give_back(from);
        let is_taken = self.take(to);
        if !is_taken {
            self.held += 1;
            self.count_of(from.group()).add(from);
        }
        is_taken
    }

    /// The count of a group, which is created if there is none.
    fn count_of(&mut self, group: ClientNetworkGroup) -> &mut GroupCount {
        if self.groups.len() == self.groups.capacity() {
            // Before the map grows, the groups without permits are removed. It grows as well if few were, so that the next groups
            // do not search it again.
            self.groups.retain(|_, count| count.held > 0);
            self.groups.reserve(self.groups.len() + 1);
        }
        self.groups.entry(group).or_default()
    }
}

impl GroupCount {
    fn held_by(&self, network: ClientNetwork) -> usize {
        if network.is_whole_group() {
            return self.held;
        }
        self.networks.get(&network).copied().unwrap_or_default()
    }

    fn add(&mut self, network: ClientNetwork) {
        self.held += 1;
        if !network.is_whole_group() {
            *self.networks.entry(network).or_default() += 1;
        }
    }

    fn remove(&mut self, network: ClientNetwork) {
        self.held = self.held.saturating_sub(1);
        if !network.is_whole_group()
            && let Entry::Occupied(mut held) = self.networks.entry(network)
        {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

/// A [`FairShare`] behind a lock. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct FairLimit(Arc<Mutex<FairShare>>);

/// One permit of a client network. Dropping it returns the permit.
#[derive(Debug)]
pub(crate) struct FairPermit {
    network: ClientNetwork,
    limit: FairLimit,
}

impl FairLimit {
    /// Creates `limit` permits.
    pub(crate) fn new(limit: usize, rule: ShareRule) -> Self {
        Self(Arc::new(Mutex::new(FairShare::new(limit, rule))))
    }

    /// The number of permits held.
    pub(crate) fn held(&self) -> usize {
        self.0.lock().held()
    }

    /// Returns a permit for `network`, or `None` as [`FairShare::take`] does.
    pub(crate) fn try_acquire(&self, network: ClientNetwork) -> Option<FairPermit> {
        self.0.lock().take(network).then(|| FairPermit {
            network,
            limit: self.clone(),
        })
    }
}

impl FairPermit {
    /// Counts the permit for `network` from now on. Returns `false`, and changes nothing, if that network or its group has its
    /// share.
    #[must_use]
    pub(crate) fn reassign(&mut self, network: ClientNetwork) -> bool {
        let is_reassigned = self.limit.0.lock().pass(self.network, network);
        if is_reassigned {
            self.network = network;
        }
        is_reassigned
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        self.limit.0.lock().give_back(self.network);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::addr::ClientAddr;

    fn network(text: &str) -> ClientNetwork {
        ClientAddr::new(text.parse().unwrap()).network()
    }

    fn subnet(group: u8, number: u16) -> ClientNetwork {
        network(&format!("2001:db8:{group}:{number:x}::1"))
    }

    #[test]
    fn a_network_has_its_share_and_returns_it() {
        let mut share = FairShare::new(10, ShareRule::AtMost(2));
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
        assert!(share.groups.values().all(|count| count.networks.is_empty()));
    }

    #[test]
    fn groups_without_permits_are_forgotten() {
        let mut share = FairShare::new(10, ShareRule::AtMost(2));
        for group in 0..10_000_u32 {
            let own = network(&std::net::Ipv4Addr::from(group).to_string());
            assert!(share.take(own));
            share.give_back(own);
        }
        assert!(share.groups.len() < 100, "{}", share.groups.len());
    }

    /// A subscriber with a /48 can hold permits from thousands of its networks, and all clients share the lock.
    #[test]
    fn many_networks_of_a_group_make_no_permit_expensive() {
        let mut share = FairShare::new(20_000, ShareRule::AtMost(1024));
        assert!((0..5000).all(|number| share.take(subnet(1, number))));
        let began = std::time::Instant::now();
        for _ in 0..200_000 {
            assert!(share.take(subnet(1, 6000)));
            share.give_back(subnet(1, 6000));
        }
        let took = began.elapsed();
        assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn no_48_holds_more_than_half_and_a_new_group_always_gets_one() {
        for limit in [1, 2, 3, 64, 10_000] {
            let mut share = FairShare::new(limit, ShareRule::AtMost(1024));
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
        let mut share = FairShare::new(16, ShareRule::AtMost(4));
        for last in 1..=4 {
            let own = network(&format!("192.0.2.{last}"));
            assert!((0..4).all(|_| share.take(own)), "{last}");
        }
        assert!(!share.take(network("192.0.2.5")));
    }

    #[test]
    fn a_permit_that_is_passed_on_counts_for_its_new_holder() {
        let mut share = FairShare::new(4, ShareRule::AtMost(2));
        let (balancer, client) = (network("192.0.2.1"), network("192.0.2.2"));
        assert!(share.take(balancer) && share.pass(balancer, client));
        assert!(share.take(balancer) && share.pass(balancer, client));
        assert!(share.take(balancer));
        assert!(!share.pass(balancer, client), "the client has its share");
        assert!(share.pass(balancer, balancer));
        let of = |share: &FairShare, own: ClientNetwork| share.groups[&own.group()].held_by(own);
        assert_eq!((of(&share, balancer), of(&share, client)), (1, 2));
        assert_eq!(share.held(), 3);
        // The last free permit can be passed on to a client that holds none.
        share.give_back(balancer);
        assert!(share.take(network("192.0.2.3")) && share.take(balancer));
        assert!(share.pass(balancer, network("192.0.2.4")));
        assert_eq!(share.held(), 4);
    }

    #[test]
    fn a_group_with_its_part_of_what_is_free_leaves_room_and_so_do_many_groups() {
        let mut share = FairShare::new(1024, ShareRule::GroupPartOfFree(4));
        let mut fill = |own: ClientNetwork| (0..2000).take_while(|_| share.take(own)).count();
        assert_eq!(fill(subnet(1, 0)), 205, "a fifth of 1024");
        assert_eq!(fill(subnet(1, 2)), 0, "another /64 has no share of its own");
        for last in 1..=20 {
            assert!(fill(network(&format!("192.0.2.{last}"))) > 0, "{last}");
        }
        assert!(share.take(network("198.51.100.1")));
    }

    #[test]
    fn a_permit_returns_itself_and_can_be_reassigned() {
        let limit = FairLimit::new(3, ShareRule::AtMost(2));
        let acquire = |last: u8| limit.try_acquire(network(&format!("192.0.2.{last}")));
        let (one, two) = (acquire(1), acquire(1));
        assert!(one.is_some() && two.is_some());
        assert!(acquire(1).is_none(), "two of one network");
        let mut three = acquire(2).unwrap();
        assert!(acquire(3).is_none(), "three in all");
        assert!(!three.reassign(network("192.0.2.1")));
        assert!(three.reassign(network("192.0.2.3")));
        drop(one);
        let again = acquire(3);
        assert!(again.is_some() && acquire(1).is_none());
        drop((two, three, again));
        assert_eq!(limit.held(), 0);
    }

    fn any_rule() -> impl Strategy<Value = ShareRule> {
        prop_oneof![
            Just(ShareRule::AtMost(3)),
            Just(ShareRule::FewerThanFree),
            Just(ShareRule::GroupPartOfFree(1)),
        ]
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_a_plain_list(
            rule in any_rule(),
            steps in prop::collection::vec((0..3_u8, 0..3_u8, 0..3_u16), 0..200),
        ) {
            let mut share = FairShare::new(12, rule);
            let mut list: Vec<ClientNetwork> = Vec::new();
            for (step, group, number) in steps {
                let own = subnet(group, number);
                match step {
                    0 => if share.take(own) { list.push(own) },
                    1 => if let Some(held) = list.pop() { share.give_back(held) },
                    _ => if let Some(held) = list.last_mut() && share.pass(*held, own) { *held = own },
                }
                prop_assert_eq!(share.held(), list.len());
                let unknown = subnet(group, 9);
                prop_assert_eq!(share.may_take_in(unknown.group()), share.may_take(unknown));
                let of = |wanted| list.iter().filter(|held| **held == wanted).count();
                let count = share.groups.get(&own.group());
                prop_assert_eq!(count.map_or(0, |count| count.held_by(own)), of(own));
                let max = if let ShareRule::AtMost(max) = rule { max } else { 6 };
                prop_assert!(of(own) <= max);
                let of_group = list.iter().filter(|held| held.group() == own.group()).count();
                prop_assert_eq!(share.held_by(own.group()), of_group);
            }
            for held in list {
                share.give_back(held);
            }
            prop_assert!(share.groups.values().all(|count| count.held == 0 && count.networks.is_empty()));
        }
    }
}
