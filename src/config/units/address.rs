//! Addresses to listen on, hosts, and the patterns of hosts a site answers for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::url::origin_of;
use super::{Error, write, write_accepted};
use crate::net::cidr::{self, Cidr};
pub use crate::net::host::Host;
use crate::net::listener::{ListenAddr, SYSTEMD};

/// Which hosts a site answers for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This one.
    Exact(Host),
    /// `*.x`: one label and this name behind it; the name is in lower case.
    Below(String),
    /// `*`: any that no other pattern matches.
    Any,
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// `[::]:443`, `127.0.0.1:80`.
///
/// # Errors
///
/// No port, no address, a name, an IPv6 address without brackets.
pub fn socket_address(text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| {
        if text.is_empty() {
            return Error::Empty;
        }
        let expected = "an address and a port";
        let remedy = address_remedy(text);
        Error::Malformed { expected, remedy }
    })
}

/// An address and a port, or `systemd:NAME` for sockets that systemd holds.
///
/// # Errors
///
/// As [`socket_address`]; a name that systemd would not give a socket (sd_listen_fds(3)).
pub fn binding(text: &str) -> Result<ListenAddr, Error> {
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

/// `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.
///
/// # Errors
///
/// No address, a prefix that is too long, bits beyond the prefix.
pub fn network(text: &str) -> Result<Cidr, Error> {
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
                "write at most 32 behind an IPv4 address, and 128 behind an IPv6 one".to_owned(),
            ),
            cidr::Error::HostBits(meant) => (
                "a network: the address has bits beyond the prefix",
                write(meant),
            ),
        };
        Error::Malformed { expected, remedy }
    })
}

/// A name, an IP literal with or without brackets, `*.x`, or `*`.
///
/// # Errors
///
/// A scheme, a port, a path, another wildcard, or what no host can be called.
pub fn host_pattern(text: &str) -> Result<HostPattern, Error> {
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if let Some((_, rest)) = text.split_once("://") {
        return Err(superfluous("a scheme", rest));
    }
    if text.contains(['/', '?', '#']) {
        return Err(superfluous("a path", text));
    }
    if let Some(host) = without_port(text) {
        return Err(superfluous("a port", host));
    }
    match text.strip_prefix("*.") {
        Some(parent) if !parent.contains('*') => {
            name(parent).map(HostPattern::Below).map_err(below)
        }
        Some(_) => Err(below(Error::Empty)),
        None if text.contains('*') => Err(Error::Malformed {
            expected: "a pattern with its * in front",
            remedy: STAR.to_owned(),
        }),
        None => host(text).map(HostPattern::Exact),
    }
}

/// The path in `unix:/path`: absolute, and no longer than a socket's address may be.
///
/// # Errors
///
/// Another prefix, a relative path, nginx's `:` at the end, more than 107 bytes.
pub fn unix_path(text: &str) -> Result<PathBuf, Error> {
    let path = text.strip_prefix("unix:").unwrap_or_default();
    let trimmed = path.trim_end_matches(':');
    let is_path = path.starts_with('/') && trimmed == path && !path.ends_with('/');
    if !is_path || path.contains('\0') {
        let meant = format!("unix:/{}", trimmed.trim_matches('/'));
        return Err(Error::Malformed {
            expected: "\"unix:\" and an absolute path",
            remedy: write_accepted(
                meant,
                |meant| {
                    if meant == text || meant == "unix:/" {
                        Err(Error::Empty)
                    } else {
                        unix_path(meant)
                    }
                },
                UNIX,
            ),
        });
    }
    if path.len() > UNIX_PATH {
        return Err(Error::Malformed {
            expected: "a path that fits into a socket's address (107 bytes)",
            remedy: "move the socket to a shorter path, such as one in /run".to_owned(),
        });
    }
    Ok(PathBuf::from(path))
}

/// A name or an IP literal, with or without brackets, and no port.
///
/// # Errors
///
/// What no host can be called.
pub fn host(text: &str) -> Result<Host, Error> {
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
                        Err(_) => name(inner),
                    },
                    "write an IPv6 address between the brackets, as in \"[2001:db8::1]\"",
                ),
            });
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(Host::Address(address.to_canonical())),
        Err(_) => name(text).map(Host::Name),
    }
}

/// A name as DNS and registries have it, in lower case; underscores are usual in container networks.
fn name(text: &str) -> Result<String, Error> {
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
        let remedy = write_accepted(stem, name, LABELS);
        return Err(malformed("a name without a dot at its end", remedy));
    }
    if text.len() > NAME || !text.split('.').all(is_label) {
        return Err(malformed("a host name", LABELS.to_owned()));
    }
    if is_number(text.rsplit('.').next().unwrap_or(text)) {
        // No top-level domain is a number, and everyone reads such a name as an address.
        return Err(malformed(
            "an IPv4 address",
            "write four numbers from 0 to 255".to_owned(),
        ));
    }
    Ok(text.to_ascii_lowercase())
}

fn is_label(label: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LABEL).contains(&label.len())
        && label.bytes().all(is_allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_digit())
}

/// The host before a port; nothing for a host alone, which an IPv6 address is.
fn without_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    (is_number(port) && (is_bracketed || !host.contains(':'))).then_some(host)
}

/// `text` is what stands behind a scheme.
fn superfluous(part: &'static str, text: &str) -> Error {
    let origin = origin_of(text);
    let host = without_port(origin).unwrap_or(origin);
    Error::Superfluous {
        part,
        why: "a site is found by the host alone, on every address the gate listens on",
        remedy: write_accepted(host, host_pattern, HOST),
    }
}

/// The refusal of what stands behind `*.`, with a remedy for the pattern as a whole.
fn below(error: Error) -> Error {
    match error {
        Error::Malformed { ref remedy, .. } if !remedy.starts_with("write \"") => error,
        _ => Error::Malformed {
            expected: "a pattern with its * in front",
            remedy: STAR.to_owned(),
        },
    }
}

/// The remedy for `text`, which is no address with a port.
fn address_remedy(text: &str) -> String {
    if let Some((_, rest)) = text.split_once("://") {
        return write_accepted(origin_of(rest), socket_address, write("[::]:443"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let number = port.parse::<u16>().ok();
    if let (Some(address), Some(port)) = (address(host), number) {
        // An IPv6 address without brackets, whose last group is more likely to be the port.
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

/// Remedies where no guess at what was meant would be accepted.
const STAR: &str = "write \"*.example.com\" for one label, or \"*\" for any host";
const LABELS: &str =
    "use labels of letters, digits, - and _, at most 63 of them, with dots between the labels";
const HOST: &str = "write \"docker.example.com\", the name that clients use";
const UNIX: &str = "write \"unix:/run/registry.sock\", with the path of the socket";

/// Of a whole name and of a label (RFC 1035 §2.3.4).
const NAME: usize = 253;
const LABEL: usize = 63;

/// `sun_path` on Linux is 108 bytes with its NUL (unix(7)).
const UNIX_PATH: usize = 107;
