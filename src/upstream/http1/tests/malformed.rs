//! Responses that are rejected: malformed heads and chunks, and parts that are too large.

use super::*;

#[test]
fn malformed_heads_are_rejected() {
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 204 No\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: 1\0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A : 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH",
    ];
    for case in cases {
        let error = get([case], After::End).err();
        assert!(
            matches!(error, Some(Error::Malformed(_))),
            "{case:?}: {error:?}"
        );
    }
}

#[test]
fn malformed_chunks_are_rejected() {
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1025));
    let spaces = format!("1{};x\r\na\r\n0\r\n\r\n", " ".repeat(1026));
    let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(8 * 1024));
    let cases = [
        "0x1\r\nZ\r\n0\r\n\r\n",
        "+1\r\nZ\r\n0\r\n\r\n",
        "-1\r\nZ\r\n0\r\n\r\n",
        " 1\r\nZ\r\n0\r\n\r\n",
        "1 \r\nZ\r\n0\r\n\r\n",
        "1 1;x\r\nZ\r\n0\r\n\r\n",
        "1 x;y\r\nZ\r\n0\r\n\r\n",
        " ;x\r\nZ\r\n0\r\n\r\n",
        "1 \n;x\r\nZ\r\n0\r\n\r\n",
        "1 \r;x\r\nZ\r\n0\r\n\r\n",
        "1 \0;x\r\nZ\r\n0\r\n\r\n",
        "0 \r\n\r\n",
        "1_0\r\nZ\r\n0\r\n\r\n",
        "\r\nZ\r\n0\r\n\r\n",
        ";x\r\nZ\r\n0\r\n\r\n",
        "10000000000000001\r\nZ\r\n0\r\n\r\n",
        "00000000000000001\r\nZ\r\n0\r\n\r\n",
        "1\nZ\n0\n\n",
        "1;a\nZ\r\n0\r\n\r\n",
        "1;a\rb\r\nZ\r\n0\r\n\r\n",
        "1\r\nZZZ0\r\n\r\n",
        "1\r\nZ\n0\r\n\r\n",
        "0\r\n\n",
        "0\r\nX: 1\n\r\n",
        "0\r\nX: \0\r\n\r\n",
        &long,
        &spaces,
        &trailers,
    ];
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for case in cases {
        // An error that arrives with the head can still become a 502. After the head it breaks the transfer.
        let together = get([format!("{head}{case}")], After::End).err();
        assert!(
            matches!(together, Some(Error::Malformed(_))),
            "{case:?}: {together:?}"
        );
        let separate = get([head, case], After::End).unwrap();
        assert!(
            matches!(separate.error, Some(Error::Malformed(_))),
            "{case:?}"
        );
        assert!(!separate.is_pooled);
    }
}

#[test]
fn the_largest_chunk_size_has_16_digits() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let received = get([head, "ffffffffffffffff\r\nabc"], After::End).unwrap();
    assert_eq!(received.body, b"abc");
    assert!(matches!(received.error, Some(Error::Closed(_))));
    let padded = get([head, "0000000000000001\r\na\r\n0\r\n\r\n"], After::End).unwrap();
    assert_eq!(padded.body, b"a");
    assert!(padded.error.is_none());
}

#[test]
fn heads_are_bounded_in_size_and_fields() {
    let of = |size: usize| {
        let start = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: ";
        let value = "a".repeat(size - start.len() - 4);
        get([format!("{start}{value}\r\n\r\n")], After::Silence)
    };
    assert!(of(64 * 1024).unwrap().is_pooled);
    assert!(matches!(of(64 * 1024 + 1).err(), Some(Error::Malformed(_))));
    let unfinished = format!("HTTP/1.1 200 OK\r\nX-A: {}", "a".repeat(64 * 1024));
    let error = get([unfinished], After::Silence).err();
    assert!(matches!(error, Some(Error::Malformed(_))));
    let fields = |count: usize| {
        let fields: String = (0..count).map(|it| format!("x-{it}: 1\r\n")).collect();
        get([format!("HTTP/1.1 204 No\r\n{fields}\r\n")], After::Silence)
    };
    assert_eq!(fields(128).unwrap().parts.headers.len(), 128);
    assert!(matches!(fields(129).err(), Some(Error::Malformed(_))));
}
