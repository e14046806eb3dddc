//! URLs of upstreams and of the gate itself, and the paths of routes.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::super::problem::quote;
use super::address::host;
use super::{Error, Host, unix_path, write_accepted};

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamUrl {
    /// `http://host[:port]`
    Http {
        /// The host.
        host: Host,
        /// 80 when it is not written.
        port: u16,
    },
    /// `https://host[:port]`
    Https {
        /// The host, and the name its certificate must have.
        host: Host,
        /// 443 when it is not written.
        port: u16,
    },
    /// `unix:/path`
    Unix(PathBuf),
}

/// What clients are told to call the gate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExternalUrl {
    /// Its scheme.
    pub scheme: Scheme,
    /// Its host.
    pub host: Host,
    /// Nothing for the scheme's own port, also when it is written.
    pub port: Option<u16>,
}

/// One of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Port 80.
    Http,
    /// Port 443.
    Https,
}

impl Scheme {
    /// The port when none is written.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn read(word: &str) -> Option<Self> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|scheme| scheme.to_string().eq_ignore_ascii_case(word))
    }
}

impl ExternalUrl {
    /// `host[:port]`, as in a Host field.
    pub fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.to_string(),
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

/// `http://host[:port]`, `https://host[:port]` or `unix:/absolute/path`.
///
/// # Errors
///
/// Another scheme or none, a user name, a path, a query, a bad host or port.
pub fn upstream_url(text: &str) -> Result<UpstreamUrl, Error> {
    if text.starts_with("unix:") {
        return unix_path(text).map(UpstreamUrl::Unix);
    }
    if let Some((_, path)) = text.split_once("://unix:") {
        // As nginx has it, with a URI behind the second colon.
        let path = path.split(':').next().unwrap_or(path);
        return Err(Error::Malformed {
            expected: UPSTREAM.expected,
            remedy: write_accepted(format_args!("unix:{path}"), unix_path, UPSTREAM.otherwise),
        });
    }
    if text.starts_with('/') {
        // The path of a socket, as many other programs take it.
        return Err(Error::Malformed {
            expected: UPSTREAM.expected,
            remedy: write_accepted(format_args!("unix:{text}"), unix_path, UPSTREAM.otherwise),
        });
    }
    let ExternalUrl { scheme, host, port } = read(text, &UPSTREAM)?;
    let port = port.unwrap_or_else(|| scheme.port());
    Ok(match scheme {
        Scheme::Http => UpstreamUrl::Http { host, port },
        Scheme::Https => UpstreamUrl::Https { host, port },
    })
}

/// `https://host[:port]` or `http://host[:port]`.
///
/// # Errors
///
/// Another scheme or none, a user name, a path, a query, a bad host or port.
pub fn external_url(text: &str) -> Result<ExternalUrl, Error> {
    read(text, &EXTERNAL)
}

/// The prefix of a route: a path in its canonical form, so that it can match one.
///
/// # Errors
///
/// No `/` in front, an empty or a dot segment, a query, a wildcard, an escaped or non-ASCII character.
pub fn path_prefix(text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    let malformed = |expected, remedy| Err(Error::Malformed { expected, remedy });
    let meant = |text: &str| write_accepted(canonical(text), path_prefix, PATH);
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').and_then(|at| rest.get(at..));
        return Err(Error::Superfluous {
            part: "a scheme",
            why: "the host is the site's; a route is chosen by the path alone",
            remedy: meant(path.unwrap_or("/")),
        });
    }
    if text.contains(['?', '#']) {
        return Err(Error::Superfluous {
            part: "a query",
            why: "routes are chosen by the path alone",
            remedy: meant(text.split(['?', '#']).next().unwrap_or("/")),
        });
    }
    if let Some((prefix, _)) = text.split_once('*') {
        return malformed("a prefix without wildcards", meant(prefix));
    }
    if !text.bytes().all(is_path_byte) {
        return malformed("a canonical path", PATH.to_owned());
    }
    let canonical = canonical(text);
    if canonical != text {
        let expected = "a path from / on, without //, . and ..";
        return malformed(expected, meant(text));
    }
    Ok(canonical)
}

/// What a kind of URL is for.
struct Kind {
    expected: &'static str,
    /// For a URL without one.
    scheme: Scheme,
    why_no_path: &'static str,
    /// The remedy where no guess at what was meant would be accepted.
    otherwise: &'static str,
    /// A URL with a port.
    with_port: &'static str,
}

fn read(text: &str, kind: &Kind) -> Result<ExternalUrl, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    let (word, rest) = text.split_once("://").unwrap_or(("", text));
    let plain = origin_of(rest);
    let meant = |url: String| write_accepted(url, |url| read(url, kind), kind.otherwise);
    let Some(scheme) = Scheme::read(word) else {
        return Err(Error::Malformed {
            expected: kind.expected,
            remedy: meant(format!("{}://{plain}", kind.scheme)),
        });
    };
    if let Some(part) = superfluous_part(rest, plain) {
        let why = if part == USER {
            NO_SECRETS
        } else {
            kind.why_no_path
        };
        let remedy = meant(format!("{scheme}://{plain}"));
        return Err(Error::Superfluous { part, why, remedy });
    }
    let (name, digits) = split_port(rest);
    if name.contains(':') && !name.ends_with(']') || is_bare_ipv6(rest) {
        // The address with its port, unless what stands before the last colon is no address.
        let inner = if is_bare_ipv6(name) { name } else { rest };
        let port = rest.strip_prefix(inner).unwrap_or_default();
        return Err(Error::Malformed {
            expected: "a host with its IPv6 address in brackets",
            remedy: meant(format!("{scheme}://[{inner}]{port}")),
        });
    }
    let port = match digits {
        None => None,
        Some(digits) => Some(port(digits).ok_or_else(|| Error::Malformed {
            expected: "a URL with a port from 1 to 65535",
            remedy: format!(
                "write the port as a number, as in {}",
                quote(kind.with_port)
            ),
        })?),
    };
    let port = port.filter(|port| *port != scheme.port());
    let host = host(name).map_err(|error| in_url(error, rest, scheme, kind))?;
    Ok(ExternalUrl { scheme, host, port })
}

/// Host and port alone. A password may hold any sign, so all before the last `@` counts for one.
pub(super) fn origin_of(rest: &str) -> &str {
    let behind_user = rest.rsplit('@').next().unwrap_or(rest);
    behind_user
        .split(['/', '?', '#'])
        .next()
        .unwrap_or(behind_user)
}

fn superfluous_part(rest: &str, plain: &str) -> Option<&'static str> {
    if rest.contains('@') {
        return Some(USER);
    }
    match rest.strip_prefix(plain)? {
        "" => None,
        "/" => Some("a slash at the end"),
        path if path.starts_with('/') => Some("a path"),
        _ => Some("a query"),
    }
}

/// What stands before the last colon and, where there is one outside of brackets, behind it.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    // Colons inside of brackets are the address's.
    let split = authority.rsplit_once(':');
    match split.filter(|(_, port)| !port.contains(']')) {
        Some((name, digits)) => (name, Some(digits)),
        None => (authority, None),
    }
}

fn port(digits: &str) -> Option<u16> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|port| is_number && *port > 0)
}

fn is_bare_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

/// The refusal of a host, with a remedy that is a whole URL: the value is replaced as a whole.
fn in_url(error: Error, authority: &str, scheme: Scheme, kind: &Kind) -> Error {
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
        kind.otherwise.to_owned()
    } else {
        let meant = format!("{scheme}://{bare}{port}");
        write_accepted(meant, |url| read(url, kind), kind.otherwise)
    };
    Error::Malformed { expected, remedy }
}

/// The path that a canonical path can begin with.
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

/// What stands unescaped in a path (RFC 3986 §3.3).
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()+,;=:@".contains(&byte)
}

const UPSTREAM: Kind = Kind {
    expected: "a URL such as \"http://127.0.0.1:5000\" or \"unix:/run/registry.sock\"",
    scheme: Scheme::Http,
    why_no_path: "the gate sends the path of the request as it is, under any upstream",
    otherwise: "write \"http://127.0.0.1:5000\", with the host and port at which the upstream listens",
    with_port: "http://127.0.0.1:5000",
};
const EXTERNAL: Kind = Kind {
    expected: "a URL such as \"https://docker.example.com\"",
    scheme: Scheme::Https,
    why_no_path: "a registry is at /v2/ of its host; clients know no other place",
    otherwise: "write \"https://docker.example.com\", with the host that is meant, and no wildcard",
    with_port: "https://docker.example.com:8443",
};

/// The remedy for a path without a plain equivalent.
const PATH: &str = "write unescaped letters, digits and -._~!$&'()+,;=:@ behind a slash";

const USER: &str = "a user name";
const NO_SECRETS: &str = "secrets never stand in this file";
