//! The IP addresses of this machine that other machines can reach.
//!
//! They are read from the kernel's routing table and interface list in `/proc/net` (proc(5)), because none of the
//! dependencies has a safe interface for getifaddrs(3).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of this machine, without loopback and link-local addresses, each once.
pub(crate) fn of_this_machine() -> Vec<IpAddr> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut all = ipv4(&read("/proc/net/fib_trie"));
    all.extend(ipv6(&read("/proc/net/if_inet6")));
    all
}

/// Parses `/proc/net/fib_trie`. A leaf of the trie is an address; the lines below it have its types.
fn ipv4(text: &str) -> Vec<IpAddr> {
    let mut all = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            last = leaf.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.map(IpAddr::V4)
            && !address.is_loopback()
            && !all.contains(&address)
        {
            all.push(address);
        }
    }
    all
}

/// Parses `/proc/net/if_inet6`. A line begins with an address of 32 hexadecimal digits.
fn ipv6(text: &str) -> Vec<IpAddr> {
    let addresses = text.lines().filter_map(|line| {
        let digits = line.split(' ').next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        let address = Ipv6Addr::from_bits(bits);
        let is_reachable = !address.is_loopback() && !address.is_unicast_link_local();
        is_reachable.then_some(IpAddr::V6(address))
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_the_lists_of_the_kernel() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.0.2.0\n        \
                    /24 link UNICAST\n     |-- 192.0.2.2\n        /32 host LOCAL\nLocal:\n     |-- 192.0.2.2\n        \
                    /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(ipv4(trie), ["192.0.2.2".parse::<IpAddr>().unwrap()]);
        let list = "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
                    20010db8000000000000000000000002 04 40 00 82     eth0\n\
                    00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(ipv6(list), ["2001:db8::2".parse::<IpAddr>().unwrap()]);
        assert!(ipv4("").is_empty() && ipv6("what is this").is_empty());
    }

    #[test]
    fn no_loopback_address_is_returned() {
        assert!(
            of_this_machine()
                .iter()
                .all(|address| !address.is_loopback())
        );
    }
}
