//! Parsers for URLs of upstreams, of the proxy itself and of ACME directories, for origins, and for the paths of routes.
//!
//! `keys` names these parsers; the nginx importer uses them, too, to find out what the configuration would accept.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use http::{HeaderValue, Uri};

use super::address::{authority_of, host, unix_path};
use super::problem::quote;
use super::value::{Error, write_accepted};
use crate::acme::LETS_ENCRYPT;
use crate::forward::Origin;
use crate::net::host::{Host, HostPort};
use crate::text::parse_decimal;
use crate::upstream::HostHeader;

/// The address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum UpstreamUrl {
    /// `http://host[:port]`
    Http {
        /// The host.
        host: Host,
        /// The port; 80 if none is written.
        port: u16,
    },
    /// `https://host[:port]`
    Https {
        /// The host, which is also the name that the certificate must have.
        host: Host,
        /// The port; 443 if none is written.
        port: u16,
    },
    /// `unix:/path`
    Unix(PathBuf),
}

/// The scheme and the authority of a URL: the origin under which clients reach the proxy, or the origin of a web page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExternalUrl {
    /// The scheme.
    pub(crate) scheme: Scheme,
    /// The host.
    pub(crate) host: Host,
    /// The port; `None` for the default port of the scheme, also if it is written.
    pub(crate) port: Option<u16>,
}

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// `http`, with port 80.
    Http,
    /// `https`, with port 443.
    Https,
}

impl Scheme {
    /// The port of a URL that names none.
    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|scheme| scheme.to_string().eq_ignore_ascii_case(word))
    }
}

impl ExternalUrl {
    /// `host[:port]`, as in the `Host` header field.
    pub(crate) fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.to_string(),
        }
    }
}

impl From<ExternalUrl> for Origin {
    fn from(url: ExternalUrl) -> Self {
        Self {
            scheme: url.scheme.to_string(),
            authority: url.authority(),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

impl fmt::Display for ExternalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority())
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { host, port } => write!(f, "http://{host}:{port}"),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Parses `http://host[:port]`, `https://host[:port]` or `unix:path`.
///
/// # Errors
///
/// The scheme is missing or another one, the URL has a user name, a path or a query, or its host or port is malformed.
pub(crate) fn upstream_url(text: &str) -> Result<UpstreamUrl, Error> {
    if text.starts_with("unix:") {
        return unix_path(text).map(UpstreamUrl::Unix);
    }
    // nginx writes a Unix socket as http://unix:/path:/uri, and many programs accept the path alone.
    let socket = match text.split_once("://unix:") {
        Some((_, path)) => path.split(':').next(),
        None => Some(text).filter(|path| path.starts_with('/')),
    };
    if let Some(path) = socket {
        return Err(Error::Malformed {
            expected: UPSTREAM.expected,
            remedy: write_accepted(
                format_args!("unix:{path}"),
                unix_path,
                UPSTREAM.fallback_remedy,
            ),
        });
    }
    let ExternalUrl { scheme, host, port } = parse(text, &UPSTREAM)?;
    let port = port.unwrap_or_else(|| scheme.default_port());
    Ok(match scheme {
        Scheme::Http => UpstreamUrl::Http { host, port },
        Scheme::Https => UpstreamUrl::Https { host, port },
    })
}

/// The address of an upstream, and the path of its URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct UpstreamAddress {
    /// The address.
    pub(crate) url: UpstreamUrl,
    /// The path, which replaces the path of the route; only a route that is no registry may have one.
    pub(crate) path: Option<String>,
}

/// Parses the address of an upstream, which may have a path.
///
/// # Errors
///
/// As [`upstream_url`]; the path is not in canonical form.
pub(crate) fn upstream_address(text: &str) -> Result<UpstreamAddress, Error> {
    let after_scheme = text
        .split_once("://")
        .filter(|(_, rest)| !rest.starts_with("unix:"));
    let path = after_scheme.and_then(|(_, rest)| rest.get(authority_of(rest).len()..));
    let Some(path) = path.filter(|path| path.starts_with('/')) else {
        let url = upstream_url(text)?;
        return Ok(UpstreamAddress { url, path: None });
    };
    let origin = text.strip_suffix(path).unwrap_or(text);
    let url = upstream_url(origin)?;
    let path = path_prefix(path).map_err(|error| upstream_path_error(error, origin, path))?;
    let path = Some(path);
    Ok(UpstreamAddress { url, path })
}

/// Returns the error of the path of an upstream, with a remedy that is a whole URL, because the reader replaces the value as a
/// whole.
fn upstream_path_error(error: Error, origin: &str, path: &str) -> Error {
    let end = path.find(['?', '#', '*']).unwrap_or(path.len());
    let meant = canonical(path.get(..end).unwrap_or_default());
    let url = format!("{origin}{meant}");
    let remedy = write_accepted(url, |_| path_prefix(&meant), PATH_REMEDY);
    match error {
        Error::UnexpectedPart { part, .. } => Error::UnexpectedPart {
            part,
            why: "the path replaces the path of the route, and the query of a request is passed on as it arrived",
            remedy,
        },
        Error::Malformed { .. } => Error::Malformed {
            expected: "a URL with a plain path: without //, without . and .. as segments, without wildcards and escaped characters",
            remedy,
        },
        error => error,
    }
}

/// Parses `host` of an upstream: `client`, `upstream`, or a host with or without a port.
///
/// # Errors
///
/// The text is neither a word nor `host[:port]`.
pub(crate) fn host_header(text: &str) -> Result<HostHeader, Error> {
    match text {
        "" => Err(Error::Empty),
        "client" => Ok(HostHeader::Client),
        "upstream" => Ok(HostHeader::Endpoint),
        name => HostPort::parse(name)
            .and_then(|_| HeaderValue::from_str(name).ok())
            .map(HostHeader::Name)
            .ok_or_else(|| Error::Malformed {
                expected: "\"client\", \"upstream\" or a host name",
                remedy: "write \"client\", \"upstream\", or a name such as \"registry.internal\""
                    .to_owned(),
            }),
    }
}

/// Parses `https://host[:port]` or `http://host[:port]`.
///
/// # Errors
///
/// The scheme is missing or another one, the URL has a user name, a path or a query, or its host or port is malformed.
pub(crate) fn external_url(text: &str) -> Result<ExternalUrl, Error> {
    parse(text, &EXTERNAL)
}

/// Parses the origin of a web page or of an upstream.
///
/// # Errors
///
/// As [`external_url`]; the origin has a wildcard.
pub(crate) fn origin(text: &str) -> Result<ExternalUrl, Error> {
    if text.contains('*') {
        return Err(Error::Malformed {
            expected: "an origin",
            remedy: "name each origin, as in \"https://ui.example.com\"; a page of any other origin could act for the \
                     user who opens it"
                .to_owned(),
        });
    }
    external_url(text)
}

/// Parses the https URL of an ACME directory (RFC 8555 section 7.1.1).
///
/// # Errors
///
/// The scheme is not https, or the URL has no host.
pub(crate) fn acme_directory(text: &str) -> Result<String, Error> {
    let url = text.parse::<Uri>().ok();
    let is_directory = |url: &Uri| url.scheme_str() == Some("https") && url.host().is_some();
    match url.filter(is_directory) {
        Some(_) => Ok(text.to_owned()),
        None => Err(Error::Malformed {
            expected: "the URL of an ACME directory over https",
            remedy: format!(
                "write {}, or the URL that your authority names",
                quote(LETS_ENCRYPT)
            ),
        }),
    }
}

/// Parses the path of a route, a prefix. It must be in canonical form, because it is compared with canonical paths.
///
/// # Errors
///
/// The path does not begin with `/`, has an empty segment or a dot segment, a query, a wildcard, or an escaped or non-ASCII
/// character.
pub(crate) fn path_prefix(text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    let malformed = |expected, remedy| Err(Error::Malformed { expected, remedy });
    let meant = |text: &str| write_accepted(canonical(text), path_prefix, PATH_REMEDY);
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').and_then(|at| rest.get(at..));
        return Err(Error::UnexpectedPart {
            part: "a scheme",
            why: "the host is the site's; a route is chosen by the path alone",
            remedy: meant(path.unwrap_or("/")),
        });
    }
    if text.contains(['?', '#']) {
        return Err(Error::UnexpectedPart {
            part: "a query",
            why: "routes are chosen by the path alone",
            remedy: meant(text.split(['?', '#']).next().unwrap_or("/")),
        });
    }
    if let Some((prefix, _)) = text.split_once('*') {
        return malformed("a prefix without wildcards", meant(prefix));
    }
    if !text.bytes().all(is_path_byte) {
        return malformed("a canonical path", PATH_REMEDY.to_owned());
    }
    let canonical = canonical(text);
    if canonical != text {
        let expected = "a path from / on, without //, . and ..";
        return malformed(expected, meant(text));
    }
    Ok(canonical)
}

/// The texts of the errors for one kind of URL.
struct UrlKind {
    /// The form, with its article.
    expected: &'static str,
    /// The scheme that a URL without one probably has.
    usual_scheme: Scheme,
    why_no_path: &'static str,
    /// The remedy for a text from which no acceptable URL can be guessed.
    fallback_remedy: &'static str,
    /// A URL with a port.
    example_with_port: &'static str,
}

fn parse(text: &str, kind: &UrlKind) -> Result<ExternalUrl, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    let (word, rest) = text.split_once("://").unwrap_or(("", text));
    let authority = authority_of(rest);
    let meant = |url: String| write_accepted(url, |url| parse(url, kind), kind.fallback_remedy);
    let Some(scheme) = Scheme::parse(word) else {
        return Err(Error::Malformed {
            expected: kind.expected,
            remedy: meant(format!("{}://{authority}", kind.usual_scheme)),
        });
    };
    if let Some(part) = unexpected_part(rest, authority) {
        let why = if part == USER_NAME {
            "secrets are never in this file"
        } else {
            kind.why_no_path
        };
        let remedy = meant(format!("{scheme}://{authority}"));
        return Err(Error::UnexpectedPart { part, why, remedy });
    }
    let (name, digits) = split_port(rest);
    if name.contains(':') && !name.ends_with(']') || is_bare_ipv6(rest) {
        // The last group is the port if the text before it is an IPv6 address, too.
        let inner = if is_bare_ipv6(name) { name } else { rest };
        let port = rest.strip_prefix(inner).unwrap_or_default();
        return Err(Error::Malformed {
            expected: "a host with its IPv6 address in brackets",
            remedy: meant(format!("{scheme}://[{inner}]{port}")),
        });
    }
    let port = match digits {
        None => None,
        Some(digits) => Some(parse_port(digits).ok_or_else(|| Error::Malformed {
            expected: "a URL with a port from 1 to 65535",
            remedy: format!(
                "write the port as a number, as in {}",
                quote(kind.example_with_port)
            ),
        })?),
    };
    let port = port.filter(|port| *port != scheme.default_port());
    let host = host(name).map_err(|error| host_error(error, rest, scheme, kind))?;
    Ok(ExternalUrl { scheme, host, port })
}

/// Names the first part of a URL, given without its scheme, that is neither host nor port.
fn unexpected_part(rest: &str, authority: &str) -> Option<&'static str> {
    if rest.contains('@') {
        return Some(USER_NAME);
    }
    match rest.strip_prefix(authority)? {
        "" => None,
        "/" => Some("a slash at the end"),
        path if path.starts_with('/') => Some("a path"),
        _ => Some("a query"),
    }
}

/// Splits host and port at the last colon that is not inside brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let split = authority.rsplit_once(':');
    match split.filter(|(_, port)| !port.contains(']')) {
        Some((name, digits)) => (name, Some(digits)),
        None => (authority, None),
    }
}

fn parse_port(digits: &str) -> Option<u16> {
    parse_decimal(digits).filter(|port| *port > 0)
}

fn is_bare_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

/// Returns the error of a host, with a remedy that is a whole URL, because the reader replaces the value as a whole.
fn host_error(error: Error, authority: &str, scheme: Scheme, kind: &UrlKind) -> Error {
    let (name, digits) = split_port(authority);
    let port = digits
        .map(|digits| format!(":{digits}"))
        .unwrap_or_default();
    let expected = match error {
        Error::Empty => kind.expected,
        _ if name.contains('*') => "a host name; a URL has no wildcard",
        Error::Malformed { expected, remedy } if remedy.starts_with("write \"") => expected,
        error => return error,
    };
    let inner = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = inner.filter(|inner| !inner.contains(':')).unwrap_or(name);
    let bare = bare.trim_end_matches('.');
    let remedy = if bare == name {
        kind.fallback_remedy.to_owned()
    } else {
        let meant = format!("{scheme}://{bare}{port}");
        write_accepted(meant, |url| parse(url, kind), kind.fallback_remedy)
    };
    Error::Malformed { expected, remedy }
}

/// Returns the path in canonical form: with one `/` in front, and without empty segments and dot segments.
fn canonical(text: &str) -> String {
    let is_name = |segment: &&str| !matches!(*segment, "" | "." | "..");
    let names: Vec<_> = text.split('/').filter(is_name).collect();
    let end = if text.ends_with('/') && !names.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", names.join("/"))
}

/// Whether the byte may be unescaped in a path (RFC 3986 section 3.3).
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()+,;=:@".contains(&byte)
}

const UPSTREAM: UrlKind = UrlKind {
    expected: "a URL such as \"http://127.0.0.1:5000\" or \"unix:/run/registry.sock\"",
    usual_scheme: Scheme::Http,
    why_no_path: "the proxy sends the path of the request as it is to every upstream",
    fallback_remedy: "write \"http://127.0.0.1:5000\", with the host and port at which the upstream listens",
    example_with_port: "http://127.0.0.1:5000",
};
const EXTERNAL: UrlKind = UrlKind {
    expected: "a URL such as \"https://docker.example.com\"",
    usual_scheme: Scheme::Https,
    why_no_path: "a registry is at /v2/ of its host; clients know no other place",
    fallback_remedy: "write \"https://docker.example.com\", with the host that is meant, and no wildcard",
    example_with_port: "https://docker.example.com:8443",
};

/// The remedy for a path without an unescaped equivalent.
const PATH_REMEDY: &str = "write unescaped letters, digits and -._~!$&'()+,;=:@ after a slash";

const USER_NAME: &str = "a user name";
