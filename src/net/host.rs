//! `name[:port]`, as Host, `:authority` and absolute targets write it.
//!
//! `target` calls it. Decides nothing about which names there are.

use std::net::Ipv6Addr;

use crate::text;

/// A host as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostName {
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

impl HostName {
    /// `name[:port]` of RFC 9110 section 7.2, narrowed to the names a certificate can carry: no userinfo, no escapes,
    /// no zone, no empty label. The dot of the root is allowed and dropped. An empty port is no port (RFC 3986 section
    /// 3.2.3: `port = *DIGIT`).
    pub(crate) fn parse(authority: &str) -> Option<Self> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => split_literal(rest)?,
            None => split_name(authority)?,
        };
        let port = match port {
            Some("") | None => None,
            Some(digits) => Some(parse_port(digits)?),
        };
        Some(Self { host, port })
    }

    /// Whether both name one place, a missing port being the default one of the scheme.
    pub(crate) fn addresses(&self, other: &Self, default_port: Option<u16>) -> bool {
        self.host == other.host && self.port.or(default_port) == other.port.or(default_port)
    }
}

/// `::1]:5000`, the opening bracket gone.
fn split_literal(rest: &str) -> Option<(String, Option<&str>)> {
    let (address, port) = rest.split_once(']')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let port = if port.is_empty() {
        None
    } else {
        Some(port.strip_prefix(':')?)
    };
    Some((address.to_string(), port))
}

fn split_name(authority: &str) -> Option<(String, Option<&str>)> {
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_name_byte);
    name.split('.')
        .all(is_label)
        .then(|| (name.to_ascii_lowercase(), port))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// A port of a request's host; 0 is none.
fn parse_port(digits: &str) -> Option<u16> {
    if digits.len() > MAX_PORT_DIGITS {
        return None;
    }
    text::parse_decimal(digits).filter(|port| *port != 0)
}

/// 65535 has five.
const MAX_PORT_DIGITS: usize = 5;
