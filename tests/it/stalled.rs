//! The memory that stalled transfers use in the proxy: downloads that the client does not read, uploads that the registry does
//! not read, and requests that wait for an upstream connection.
//!
//! Each test starts an executable of its own, so that its memory can be measured. The measurement does not include socket
//! buffers of the kernel. The tests keep these buffers small, as a hostile client would.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use socket2::{Domain, Type};

use crate::binary::{ServeProcess, configured};
use crate::support::frames::{
    END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, RawH2, WINDOW_UPDATE, frame, header_block,
};
use crate::support::{Client, OK, PATIENCE, Registry, TestRequest, certs, config, pause};

const PEERS: usize = 200;
/// More bytes than the sockets and the proxy together buffer for one transfer.
const SIZE: usize = 16 << 20;
/// The limit of memory per transfer in KiB: the bytes that were read last, before and after TLS encryption, and both connections.
const EACH: u64 = 300;
/// The limit of memory per transfer over HTTP/2 in KiB: two frames of 256 KiB before TLS encryption, and 512 KiB after it.
const EACH_HTTP2: u64 = 1300;

/// The limit of memory per request that waits for an upstream connection, in KiB. Measured: 9.
const WAITING: u64 = 16;

/// The time within which another client gets its response meanwhile.
const SOON: Duration = Duration::from_secs(1);

/// The reason why a download stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    /// HTTP/1: the client does not read from the socket.
    Http1,
    /// HTTP/2: the flow-control windows are open, and the client does not read from the socket.
    Http2,
    /// HTTP/2: the client leaves the initial window of the stream (RFC 9113, section 6.9.2) and sends no WINDOW_UPDATE for it.
    Window,
}

/// A connected socket with small kernel buffers.
fn connect_with_small_buffers(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn client(address: SocketAddr, protocol: &str) -> Client {
    let config = certs::default_client_config(protocol);
    let tls = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    Client::start_tls(tls, connect_with_small_buffers(address)).unwrap()
}

fn download(address: SocketAddr, stall: Stall) -> Client {
    const TARGET: &str = "/v2/a/manifests/x";
    if stall == Stall::Http1 {
        let mut client = client(address, "http/1.1");
        client.send(TestRequest::alice("GET", TARGET).head());
        return client;
    }
    let most = 0x7fff_ffff_u32;
    let window = if stall == Stall::Http2 { most } else { 65_535 };
    let mut frames = RawH2::over(client(address, "h2"));
    frames.send_preface(&[(INITIAL_WINDOW, window)]);
    let fields: [(&[u8], &[u8]); 5] = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", TARGET.as_bytes()),
        (b"authorization", b"Basic YWxpY2U6cHc="),
    ];
    let more = (most - 65_535).to_be_bytes();
    frames.send(frame(WINDOW_UPDATE, 0, 0, &more));
    let stream = frames.next_stream_id();
    frames.send(frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &header_block(&fields),
    ));
    frames.client
}

/// Starts an upload and sends its head. The socket is then nonblocking.
fn upload(address: SocketAddr) -> Client {
    let mut client = client(address, "http/1.1");
    let upload = TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u");
    client.send(upload.header("Content-Length", "1000000000").head());
    client.socket.set_nonblocking(true).unwrap();
    client
}

/// Sends bytes of the body until the socket accepts no more.
fn send_available(client: &mut Client) {
    while client.try_send([b'x'; 16 * 1024]).is_ok() {}
}

/// The unread bytes in the receive queues of this machine's connections with `port`. If `is_remote`, the queues are those of the
/// connecting side, else those of the listening side.
fn unread(port: u16, is_remote: bool) -> Vec<u64> {
    let port = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let queues = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let of_port = fields.get(if is_remote { 2 } else { 1 })?.ends_with(&port);
        let is_open = *fields.get(3)? == "01";
        let (_, queue) = fields.get(4)?.split_once(':')?;
        let count = u64::from_str_radix(queue, 16).ok()?;
        (of_port && is_open && count > 0).then_some(count)
    });
    queues.collect()
}

/// Waits until at least 95 % of the connections have unread bytes, and the numbers of unread bytes no longer change.
fn wait_stalled(port: u16, is_remote: bool, mut send: impl FnMut()) {
    let until = Instant::now() + PATIENCE;
    let mut before = Vec::new();
    loop {
        send();
        let now = unread(port, is_remote);
        if now.len() >= PEERS - PEERS / 20 && now == before {
            return;
        }
        let waiting = now.len();
        assert!(
            Instant::now() < until,
            "{waiting} connections have unread bytes"
        );
        before = now;
        pause(Duration::from_millis(300));
    }
}

const LIMITS: &str = "[limits]\nupstream_connections = 1000\nupstream_queue = 1000\n";

fn start(registry: &Registry) -> (tempfile::TempDir, ServeProcess) {
    let text = config(LIMITS, "").upstream(&registry.url());
    let (dir, file) = configured(&text);
    let proxy = ServeProcess::start(&file);
    for _ in 0..8 {
        assert_eq!(proxy.login("alice:pw"), 200);
    }
    (dir, proxy)
}

fn port_of(registry: &Registry) -> u16 {
    let (_, port) = registry.authority().rsplit_once(':').unwrap();
    port.parse().unwrap()
}

#[track_caller]
fn assert_little_memory(proxy: &ServeProcess, before: u64, most: u64, what: &str) {
    let more = proxy.memory().saturating_sub(before);
    let each = more / PEERS as u64;
    println!("{what}: {each} KiB each");
    assert!(each <= most, "{what}: {each} KiB each");
    let began = Instant::now();
    assert_eq!(proxy.login("alice:pw"), 200, "another client is served");
    assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
}

fn assert_downloads_use_little_memory(stall: Stall) {
    let large = vec![b'x'; SIZE];
    let registry = Registry::start(move |exchange| {
        if !exchange.head.target.contains("manifests") {
            exchange.send(OK);
            return;
        }
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        exchange.send(&large);
    });
    let (_dir, proxy) = start(&registry);
    let before = proxy.memory();
    let clients: Vec<_> = (0..PEERS).map(|_| download(proxy.address, stall)).collect();
    wait_stalled(port_of(&registry), true, || {});
    let most = if stall == Stall::Http1 {
        EACH
    } else {
        EACH_HTTP2
    };
    assert_little_memory(&proxy, before, most, &format!("downloads, {stall:?}"));
    drop(clients);
}

#[test]
fn unread_downloads_use_little_memory() {
    assert_downloads_use_little_memory(Stall::Http1);
}

#[test]
fn unread_downloads_over_http2_use_little_memory() {
    assert_downloads_use_little_memory(Stall::Http2);
}

#[test]
fn downloads_with_an_exhausted_window_use_little_memory() {
    assert_downloads_use_little_memory(Stall::Window);
}

#[test]
fn requests_that_wait_for_an_upstream_connection_use_little_memory() {
    const CONNECTIONS: usize = 20;
    const STREAMS: usize = 99;
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        if exchange.head.target.contains("manifests") {
            let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        }
        exchange.send(OK);
    });
    // The sender is dropped before the registry, whose handlers wait for it.
    let release = release;
    let limits = "[limits]\nupstream_connections = 8\nupstream_wait = \"60s\"\n";
    let text = config(limits, "").upstream(&registry.url());
    let (_dir, file) = configured(&text);
    let proxy = ServeProcess::start(&file);
    for _ in 0..8 {
        assert_eq!(proxy.login("alice:pw"), 200);
    }
    let before = proxy.memory();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut frames = RawH2::over(client(proxy.address, "h2"));
            frames.send_preface(&[]);
            let fields: [(&[u8], &[u8]); 5] = [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", b"/v2/a/manifests/x"),
                (b"authorization", b"Basic YWxpY2U6cHc="),
            ];
            for _ in 0..STREAMS {
                let (stream, ends) = (frames.next_stream_id(), END_HEADERS | END_STREAM);
                frames.send(frame(HEADERS, ends, stream, &header_block(&fields)));
            }
            assert!(frames.ping_round_trip());
            frames
        })
        .collect();
    let each = proxy.memory().saturating_sub(before) / (CONNECTIONS * STREAMS) as u64;
    println!("waiting requests: {each} KiB each");
    assert!(each <= WAITING, "waiting requests: {each} KiB each");
    drop((clients, release));
}

#[test]
fn uploads_that_the_registry_does_not_read_use_little_memory() {
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        if exchange.head.method == "PATCH" {
            let _ = held.lock().unwrap().recv_timeout(PATIENCE);
            exchange.close();
        } else {
            exchange.send(OK);
        }
    });
    // The sender is dropped before the registry, whose handlers wait for it.
    let release = release;
    let (_dir, proxy) = start(&registry);
    let before = proxy.memory();
    let mut clients: Vec<_> = (0..PEERS).map(|_| upload(proxy.address)).collect();
    wait_stalled(port_of(&registry), false, || {
        clients.iter_mut().for_each(send_available);
    });
    assert_little_memory(&proxy, before, EACH, "uploads");
    drop((clients, release));
}
