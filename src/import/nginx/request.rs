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
