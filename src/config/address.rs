//! Parsers for addresses to listen on, networks, hosts, host patterns of sites, and paths of Unix sockets.
//!
//! `keys` names these parsers; the nginx importer uses [`host_pattern`], too. No name is resolved.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::value::{Error, write, write_accepted};
use crate::net::cidr::{self, Cidr};
use crate::net::host::Host;
use crate::net::listener::{ListenAddr, SYSTEMD, UNIX};
use crate::text::parse_decimal;

/// The hosts that one entry of `site.hosts` stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostPattern {
    /// One host.
    Exact(Host),
    /// `*.x`: every name that is one label and then this name, which is in lower case.
    Wildcard(String),
    /// `*`: every host that no other pattern matches.
    Any,
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// The address of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminSocket {
    /// A TCP address, or a socket that systemd passes.
    Tcp(ListenAddr),
    /// A Unix socket. The permissions of its file decide who may connect.
    Unix(PathBuf),
}

/// Parses the address of the admin listener: an address to listen on, or `unix:` and a path.
///
/// # Errors
///
/// As [`listen_address`] and [`unix_path`]; a path without `unix:`.
pub(crate) fn admin_socket(text: &str) -> Result<AdminSocket, Error> {
    // A port alone would mean all addresses elsewhere. The admin listener is for this machine.
    let port = text.trim_start_matches(['*', ':']);
    if let Some(port) = parse_decimal::<u16>(port) {
        return Err(Error::Malformed {
            expected: "an address and a port",
            remedy: write(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        });
    }
    address_or_socket(text)
}

fn address_or_socket(text: &str) -> Result<AdminSocket, Error> {
    if text.starts_with(UNIX) {
        return unix_path(text).map(AdminSocket::Unix);
    }
    if text.starts_with('/') {
        return Err(Error::Malformed {
            expected: "an address and a port, or \"unix:\" and a path",
            remedy: write_accepted(
                format_args!("unix:{text}"),
                unix_path,
                "write \"unix:/run/tidegate/admin.sock\"",
            ),
        });
    }
    listen_address(text).map(AdminSocket::Tcp)
}

/// Parses an IP address and a port: `[::]:443`, `127.0.0.1:80`.
///
/// # Errors
///
/// The port is missing, or the host is a name or an IPv6 address without brackets.
pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| {
        if text.is_empty() {
            return Error::Empty;
        }
        let expected = "an address and a port";
        let remedy = socket_address_remedy(text);
        Error::Malformed { expected, remedy }
    })
}

/// Parses an address and a port, or `systemd:NAME` for sockets that systemd passes to the service.
///
/// # Errors
///
/// As [`socket_address`]; a name that a socket of systemd cannot have (sd_listen_fds(3)).
pub(crate) fn listen_address(text: &str) -> Result<ListenAddr, Error> {
    if text.starts_with(UNIX) {
        return Err(Error::Malformed {
            expected: "an address and a port",
            remedy: "write an address and a port, since only listen.behind_proxy and listen.admin can be Unix sockets"
                .to_owned(),
        });
    }
    let Some(name) = text.strip_prefix(SYSTEMD) else {
        return socket_address(text).map(ListenAddr::Address);
    };
    let is_name = (1..=255).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b':');
    if !is_name {
        return Err(Error::Malformed {
            expected: "\"systemd:\" and the name of a socket unit's FileDescriptorName=",
            remedy: write("systemd:https"),
        });
    }
    Ok(ListenAddr::Named(name.to_owned()))
}

/// Parses an address of `listen.behind_proxy`: one to listen on, or `unix:` and a path.
///
/// # Errors
///
/// As [`listen_address`] and [`unix_path`]; a path without `unix:`.
pub(crate) fn behind_proxy_address(text: &str) -> Result<ListenAddr, Error> {
    match address_or_socket(text)? {
        AdminSocket::Tcp(address) => Ok(address),
        AdminSocket::Unix(path) => Ok(ListenAddr::Unix(path)),
    }
}

/// Parses a network in CIDR notation, or an address: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.
///
/// # Errors
///
/// The text has no address, or the prefix is too long, or the address has bits beyond the prefix.
pub(crate) fn network(text: &str) -> Result<Cidr, Error> {
    text.parse().map_err(|error| {
        if text.is_empty() {
            return Error::Empty;
        }
        let (expected, remedy) = match error {
            cidr::Error::Malformed => (
                "a network",
                "write an address, or one with the length of its prefix, as in \"10.0.0.0/8\""
                    .to_owned(),
            ),
            cidr::Error::PrefixTooLong => (
                "a network: its prefix is longer than the address",
                "write at most 32 after an IPv4 address, and at most 128 after an IPv6 address"
                    .to_owned(),
            ),
            cidr::Error::HostBits(meant) => (
                "a network: the address has bits beyond the prefix",
                write(meant),
            ),
        };
        Error::Malformed { expected, remedy }
    })
}

/// Parses a network, or `all` of nginx's `allow` and `deny`, which is every address.
///
/// # Errors
///
/// As [`network`]; `all` in upper case.
pub(crate) fn networks_or_all(text: &str) -> Result<Vec<Cidr>, Error> {
    match text {
        "all" => ["0.0.0.0/0", "::/0"].into_iter().map(network).collect(),
        _ if text.trim().eq_ignore_ascii_case("all") => Err(Error::Malformed {
            expected: "a network",
            remedy: "write \"all\", in lower case".to_owned(),
        }),
        _ => network(text).map(|network| vec![network]),
    }
}

/// Parses a host pattern: a host name, an IP address with or without brackets, `*.x`, or `*`.
///
/// # Errors
///
/// The text has a scheme, a port, a path, or another wildcard, or is no host name.
pub(crate) fn host_pattern(text: &str) -> Result<HostPattern, Error> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if let Some((_, rest)) = text.split_once("://") {
        return Err(unexpected_part("a scheme", rest));
    }
    if text.contains(['/', '?', '#']) {
        return Err(unexpected_part("a path", text));
    }
    if let Some(host) = strip_port(text) {
        return Err(unexpected_part("a port", host));
    }
    match text.strip_prefix("*.") {
        Some(parent) if !parent.contains('*') => host_name(parent)
            .map(HostPattern::Wildcard)
            .map_err(wildcard_error),
        Some(_) => Err(wildcard_error(Error::Empty)),
        None if text.contains('*') => Err(Error::Malformed {
            expected: "a pattern with its * in front",
            remedy: WILDCARD_REMEDY.to_owned(),
        }),
        None => host(text).map(HostPattern::Exact),
    }
}

/// Parses `unix:PATH`, the address of a Unix socket, and returns the path. It may be absolute, or relative to the folder of the
/// configuration file; [`resolve`] makes a relative one absolute.
///
/// # Errors
///
/// The text does not begin with `unix:`. Or the path is empty, is that of a directory, is longer than the 107 bytes for which the
/// address of a socket has room (unix(7)), or ends with the `:` that nginx writes between the path of a socket and that of a URL.
pub(crate) fn unix_path(text: &str) -> Result<PathBuf, Error> {
    let path = text.strip_prefix("unix:").unwrap_or_default();
    let trimmed = path.trim_end_matches(':');
    let has_name = !matches!(path.rsplit('/').next(), None | Some("" | "." | ".."));
    let is_path = has_name && trimmed == path;
    if !is_path || path.starts_with("//") || path.contains('\0') {
        let root = if trimmed.starts_with('/') { "/" } else { "" };
        let meant = format!("unix:{root}{}", trimmed.trim_matches('/'));
        return Err(Error::Malformed {
            expected: "\"unix:\" and the path of a socket",
            remedy: write_accepted(
                meant,
                |meant| {
                    if meant == text {
                        Err(Error::Empty)
                    } else {
                        unix_path(meant)
                    }
                },
                UNIX_REMEDY,
            ),
        });
    }
    if path.len() > MAX_UNIX_PATH {
        return Err(long_unix_path());
    }
    Ok(PathBuf::from(path))
}

fn long_unix_path() -> Error {
    Error::Malformed {
        expected: "a path that fits into a socket's address (107 bytes)",
        remedy: "move the socket to a shorter path, such as one in /run".to_owned(),
    }
}

/// Makes the path of a Unix socket absolute. `base` is the folder of the configuration file in which the path is written.
///
/// # Errors
///
/// The absolute path is longer than 107 bytes.
pub(crate) fn resolve(path: &Path, base: &Path) -> Result<PathBuf, Error> {
    let path = base.join(path);
    if path.as_os_str().len() > MAX_UNIX_PATH {
        return Err(long_unix_path());
    }
    Ok(path)
}

/// Makes the path of a Unix socket absolute, as [`resolve`] does. An IP address with a port, and the name of a socket that systemd
/// passes, are returned as they are.
pub(crate) fn resolve_address(address: ListenAddr, base: &Path) -> Result<ListenAddr, Error> {
    match address {
        ListenAddr::Unix(path) => resolve(&path, base).map(ListenAddr::Unix),
        ListenAddr::Address(_) | ListenAddr::Named(_) => Ok(address),
    }
}

/// Parses a host name or an IP address, with or without brackets, and without a port.
///
/// # Errors
///
/// The text is no host name.
pub(crate) fn host(text: &str) -> Result<Host, Error> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(inner) = bare {
        let address: Result<Ipv6Addr, _> = inner.parse();
        return address
            .map(|address| Host::Address(IpAddr::V6(address).to_canonical()))
            .map_err(|_| Error::Malformed {
                expected: "an IPv6 address in brackets",
                remedy: write_accepted(
                    inner,
                    |inner| match inner.parse::<Ipv4Addr>() {
                        Ok(_) => Ok(inner.to_owned()),
                        Err(_) => host_name(inner),
                    },
                    "write an IPv6 address between the brackets, as in \"[2001:db8::1]\"",
                ),
            });
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(Host::Address(address.to_canonical())),
        Err(_) => host_name(text).map(Host::Name),
    }
}

/// Parses a DNS name, and returns it in lower case. Underscores are accepted because they are usual in container networks.
fn host_name(text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    let malformed = |expected, remedy| Error::Malformed { expected, remedy };
    if !text.is_ascii() {
        let remedy = "write the name in its ASCII form, which begins with \"xn--\"";
        return Err(malformed("an ASCII name", remedy.to_owned()));
    }
    if text.contains('*') {
        let remedy = "write each name in full, as in \"registry.example.com\"";
        return Err(malformed("a name without a wildcard", remedy.to_owned()));
    }
    if let Some(stem) = text.strip_suffix('.') {
        let remedy = write_accepted(stem, host_name, LABELS_REMEDY);
        return Err(malformed("a name without a dot at its end", remedy));
    }
    if text.len() > MAX_HOST_NAME || !text.split('.').all(is_label) {
        return Err(malformed("a host name", LABELS_REMEDY.to_owned()));
    }
    let last_label = text.rsplit('.').next().unwrap_or(text);
    if last_label.bytes().all(|byte| byte.is_ascii_digit()) {
        // No top-level domain is a number, and every parser of URLs takes such a name for an IPv4 address.
        return Err(malformed(
            "an IPv4 address",
            "write four numbers from 0 to 255".to_owned(),
        ));
    }
    Ok(text.to_ascii_lowercase())
}

fn is_label(label: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(is_allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Returns the host before a port; `None` for a host without a port, such as an IPv6 address without brackets.
fn strip_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && (is_bracketed || !host.contains(':'))).then_some(host)
}

/// Returns the error for a host with another part of a URL. `text` is the URL without its scheme.
fn unexpected_part(part: &'static str, text: &str) -> Error {
    let authority = authority_of(text);
    let host = strip_port(authority).unwrap_or(authority);
    Error::UnexpectedPart {
        part,
        why: "a site is found by the host alone, on every address that the proxy listens on",
        remedy: write_accepted(host, host_pattern, HOST_REMEDY),
    }
}

/// Returns the error of the name after `*.`, with a remedy for the pattern as a whole.
fn wildcard_error(error: Error) -> Error {
    match error {
        Error::Malformed { ref remedy, .. } if !remedy.starts_with("write \"") => error,
        _ => Error::Malformed {
            expected: "a pattern with its * in front",
            remedy: WILDCARD_REMEDY.to_owned(),
        },
    }
}

/// Returns the remedy for a text that is no address with a port.
fn socket_address_remedy(text: &str) -> String {
    if let Some((_, rest)) = text.split_once("://") {
        return write_accepted(authority_of(rest), socket_address, write("[::]:443"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let number: Option<u16> = parse_decimal(port);
    if let (Some(address), Some(port)) = (address(host), number) {
        // The text is an IPv6 address without brackets. Its last group is more likely to be the port.
        return write(SocketAddr::new(address, port));
    }
    if let Some(address) = address(text) {
        let example = SocketAddr::new(address, 443);
        return format!("{}, an address and its port", write(example));
    }
    if text == "localhost" {
        return format!("{} or \"[::1]:443\"", write("127.0.0.1:443"));
    }
    let Some(port) = number else {
        let example = address(host).map(|address| SocketAddr::new(address, 443));
        let example = example.map_or_else(|| "[::]:443".to_owned(), |example| example.to_string());
        return format!("{}, with a port from 0 to 65535", write(example));
    };
    match host {
        "" | "*" => format!("{} for all addresses", write(format_args!("[::]:{port}"))),
        "localhost" => format!(
            "{} or \"[::1]:{port}\"",
            write(format_args!("127.0.0.1:{port}"))
        ),
        _ => format!("write an address of this machine, or \"[::]:{port}\" for all of them"),
    }
}

/// Returns host and port of a URL without its scheme. A password may contain every character, so everything before the last
/// `@` is left out.
pub(crate) fn authority_of(text: &str) -> &str {
    let after_user = text.rsplit('@').next().unwrap_or(text);
    let authority = after_user.split(['/', '?', '#']).next();
    authority.unwrap_or(after_user)
}

// Remedies for values from which no acceptable value can be guessed.
const WILDCARD_REMEDY: &str = "write \"*.example.com\" for one label, or \"*\" for any host";
const LABELS_REMEDY: &str =
    "use labels of letters, digits, - and _, at most 63 of them, with dots between the labels";
const HOST_REMEDY: &str = "write \"docker.example.com\", the name that clients use";
const UNIX_REMEDY: &str = "write \"unix:/run/registry.sock\", with the path of the socket";

/// The maximum length of a host name, and of one of its labels (RFC 1035 section 2.3.4).
const MAX_HOST_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The maximum length of a path in the address of a socket: `sun_path` has 108 bytes on Linux, with the final NUL (unix(7)).
const MAX_UNIX_PATH: usize = 107;
