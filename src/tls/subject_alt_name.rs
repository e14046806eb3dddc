//! The host names and IP addresses in a certificate's subjectAltName, and the rule by which they cover a host.
//!
//! `certificate` parses them, and `certified_pair` compares them with the hosts of a site. The common name of the subject is
//! not considered: Go, rustls and every browser ignore it.

use std::fmt;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;

use crate::net::host::{normalize_host, parse_address};

/// A host name or an IP address in a certificate's subjectAltName extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectAltName {
    /// A DNS name in lower case, without a trailing dot; `*.x` means exactly one label before `x`.
    Dns(String),
    /// An IP address. A host name never matches it (RFC 9525 section 6.5).
    Ip(IpAddr),
}

impl SubjectAltName {
    /// Returns `None` for other kinds of names, such as an e-mail address or a URI.
    pub(super) fn parse(general_name: &GeneralName<'_>) -> Option<Self> {
        match general_name {
            GeneralName::DNSName(name) => Some(Self::Dns(normalize_host(name))),
            GeneralName::IPAddress(bytes) => parse_ip_bytes(bytes).map(Self::Ip),
            _ => None,
        }
    }

    /// Whether a client that connects to `host` accepts this name.
    pub(super) fn covers(&self, host: &str) -> bool {
        match (self, parse_address(host)) {
            (Self::Ip(address), Some(literal)) => *address == literal,
            (Self::Dns(name), None) => dns_name_covers(name, &normalize_host(host)),
            _ => false,
        }
    }
}

impl fmt::Display for SubjectAltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The name is the text of the certificate's author, so escape it: it must not be able to forge a log line.
            Self::Dns(name) => name.escape_debug().fmt(f),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// Compares two normalized names, of which `name` may begin with `*.`.
fn dns_name_covers(name: &str, host: &str) -> bool {
    let by_wildcard = || {
        let (label, parent) = host.split_once('.')?;
        Some(!label.is_empty() && name.strip_prefix("*.")? == parent)
    };
    name == host || by_wildcard().unwrap_or(false)
}

fn parse_ip_bytes(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(name: &str) -> SubjectAltName {
        SubjectAltName::Dns(normalize_host(name))
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        let name = dns("*.Example.com");
        for covered in ["a.example.com", "A.EXAMPLE.COM.", "*.example.com"] {
            assert!(name.covers(covered), "{covered}");
        }
        for other in [
            "example.com",
            "a.b.example.com",
            ".example.com",
            "a.example.org",
            "",
        ] {
            assert!(!name.covers(other), "{other}");
        }
    }

    #[test]
    fn an_ip_address_is_covered_only_by_an_ip_address() {
        let loopback = SubjectAltName::parse(&GeneralName::IPAddress(&[127, 0, 0, 1])).unwrap();
        assert!(loopback.covers("127.0.0.1"));
        assert!(!loopback.covers("localhost"));
        assert!(!dns("127.0.0.1").covers("127.0.0.1"));
        let six = SubjectAltName::Ip("2001:db8::1".parse().unwrap());
        assert!(six.covers("[2001:DB8:0::1]") && six.covers("2001:db8::1"));
        assert_eq!(
            SubjectAltName::parse(&GeneralName::IPAddress(&[1, 2, 3])),
            None
        );
    }

    #[test]
    fn a_name_cannot_forge_a_log_line() {
        assert_eq!(dns("a\nb").to_string(), "a\\nb");
    }
}
