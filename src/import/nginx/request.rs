//! A request whose outcome the two models compare.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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

impl Request {
    /// A GET of a client that no directive names, without credentials.
    pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> Self {
        Self {
            address,
            host: host.to_owned(),
            method: Method::GET,
            path: path.to_owned(),
            client: USUAL_CLIENT.into(),
            valid_in: None,
            has_certificate: false,
        }
    }
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
    let (name, rest) = split_variable(text.strip_prefix('$')?)?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (rest.is_empty() && !name.is_empty() && name.bytes().all(is_name)).then_some(name)
}

/// The name of the variable whose `$` precedes the text, and what follows the variable; `None` if its `}` is missing. As in nginx, the
/// number of a group has one digit.
pub(crate) fn split_variable(text: &str) -> Option<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text.strip_prefix('{') {
        Some(inner) => inner.split_once('}'),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => Some(text.split_at(1)),
        None => Some(text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()))),
    }
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

/// A client that no directive names, unless it names all of them.
pub(crate) const USUAL_CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
