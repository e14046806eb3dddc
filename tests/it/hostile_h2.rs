//! Thousands of generated HTTP/2 requests that try to get past authentication, or to inject bytes into the HTTP/1 request that
//! the proxy forwards. No request without credentials may reach the upstream.

use std::thread;
use std::time::Duration;

use crate::hostile::{EACH, Random, SECRET, THREADS};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, RawH2, frame, header_block,
};
use crate::support::proxy::directory;
use crate::support::strict_upstream::StrictUpstream;
use crate::support::{ListenerKind, Proxy, TestRequest};

type Field = (Vec<u8>, Vec<u8>);

#[test]
fn no_generated_request_reaches_the_upstream_without_credentials() {
    attack_listener(ListenerKind::Https);
}

#[test]
fn no_generated_request_over_h2c_reaches_the_upstream_without_credentials() {
    attack_listener(ListenerKind::BehindProxy);
}

fn attack_listener(kind: ListenerKind) {
    let upstream = StrictUpstream::start();
    let proxy = Proxy::start_in(directory(), &upstream.url(), kind.config());
    thread::scope(|scope| {
        for number in 0..THREADS {
            let proxy = &proxy;
            scope.spawn(move || attack(kind, proxy, Random::seeded(0xf4a3e + number as u64)));
        }
    });
    let ping = TestRequest::alice("GET", "/v2/").header("X-Forwarded-Proto", "https");
    assert_eq!(kind.connect(&proxy).exchange(&ping).status, 200);
    drop(proxy);
    let forwarded = upstream.requests();
    let smuggled: Vec<_> = forwarded
        .iter()
        .map(|it| it.request_line())
        .filter(|line| line.contains("smuggled"))
        .collect();
    assert!(smuggled.is_empty(), "{smuggled:?}");
    for request in upstream.violations() {
        let line = request.lines().next().unwrap_or_default();
        assert!(!line.contains("smuggled"), "{request}");
    }
    println!(
        "{} of {} requests reached the upstream",
        forwarded.len(),
        THREADS * EACH
    );
    assert!(
        forwarded.len() > THREADS * EACH / 20,
        "only {} requests reached the upstream",
        forwarded.len()
    );
}

/// Sends [`EACH`] messages, each on a new stream, and opens a new connection when the proxy has closed the old one.
fn attack(kind: ListenerKind, proxy: &Proxy, mut random: Random) {
    let mut frames = connect(kind, proxy);
    for _ in 0..EACH {
        let stream = frames.next_stream_id();
        let message = message(&mut random, stream);
        let is_sent = frames.try_send(message).is_ok();
        let is_open_after = |outcome| matches!(outcome, Outcome::Status(_) | Outcome::Reset(_));
        if !is_sent || !is_open_after(frames.read_outcome(stream)) {
            frames = connect(kind, proxy);
        }
    }
}

/// Opens a connection with a short timeout, because some of the streams get no response.
fn connect(kind: ListenerKind, proxy: &Proxy) -> RawH2 {
    let frames = kind.frames(proxy);
    let soon = Duration::from_millis(30);
    frames.client.socket.set_read_timeout(Some(soon)).unwrap();
    frames
}

/// The frames of a mutated request, which has credentials unless its target is [`SECRET`].
fn message(random: &mut Random, stream: u32) -> Vec<u8> {
    let is_anonymous = random.below(3) == 0;
    let mut fields = if is_anonymous {
        ordinary_fields("GET", SECRET)
    } else {
        // Most combinations of a random method and a random path are invalid, so they make up only a quarter.
        let (method, path) = if random.below(4) == 0 {
            (random.choose(&METHODS), random.choose(&PATHS))
        } else {
            random.choose(&ORDINARY_REQUESTS)
        };
        let mut fields = ordinary_fields(method, path);
        fields.push(field(LOGIN));
        fields
    };
    for _ in 0..random.below(3) {
        mutate(&mut fields, random);
    }
    let body = random.choose(&BODIES);
    if random.below(4) == 0 {
        let length = body.len() + random.below(2);
        fields.push(field(("content-length", &length.to_string())));
    }
    let mut bytes = head(&fields, body.is_empty(), stream, random);
    if !body.is_empty() {
        let is_end = random.below(3) > 0;
        let flags = if is_end { END_STREAM } else { 0 };
        bytes.extend(frame(DATA, flags, stream, body.as_bytes()));
        if !is_end {
            let mut trailers = vec![field(random.choose(&TRAILERS))];
            trailers.extend((0..random.below(2)).map(|_| field(random.choose(&FIELDS))));
            bytes.extend(head(&trailers, random.below(8) > 0, stream, random));
        }
    }
    if random.below(12) == 0 {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    bytes
}

fn ordinary_fields(method: &str, path: &str) -> Vec<Field> {
    let pseudo = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        // An address behind a proxy needs the field; an https address replaces it.
        ("x-forwarded-proto", "https"),
    ];
    pseudo.map(field).to_vec()
}

fn field((name, value): (&str, &str)) -> Field {
    (name.into(), value.into())
}

/// Makes one random change to a list of fields.
fn mutate(fields: &mut Vec<Field>, random: &mut Random) {
    let at = random.below(fields.len());
    match random.below(6) {
        0 if fields.len() > 1 => drop(fields.remove(at)),
        1 => fields.insert(at, fields[random.below(fields.len())].clone()),
        2 => {
            let (name, value) = &mut fields[at];
            let text = if random.below(2) == 0 { name } else { value };
            let to = random.below(text.len() + 1);
            text.insert(to, random.choose(b"\0\r\n\t :;,/#%\\\"A\x85\xa0"));
        }
        _ => fields.insert(
            at.max(random.below(fields.len())),
            field(random.choose(&FIELDS)),
        ),
    }
}

/// The fields as a HEADERS frame, or as a HEADERS frame and a CONTINUATION frame.
fn head(fields: &[Field], is_end: bool, stream: u32, random: &mut Random) -> Vec<u8> {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
        .collect();
    let block = header_block(&fields);
    let end = if is_end { END_STREAM } else { 0 };
    if random.below(4) > 0 {
        return frame(HEADERS, end | END_HEADERS, stream, &block);
    }
    let (first, second) = block.split_at(random.below(block.len() + 1));
    let first = frame(HEADERS, end, stream, first);
    [first, frame(CONTINUATION, END_HEADERS, stream, second)].concat()
}

const LOGIN: (&str, &str) = ("authorization", "Basic YWxpY2U6cHc=");
const ORDINARY_REQUESTS: [(&str, &str); 4] = [
    ("GET", "/v2/"),
    ("GET", "/v2/a/tags/list"),
    ("POST", "/v2/a/blobs/uploads/"),
    ("PATCH", "/v2/a/blobs/uploads/u"),
];
const METHODS: [&str; 11] = [
    "GET",
    "POST",
    "PATCH",
    "PUT",
    "HEAD",
    "DELETE",
    "CONNECT",
    "TRACE",
    "get",
    "GET /v2/smuggled/tags/list HTTP/1.1\r\nx:",
    "G ET",
];
const PATHS: [&str; 10] = [
    "/v2/",
    "/v2/a/tags/list",
    "/v2/a/blobs/uploads/",
    "/v2/a/blobs/uploads/u",
    "/v2/#x",
    "*",
    "",
    "v2/",
    "https://localhost/v2/",
    "/v2/ HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v2/smuggled/tags/list",
];
const BODIES: [&str; 5] = [
    "",
    "",
    "abc",
    "GET /v2/smuggled/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "0\r\n\r\nGET /v2/smuggled/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n",
];
const TRAILERS: [(&str, &str); 6] = [
    LOGIN,
    ("x", "1"),
    (":path", SECRET),
    (":method", "POST"),
    ("content-length", "5"),
    ("host", "evil.test"),
];
const INJECTED: &str = "x\r\n\r\nGET /v2/smuggled/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Fields for mutations. None of them has credentials or the path of an existing repository.
const FIELDS: [(&str, &str); 36] = [
    ("content-length", "0"),
    ("content-length", "5"),
    ("content-length", "+5"),
    ("content-length", "5, 5"),
    ("content-length", "18446744073709551616"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "identity"),
    ("connection", "close"),
    ("connection", "content-length, authorization"),
    ("proxy-connection", "keep-alive"),
    ("keep-alive", "1"),
    ("te", "trailers"),
    ("te", "gzip"),
    ("upgrade", "h2c"),
    ("host", "localhost"),
    ("host", "evil.test"),
    ("Host", "localhost"),
    ("cookie", "a=1"),
    ("cookie", "b=2\r\nx: y"),
    ("x-a", INJECTED),
    ("x-a\r\nb", "1"),
    ("x-a: b\r\ncontent-length", "1"),
    ("x a", "1"),
    ("", "1"),
    (":method", "POST"),
    (":authority", "evil.test"),
    (":authority", "localhost"),
    (":authority", "localhost\r\nx: y"),
    (":scheme", "http"),
    (":protocol", "websocket"),
    (":status", "200"),
    (":unknown", "1"),
    ("x-forwarded-for", "1"),
    ("expect", "100-continue"),
    ("content_length", "5"),
    ("trailer", "authorization"),
];
