//! An HTTP/1 client that sends what it is told, byte for byte, and reads answers strictly.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Type};

use super::{PATIENCE, Proxy, TestRequest, TestResponse, certs};

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
pub(crate) enum StreamEnd {
    /// Closed by the peer, with TLS's goodbye where there is TLS.
    Clean,
    Broken,
}

impl Client {
    /// Over TLS to the gate's first listener.
    pub(crate) fn connect(proxy: &Proxy) -> Self {
        let config = certs::default_client_config("http/1.1");
        Self::tls(proxy.https(), "localhost", config)
    }

    /// The same from another address of this machine.
    pub(crate) fn connect_from(source: Ipv4Addr, proxy: &Proxy) -> Self {
        let config = certs::default_client_config("http/1.1");
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(config, name).unwrap();
        Self::of(tls, connect_tcp_from(source, proxy.https())).expect("a TLS connection")
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
        Self::of(
            ClientConnection::new(config, name).unwrap(),
            connect_tcp(address),
        )
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
        Self::from_socket(connect_tcp(address))
    }

    /// Without TLS, on a socket of any kind.
    pub(crate) fn from_socket(socket: impl Into<OwnedFd>) -> Self {
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
    pub(crate) fn exchange(&mut self, ask: &TestRequest) -> TestResponse {
        self.send(ask.head());
        let _ = self.try_send(ask.framed_body());
        self.read_response(&ask.method)
    }

    /// The next answer, to a request of this method.
    pub(crate) fn read_response(&mut self, method: &str) -> TestResponse {
        self.try_read_response(method).expect("an answer")
    }

    /// The next answer, or the error or end that came in its place.
    pub(crate) fn try_read_response(&mut self, method: &str) -> io::Result<TestResponse> {
        let mut interim = Vec::new();
        loop {
            let mut answer = self.read_head()?;
            if (100..200).contains(&answer.status) {
                interim.push(answer.status);
                continue;
            }
            answer.interim = interim;
            self.read_body(method, &mut answer);
            return Ok(answer);
        }
    }

    /// A head alone.
    pub(crate) fn read_head(&mut self) -> io::Result<TestResponse> {
        let head = self.read_until(b"\r\n\r\n")?;
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
        Ok(TestResponse {
            status: rest[..3].parse().unwrap(),
            headers: lines.map(field).collect(),
            body: Vec::new(),
            is_whole: true,
            interim: Vec::new(),
            trailers: 0,
        })
    }

    fn read_body(&mut self, method: &str, answer: &mut TestResponse) {
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
            return;
        }
        let chunked = answer.header_values("transfer-encoding") == ["chunked"];
        let length = answer
            .header_values("content-length")
            .first()
            .map(|text| text.parse().unwrap());
        let (body, is_whole) = match (chunked, length) {
            (true, None) => self.read_chunks(&mut answer.trailers),
            (false, Some(length)) => {
                let body = self.read_exact(length);
                let is_whole = body.len() == length;
                (body, is_whole)
            }
            (false, None) => {
                let (body, end) = self.read_to_end();
                (body, end == StreamEnd::Clean)
            }
            (true, Some(_)) => panic!("two framings: {answer:?}"),
        };
        answer.body = body;
        answer.is_whole = is_whole;
    }

    fn read_chunks(&mut self, trailers: &mut usize) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Ok(line) = self.read_until(b"\r\n") else {
                return (body, false);
            };
            let line = String::from_utf8(line).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            if size == 0 {
                while let Ok(line) = self.read_until(b"\r\n") {
                    if line == b"\r\n" {
                        return (body, true);
                    }
                    *trailers += 1;
                }
                return (body, false);
            }
            let piece = self.read_exact(size + 2);
            if piece.len() < size + 2 {
                body.extend(piece);
                return (body, false);
            }
            assert!(piece.ends_with(b"\r\n"));
            body.extend(&piece[..size]);
        }
    }

    /// All until the end, and how it ended.
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, StreamEnd) {
        loop {
            match self.fill() {
                Ok(0) => return (std::mem::take(&mut self.read), StreamEnd::Clean),
                Ok(_) => {}
                Err(error) => {
                    assert!(!is_timeout(&error), "no end within {PATIENCE:?}");
                    return (std::mem::take(&mut self.read), StreamEnd::Broken);
                }
            }
        }
    }

    /// Up to `length` bytes; fewer when the stream ends before.
    pub(crate) fn read_exact(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length && matches!(self.fill(), Ok(1..)) {}
        let rest = self.read.split_off(length.min(self.read.len()));
        std::mem::replace(&mut self.read, rest)
    }

    fn read_until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
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
pub(crate) fn connect_tcp(address: SocketAddr) -> TcpStream {
    with_timeouts(TcpStream::connect_timeout(&address, PATIENCE).expect("a connection"))
}

/// The same from another address of this machine: all of 127.0.0.0/8 is here.
pub(crate) fn connect_tcp_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    let connected = socket.connect_timeout(&address.into(), PATIENCE);
    connected.expect("a connection");
    with_timeouts(socket.into())
}

fn with_timeouts(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// True when nothing came for [`PATIENCE`], or for a shorter time that a test has set.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
