//! Thousands of generated HTTP/1 requests that try to smuggle a request past authentication. No request without credentials
//! may reach the upstream.
//!
//! The seed of each thread is fixed, so that every run sends the same requests and a failure can be reproduced.

use std::thread;
use std::time::Duration;

use crate::support::proxy::directory;
use crate::support::strict_upstream::StrictUpstream;
use crate::support::{ListenerKind, Proxy, TestRequest};

/// The number of requests of each thread.
pub(crate) const EACH: usize = 1300;
/// The number of threads, each with one open connection.
pub(crate) const THREADS: usize = 8;

/// A target that occurs only in requests without credentials.
pub(crate) const SECRET: &str = "/v2/smuggled/tags/list";
const LOGIN: &str = "Authorization: Basic YWxpY2U6cHc=";
const FORWARDED: &str = "X-Forwarded-Proto: https";

#[test]
fn no_generated_request_reaches_the_upstream_without_credentials() {
    attack_listener(ListenerKind::Https);
}

#[test]
fn no_generated_request_behind_a_proxy_reaches_the_upstream_without_credentials() {
    attack_listener(ListenerKind::BehindProxy);
    attack_listener(ListenerKind::UnixSocket);
}

fn attack_listener(kind: ListenerKind) {
    let upstream = StrictUpstream::start();
    let proxy = Proxy::start_in(directory(), &upstream.url(), kind.config());
    thread::scope(|scope| {
        for number in 0..THREADS {
            let proxy = &proxy;
            scope.spawn(move || attack(kind, proxy, Random(0x5eed + number as u64)));
        }
    });
    // The proxy still serves ordinary requests.
    let ping = TestRequest::alice("GET", "/v2/").header("X-Forwarded-Proto", "https");
    assert_eq!(kind.connect(&proxy).exchange(&ping).status, 200);
    // The proxy finishes open requests before it ends, so the record of the upstream is complete after the drop.
    drop(proxy);
    let forwarded = upstream.requests();
    let smuggled: Vec<_> = forwarded
        .iter()
        .filter(|it| it.text().contains("smuggled"))
        .collect();
    assert!(smuggled.is_empty(), "{smuggled:?}");
    for request in upstream.violations() {
        let line = request.lines().next().unwrap_or_default();
        assert!(!line.contains("smuggled"), "{request}");
    }
    // Many of the requests are valid. If the proxy rejected everything, the test would show nothing.
    assert!(
        forwarded.len() > THREADS * EACH / 20,
        "only {} requests reached the upstream",
        forwarded.len()
    );
}

/// Sends [`EACH`] payloads, each on a new connection.
fn attack(kind: ListenerKind, proxy: &Proxy, mut random: Random) {
    for _ in 0..EACH {
        let mut client = kind.connect(proxy);
        // A payload that is shorter than its framing says gets no response, so the test waits only briefly.
        client
            .socket
            .set_read_timeout(Some(RESPONSE_TIMEOUT))
            .unwrap();
        if client.try_send(payload(&mut random)).is_ok() {
            for _ in 0..1 + random.below(2) {
                if client.try_read_response("GET").is_err() {
                    break;
                }
            }
        }
    }
}

/// How long a client waits for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(30);

/// A mutated request with credentials, followed by a request for [`SECRET`] without credentials.
fn payload(random: &mut Random) -> Vec<u8> {
    // An address behind a proxy needs the field; an https address replaces it.
    let inner = format!("GET {SECRET} HTTP/1.1\r\nHost: localhost\r\n{FORWARDED}\r\n\r\n");
    let (line, body) = match random.below(4) {
        0 => ("GET /v2/ HTTP/1.1", String::new()),
        1 => ("POST /v2/a/blobs/uploads/ HTTP/1.1", inner.clone()),
        2 => (
            "PATCH /v2/a/blobs/uploads/u HTTP/1.1",
            format!("0\r\n\r\n{inner}"),
        ),
        _ => ("GET /v2/ HTTP/1.1", inner.clone()),
    };
    let mut lines = vec![
        line.to_owned(),
        "Host: localhost".to_owned(),
        LOGIN.to_owned(),
        FORWARDED.to_owned(),
    ];
    for _ in 0..random.below(3) {
        let at = 1 + random.below(lines.len());
        let field = random
            .choose(&FIELDS)
            .replace("{length}", &body.len().to_string());
        lines.insert(at, field);
    }
    if random.below(3) > 0 {
        let framing = random.choose(&["Content-Length: {length}", "Transfer-Encoding: chunked"]);
        lines.push(framing.replace("{length}", &body.len().to_string()));
    }
    let end = if random.below(12) == 0 {
        random.choose(&ENDS)
    } else {
        "\r\n"
    };
    let mut bytes = lines.join(end).into_bytes();
    bytes.extend(end.repeat(2).bytes());
    if random.below(3) == 0 {
        bytes.extend(random.choose(&CHUNKS).replace("{inner}", &inner).bytes());
    } else {
        bytes.extend(body.bytes());
    }
    for _ in 0..random.below(3) {
        mutate(&mut bytes, random);
    }
    bytes.extend(inner.bytes());
    bytes
}

/// Makes one random change. The caller appends the request without credentials afterwards, so no change can give it credentials.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(6) {
        0 => bytes[at] = random.choose(&ODD),
        1 => bytes.insert(at, random.choose(&ODD)),
        2 => drop(bytes.remove(at)),
        3 => bytes[at] = bytes[at].to_ascii_uppercase(),
        4 => bytes[at] = bytes[at].to_ascii_lowercase(),
        _ => {
            let piece: Vec<u8> = bytes
                .iter()
                .skip(at)
                .take(random.below(30))
                .copied()
                .collect();
            let to = random.below(bytes.len());
            // A request with credentials may name any target, but only one without them names the secret one.
            if !piece.windows(8).any(|part| part == b"smuggled") {
                bytes.splice(to..to, piece);
            }
        }
    }
}

const ODD: [u8; 16] = *b"\0\r\n\t :;,/#%\\\"\x0b\x85\xa0";
const ENDS: [&str; 4] = ["\n", "\r", "\r\r\n", "\n\r"];
const FIELDS: [&str; 34] = [
    "Content-Length: 0",
    "Content-Length: {length}",
    "Content-Length: 5",
    "content-length: 1",
    "Content-Length: +5",
    "Content-Length: 0x5",
    "Content-Length: 5, 5",
    "Content-Length:",
    "Content-Length : 5",
    " Content-Length: 5",
    "Content_Length: 5",
    "Content-Length: 010",
    "Content-Length\t: 5",
    "Transfer-Encoding: chunked",
    "transfer-encoding: CHUNKED",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer_Encoding: chunked",
    "X: 1\nTransfer-Encoding: chunked",
    "X: 1\rContent-Length: 5",
    "Connection: Content-Length",
    "Connection: close",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Expect: 100-continue",
    "Host: evil.test",
    "X-A: 1\r\n folded",
    ": empty",
    "Trailer: Content-Length",
    "X-Forwarded-For: 1",
];
const CHUNKS: [&str; 14] = [
    "0\r\n\r\n{inner}",
    "1\r\nZ\r\n0\r\n\r\n{inner}",
    "0\r\nA: b\r\n\r\n{inner}",
    "1\nZ\n0\n\n{inner}",
    "1;a\nZ\r\n0\r\n\r\n{inner}",
    "0x1\r\nZ\r\n0\r\n\r\n{inner}",
    "10000000000000001\r\nZ\r\n0\r\n\r\n{inner}",
    "1\r\nZZ0\r\n\r\n{inner}",
    "-1\r\n{inner}",
    "1 \r\nZ\r\n0\r\n\r\n{inner}",
    "0;\n\r\n{inner}",
    "ffffffffffffffff\r\n{inner}",
    "0\r\nContent-Length: 5\r\n\r\n{inner}",
    "\r\n0\r\n\r\n{inner}",
];

/// A random number generator with a seed (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next()).unwrap() % bound
    }

    pub(crate) fn choose<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}
