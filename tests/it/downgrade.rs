//! HTTP/2 requests that HTTP/1 cannot express: the proxy either rejects them or forwards one well-formed HTTP/1 request
//! (RFC 9113 section 8).

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW, Outcome, PING,
    RawH2, SETTINGS, WINDOW_UPDATE, frame, header_block, setting,
};
use crate::support::proxy::directory;
use crate::support::strict_upstream::StrictUpstream;
use crate::support::{HttpVersion, ListenerKind, Proxy, TestRequest, exchange};

type Field = (&'static str, &'static str);

/// A case: the fields and the body in pieces, and then the request line, the `Content-Length` and the body at the upstream.
type ForwardedCase<'a> = (
    Vec<Field>,
    Option<&'a [&'a [u8]]>,
    &'a str,
    Option<&'a str>,
    &'a [u8],
);

const LOGIN: Field = ("authorization", "Basic YWxpY2U6cHc=");
/// An address of `listen.behind_proxy` needs this field. On an https address, the proxy replaces it.
const FORWARDED: Field = ("x-forwarded-proto", "https");
/// The error code PROTOCOL_ERROR (RFC 9113 section 7).
const PROTOCOL_ERROR: u32 = 1;

/// The fields of a request in order. A field of `changes` replaces the default field of the same name, or follows the
/// default fields.
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

fn encode_fields(fields: &[Field]) -> Vec<u8> {
    // Each character stands for one byte.
    let bytes = |text: &str| {
        text.chars()
            .map(|character| u8::try_from(character).unwrap())
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

/// Sends a request with these fields and the pieces of a body, and returns the outcome of the stream.
fn exchange_on_stream(frames: &mut RawH2, fields: &[Field], body: Option<&[&[u8]]>) -> Outcome {
    let id = frames.next_stream_id();
    let flags = END_HEADERS | if body.is_none() { END_STREAM } else { 0 };
    let mut bytes = frame(HEADERS, flags, id, &encode_fields(fields));
    let pieces = body.unwrap_or_default();
    for (number, piece) in pieces.iter().enumerate() {
        let is_last = number + 1 == pieces.len();
        bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, id, piece));
    }
    let _ = frames.try_send(bytes);
    frames.read_outcome(id)
}

fn start(kind: ListenerKind) -> (StrictUpstream, Proxy) {
    let upstream = StrictUpstream::start();
    let proxy = Proxy::start_in(directory(), &upstream.url(), kind.config());
    (upstream, proxy)
}

#[test]
fn requests_that_http1_cannot_express_are_rejected() {
    for kind in ListenerKind::ALL {
        requests_that_http1_cannot_express_are_rejected_over(kind);
    }
}

fn requests_that_http1_cannot_express_are_rejected_over(kind: ListenerKind) {
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
                .filter(|field| field.0 != ":path")
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
                .filter(|field| field.0 != ":method")
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
                .filter(|field| field.0 != ":scheme")
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
            "pseudo-field after a field",
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
            "content-length without a body",
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
    let (upstream, proxy) = start(kind);
    let mut wrong = Vec::new();
    for (name, fields, expected) in cases {
        let mut frames = kind.frames(&proxy);
        let outcome = exchange_on_stream(&mut frames, &fields, None);
        // A malformed request may end its stream or the connection (RFC 9113 section 8.1.1).
        let is_right =
            outcome == expected || expected == reset && outcome == Outcome::Goaway(PROTOCOL_ERROR);
        if !is_right || !upstream.take_requests().is_empty() {
            wrong.push(format!("{name}: {outcome:?}"));
        }
        if matches!(outcome, Outcome::Status(_) | Outcome::Reset(_)) {
            // The rejection does not affect other streams of the connection.
            assert_eq!(
                exchange_on_stream(&mut frames, &get(&[]), None),
                Outcome::Status(200),
                "{name}"
            );
            assert_eq!(upstream.take_requests().len(), 1, "{name}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(upstream.violations().is_empty());
}

#[test]
fn valid_requests_are_framed_as_http1() {
    for kind in ListenerKind::ALL {
        valid_requests_are_framed_as_http1_over(kind);
    }
}

fn valid_requests_are_framed_as_http1_over(kind: ListenerKind) {
    let (upstream, proxy) = start(kind);
    let upload = |changes: &[Field]| fields("POST", "/v2/a/blobs/uploads/", changes);
    let one: &[&[u8]] = &[b"abc"];
    let three: &[&[u8]] = &[b"a", b"", b"bc"];
    let cases: Vec<ForwardedCase<'_>> = vec![
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
        // The proxy removes the fragment before it parses the target.
        (get(&[(":path", "/v2/#x")]), None, "GET /v2/", None, b""),
        (get(&[("host", "localhost")]), None, "GET /v2/", None, b""),
        (get(&[("te", "trailers")]), None, "GET /v2/", None, b""),
    ];
    for (fields, body, line, length, bytes) in cases {
        let mut frames = kind.frames(&proxy);
        assert_eq!(
            exchange_on_stream(&mut frames, &fields, body),
            Outcome::Status(200),
            "{fields:?}"
        );
        let received = upstream.take_requests();
        let [request] = received.as_slice() else {
            panic!("{received:?}")
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
    assert!(upstream.violations().is_empty());
}

#[test]
fn a_host_field_replaces_a_missing_authority() {
    for kind in ListenerKind::ALL {
        a_host_field_replaces_a_missing_authority_over(kind);
    }
}

fn a_host_field_replaces_a_missing_authority_over(kind: ListenerKind) {
    let (upstream, proxy) = start(kind);
    let mut frames = kind.frames(&proxy);
    let mut fields = get(&[("host", "localhost")]);
    fields.retain(|(name, _)| *name != ":authority");
    assert_eq!(
        exchange_on_stream(&mut frames, &fields, None),
        Outcome::Status(200)
    );
    assert_eq!(
        upstream.take_requests()[0].header_values("host"),
        ["localhost"]
    );
    fields.retain(|(name, _)| *name != "host");
    assert_eq!(
        exchange_on_stream(&mut frames, &fields, None),
        Outcome::Status(400)
    );
    assert!(upstream.take_requests().is_empty());
}

#[test]
fn several_cookie_fields_become_one() {
    let (upstream, proxy) = start(ListenerKind::Https);
    for http in HttpVersion::BOTH {
        let request = TestRequest::alice("GET", "/v2/")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        assert_eq!(exchange(&proxy, http, &request).status, 200);
        assert_eq!(
            upstream.take_requests()[0].header_values("cookie"),
            ["a=1; b=2"]
        );
    }
}

#[test]
fn a_body_that_does_not_match_its_content_length_is_never_complete_for_the_upstream() {
    for kind in ListenerKind::ALL {
        a_body_that_does_not_match_its_content_length_is_never_complete_for_the_upstream_over(kind);
    }
}

fn a_body_that_does_not_match_its_content_length_is_never_complete_for_the_upstream_over(
    kind: ListenerKind,
) {
    let (upstream, proxy) = start(kind);
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
        let outcome = exchange_on_stream(&mut frames, &upload(length), Some(pieces));
        let is_rejected = matches!(
            outcome,
            Outcome::Reset(_) | Outcome::Goaway(PROTOCOL_ERROR) | Outcome::Status(400)
        );
        assert!(is_rejected, "{length}: {outcome:?}");
        // The proxy does not reuse the upstream connection of an incomplete body.
        assert!(upstream.take_requests().is_empty(), "{length}");
        assert_eq!(
            exchange_on_stream(&mut kind.frames(&proxy), &get(&[]), None),
            Outcome::Status(200)
        );
        assert_eq!(upstream.take_requests().len(), 1);
    }
}

#[test]
fn trailers_are_removed() {
    for kind in ListenerKind::ALL {
        trailers_are_removed_over(kind);
    }
}

fn trailers_are_removed_over(kind: ListenerKind) {
    let (upstream, proxy) = start(kind);
    let mut frames = kind.frames(&proxy);
    for trailers in [
        [("x-forwarded-for", "6.6.6.6"), ("content-length", "9")],
        [(":path", "/v2/x"), (":method", "PUT")],
    ] {
        let id = frames.next_stream_id();
        let upload = encode_fields(&fields("POST", "/v2/a/blobs/uploads/", &[]));
        frames.send(
            [
                frame(HEADERS, END_HEADERS, id, &upload),
                frame(DATA, 0, id, b"abc"),
                frame(
                    HEADERS,
                    END_HEADERS | END_STREAM,
                    id,
                    &encode_fields(&trailers),
                ),
            ]
            .concat(),
        );
        assert_eq!(frames.read_outcome(id), Outcome::Status(200));
        let received = upstream.take_requests();
        assert_eq!(
            (received.len(), received[0].request_line().as_str()),
            (1, "POST /v2/a/blobs/uploads/")
        );
        assert_eq!(received[0].body, b"abc");
        assert_eq!(received[0].header_values("x-forwarded-for"), ["127.0.0.1"]);
    }
}

#[test]
fn connection_errors_of_http2_end_the_connection_with_goaway() {
    for kind in ListenerKind::ALL {
        connection_errors_of_http2_end_the_connection_with_goaway_over(kind);
    }
}

fn connection_errors_of_http2_end_the_connection_with_goaway_over(kind: ListenerKind) {
    let (upstream, proxy) = start(kind);
    let request = |id| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            id,
            &encode_fields(&get(&[])),
        )
    };
    let cases = [
        ("even", vec![request(2)]),
        ("zero", vec![request(0)]),
        ("backwards", vec![request(5), request(3)]),
        ("again", vec![request(1), request(1)]),
        ("data of no stream", vec![frame(DATA, 0, 9, b"x")]),
        (
            "a head within a head",
            vec![frame(HEADERS, 0, 1, &encode_fields(&get(&[]))), request(3)],
        ),
        (
            "continued elsewhere",
            vec![
                frame(HEADERS, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 3, &encode_fields(&get(&[]))),
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
            .filter(|frame| frame.kind == GOAWAY)
            .last();
        assert!(
            last.is_some_and(|frame| frame.payload[4..8] != [0; 4]),
            "{name}"
        );
        upstream.take_requests();
    }
    assert!(upstream.violations().is_empty());
}
