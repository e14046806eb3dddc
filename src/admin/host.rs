//! By what name the admin listener was asked: a page in somebody's browser must not ask it by a name of its own that it
//! has pointed to this machine (DNS rebinding).
//!
//! Called by `answer`.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, Uri, header};

/// The host of a request as it is compared: without a port, a name in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RequestHost {
    /// Said by nobody: an old client, which is no browser.
    Nothing,
    Address,
    Name(String),
    /// Twice, or nothing that a host can be called.
    Unclear,
}

impl RequestHost {
    /// Of this request.
    pub(super) fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        let mut fields = headers.get_all(header::HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Self::Unclear;
        }
        // RFC 9112 section 3.2.2: in absolute-form the target counts.
        match (uri.authority(), field.map(|field| field.to_str())) {
            (Some(authority), _) => Self::parse(authority.as_str()),
            (None, None) => Self::Nothing,
            (None, Some(Ok(host))) => Self::parse(host),
            (None, Some(Err(_))) => Self::Unclear,
        }
    }

    fn parse(authority: &str) -> Self {
        if let Some(rest) = authority.strip_prefix('[') {
            let inner = rest.split_once(']').filter(|(_, port)| is_port(port));
            return match inner.map(|(inner, _)| inner.parse::<Ipv6Addr>()) {
                Some(Ok(_)) => Self::Address,
                _ => Self::Unclear,
            };
        }
        let host = match authority.split_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            Some(_) => return Self::Unclear,
            None => authority,
        };
        if host.parse::<IpAddr>().is_ok() {
            return Self::Address;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if host.is_empty() || !host.bytes().all(is_allowed) {
            return Self::Unclear;
        }
        Self::Name(host.to_ascii_lowercase())
    }
}

fn is_port(text: &str) -> bool {
    match text.strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => text.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_told_from_a_name() {
        for address in ["127.0.0.1", "127.0.0.1:9090", "[::1]", "[::1]:9090"] {
            assert_eq!(
                RequestHost::parse(address),
                RequestHost::Address,
                "{address}"
            );
        }
        for (host, name) in [
            ("localhost:9090", "localhost"),
            ("Evil.Example", "evil.example"),
            ("evil.example.:1", "evil.example"),
            // As browsers send it, they have asked for 127.0.0.1.
            ("2130706433", "2130706433"),
        ] {
            assert_eq!(
                RequestHost::parse(host),
                RequestHost::Name(name.to_owned()),
                "{host}"
            );
        }
        for host in [
            "",
            "::1",
            "[::1",
            "[::1]x",
            "a b",
            "a/b",
            "user@localhost",
            "a:b",
        ] {
            assert_eq!(RequestHost::parse(host), RequestHost::Unclear, "{host}");
        }
    }

    #[test]
    fn what_is_said_twice_is_unclear_and_the_target_counts() {
        let mut headers = HeaderMap::new();
        let origin = Uri::from_static("/metrics");
        assert_eq!(RequestHost::of(&origin, &headers), RequestHost::Nothing);
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert_eq!(
            RequestHost::of(&origin, &headers),
            RequestHost::Name("localhost".to_owned())
        );
        let absolute = Uri::from_static("http://evil.example/metrics");
        assert_eq!(
            RequestHost::of(&absolute, &headers),
            RequestHost::Name("evil.example".to_owned())
        );
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert_eq!(RequestHost::of(&origin, &headers), RequestHost::Unclear);
    }

    proptest! {
        #[test]
        fn no_host_panics(host in ".*") {
            let _ = RequestHost::parse(&host);
        }
    }
}
