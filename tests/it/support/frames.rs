//! An HTTP/2 client that sends single frames, including frames that no library would send (RFC 9113, RFC 7541).
//!
//! It encodes fields as literals without indexing. Of a response, it reads only the status. Conforming clients are in `h2`.

use std::io;
use std::net::SocketAddr;

use super::{Client, certs};

/// One HTTP/2 connection.
pub(crate) struct RawH2 {
    pub(crate) client: Client,
    next: u32,
}

/// A received frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// How the proxy ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    /// RST_STREAM with this error code.
    Reset(u32),
    /// GOAWAY with this error code.
    Goaway(u32),
    Closed,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// The setting SETTINGS_HEADER_TABLE_SIZE = 0: this client does not decode the dynamic table of HPACK.
pub(crate) const NO_TABLE: (u16, u32) = (1, 0);
pub(crate) const INITIAL_WINDOW: u16 = 4;

impl RawH2 {
    /// Connects, sends the preface with [`NO_TABLE`], and reads the proxy's SETTINGS.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[])
    }

    /// Connects, sends the preface with [`NO_TABLE`] and further settings, and reads the proxy's SETTINGS.
    pub(crate) fn connect_with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut frames = Self::connect_without_settings(address);
        frames.send_preface(settings);
        frames
    }

    /// Connects with TLS and sends no HTTP/2 bytes.
    pub(crate) fn connect_without_settings(address: SocketAddr) -> Self {
        Self::over(Client::tls(
            address,
            "localhost",
            certs::default_client_config("h2"),
        ))
    }

    /// Uses an open connection on which no HTTP/2 bytes were sent.
    pub(crate) fn over(client: Client) -> Self {
        Self { client, next: 1 }
    }

    /// Sends the preface with SETTINGS, and reads the proxy's SETTINGS.
    pub(crate) fn send_preface(&mut self, settings: &[(u16, u32)]) {
        let all: Vec<u8> = [&[NO_TABLE], settings]
            .concat()
            .iter()
            .flat_map(setting)
            .collect();
        self.send(PREFACE);
        self.send(frame(SETTINGS, 0, 0, &all));
        self.ping_round_trip();
    }

    /// The ID for the next stream.
    pub(crate) fn next_stream_id(&mut self) -> u32 {
        let stream = self.next;
        self.next += 2;
        stream
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.send(bytes);
    }

    /// Sends bytes, and fails if the proxy has closed the connection.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.client.try_send(bytes)
    }

    /// Reads the next frame. Returns `None` at the end of the connection, whether it was closed or reset.
    pub(crate) fn read_frame(&mut self) -> Option<Frame> {
        let start = self.client.read_exact(9);
        let [a, b, c, kind, flags, id @ ..] = start.as_slice() else {
            return None;
        };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = self.client.read_exact(length);
        Some(Frame {
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes(id.try_into().ok()?) & 0x7fff_ffff,
            payload,
        })
    }

    /// Waits until the proxy has read everything that was sent. Returns false if the connection ended instead of an
    /// acknowledged PING.
    pub(crate) fn ping_round_trip(&mut self) -> bool {
        if self.try_send(frame(PING, 0, 0, b"barrier!")).is_err() {
            return false;
        }
        std::iter::from_fn(|| self.read_frame())
            .any(|it| it.kind == PING && it.payload == b"barrier!")
    }

    /// Reads until the proxy ends the stream or the connection.
    pub(crate) fn read_outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.read_frame() {
            match frame.kind {
                HEADERS if frame.stream == stream => {
                    return Outcome::Status(status(&frame.payload));
                }
                RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(code(&frame.payload, 0));
                }
                GOAWAY => return Outcome::Goaway(code(&frame.payload, 4)),
                _ => {}
            }
        }
        Outcome::Closed
    }

    /// Reads to the end of the connection, and returns the error codes of all GOAWAY frames.
    pub(crate) fn read_to_goaway(&mut self) -> Vec<u32> {
        let frames = std::iter::from_fn(|| self.read_frame());
        let goaways = frames.filter(|frame| frame.kind == GOAWAY);
        goaways.map(|frame| code(&frame.payload, 4)).collect()
    }
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Encodes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes one parameter of a SETTINGS frame.
pub(crate) fn setting((key, value): &(u16, u32)) -> Vec<u8> {
    [key.to_be_bytes().as_slice(), &value.to_be_bytes()].concat()
}

/// Encodes fields as a field block of literals.
pub(crate) fn header_block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(*text);
        }
    }
    block
}

/// Encodes an integer with a prefix of seven bits, with 0 as the eighth bit (RFC 7541 section 5.1).
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        block.push(u8::try_from(value).unwrap());
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    block.push(u8::try_from(value).unwrap());
}

/// The status, which is the first field of a block.
fn status(block: &[u8]) -> u16 {
    let known = [200, 204, 206, 304, 400, 404, 500];
    match block {
        // A dynamic table size update.
        [0x20..=0x3f, rest @ ..] => status(rest),
        [index @ 0x88..=0x8e, ..] => known[usize::from(index - 0x88)],
        [0x08 | 0x48 | 0x18, length, text @ ..] => {
            let text = &text[..usize::from(length & 0x7f)];
            let digits = if length & 0x80 == 0 {
                text.to_vec()
            } else {
                digits(text)
            };
            str::from_utf8(&digits).unwrap().parse().unwrap()
        }
        _ => panic!("no status in {block:02x?}"),
    }
}

/// Decodes three digits of the Huffman code of RFC 7541 appendix B.
fn digits(coded: &[u8]) -> Vec<u8> {
    let bits: String = coded.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut found) = (bits.as_str(), Vec::new());
    for _ in 0..3 {
        let (code, length) = match u8::from_str_radix(&rest[..5], 2).unwrap() {
            code @ 0..=2 => (code, 5),
            _ => (
                u8::from_str_radix(&rest[..6], 2).unwrap() - 0b011_001 + 3,
                6,
            ),
        };
        found.push(b'0' + code);
        rest = &rest[length..];
    }
    found
}

fn code(payload: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(payload[at..at + 4].try_into().unwrap())
}
