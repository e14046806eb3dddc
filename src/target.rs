//! What a request's target and Host say: whom it addresses, and which path it asks for.
//!
//! `service` makes a [`Target`] of every parsed head, before site and route are chosen; nothing behind it reads the
//! URI or the Host again. Knows no site, no route and no registry, and reads neither the connection nor its TLS name.

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use crate::percent;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

use crate::net::host::HostPort;

/// Where a request wants to go, checked once.
#[derive(Clone, Debug)]
pub struct Target {
    uri: Uri,
    header: HeaderValue,
    name: HostPort,
    /// The name in a Host field that the target overrides.
    overridden: Option<HostPort>,
    /// Where it is not the path as sent.
    path: Option<String>,
}

/// Why a head's target or Host cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `*`, `host:port`, CONNECT, or a scheme other than http and https.
    #[error("the request target is not a path")]
    Form,
    /// Neither Host nor `:authority`.
    #[error("the request names no host")]
    NoHost,
    /// More than one Host line, equal or not.
    #[error("the request names its host more than once")]
    SeveralHosts,
    /// Not `name[:port]`.
    #[error("the host name is not valid")]
    Host,
    /// HTTP/1: an absolute target of another site than Host's; answered 421. Told by `service`, which knows the sites.
    #[error("the request target names another host than the Host header")]
    ForeignAuthority,
    /// HTTP/2: Host is there and differs from `:authority`.
    #[error("the Host header contradicts the request's authority")]
    Contradiction,
    /// What is wrong with the path.
    #[error("the path {0}")]
    Path(&'static str),
    /// What is wrong with the query.
    #[error("the query {0}")]
    Query(&'static str),
}

impl Target {
    /// Reads URI and Host of one head.
    ///
    /// A fragment is not seen here: [`Uri`] has cut it off, so neither routing nor the upstream ever meets it.
    pub fn of(parts: &Parts) -> Result<Self, Error> {
        check_form(parts)?;
        let Addressed { header, overridden } = authority(parts)?;
        let authority = header.to_str().map_err(|_| Error::Host)?;
        let name = HostPort::parse(authority).ok_or(Error::Host)?;
        let sent = parts.uri.path();
        // Nearly every path: three copies less.
        let path = if is_canonical(sent) {
            None
        } else {
            Some(canonical(sent)?)
        };
        check_query(parts.uri.query().unwrap_or_default())?;
        Ok(Self {
            uri: parts.uri.clone(),
            header,
            name,
            overridden,
            path,
        })
    }

    /// `name[:port]`, byte for byte as the client sent it: of an absolute target its authority, else the Host field.
    pub fn authority(&self) -> &str {
        // It was text when the name was read from it.
        self.header.to_str().unwrap_or_default()
    }

    /// The same bytes as [`authority`](Self::authority), ready to be sent as a Host header.
    pub fn host_header(&self) -> &HeaderValue {
        &self.header
    }

    /// The name alone, for comparing: lower case, no trailing dot, IPv6 in its shortest form without brackets.
    pub fn host(&self) -> &str {
        &self.name.host
    }

    /// The name in the Host field, in the form of [`host`](Self::host), where an absolute target says another host or port.
    ///
    /// The target counts then (RFC 9112 section 3.2.2), as long as both are names of one site.
    pub fn overridden_host(&self) -> Option<&str> {
        self.overridden.as_ref().map(|name| name.host.as_str())
    }

    /// The port the client wrote, if it wrote one.
    pub fn port(&self) -> Option<u16> {
        self.name.port
    }

    /// The path as sent, escapes and all.
    pub fn raw_path(&self) -> &str {
        self.uri.path()
    }

    /// The query as sent, without the `?`.
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The path for choosing a route: decoded once, slashes merged, free of backslashes, `.`, `..` and `;parameters`.
    ///
    /// `%2F` becomes a slash, because routers behind the gate decode it too. Bytes that are not UTF-8 stay `%XX`.
    /// For comparing only; what is sent on is [`raw_path`](Self::raw_path).
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or_else(|| self.uri.path())
    }
}

/// Only origin-form, and absolute-form over http and https, address something a gate can serve (RFC 9112 section 3.2).
fn check_form(parts: &Parts) -> Result<(), Error> {
    let is_known = match parts.uri.scheme_str() {
        Some(scheme) => default_port(scheme).is_some(),
        // HTTP/1 without scheme but with authority is authority-form; HTTP/2 may lack either.
        None => parts.version == Version::HTTP_2 || parts.uri.authority().is_none(),
    };
    let is_path = parts.uri.path().starts_with('/');
    if is_known && is_path && parts.method != Method::CONNECT {
        Ok(())
    } else {
        Err(Error::Form)
    }
}

/// What the client addressed.
struct Addressed {
    /// The authority, as the upstream gets it.
    header: HeaderValue,
    /// The Host field of HTTP/1, where an absolute target says something else.
    overridden: Option<HostPort>,
}

/// The authority the client addressed. HTTP/1 says it in Host, or in an absolute target, which then counts and replaces
/// Host on the way to the upstream (RFC 9112 section 3.2.2). HTTP/2 says it in `:authority` (RFC 9113 section 8.3.1); a
/// Host beside it must agree. Where both agree, the client's Host field is kept byte for byte.
fn authority(parts: &Parts) -> Result<Addressed, Error> {
    let is_http2 = parts.version == Version::HTTP_2;
    let as_header =
        |named: &Authority| HeaderValue::from_str(named.as_str()).map_err(|_| Error::Host);
    let (header, overridden) = match (parts.uri.authority(), exactly_one_host(&parts.headers)?) {
        (None, Some(host)) => (host.clone(), None),
        (Some(named), None) if is_http2 => (as_header(named)?, None),
        (_, None) => return Err(Error::NoHost),
        (Some(named), Some(host)) => {
            let (named_name, host_name) = (parse_name(named.as_str())?, parse_host(host)?);
            let port = parts.uri.scheme_str().and_then(default_port);
            match (named_name.is_same_place(&host_name, port), is_http2) {
                (true, true) => (as_header(named)?, None),
                (true, false) => (host.clone(), None),
                (false, true) => return Err(Error::Contradiction),
                (false, false) => (as_header(named)?, Some(host_name)),
            }
        }
    };
    Ok(Addressed { header, overridden })
}

/// `HeaderMap::get` would hide a second line.
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

/// Whether [`canonical`] would change nothing and find nothing wrong, as far as can be said without looking closely.
fn is_canonical(raw: &str) -> bool {
    let mut previous = 0;
    raw.bytes().all(|byte| {
        let follows_slash = std::mem::replace(&mut previous, byte) == b'/';
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'~');
        is_plain || (byte == b'/' || byte == b'.') && !follows_slash
    })
}

fn canonical(raw: &str) -> Result<String, Error> {
    if !raw
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\'))
    {
        return Err(Error::Path("contains a character that must be escaped"));
    }
    let text = readable(
        &percent::decode(raw, |_| true).map_err(|_| Error::Path("contains a malformed escape"))?,
    );
    if text.contains(char::is_control) {
        return Err(Error::Path("contains an escaped control character"));
    }
    // Some servers behind the proxy take a backslash for a slash, others for a character of a name. As a separator it
    // could lead to another route than the one chosen here, so it is no more acceptable escaped than it is plain.
    if text.contains('\\') {
        return Err(Error::Path("contains an escaped backslash"));
    }
    if text.split('/').any(is_dots) {
        return Err(Error::Path("contains a dot segment"));
    }
    Ok(merge_slashes(&text))
}

/// As text, with every byte that belongs to no character as its escape.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

fn is_dots(segment: &str) -> bool {
    matches!(without_parameters(segment), "." | "..")
}

/// Servlet containers cut `;parameters` off a segment before they resolve it: to them `..;x` is `..`, and `/v2;x/` is
/// `/v2/`.
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
