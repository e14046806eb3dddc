//! A fake registry over real sockets that responds as a test says, and that records every request byte for byte.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::{Domain, SockRef, Type};

use super::{OK, PATIENCE, REGISTRY_OK, kept_port, pause};

mod exchange;

pub(crate) use exchange::Exchange;

/// A running registry. Dropping it closes all of its connections and resumes a panic of a handler.
pub(crate) struct Registry {
    shared: Arc<Shared>,
    url: String,
    /// Reserves the port of a registry that may be started again at the same address.
    held_port: Option<Arc<socket2::Socket>>,
    /// Stops the accepting thread.
    stop: Box<dyn Fn() + Send + Sync>,
    accepting: Option<JoinHandle<()>>,
}

/// A received request.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordedRequest {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names and values as the proxy sent them, in order.
    pub(crate) headers: Vec<(String, String)>,
    /// The part of the body that has arrived so far.
    pub(crate) body: Vec<u8>,
    pub(crate) end: RequestEnd,
    /// The number of the connection on which the request arrived, from 0.
    pub(crate) connection: usize,
}

/// Whether a request has arrived completely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    #[default]
    NotYet,
    Whole,
    Broken,
}

struct Shared {
    handler: Box<dyn Fn(&mut Exchange<'_>) + Send + Sync>,
    requests: Mutex<Vec<RecordedRequest>>,
    changed: Condvar,
    sockets: Mutex<Vec<Box<dyn Socket>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Whether the registry was killed: its connections are reset, and it sends nothing more on them.
    is_killed: AtomicBool,
    /// Whether health checks are passed to the handler and recorded.
    sees_checks: AtomicBool,
}

trait Socket: Read + Write + Send {
    fn copy(&self) -> Box<dyn Socket>;
    fn set_timeout(&self, time: Duration);
    fn close(&self);
    /// Stops reading; the connection is reset when its last handle is dropped.
    fn abort_connections(&self);
}

macro_rules! socket {
    ($kind:ty) => {
        impl Socket for $kind {
            fn copy(&self) -> Box<dyn Socket> {
                Box::new(self.try_clone().unwrap())
            }
            fn set_timeout(&self, time: Duration) {
                self.set_read_timeout(Some(time)).unwrap();
                self.set_write_timeout(Some(time)).unwrap();
            }
            fn close(&self) {
                let _ = self.shutdown(Shutdown::Both);
            }
            fn abort_connections(&self) {
                let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
                let _ = self.shutdown(Shutdown::Read);
            }
        }
    };
}
socket!(TcpStream);
socket!(UnixStream);

impl Registry {
    /// Starts a registry that responds to everything with 200.
    pub(crate) fn accepting_all() -> Self {
        Self::responding(OK)
    }

    /// Starts a registry that reads each request to its end and then sends these bytes.
    pub(crate) fn responding(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |exchange| {
            exchange.body();
            exchange.send(&response);
        })
    }

    /// Starts a registry that calls `handler` for every request after its header section has arrived.
    pub(crate) fn start(handler: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static) -> Self {
        let (port, held) = kept_port();
        let mut registry = Self::start_at(SocketAddr::from(([127, 0, 0, 1], port)), handler);
        registry.held_port = Some(Arc::new(held));
        registry
    }

    /// The socket that reserves the port while no registry listens on it.
    ///
    /// Without a reservation, the kernel could give the port to another test, or to an outgoing connection, which would
    /// then connect to itself.
    pub(crate) fn held_port(&self) -> Option<Arc<socket2::Socket>> {
        self.held_port.clone()
    }

    /// Starts a registry at this address as soon as the address is free. The caller reserves the port with
    /// [`Self::held_port`].
    pub(crate) fn start_at(
        address: SocketAddr,
        handler: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static,
    ) -> Self {
        let until = Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < until, "{address}: {error}"),
            }
            pause(Duration::from_millis(5));
        };
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = listener.try_clone().unwrap();
        let accept = move || Some(Box::new(listener.accept().ok()?.0) as Box<dyn Socket>);
        Self::run(handler, url, accept, move || stop(SockRef::from(&kept)))
    }

    /// Starts a registry on a Unix socket.
    pub(crate) fn start_unix(
        path: &Path,
        handler: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let url = format!("unix:{}", path.display());
        let kept = listener.try_clone().unwrap();
        let accept = move || Some(Box::new(listener.accept().ok()?.0) as Box<dyn Socket>);
        Self::run(handler, url, accept, move || stop(SockRef::from(&kept)))
    }

    fn run(
        handler: impl Fn(&mut Exchange<'_>) + Send + Sync + 'static,
        url: String,
        accept: impl Fn() -> Option<Box<dyn Socket>> + Send + 'static,
        stop: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            requests: Mutex::default(),
            changed: Condvar::new(),
            sockets: Mutex::default(),
            threads: Mutex::default(),
            is_killed: AtomicBool::new(false),
            sees_checks: AtomicBool::new(false),
        });
        let all = Arc::clone(&shared);
        let accepting = thread::spawn(move || {
            for number in 0.. {
                let Some(socket) = accept() else { return };
                socket.set_timeout(PATIENCE);
                all.sockets.lock().push(socket.copy());
                let own = Arc::clone(&all);
                let serving = thread::spawn(move || own.serve(socket, number));
                all.threads.lock().push(serving);
            }
        });
        Self {
            shared,
            url,
            held_port: None,
            stop: Box::new(stop),
            accepting: Some(accepting),
        }
    }

    /// Passes health checks to the handler and records them.
    ///
    /// By default, the registry responds to a health check with 200 and hides it from the test, because the proxy sends one
    /// whenever it starts.
    pub(crate) fn recording_health_checks(self) -> Self {
        self.shared.sees_checks.store(true, Ordering::SeqCst);
        self
    }

    /// The URL for a configuration.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// The host and the port of the URL.
    pub(crate) fn authority(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Stops the registry as a crashed machine that comes back would: every connection is reset.
    pub(crate) fn kill(self) {
        self.shared.is_killed.store(true, Ordering::SeqCst);
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.requests.lock().clone()
    }

    /// The only request so far.
    #[track_caller]
    pub(crate) fn only_request(&self) -> RecordedRequest {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// The number of connections that carried a recorded request so far. A connection on which no request has arrived yet may
    /// be that of a health check.
    pub(crate) fn connections(&self) -> usize {
        let requests = self.shared.requests.lock();
        let used: BTreeSet<_> = requests.iter().map(|seen| seen.connection).collect();
        used.len()
    }

    /// Waits until the recorded requests satisfy `enough`.
    #[track_caller]
    pub(crate) fn wait_for_requests(
        &self,
        enough: impl Fn(&[RecordedRequest]) -> bool,
    ) -> Vec<RecordedRequest> {
        let until = Instant::now() + PATIENCE;
        let mut requests = self.shared.requests.lock();
        while !enough(&requests) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "not seen in time; {} requests",
                requests.len()
            );
            self.shared.changed.wait_for(&mut requests, left);
        }
        requests.clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        (self.stop)();
        let accepting = self.accepting.take().into_iter();
        let panics: Vec<_> = accepting.filter_map(|thread| thread.join().err()).collect();
        for socket in std::mem::take(&mut *self.shared.sockets.lock()) {
            if self.shared.is_killed() {
                socket.abort_connections();
            } else {
                socket.close();
            }
        }
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        let served = threads.into_iter().filter_map(|thread| thread.join().err());
        if let Some(panic) = panics.into_iter().chain(served).next()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Shared {
    fn serve(&self, socket: Box<dyn Socket>, connection: usize) {
        let mut reader = BufReader::with_capacity(256 * 1024, socket);
        while let Some(mut recorded) = read_head(&mut reader) {
            if recorded.is_health_check() && !self.sees_checks.load(Ordering::SeqCst) {
                if !self.is_killed() {
                    let _ = reader.get_mut().write_all(REGISTRY_OK.as_bytes());
                    reader.get_ref().close();
                }
                return;
            }
            recorded.connection = connection;
            let index = {
                let mut requests = self.requests.lock();
                requests.push(recorded.clone());
                requests.len() - 1
            };
            let mut exchange = Exchange::new(recorded, index, &mut reader, self);
            (self.handler)(&mut exchange);
            if !exchange.is_reusable() {
                break;
            }
        }
        if !self.is_killed() {
            reader.get_ref().close();
        }
    }

    fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::SeqCst)
    }
}

impl RecordedRequest {
    fn is_health_check(&self) -> bool {
        self.all("user-agent") == ["tidegate-check"]
    }

    /// All values of the field `name`, which is compared without regard to case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of the field `name`, which must occur exactly once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let values = self.all(name);
        assert_eq!(values.len(), 1, "{name} in {:?}", self.headers);
        values[0]
    }

    /// The names of all fields in lower case, sorted.
    pub(crate) fn header_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .headers
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        names.sort();
        names
    }
}

/// Reads the header section of a request. Returns `None` if the connection ends between two requests, whether it is closed
/// or reset.
fn read_head(reader: &mut BufReader<Box<dyn Socket>>) -> Option<RecordedRequest> {
    let first = read_line(reader).ok()?;
    // The first byte of a TLS handshake, where a test lets the proxy expect TLS. The random bytes after it may contain a CRLF.
    if first.starts_with('\u{16}') {
        return None;
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    assert_eq!(words.collect::<Vec<_>>(), ["HTTP/1.1"], "{first:?}");
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader).ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').expect("a field line");
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Some(RecordedRequest {
        method,
        target,
        headers,
        ..RecordedRequest::default()
    })
}

/// Reads a line and removes its CRLF, which must be there. Each byte becomes one character.
fn read_line(reader: &mut BufReader<Box<dyn Socket>>) -> io::Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    let line = line
        .strip_suffix(b"\r\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(line.iter().map(|byte| char::from(*byte)).collect())
}

/// Shuts a listening socket down, which makes a blocked `accept` return an error.
fn stop(listener: SockRef<'_>) {
    listener.shutdown(Shutdown::Both).unwrap();
}

/// An address that refuses connections. The port stays reserved, because a port that is released could be given to another
/// test.
pub(crate) fn refusing_address() -> SocketAddr {
    static HELD: LazyLock<socket2::Socket> = LazyLock::new(|| {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        socket
    });
    HELD.local_addr().unwrap().as_socket().unwrap()
}
