//! The upstreams and clients of generated configurations: fast, because each configuration has more than a thousand requests.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use http::Method;
use tidegate::import::nginx::models::Request;

use crate::lab::{Lab, run};

/// What a client received, and what the upstream received before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// The name of the upstream; empty if the request was not forwarded.
    pub(super) upstream: String,
    pub(super) path: String,
    pub(super) has_authorization: bool,
    /// Whether the upstream received a WebSocket handshake.
    pub(super) has_upgrade: bool,
    pub(super) location: String,
}

impl Response {
    pub(super) fn is_forwarded(&self) -> bool {
        !self.upstream.is_empty()
    }

    /// Reads the field `X-Upstream`, which an upstream sends.
    fn read_upstream(&mut self, value: &str) {
        let mut words = value.split(' ');
        let mut next = || words.next().unwrap_or_default().to_owned();
        self.upstream = next();
        self.path = decoded(&next());
        let fields: Vec<_> = words.collect();
        self.has_authorization = fields.contains(&"authorization");
        self.has_upgrade = fields.contains(&"upgrade");
    }
}

/// Sends requests to nginx over connections that stay open.
pub(super) struct Client {
    connections: Vec<(SocketAddr, BufReader<TcpStream>)>,
}

impl Client {
    pub(super) fn new() -> Self {
        Self {
            connections: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, request: &Request) -> Response {
        // nginx closes the connection after some responses, and the next request finds that.
        for _ in 0..2 {
            let position = self
                .connections
                .iter()
                .position(|(address, _)| *address == request.address);
            let mut connection = match position {
                Some(position) => self.connections.swap_remove(position).1,
                None => {
                    let stream = TcpStream::connect(request.address);
                    // Nothing listens at this address.
                    let Ok(stream) = stream else {
                        return Response::default();
                    };
                    stream
                        .set_read_timeout(Some(Duration::from_secs(20)))
                        .unwrap();
                    stream.set_nodelay(true).unwrap();
                    BufReader::new(stream)
                }
            };
            if let Some((response, is_open)) = exchange(&mut connection, request) {
                if is_open {
                    self.connections.push((request.address, connection));
                }
                return response;
            }
        }
        Response::default()
    }
}

fn exchange(connection: &mut BufReader<TcpStream>, request: &Request) -> Option<(Response, bool)> {
    let Request {
        method,
        path,
        host,
        client,
        ..
    } = request;
    let path = encoded(path);
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-Client: {client}\r\nX-Real-IP: {client}\r\nX-Forwarded-For: {client}\r\nContent-Length: 0\r\n"
    );
    if let Some(credentials) = credentials(request) {
        let encoded = Base64::encode_string(credentials.as_bytes());
        let _ = write!(head, "Authorization: Basic {encoded}\r\n");
    }
    head.push_str("\r\n");
    connection.get_mut().write_all(head.as_bytes()).ok()?;
    let mut response = Response::default();
    let (mut length, mut is_open) = (0_u64, true);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let line = line.trim_end();
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "" => break,
            "x-upstream" => response.read_upstream(value),
            "location" => value.clone_into(&mut response.location),
            "content-length" => length = value.parse().unwrap(),
            "connection" => is_open &= value != "close",
            _ if response.status == 0 => {
                response.status = line.split(' ').nth(1)?.parse().ok()?;
            }
            _ => {}
        }
    }
    if *method != Method::HEAD {
        let read = connection
            .by_ref()
            .take(length)
            .read_to_end(&mut Vec::new());
        is_open &= read.is_ok();
    }
    Some((response, is_open))
}

/// A path with the characters that are not of ASCII escaped.
fn encoded(path: &str) -> String {
    let mut result = String::new();
    for byte in path.bytes() {
        if byte.is_ascii() {
            result.push(char::from(byte));
        } else {
            let _ = write!(result, "%{byte:02X}");
        }
    }
    result
}

/// A path without its escapes.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}

/// The credentials that are valid in the password file of a request.
fn credentials(request: &Request) -> Option<&'static str> {
    let file = request.valid_in.as_deref()?;
    Some(if file.ends_with("first") {
        "alice:a"
    } else {
        "bob:b"
    })
}

/// Sends requests to tidegate over TLS, all of them with one curl.
pub(super) fn curl(lab: &Lab, requests: &[Request]) -> Vec<Response> {
    let mut config = String::new();
    for request in requests {
        let Request {
            method,
            path,
            host,
            address,
            ..
        } = request;
        let path = encoded(path);
        let _ = write!(
            config,
            "url = \"https://{address}{path}\"\nrequest = \"{method}\"\nheader = \"Host: {host}\"\n",
        );
        if *method == Method::HEAD {
            config.push_str("head\n");
        }
        if let Some(credentials) = credentials(request) {
            let _ = writeln!(config, "user = \"{credentials}\"");
        }
        config.push_str(NEXT);
    }
    run_curl(lab, &config, requests.len())
}

/// The options that each request of a configuration of curl ends with.
pub(super) const NEXT: &str = r#"header = "Content-Length: 0"
http1.1
path-as-is
insecure
silent
max-time = 20
output = "/dev/null"
write-out = "%{http_code} %header{x-upstream}\n"
next
"#;

/// Runs curl with a configuration of `count` requests.
pub(super) fn run_curl(lab: &Lab, config: &str, count: usize) -> Vec<Response> {
    let file = lab.path("requests.curl");
    fs::write(&file, config.trim_end_matches("next\n")).unwrap();
    let outcome = run(lab.command("curl").arg("--config").arg(&file));
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let responses: Vec<_> = text
        .lines()
        .map(|line| {
            let (status, upstream) = line.split_once(' ').unwrap_or((line, ""));
            let mut response = Response {
                status: status.parse().unwrap_or_default(),
                ..Response::default()
            };
            response.read_upstream(upstream);
            response
        })
        .collect();
    assert_eq!(responses.len(), count, "{}", outcome.story());
    responses
}

/// Starts a server that responds to each request with what it received.
pub(super) fn start_upstream(name: &'static str) -> u16 {
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    start_upstream_at(address, name.to_owned())
}

/// Starts such a server at an address. Returns its port.
pub(super) fn start_upstream_at(address: SocketAddr, name: String) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = name.clone();
            thread::spawn(move || respond(&name, stream));
        }
    });
    port
}

fn respond(name: &str, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut path, mut fields, mut length) = (String::new(), String::new(), 0_u64);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end();
        let lower = line.to_ascii_lowercase();
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        } else if lower.starts_with("authorization:") {
            fields.push_str(" authorization");
        } else if lower == "upgrade: websocket" {
            fields.push_str(" upgrade");
        } else if let Some(written) = lower.strip_prefix("content-length:") {
            length = written.trim().parse().unwrap_or(0);
        } else if line.is_empty() {
            break;
        }
    }
    let _ = reader.take(length).read_to_end(&mut Vec::new());
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nX-Upstream: {name} {path}{fields}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
}
