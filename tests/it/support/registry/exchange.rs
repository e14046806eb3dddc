//! One exchange at the registry of the tests: the handler reads the request and sends the response.

use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use super::{RecordedRequest, RequestEnd, Shared, Socket, read_line};

/// A request at the registry, with which the handler reads the body and sends the response.
pub(crate) struct Exchange<'a> {
    /// The request head.
    pub(crate) head: RecordedRequest,
    index: usize,
    reader: &'a mut BufReader<Box<dyn Socket>>,
    framing: Framing,
    shared: &'a Shared,
    is_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Done,
    Broken,
    Length(usize),
    /// The number of bytes that are missing of the current chunk.
    Chunked(usize),
}

impl<'a> Exchange<'a> {
    /// Creates the exchange of a request whose head was read. `index` is its number among all requests.
    pub(super) fn new(
        head: RecordedRequest,
        index: usize,
        reader: &'a mut BufReader<Box<dyn Socket>>,
        shared: &'a Shared,
    ) -> Self {
        let framing = framing_of(&head);
        let exchange = Self {
            head,
            index,
            reader,
            framing,
            shared,
            is_open: true,
        };
        exchange.note_end();
        exchange
    }

    /// Whether another request may follow on the connection.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_open && self.framing == Framing::Done
    }

    /// Reads more of the body. `None` at its end, and if the client broke the connection.
    pub(crate) fn more(&mut self) -> Option<Vec<u8>> {
        let bytes = self.read_more();
        if bytes.is_err() {
            self.framing = Framing::Broken;
        }
        let bytes = bytes.ok().filter(|bytes| !bytes.is_empty());
        if let Some(bytes) = &bytes {
            self.shared.requests.lock()[self.index].body.extend(bytes);
        }
        self.note_end();
        bytes
    }

    /// Reads the rest of the body.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(more) = self.more() {
            body.extend(more);
        }
        body
    }

    /// Sends bytes. It is no error if the peer has closed the connection.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if self.shared.is_killed() || self.reader.get_mut().write_all(bytes.as_ref()).is_err() {
            self.is_open = false;
        }
    }

    /// Whether the last bytes could be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Sets the timeout of reads and writes.
    pub(crate) fn set_timeout(&self, time: Duration) {
        self.reader.get_ref().set_timeout(time);
    }

    /// Closes the connection once the handler is done.
    pub(crate) fn close(&mut self) {
        self.is_open = false;
    }

    /// The next bytes of the connection after a change of the protocol, which are recorded as the body; nothing at its end.
    pub(crate) fn raw(&mut self) -> Option<Vec<u8>> {
        let bytes = self.reader.fill_buf().unwrap_or_default().to_vec();
        self.reader.consume(bytes.len());
        self.shared.requests.lock()[self.index].body.extend(&bytes);
        self.framing = if bytes.is_empty() {
            Framing::Done
        } else {
            Framing::Broken
        };
        self.note_end();
        Some(bytes).filter(|bytes| !bytes.is_empty())
    }

    /// Reads and discards until the peer closes; the request counts as broken then.
    pub(crate) fn wait_closed(&mut self) {
        let mut space = [0; 4096];
        while matches!(self.reader.read(&mut space), Ok(1..)) {}
        self.framing = Framing::Broken;
        self.note_end();
    }

    fn note_end(&self) {
        let end = match self.framing {
            Framing::Done => RequestEnd::Whole,
            Framing::Broken => RequestEnd::Broken,
            Framing::Length(_) | Framing::Chunked(_) => RequestEnd::NotYet,
        };
        self.shared.requests.lock()[self.index].end = end;
        self.shared.changed.notify_all();
    }

    fn read_more(&mut self) -> io::Result<Vec<u8>> {
        let mut left = match self.framing {
            Framing::Done | Framing::Broken => return Ok(Vec::new()),
            Framing::Length(left) => left,
            Framing::Chunked(0) => {
                let size = read_line(self.reader)?;
                let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    let last = read_line(self.reader)?;
                    assert_eq!(last, "", "trailers");
                    self.framing = Framing::Done;
                    return Ok(Vec::new());
                }
                size
            }
            Framing::Chunked(left) => left,
        };
        let ready = self.reader.fill_buf()?;
        if ready.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = ready[..ready.len().min(left)].to_vec();
        self.reader.consume(bytes.len());
        left -= bytes.len();
        self.framing = match self.framing {
            Framing::Length(_) if left == 0 => Framing::Done,
            Framing::Length(_) => Framing::Length(left),
            _ if left == 0 => {
                self.framing = Framing::Chunked(0);
                assert_eq!(read_line(self.reader)?, "", "the end of a chunk");
                Framing::Chunked(0)
            }
            _ => Framing::Chunked(left),
        };
        Ok(bytes)
    }
}

fn framing_of(head: &RecordedRequest) -> Framing {
    let (coding, length) = (head.all("transfer-encoding"), head.all("content-length"));
    match (coding.as_slice(), length.as_slice()) {
        ([], [] | ["0"]) => Framing::Done,
        ([], [length]) => Framing::Length(length.parse().unwrap()),
        (["chunked"], []) => Framing::Chunked(0),
        other => panic!("framing {other:?}"),
    }
}
