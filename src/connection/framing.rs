//! The framing of HTTP/1 requests, read before hyper reads it.
//!
//! hyper forgives what two parsers may read in two ways: a length beside a transfer coding, a length said twice, a line
//! that ends in LF alone, a fragment in the target. By the time a request is parsed nobody can see any of it, so
//! `heard` shows every byte to [`RequestFramingValidator`] first. It follows heads and bodies, also of pipelined requests, and says
//! at which byte it refuses to go on. It keeps no bytes but the beginning of a line, and judges no field that frames
//! nothing: that is hyper's and `service`'s part.

use memchr::{memchr, memchr3};

use line::{Line, number, trim, trim_end};

mod line;

/// Where in the stream of requests the next byte stands.
#[derive(Debug, Default)]
pub(super) struct RequestFramingValidator {
    state: State,
    line: Line,
    body: BodyLength,
    /// Bytes of a head have come, and not its end.
    is_open: bool,
    /// A head ended in what was read last.
    has_ended: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the end of a request line.
    #[default]
    Request,
    Fields,
    /// A body of which so many bytes are missing.
    Sized(u64),
    ChunkSize,
    Chunk(u64),
    /// The CRLF behind a chunk's data.
    ChunkEnd,
    Trailers,
    /// Nothing that follows is a request.
    Over,
}

/// What the head says of its body.
#[derive(Debug, Default)]
struct BodyLength {
    length: Option<u64>,
    coding: Option<TransferCoding>,
    is_tunnel: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TransferCoding {
    Chunked,
    /// Answered 501 by `service`: how the body ends is anybody's guess.
    Unknown,
}

/// A byte that hyper must not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FramingViolation {
    /// Its index in what was read.
    pub(super) at: usize,
    pub(super) place: Region,
}

/// What a refused byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    /// To a malformed head.
    Head,
    /// To a malformed body.
    Body,
    /// To nothing: the head before it was the last one.
    Behind,
}

impl RequestFramingValidator {
    /// Follows more bytes of the stream.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), FramingViolation> {
        self.has_ended = false;
        let mut rest = bytes;
        while let Some((&byte, behind)) = rest.split_first() {
            let place = self.place();
            self.is_open |= place == Region::Head;
            let plain = self.pass(rest);
            if plain > 0 {
                rest = rest.get(plain..).unwrap_or_default();
            } else if self.step(byte).is_some() {
                rest = behind;
            } else {
                self.state = State::Over;
                let at = bytes.len() - rest.len();
                return Err(FramingViolation { at, place });
            }
        }
        Ok(())
    }

    /// True while some of a head has come, and not all of it.
    pub(super) fn is_in_head(&self) -> bool {
        self.is_open
    }

    /// True when all that has come are whole requests.
    pub(super) fn is_between_requests(&self) -> bool {
        self.state == State::Request && !self.is_open
    }

    /// True when the last read brought the end of a head.
    pub(super) fn has_ended_head(&self) -> bool {
        self.has_ended
    }

    /// What the next byte belongs to.
    fn place(&self) -> Region {
        match self.state {
            State::Request | State::Fields => Region::Head,
            State::Over => Region::Behind,
            _ => Region::Body,
        }
    }

    /// Passes over the bytes at the beginning that cannot end what they stand in, and says how many: data by its
    /// count, a line by a search. Measured, this is all that a body costs, and most of what a head does.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        match &mut self.state {
            State::Sized(missing) | State::Chunk(missing) => {
                let left = bytes.len() as u64;
                let count = left.min(*missing);
                *missing -= count;
                self.end_data();
                usize::try_from(count).unwrap_or(bytes.len())
            }
            State::Request | State::Fields | State::ChunkSize | State::Trailers => {
                if self.line.ends_in_cr {
                    return 0;
                }
                let end = memchr3(b'\r', b'\n', 0, bytes).unwrap_or(bytes.len());
                let mut text = bytes.get(..end).unwrap_or_default();
                // A fragment is never sent (RFC 9112 section 3.2); hyper would cut it off.
                if self.state == State::Request
                    && let Some(end) = memchr(b'#', text)
                {
                    text = text.get(..end).unwrap_or_default();
                }
                self.line.push(text);
                text.len()
            }
            State::ChunkEnd | State::Over => 0,
        }
    }

    fn end_data(&mut self) {
        match self.state {
            State::Sized(0) => self.state = State::Request,
            State::Chunk(0) => self.state = State::ChunkEnd,
            _ => {}
        }
    }

    /// One byte that was not passed over; `None` is a refusal. What is no end of a line is out of place: a bare CR, a bare
    /// LF, NUL (RFC 9112 section 2.2, RFC 9110 section 5.5), a fragment, more data than the chunk has, anything
    /// behind the last request.
    fn step(&mut self, byte: u8) -> Option<()> {
        match (self.line.ends_in_cr, byte) {
            (true, b'\n') => {
                let next = self.end_line()?;
                self.line.clear();
                self.state = next;
            }
            (false, b'\r') if self.state != State::Over => self.line.ends_in_cr = true,
            _ => return None,
        }
        Some(())
    }

    fn end_line(&mut self) -> Option<State> {
        let is_empty = self.line.start.is_empty();
        match self.state {
            // An empty line before a request is no part of it (RFC 9112 section 2.2).
            State::Request if is_empty => {
                self.is_open = false;
                Some(State::Request)
            }
            State::Request => {
                self.body = BodyLength::of_request(&self.line)?;
                Some(State::Fields)
            }
            State::Fields if is_empty => {
                (self.is_open, self.has_ended) = (false, true);
                self.body.state()
            }
            State::Fields => self.body.field(&self.line).map(|()| State::Fields),
            State::ChunkSize => chunk(&self.line),
            State::ChunkEnd => Some(State::ChunkSize),
            State::Trailers if is_empty => Some(State::Request),
            State::Trailers => (!self.line.is_folded()).then_some(State::Trailers),
            State::Sized(_) | State::Chunk(_) | State::Over => None,
        }
    }
}

impl BodyLength {
    fn of_request(line: &Line) -> Option<Self> {
        // HTTP/2's preface, which hyper would not answer.
        if line.start.starts_with(b"PRI ") {
            return None;
        }
        Some(Self {
            is_tunnel: line.start.starts_with(b"CONNECT "),
            ..Self::default()
        })
    }

    /// A line of the head.
    fn field(&mut self, line: &Line) -> Option<()> {
        if line.is_folded() {
            return None;
        }
        let colon = line.start.iter().position(|byte| *byte == b':');
        let Some((name, value)) = colon.and_then(|at| line.start.split_at_checked(at)) else {
            // hyper refuses a line without a colon, and this name is longer than those that matter.
            return Some(());
        };
        let value = trim(value.get(1..).unwrap_or_default());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = number(value, 10).filter(|_| !line.is_cut && self.length.is_none())?;
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_chunked = value.eq_ignore_ascii_case(b"chunked") && !line.is_cut;
            self.coding = Some(match self.coding {
                None if is_chunked => TransferCoding::Chunked,
                _ => TransferCoding::Unknown,
            });
        }
        Some(())
    }

    /// What follows the head.
    fn state(&self) -> Option<State> {
        match (self.length, self.coding) {
            (Some(_), Some(_)) => None,
            (_, Some(TransferCoding::Unknown)) => Some(State::Over),
            // Refused by `service`; whatever the client takes for a tunnel is not read.
            _ if self.is_tunnel => Some(State::Over),
            (None, Some(TransferCoding::Chunked)) => Some(State::ChunkSize),
            (Some(0) | None, None) => Some(State::Request),
            (Some(length), None) => Some(State::Sized(length)),
        }
    }
}

/// The size of a chunk. What extensions say does not matter to the framing (RFC 9112 section 7.1.1). White space between the
/// size and an extension is "bad" to that section: a sender must not write it, and a recipient must read past it. It is
/// bounded by what [`Line`] keeps. White space without an extension behind it is not in the grammar.
fn chunk(line: &Line) -> Option<State> {
    let digits = match memchr(b';', &line.start) {
        Some(end) => trim_end(line.start.get(..end)?),
        None => &line.start,
    };
    // Of more digits not all may have been kept, while hyper reads them all.
    if digits.len() > SIZE_DIGITS {
        return None;
    }
    match number(digits, 16)? {
        0 => Some(State::Trailers),
        size => Some(State::Chunk(size)),
    }
}

/// Enough for every size there can be.
const SIZE_DIGITS: usize = 16;

#[cfg(test)]
mod tests;
