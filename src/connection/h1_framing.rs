//! Validates the framing of HTTP/1 requests before hyper parses them.
//!
//! hyper accepts framing that two parsers may read in two ways, which enables request smuggling: Content-Length in addition to
//! Transfer-Encoding, a repeated Content-Length, a line that ends in a bare LF, a fragment in the request target. The parsed
//! request does not show any of these, so `inspect` passes every byte to [`RequestFramingValidator`] first. The validator
//! follows header sections and bodies, also of pipelined requests, and reports the byte at which the framing is violated. It
//! keeps no bytes except the beginning of a line, and checks no field that does not frame a body: hyper and `service` do that.

use memchr::{memchr, memchr3};

/// Follows the requests of a connection, byte by byte where the framing depends on it.
#[derive(Debug, Default)]
pub(crate) struct RequestFramingValidator {
    position: Position,
    line: Line,
    body: BodyFraming,
    /// Bytes of a header section have arrived, but not its end.
    is_in_head: bool,
    /// A header section ended in the bytes of the last [`Self::read`].
    has_ended_head: bool,
    /// The last [`Self::read`] stopped after a header section with `Upgrade`.
    awaits_upgrade: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    #[default]
    RequestLine,
    FieldLine,
    /// The body of a request with Content-Length, of which this many bytes are missing.
    SizedBody(u64),
    ChunkSize,
    /// The data of a chunk, of which this many bytes are missing.
    ChunkData(u64),
    /// The CRLF after the data of a chunk.
    ChunkEnd,
    TrailerLine,
    /// Nothing that follows is a request.
    AfterLastRequest,
}

/// A byte that hyper must not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FramingViolation {
    /// The index of the byte in the slice that was read.
    pub(crate) at: usize,
    pub(crate) region: Region,
}

/// The part of a request in which a violation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    /// A malformed header section.
    Head,
    /// A malformed body.
    Body,
    /// Bytes after a request that must be the last one of the connection.
    AfterLastRequest,
}

impl RequestFramingValidator {
    /// Follows more bytes of the stream, and returns how many.
    ///
    /// The result is less than all of them only after the header section of a request with `Upgrade` and without a body
    /// ([`Self::awaits_upgrade`]): what the next bytes are depends on the response. The caller passes them to the next call if the
    /// connection stays with HTTP.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<usize, FramingViolation> {
        (self.has_ended_head, self.awaits_upgrade) = (false, false);
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first()
            && !self.awaits_upgrade
        {
            let region = self.region();
            self.is_in_head |= region == Region::Head;
            let skipped = self.skip_content(rest);
            if skipped > 0 {
                rest = rest.get(skipped..).unwrap_or_default();
            } else if self.read_line_end(byte).is_some() {
                rest = after;
            } else {
                self.position = Position::AfterLastRequest;
                let at = bytes.len() - rest.len();
                return Err(FramingViolation { at, region });
            }
        }
        Ok(bytes.len() - rest.len())
    }

    /// Whether the last read stopped after a request that may change the protocol of the connection.
    pub(crate) fn awaits_upgrade(&self) -> bool {
        self.awaits_upgrade
    }

    /// Whether a part of a header section has arrived, but not all of it.
    pub(crate) fn is_in_head(&self) -> bool {
        self.is_in_head
    }

    /// Whether the bytes so far are complete requests.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.position == Position::RequestLine && !self.is_in_head
    }

    /// Whether the last read contained the end of a header section.
    pub(crate) fn has_ended_head(&self) -> bool {
        self.has_ended_head
    }

    fn region(&self) -> Region {
        match self.position {
            Position::RequestLine | Position::FieldLine => Region::Head,
            Position::AfterLastRequest => Region::AfterLastRequest,
            Position::SizedBody(_)
            | Position::ChunkSize
            | Position::ChunkData(_)
            | Position::ChunkEnd
            | Position::TrailerLine => Region::Body,
        }
    }

    /// Skips the leading bytes that cannot end a line or a body, and returns their number: body data by its length, a line by a
    /// search for its end. Measured, this is the whole cost of a body, and most of the cost of a header section.
    fn skip_content(&mut self, bytes: &[u8]) -> usize {
        match &mut self.position {
            Position::SizedBody(missing) | Position::ChunkData(missing) => {
                let available = bytes.len() as u64;
                let count = available.min(*missing);
                *missing -= count;
                self.end_data();
                usize::try_from(count).unwrap_or(bytes.len())
            }
            Position::RequestLine
            | Position::FieldLine
            | Position::ChunkSize
            | Position::TrailerLine => {
                if self.line.ends_in_cr {
                    return 0;
                }
                let end = memchr3(b'\r', b'\n', 0, bytes).unwrap_or(bytes.len());
                let mut text = bytes.get(..end).unwrap_or_default();
                // A client never sends a fragment (RFC 9112 section 3.2). hyper would remove it.
                if self.position == Position::RequestLine
                    && let Some(end) = memchr(b'#', text)
                {
                    text = text.get(..end).unwrap_or_default();
                }
                self.line.push(text);
                text.len()
            }
            Position::ChunkEnd | Position::AfterLastRequest => 0,
        }
    }

    fn end_data(&mut self) {
        match self.position {
            Position::SizedBody(0) => self.position = Position::RequestLine,
            Position::ChunkData(0) => self.position = Position::ChunkEnd,
            _ => {}
        }
    }

    /// Reads one byte that was not skipped, which must be a part of CRLF. Returns `None` for a violation: a bare CR or LF, a NUL
    /// (RFC 9112 section 2.2, RFC 9110 section 5.5), a fragment, more data than the chunk has, any byte after the last request.
    fn read_line_end(&mut self, byte: u8) -> Option<()> {
        match (self.line.ends_in_cr, byte) {
            (true, b'\n') => {
                let next = self.end_line()?;
                self.line.clear();
                self.position = next;
            }
            (false, b'\r') if self.position != Position::AfterLastRequest => {
                self.line.ends_in_cr = true;
            }
            _ => return None,
        }
        Some(())
    }

    /// Evaluates a complete line. Returns the position after it, or `None` for a violation.
    fn end_line(&mut self) -> Option<Position> {
        let is_empty = self.line.start.is_empty();
        match self.position {
            // An empty line before a request is not a part of it (RFC 9112 section 2.2).
            Position::RequestLine if is_empty => {
                self.is_in_head = false;
                Some(Position::RequestLine)
            }
            Position::RequestLine => {
                self.body = BodyFraming::of_request(&self.line)?;
                Some(Position::FieldLine)
            }
            Position::FieldLine if is_empty => {
                (self.is_in_head, self.has_ended_head) = (false, true);
                let next = self.body.position_after_head();
                self.awaits_upgrade = self.body.has_upgrade && next == Some(Position::RequestLine);
                next
            }
            Position::FieldLine => {
                self.body.read_field(&self.line)?;
                Some(Position::FieldLine)
            }
            Position::ChunkSize => position_after_chunk_size(&self.line),
            Position::ChunkEnd => Some(Position::ChunkSize),
            Position::TrailerLine if is_empty => Some(Position::RequestLine),
            Position::TrailerLine => (!self.line.is_folded()).then_some(Position::TrailerLine),
            Position::SizedBody(_) | Position::ChunkData(_) | Position::AfterLastRequest => None,
        }
    }
}

/// What the header section declares about the body.
#[derive(Debug, Default)]
struct BodyFraming {
    content_length: Option<u64>,
    transfer_coding: Option<TransferCoding>,
    is_connect: bool,
    has_upgrade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferCoding {
    Chunked,
    /// Another coding, or several codings. `service` responds with 501. Where the body ends is not known.
    Unknown,
}

impl BodyFraming {
    fn of_request(line: &Line) -> Option<Self> {
        // This is the preface of HTTP/2. hyper would close the connection without a response.
        if line.start.starts_with(b"PRI ") {
            return None;
        }
        Some(Self {
            is_connect: line.start.starts_with(b"CONNECT "),
            ..Self::default()
        })
    }

    /// Reads a field line. Returns `None` for a violation.
    fn read_field(&mut self, line: &Line) -> Option<()> {
        if line.is_folded() {
            return None;
        }
        let colon = line.start.iter().position(|byte| *byte == b':');
        let Some((name, value)) = colon.and_then(|at| line.start.split_at_checked(at)) else {
            // Either hyper rejects this line because it has no colon, or the name is longer than the names that frame a body.
            return Some(());
        };
        let value = trim(value.get(1..).unwrap_or_default());
        if name.eq_ignore_ascii_case(b"content-length") {
            if line.is_truncated || self.content_length.is_some() {
                return None;
            }
            self.content_length = Some(parse_number(value, 10)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_chunked = value.eq_ignore_ascii_case(b"chunked") && !line.is_truncated;
            self.transfer_coding = Some(match self.transfer_coding {
                None if is_chunked => TransferCoding::Chunked,
                _ => TransferCoding::Unknown,
            });
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.has_upgrade = true;
        }
        Some(())
    }

    /// The position after the header section; `None` for a violation.
    fn position_after_head(&self) -> Option<Position> {
        match (self.content_length, self.transfer_coding) {
            (Some(_), Some(_)) => None,
            (_, Some(TransferCoding::Unknown)) => Some(Position::AfterLastRequest),
            // `service` rejects CONNECT. The bytes that follow may be meant for the tunnel, so they are not read as a request.
            _ if self.is_connect => Some(Position::AfterLastRequest),
            (None, Some(TransferCoding::Chunked)) => Some(Position::ChunkSize),
            (Some(0) | None, None) => Some(Position::RequestLine),
            (Some(length), None) => Some(Position::SizedBody(length)),
        }
    }
}

/// Evaluates a line with the size of a chunk. Returns `None` for a violation.
///
/// Chunk extensions do not affect the framing (RFC 9112 section 7.1.1). White space between the size and an extension is "bad"
/// in that section: a sender must not generate it, and a recipient must parse it. It is bounded by what [`Line`] keeps. White
/// space that no extension follows is not in the grammar.
fn position_after_chunk_size(line: &Line) -> Option<Position> {
    let digits = match memchr(b';', &line.start) {
        Some(end) => trim_end(line.start.get(..end)?),
        None => &line.start,
    };
    // A line may have more digits than were kept, while hyper reads all of them.
    if digits.len() > MAX_CHUNK_SIZE_DIGITS {
        return None;
    }
    match parse_number(digits, 16)? {
        0 => Some(Position::TrailerLine),
        size => Some(Position::ChunkData(size)),
    }
}

/// The number of hexadecimal digits of the largest `u64`.
const MAX_CHUNK_SIZE_DIGITS: usize = 16;

/// A line that is being read: its beginning, as far as the framing can depend on it.
#[derive(Debug, Default)]
struct Line {
    start: Vec<u8>,
    /// The line is longer than `start`.
    is_truncated: bool,
    /// The last byte was CR, so the next one must be LF.
    ends_in_cr: bool,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        let room = MAX_LINE_START - self.start.len();
        self.start
            .extend_from_slice(text.get(..room).unwrap_or(text));
        self.is_truncated |= text.len() > room;
    }

    /// Whether the line continues the line before it (`obs-fold`, RFC 9112 section 5.2).
    fn is_folded(&self) -> bool {
        matches!(self.start.first(), Some(b' ' | b'\t'))
    }

    fn clear(&mut self) {
        self.start.clear();
        (self.is_truncated, self.ends_in_cr) = (false, false);
    }
}

/// The number of bytes of a line that are kept: more than any line needs that frames a body, unless it is crafted to exceed the
/// limit.
const MAX_LINE_START: usize = 64;

/// Removes the optional white space around a field value (RFC 9110 section 5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    trim_end(value)
}

/// Removes the optional white space after a value (RFC 9110 section 5.6.3).
fn trim_end(mut value: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Parses a number that consists of digits only; `str::parse` would accept a sign.
fn parse_number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        number.checked_mul(radix.into())?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the first violation when the bytes arrive in these pieces.
    fn violation<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<FramingViolation> {
        let mut framing = RequestFramingValidator::default();
        let mut before = 0;
        for piece in pieces {
            if let Err(violation) = framing.read(piece) {
                let at = before + violation.at;
                assert!(
                    framing.read(b"x").is_err(),
                    "bytes after the violation were accepted"
                );
                return Some(FramingViolation { at, ..violation });
            }
            before += piece.len();
        }
        None
    }

    /// Returns the position after valid bytes.
    fn position_after(bytes: &[u8]) -> Position {
        let mut framing = RequestFramingValidator::default();
        framing.read(bytes).unwrap();
        framing.position
    }

    const POST: &str = "POST /x HTTP/1.1\r\nHost: a\r\n";

    #[test]
    fn bodies_are_followed_to_the_next_request() {
        let cases = [
            ("Content-Length: 3\r\n\r\nabc", Position::RequestLine),
            ("content-LENGTH:\t3 \r\n\r\nab", Position::SizedBody(1)),
            ("Content-Length: 0\r\n\r\n", Position::RequestLine),
            ("\r\n", Position::RequestLine),
            ("\r\n\r\n\r\n", Position::RequestLine),
            ("Transfer-Encoding: chunked\r\n\r\n", Position::ChunkSize),
            (
                "Transfer-Encoding: Chunked\r\n\r\na;x=\"1\"\r\n12",
                Position::ChunkData(8),
            ),
            (
                "Transfer-Encoding: chunked\r\n\r\na \t ; x = \"1\"\r\n12",
                Position::ChunkData(8),
            ),
            (
                "Transfer-Encoding: chunked\r\n\r\n1 ;\r\nx\r\n0\t;\r\n",
                Position::TrailerLine,
            ),
            (
                "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n",
                Position::TrailerLine,
            ),
            (
                "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n",
                Position::RequestLine,
            ),
            (
                "Transfer-Encoding: gzip, chunked\r\n\r\n",
                Position::AfterLastRequest,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Position::AfterLastRequest,
            ),
            ("X: a\r\nY", Position::FieldLine),
        ];
        for (rest, position) in cases {
            let request = format!("{POST}{rest}");
            assert_eq!(position_after(request.as_bytes()), position, "{rest:?}");
        }
        assert_eq!(
            position_after(b"CONNECT a:1 HTTP/1.1\r\n\r\n"),
            Position::AfterLastRequest
        );
        let (at, region) = (24, Region::AfterLastRequest);
        let tunnel = b"CONNECT a:1 HTTP/1.1\r\n\r\nGET";
        assert_eq!(
            violation([tunnel.as_slice()]),
            Some(FramingViolation { at, region })
        );
    }

    #[test]
    fn framing_that_two_parsers_may_read_in_two_ways_is_a_violation() {
        // The byte after "!" is the one at which the violation is reported.
        let heads = [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r!\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r!\n",
            "Content-Length: 3\r\nContent-Length: 3\r!\n",
            "Content-Length: 3, 3\r!\n",
            "Content-Length: +3\r!\n",
            "Content-Length: 0x3\r!\n",
            "Content-Length: -1\r!\n",
            "Content-Length:\r!\n",
            "Content-Length: 18446744073709551616\r!\n",
            "Content-Length:\x0b3\r!\n",
            "Content-Length: 3\x0c\r!\n",
            "Content-Length: 00000000000000000000000000000000000000000000000003\r!\n",
            "X: a!\n",
            "X: a\r!b",
            "X: a!\0b",
            "X: a\r\n b\r!\n",
            "X: a\r\n\tb\r!\n",
        ];
        let bodies = [
            "0x1\r!\n",
            "+1\r!\n",
            "1_0\r!\n",
            " 1\r!\n",
            "1 \r!\n",
            "1 1;x\r!\n",
            "1 x;y\r!\n",
            " 1 ;x\r!\n",
            " ;x\r!\n",
            "1 !\n;x",
            "1 \r! ;x",
            "1!\x00;x",
            // The end of the size is beyond the bytes that are kept of a line.
            "1                                                                ;x\r!\n",
            "\r!\n",
            "1!\n",
            "1;a!\n",
            "1;a\r!b",
            "10000000000000001\r!\n",
            "00000000000000001\r!\n",
            // The value of the size depends on digits beyond the bytes that are kept of a line.
            "000000000000000000000000000000000000000000000000000000000000000000010\r!\n",
            "0000000000000000000000000000000000000000000000000000000000000001;x\r!\n",
            "1\r\nZ!Z",
            "1\r\nZ!\n",
            "0\r\n A: b\r!\n",
            "0\r\nA: b!\n",
        ];
        let chunked = "Transfer-Encoding: chunked\r\n\r\n";
        let heads = heads.iter().map(|case| (String::new(), case, Region::Head));
        let bodies = bodies
            .iter()
            .map(|case| (chunked.to_owned(), case, Region::Body));
        for (before, case, region) in heads.chain(bodies) {
            let marked = format!("{POST}{before}{case}");
            let at = marked.find('!').unwrap();
            let bytes = marked.replacen('!', "", 1);
            let expected = Some(FramingViolation { at, region });
            assert_eq!(violation([bytes.as_bytes()]), expected, "{case:?}");
            let single_bytes = bytes.as_bytes().chunks(1);
            assert_eq!(violation(single_bytes), expected, "{case:?} byte by byte");
        }
    }

    #[test]
    fn reading_stops_after_a_request_that_may_change_the_protocol() {
        let head = "GET /x HTTP/1.1\r\nHost: a\r\nUPGRADE: websocket\r\n\r\n";
        let next = "\0 no HTTP";
        for rest in ["", next] {
            let mut framing = RequestFramingValidator::default();
            let bytes = [head, rest].concat();
            assert_eq!(framing.read(bytes.as_bytes()).unwrap(), head.len());
            assert!(framing.awaits_upgrade() && framing.is_between_requests());
            // The connection stays with HTTP.
            assert_eq!(framing.read(b"GET / HTTP/1.1\r\n").unwrap(), 16);
            assert!(!framing.awaits_upgrade() && framing.is_in_head());
        }
        for with_body in ["Content-Length: 3\r\n\r\nabc", "\r\nGET "] {
            let mut framing = RequestFramingValidator::default();
            let upgrade = if with_body.starts_with('C') {
                "Upgrade: h2c\r\n"
            } else {
                "X-Upgrade: h2c\r\n"
            };
            let bytes = format!("{POST}{upgrade}{with_body}");
            assert_eq!(framing.read(bytes.as_bytes()).unwrap(), bytes.len());
            assert!(!framing.awaits_upgrade());
        }
    }

    #[test]
    fn malformed_request_lines_are_violations() {
        for line in [
            "GET /x#y HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "GET /x HTTP/1.1\n",
        ] {
            assert!(violation([line.as_bytes()]).is_some(), "{line:?}");
        }
    }

    #[test]
    fn a_head_is_incomplete_from_its_first_byte_to_its_end() {
        let mut framing = RequestFramingValidator::default();
        let mut seen = |bytes: &str| {
            framing.read(bytes.as_bytes()).unwrap();
            (framing.has_ended_head(), framing.is_in_head())
        };
        assert_eq!(seen("G"), (false, true));
        assert_eq!(seen("ET / HTTP/1.1\r\n\r"), (false, true));
        assert_eq!(seen("\n"), (true, false));
        assert_eq!(
            seen("GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab"),
            (true, false)
        );
        assert_eq!(
            seen("\r\n"),
            (false, false),
            "an empty line begins no header section"
        );
        assert_eq!(seen("\r"), (false, true));
        assert_eq!(seen("\nGET / HTTP/1.1\r\n\r\nGET"), (true, true));
    }

    /// Valid and invalid sequences of pieces of requests.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let pieces = [
            "GET / HTTP/1.1\r\n",
            "POST /v2/ HTTP/1.1\r\n",
            "Host: a\r\n",
            "Content-Length: ",
            "Transfer-Encoding: ",
            "chunked",
            "3",
            "\r\n",
            "\r\n\r\n",
            "\n",
            "\r",
            "\0",
            "abc",
            " ",
            "\t",
            ":",
            ";",
            "1 ;x\r\nZ\r\n",
            "0\r\n",
            "1\r\nZ\r\n",
            "0000000000000000",
            "#",
        ];
        let piece =
            prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec());
        let any = prop_oneof![8 => piece, 1 => prop::collection::vec(any::<u8>(), 0..4)];
        prop::collection::vec(any, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_how_the_bytes_are_split(bytes in hostile(), size in 1..9_usize) {
            prop_assert_eq!(violation([bytes.as_slice()]), violation(bytes.chunks(size)));
        }
    }
}
