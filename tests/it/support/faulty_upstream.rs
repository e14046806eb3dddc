//! An upstream that fails in all ways that the tests need, over real sockets, and that records the requests that it
//! receives.
//!
//! The tests of aborts and early responses use it. Unlike [`super::Registry`], it has the only handle of each socket, so
//! that it can reset a connection. For an address on which nothing listens, use [`super::registry::refusing_address`].

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{OK, PATIENCE, pause};

/// What the upstream does with a request after its header section.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Reads the body, sends these bytes, and keeps the connection open.
    Respond(Vec<u8>),
    /// Reads the body, sends these bytes, and closes the connection while it is idle.
    CloseIdle(Vec<u8>),
    /// Reads the body and sends no response.
    Silent,
    /// Reads the body, sends this many of these bytes, and closes the connection.
    Cut(Vec<u8>, usize, Close),
    /// Reads this many bytes of the body, and closes the connection without a response.
    CloseDuringBody(usize, Close),
    /// Sends these bytes without reading the body, and closes the connection.
    Early(Vec<u8>),
    /// Reads the body and sends the response in pieces of this size, with a pause after each piece.
    Slow(Vec<u8>, usize, Duration),
}

/// How the upstream closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// With a FIN.
    Fin,
    /// With an RST.
    Rst,
}

/// What has arrived of a request.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamRequest {
    pub(crate) method: String,
    pub(crate) target: String,
    /// The value of `X-Request-Id`.
    pub(crate) id: String,
    /// The number of body bytes, without chunk framing.
    pub(crate) body: usize,
    /// Whether the body arrived completely: the whole Content-Length, or the last chunk.
    pub(crate) is_whole: bool,
    /// The number of the connection on which the request arrived, from 0.
    pub(crate) connection: usize,
    /// When the upstream noticed that the proxy closed the connection.
    pub(crate) closed: Option<Instant>,
}

/// A running upstream. Dropping it closes all of its connections.
pub(crate) struct FaultyUpstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

type Choice = Box<dyn Fn(&UpstreamRequest) -> Fault + Send + Sync>;

struct Shared {
    choice: Choice,
    requests: Mutex<Vec<UpstreamRequest>>,
    changed: Condvar,
    /// The open connections; `None` after the upstream was dropped.
    open: Mutex<Option<Vec<Arc<TcpStream>>>>,
}

impl FaultyUpstream {
    /// Starts an upstream. `choice` selects a fault for each request by its header section.
    pub(crate) fn start(
        choice: impl Fn(&UpstreamRequest) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            choice: Box::new(choice),
            requests: Mutex::default(),
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

    /// Starts an upstream with the same fault for all requests.
    pub(crate) fn always(fault: Fault) -> Self {
        Self::start(move |_| fault.clone())
    }

    /// The URL for a configuration.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<UpstreamRequest> {
        lock(&self.shared.requests).clone()
    }

    /// Waits until the recorded requests satisfy `enough`.
    #[track_caller]
    pub(crate) fn wait_for_requests(
        &self,
        enough: impl Fn(&[UpstreamRequest]) -> bool,
    ) -> Vec<UpstreamRequest> {
        let until = Instant::now() + PATIENCE;
        let mut requests = lock(&self.shared.requests);
        while !enough(&requests) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not seen in time: {requests:?}");
            self.shared.changed.wait_for(&mut requests, left);
        }
        requests.clone()
    }
}

impl Drop for FaultyUpstream {
    fn drop(&mut self) {
        for socket in lock(&self.shared.open).take().into_iter().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // The connection wakes the accepting thread, which then finds that the upstream was dropped.
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
        while let Some((recorded, framing)) = read_head(&mut reader, connection) {
            let index = {
                let mut requests = lock(&self.requests);
                requests.push(recorded.clone());
                requests.len() - 1
            };
            self.changed.notify_all();
            let mut request = Request {
                shared: self,
                index,
                reader: &mut reader,
                framing,
            };
            match request.perform((self.choice)(&recorded)) {
                Ok(None) => {}
                Ok(Some(Close::Rst)) => {
                    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                    return;
                }
                Ok(Some(Close::Fin)) => return,
                Err(_gone) => {
                    request.record(|recorded| recorded.closed = Some(Instant::now()));
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
    /// Applies the fault, and returns how the connection is to be closed if it is to be closed.
    fn perform(&mut self, fault: Fault) -> io::Result<Option<Close>> {
        match fault {
            Fault::Respond(response) => {
                self.read_body(usize::MAX)?;
                self.send(&response)?;
                Ok(None)
            }
            Fault::CloseIdle(response) => {
                self.read_body(usize::MAX)?;
                self.send(&response)?;
                Ok(Some(Close::Fin))
            }
            Fault::Silent => {
                self.read_body(usize::MAX)?;
                Err(self.read_until_closed())
            }
            Fault::Cut(response, at, close) => {
                self.read_body(usize::MAX)?;
                self.send(&response[..at])?;
                Ok(Some(close))
            }
            Fault::CloseDuringBody(bytes, close) => {
                self.read_body(bytes)?;
                Ok(Some(close))
            }
            Fault::Early(response) => {
                self.send(&response)?;
                Ok(Some(Close::Fin))
            }
            Fault::Slow(response, piece, rest) => {
                while self.read_some(piece)? {
                    pause(rest);
                }
                for piece in response.chunks(piece) {
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

    fn read_until_closed(&mut self) -> io::Error {
        let mut space = [0; 4096];
        while matches!(self.reader.read(&mut space), Ok(1..)) {}
        io::ErrorKind::UnexpectedEof.into()
    }

    /// Reads the body until it ends or at least `most` bytes of it have been read.
    fn read_body(&mut self, most: usize) -> io::Result<()> {
        let mut left = most;
        while left > 0 && self.read_some(left.min(64 * 1024))? {
            left = most.saturating_sub(lock(&self.shared.requests)[self.index].body);
        }
        Ok(())
    }

    /// Reads a part of the body, and returns false at its end.
    fn read_some(&mut self, most: usize) -> io::Result<bool> {
        let size = match self.framing {
            Framing::Length(0) => {
                self.record(|recorded| recorded.is_whole = true);
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
            self.record(|recorded| recorded.body += count);
        }
        match &mut self.framing {
            Framing::Length(left) => *left -= size,
            Framing::Chunked => self.reader.read_exact(&mut [0; 2])?,
        }
        Ok(true)
    }

    fn record(&self, note: impl FnOnce(&mut UpstreamRequest)) {
        note(&mut lock(&self.shared.requests)[self.index]);
        self.shared.changed.notify_all();
    }
}

/// Reads the header section of a request. Returns `None` if the connection ends instead, and after a health check.
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
        // The proxy sends a health check whenever it starts; the tests do not count it as a request.
        let _ = reader.get_mut().write_all(OK.as_bytes());
        return None;
    }
    let mut words = lines[0].split(' ');
    let framing = match field("transfer-encoding") {
        "" => Framing::Length(field("content-length").parse().unwrap_or(0)),
        _ => Framing::Chunked,
    };
    let recorded = UpstreamRequest {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        id: field("x-request-id").to_owned(),
        body: 0,
        is_whole: false,
        connection,
        closed: None,
    };
    Some((recorded, framing))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
