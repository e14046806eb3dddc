//! URLs of upstreams and of the gate itself, and the paths of routes.

use std::fmt;
use std::path::PathBuf;

use super::address::host;
use super::{Error, Host, unix_path, write};

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
            remedy: write(format_args!("unix:{path}")),
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
    if text.contains(['?', '#']) {
        return Err(Error::Superfluous {
            part: "a query",
            why: "routes are chosen by the path alone",
            remedy: write(text.split(['?', '#']).next().unwrap_or("/")),
        });
    }
    if let Some((prefix, _)) = text.split_once('*') {
        let remedy = write(prefix);
        return malformed("a prefix without wildcards", remedy);
    }
    if !text.bytes().all(is_path_byte) {
        let remedy = "write unescaped letters, digits and -._~!$&'()+,;=:@".to_owned();
        return malformed("a canonical path", remedy);
    }
    let canonical = canonical(text);
    if canonical != text {
        let expected = "a path from / on, without //, . and ..";
        return malformed(expected, write(canonical));
    }
    Ok(canonical)
}

/// What a kind of URL is for.
struct Kind {
    expected: &'static str,
    /// For a URL without one.
    scheme: Scheme,
    why_no_path: &'static str,
}

fn read(text: &str, kind: &Kind) -> Result<ExternalUrl, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    let (word, rest) = text.split_once("://").unwrap_or(("", text));
    let plain = origin_of(rest);
    let Some(scheme) = Scheme::read(word) else {
        return Err(Error::Malformed {
            expected: kind.expected,
            remedy: write(format_args!("{}://{plain}", kind.scheme)),
        });
    };
    let remedy = write(format_args!("{scheme}://{plain}"));
    if let Some(part) = superfluous_part(rest, plain) {
        let why = if part == USER {
            NO_SECRETS
        } else {
            kind.why_no_path
        };
        return Err(Error::Superfluous { part, why, remedy });
    }
    let (name, port) = split_port(rest)?;
    let port = port.filter(|port| *port != scheme.port());
    let host = host(name)?;
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

fn split_port(authority: &str) -> Result<(&str, Option<u16>), Error> {
    // Colons inside of brackets are the address's.
    let split = authority.rsplit_once(':');
    let Some((name, digits)) = split.filter(|(_, port)| !port.contains(']')) else {
        return Ok((authority, None));
    };
    if name.contains(':') && !name.ends_with(']') {
        return Err(Error::Malformed {
            expected: "a host with its IPv6 address in brackets",
            remedy: write(format_args!("[{authority}]")),
        });
    }
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|port| is_number && *port > 0);
    let range = "of ports, 1 to 65535";
    port.map(|port| (name, Some(port)))
        .ok_or(Error::OutOfRange { range })
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
};
const EXTERNAL: Kind = Kind {
    expected: "a URL such as \"https://docker.example.com\"",
    scheme: Scheme::Https,
    why_no_path: "a registry is at /v2/ of its host; clients know no other place",
};

const USER: &str = "a user name";
const NO_SECRETS: &str = "secrets never stand in this file";
