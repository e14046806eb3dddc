//! Lists of networks, as an operator writes them: `["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]`.
//!
//! Read by `config`, asked by whoever treats some addresses differently. What a match means is the caller's.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// Networks, in the order they were written; a copy is as good as free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Networks(Arc<[Cidr]>);

/// One network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a word is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither an address nor an address, a slash and a number.
    #[error(
        "not a network; write an address, or one with the length of its prefix, as in 10.0.0.0/8"
    )]
    Form,
    /// More bits than the address has.
    #[error("the prefix is longer than the address: an IPv4 address has 32 bits, an IPv6 one 128")]
    Prefix,
    /// Bits after the prefix: which network is meant is a guess.
    #[error("the address has bits beyond the prefix; the network is written {0}")]
    HostBits(Cidr),
}

impl Networks {
    /// True when one of them holds `address`. An IPv4 address counts as one however IPv6 writes it (RFC 4291
    /// section 2.5.5.2).
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.holds(address))
    }

    /// How many leading bits the narrowest network that holds `address` has.
    pub fn longest(&self, address: IpAddr) -> Option<u8> {
        let address = address.to_canonical();
        let holding = self.0.iter().filter(|network| network.holds(address));
        holding.map(|network| network.prefix).max()
    }

    /// True when the networks together hold at least half of all IPv4 addresses, or half of the global IPv6 unicast
    /// addresses (2000::/3): then they are no choice of some clients, in however many pieces they are written.
    pub fn cover_most_addresses(&self) -> bool {
        let global = Cidr::new(IpAddr::V6(Ipv6Addr::from(0x2000_u128 << 112)), 3);
        let (first, last) = global.range();
        self.count(true, 0, u128::from(u32::MAX)) >= 1 << 31
            || self.count(false, first, last) >= (last - first).div_ceil(2)
    }

    /// How many addresses of one kind, from `first` to `last`, are in the networks.
    fn count(&self, is_ipv4: bool, first: u128, last: u128) -> u128 {
        let of_kind = |network: &&Cidr| network.address.is_ipv4() == is_ipv4;
        let mut ranges: Vec<_> = self
            .0
            .iter()
            .filter(of_kind)
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

    /// True when there is none.
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
    /// `address` has no bit beyond `prefix`, or none that counts.
    fn new(address: IpAddr, prefix: u8) -> Self {
        let address = masked(address, prefix);
        Self { address, prefix }
    }

    /// Its first and its last address as numbers.
    fn range(self) -> (u128, u128) {
        let (first, bits) = match self.address {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let host = bits - u32::from(self.prefix);
        let span = 1_u128.checked_shl(host).map_or(u128::MAX, |size| size - 1);
        (first, first | span)
    }

    /// `address` is canonical.
    fn holds(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(number(prefix).ok_or(Error::Form)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| Error::Form)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(Error::Prefix);
        }
        let cidr = canonical(address, prefix);
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

/// A network inside `::ffff:0:0/96` is an IPv4 one; peers are compared in that form.
fn canonical(address: IpAddr, prefix: u8) -> Cidr {
    match (address, address.to_canonical(), prefix.checked_sub(96)) {
        (IpAddr::V6(_), mapped @ IpAddr::V4(_), Some(prefix)) => Cidr::new(mapped, prefix),
        _ => Cidr::new(address, prefix),
    }
}

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

/// Digits alone, without a leading zero: `parse` takes a sign, too.
fn number(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    (plain && !padded).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(words: &[&str]) -> Networks {
        words
            .iter()
            .map(|word| word.parse::<Cidr>().unwrap())
            .collect()
    }

    #[test]
    fn an_address_is_in_its_network_and_no_other() {
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
    fn a_prefix_of_nothing_holds_its_own_kind_only() {
        let four = networks(&["0.0.0.0/0"]);
        assert!(four.contains("203.0.113.9".parse().unwrap()));
        assert!(four.contains("::ffff:203.0.113.9".parse().unwrap()));
        assert!(!four.contains("2001:db8::1".parse().unwrap()));
        let six = networks(&["::/0"]);
        assert!(six.contains("2001:db8::1".parse().unwrap()));
        assert!(!six.contains("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn a_mapped_network_is_an_ipv4_one() {
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
    fn what_is_no_network_says_why() {
        for word in [
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
            assert_eq!(word.parse::<Cidr>(), Err(Error::Form), "{word:?}");
        }
        assert_eq!("10.0.0.0/33".parse::<Cidr>(), Err(Error::Prefix));
        assert_eq!("::/129".parse::<Cidr>(), Err(Error::Prefix));
        let error = "10.1.2.3/8".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().ends_with("written 10.0.0.0/8"), "{error}");
        assert!("::ffff:10.0.0.1/104".parse::<Cidr>().is_err());
    }

    proptest! {
        #[test]
        fn a_network_holds_what_shares_its_prefix(address: u32, other: u32, prefix in 0u8..=32) {
            let cidr = Cidr::new(IpAddr::V4(address.into()), prefix);
            let same = prefix == 0 || address >> (32 - prefix) == other >> (32 - prefix);
            prop_assert_eq!(cidr.holds(IpAddr::V4(other.into())), same);
            prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
        }

        #[test]
        fn the_same_of_ipv6(address: u128, flipped in 0u32..128, prefix in 0u8..=128) {
            let cidr = Cidr::new(IpAddr::V6(address.into()), prefix);
            let other = address ^ (1 << (127 - flipped));
            prop_assert_eq!(cidr.holds(IpAddr::V6(other.into())), flipped >= u32::from(prefix));
        }

        #[test]
        fn nothing_makes_the_reader_stumble(text in "[0-9a-f:./+]{0,24}") {
            let _ = text.parse::<Cidr>();
        }
    }
}
