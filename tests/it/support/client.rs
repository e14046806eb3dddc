//! An HTTP/1 client that sends what it is told, byte for byte, and reads answers strictly.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Type};

use super::{Answer, Ask, PATIENCE, Proxy, certs};

trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// One connection.
pub(crate) struct Client {
    stream: Box<dyn Socket>,
    /// The socket below TLS.
    pub(crate) socket: TcpStream,
    read: Vec<u8>,
}

/// How a stream of bytes ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Closed by the peer, with TLS's goodbye where there is TLS.
    Clean,
    Broken,
}

impl Client {
    /// Over TLS to the gate's first listener.
    pub(crate) fn connect(proxy: &Proxy) -> Self {
        let config = certs::usual_client("http/1.1");
        Self::tls(proxy.https(), "localhost", config)
    }

    /// The same from another address of this machine.
    pub(crate) fn connect_from(source: Ipv4Addr, proxy: &Proxy) -> Self {
        let config = certs::usual_client("http/1.1");
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(config, name).unwrap();
        Self::of(tls, dial_from(source, proxy.https())).expect("a TLS connection")
    }

    pub(crate) fn tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Self {
        Self::try_tls(address, name, config).expect("a TLS connection")
    }

    /// Fails when the handshake does.
    pub(crate) fn try_tls(
        address: SocketAddr,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let name = name.to_owned().try_into().unwrap();
        Self::of(ClientConnection::new(config, name).unwrap(), dial(address))
    }

    /// Ends the handshake of a session on its socket.
    pub(crate) fn of(mut tls: ClientConnection, socket: TcpStream) -> io::Result<Self> {
        let mut raw = socket.try_clone()?;
        while tls.is_handshaking() {
            tls.complete_io(&mut raw)?;
        }
        Ok(Self {
            stream: Box::new(StreamOwned::new(tls, raw)),
            socket,
            read: Vec::new(),
        })
    }

    /// Without TLS.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self::over(dial(address))
    }

    /// Without TLS, on a socket of any kind.
    pub(crate) fn over(socket: impl Into<OwnedFd>) -> Self {
        let socket = TcpStream::from(socket.into());
        Self {
            stream: Box::new(socket.try_clone().unwrap()),
            socket,
            read: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("bytes sent");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Sends a request and reads its answer; one that stops reading is no failure before it is read.
    pub(crate) fn ask(&mut self, ask: &Ask) -> Answer {
        self.send(ask.head());
        let _ = self.try_send(ask.framed_body());
        self.answer(&ask.method)
    }

    /// The next answer, to a request of this method.
    pub(crate) fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method).expect("an answer")
    }

    /// The next answer, or the error or end that came in its place.
    pub(crate) fn try_answer(&mut self, method: &str) -> io::Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let mut answer = self.head()?;
            if (100..200).contains(&answer.status) {
                interim.push(answer.status);
                continue;
            }
            answer.interim = interim;
            self.body(method, &mut answer);
            return Ok(answer);
        }
    }

    /// A head alone.
    pub(crate) fn head(&mut self) -> io::Result<Answer> {
        let head = self.until(b"\r\n\r\n")?;
        let head = head
            .iter()
            .map(|byte| char::from(*byte))
            .collect::<String>();
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let first = lines.next().unwrap();
        let (version, rest) = first.split_once(' ').expect("a status line");
        assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "{first:?}");
        let field = |line: &str| {
            let (name, value) = line.split_once(':').expect("a field");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Ok(Answer {
            status: rest[..3].parse().unwrap(),
            headers: lines.map(field).collect(),
            body: Vec::new(),
            is_whole: true,
            interim: Vec::new(),
            trailers: 0,
        })
    }

    fn body(&mut self, method: &str, answer: &mut Answer) {
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
            return;
        }
        let chunked = answer.all("transfer-encoding") == ["chunked"];
        let length = answer
            .all("content-length")
            .first()
            .map(|text| text.parse().unwrap());
        let (body, is_whole) = match (chunked, length) {
            (true, None) => self.chunks(&mut answer.trailers),
            (false, Some(length)) => {
                let body = self.take(length);
                let is_whole = body.len() == length;
                (body, is_whole)
            }
            (false, None) => {
                let (body, end) = self.rest();
                (body, end == End::Clean)
            }
            (true, Some(_)) => panic!("two framings: {answer:?}"),
        };
        answer.body = body;
        answer.is_whole = is_whole;
    }

    fn chunks(&mut self, trailers: &mut usize) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Ok(line) = self.until(b"\r\n") else {
                return (body, false);
            };
            let line = String::from_utf8(line).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            if size == 0 {
                while let Ok(line) = self.until(b"\r\n") {
                    if line == b"\r\n" {
                        return (body, true);
                    }
                    *trailers += 1;
                }
                return (body, false);
            }
            let piece = self.take(size + 2);
            if piece.len() < size + 2 {
                body.extend(piece);
                return (body, false);
            }
            assert!(piece.ends_with(b"\r\n"));
            body.extend(&piece[..size]);
        }
    }

    /// All until the end, and how it ended.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.fill() {
                Ok(0) => return (std::mem::take(&mut self.read), End::Clean),
                Ok(_) => {}
                Err(error) => {
                    assert!(!is_late(&error), "no end within {PATIENCE:?}");
                    return (std::mem::take(&mut self.read), End::Broken);
                }
            }
        }
    }

    /// Up to `length` bytes; fewer when the stream ends before.
    pub(crate) fn take(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length && matches!(self.fill(), Ok(1..)) {}
        let rest = self.read.split_off(length.min(self.read.len()));
        std::mem::replace(&mut self.read, rest)
    }

    fn until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|part| part == mark) {
                let rest = self.read.split_off(at + mark.len());
                return Ok(std::mem::replace(&mut self.read, rest));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut space = vec![0; 64 * 1024];
        let count = self.stream.read(&mut space)?;
        self.read.extend(&space[..count]);
        Ok(count)
    }
}

/// A connection whose waits end.
pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&address, PATIENCE).expect("a connection"))
}

/// The same from another address of this machine: all of 127.0.0.0/8 is here.
pub(crate) fn dial_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    let connected = socket.connect_timeout(&address.into(), PATIENCE);
    connected.expect("a connection");
    patient(socket.into())
}

fn patient(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// True when nothing came for [`PATIENCE`], or for a shorter time that a test has set.
pub(crate) fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
