//! The request target: the host that a request addresses, and the path that it asks for.
//!
//! `service` creates a [`Target`] from every request head, before it selects the site and the route. All later code
//! uses the `Target` and does not read the URI or the Host field again. This module knows nothing of sites, routes
//! and registries, and it does not compare the host with the SNI name of the connection.

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use crate::net::host::HostPort;
use crate::percent;

/// The validated target of a request.
#[derive(Clone, Debug)]
pub struct Target {
    uri: Uri,
    host_header: HeaderValue,
    name: HostPort,
    /// The name in the Host field, if an absolute request target overrides it.
    overridden: Option<HostPort>,
    /// The canonical path, if it differs from the path in `uri`.
    path: Option<String>,
}

/// Why the target or the host of a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The target is `*` or `host:port`, the method is CONNECT, or the scheme is neither http nor https.
    #[error("the request target is not a path")]
    Form,
    /// There is neither a Host field nor `:authority`.
    #[error("the request names no host")]
    NoHost,
    /// There is more than one Host field, with equal values or not.
    #[error("the request names its host more than once")]
    SeveralHosts,
    /// The host is not `name[:port]`.
    #[error("the host name is not valid")]
    Host,
    /// In HTTP/1, the absolute request target and the Host field belong to different sites. The response is a 421.
    /// `service` reports this error, since it knows the sites.
    #[error("the request target names another host than the Host header")]
    ForeignAuthority,
    /// In HTTP/2, the Host field differs from `:authority`.
    #[error("the Host header contradicts the request's authority")]
    Contradiction,
    /// The path is invalid, for this reason.
    #[error("the path {0}")]
    Path(&'static str),
    /// The query is invalid, for this reason.
    #[error("the query {0}")]
    Query(&'static str),
}

impl Target {
    /// Parses the URI and the Host field of a request head.
    ///
    /// There is never a fragment: [`Uri`] removes it, so that neither the route nor the upstream depends on it.
    pub fn parse(parts: &Parts) -> Result<Self, Error> {
        check_form(parts)?;
        let AddressedHost {
            host_header,
            overridden,
        } = addressed_host(parts)?;
        let authority = host_header.to_str().map_err(|_| Error::Host)?;
        let name = HostPort::parse(authority).ok_or(Error::Host)?;
        let sent = parts.uri.path();
        // Nearly every path is canonical already. This saves three copies.
        let path = if is_canonical(sent) {
            None
        } else {
            Some(canonical(sent)?)
        };
        check_query(parts.uri.query().unwrap_or_default())?;
        Ok(Self {
            uri: parts.uri.clone(),
            host_header,
            name,
            overridden,
            path,
        })
    }

    /// The authority, `name[:port]`, byte for byte as the client sent it in an absolute request target or in the Host
    /// field.
    pub fn authority(&self) -> &str {
        // `parse` has read it as text.
        self.host_header.to_str().unwrap_or_default()
    }

    /// The [`authority`](Self::authority) as the value of a Host field.
    pub fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }

    /// The name without the port, in a form that can be compared: in lower case, without a trailing dot, and IPv6
    /// addresses in their shortest form without brackets.
    pub fn host(&self) -> &str {
        &self.name.host
    }

    /// The name in the Host field, in the form of [`host`](Self::host), if an absolute request target has another
    /// host or port.
    ///
    /// The request target then takes precedence (RFC 9112 section 3.2.2), if both names belong to the same site.
    pub fn overridden_host(&self) -> Option<&str> {
        self.overridden.as_ref().map(|name| name.host.as_str())
    }

    /// The port in the authority, if there is one.
    pub fn port(&self) -> Option<u16> {
        self.name.port
    }

    /// The path as the client sent it, with its percent-encoding.
    pub fn raw_path(&self) -> &str {
        self.uri.path()
    }

    /// The query as the client sent it, without the `?`.
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// Path and query, byte for byte as the client sent them.
    pub fn path_and_query(&self) -> String {
        match self.query() {
            Some(query) => format!("{}?{query}", self.raw_path()),
            None => self.raw_path().to_owned(),
        }
    }

    /// What follows `prefix`, a canonical path without a slash at its end, in the path as the client sent it: nothing, or a
    /// slash and what follows. `None` if no slash of the request ends a part that is equal to the prefix.
    pub fn strip_prefix(&self, prefix: &str) -> Option<&str> {
        let raw = self.raw_path();
        let ends_there = |rest: &&str| rest.is_empty() || rest.starts_with('/');
        if let Some(rest) = raw.strip_prefix(prefix).filter(ends_there) {
            return Some(rest);
        }
        // Each segment of the path is read once: a client chooses how many there are.
        let mut missing = prefix;
        let mut rest = raw.strip_prefix('/')?;
        loop {
            let end = rest.find('/').unwrap_or(rest.len());
            let (segment, after) = rest.split_at_checked(end)?;
            // An escaped slash divides a segment, too.
            let decoded = to_text(&percent::decode(segment, |_| true).ok()?);
            let mut ends_with_name = false;
            for name in decoded.split('/').map(without_parameters) {
                ends_with_name = !name.is_empty();
                if ends_with_name {
                    missing = missing.strip_prefix('/')?.strip_prefix(name)?;
                }
            }
            if ends_with_name && missing.is_empty() {
                return Some(after);
            }
            rest = after.strip_prefix('/')?;
        }
    }

    /// The canonical path, by which the route is selected: decoded once, with repeated slashes merged, and without
    /// backslashes, `.`, `..` and `;parameters`.
    ///
    /// `%2F` becomes a slash, because servers behind the proxy decode it, too. Bytes that are not UTF-8 stay `%XX`. The
    /// canonical path is only compared; the upstream gets [`raw_path`](Self::raw_path).
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or_else(|| self.uri.path())
    }
}

/// Accepts the origin-form, and the absolute-form with http and https: a reverse proxy cannot serve the other forms
/// of a request target (RFC 9112 section 3.2).
fn check_form(parts: &Parts) -> Result<(), Error> {
    let is_known = match parts.uri.scheme_str() {
        Some(scheme) => default_port(scheme).is_some(),
        // In HTTP/1, an authority without a scheme is the authority-form. In HTTP/2, either may be absent.
        None => parts.version == Version::HTTP_2 || parts.uri.authority().is_none(),
    };
    let is_path = parts.uri.path().starts_with('/');
    if is_known && is_path && parts.method != Method::CONNECT {
        Ok(())
    } else {
        Err(Error::Form)
    }
}

/// The host that a request addresses.
struct AddressedHost {
    /// The authority, as the upstream gets it in the Host field.
    host_header: HeaderValue,
    /// The name in the Host field of HTTP/1, if the absolute request target differs from it.
    overridden: Option<HostPort>,
}

/// Finds the host that a request addresses.
///
/// In HTTP/1, it is in the Host field or in an absolute request target. The latter takes precedence, and replaces the
/// Host field in the request to the upstream (RFC 9112 section 3.2.2). In HTTP/2, it is in `:authority`, and a Host
/// field must agree with it (RFC 9113 section 8.3.1). If both agree, the Host field of HTTP/1 is kept byte for byte.
fn addressed_host(parts: &Parts) -> Result<AddressedHost, Error> {
    let is_http2 = parts.version == Version::HTTP_2;
    let as_header =
        |authority: &Authority| HeaderValue::from_str(authority.as_str()).map_err(|_| Error::Host);
    let (host_header, overridden) = match (parts.uri.authority(), exactly_one_host(&parts.headers)?)
    {
        (None, Some(host)) => (host.clone(), None),
        (Some(authority), None) if is_http2 => (as_header(authority)?, None),
        (_, None) => return Err(Error::NoHost),
        (Some(authority), Some(host)) => {
            let authority_name = parse_name(authority.as_str())?;
            let host_name = parse_host(host)?;
            let port = parts.uri.scheme_str().and_then(default_port);
            match (authority_name.is_same_place(&host_name, port), is_http2) {
                (true, true) => (as_header(authority)?, None),
                (true, false) => (host.clone(), None),
                (false, true) => return Err(Error::Contradiction),
                (false, false) => (as_header(authority)?, Some(host_name)),
            }
        }
    };
    Ok(AddressedHost {
        host_header,
        overridden,
    })
}

/// The Host field, of which there may be only one. (`HeaderMap::get` would return the first of several.)
fn exactly_one_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Error> {
    let mut hosts = headers.get_all(HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        Err(Error::SeveralHosts)
    } else {
        Ok(first)
    }
}

fn parse_host(host: &HeaderValue) -> Result<HostPort, Error> {
    parse_name(host.to_str().map_err(|_| Error::Host)?)
}

fn parse_name(authority: &str) -> Result<HostPort, Error> {
    HostPort::parse(authority).ok_or(Error::Host)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// A quick check that [`canonical`] would accept a path and leave it unchanged. It returns `false` for some paths
/// that are canonical.
fn is_canonical(raw: &str) -> bool {
    let mut previous = 0;
    raw.bytes().all(|byte| {
        let follows_slash = std::mem::replace(&mut previous, byte) == b'/';
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'~');
        is_plain || (byte == b'/' || byte == b'.') && !follows_slash
    })
}

/// Returns the canonical form of a path, as [`Target::path`] describes it.
fn canonical(raw: &str) -> Result<String, Error> {
    if !raw
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\'))
    {
        return Err(Error::Path("contains a character that must be escaped"));
    }
    let segments: Result<Vec<_>, _> = raw.split('/').map(decode_segment).collect();
    let text = segments?.join("/");
    if text.contains(char::is_control) {
        return Err(Error::Path("contains an escaped control character"));
    }
    // Some servers behind the proxy treat a backslash as a slash, others as a character of a name. As a separator, it
    // could lead to another resource than the route was selected for. It is therefore rejected in its percent-encoded
    // form, too.
    if text.contains('\\') {
        return Err(Error::Path("contains an escaped backslash"));
    }
    if text.split('/').any(is_dot_segment) {
        return Err(Error::Path("contains a dot segment"));
    }
    Ok(merge_slashes(&text))
}

/// Decodes what is between two slashes of a path.
///
/// An escaped slash in a parameter is an error. A servlet container removes the parameter before it decodes the path, and the
/// slash with it: for such a server, `/a;x=%2Fb/c` is `/a/c`, and for others it has the segment `b`.
fn decode_segment(raw: &str) -> Result<String, Error> {
    let bytes =
        percent::decode(raw, |_| true).map_err(|_| Error::Path("contains a malformed escape"))?;
    let text = to_text(&bytes);
    match text.split_once(';') {
        Some((_, parameters)) if parameters.contains('/') => {
            Err(Error::Path("contains an escaped slash after a semicolon"))
        }
        _ => Ok(text),
    }
}

/// Converts bytes to text, with every byte that is not UTF-8 percent-encoded.
fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

fn is_dot_segment(segment: &str) -> bool {
    matches!(without_parameters(segment), "." | "..")
}

/// Removes `;parameters` from a segment, as servlet containers do before they resolve a path: for them, `..;x` is
/// `..`, and `/v2;x/` is `/v2/`.
fn without_parameters(segment: &str) -> &str {
    segment.split(';').next().unwrap_or_default()
}

fn merge_slashes(text: &str) -> String {
    let mut merged = String::with_capacity(text.len());
    let segments = || text.split('/').map(without_parameters);
    for segment in segments().filter(|segment| !segment.is_empty()) {
        merged.push('/');
        merged.push_str(segment);
    }
    if segments().next_back() == Some("") {
        merged.push('/');
    }
    merged
}

fn check_query(raw: &str) -> Result<(), Error> {
    let is_plain = raw
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_plain {
        Ok(())
    } else {
        Err(Error::Query("contains a character that must be escaped"))
    }
}

#[cfg(test)]
mod tests;
