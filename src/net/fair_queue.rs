//! A bounded queue that serves the waiting client networks in turn.
//!
//! `auth` uses one for password checks, and `upstream` one for the requests that wait for a connection. The queue takes turns
//! on two levels: first between client network groups (an IPv4 address, or an IPv6 /48), then between the client networks
//! (an IPv4 address, or an IPv6 /64) of the group whose turn it is. A subscriber usually receives a whole IPv6 /48 or /56,
//! so turns by /64 alone would let one subscriber have 65,536 of them.
//!
//! The queue is a plain data structure: the caller locks it, wakes up waiting tasks, and removes entries whose owner has
//! given up.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::net::addr::{ClientNetwork, ClientNetworkGroup};

/// Entries of type `T`, each of which belongs to one client network.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    max_len: usize,
    groups: Turns<ClientNetworkGroup, Turns<ClientNetwork, VecDeque<T>>>,
}

impl<T> FairQueue<T> {
    /// Creates an empty queue that holds at most `max_len` entries.
    pub(crate) fn new(max_len: usize) -> Self {
        Self {
            max_len,
            groups: Turns::default(),
        }
    }

    /// The number of entries in the queue.
    pub(crate) fn len(&self) -> usize {
        self.groups.len
    }

    /// Whether the queue holds `max_len` entries.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.max_len
    }

    /// The number of entries of one client network.
    #[cfg(test)]
    pub(crate) fn len_of(&self, network: ClientNetwork) -> usize {
        let group = self.groups.members.get(&network.group());
        group
            .and_then(|networks| networks.members.get(&network))
            .map_or(0, VecDeque::len)
    }

    /// Appends an entry to the entries of `network`.
    ///
    /// A full queue first evicts the newest entry of the largest network in the largest group, if that group or network then
    /// still has at least as many entries as the group or network of the new entry. The evicted entry is returned as
    /// `Ok(Some(_))`.
    ///
    /// # Errors
    /// Returns the new entry if the queue is full and no other network has a larger share.
    pub(crate) fn push(&mut self, network: ClientNetwork, entry: T) -> Result<Option<T>, T> {
        let mut evicted = None;
        if self.is_full() {
            evicted = self.evict_for(network);
            if evicted.is_none() {
                return Err(entry);
            }
        }
        let group = self.groups.enter(network.group());
        group.enter(network).push_back(entry);
        group.len += 1;
        self.groups.len += 1;
        Ok(evicted)
    }

    /// Removes and returns the oldest entry of the network whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.pop_where(|_| true, |_| true).map(|(_, entry)| entry)
    }

    /// Removes and returns the oldest entry of the first network, in the order of turns, that `may_serve` accepts and whose group
    /// `may_serve_group` accepts. A network that is passed over keeps its turn.
    ///
    /// A group that is not accepted is passed over as a whole. It may have thousands of networks, and none of them is looked at.
    pub(crate) fn pop_where(
        &mut self,
        may_serve_group: impl Fn(ClientNetworkGroup) -> bool,
        may_serve: impl Fn(ClientNetwork) -> bool,
    ) -> Option<(ClientNetwork, T)> {
        let position = |networks: &Turns<ClientNetwork, VecDeque<T>>| {
            networks
                .order
                .iter()
                .position(|network| may_serve(*network))
        };
        let groups = &self.groups;
        let mut candidates = groups.order.iter().enumerate();
        let (group_at, at) = candidates.find_map(|(group_at, group)| {
            let networks = groups.members.get(group)?;
            may_serve_group(*group)
                .then(|| position(networks))
                .flatten()
                .map(|at| (group_at, at))
        })?;
        let (group, networks) = self.groups.take_turn(group_at)?;
        let (network, entries) = networks.take_turn(at)?;
        let entry = entries.pop_front()?;
        let is_network_empty = entries.is_empty();
        networks.len -= 1;
        networks.end_turn(network, is_network_empty);
        let is_group_empty = networks.len == 0;
        self.groups.len -= 1;
        self.groups.end_turn(group, is_group_empty);
        Some((network, entry))
    }

    /// The client networks that have entries in the queue, each once.
    pub(crate) fn networks(&self) -> impl Iterator<Item = ClientNetwork> {
        let groups = self.groups.members.values();
        groups.flat_map(|networks| networks.order.iter().copied())
    }

    /// Removes and returns the oldest entry of `network` for which `is_meant` returns `true`, for example of a request whose
    /// client has left.
    pub(crate) fn remove(
        &mut self,
        network: ClientNetwork,
        is_meant: impl FnMut(&T) -> bool,
    ) -> Option<T> {
        self.take_from(network, |entries| {
            let at = entries.iter().position(is_meant)?;
            entries.remove(at)
        })
    }

    /// Removes and returns the entry of `network` that `take` takes.
    fn take_from(
        &mut self,
        network: ClientNetwork,
        take: impl FnOnce(&mut VecDeque<T>) -> Option<T>,
    ) -> Option<T> {
        let group = network.group();
        let networks = self.groups.members.get_mut(&group)?;
        let entries = networks.members.get_mut(&network)?;
        let taken = take(entries)?;
        let is_network_empty = entries.is_empty();
        networks.len -= 1;
        if is_network_empty {
            networks.leave(network);
        }
        let is_group_empty = networks.len == 0;
        self.groups.len -= 1;
        if is_group_empty {
            self.groups.leave(group);
        }
        Some(taken)
    }

    /// Removes the entries for which `keep` returns `false`.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for networks in self.groups.members.values_mut() {
            for entries in networks.members.values_mut() {
                entries.retain(&mut keep);
            }
            networks.drop_empty(VecDeque::len);
        }
        self.groups.drop_empty(|networks| networks.len);
    }

    /// Removes an entry to make room for one of `network`. See [`push`](Self::push).
    fn evict_for(&mut self, network: ClientNetwork) -> Option<T> {
        let own_group = network.group();
        let own_len = self.groups.members.get(&own_group).map_or(0, |own| own.len);
        let groups = self.groups.members.iter();
        let (group, networks) = groups.max_by_key(|(_, networks)| networks.len)?;
        // Entries of another group are compared by group, entries of the same group by network.
        let min_len = if *group == own_group {
            networks.members.get(&network).map_or(0, VecDeque::len)
        } else if networks.len > own_len + 1 {
            0
        } else {
            return None;
        };
        let networks = networks.members.iter();
        let (largest, entries) = networks.max_by_key(|(_, entries)| entries.len())?;
        if *group == own_group && entries.len() <= min_len + 1 {
            return None;
        }
        let largest = *largest;
        self.take_from(largest, VecDeque::pop_back)
    }
}

/// Members that take turns. No member is empty, and `order` names each member once.
#[derive(Debug)]
struct Turns<K, V> {
    members: HashMap<K, V>,
    order: VecDeque<K>,
    /// The number of entries of all members together.
    len: usize,
}

impl<K: Copy + Eq + Hash, V: Default> Turns<K, V> {
    /// The member `key`, which is put at the end of the order if it is new.
    fn enter(&mut self, key: K) -> &mut V {
        self.members.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            V::default()
        })
    }

    /// Takes the member at position `at` out of the order. [`end_turn`](Self::end_turn) must follow.
    fn take_turn(&mut self, at: usize) -> Option<(K, &mut V)> {
        let key = self.order.remove(at)?;
        Some((key, self.members.get_mut(&key)?))
    }

    /// Puts the member at the end of the order, or removes it if it is empty.
    fn end_turn(&mut self, key: K, is_empty: bool) {
        if is_empty {
            self.members.remove(&key);
        } else {
            self.order.push_back(key);
        }
    }

    /// Removes the member together with its turn.
    fn leave(&mut self, key: K) {
        self.members.remove(&key);
        self.order.retain(|other| *other != key);
    }

    /// Removes empty members and counts the entries again.
    fn drop_empty(&mut self, len: impl Fn(&V) -> usize) {
        self.members.retain(|_, member| len(member) > 0);
        self.order.retain(|key| self.members.contains_key(key));
        self.len = self.members.values().map(len).sum();
    }
}

impl<K, V> Default for Turns<K, V> {
    fn default() -> Self {
        Self {
            members: HashMap::new(),
            order: VecDeque::new(),
            len: 0,
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

    fn filled(max_len: usize, entries: &[(&str, &'static str)]) -> FairQueue<&'static str> {
        let mut queue = FairQueue::new(max_len);
        for (address, entry) in entries {
            assert_eq!(queue.push(network(address), *entry), Ok(None), "{entry}");
        }
        queue
    }

    fn drain<T>(mut queue: FairQueue<T>) -> Vec<T> {
        let drained = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(queue.len(), 0);
        assert!(queue.groups.members.is_empty() && queue.groups.order.is_empty());
        drained
    }

    #[test]
    fn networks_take_turns() {
        let queue = filled(
            10,
            &[
                ("192.0.2.1", "a1"),
                ("192.0.2.1", "a2"),
                ("192.0.2.1", "a3"),
                ("192.0.2.2", "b1"),
                ("192.0.2.3", "c1"),
                ("192.0.2.3", "c2"),
            ],
        );
        assert_eq!(drain(queue), ["a1", "b1", "c1", "a2", "c2", "a3"]);
    }

    #[test]
    fn the_networks_of_one_48_share_one_turn_and_take_turns_within_it() {
        let queue = filled(
            10,
            &[
                ("2001:db8:1:1::1", "a1"),
                ("2001:db8:1:1::2", "a2"),
                ("2001:db8:1:2::1", "b1"),
                ("2001:db8:1:3::1", "c1"),
                ("2001:db8:2:1::1", "d1"),
                ("192.0.2.1", "e1"),
                ("192.0.2.1", "e2"),
            ],
        );
        assert_eq!(drain(queue), ["a1", "d1", "e1", "b1", "e2", "c1", "a2"]);
    }

    #[test]
    fn a_full_queue_evicts_from_the_largest_share_only() {
        let mut queue = filled(
            4,
            &[
                ("192.0.2.1", "a1"),
                ("192.0.2.1", "a2"),
                ("192.0.2.1", "a3"),
                ("192.0.2.1", "a4"),
            ],
        );
        let (a, b, c) = (
            network("192.0.2.1"),
            network("192.0.2.2"),
            network("192.0.2.3"),
        );
        assert_eq!(queue.push(a, "a5"), Err("a5"));
        assert_eq!(queue.push(b, "b1"), Ok(Some("a4")));
        assert_eq!(queue.push(b, "b2"), Ok(Some("a3")));
        assert_eq!(queue.push(b, "b3"), Err("b3"));
        assert!(queue.push(c, "c1").is_ok_and(|evicted| evicted.is_some()));
        assert_eq!(queue.len(), 4);
    }

    #[test]
    fn a_48_that_fills_the_queue_with_its_64s_makes_room_for_others() {
        let mut queue = FairQueue::new(256);
        for subnet in 0..256 {
            let own = network(&format!("2001:db8:0:{subnet:x}::1"));
            assert_eq!(queue.push(own, "flood"), Ok(None));
        }
        assert_eq!(
            queue.push(network("2001:db8:0:ffff::1"), "more"),
            Err("more")
        );
        assert_eq!(
            queue.push(network("2001:db8:1::1"), "six"),
            Ok(Some("flood"))
        );
        assert_eq!(queue.push(network("192.0.2.1"), "four"), Ok(Some("flood")));
        let first: Vec<_> = std::iter::from_fn(|| queue.pop()).take(3).collect();
        assert_eq!(first, ["flood", "six", "four"]);
    }

    #[test]
    fn a_network_that_may_not_be_served_keeps_its_turn() {
        let mut queue = filled(
            4,
            &[
                ("192.0.2.1", "a1"),
                ("192.0.2.2", "b1"),
                ("192.0.2.3", "c1"),
            ],
        );
        let (a, b) = (network("192.0.2.1"), network("192.0.2.2"));
        let (served, entry) = queue.pop_where(|_| true, |network| network != a).unwrap();
        assert_eq!((served, entry), (network("192.0.2.2"), "b1"));
        assert_eq!(queue.pop_where(|_| true, |_| false), None);
        assert_eq!(queue.pop_where(|group| group == b.group(), |_| true), None);
        assert_eq!(drain(queue), ["a1", "c1"]);
    }

    #[test]
    fn removed_entries_leave_no_trace() {
        let mut queue = filled(
            4,
            &[
                ("192.0.2.1", "a1"),
                ("192.0.2.1", "a2"),
                ("192.0.2.2", "b1"),
            ],
        );
        assert_eq!(queue.len_of(network("192.0.2.1")), 2);
        queue.retain(|entry| *entry == "a2");
        assert_eq!((queue.len(), queue.len_of(network("192.0.2.2"))), (1, 0));
        assert_eq!(drain(queue), ["a2"]);
    }

    #[test]
    fn a_removed_entry_gives_up_its_turn_when_it_was_the_last_of_its_network() {
        let mut queue = filled(
            4,
            &[
                ("2001:db8:1:1::1", "a1"),
                ("2001:db8:1:2::1", "b1"),
                ("2001:db8:1:2::1", "b2"),
                ("192.0.2.1", "c1"),
            ],
        );
        let (a, b) = (network("2001:db8:1:1::1"), network("2001:db8:1:2::1"));
        assert_eq!(queue.remove(a, |entry| *entry == "b1"), None);
        assert_eq!(queue.remove(a, |entry| *entry == "a1"), Some("a1"));
        assert_eq!(queue.remove(a, |_| true), None);
        assert_eq!(queue.remove(b, |entry| *entry == "b2"), Some("b2"));
        assert_eq!((queue.len(), queue.networks().count()), (2, 2));
        assert_eq!(drain(queue), ["b1", "c1"]);
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_a_plain_list(steps in prop::collection::vec((any::<bool>(), 0_u8..3, 0_u8..3), 0..200)) {
            let mut queue = FairQueue::new(8);
            let mut listed: Vec<(ClientNetwork, usize)> = Vec::new();
            for (number, (is_push, group, subnet)) in steps.into_iter().enumerate() {
                let own = network(&format!("2001:db8:{group}:{subnet}::1"));
                if is_push {
                    match queue.push(own, number) {
                        Ok(evicted) => {
                            listed.retain(|(_, entry)| Some(*entry) != evicted);
                            listed.push((own, number));
                        }
                        Err(_) => prop_assert!(queue.is_full()),
                    }
                } else if let Some((served, entry)) = queue.pop_where(|_| true, |_| true) {
                    let oldest = listed.iter().position(|(network, _)| *network == served);
                    prop_assert_eq!(oldest.map(|at| listed.remove(at)), Some((served, entry)));
                } else {
                    prop_assert!(listed.is_empty());
                }
                prop_assert_eq!(queue.len(), listed.len());
                let own_count = listed.iter().filter(|(network, _)| *network == own).count();
                prop_assert_eq!(queue.len_of(own), own_count);
            }
        }
    }
}
