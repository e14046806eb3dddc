//! Hosts and authorities: `registry.example.com`, `192.0.2.7`, `[2001:db8::1]:5000`.
//!
//! [`Host`] is a name or an address that an operator configured. [`HostPort`] is the host and the port that a request
//! names in Host, `:authority` or an absolute-form target. [`strip_brackets`] and [`parse_address`] are for callers with
//! a grammar of their own. This module decides nothing about which hosts the proxy serves.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::text;

/// A name or an address, without a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name in lower case, without the trailing dot of the DNS root.
    Name(String),
    /// An address. An IPv4-mapped IPv6 address is stored as the IPv4 address.
    Address(IpAddr),
}

/// Writes an IPv6 address in brackets, as a URL does.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// The host and the port that a request names (RFC 9110 section 7.2), in the form in which hosts are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// A name in lower case without a trailing dot, or an address; an IPv6 address in its shortest form and without
    /// brackets. The host is kept as text, because sites are found by this text for every request.
    pub(crate) host: String,
    /// The port, if the authority has one.
    pub(crate) port: Option<u16>,
}

impl HostPort {
    /// Parses `host[:port]`, narrowed to the hosts that a certificate can name: no user information, no percent escape, no
    /// IPv6 zone, no empty label.
    ///
    /// The trailing dot of the DNS root is allowed and dropped. An empty port counts as no port (RFC 3986 section 3.2.3:
    /// `port = *DIGIT`). Port 0 is invalid.
    pub(crate) fn parse(authority: &str) -> Option<Self> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => split_ipv6(rest)?,
            None => split_name(authority)?,
        };
        let port = match port {
            Some("") | None => None,
            Some(digits) => Some(parse_port(digits)?),
        };
        Some(Self { host, port })
    }

    /// Whether both name the same host and port. A missing port is `default_port`, the one of the scheme.
    pub(crate) fn is_same_place(&self, other: &Self, default_port: Option<u16>) -> bool {
        self.host == other.host && self.port.or(default_port) == other.port.or(default_port)
    }
}

/// The host without the brackets of an IPv6 literal. A text that is not in brackets is returned as it is.
pub(crate) fn strip_brackets(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// Returns a host in the form in which hosts are compared: in lower case, without a trailing dot.
pub(crate) fn normalize_host(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The host as a URL has it: an IPv6 address without brackets gets them.
pub(crate) fn with_brackets(host: &str) -> Cow<'_, str> {
    if host.contains(':') && !host.starts_with('[') {
        Cow::Owned(format!("[{host}]"))
    } else {
        Cow::Borrowed(host)
    }
}

/// The authority by which a client addresses a host over https. The port is left out if it is the default, 443.
pub(crate) fn https_authority(host: &str, port: u16) -> String {
    let host = with_brackets(host);
    match port {
        443 => host.into_owned(),
        _ => format!("{host}:{port}"),
    }
}

/// Parses an IP address as a host may be written: `192.0.2.1`, `2001:db8::1` or `[2001:db8::1]`.
pub(crate) fn parse_address(host: &str) -> Option<IpAddr> {
    strip_brackets(host).parse().ok()
}

/// Splits the address from the port in `::1]:5000`, the part of an authority after the opening bracket.
fn split_ipv6(rest: &str) -> Option<(String, Option<&str>)> {
    let (address, port) = rest.split_once(']')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let port = if port.is_empty() {
        None
    } else {
        Some(port.strip_prefix(':')?)
    };
    Some((address.to_string(), port))
}

/// Splits a name or an IPv4 address from its port.
fn split_name(authority: &str) -> Option<(String, Option<&str>)> {
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &[u8]| !label.is_empty() && label.iter().copied().all(is_name_byte);
    // Bytes, because `str::split` prepares a search that is faster for long texts only.
    name.as_bytes()
        .split(|byte| *byte == b'.')
        .all(is_label)
        .then(|| (name.to_ascii_lowercase(), port))
}

/// Whether a byte may be part of a label. Underscores are usual in the names of container networks.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Parses a port from 1 to 65535 of at most five digits.
fn parse_port(digits: &str) -> Option<u16> {
    if digits.len() > MAX_PORT_DIGITS {
        return None;
    }
    text::parse_decimal(digits).filter(|port| *port != 0)
}

/// The number of digits in 65535.
const MAX_PORT_DIGITS: usize = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_https_authority_has_brackets_and_a_port_where_they_are_needed() {
        for (host, port, expected) in [
            ("docker.example.com", 443, "docker.example.com"),
            ("docker.example.com", 8443, "docker.example.com:8443"),
            ("2001:db8::1", 443, "[2001:db8::1]"),
            ("2001:db8::1", 8443, "[2001:db8::1]:8443"),
            ("[2001:db8::1]", 8443, "[2001:db8::1]:8443"),
        ] {
            assert_eq!(https_authority(host, port), expected);
        }
    }

    fn parse(authority: &str) -> Option<(String, Option<u16>)> {
        HostPort::parse(authority).map(|authority| (authority.host, authority.port))
    }

    #[test]
    fn authorities_are_normalized() {
        for (authority, host, port) in [
            ("Registry.Example.COM", "registry.example.com", None),
            ("registry.example.com.", "registry.example.com", None),
            ("registry_1:5000", "registry_1", Some(5000)),
            (
                "registry.example.com.:443",
                "registry.example.com",
                Some(443),
            ),
            ("registry:", "registry", None),
            ("registry:00443", "registry", Some(443)),
            ("192.0.2.7:80", "192.0.2.7", Some(80)),
            ("[2001:DB8:0::1]", "2001:db8::1", None),
            ("[2001:db8::1]:5000", "2001:db8::1", Some(5000)),
            ("[::1]:", "::1", None),
        ] {
            assert_eq!(
                parse(authority),
                Some((host.to_owned(), port)),
                "{authority}"
            );
        }
    }

    #[test]
    fn other_texts_are_not_authorities() {
        for authority in [
            "",
            ".",
            ":443",
            "a..b",
            ".a",
            "a b",
            "a/b",
            "a%62",
            "user@a",
            "a:0",
            "a:65536",
            "a:000443",
            "a:+443",
            "a:443:443",
            "::1",
            "[::1",
            "[::1]443",
            "[::1]::443",
            "[fe80::1%eth0]",
            "[192.0.2.7]",
            "[a]",
            "ä.example.com",
        ] {
            assert_eq!(parse(authority), None, "{authority}");
        }
    }

    #[test]
    fn a_missing_port_is_the_default_port() {
        let authority = |text| HostPort::parse(text).unwrap();
        let plain = authority("a.example.com");
        assert!(plain.is_same_place(&authority("A.example.com:443"), Some(443)));
        assert!(plain.is_same_place(&authority("a.example.com."), None));
        assert!(!plain.is_same_place(&authority("a.example.com:443"), Some(80)));
        assert!(!plain.is_same_place(&authority("a.example.com:443"), None));
        assert!(!plain.is_same_place(&authority("b.example.com"), Some(443)));
    }

    #[test]
    fn brackets_are_stripped_in_pairs() {
        for (host, stripped) in [
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("[::1", "[::1"),
            ("::1]", "::1]"),
            ("a", "a"),
            ("", ""),
        ] {
            assert_eq!(strip_brackets(host), stripped, "{host}");
        }
        assert_eq!(parse_address("[::1]"), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(parse_address("192.0.2.7"), Some([192, 0, 2, 7].into()));
        assert_eq!(parse_address("localhost"), None);
    }

    #[test]
    fn hosts_are_written_as_in_a_url() {
        for (host, text) in [
            (Host::Name("a.example.com".to_owned()), "a.example.com"),
            (Host::Address([192, 0, 2, 7].into()), "192.0.2.7"),
            (Host::Address(Ipv6Addr::LOCALHOST.into()), "[::1]"),
        ] {
            assert_eq!(host.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_normalized_host_is_parsed_to_itself(text in "[\\[\\]a-cA:.0-9@,_-]{0,12}|\\PC{0,8}") {
            if let Some(authority) = HostPort::parse(&text) {
                let host = &authority.host;
                let again = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                prop_assert_eq!(HostPort::parse(&again), Some(HostPort { port: None, ..authority }));
            }
        }
    }
}
