//! The names a certificate is good for, and the rule by which they cover a host.
//!
//! Made by `chain` from a certificate's subjectAltName; asked by `certs`. The common name is no name here: Go,
//! rustls and every browser ignore it.

use std::fmt;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;

use crate::net::host::parse_address;

/// A name in a certificate's subjectAltName that a server can be reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Lower case, without a trailing dot; `*.x` stands for exactly one label before `x`.
    Dns(String),
    /// An address, which only an address can match (RFC 9525 §6.5).
    Ip(IpAddr),
}

impl Name {
    /// Names of other kinds (mail, URI) are `None`.
    pub(super) fn read(general: &GeneralName<'_>) -> Option<Self> {
        match general {
            GeneralName::DNSName(name) => Some(Self::Dns(normal(name))),
            GeneralName::IPAddress(bytes) => read_address(bytes).map(Self::Ip),
            _ => None,
        }
    }

    /// Whether a client that asked for `host` accepts this name.
    pub(super) fn covers(&self, host: &str) -> bool {
        match (self, parse_address(host)) {
            (Self::Ip(address), Some(literal)) => *address == literal,
            (Self::Dns(name), None) => dns_covers(name, &normal(host)),
            _ => false,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // As the certificate's author wrote it, so nothing that could forge a line of the log.
            Self::Dns(name) => name.escape_debug().fmt(f),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// A host as it is compared: lower case, without a trailing dot.
pub(crate) fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Both in normal form.
fn dns_covers(name: &str, host: &str) -> bool {
    let by_wildcard = || {
        let (label, parent) = host.split_once('.')?;
        Some(!label.is_empty() && name.strip_prefix("*.")? == parent)
    };
    name == host || by_wildcard().unwrap_or(false)
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(name: &str) -> Name {
        Name::Dns(normal(name))
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
    fn an_address_is_covered_by_an_address_only() {
        let loopback = Name::read(&GeneralName::IPAddress(&[127, 0, 0, 1])).unwrap();
        assert!(loopback.covers("127.0.0.1"));
        assert!(!loopback.covers("localhost"));
        assert!(!dns("127.0.0.1").covers("127.0.0.1"));
        let six = Name::Ip("2001:db8::1".parse().unwrap());
        assert!(six.covers("[2001:DB8:0::1]") && six.covers("2001:db8::1"));
        assert_eq!(Name::read(&GeneralName::IPAddress(&[1, 2, 3])), None);
    }

    #[test]
    fn a_name_cannot_forge_a_log_line() {
        assert_eq!(dns("a\nb").to_string(), "a\\nb");
    }
}
