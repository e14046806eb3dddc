//! The PROXY protocol, versions 1 and 2: a load balancer names the client in a header before the first byte of the client.
//!
//! `connection` calls [`read`] on connections from the networks in `listen.proxy_protocol`, and on no others, because any
//! peer could send a header. Nothing after the header is read. This module sets no deadline: the caller bounds the whole
//! read. A header is accepted if it follows HAProxy's `doc/proxy-protocol.txt`, or if HAProxy or nginx writes it in this
//! form; any other is an error.
//!
//! A listener of both IP versions sees IPv4 clients under IPv4-mapped addresses (RFC 4291 section 2.5.5.2), and a
//! balancer may take the source and the destination address from two sockets. The addresses in a version 1 header are
//! therefore accepted in these forms:
//!
//! | sender | header |
//! |---|---|
//! | HAProxy (`make_proxy_line_v1`), both IPv4 | `TCP4 192.0.2.7 10.0.0.1` |
//! | HAProxy, one address or both IPv6 or IPv4-mapped | `TCP6 ::ffff:192.0.2.7 2001:db8::1` |
//! | nginx (`ngx_proxy_protocol_write`), both from one socket | `TCP4 192.0.2.7 10.0.0.1`, `TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1` |
//! | nginx after another balancer (`set_real_ip_from`): the family is that of the client | `TCP4 192.0.2.7 ::ffff:10.0.0.1`, `TCP6 2001:db8::7 10.0.0.1` |

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::text::parse_canonical_decimal;

/// The result of parsing the bytes that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The header is complete.
    Complete {
        /// The length of the header in bytes. The bytes after it are the client's.
        length: usize,
        /// The address of the client. `None` if the header names no client (`UNKNOWN`, LOCAL): the balancer opened the
        /// connection itself, as for a health check, or does not know the client.
        client: Option<IpAddr>,
    },
    /// The header continues.
    Incomplete {
        /// A number of bytes that certainly belong to the header, so that they can be read without reading beyond it.
        missing: usize,
    },
}

/// The reason why a connection has no valid header.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer closed the connection before the first byte, as balancers do to check whether a port is open.
    #[error("the peer closed the connection without sending a byte")]
    Closed,
    /// The network failed, or the peer closed the connection within the header.
    #[error("the connection failed in the PROXY header")]
    Io(#[source] io::Error),
    /// The first bytes are not those of a header.
    #[error(
        "the connection does not begin with a PROXY header; let the balancer send one, or take it out of listen.proxy_protocol"
    )]
    Missing,
    /// The first bytes are those of a header, but a later byte is wrong.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

/// Reads a header and no byte after it. Returns the client that the header names, or `None` if the client is the peer.
///
/// # Errors
/// The connection does not begin with a valid header.
pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, Error> {
    let mut bytes = Vec::with_capacity(TYPICAL_HEADER);
    loop {
        match parse(&bytes)? {
            Header::Complete { client, .. } => return Ok(client),
            Header::Incomplete { missing } => {
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

/// Parses the bytes that have arrived so far. A wrong byte is an error as soon as it has arrived.
///
/// # Errors
/// The bytes are not the beginning of a valid header, whatever follows.
pub fn parse(bytes: &[u8]) -> Result<Header, Error> {
    if bytes.is_empty() {
        // The version is not known yet, so read the length of the shorter minimum.
        return Ok(Header::Incomplete { missing: MIN_LINE });
    }
    if may_begin_with(bytes, SIGNATURE_V2) {
        return parse_v2(bytes);
    }
    if may_begin_with(bytes, SIGNATURE_V1) {
        return parse_v1(bytes);
    }
    Err(Error::Missing)
}

/// Whether `bytes` begins with `signature`, or may do so once more bytes have arrived.
fn may_begin_with(bytes: &[u8], signature: &[u8]) -> bool {
    bytes
        .iter()
        .zip(signature)
        .all(|(byte, expected)| byte == expected)
}

/// Parses a header of version 1: one line of text with at most 107 bytes.
fn parse_v1(bytes: &[u8]) -> Result<Header, Error> {
    let line = bytes.get(..bytes.len().min(MAX_LINE)).unwrap_or(bytes);
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        if line.len() + CRLF_LEN > MAX_LINE {
            return Err(Error::Malformed("the line does not end"));
        }
        let shortest = MIN_LINE.saturating_sub(line.len());
        return Ok(Header::Incomplete {
            missing: shortest.max(CRLF_LEN),
        });
    };
    let (line, ending) = line.split_at_checked(end).unwrap_or_default();
    match ending {
        [b'\r'] if end + CRLF_LEN <= MAX_LINE => return Ok(Header::Incomplete { missing: 1 }),
        [b'\r', b'\n', ..] => {}
        _ => return Err(Error::Malformed("the line does not end with CR LF")),
    }
    let line = std::str::from_utf8(line).map_err(|_| Error::Malformed("the line is not text"))?;
    Ok(Header::Complete {
        length: end + CRLF_LEN,
        client: parse_fields(line)?,
    })
}

/// Parses the line of version 1 without its CR LF. Returns the address of the client.
fn parse_fields(line: &str) -> Result<Option<IpAddr>, Error> {
    let fields: Vec<&str> = line.split(' ').collect();
    match fields.as_slice() {
        // The specification demands that fields after UNKNOWN are ignored.
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        [
            "PROXY",
            family @ ("TCP4" | "TCP6"),
            source,
            destination,
            source_port,
            destination_port,
        ] => {
            // The family is that of the source. nginx may write a destination of the other family.
            let source = match *family {
                "TCP4" => parse_ipv4(source),
                _ => parse_ipv6(source),
            };
            let destination = parse_ipv4(destination).or_else(|| parse_ipv6(destination));
            let is_valid =
                destination.is_some() && is_port(source_port) && is_port(destination_port);
            let source = source.filter(|_| is_valid);
            source
                .map(Some)
                .ok_or(Error::Malformed("an address or a port is invalid"))
        }
        _ => Err(Error::Malformed(
            "the line is not PROXY, a family, two addresses, two ports",
        )),
    }
}

fn parse_ipv4(text: &str) -> Option<IpAddr> {
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

/// Parses an IPv6 address. `inet_ntop` and nginx write the last 32 bits as an IPv4 address only if the address is
/// IPv4-mapped, so this form is accepted for no other address.
fn parse_ipv6(text: &str) -> Option<IpAddr> {
    let address = text.parse::<Ipv6Addr>().ok()?;
    let is_usual_form = !text.contains('.') || address.to_ipv4_mapped().is_some();
    is_usual_form.then_some(IpAddr::V6(address))
}

fn is_port(text: &str) -> bool {
    parse_canonical_decimal::<u16>(text).is_some()
}

/// Parses a header of version 2: sixteen bytes, the last two of which are the length of the rest.
fn parse_v2(bytes: &[u8]) -> Result<Header, Error> {
    let Some((prefix, rest)) = bytes.split_at_checked(V2_PREFIX) else {
        return Ok(Header::Incomplete {
            missing: V2_PREFIX - bytes.len(),
        });
    };
    let [.., version, family, high, low] = prefix else {
        return Err(Error::Missing);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if version >> 4 != 2 {
        return Err(Error::Malformed("the version is not 2"));
    }
    if length > MAX_V2_REST {
        return Err(Error::Malformed("the header is longer than 4 KiB"));
    }
    let addresses = AddressBlock::new(version & 0xf, *family)?;
    if length < addresses.len() {
        return Err(Error::Malformed("the header is shorter than its addresses"));
    }
    let Some(rest) = rest.get(..length) else {
        return Ok(Header::Incomplete {
            missing: length - rest.len(),
        });
    };
    let client = addresses.client(rest)?;
    Ok(Header::Complete {
        length: V2_PREFIX + length,
        client,
    })
}

/// The addresses after the first sixteen bytes of version 2: source and destination with their ports.
#[derive(Clone, Copy)]
enum AddressBlock {
    /// There are no addresses, or they must be ignored.
    Ignored,
    V4,
    V6,
}

impl AddressBlock {
    /// Chooses by the command (LOCAL is 0, PROXY is 1) and by the byte of address family and transport. With LOCAL, the
    /// family does not count.
    fn new(command: u8, family: u8) -> Result<Self, Error> {
        match (command, family) {
            (0, _) | (1, 0x00) => Ok(Self::Ignored),
            (1, 0x11) => Ok(Self::V4),
            (1, 0x21) => Ok(Self::V6),
            (1, _) => Err(Error::Malformed("the family is not TCP over IPv4 or IPv6")),
            _ => Err(Error::Malformed("the command is neither LOCAL nor PROXY")),
        }
    }

    /// The length of the addresses in bytes.
    fn len(self) -> usize {
        match self {
            Self::Ignored => 0,
            Self::V4 => 12,
            Self::V6 => 36,
        }
    }

    /// The source address. Only complete TLVs may follow the addresses.
    fn client(self, rest: &[u8]) -> Result<Option<IpAddr>, Error> {
        let (addresses, tlvs) = rest.split_at_checked(self.len()).unwrap_or_default();
        let source = match self {
            Self::Ignored => return Ok(None),
            Self::V4 => addresses.first_chunk::<4>().copied().map(IpAddr::from),
            Self::V6 => addresses.first_chunk::<16>().copied().map(IpAddr::from),
        };
        if !are_complete(tlvs) {
            return Err(Error::Malformed("a TLV is longer than the header"));
        }
        Ok(source)
    }
}

/// Whether every TLV (a type, a length of two bytes, a value) ends within the bytes.
fn are_complete(mut tlvs: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = tlvs {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((_, next)) = rest.split_at_checked(length) else {
            return false;
        };
        tlvs = next;
    }
    tlvs.is_empty()
}

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of what precedes the addresses in version 2: signature, version and command, family and transport, length.
const V2_PREFIX: usize = 16;
/// The length of the shortest line of version 1, `PROXY UNKNOWN` and CR LF.
const MIN_LINE: usize = 15;
/// The length of CR LF.
const CRLF_LEN: usize = 2;
/// The length of the longest line of version 1: two IPv6 addresses of 39 bytes, and CR LF (section 2.1).
const MAX_LINE: usize = 107;
/// The maximum length of the addresses and TLVs of version 2. Only a chain of client certificates is longer, which the
/// proxy does not use.
const MAX_V2_REST: usize = 4096;
/// The initial buffer size. Most headers are shorter.
const TYPICAL_HEADER: usize = 128;

#[cfg(test)]
mod tests;
