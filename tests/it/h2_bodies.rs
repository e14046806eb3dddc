//! HTTP/2 request bodies whose length differs from `Content-Length`. Such a request is malformed (RFC 9113 section 8.1.1), and
//! the part that the proxy has forwarded never looks like a complete request to the registry.

use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, HEADERS, Outcome, PADDED, RST_STREAM, RawH2, frame,
    header_block,
};
use crate::support::registry::RequestEnd;
use crate::support::{Proxy, RecordedRequest, Registry};

const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const CANCEL: u32 = 8;

/// The header block of an upload, with the credentials of alice if `has_credentials`.
fn head(length: Option<&str>, has_credentials: bool) -> Vec<u8> {
    let mut fields: Vec<(&[u8], &[u8])> = vec![
        (b":method", b"PATCH"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/v2/a/blobs/uploads/u"),
    ];
    if let Some(length) = length {
        fields.push((b"content-length", length.as_bytes()));
    }
    if has_credentials {
        fields.push((b"authorization", b"Basic YWxpY2U6cHc="));
    }
    header_block(&fields)
}

fn start_upload(frames: &mut RawH2, length: Option<&str>) -> u32 {
    let stream = frames.next_stream_id();
    frames.send(frame(HEADERS, END_HEADERS, stream, &head(length, true)));
    stream
}

/// A DATA frame with a body of `bytes` bytes and with `padding` bytes of padding.
fn data(stream: u32, flags: u8, bytes: usize, padding: Option<u8>) -> Vec<u8> {
    let body = vec![b'x'; bytes];
    match padding {
        None => frame(DATA, flags, stream, &body),
        Some(padding) => {
            let padded = [vec![padding], body, vec![0; usize::from(padding)]].concat();
            frame(DATA, flags | PADDED, stream, &padded)
        }
    }
}

/// The value of `Content-Length`, and the length and the flags of each DATA frame.
type Case = (&'static str, &'static [(usize, u8)]);

const MALFORMED: [Case; 10] = [
    ("5", &[(6, END_STREAM)]),
    ("5", &[(6, 0)]),
    ("5", &[(5, 0), (1, END_STREAM)]),
    ("5", &[(5, 0), (1, 0)]),
    ("5", &[(2, 0), (3, 0), (10_000, 0)]),
    ("5", &[(2, 0), (4, END_STREAM)]),
    ("0", &[(1, END_STREAM)]),
    ("0", &[(1, 0)]),
    ("5", &[(3, END_STREAM)]),
    ("5", &[(4, 0), (0, END_STREAM)]),
];

fn is_whole(request: &RecordedRequest) -> bool {
    request.end == RequestEnd::Whole
}

#[test]
fn a_body_that_differs_from_content_length_never_completes_the_forwarded_request() {
    let registry = Registry::start(|exchange| {
        exchange.body();
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let proxy = Proxy::with_defaults(&registry);
    for (length, pieces) in MALFORMED {
        for padding in [None, Some(0), Some(100)] {
            for is_paced in [false, true] {
                let mut frames = RawH2::connect(proxy.https());
                let stream = start_upload(&mut frames, Some(length));
                for (bytes, flags) in pieces {
                    frames.send(data(stream, *flags, *bytes, padding));
                    if is_paced && *flags == 0 && pieces.last() != Some(&(*bytes, *flags)) {
                        assert!(frames.ping_round_trip());
                    }
                }
                assert_eq!(
                    frames.read_outcome(stream),
                    Outcome::Reset(PROTOCOL_ERROR),
                    "{length}: {pieces:?} with padding {padding:?}"
                );
                // The other streams of the connection continue.
                let next = start_upload(&mut frames, Some("5"));
                frames.send(data(next, END_STREAM, 5, padding));
                assert_eq!(frames.read_outcome(next), Outcome::Status(200));
            }
        }
    }
    let seen = registry
        .wait_for_requests(|seen| seen.iter().all(|request| request.end != RequestEnd::NotYet));
    let good = MALFORMED.len() * 3 * 2;
    assert_eq!(
        seen.iter().filter(|request| is_whole(request)).count(),
        good
    );
}

#[test]
fn end_stream_may_come_in_an_empty_data_frame() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for (length, bytes) in [(Some("5"), 5), (Some("0"), 0), (None, 5), (None, 0)] {
        let mut frames = RawH2::connect(proxy.https());
        let stream = start_upload(&mut frames, length);
        if bytes > 0 {
            frames.send(data(stream, 0, bytes, Some(3)));
        }
        assert!(frames.ping_round_trip());
        frames.send(data(stream, END_STREAM, 0, None));
        assert_eq!(
            frames.read_outcome(stream),
            Outcome::Status(200),
            "{length:?}"
        );
        let seen = registry.requests().pop().unwrap();
        assert_eq!(seen.body, vec![b'x'; bytes], "{length:?}");
    }
}

/// The proxy has responded before the body is complete, and discards the rest of the body.
#[test]
fn data_beyond_content_length_after_the_response_resets_the_stream() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for (flags, padding) in [(0, None), (END_STREAM, None), (0, Some(50))] {
        let mut frames = RawH2::connect(proxy.https());
        let stream = frames.next_stream_id();
        frames.send(frame(HEADERS, END_HEADERS, stream, &head(Some("5"), false)));
        assert_eq!(frames.read_outcome(stream), Outcome::Status(401));
        let is_end =
            |it: &Frame| it.stream == stream && it.kind == DATA && it.flags & END_STREAM != 0;
        assert!(std::iter::from_fn(|| frames.read_frame()).any(|it| is_end(&it)));
        frames.send(data(stream, flags, 6, padding));
        assert_eq!(frames.read_outcome(stream), Outcome::Reset(PROTOCOL_ERROR));
    }
    assert!(registry.requests().is_empty());
}

/// hyper treats RST_STREAM with NO_ERROR as the end of the body; the proxy must not.
#[test]
fn a_reset_with_any_code_never_completes_the_forwarded_request() {
    let registry = Registry::start(|exchange| {
        exchange.body();
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let proxy = Proxy::with_defaults(&registry);
    let mut expected = 0;
    for code in [NO_ERROR, PROTOCOL_ERROR, CANCEL, 0xffff_ffff] {
        for (length, bytes) in [
            (None, 0),
            (None, 5),
            (Some("5"), 5),
            (Some("6"), 5),
            (Some("0"), 0),
        ] {
            let mut frames = RawH2::connect(proxy.https());
            let stream = start_upload(&mut frames, length);
            if bytes > 0 {
                frames.send(data(stream, 0, bytes, None));
            }
            assert!(frames.ping_round_trip());
            // The proxy does not forward the last bytes of a body with `Content-Length` before END_STREAM.
            if matches!(length, None | Some("6")) {
                expected += 1;
                registry.wait_for_requests(|seen| seen.len() >= expected);
            }
            frames.send(frame(RST_STREAM, 0, stream, &code.to_be_bytes()));
            assert!(frames.ping_round_trip());
        }
    }
    let seen = registry
        .wait_for_requests(|seen| seen.iter().all(|request| request.end != RequestEnd::NotYet));
    assert!(!seen.iter().any(is_whole), "{seen:?}");
}
