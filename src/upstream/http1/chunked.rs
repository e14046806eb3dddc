//! The chunked coding of an answer (RFC 9112 7.1), taken out in place.
//!
//! Used by `framing`. The decoder is strict: a size is hex digits, a line ends in CRLF, and what stands between is
//! bounded. White space may stand between a size and an extension only: a recipient must read past it there (RFC 9112
//! section 7.1.1). Extensions and trailers are dropped, never shown.

use super::Error;
use super::framing::{Decoded, take};

/// How far the coding has been read; it can stop at any byte.
pub(super) struct Chunked {
    state: State,
    /// Data of this chunk still to come, or its size as far as read.
    due: u64,
    /// Bytes of the line, or of the trailer section, so far.
    length: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    /// In white space behind the size; an extension must follow.
    SizeSpace,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// At the start of a line after the last chunk.
    Trailer,
    Field,
    FieldEnd,
    /// The line feed of the empty line.
    LastLf,
    Done,
}

impl Chunked {
    /// At the start of a body.
    pub(super) const fn new() -> Self {
        Self {
            state: State::Size,
            due: 0,
            length: 0,
        }
    }

    /// True after the empty line behind the last chunk.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Moves the data in `bytes` to their front, over the framing between.
    pub(super) fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Error> {
        let (mut payload, mut at) = (0, 0);
        while at < bytes.len() && !self.is_done() {
            if self.state == State::Data {
                let count = take(&mut self.due, bytes.len() - at);
                if at != payload {
                    bytes.copy_within(at..at + count, payload);
                }
                payload += count;
                at += count;
                if self.due == 0 {
                    self.state = State::DataCr;
                }
            } else if let Some(byte) = bytes.get(at) {
                self.state = self.step(*byte)?;
                at += 1;
            }
        }
        Ok(Decoded {
            payload,
            consumed: at,
        })
    }

    /// One byte of framing.
    fn step(&mut self, byte: u8) -> Result<State, Error> {
        match (self.state, byte) {
            (State::Size, _) => self.size(byte),
            (State::SizeSpace, b';') => Ok(State::Extension),
            (State::SizeSpace, b' ' | b'\t') => self.count(byte, EXTENSION, State::SizeSpace),
            (State::SizeSpace, _) => Err(Error::Malformed("a chunk without a valid size")),
            (State::Extension, b'\r') => Ok(State::SizeEnd),
            (State::Extension, _) => self.count(byte, EXTENSION, State::Extension),
            (State::SizeEnd, b'\n') => Ok(self.begin_data()),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => {
                self.length = 0;
                Ok(State::Size)
            }
            (State::Trailer, b'\r') => Ok(State::LastLf),
            (State::Field, b'\r') => Ok(State::FieldEnd),
            (State::Trailer | State::Field, _) => self.count(byte, TRAILERS, State::Field),
            (State::FieldEnd, b'\n') => Ok(State::Trailer),
            (State::LastLf, b'\n') => Ok(State::Done),
            _ => Err(Error::Malformed("a chunk without its line end")),
        }
    }

    fn size(&mut self, byte: u8) -> Result<State, Error> {
        match (char::from(byte).to_digit(16), byte) {
            (Some(digit), _) if self.length < DIGITS => {
                self.length += 1;
                self.due = (self.due << 4) | u64::from(digit);
                Ok(State::Size)
            }
            (None, b'\r') if self.length > 0 => Ok(State::SizeEnd),
            (None, b';') if self.length > 0 => {
                self.length = 0;
                Ok(State::Extension)
            }
            (None, b' ' | b'\t') if self.length > 0 => {
                self.length = 0;
                Ok(State::SizeSpace)
            }
            _ => Err(Error::Malformed("a chunk without a valid size")),
        }
    }

    fn begin_data(&mut self) -> State {
        self.length = 0;
        if self.due == 0 {
            State::Trailer
        } else {
            State::Data
        }
    }

    /// A byte that is dropped; a line end in two bytes is the only control character but the tab.
    fn count(&mut self, byte: u8, bound: usize, next: State) -> Result<State, Error> {
        self.length += 1;
        if self.length > bound {
            return Err(Error::Malformed("a chunk extension or trailer too long"));
        }
        if byte.is_ascii_control() && byte != b'\t' {
            return Err(Error::Malformed("a chunk line with control characters"));
        }
        Ok(next)
    }
}

/// Hex digits of a size, as many as 64 bits hold.
const DIGITS: usize = 16;

/// Bytes of one chunk's extension, and of the white space before it.
const EXTENSION: usize = 1024;

/// Bytes of the trailer section.
const TRAILERS: usize = 8 * 1024;
