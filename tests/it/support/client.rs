//! An HTTP/1 client that sends exactly the bytes that a test gives it, and that parses responses strictly.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Type};

use super::{PATIENCE, Proxy, TestRequest, TestResponse, certs};

trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// One connection to the proxy.
pub(crate) struct Client {
    stream: Box<dyn Socket>,
    /// The socket below TLS.
    pub(crate) socket: TcpStream,
    read: Vec<u8>,
}

/// How a byte stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The peer closed the connection, with a close_notify alert if there is TLS.
    Clean,
    Broken,
}

impl Client {
    /// Connects with TLS to the proxy's first listener.
    pub(crate) fn connect(proxy: &Proxy) -> Self {
        let config = certs::default_client_config("http/1.1");
        Self::tls(proxy.https(), "localhost", config)
    }

    /// Connects with TLS to the proxy's first listener, from another address of this machine.
    pub(crate) fn connect_from(source: Ipv4Addr, proxy: &Proxy) -> Self {
        let config = certs::default_client_config("http/1.1");
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(config, name).unwrap();
        Self::start_tls(tls, connect_tcp_from(source, proxy.https())).expect("a TLS connection")
    }

    pub(crate) fn tls(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Self {
        Self::try_tls(address, name, config).expect("a TLS connection")
    }

    /// Connects with TLS, or returns the error of the handshake.
    pub(crate) fn try_tls(
        address: SocketAddr,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let name = name.to_owned().try_into().unwrap();
        Self::start_tls(
            ClientConnection::new(config, name).unwrap(),
            connect_tcp(address),
        )
    }

    /// Completes the handshake of a TLS session on this socket.
    pub(crate) fn start_tls(mut tls: ClientConnection, socket: TcpStream) -> io::Result<Self> {
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

    /// Connects without TLS.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self::from_socket(connect_tcp(address))
    }

    /// A client without TLS on a connected socket of any kind.
    pub(crate) fn from_socket(socket: impl Into<OwnedFd>) -> Self {
        let socket = TcpStream::from(socket.into());
        Self {
            stream: Box::new(socket.try_clone().unwrap()),
            socket,
            read: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the bytes are sent");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Sends a request and reads its response. The write of the body may fail, because the peer may respond and stop
    /// reading early.
    pub(crate) fn exchange(&mut self, request: &TestRequest) -> TestResponse {
        self.send(request.head());
        let _ = self.try_send(request.framed_body());
        self.read_response(&request.method)
    }

    /// Sends `GET /v2/` with the credentials of alice, and returns the status of the response.
    pub(crate) fn ping(&mut self) -> u16 {
        self.exchange(&TestRequest::alice("GET", "/v2/")).status
    }

    /// Reads the next response, which belongs to a request with this method.
    pub(crate) fn read_response(&mut self, method: &str) -> TestResponse {
        self.try_read_response(method).expect("a response")
    }

    /// Reads the next response, or returns the error or the end of the stream that came instead.
    pub(crate) fn try_read_response(&mut self, method: &str) -> io::Result<TestResponse> {
        let mut interim = Vec::new();
        loop {
            let mut response = self.read_head()?;
            if (100..200).contains(&response.status) {
                interim.push(response.status);
                continue;
            }
            response.interim = interim;
            self.read_body(method, &mut response);
            return Ok(response);
        }
    }

    /// Reads the header section of a response.
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
            let (name, value) = line.split_once(':').expect("a field line");
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

    fn read_body(&mut self, method: &str, response: &mut TestResponse) {
        if method == "HEAD" || matches!(response.status, 204 | 304) {
            return;
        }
        let chunked = response.header_values("transfer-encoding") == ["chunked"];
        let length = response
            .header_values("content-length")
            .first()
            .map(|text| text.parse().unwrap());
        let (body, is_whole) = match (chunked, length) {
            (true, None) => self.read_chunks(&mut response.trailers),
            (false, Some(length)) => {
                let body = self.read_exact(length);
                let is_whole = body.len() == length;
                (body, is_whole)
            }
            (false, None) => {
                let (body, end) = self.read_to_end();
                (body, end == StreamEnd::Clean)
            }
            (true, Some(_)) => panic!("two framings: {response:?}"),
        };
        response.body = body;
        response.is_whole = is_whole;
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

    /// Reads until the stream ends, and returns the bytes and how the stream ended.
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

    /// Reads `length` bytes, or fewer if the stream ends before.
    pub(crate) fn read_exact(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length && matches!(self.fill(), Ok(1..)) {}
        let rest = self.read.split_off(length.min(self.read.len()));
        std::mem::replace(&mut self.read, rest)
    }

    fn read_until(&mut self, delimiter: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self
                .read
                .windows(delimiter.len())
                .position(|part| part == delimiter)
            {
                let rest = self.read.split_off(at + delimiter.len());
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

/// Connects, with time limits for reads and writes.
pub(crate) fn connect_tcp(address: SocketAddr) -> TcpStream {
    with_timeouts(TcpStream::connect_timeout(&address, PATIENCE).expect("a connection"))
}

/// Connects from another address of this machine; all of 127.0.0.0/8 is local.
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

/// Connects as a balancer does on behalf of `client`.
pub(crate) fn connect_tcp_on_behalf_of(client: &str, address: SocketAddr) -> TcpStream {
    let mut socket = connect_tcp(address);
    socket.write_all(proxy_header(client).as_bytes()).unwrap();
    socket
}

/// A PROXY header of version 1 that names `client`.
pub(crate) fn proxy_header(client: &str) -> String {
    let (family, server) = match client.parse().unwrap() {
        IpAddr::V4(_) => ("TCP4", "10.0.0.1"),
        IpAddr::V6(_) => ("TCP6", "2001:db8:1::1"),
    };
    format!("PROXY {family} {client} {server} 1 443\r\n")
}

/// Whether nothing arrived for [`PATIENCE`], or for a shorter time that a test has set.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
