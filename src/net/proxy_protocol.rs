//! The PROXY protocol, versions 1 and 2: how a balancer in front says, before anything else, who the client is.
//!
//! `connection` calls [`read`] on connections from networks that the operator names, and on no others: whoever may send
//! a header may be anyone. Nothing beyond the header is read, and there is no deadline in here: the caller puts one over
//! all of it. What is neither as HAProxy's `doc/proxy-protocol.txt` has it nor as HAProxy and nginx write it is refused.
//!
//! A listener of both IP versions sees IPv4 clients under IPv4-mapped addresses (RFC 4291 section 2.5.5.2), and a
//! balancer may take its two addresses from two sockets. The addresses in a version 1 header are therefore read in these
//! forms:
//!
//! | sender | header |
//! |---|---|
//! | HAProxy (`make_proxy_line_v1`), both IPv4 | `TCP4 192.0.2.7 10.0.0.1` |
//! | HAProxy, one address or both IPv6 or IPv4-mapped | `TCP6 ::ffff:192.0.2.7 2001:db8::1` |
//! | nginx (`ngx_proxy_protocol_write`), both from one socket | `TCP4 192.0.2.7 10.0.0.1`, `TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1` |
//! | nginx behind another balancer (`set_real_ip_from`): the family is the client's | `TCP4 192.0.2.7 ::ffff:10.0.0.1`, `TCP6 2001:db8::7 10.0.0.1` |

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// A header, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// All of it.
    Whole {
        /// Its bytes; what follows is the client's.
        length: usize,
        /// The client's address; `None` where the header names no client (`UNKNOWN`, LOCAL): the peer speaks for
        /// itself, as in a health check, or does not know who is behind it.
        client: Option<IpAddr>,
    },
    /// At least so many bytes more belong to it.
    Part {
        /// Never more than there are: they may be read without touching what follows.
        missing: usize,
    },
}

/// Why a connection has no header.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// As balancers look whether a port is open.
    #[error("the peer left without a word")]
    Closed,
    /// The network failed, or the peer left amid the header.
    #[error("the connection failed in the PROXY header")]
    Io(#[source] io::Error),
    /// The first bytes are no header.
    #[error(
        "the connection does not begin with a PROXY header; let the balancer send one, or take it out of listen.proxy_protocol"
    )]
    Missing,
    /// It began like one.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

/// Reads a header and nothing else; says who the client is when that is not the peer.
///
/// # Errors
/// When there is none.
pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, Error> {
    let mut bytes = Vec::with_capacity(ROOM);
    loop {
        match parse(&bytes)? {
            Header::Whole { client, .. } => return Ok(client),
            Header::Part { missing } => {
                let missing = u64::try_from(missing).unwrap_or(u64::MAX);
                let read = (&mut *io).take(missing).read_buf(&mut bytes).await;
                match read {
                    Ok(0) if bytes.is_empty() => return Err(Error::Closed),
                    Ok(0) => return Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {}
                    Err(error) => return Err(Error::Io(error)),
                }
            }
        }
    }
}

/// Judges what has come so far; what is no header is an error with its first wrong byte.
///
/// # Errors
/// When it can be no header, whatever follows.
pub fn parse(bytes: &[u8]) -> Result<Header, Error> {
    if bytes.is_empty() {
        // The shorter one of the two: their first bytes differ.
        return Ok(Header::Part {
            missing: SHORTEST_LINE,
        });
    }
    if may_be_header(bytes, BINARY) {
        return binary(bytes);
    }
    if may_be_header(bytes, TEXT) {
        return text(bytes);
    }
    Err(Error::Missing)
}

/// As far as both go.
fn may_be_header(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.iter().zip(mark).all(|(byte, mark)| byte == mark)
}

/// Version 1: one line of text, at most 107 bytes.
fn text(bytes: &[u8]) -> Result<Header, Error> {
    let line = bytes.get(..bytes.len().min(LONGEST_LINE)).unwrap_or(bytes);
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        if line.len() + ENDING > LONGEST_LINE {
            return Err(Error::Malformed("the line does not end"));
        }
        let shortest = SHORTEST_LINE.saturating_sub(line.len());
        return Ok(Header::Part {
            missing: shortest.max(ENDING),
        });
    };
    let (line, ending) = line.split_at_checked(end).unwrap_or_default();
    match ending {
        [b'\r'] if end + ENDING <= LONGEST_LINE => return Ok(Header::Part { missing: 1 }),
        [b'\r', b'\n', ..] => {}
        _ => return Err(Error::Malformed("the line does not end with CR LF")),
    }
    let line = std::str::from_utf8(line).map_err(|_| Error::Malformed("the line is no text"))?;
    Ok(Header::Whole {
        length: end + ENDING,
        client: fields(line)?,
    })
}

fn fields(line: &str) -> Result<Option<IpAddr>, Error> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        // Whatever stands behind it is to be ignored.
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        [
            "PROXY",
            family @ ("TCP4" | "TCP6"),
            source,
            destination,
            from,
            to,
        ] => {
            // The family is that of the source; nginx may write a destination of the other one.
            let source = match *family {
                "TCP4" => parse_ipv4(source),
                _ => parse_ipv6(source),
            };
            let destination = parse_ipv4(destination).or_else(|| parse_ipv6(destination));
            let is_whole = destination.is_some() && is_port(from) && is_port(to);
            let source = source.filter(|_| is_whole);
            source
                .map(Some)
                .ok_or(Error::Malformed("an address or a port is none"))
        }
        _ => Err(Error::Malformed(
            "the line is not PROXY, a family, two addresses, two ports",
        )),
    }
}

fn parse_ipv4(word: &str) -> Option<IpAddr> {
    word.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// An IPv6 address. `inet_ntop` and nginx write the last 32 bits as an IPv4 address only where the address is an
/// IPv4-mapped one, so that form is accepted nowhere else.
fn parse_ipv6(word: &str) -> Option<IpAddr> {
    let address = word.parse::<Ipv6Addr>().ok()?;
    let is_as_written = !word.contains('.') || address.to_ipv4_mapped().is_some();
    is_as_written.then_some(IpAddr::V6(address))
}

fn is_port(word: &str) -> bool {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let padded = word.len() > 1 && word.starts_with('0');
    plain && !padded && word.parse::<u16>().is_ok()
}

/// Version 2: sixteen bytes, then as many as they say.
fn binary(bytes: &[u8]) -> Result<Header, Error> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED) else {
        return Ok(Header::Part {
            missing: FIXED - bytes.len(),
        });
    };
    let [.., version, family, high, low] = fixed else {
        return Err(Error::Missing);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if version >> 4 != 2 {
        return Err(Error::Malformed("the version is not 2"));
    }
    if length > LONGEST_REST {
        return Err(Error::Malformed("it is longer than 4 KiB"));
    }
    let addresses = addresses(version & 0xf, *family)?;
    if length < addresses.remaining() {
        return Err(Error::Malformed("it is shorter than its addresses"));
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(Header::Part {
            missing: length - rest.len(),
        });
    };
    let client = addresses.read(rest)?;
    Ok(Header::Whole {
        length: FIXED + length,
        client,
    })
}

/// What stands behind the first sixteen bytes.
#[derive(Clone, Copy)]
enum Addresses {
    /// Nothing that is to be read.
    Ignored,
    Four,
    Six,
}

/// By command and by family with transport; the balancer itself needs neither.
fn addresses(command: u8, family: u8) -> Result<Addresses, Error> {
    match (command, family) {
        (0, _) | (1, 0x00) => Ok(Addresses::Ignored),
        (1, 0x11) => Ok(Addresses::Four),
        (1, 0x21) => Ok(Addresses::Six),
        (1, _) => Err(Error::Malformed("the family is not TCP over IPv4 or IPv6")),
        _ => Err(Error::Malformed("the command is neither LOCAL nor PROXY")),
    }
}

impl Addresses {
    fn remaining(self) -> usize {
        match self {
            Self::Ignored => 0,
            Self::Four => 12,
            Self::Six => 36,
        }
    }

    /// The source; behind the addresses only whole TLVs may stand.
    fn read(self, rest: &[u8]) -> Result<Option<IpAddr>, Error> {
        let (addresses, tlvs) = rest.split_at_checked(self.remaining()).unwrap_or_default();
        let source = match self {
            Self::Ignored => return Ok(None),
            Self::Four => addresses.first_chunk::<4>().copied().map(IpAddr::from),
            Self::Six => addresses.first_chunk::<16>().copied().map(IpAddr::from),
        };
        if !are_whole(tlvs) {
            return Err(Error::Malformed("a TLV goes beyond its end"));
        }
        Ok(source)
    }
}

/// A type, two bytes of length, a value, and the next.
fn are_whole(mut tlvs: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = tlvs {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((_, next)) = rest.split_at_checked(length) else {
            return false;
        };
        tlvs = next;
    }
    tlvs.is_empty()
}

const TEXT: &[u8] = b"PROXY ";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;
/// `PROXY UNKNOWN` and its ending.
const SHORTEST_LINE: usize = 15;
/// CR LF.
const ENDING: usize = 2;
/// Two IPv6 addresses of 39 bytes, and the ending (section 2.1).
const LONGEST_LINE: usize = 107;
/// Addresses and TLVs; a chain of client certificates among them is no use here.
const LONGEST_REST: usize = 4096;
/// What most headers take.
const ROOM: usize = 128;

#[cfg(test)]
mod tests;
