//! The settings of an upstream and of its endpoints, and the address of an endpoint.
//!
//! `config` makes these values from `route.upstream` and `limits.upstream_*`. All other files of this module read them. Every
//! duration is the time between two events; none bounds the total time of a transfer.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;

use super::tls::ServerRoots;
use crate::net::host::{strip_brackets, with_brackets};

/// The settings of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The addresses of the upstream: at least one, and at most [`MAX_ENDPOINTS`](super::MAX_ENDPOINTS).
    pub endpoints: Vec<Endpoint>,
    /// How long a request waits for an upstream whose endpoints all refuse connections. The time is counted from the first
    /// refused connection, not from the request: a restart of the upstream costs no request, and during a longer outage
    /// requests fail immediately.
    pub connect_retry: Duration,
    /// The `Host` of requests.
    pub host: HostHeader,
    /// The settings that are the same for every endpoint.
    pub each: EndpointSettings,
}

/// The `Host` that an upstream gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The host that the client addressed, byte for byte.
    #[default]
    Client,
    /// The host and port of the endpoint that gets the request.
    Endpoint,
    /// Always this host.
    Name(HeaderValue),
}

/// The settings of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSettings {
    /// The CAs that may issue the certificate of an `https` endpoint. Without them, every connection to such an endpoint fails.
    pub trust: Option<ServerRoots>,
    /// The name in the TLS handshake with an `https` endpoint, for which its certificate must be valid; `None` for the host of the
    /// endpoint.
    pub server_name: Option<String>,
    /// The time for name resolution, the connects to all addresses, and the TLS handshake together.
    pub connect_timeout: Duration,
    /// How long the upstream may be silent while the proxy waits for it: for a response head after the whole request was
    /// sent, for bytes of a response body, or until the socket accepts more bytes. Time in which the client is slow to send
    /// or to read does not count.
    pub read_timeout: Duration,
    /// The number of requests that may be active at the same time, over all workers, shared fairly by client network. Idle
    /// connections do not count (see `pool`). Requests that wait only for their own client do not count while other
    /// requests are queued (see `request_limit`).
    pub connections: usize,
    /// The number of requests that may be queued for one of `connections`. Client networks take turns.
    pub queue: usize,
    /// How long a request may be queued.
    pub queue_wait: Duration,
    /// A connection that was idle for longer is not used again.
    pub idle: Duration,
    /// The largest accepted response head in bytes. The proxy treats a value above 256 KiB as 256 KiB.
    pub head_size: usize,
}

/// The address of one endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// HTTP over TCP. A host name is resolved for each connection.
    Tcp {
        /// A host name or an IP literal (IPv6 with or without brackets).
        host: String,
        /// The port.
        port: u16,
    },
    /// HTTP over TLS over TCP. The certificate must be valid for the host, or for [`EndpointSettings::server_name`].
    Tls {
        /// A host name or an IP literal (IPv6 with or without brackets).
        host: String,
        /// The port.
        port: u16,
    },
    /// HTTP over a Unix domain socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// The authority component of a URL of this endpoint: `127.0.0.1:5000`, `[::1]:5000`.
    ///
    /// A Unix socket has no authority. Servers that listen on one expect `localhost`.
    pub fn authority(&self) -> String {
        match self.tcp_address() {
            Some((host, port)) => format!("{}:{port}", with_brackets(host)),
            None => "localhost".to_owned(),
        }
    }

    /// The value of a `Host` field for this endpoint: the authority without the default port of the scheme, as a client writes
    /// it that addresses the endpoint. `None` if the host is not legal in a field value.
    pub(crate) fn host_header(&self) -> Option<HeaderValue> {
        let authority = self.authority();
        let default_port = match self {
            Self::Tcp { .. } => ":80",
            Self::Tls { .. } => ":443",
            Self::Unix(_) => "",
        };
        let host = authority.strip_suffix(default_port).unwrap_or(&authority);
        HeaderValue::from_str(host).ok()
    }

    /// Whether the host is a name, whose addresses can change.
    pub(crate) fn is_dns_name(&self) -> bool {
        self.tcp_address()
            .is_some_and(|(host, _)| host.parse::<IpAddr>().is_err())
    }

    /// The host without brackets, and the port. `None` for a Unix socket.
    fn tcp_address(&self) -> Option<(&str, u16)> {
        match self {
            Self::Tcp { host, port } | Self::Tls { host, port } => {
                Some((strip_brackets(host), *port))
            }
            Self::Unix(_) => None,
        }
    }
}

/// Writes the endpoint as the configuration does: `http://127.0.0.1:5000`, `unix:/run/registry.sock`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => write!(f, "http://{}", self.authority()),
            Self::Tls { .. } => write!(f, "https://{}", self.authority()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str) -> Endpoint {
        Endpoint::Tcp {
            host: host.to_owned(),
            port: 5000,
        }
    }

    #[test]
    fn endpoints_have_an_authority_and_a_url() {
        for (host, authority) in [
            ("127.0.0.1", "127.0.0.1:5000"),
            ("registry.local", "registry.local:5000"),
            ("::1", "[::1]:5000"),
            ("[::1]", "[::1]:5000"),
        ] {
            assert_eq!(tcp(host).authority(), authority);
            assert_eq!(tcp(host).to_string(), format!("http://{authority}"));
        }
        let tls = Endpoint::Tls {
            host: "::1".to_owned(),
            port: 443,
        };
        assert_eq!(
            (tls.authority().as_str(), tls.to_string().as_str()),
            ("[::1]:443", "https://[::1]:443")
        );
        let unix = Endpoint::Unix("/run/r.sock".into());
        assert_eq!(
            (unix.authority().as_str(), unix.to_string().as_str()),
            ("localhost", "unix:/run/r.sock")
        );
    }

    #[test]
    fn only_a_name_can_change_its_addresses() {
        assert!(tcp("registry.internal").is_dns_name());
        for literal in ["127.0.0.1", "::1", "[::1]"] {
            assert!(!tcp(literal).is_dns_name(), "{literal}");
        }
        assert!(!Endpoint::Unix("/run/r.sock".into()).is_dns_name());
    }
}
