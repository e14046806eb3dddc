//! A request whose outcome the two models compare.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::Method;

/// A request, as far as its outcome depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The local address to which the client connects.
    pub(crate) address: SocketAddr,
    /// The host in lower case, without a port.
    pub(crate) host: String,
    pub(crate) method: Method,
    /// The canonical path: decoded, without dot segments and empty segments.
    pub(crate) path: String,
    pub(crate) client: IpAddr,
    /// The password file in which the credentials of the request are valid; `None` for a request without credentials.
    pub(crate) valid_in: Option<String>,
    /// Whether the client presents a valid certificate.
    pub(crate) has_certificate: bool,
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
