//! The client of a request, the scheme that it used, and the fields that tell the upstream about both.
//!
//! `service` creates a [`ClientInfo`] for each request, before any header field is removed, and sets `REQUEST_ID` and the API
//! version on every response. `forward` writes the fields of the upstream request from the [`ClientInfo`].
//!
//! `X-Forwarded-For` and `X-Forwarded-Proto` are read only if the other end of the connection is a trusted proxy.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::net::addr::ClientAddr;
use crate::net::cidr::Networks;
use crate::net::host::parse_address;

/// The client of a request: the other end of the connection, or the client that a trusted proxy names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The address that the proxy takes for the client's.
    pub client: ClientAddr,
    /// The scheme that the client uses, `https` or `http`.
    pub scheme: &'static str,
    real_ip: HeaderValue,
    /// `None` if the value equals `real_ip`.
    forwarded_for: Option<HeaderValue>,
}

impl ClientInfo {
    /// Determines the client of a request with `headers`.
    ///
    /// `peer` is the other end of the connection (or the client in its PROXY header), `peer_field` the [field
    /// value](ClientAddr::header_value) of its address, which the connection has computed once, and `scheme` the scheme of the
    /// connection. `trusted` are the networks of trusted proxies; `None` if the peer itself is not trusted.
    pub fn new(
        peer: ClientAddr,
        peer_field: &HeaderValue,
        scheme: &'static str,
        headers: &HeaderMap,
        trusted: Option<&Networks>,
    ) -> Self {
        let Some(trusted) = trusted else {
            return Self {
                client: peer,
                scheme,
                real_ip: peer_field.clone(),
                forwarded_for: None,
            };
        };
        let fields: Vec<_> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .map(HeaderValue::as_bytes)
            .filter(|field| !field.trim_ascii().is_empty())
            .collect();
        let received = fields.join(b", ".as_slice());
        let client = rightmost_untrusted(peer, &received, trusted);
        Self {
            client,
            scheme: forwarded_scheme(headers).unwrap_or(scheme),
            real_ip: client.header_value(),
            forwarded_for: append_peer(received, peer),
        }
    }

    /// The value of `X-Real-IP` for the upstream: the address of the client.
    pub(crate) fn real_ip(&self) -> &HeaderValue {
        &self.real_ip
    }

    /// The value of `X-Forwarded-For` for the upstream: the received value with the peer appended.
    pub(crate) fn forwarded_for(&self) -> &HeaderValue {
        self.forwarded_for.as_ref().unwrap_or(&self.real_ip)
    }
}

/// Returns the rightmost address in the received `X-Forwarded-For` that is not trusted.
///
/// Each proxy appends the address that it saw, so everything to the left of that address is only a claim of the client. If an
/// element is no address, the search ends: the proxy that appended it is the last party that is known.
fn rightmost_untrusted(peer: ClientAddr, received: &[u8], trusted: &Networks) -> ClientAddr {
    let mut client = peer;
    let elements = received
        .rsplit(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii);
    for element in elements.filter(|element| !element.is_empty()) {
        let Some(address) = parse_element(element) else {
            break;
        };
        client = ClientAddr::new(address);
        if !trusted.contains(address) {
            break;
        }
    }
    client
}

/// Parses an element of `X-Forwarded-For`. Some proxies write brackets around an IPv6 address, or append the port.
fn parse_element(element: &[u8]) -> Option<IpAddr> {
    let element = std::str::from_utf8(element).ok()?;
    parse_address(element).or_else(|| {
        let with_port = element.parse::<SocketAddr>().ok()?;
        Some(with_port.ip())
    })
}

/// The scheme in `X-Forwarded-Proto`. `None` if there is not exactly one field, or if its value is neither `http` nor `https`.
fn forwarded_scheme(headers: &HeaderMap) -> Option<&'static str> {
    let mut fields = headers.get_all(FORWARDED_PROTO).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return None;
    };
    ["https", "http"]
        .into_iter()
        .find(|scheme| field.as_bytes().eq_ignore_ascii_case(scheme.as_bytes()))
}

fn append_peer(mut received: Vec<u8>, peer: ClientAddr) -> Option<HeaderValue> {
    if received.is_empty() {
        return None;
    }
    received.extend_from_slice(format!(", {peer}").as_bytes());
    HeaderValue::from_bytes(&received).ok()
}

/// Sets the API version of a response under `/v2/` to exactly one value: the first one that the upstream sent, or
/// `registry/2.0`.
pub(crate) fn set_api_version(headers: &mut HeaderMap) {
    let mut values = headers.get_all(API_VERSION).iter();
    let received = values.next().filter(|value| !value.is_empty());
    if received.is_some() && values.next().is_none() {
        return;
    }
    let received = received.cloned();
    headers.insert(API_VERSION, received.unwrap_or(REGISTRY_2_0));
}

/// Marks the digest in a response under `/v2/` such that HPACK sends it as a literal that is never indexed (RFC 7541 section
/// 6.2.3). Each layer has another digest: with an entry for each, the table of an HTTP/2 connection would grow by 10 KiB, which
/// the connection keeps while it is idle.
pub(crate) fn keep_digest_out_of_index(headers: &mut HeaderMap) {
    if let Some(digest) = headers.get_mut(CONTENT_DIGEST) {
        digest.set_sensitive(true);
    }
}

/// The addresses of the client and of the proxies that forwarded the request.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme that the client uses.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The address of the client alone.
pub(crate) const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The id of the request, which connects the logs of the proxy, the upstream and the client.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The digest of the blob or the manifest in a response.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The version of the registry API. A registry sends it with every response, and old docker clients expect it there.
pub(crate) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
const REGISTRY_2_0: HeaderValue = HeaderValue::from_static("registry/2.0");

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Networks {
        ["10.0.0.0/8", "2001:db8::/32"]
            .iter()
            .map(|network| network.parse::<crate::net::cidr::Cidr>().unwrap())
            .collect()
    }

    fn client_info(peer: &str, fields: &[(&str, &str)]) -> ClientInfo {
        let headers = fields
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, value.parse().unwrap())
            })
            .collect();
        let peer = ClientAddr::new(peer.parse().unwrap());
        let networks = trusted();
        let trusted = networks.contains(peer.ip()).then_some(&networks);
        ClientInfo::new(peer, &peer.header_value(), "https", &headers, trusted)
    }

    #[test]
    fn the_client_is_the_rightmost_untrusted_address() {
        for (peer, forwarded_for, client) in [
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
            let info = client_info(peer, &[("x-forwarded-for", forwarded_for)]);
            assert_eq!(
                info.client.to_string(),
                client,
                "{forwarded_for} from {peer}"
            );
        }
    }

    #[test]
    fn fields_are_joined_and_the_peer_is_appended() {
        let fields = [
            ("x-forwarded-for", "a, 192.0.2.7"),
            ("x-forwarded-for", "10.0.0.2"),
        ];
        let chain = |peer| {
            client_info(peer, &fields)
                .forwarded_for()
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(chain("10.0.0.1"), "a, 192.0.2.7, 10.0.0.2, 10.0.0.1");
        assert_eq!(chain("192.0.2.9"), "192.0.2.9");
        let blank = client_info("10.0.0.1", &[("x-forwarded-for", " ")]);
        assert_eq!(blank.forwarded_for(), "10.0.0.1");
    }

    #[test]
    fn the_scheme_is_taken_from_one_field_of_a_trusted_peer() {
        let proto = |value| ("x-forwarded-proto", value);
        assert_eq!(client_info("10.0.0.1", &[proto("http")]).scheme, "http");
        assert_eq!(client_info("10.0.0.1", &[proto("HTTPS")]).scheme, "https");
        for invalid in [
            &[proto("http, https")][..],
            &[proto("http"), proto("http")],
            &[proto("gopher")],
            &[proto("")],
        ] {
            assert_eq!(
                client_info("10.0.0.1", invalid).scheme,
                "https",
                "{invalid:?}"
            );
        }
        assert_eq!(client_info("192.0.2.9", &[proto("http")]).scheme, "https");
    }

    #[test]
    fn the_api_version_is_there_exactly_once() {
        let cases: [&[(&str, &'static str)]; 4] = [
            &[],
            &[("docker-distribution-api-version", "registry/2.0")],
            &[("docker-distribution-api-version", "")],
            &[
                ("docker-distribution-api-version", "registry/2.0"),
                ("Docker-Distribution-API-Version", "registry/2.0"),
            ],
        ];
        for fields in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                let name: HeaderName = name.parse().unwrap();
                headers.append(name, HeaderValue::from_static(value));
            }
            set_api_version(&mut headers);
            let values: Vec<_> = headers.get_all(API_VERSION).iter().collect();
            assert_eq!(values, ["registry/2.0"]);
        }
    }
}
