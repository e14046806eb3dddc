//! Networks in CIDR notation, as an operator writes them: `["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]`.
//!
//! `config` parses the networks. `route.allow` and `route.deny`, `listen.proxy_protocol` and `listen.trusted_proxies` are
//! [`Networks`]; the users of these lists decide what a match means. `tidegate unblock` takes a single [`Cidr`].

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use crate::text::parse_canonical_decimal;

/// Networks in the order in which they were written. Copies share one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Networks(Arc<[Cidr]>);

/// One network: an address and the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// The reason why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is neither an address nor an address, a slash and a number.
    #[error(
        "not a network; write an address, or one with the length of its prefix, as in 10.0.0.0/8"
    )]
    Malformed,
    /// The prefix has more bits than the address.
    #[error(
        "the prefix is longer than the address: an IPv4 address has 32 bits, an IPv6 address 128"
    )]
    PrefixTooLong,
    /// The address has bits after the prefix, so it is unclear which network is meant.
    #[error("the address has bits beyond the prefix; the network is written {0}")]
    HostBits(Cidr),
}

impl Networks {
    /// Whether one of the networks contains `address`. An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) counts as the
    /// IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// The prefix length of the narrowest network that contains `address`.
    pub fn longest_prefix(&self, address: IpAddr) -> Option<u8> {
        let address = address.to_canonical();
        let containing = self.0.iter().filter(|network| network.contains(address));
        containing.map(|network| network.prefix).max()
    }

    /// Whether the networks together contain at least half of all IPv4 addresses, or half of the global IPv6 unicast
    /// addresses (2000::/3). Such a list does not select some clients, however many pieces it is written in.
    pub fn cover_most_addresses(&self) -> bool {
        let global_unicast = Cidr::new(IpAddr::V6(Ipv6Addr::from(0x2000_u128 << 112)), 3);
        let (first, last) = global_unicast.range();
        self.count(true, 0, u128::from(u32::MAX)) >= 1 << 31
            || self.count(false, first, last) >= (last - first).div_ceil(2)
    }

    /// Counts the addresses of one IP version, from `first` to `last`, that are in at least one of the networks.
    fn count(&self, is_ipv4: bool, first: u128, last: u128) -> u128 {
        let of_version = |network: &&Cidr| network.address.is_ipv4() == is_ipv4;
        let mut ranges: Vec<_> = self
            .0
            .iter()
            .filter(of_version)
            .map(|network| network.range())
            .collect();
        ranges.sort_unstable();
        let (mut count, mut next) = (0, first);
        for (from, to) in ranges {
            let (from, to) = (from.max(next), to.min(last));
            if from <= to {
                count += to - from + 1;
                next = to + 1;
            }
        }
        count
    }

    /// Whether the list has no network.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Cidr> for Networks {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl Cidr {
    /// Creates the network of `address`. Bits of `address` after the prefix are cleared.
    fn new(address: IpAddr, prefix: u8) -> Self {
        let address = masked(address, prefix);
        Self { address, prefix }
    }

    /// Creates a network as peers are compared with it: a network inside `::ffff:0:0/96` becomes an IPv4 network.
    fn canonical(address: IpAddr, prefix: u8) -> Self {
        match (address, address.to_canonical(), prefix.checked_sub(96)) {
            (IpAddr::V6(_), mapped @ IpAddr::V4(_), Some(prefix)) => Self::new(mapped, prefix),
            _ => Self::new(address, prefix),
        }
    }

    /// Whether the network has an address in common with the network of `address` and `prefix`.
    pub(crate) fn overlaps(self, address: IpAddr, prefix: u8) -> bool {
        let prefix = prefix.min(self.prefix);
        self.address.is_ipv4() == address.is_ipv4()
            && masked(address, prefix) == masked(self.address, prefix)
    }

    /// The length of the prefix.
    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the network is one of IPv4 addresses.
    pub(crate) fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether every address of `other` is an address of this network.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.overlaps(other.address, other.prefix)
    }

    /// The first and the last address of the network as numbers.
    pub(crate) fn range(self) -> (u128, u128) {
        let (first, bits) = match self.address {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let host_bits = bits - u32::from(self.prefix);
        let span = 1_u128
            .checked_shl(host_bits)
            .map_or(u128::MAX, |size| size - 1);
        (first, first | span)
    }

    /// Whether the network contains `address`, which must be canonical.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                let prefix = parse_canonical_decimal::<u8>(prefix).ok_or(Error::Malformed)?;
                (address, Some(prefix))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| Error::Malformed)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(Error::PrefixTooLong);
        }
        let cidr = Self::canonical(address, prefix);
        if masked(address, prefix) != address {
            return Err(Error::HostBits(cidr));
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The address with all bits after the prefix cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32)));
            IpAddr::V4((u32::from(address) & mask.unwrap_or(0)).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128)));
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask.unwrap_or(0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        texts
            .iter()
            .map(|text| text.parse::<Cidr>().unwrap())
            .collect()
    }

    #[test]
    fn an_address_is_contained_in_its_network_only() {
        let networks = networks(&[
            "10.0.0.0/8",
            "192.0.2.7",
            "2001:db8::/32",
            "198.51.100.128/25",
        ]);
        for inside in [
            "10.255.0.1",
            "192.0.2.7",
            "2001:db8:ffff::1",
            "198.51.100.200",
            "::ffff:10.1.2.3",
        ] {
            assert!(networks.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "11.0.0.1",
            "192.0.2.8",
            "2001:db9::1",
            "198.51.100.1",
            "::10.1.2.3",
            "::ffff:11.0.0.1",
        ] {
            assert!(!networks.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(!Networks::default().contains([127, 0, 0, 1].into()));
    }

    #[test]
    fn a_zero_prefix_contains_its_own_ip_version_only() {
        let four = networks(&["0.0.0.0/0"]);
        assert!(four.contains("203.0.113.9".parse().unwrap()));
        assert!(four.contains("::ffff:203.0.113.9".parse().unwrap()));
        assert!(!four.contains("2001:db8::1".parse().unwrap()));
        let six = networks(&["::/0"]);
        assert!(six.contains("2001:db8::1".parse().unwrap()));
        assert!(!six.contains("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn an_ipv4_mapped_network_is_an_ipv4_network() {
        assert_eq!(
            "::ffff:10.0.0.0/104".parse::<Cidr>().unwrap().to_string(),
            "10.0.0.0/8"
        );
        assert_eq!(
            "::ffff:192.0.2.1".parse::<Cidr>().unwrap().to_string(),
            "192.0.2.1/32"
        );
        assert!(networks(&["::ffff:10.0.0.0/104"]).contains([10, 9, 9, 9].into()));
    }

    #[test]
    fn parse_errors_give_the_reason() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/8/8",
            "10.0/8",
            "localhost",
            " 10.0.0.1",
            "10.0.0.0/256",
            "[::1]",
            "fe80::1%eth0",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(Error::Malformed), "{text:?}");
        }
        assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(Error::PrefixTooLong));
        assert_eq!("::/129".parse::<Cidr>(), Err(Error::PrefixTooLong));
        let error = "10.1.2.3/8".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().ends_with("written 10.0.0.0/8"), "{error}");
        assert!("::ffff:10.0.0.1/104".parse::<Cidr>().is_err());
    }

    proptest! {
        #[test]
        fn an_ipv4_network_contains_the_addresses_with_its_prefix(address: u32, other: u32, prefix in 0u8..=32) {
            let cidr = Cidr::new(IpAddr::V4(address.into()), prefix);
            let same = prefix == 0 || address >> (32 - prefix) == other >> (32 - prefix);
            prop_assert_eq!(cidr.contains(IpAddr::V4(other.into())), same);
            prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
        }

        #[test]
        fn an_ipv6_network_contains_the_addresses_with_its_prefix(address: u128, flipped in 0u32..128, prefix in 0u8..=128) {
            let cidr = Cidr::new(IpAddr::V6(address.into()), prefix);
            let other = address ^ (1 << (127 - flipped));
            prop_assert_eq!(cidr.contains(IpAddr::V6(other.into())), flipped >= u32::from(prefix));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:./+]{0,24}") {
            let _ = text.parse::<Cidr>();
        }
    }
}
