//! An upstream that fails in every way there is, over real sockets, and remembers what reached it.
//!
//! Used by the tests of aborts and early answers. Unlike [`super::Registry`] it owns its sockets alone, so that it can
//! reset them. Where nothing listens at all is [`super::registry::nowhere`].

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{OK, PATIENCE, pause};

/// What is done with a request once its head has come.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// None: the body is read, these bytes are sent, and the connection goes on.
    Answer(Vec<u8>),
    /// The same, and then the connection is closed as an idle one.
    CloseIdle(Vec<u8>),
    /// The body is read, and nothing is ever said.
    Silent,
    /// The body is read, and so many of these bytes are sent.
    Cut(Vec<u8>, usize, Close),
    /// So many bytes of the body are read, and nothing is said.
    Leave(usize, Close),
    /// These bytes are sent at once, with the body unread.
    Early(Vec<u8>),
    /// The body is read and the answer sent so many bytes at a time, with a rest between.
    Slow(Vec<u8>, usize, Duration),
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// By a FIN.
    Plainly,
    /// By an RST.
    Reset,
}

/// A request as far as it came.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamRequest {
    pub(crate) method: String,
    pub(crate) target: String,
    /// `X-Request-Id`
    pub(crate) id: String,
    /// Bytes of the body, without its framing.
    pub(crate) body: usize,
    /// The body came to its end: all of its length, or the last chunk.
    pub(crate) is_whole: bool,
    /// Which connection it came over, from 0.
    pub(crate) connection: usize,
    /// When the gate was seen to close the connection.
    pub(crate) closed: Option<Instant>,
}

/// A running upstream. Dropped, it closes everything.
pub(crate) struct FaultyUpstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

type Choice = Box<dyn Fn(&UpstreamRequest) -> Fault + Send + Sync>;

struct Shared {
    choice: Choice,
    arrivals: Mutex<Vec<UpstreamRequest>>,
    changed: Condvar,
    /// Nothing once the upstream ends.
    open: Mutex<Option<Vec<Arc<TcpStream>>>>,
}

impl FaultyUpstream {
    /// `choice` decides for each request, by its head.
    pub(crate) fn start(
        choice: impl Fn(&UpstreamRequest) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            choice: Box::new(choice),
            arrivals: Mutex::default(),
            changed: Condvar::new(),
            open: Mutex::new(Some(Vec::new())),
        });
        let own = Arc::clone(&shared);
        let accepting = thread::spawn(move || own.accept(&listener));
        Self {
            shared,
            address,
            accepting: Some(accepting),
        }
    }

    /// The same fault for all.
    pub(crate) fn always(fault: Fault) -> Self {
        Self::start(move |_| fault.clone())
    }

    /// As an upstream in a configuration.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<UpstreamRequest> {
        lock(&self.shared.arrivals).clone()
    }

    /// Waits until what arrived satisfies `enough`.
    #[track_caller]
    pub(crate) fn wait_for_requests(
        &self,
        enough: impl Fn(&[UpstreamRequest]) -> bool,
    ) -> Vec<UpstreamRequest> {
        let until = Instant::now() + PATIENCE;
        let mut arrivals = lock(&self.shared.arrivals);
        while !enough(&arrivals) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not seen in time: {arrivals:?}");
            self.shared.changed.wait_for(&mut arrivals, left);
        }
        arrivals.clone()
    }
}

impl Drop for FaultyUpstream {
    fn drop(&mut self) {
        for socket in lock(&self.shared.open).take().into_iter().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which then finds that all is over.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        let mut threads = Vec::new();
        for number in 0.. {
            let socket = Arc::new(listener.accept().unwrap().0);
            match lock(&self.open).as_mut() {
                Some(open) => open.push(Arc::clone(&socket)),
                None => break,
            }
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.set_write_timeout(Some(PATIENCE)).unwrap();
            let own = Arc::clone(&self);
            threads.push(thread::spawn(move || {
                own.serve(&socket, number);
                if let Some(open) = lock(&own.open).as_mut() {
                    open.retain(|kept| !Arc::ptr_eq(kept, &socket));
                }
            }));
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn serve(&self, socket: &TcpStream, connection: usize) {
        let mut reader = BufReader::with_capacity(64 * 1024, socket);
        while let Some((arrival, framing)) = read_head(&mut reader, connection) {
            let index = {
                let mut arrivals = lock(&self.arrivals);
                arrivals.push(arrival.clone());
                arrivals.len() - 1
            };
            self.changed.notify_all();
            let mut request = Request {
                shared: self,
                index,
                reader: &mut reader,
                framing,
            };
            match request.perform((self.choice)(&arrival)) {
                Ok(None) => {}
                Ok(Some(Close::Reset)) => {
                    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                    return;
                }
                Ok(Some(Close::Plainly)) => return,
                Err(_gone) => {
                    request.record(|arrival| arrival.closed = Some(Instant::now()));
                    return;
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
}

struct Request<'a, 's> {
    shared: &'a Shared,
    index: usize,
    reader: &'a mut BufReader<&'s TcpStream>,
    framing: Framing,
}

impl Request<'_, '_> {
    /// How the connection is to be closed, if it is.
    fn perform(&mut self, fault: Fault) -> io::Result<Option<Close>> {
        match fault {
            Fault::Answer(wire) => {
                self.body(usize::MAX)?;
                self.send(&wire)?;
                Ok(None)
            }
            Fault::CloseIdle(wire) => {
                self.body(usize::MAX)?;
                self.send(&wire)?;
                Ok(Some(Close::Plainly))
            }
            Fault::Silent => {
                self.body(usize::MAX)?;
                Err(self.wait_closed())
            }
            Fault::Cut(wire, at, close) => {
                self.body(usize::MAX)?;
                self.send(&wire[..at])?;
                Ok(Some(close))
            }
            Fault::Leave(bytes, close) => {
                self.body(bytes)?;
                Ok(Some(close))
            }
            Fault::Early(wire) => {
                self.send(&wire)?;
                Ok(Some(Close::Plainly))
            }
            Fault::Slow(wire, piece, rest) => {
                while self.read_some(piece)? {
                    pause(rest);
                }
                for piece in wire.chunks(piece) {
                    self.send(piece)?;
                    pause(rest);
                }
                Ok(None)
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    fn wait_closed(&mut self) -> io::Error {
        let mut space = [0; 4096];
        while matches!(self.reader.read(&mut space), Ok(1..)) {}
        io::ErrorKind::UnexpectedEof.into()
    }

    /// Reads at least `most` bytes of the body, or all of it.
    fn body(&mut self, most: usize) -> io::Result<()> {
        let mut left = most;
        while left > 0 && self.read_some(left.min(64 * 1024))? {
            left = most.saturating_sub(lock(&self.shared.arrivals)[self.index].body);
        }
        Ok(())
    }

    /// Reads some of the body; false at its end.
    fn read_some(&mut self, most: usize) -> io::Result<bool> {
        let size = match self.framing {
            Framing::Length(0) => {
                self.record(|arrival| arrival.is_whole = true);
                return Ok(false);
            }
            Framing::Length(left) => left.min(most),
            Framing::Chunked => {
                let mut line = String::new();
                self.reader.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
                if size == 0 {
                    self.reader.read_exact(&mut [0; 2])?;
                    self.framing = Framing::Length(0);
                    return self.read_some(most);
                }
                size
            }
        };
        let mut left = size;
        while left > 0 {
            let ready = self.reader.fill_buf()?;
            if ready.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let count = ready.len().min(left);
            self.reader.consume(count);
            left -= count;
            self.record(|arrival| arrival.body += count);
        }
        match &mut self.framing {
            Framing::Length(left) => *left -= size,
            Framing::Chunked => self.reader.read_exact(&mut [0; 2])?,
        }
        Ok(true)
    }

    fn record(&self, note: impl FnOnce(&mut UpstreamRequest)) {
        note(&mut lock(&self.shared.arrivals)[self.index]);
        self.shared.changed.notify_all();
    }
}

/// Nothing when the connection ends in its place.
fn read_head(
    reader: &mut BufReader<&TcpStream>,
    connection: usize,
) -> Option<(UpstreamRequest, Framing)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let field = |name: &str| {
        let mut fields = lines.iter().filter_map(|line| line.split_once(": "));
        let found = fields.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    };
    if field("user-agent") == "tidegate-check" {
        // A health check comes at every start of a gate; it is no arrival of a test.
        let _ = reader.get_mut().write_all(OK.as_bytes());
        return None;
    }
    let mut words = lines[0].split(' ');
    let framing = match field("transfer-encoding") {
        "" => Framing::Length(field("content-length").parse().unwrap_or(0)),
        _ => Framing::Chunked,
    };
    let arrival = UpstreamRequest {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        id: field("x-request-id").to_owned(),
        body: 0,
        is_whole: false,
        connection,
        closed: None,
    };
    Some((arrival, framing))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
