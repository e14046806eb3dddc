//! The helpers that all tests share: the proxy under test, registries behind it, clients in front of it, and certificates
//! for both.
//!
//! Every wait ends after [`PATIENCE`], and the kernel chooses every port. A test that waits for something uses
//! [`eventually`]. [`pause`] is for a test that shows that something does not happen.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

pub(crate) mod acme;
pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod faulty_upstream;
pub(crate) mod frames;
pub(crate) mod h2;
pub(crate) mod harbor;
pub(crate) mod listener_kind;
pub(crate) mod proxy;
pub(crate) mod registry;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod strict_upstream;
pub(crate) mod tls_front;

pub(crate) use client::Client;
pub(crate) use listener_kind::ListenerKind;
pub(crate) use proxy::{Proxy, config};
pub(crate) use registry::{Exchange, RecordedRequest, Registry};
pub(crate) use request::{HttpVersion, TestRequest, exchange, ping};
pub(crate) use response::TestResponse;
pub(crate) use tls_front::TlsFront;

/// The limit of every wait, longer than anything takes here even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds, and fails if it does not hold within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(what, || condition().then_some(()));
}

/// Waits until there is a value, and fails if there is none within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually_some<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < until, "{what}");
        pause(Duration::from_millis(5));
    }
}

/// Asserts that `text` contains each of `parts`.
#[track_caller]
pub(crate) fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Lets time pass, for a test that shows that nothing happens meanwhile, or that must act late.
///
/// Unlike `park_timeout`, this function does not return early because of an unpark token that a channel has left behind.
pub(crate) fn pause(time: Duration) {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// Reserves a port: the returned socket is bound to the port and never listens.
///
/// The kernel gives the port to no other socket while the returned socket is open, but a listener with SO_REUSEADDR can
/// still bind it.
pub(crate) fn kept_port() -> (u16, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (port, socket)
}

/// A well-formed digest.
pub(crate) const DIGEST: &str =
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Bytes that differ from position to position, so that a test notices lost or swapped bytes.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    const STEP: usize = 65_521;
    let block: Vec<u8> = (0..STEP)
        .map(|at| u8::try_from((at * 7 + at / 256) % 251).unwrap())
        .collect();
    let mut bytes = block.repeat(length.div_ceil(STEP));
    bytes.truncate(length);
    bytes
}

/// What a registry responds to `GET /v2/`.
pub(crate) const REGISTRY_OK: &str = "HTTP/1.1 200 OK\r\nDocker-Distribution-Api-Version: registry/2.0\r\nContent-Length: 2\r\n\r\n{}";
/// A minimal response of an upstream.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
