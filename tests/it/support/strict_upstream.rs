//! An upstream that keeps every byte, so that a test can say which requests arrived and how they were framed.
//!
//! It is as strict as a parser can be: what it does not take for a well-formed request it reports, and closes.
//! Used where hostile bytes are sent to the gate; what registries do otherwise is in `registry`.

use parking_lot::{Mutex, MutexGuard};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use socket2::SockRef;

use super::{OK, PATIENCE};

/// A running canary. Dropped, it closes everything.
pub(crate) struct StrictUpstream {
    seen: Arc<Mutex<ReceivedRequests>>,
    url: String,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ReceivedRequests {
    arrived: Vec<ForwardedRequest>,
    /// Requests that broke off, one a connection at most.
    broken: Vec<Vec<u8>>,
    /// What no request may look like, and all that followed.
    malformed: Vec<Vec<u8>>,
    sockets: Vec<TcpStream>,
    threads: Vec<JoinHandle<()>>,
}

/// A whole request, as it stood on the wire.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedRequest {
    /// With its empty line.
    pub(crate) head: Vec<u8>,
    /// Without chunk framing.
    pub(crate) body: Vec<u8>,
    /// Its body was chunked.
    pub(crate) is_chunked: bool,
}

impl StrictUpstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (accepts, seen) = (
            listener.try_clone().unwrap(),
            Arc::<Mutex<ReceivedRequests>>::default(),
        );
        let all = Arc::clone(&seen);
        let accepting = thread::spawn(move || {
            while let Ok((socket, _)) = accepts.accept() {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.set_write_timeout(Some(PATIENCE)).unwrap();
                socket.set_nodelay(true).unwrap();
                lock(&all).sockets.push(socket.try_clone().unwrap());
                let own = Arc::clone(&all);
                let serving = thread::spawn(move || serve(socket, &own));
                lock(&all).threads.push(serving);
            }
        });
        Self {
            seen,
            url,
            listener,
            accepting: Some(accepting),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// All whole requests so far.
    pub(crate) fn requests(&self) -> Vec<ForwardedRequest> {
        lock(&self.seen).arrived.clone()
    }

    /// Whole requests so far, and those from now on are counted anew.
    pub(crate) fn take_requests(&self) -> Vec<ForwardedRequest> {
        std::mem::take(&mut lock(&self.seen).arrived)
    }

    /// Requests that broke off, of connections that have ended; fails when anything else came.
    #[track_caller]
    pub(crate) fn violations(&self) -> Vec<String> {
        let seen = lock(&self.seen);
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let malformed: Vec<_> = seen.malformed.iter().map(text).collect();
        assert!(malformed.is_empty(), "{malformed:?}");
        seen.broken.iter().map(text).collect()
    }
}

impl Drop for StrictUpstream {
    fn drop(&mut self) {
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let accepting = self.accepting.take().into_iter();
        let ended: Vec<_> = accepting.map(JoinHandle::join).collect();
        for socket in &lock(&self.seen).sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let threads = std::mem::take(&mut lock(&self.seen).threads);
        let all = ended
            .into_iter()
            .chain(threads.into_iter().map(JoinHandle::join));
        if all.filter(Result::is_err).count() > 0 && !thread::panicking() {
            panic!("a thread of the canary failed");
        }
    }
}

impl ForwardedRequest {
    /// `METHOD target`
    pub(crate) fn request_line(&self) -> String {
        let text = self.text();
        let first = text.split("\r\n").next().unwrap();
        first.trim_end_matches(" HTTP/1.1").to_owned()
    }

    /// All values of a field.
    pub(crate) fn header_values(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let fields = text
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let named = fields.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.to_owned()).collect()
    }

    /// A byte a character.
    pub(crate) fn text(&self) -> String {
        self.head.iter().map(|byte| char::from(*byte)).collect()
    }
}

fn serve(mut socket: TcpStream, seen: &Mutex<ReceivedRequests>) {
    let mut bytes = Vec::new();
    let mut space = vec![0; 64 * 1024];
    loop {
        match parse(&bytes) {
            Parsed::Whole(request, length) => {
                bytes.drain(..length);
                // A health check comes at every start of a gate; it is no arrival of a test.
                if request.header_values("user-agent") == ["tidegate-check"] {
                    let _ = socket.write_all(OK.as_bytes());
                    break;
                }
                let count = lock(seen).arrived.len();
                let is_head = request.head.starts_with(b"HEAD ");
                lock(seen).arrived.push(request);
                let body = if is_head { "" } else { "{}" };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Count: {count}\r\n\r\n{body}"
                );
                if socket.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
            Parsed::Malformed => {
                lock(seen).malformed.push(std::mem::take(&mut bytes));
                break;
            }
            Parsed::Part => match socket.read(&mut space) {
                Ok(count) if count > 0 => bytes.extend(&space[..count]),
                _ => break,
            },
        }
    }
    if !bytes.is_empty() {
        lock(seen).broken.push(bytes);
    }
    let _ = socket.shutdown(Shutdown::Both);
}

enum Parsed {
    /// And how many bytes it is long.
    Whole(ForwardedRequest, usize),
    Part,
    Malformed,
}

fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Parsed::Part;
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
        Ok(None) => Parsed::Part,
        Err(()) => Parsed::Malformed,
    }
}

/// Length of the body, or that it is chunked; nothing when the head is not exactly as the RFCs write it.
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

/// The body and the length of its framing; an error when it is not exactly as the RFCs write it.
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
