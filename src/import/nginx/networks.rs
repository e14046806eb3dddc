//! `allow` and `deny` as a route's keys, and networks as the proxy.toml writes them.
//!
//! Called by `access` and `process`. nginx takes the first rule that fits, the gate the longest prefix: a rule that an
//! earlier one covers never counts in nginx, and without those both orders say the same.

use std::net::IpAddr;

use crate::import::nginx::draft::Line;
use crate::import::nginx::scope::Scope;

/// An address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    length: u32,
    /// Whether the length was written.
    is_network: bool,
}

/// The rules of a place, up to the first one for all.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// Whether each lets in.
    rules: Vec<(bool, Network)>,
    /// Whether there is a `deny all`.
    ends_in_deny: bool,
}

impl Networks {
    /// What holds in a place, or why it cannot be read.
    pub(super) fn of(scope: &Scope<'_>) -> Result<Self, String> {
        let mut networks = Self::default();
        for rule in scope.any_of(&["allow", "deny"]) {
            let is_allow = rule.name == "allow";
            match rule.first() {
                "all" => {
                    networks.ends_in_deny = !is_allow;
                    break;
                }
                "unix:" => {}
                text => {
                    let network = Network::read(text)
                        .ok_or_else(|| format!("{} names no network", rule.name))?;
                    if !networks
                        .rules
                        .iter()
                        .any(|(_, known)| known.covers(network))
                    {
                        networks.rules.push((is_allow, network));
                    }
                }
            }
        }
        Ok(networks)
    }

    /// Whether no address is good.
    pub(super) fn is_nobody(&self) -> bool {
        self.ends_in_deny && !self.rules.iter().any(|(is_allow, _)| *is_allow)
    }

    /// The keys; none when everybody may come in, or nobody.
    pub(super) fn lines(&self) -> Vec<Line> {
        let of_kind = |kind: bool| {
            let rules = self
                .rules
                .iter()
                .filter(move |(is_allow, _)| *is_allow == kind);
            rules
                .map(|(_, network)| network.written())
                .collect::<Vec<_>>()
        };
        let (mut allow, deny) = (of_kind(true), of_kind(false));
        if !self.ends_in_deny {
            if deny.is_empty() {
                return Vec::new();
            }
            // With an allow, who is in neither list is refused.
            if !allow.is_empty() {
                allow.push("all".to_owned());
            }
        } else if allow.is_empty() {
            return Vec::new();
        }
        let lists = [("allow", allow), ("deny", deny)];
        let written = lists.into_iter().filter(|(_, list)| !list.is_empty());
        written.map(|(key, list)| Line::list(key, list)).collect()
    }
}

impl Network {
    /// With the bits behind its length cleared, as nginx does.
    fn read(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let found = length.unwrap_or(longest);
        (found <= longest).then(|| Self {
            address: cleared(address, found),
            length: found,
            is_network: length.is_some(),
        })
    }

    fn covers(self, other: Self) -> bool {
        let is_same_family = self.address.is_ipv4() == other.address.is_ipv4();
        is_same_family
            && self.length <= other.length
            && cleared(other.address, self.length) == self.address
    }

    fn written(self) -> String {
        if self.is_network {
            return format!("{}/{}", self.address, self.length);
        }
        self.address.to_string()
    }
}

fn cleared(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let rest = 32_u32.saturating_sub(length);
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let rest = 128_u32.saturating_sub(length);
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// As the proxy.toml writes it; nothing for a name or a socket.
pub(super) fn network(text: &str) -> Option<String> {
    Network::read(text).map(Network::written)
}
