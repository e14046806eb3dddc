//! What HTTP/2 can say and HTTP/1 cannot: refused, or one well-formed request to the upstream (RFC 9113 section 8).

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW, Outcome, PING,
    RawH2, SETTINGS, WINDOW_UPDATE, frame, header_block, setting,
};
use crate::support::proxy::directory;
use crate::support::strict_upstream::StrictUpstream;
use crate::support::{HttpVersion, ListenerKind, Proxy, TestRequest, exchange};

type Field = (&'static str, &'static str);

/// Fields and body in pieces; then line, length and body as they arrive.
type Passing<'a> = (
    Vec<Field>,
    Option<&'a [&'a [u8]]>,
    &'a str,
    Option<&'a str>,
    &'a [u8],
);

const LOGIN: Field = ("authorization", "Basic YWxpY2U6cHc=");
/// An address behind a proxy needs the field; an https address replaces it.
const FORWARDED: Field = ("x-forwarded-proto", "https");
/// RFC 9113 section 7.
const PROTOCOL_ERROR: u32 = 1;

/// The fields of a request in order; `changes` take the place of those of the same name, the others follow.
fn fields(method: &'static str, path: &'static str, changes: &[Field]) -> Vec<Field> {
    let usual = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        LOGIN,
        FORWARDED,
    ];
    let changed = |name: &str| changes.iter().any(|(other, _)| *other == name);
    let (pseudo, others): (Vec<Field>, Vec<Field>) =
        changes.iter().partition(|(name, _)| name.starts_with(':'));
    let kept = usual.into_iter().filter(|(name, _)| !changed(name));
    let (first, last): (Vec<Field>, Vec<Field>) = kept.partition(|(name, _)| name.starts_with(':'));
    [first, pseudo, last, others].concat()
}

fn get(changes: &[Field]) -> Vec<Field> {
    fields("GET", "/v2/", changes)
}

fn encoded(fields: &[Field]) -> Vec<u8> {
    // A character stands for a byte.
    let bytes = |text: &str| {
        text.chars()
            .map(|it| u8::try_from(it).unwrap())
            .collect::<Vec<u8>>()
    };
    let all: Vec<_> = fields
        .iter()
        .map(|(name, value)| (bytes(name), bytes(value)))
        .collect();
    let all: Vec<_> = all
        .iter()
        .map(|(name, value)| (name.as_slice(), value.as_slice()))
        .collect();
    header_block(&all)
}

/// A stream of these fields, then a body in pieces when there is one.
fn stream(frames: &mut RawH2, fields: &[Field], body: Option<&[&[u8]]>) -> Outcome {
    let id = frames.next_stream_id();
    let flags = END_HEADERS | if body.is_none() { END_STREAM } else { 0 };
    let mut bytes = frame(HEADERS, flags, id, &encoded(fields));
    let pieces = body.unwrap_or_default();
    for (number, piece) in pieces.iter().enumerate() {
        let is_last = number + 1 == pieces.len();
        bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, id, piece));
    }
    let _ = frames.try_send(bytes);
    frames.read_outcome(id)
}

fn start(kind: ListenerKind) -> (StrictUpstream, Proxy) {
    let canary = StrictUpstream::start();
    let proxy = Proxy::start_in(directory(), &canary.url(), kind.config());
    (canary, proxy)
}

#[test]
fn what_http1_cannot_say_does_not_pass() {
    ListenerKind::ALL
        .into_iter()
        .for_each(what_http1_cannot_say_does_not_pass_over);
}

fn what_http1_cannot_say_does_not_pass_over(kind: ListenerKind) {
    let reset = Outcome::Reset(PROTOCOL_ERROR);
    let bad = Outcome::Status(400);
    let upload = |changes: &[Field]| fields("POST", "/v2/a/blobs/uploads/", changes);
    let cases: Vec<(&str, Vec<Field>, Outcome)> = vec![
        (
            "CR LF in a value",
            get(&[("x-a", "1\r\nGET /smuggled HTTP/1.1")]),
            reset,
        ),
        ("LF in a value", get(&[("x-a", "1\n2")]), reset),
        ("CR in a value", get(&[("x-a", "1\r2")]), reset),
        ("NUL in a value", get(&[("x-a", "1\x002")]), reset),
        ("CR LF in a name", get(&[("x-a: 1\r\nx-b", "2")]), reset),
        ("colon in a name", get(&[("x:a", "1")]), reset),
        ("space in a name", get(&[("x a", "1")]), reset),
        ("empty name", get(&[("", "1")]), reset),
        ("upper case in a name", get(&[("X-A", "1")]), reset),
        (
            "bytes beyond ASCII in a name",
            get(&[("x-\u{e4}", "1")]),
            reset,
        ),
        ("space in :path", get(&[(":path", "/v2/ HTTP/1.1")]), reset),
        (
            "CR LF in :path",
            get(&[(":path", "/v2/ HTTP/1.1\r\nHost: evil\r\n\r\n")]),
            reset,
        ),
        ("NUL in :path", get(&[(":path", "/v2/\0")]), reset),
        (
            "no :path",
            fields("GET", "", &[])[..]
                .iter()
                .copied()
                .filter(|it| it.0 != ":path")
                .collect(),
            reset,
        ),
        ("empty :path", get(&[(":path", "")]), reset),
        ("relative :path", get(&[(":path", "v2/")]), reset),
        (
            "absolute :path",
            get(&[(":path", "http://evil.test/v2/")]),
            reset,
        ),
        ("* as :path", get(&[(":path", "*")]), bad),
        ("* for OPTIONS", fields("OPTIONS", "*", &[]), bad),
        (
            "two :path",
            get(&[(":path", "/v2/"), (":path", "/v2/x")]),
            reset,
        ),
        (
            "space in :method",
            get(&[(":method", "GET /v2/ HTTP/1.1\r\nX:")]),
            reset,
        ),
        ("empty :method", get(&[(":method", "")]), reset),
        (
            "no :method",
            get(&[])
                .into_iter()
                .filter(|it| it.0 != ":method")
                .collect(),
            reset,
        ),
        (
            "two :method",
            get(&[(":method", "GET"), (":method", "POST")]),
            reset,
        ),
        (
            "lower case in :method",
            get(&[(":method", "get")]),
            Outcome::Status(405),
        ),
        ("TRACE", get(&[(":method", "TRACE")]), Outcome::Status(405)),
        (
            "userinfo in :authority",
            get(&[(":authority", "user@localhost")]),
            bad,
        ),
        (
            "a path in :authority",
            get(&[(":authority", "localhost/x")]),
            reset,
        ),
        (
            "CR LF in :authority",
            get(&[(":authority", "localhost\r\nX: 1")]),
            reset,
        ),
        (
            "space in :authority",
            get(&[(":authority", "local host")]),
            reset,
        ),
        (
            "foreign :authority",
            get(&[(":authority", "evil.test")]),
            Outcome::Status(421),
        ),
        (
            "two :authority",
            get(&[(":authority", "localhost"), (":authority", "evil.test")]),
            reset,
        ),
        (
            "no :scheme",
            get(&[])
                .into_iter()
                .filter(|it| it.0 != ":scheme")
                .collect(),
            reset,
        ),
        ("another :scheme", get(&[(":scheme", "ftp")]), bad),
        ("CR LF in :scheme", get(&[(":scheme", "https\r\n")]), reset),
        ("unknown pseudo-field", get(&[(":evil", "1")]), reset),
        (
            ":protocol",
            get(&[(":method", "CONNECT"), (":protocol", "websocket")]),
            reset,
        ),
        (":status", get(&[(":status", "200")]), reset),
        (
            "pseudo-field behind a field",
            [vec![LOGIN], get(&[])].concat(),
            reset,
        ),
        (
            "host and :authority differ",
            get(&[("host", "evil.test")]),
            bad,
        ),
        (
            "two hosts",
            get(&[("host", "localhost"), ("host", "localhost")]),
            bad,
        ),
        ("connection", get(&[("connection", "close")]), reset),
        ("keep-alive", get(&[("keep-alive", "1")]), reset),
        (
            "proxy-connection",
            get(&[("proxy-connection", "close")]),
            reset,
        ),
        (
            "transfer-encoding",
            upload(&[("transfer-encoding", "chunked")]),
            reset,
        ),
        ("upgrade", get(&[("upgrade", "h2c")]), reset),
        ("te: gzip", get(&[("te", "gzip")]), reset),
        (
            "length of nothing",
            upload(&[("content-length", "5")]),
            reset,
        ),
        ("length +5", upload(&[("content-length", "+5")]), reset),
        (
            "lengths that differ",
            upload(&[("content-length", "0"), ("content-length", "5")]),
            reset,
        ),
        (
            "CONNECT",
            vec![
                (":method", "CONNECT"),
                (":authority", "localhost:443"),
                LOGIN,
                FORWARDED,
            ],
            Outcome::Status(405),
        ),
    ];
    let (canary, proxy) = start(kind);
    let mut wrong = Vec::new();
    for (name, fields, expected) in cases {
        let mut frames = kind.frames(&proxy);
        let outcome = stream(&mut frames, &fields, None);
        // What is malformed may end its stream or the connection.
        let is_right =
            outcome == expected || expected == reset && outcome == Outcome::Goaway(PROTOCOL_ERROR);
        if !is_right || !canary.take_requests().is_empty() {
            wrong.push(format!("{name}: {outcome:?}"));
        }
        if matches!(outcome, Outcome::Status(_) | Outcome::Reset(_)) {
            // The other streams of the connection are none the worse for it.
            assert_eq!(
                stream(&mut frames, &get(&[]), None),
                Outcome::Status(200),
                "{name}"
            );
            assert_eq!(canary.take_requests().len(), 1, "{name}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(canary.violations().is_empty());
}

#[test]
fn what_passes_is_framed_as_http1() {
    ListenerKind::ALL
        .into_iter()
        .for_each(what_passes_is_framed_as_http1_over);
}

fn what_passes_is_framed_as_http1_over(kind: ListenerKind) {
    let (canary, proxy) = start(kind);
    let upload = |changes: &[Field]| fields("POST", "/v2/a/blobs/uploads/", changes);
    let one: &[&[u8]] = &[b"abc"];
    let three: &[&[u8]] = &[b"a", b"", b"bc"];
    let cases: Vec<Passing<'_>> = vec![
        (
            upload(&[]),
            None,
            "POST /v2/a/blobs/uploads/",
            Some("0"),
            b"",
        ),
        (
            upload(&[("content-length", "0")]),
            None,
            "POST /v2/a/blobs/uploads/",
            Some("0"),
            b"",
        ),
        (
            upload(&[("content-length", "3")]),
            Some(one),
            "POST /v2/a/blobs/uploads/",
            Some("3"),
            b"abc",
        ),
        (
            upload(&[]),
            Some(three),
            "POST /v2/a/blobs/uploads/",
            None,
            b"abc",
        ),
        (get(&[]), Some(one), "GET /v2/", None, b"abc"),
        (fields("HEAD", "/v2/", &[]), None, "HEAD /v2/", None, b""),
        // The fragment is cut off before anyone reads the target.
        (get(&[(":path", "/v2/#x")]), None, "GET /v2/", None, b""),
        (get(&[("host", "localhost")]), None, "GET /v2/", None, b""),
        (get(&[("te", "trailers")]), None, "GET /v2/", None, b""),
    ];
    for (fields, body, line, length, bytes) in cases {
        let mut frames = kind.frames(&proxy);
        assert_eq!(
            stream(&mut frames, &fields, body),
            Outcome::Status(200),
            "{fields:?}"
        );
        let arrived = canary.take_requests();
        let [request] = arrived.as_slice() else {
            panic!("{arrived:?}")
        };
        assert_eq!(request.request_line(), line);
        assert_eq!(request.body, bytes, "{fields:?}");
        assert_eq!(request.header_values("host"), ["localhost"]);
        assert!(request.header_values("te").is_empty());
        let lengths: Vec<_> = length.into_iter().map(ToOwned::to_owned).collect();
        assert_eq!(
            request.header_values("content-length"),
            lengths,
            "{fields:?}"
        );
        assert_eq!(
            request.is_chunked,
            length.is_none() && !bytes.is_empty(),
            "{fields:?}"
        );
    }
    assert!(canary.violations().is_empty());
}

#[test]
fn a_host_alone_is_enough() {
    ListenerKind::ALL
        .into_iter()
        .for_each(a_host_alone_is_enough_over);
}

fn a_host_alone_is_enough_over(kind: ListenerKind) {
    let (canary, proxy) = start(kind);
    let mut frames = kind.frames(&proxy);
    let mut fields = get(&[("host", "localhost")]);
    fields.retain(|(name, _)| *name != ":authority");
    assert_eq!(stream(&mut frames, &fields, None), Outcome::Status(200));
    assert_eq!(
        canary.take_requests()[0].header_values("host"),
        ["localhost"]
    );
    fields.retain(|(name, _)| *name != "host");
    assert_eq!(stream(&mut frames, &fields, None), Outcome::Status(400));
    assert!(canary.take_requests().is_empty());
}

#[test]
fn cookie_crumbs_become_one_line() {
    let (canary, proxy) = start(ListenerKind::Https);
    for http in HttpVersion::BOTH {
        let request = TestRequest::alice("GET", "/v2/")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        assert_eq!(exchange(&proxy, http, &request).status, 200);
        assert_eq!(
            canary.take_requests()[0].header_values("cookie"),
            ["a=1; b=2"]
        );
    }
}

#[test]
fn a_body_of_another_length_than_announced_never_looks_whole() {
    ListenerKind::ALL
        .into_iter()
        .for_each(a_body_of_another_length_than_announced_never_looks_whole_over);
}

fn a_body_of_another_length_than_announced_never_looks_whole_over(kind: ListenerKind) {
    let (canary, proxy) = start(kind);
    let upload = |length| {
        fields(
            "POST",
            "/v2/a/blobs/uploads/",
            &[("content-length", length)],
        )
    };
    for (length, pieces) in [
        ("5", &[b"abc".as_slice()][..]),
        ("2", &[b"abc"]),
        ("2", &[b"ab", b"c"]),
    ] {
        let mut frames = kind.frames(&proxy);
        let outcome = stream(&mut frames, &upload(length), Some(pieces));
        let is_refused = matches!(
            outcome,
            Outcome::Reset(_) | Outcome::Goaway(PROTOCOL_ERROR) | Outcome::Status(400)
        );
        assert!(is_refused, "{length}: {outcome:?}");
        // The upstream connection of such a body is not used again.
        assert!(canary.take_requests().is_empty(), "{length}");
        assert_eq!(
            stream(&mut kind.frames(&proxy), &get(&[]), None),
            Outcome::Status(200)
        );
        assert_eq!(canary.take_requests().len(), 1);
    }
}

#[test]
fn trailers_end_here() {
    ListenerKind::ALL
        .into_iter()
        .for_each(trailers_end_here_over);
}

fn trailers_end_here_over(kind: ListenerKind) {
    let (canary, proxy) = start(kind);
    let mut frames = kind.frames(&proxy);
    for trailers in [
        [("x-forwarded-for", "6.6.6.6"), ("content-length", "9")],
        [(":path", "/v2/x"), (":method", "PUT")],
    ] {
        let id = frames.next_stream_id();
        let upload = encoded(&fields("POST", "/v2/a/blobs/uploads/", &[]));
        frames.send(
            [
                frame(HEADERS, END_HEADERS, id, &upload),
                frame(DATA, 0, id, b"abc"),
                frame(HEADERS, END_HEADERS | END_STREAM, id, &encoded(&trailers)),
            ]
            .concat(),
        );
        assert_eq!(frames.read_outcome(id), Outcome::Status(200));
        let arrived = canary.take_requests();
        assert_eq!(
            (arrived.len(), arrived[0].request_line().as_str()),
            (1, "POST /v2/a/blobs/uploads/")
        );
        assert_eq!(arrived[0].body, b"abc");
        assert_eq!(arrived[0].header_values("x-forwarded-for"), ["127.0.0.1"]);
    }
}

#[test]
fn streams_out_of_order_end_the_connection() {
    ListenerKind::ALL
        .into_iter()
        .for_each(streams_out_of_order_end_the_connection_over);
}

fn streams_out_of_order_end_the_connection_over(kind: ListenerKind) {
    let (canary, proxy) = start(kind);
    let request = |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &encoded(&get(&[])));
    let cases = [
        ("even", vec![request(2)]),
        ("zero", vec![request(0)]),
        ("backwards", vec![request(5), request(3)]),
        ("again", vec![request(1), request(1)]),
        ("data of no stream", vec![frame(DATA, 0, 9, b"x")]),
        (
            "a head within a head",
            vec![frame(HEADERS, 0, 1, &encoded(&get(&[]))), request(3)],
        ),
        (
            "continued elsewhere",
            vec![
                frame(HEADERS, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 3, &encoded(&get(&[]))),
            ],
        ),
        (
            "no field block",
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 20])],
        ),
        ("a frame too large", vec![frame(DATA, 0, 1, &[0; 20_000])]),
        (
            "a window too large",
            vec![frame(SETTINGS, 0, 0, &setting(&(INITIAL_WINDOW, 1 << 31)))],
        ),
        (
            "a window that grows too large",
            vec![frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())],
        ),
        (
            "settings of half a size",
            vec![frame(SETTINGS, 0, 0, &[0; 5])],
        ),
        ("settings of a stream", vec![frame(SETTINGS, 0, 1, &[])]),
        ("a half ping", vec![frame(PING, 0, 0, &[0; 4])]),
    ];
    for (name, bytes) in cases {
        let mut frames = kind.frames(&proxy);
        let _ = frames.try_send(bytes.concat());
        let last = std::iter::from_fn(|| frames.read_frame())
            .filter(|it| it.kind == GOAWAY)
            .last();
        assert!(last.is_some_and(|it| it.payload[4..8] != [0; 4]), "{name}");
        canary.take_requests();
    }
    assert!(canary.violations().is_empty());
}
