//! What a peer that stops taking costs the gate: a download that its client does not read, an upload that the registry
//! does not.
//!
//! Each kind meets an executable of its own, so that its memory can be measured. What the kernel keeps in sockets is not
//! in that figure, and its buffers are kept small here, as a hostile client would.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use socket2::{Domain, Type};

use crate::binary::{Gate, configured};
use crate::support::frames::{
    END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, RawH2, WINDOW_UPDATE, frame, header_block,
};
use crate::support::{Client, OK, PATIENCE, Registry, TestRequest, certs, config, pause};

const PEERS: usize = 200;
/// More than the sockets and the gate together take of any one of them.
const SIZE: usize = 16 << 20;
/// What each may hold of the gate's memory, in KiB: what was read last, sealed or not, and the connections.
const EACH: u64 = 300;
/// The same over HTTP/2, which has two frames of 256 KiB unsealed, and 512 KiB sealed.
const EACH_HTTP2: u64 = 1300;

/// What a request may hold that waits for an upstream connection, in KiB. Measured: 9.
const WAITING: u64 = 16;

/// Within which others are served meanwhile.
const SOON: Duration = Duration::from_secs(1);

/// How a download waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stall {
    /// HTTP/1, and the socket is not read.
    Http1,
    /// HTTP/2 with all windows open, and the socket is not read.
    Http2,
    /// HTTP/2 with the window it begins with, which is never opened further.
    Window,
}

/// A socket for which the kernel keeps little.
fn narrow(address: SocketAddr) -> TcpStream {
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
    Client::of(tls, narrow(address)).unwrap()
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

/// An upload whose body has not begun, and which waits for nothing from now on.
fn upload(address: SocketAddr) -> Client {
    let mut client = client(address, "http/1.1");
    let upload = TestRequest::alice("PATCH", "/v2/a/blobs/uploads/u");
    client.send(upload.header("Content-Length", "1000000000").head());
    client.socket.set_nonblocking(true).unwrap();
    client
}

/// Sends as much as goes through.
fn push(client: &mut Client) {
    while client.try_send([b'x'; 16 * 1024]).is_ok() {}
}

/// The bytes that wait in the kernel on this machine's connections to and from a port: those that the connected side
/// has not read where `is_remote`, and those that the listening side has not.
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

/// Waits until bytes wait on the connections of all peers but a few that stopped between two reads, and none moves any
/// more.
fn wait_stalled(port: u16, is_remote: bool, mut push: impl FnMut()) {
    let until = Instant::now() + PATIENCE;
    let mut before = Vec::new();
    loop {
        push();
        let now = unread(port, is_remote);
        if now.len() >= PEERS - PEERS / 20 && now == before {
            return;
        }
        let waiting = now.len();
        assert!(
            Instant::now() < until,
            "bytes wait on {waiting} connections"
        );
        before = now;
        pause(Duration::from_millis(300));
    }
}

const LIMITS: &str = "[limits]\nupstream_connections = 1000\nupstream_queue = 1000\n";

fn gate(registry: &Registry) -> (tempfile::TempDir, Gate) {
    let text = config(LIMITS, "").upstream(&registry.url());
    let (dir, file) = configured(&text);
    let gate = Gate::start(&file);
    for _ in 0..8 {
        assert_eq!(gate.login("alice:pw"), 200);
    }
    (dir, gate)
}

fn port_of(registry: &Registry) -> u16 {
    let (_, port) = registry.authority().rsplit_once(':').unwrap();
    port.parse().unwrap()
}

#[track_caller]
fn assert_little_memory(gate: &Gate, before: u64, most: u64, what: &str) {
    let more = gate.memory().saturating_sub(before);
    let each = more / PEERS as u64;
    println!("{what}: {each} KiB each");
    assert!(each <= most, "{what}: {each} KiB each");
    let began = Instant::now();
    assert_eq!(gate.login("alice:pw"), 200, "others are served");
    assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
}

fn downloads_hold_little(stall: Stall) {
    let large = vec![b'x'; SIZE];
    let registry = Registry::start(move |exchange| {
        if !exchange.head.target.contains("manifests") {
            exchange.send(OK);
            return;
        }
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        exchange.send(&large);
    });
    let (_dir, gate) = gate(&registry);
    let before = gate.memory();
    let clients: Vec<_> = (0..PEERS).map(|_| download(gate.address, stall)).collect();
    wait_stalled(port_of(&registry), true, || {});
    let most = if stall == Stall::Http1 {
        EACH
    } else {
        EACH_HTTP2
    };
    assert_little_memory(&gate, before, most, &format!("downloads, {stall:?}"));
    drop(clients);
}

#[test]
fn downloads_that_nobody_reads_hold_little() {
    downloads_hold_little(Stall::Http1);
}

#[test]
fn downloads_over_http2_that_nobody_reads_hold_little() {
    downloads_hold_little(Stall::Http2);
}

#[test]
fn downloads_whose_window_stays_shut_hold_little() {
    downloads_hold_little(Stall::Window);
}

#[test]
fn requests_that_wait_for_an_upstream_connection_hold_little() {
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
    // Dropped before the registry, which waits for it.
    let release = release;
    let limits = "[limits]\nupstream_connections = 8\nupstream_wait = \"60s\"\n";
    let text = config(limits, "").upstream(&registry.url());
    let (_dir, file) = configured(&text);
    let gate = Gate::start(&file);
    for _ in 0..8 {
        assert_eq!(gate.login("alice:pw"), 200);
    }
    let before = gate.memory();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut frames = RawH2::over(client(gate.address, "h2"));
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
    let each = gate.memory().saturating_sub(before) / (CONNECTIONS * STREAMS) as u64;
    println!("waiting requests: {each} KiB each");
    assert!(each <= WAITING, "waiting requests: {each} KiB each");
    drop((clients, release));
}

#[test]
fn uploads_that_the_registry_does_not_read_hold_little() {
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
    // Dropped before the registry, which waits for it.
    let release = release;
    let (_dir, gate) = gate(&registry);
    let before = gate.memory();
    let mut clients: Vec<_> = (0..PEERS).map(|_| upload(gate.address)).collect();
    wait_stalled(port_of(&registry), false, || {
        clients.iter_mut().for_each(push);
    });
    assert_little_memory(&gate, before, EACH, "uploads");
    drop((clients, release));
}
