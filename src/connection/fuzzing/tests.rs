//! A short run of what `cargo fuzz run connection` does without end.

use proptest::prelude::*;

use super::*;

#[test]
fn the_check_sees_requests() {
    let two = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let expected = vec![
        ("POST".to_owned(), Some(b"abc".to_vec())),
        ("GET".to_owned(), Some(Vec::new())),
    ];
    assert_eq!(reference::requests(two), expected);
    assert_eq!(serve(false, vec![two.to_vec()]), expected);
    let cut = b"PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc";
    assert_eq!(serve(false, vec![cut.to_vec()]), [("PUT".to_owned(), None)]);
    // A trailer that is no field: the request is not whole, and none follows it.
    let trailers = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nabc\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let expected = [("POST".to_owned(), None)];
    assert_eq!(reference::requests(trailers), expected);
    assert_eq!(serve(false, vec![trailers.to_vec()]), expected);
    let doubtful = b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na";
    assert_eq!(serve(false, vec![doubtful.to_vec()]), []);
    let get = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01a";
    let hello = [HELLO, get].concat();
    assert_eq!(serve(true, vec![hello]).len(), 1);
}

/// Requests in and out of order.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let words = [
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
    let word = prop::sample::select(words.to_vec()).prop_map(|word| word.as_bytes().to_vec());
    let any = prop_oneof![20 => word, 1 => prop::collection::vec(any::<u8>(), 0..4)];
    prop::collection::vec(any, 0..24).prop_map(|pieces| pieces.concat())
}

/// Frames in and out of order.
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
    fn http1(bytes in hostile(), cuts in prop::collection::vec(1..40_u8, 0..4)) {
        check_http1(&bytes, &cuts);
    }

    #[test]
    fn http2(bytes in frames(), cuts in prop::collection::vec(1..40_u8, 0..4)) {
        check_http2(&bytes, &cuts);
    }
}
