//! Who asks, and over what: the other end of the connection, or whoever a trusted proxy there speaks for.
//!
//! Made by `service` for each request, before any field is taken out. What a peer that is not trusted says about others
//! is not read.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::net::addr::ClientAddr;
use crate::net::cidr::Networks;
use crate::net::host::parse_address;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Who we believe it is.
    pub client: ClientAddr,
    /// What the client speaks, `https` or `http`.
    pub scheme: &'static str,
    /// `X-Real-IP` for the upstream.
    pub(crate) address: HeaderValue,
    /// `X-Forwarded-For` for the upstream; `None` is the client alone.
    pub(crate) chain: Option<HeaderValue>,
}

impl ClientInfo {
    /// `peer` is who the connection is from, `address` the same as [a field's value](ClientAddr::field), and `scheme` what is spoken on it.
    pub fn new(
        peer: ClientAddr,
        address: &HeaderValue,
        scheme: &'static str,
        headers: &HeaderMap,
        trusted: &Networks,
    ) -> Self {
        if !trusted.contains(peer.ip()) {
            return Self {
                client: peer,
                scheme,
                address: address.clone(),
                chain: None,
            };
        }
        let lines: Vec<_> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .map(HeaderValue::as_bytes)
            .filter(|line| !line.trim_ascii().is_empty())
            .collect();
        let said = lines.join(b", ".as_slice());
        let client = rightmost_untrusted(peer, &said, trusted);
        Self {
            client,
            scheme: forwarded_scheme(headers).unwrap_or(scheme),
            address: client.header_value(),
            chain: chain(said, peer),
        }
    }
}

/// From the right, where each proxy appends whom it saw: the first one that is not trusted. What is further left is
/// that one's own word. A word that is no address ends it: the proxy that wrote it is all that is known.
fn rightmost_untrusted(peer: ClientAddr, said: &[u8], trusted: &Networks) -> ClientAddr {
    let mut client = peer;
    let words = said.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    for word in words.filter(|word| !word.is_empty()) {
        let Some(address) = address(word) else {
            break;
        };
        client = ClientAddr::new(address);
        if !trusted.contains(address) {
            break;
        }
    }
    client
}

/// Some proxies add the port, and brackets with it.
fn address(word: &[u8]) -> Option<IpAddr> {
    let word = std::str::from_utf8(word).ok()?;
    parse_address(word).or_else(|| word.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// One word in one field, and no other than these two.
fn forwarded_scheme(headers: &HeaderMap) -> Option<&'static str> {
    let mut fields = headers.get_all(FORWARDED_PROTO).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return None;
    };
    ["https", "http"]
        .into_iter()
        .find(|scheme| field.as_bytes().eq_ignore_ascii_case(scheme.as_bytes()))
}

fn chain(mut said: Vec<u8>, peer: ClientAddr) -> Option<HeaderValue> {
    if said.is_empty() {
        return None;
    }
    said.extend_from_slice(format!(", {peer}").as_bytes());
    HeaderValue::from_bytes(&said).ok()
}

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Networks {
        ["10.0.0.0/8", "2001:db8::/32"]
            .iter()
            .map(|network| network.parse::<crate::net::cidr::Cidr>().unwrap())
            .collect()
    }

    fn asker(peer: &str, fields: &[(&str, &str)]) -> ClientInfo {
        let headers = fields
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, value.parse().unwrap())
            })
            .collect();
        let peer = ClientAddr::new(peer.parse().unwrap());
        ClientInfo::new(peer, &peer.header_value(), "https", &headers, &trusted())
    }

    #[test]
    fn the_client_is_the_rightmost_that_is_not_trusted() {
        for (peer, said, client) in [
            ("10.0.0.1", "192.0.2.7", "192.0.2.7"),
            ("10.0.0.1", "6.6.6.6, 192.0.2.7", "192.0.2.7"),
            (
                "10.0.0.1",
                "6.6.6.6, 192.0.2.7, 10.0.0.2,2001:db8::1",
                "192.0.2.7",
            ),
            ("10.0.0.1", "6.6.6.6,192.0.2.7:4711", "192.0.2.7"),
            (
                "10.0.0.1",
                "[2001:db9::7]:4711, [2001:db8::7]",
                "2001:db9::7",
            ),
            ("10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
            ("10.0.0.1", "192.0.2.7, , ", "192.0.2.7"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", "192.0.2.7, unknown", "10.0.0.1"),
            ("10.0.0.1", "192.0.2.7, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "192.0.2.7 10.0.0.2", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("192.0.2.9", "192.0.2.7", "192.0.2.9"),
            ("192.0.2.9", "10.0.0.1", "192.0.2.9"),
        ] {
            let asker = asker(peer, &[("x-forwarded-for", said)]);
            assert_eq!(asker.client.to_string(), client, "{said} from {peer}");
        }
    }

    #[test]
    fn lines_are_joined_and_the_peer_is_appended() {
        let fields = [
            ("x-forwarded-for", "a, 192.0.2.7"),
            ("x-forwarded-for", "10.0.0.2"),
        ];
        let chain = |peer| {
            asker(peer, &fields)
                .chain
                .map(|chain| chain.to_str().unwrap().to_owned())
        };
        assert_eq!(
            chain("10.0.0.1").as_deref(),
            Some("a, 192.0.2.7, 10.0.0.2, 10.0.0.1")
        );
        assert_eq!(chain("192.0.2.9"), None);
        assert_eq!(asker("10.0.0.1", &[("x-forwarded-for", " ")]).chain, None);
    }

    #[test]
    fn the_scheme_is_one_word_of_a_trusted_peer() {
        let proto = |value| ("x-forwarded-proto", value);
        assert_eq!(asker("10.0.0.1", &[proto("http")]).scheme, "http");
        assert_eq!(asker("10.0.0.1", &[proto("HTTPS")]).scheme, "https");
        for odd in [
            &[proto("http, https")][..],
            &[proto("http"), proto("http")],
            &[proto("gopher")],
            &[proto("")],
        ] {
            assert_eq!(asker("10.0.0.1", odd).scheme, "https", "{odd:?}");
        }
        assert_eq!(asker("192.0.2.9", &[proto("http")]).scheme, "https");
    }
}
