//! A short run of the properties that `cargo fuzz run connection` checks without end.

use proptest::prelude::*;

use super::*;

#[test]
fn the_reference_and_the_connection_see_the_same_requests() {
    let two = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let expected = vec![
        ("POST".to_owned(), Some(b"abc".to_vec())),
        ("GET".to_owned(), Some(Vec::new())),
    ];
    assert_eq!(http1_reference::parse(two), expected);
    assert_eq!(serve(false, vec![two.to_vec()]), expected);
    let cut = b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc";
    assert_eq!(serve(false, vec![cut.to_vec()]), [("PUT".to_owned(), None)]);
    // A malformed trailer field: the request is incomplete, and the connection sees no further request.
    let trailers = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nabc\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let expected = [("POST".to_owned(), None)];
    assert_eq!(http1_reference::parse(trailers), expected);
    assert_eq!(serve(false, vec![trailers.to_vec()]), expected);
    let ambiguous = b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na";
    assert_eq!(serve(false, vec![ambiguous.to_vec()]), []);
    let get = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01a";
    let input = [HTTP2_PREFACE, get].concat();
    assert_eq!(serve(true, vec![input]).len(), 1);
}

/// Sequences of fragments of requests, most of them malformed.
fn request_fragments() -> impl Strategy<Value = Vec<u8>> {
    let fragments = [
        "GET / HTTP/1.1\r\n",
        "POST /v2/ HTTP/1.1\r\n",
        "PUT /x HTTP/1.0\r\n",
        "HEAD / HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: ",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunked\r\n",
        "chunked",
        "gzip, ",
        "3",
        "0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "\0",
        "abc",
        " ",
        "\t",
        ":",
        ";",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "1;x\r\nZ\r\n",
        "1 ;x\r\nZ\r\n",
        "0\t; x\r\n\r\n",
        "0000000000000000",
        "A: b\r\n",
        "#",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: x\r\nConnection: upgrade\r\n",
    ];
    let fragment =
        prop::sample::select(fragments.to_vec()).prop_map(|text| text.as_bytes().to_vec());
    let any = prop_oneof![20 => fragment, 1 => prop::collection::vec(any::<u8>(), 0..4)];
    prop::collection::vec(any, 0..24).prop_map(|pieces| pieces.concat())
}

/// Sequences of HTTP/2 frames, most of them malformed or out of order.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let block = prop::sample::select(vec![
        b"\x82\x87\x84\x41\x01a".to_vec(),
        b"\x83\x87\x84\x41\x01a\x0f\x0d\x013".to_vec(),
        b"\x82\x87".to_vec(),
        b"abc".to_vec(),
        8_u32.to_be_bytes().to_vec(),
        vec![0; 8],
        Vec::new(),
    ]);
    let frame = (0..11_u8, 0..8_u8, 0..8_u8, block).prop_map(|(kind, flags, stream, payload)| {
        let length = u8::try_from(payload.len()).unwrap();
        [
            &[0, 0, length, kind, flags, 0, 0, 0, stream],
            payload.as_slice(),
        ]
        .concat()
    });
    prop::collection::vec(frame, 0..20).prop_map(|frames| frames.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn http1_requests_are_those_of_the_reference(bytes in request_fragments(), cuts in prop::collection::vec(1..40_u8, 0..4)) {
        check_http1(&bytes, &cuts);
    }

    #[test]
    fn http2_frames_make_no_more_requests_than_bytes(bytes in frames(), cuts in prop::collection::vec(1..40_u8, 0..4)) {
        check_http2(&bytes, &cuts);
    }
}
