//! A request whose outcome the two models compare.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::Method;

/// A request, as far as its outcome depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The local address to which the client connects.
    pub address: SocketAddr,
    /// The host in lower case, without a port.
    pub host: String,
    /// The method.
    pub method: Method,
    /// The canonical path: decoded, without dot segments and empty segments.
    pub path: String,
    /// The address of the client.
    pub client: IpAddr,
    /// The password file in which the credentials of the request are valid; `None` for a request without credentials.
    pub valid_in: Option<String>,
    /// Whether the client presents a valid certificate.
    pub has_certificate: bool,
}

/// A property of a request that the probes vary and that a variable of nginx has as its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestProperty {
    Host,
    Method,
    /// The current path, decoded.
    Path,
    /// The path as the client sent it, with its escapes and its query.
    Target,
    Client,
}

impl RequestProperty {
    /// The property that a text stands for, if it is the variable of a property and nothing else.
    pub(crate) fn of_variable(text: &str) -> Option<Self> {
        Some(match variable_name(text)? {
            "host" | "http_host" => Self::Host,
            "request_method" => Self::Method,
            "uri" | "document_uri" => Self::Path,
            "request_uri" => Self::Target,
            "remote_addr" => Self::Client,
            _ => return None,
        })
    }

    /// Whether each of the values is that of a probe, or of no request.
    pub(crate) fn has_probes_for(self, values: &[String]) -> bool {
        let has = |value: &String| match self {
            Self::Method | Self::Path => true,
            Self::Target => {
                let is_sent_as_it_is =
                    |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,=:@".contains(&byte);
                value.bytes().all(is_sent_as_it_is)
            }
            // The probes have no ports.
            Self::Host => value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
            Self::Client => value
                .parse::<IpAddr>()
                .is_ok_and(|address| address == address.to_canonical()),
        };
        values.iter().all(has)
    }
}

/// The name of a variable, if a text is one variable and nothing else: `$name` or `${name}`.
pub(crate) fn variable_name(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let inner = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'));
    let name = inner.unwrap_or(name);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (!name.is_empty() && name.bytes().all(is_name)).then_some(name)
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method, host, path, ..
        } = self;
        write!(f, "{method} {host}{path}")?;
        match &self.valid_in {
            Some(file) => write!(f, " with a user of {file}"),
            None => f.write_str(" without a password"),
        }
    }
}
