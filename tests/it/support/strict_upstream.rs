//! An upstream that records every byte, so that a test can check which requests arrived and how they were framed.
//!
//! Its parser is as strict as possible: it records everything that is not a well-formed request as malformed and closes the
//! connection. The tests that send hostile bytes to the proxy use it. Use `registry` for an upstream that behaves as
//! registries do.

use parking_lot::{Mutex, MutexGuard};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use socket2::SockRef;

use super::{OK, PATIENCE};

/// A running upstream. Dropping it closes all of its connections.
pub(crate) struct StrictUpstream {
    received_requests: Arc<Mutex<ReceivedRequests>>,
    url: String,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ReceivedRequests {
    complete: Vec<ForwardedRequest>,
    /// The bytes of incomplete requests, at most one for each connection.
    incomplete: Vec<Vec<u8>>,
    /// The bytes that are not a well-formed request, and all bytes after them.
    malformed: Vec<Vec<u8>>,
    sockets: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

/// A complete request, as it stood on the wire.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedRequest {
    /// The header section, with its empty line.
    pub(crate) head: Vec<u8>,
    /// The body, without chunk framing.
    pub(crate) body: Vec<u8>,
    /// Whether the body was chunked.
    pub(crate) is_chunked: bool,
}

impl StrictUpstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (accepting_listener, received_requests) = (
            listener.try_clone().unwrap(),
            Arc::<Mutex<ReceivedRequests>>::default(),
        );
        let shared_requests = Arc::clone(&received_requests);
        let accepting = thread::spawn(move || {
            while let Ok((socket, _)) = accepting_listener.accept() {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.set_write_timeout(Some(PATIENCE)).unwrap();
                socket.set_nodelay(true).unwrap();
                lock(&shared_requests)
                    .sockets
                    .push(socket.try_clone().unwrap());
                let connection_requests = Arc::clone(&shared_requests);
                let serving = thread::spawn(move || serve(socket, &connection_requests));
                lock(&shared_requests).threads.push(serving);
            }
        });
        Self {
            received_requests,
            url,
            listener,
            accepting: Some(accepting),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// All complete requests so far.
    pub(crate) fn requests(&self) -> Vec<ForwardedRequest> {
        lock(&self.received_requests).complete.clone()
    }

    /// Removes and returns all complete requests so far.
    pub(crate) fn take_requests(&self) -> Vec<ForwardedRequest> {
        std::mem::take(&mut lock(&self.received_requests).complete)
    }

    /// The incomplete requests of connections that have ended. Fails if malformed bytes arrived.
    #[track_caller]
    pub(crate) fn violations(&self) -> Vec<String> {
        let received_requests = lock(&self.received_requests);
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let malformed: Vec<_> = received_requests.malformed.iter().map(text).collect();
        assert!(malformed.is_empty(), "{malformed:?}");
        received_requests.incomplete.iter().map(text).collect()
    }
}

impl Drop for StrictUpstream {
    fn drop(&mut self) {
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let accepting = self.accepting.take().into_iter();
        let ended: Vec<_> = accepting.map(JoinHandle::join).collect();
        for socket in &lock(&self.received_requests).sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let threads = std::mem::take(&mut lock(&self.received_requests).threads);
        let results = ended
            .into_iter()
            .chain(threads.into_iter().map(JoinHandle::join));
        if results.filter(Result::is_err).count() > 0 && !thread::panicking() {
            panic!("a thread of the strict upstream failed");
        }
    }
}

impl ForwardedRequest {
    /// The method and the target.
    pub(crate) fn request_line(&self) -> String {
        let text = self.text();
        let first = text.split("\r\n").next().unwrap();
        first.trim_end_matches(" HTTP/1.1").to_owned()
    }

    /// All values of the field `name`.
    pub(crate) fn header_values(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let fields = text
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let named = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.to_owned()).collect()
    }

    /// The header section, with one character for each byte.
    pub(crate) fn text(&self) -> String {
        self.head.iter().map(|byte| char::from(*byte)).collect()
    }
}

fn serve(mut socket: TcpStream, received_requests: &Mutex<ReceivedRequests>) {
    let mut bytes = Vec::new();
    let mut space = vec![0; 64 * 1024];
    loop {
        match parse(&bytes) {
            Parsed::Whole(request, length) => {
                bytes.drain(..length);
                // The proxy sends a health check whenever it starts; the tests do not count it as a request.
                if request.header_values("user-agent") == ["tidegate-check"] {
                    let _ = socket.write_all(OK.as_bytes());
                    break;
                }
                let count = lock(received_requests).complete.len();
                let is_head = request.head.starts_with(b"HEAD ");
                lock(received_requests).complete.push(request);
                let body = if is_head { "" } else { "{}" };
                let response = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Count: {count}\r\n\r\n{body}"
                );
                if socket.write_all(response.as_bytes()).is_err() {
                    break;
                }
            }
            Parsed::Malformed => {
                lock(received_requests)
                    .malformed
                    .push(std::mem::take(&mut bytes));
                break;
            }
            Parsed::Incomplete => match socket.read(&mut space) {
                Ok(count) if count > 0 => bytes.extend(&space[..count]),
                _ => break,
            },
        }
    }
    if !bytes.is_empty() {
        lock(received_requests).incomplete.push(bytes);
    }
    let _ = socket.shutdown(Shutdown::Both);
}

enum Parsed {
    /// A complete request and its length in bytes.
    Whole(ForwardedRequest, usize),
    Incomplete,
    Malformed,
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Parsed::Incomplete;
    };
    let (head, rest) = bytes.split_at(end + 4);
    let Some((length, is_chunked)) = framing(&head[..end]) else {
        return Parsed::Malformed;
    };
    let body = if is_chunked {
        decode_chunked(rest)
    } else {
        (rest.len() >= length)
            .then(|| Ok((rest[..length].to_vec(), length)))
            .transpose()
    };
    match body {
        Ok(Some((body, length))) => Parsed::Whole(
            ForwardedRequest {
                head: head.to_vec(),
                body,
                is_chunked,
            },
            head.len() + length,
        ),
        Ok(None) => Parsed::Incomplete,
        Err(()) => Parsed::Malformed,
    }
}

/// Parses the head of a request. Returns the value of `Content-Length` (0 without one), and whether the body is chunked. `None` if
/// the head violates the grammar of RFC 9112, or frames the body twice.
fn framing(head: &[u8]) -> Option<(usize, bool)> {
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.split("\r\n");
    let words: Vec<_> = lines.next()?.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return None;
    };
    let is_token = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&byte))
    };
    if !is_token(method)
        || !target.starts_with('/')
        || !target.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return None;
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let is_value =
            |byte: u8| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic() || byte >= 0x80;
        if !is_token(name) || !value.bytes().all(is_value) {
            return None;
        }
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.to_owned()),
            "transfer-encoding" => codings.push(value.to_owned()),
            "host" => hosts += 1,
            _ => {}
        }
    }
    match (lengths.as_slice(), codings.as_slice(), hosts) {
        ([], [], 1) => Some((0, false)),
        ([], [coding], 1) if coding == "chunked" => Some((0, true)),
        ([length], [], 1) => {
            let number: usize = length.parse().ok()?;
            (number.to_string() == *length).then_some((number, false))
        }
        _ => None,
    }
}

/// Returns the decoded body and the number of bytes that it took on the wire, `None` if it is incomplete, and an error if
/// it is not strictly RFC 9112 section 7.1.
fn decode_chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ()> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(length) = find(&bytes[at..], b"\r\n") else {
            return Ok(None);
        };
        let digits = str::from_utf8(&bytes[at..at + length]).map_err(|_| ())?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        let size = usize::from_str_radix(digits, 16).map_err(|_| ())?;
        at += length + 2;
        let Some(data) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        if !data.ends_with(b"\r\n") {
            return Err(());
        }
        body.extend(&data[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|part| part == mark)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
