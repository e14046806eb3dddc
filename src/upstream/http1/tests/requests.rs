//! The bytes that are written for a request.

use super::*;

const RESPONSE: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

/// Sends `body`. Returns the written bytes, and whether the connection is reusable or why the exchange failed.
fn sent(method: Method, body: Body) -> (String, Result<bool, Error>) {
    let wire = Wire::new([RESPONSE], After::Silence);
    let written = Arc::clone(&wire.written);
    let ended = run(async {
        let (_, mut reader) = exchange(wire, method, body)
            .await
            .map_err(|failure| failure.error)?;
        Ok(reader.take_connection().is_some())
    });
    let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    (written, ended)
}

/// Splits the written bytes after the head.
fn split_head(written: &str) -> (&str, &str) {
    written.split_at(written.find("\r\n\r\n").unwrap() + 4)
}

#[test]
fn the_framing_follows_from_the_body() {
    let cases = [
        (Method::GET, Body::empty(), "", ""),
        (Method::DELETE, Body::empty(), "", ""),
        (Method::POST, Body::empty(), "content-length: 0\r\n", ""),
        (Method::PUT, Body::empty(), "content-length: 0\r\n", ""),
        (Method::PATCH, Body::empty(), "content-length: 0\r\n", ""),
        (
            Method::PUT,
            Body::full("abc"),
            "content-length: 3\r\n",
            "abc",
        ),
        (
            Method::PATCH,
            Frames::body(&[b"abc", b"", b"defghijklmnopq"], None),
            "transfer-encoding: chunked\r\n",
            "11\r\nabcdefghijklmnopq\r\n0\r\n\r\n",
        ),
        (
            Method::PATCH,
            Frames::body(&[b"abc", b"", b"de"], Some(5)),
            "content-length: 5\r\n",
            "abcde",
        ),
        (
            Method::PATCH,
            Frames::body(&[], None),
            "transfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
    ];
    for (method, body, framing, expected) in cases {
        let (written, kept) = sent(method.clone(), body);
        let (head, rest) = split_head(&written);
        assert_eq!(head, format!("{method} /v2/ HTTP/1.1\r\n{framing}\r\n"));
        assert_eq!(rest, expected);
        assert!(kept.unwrap(), "the connection can be used again");
    }
}

#[test]
fn the_fields_of_the_caller_are_kept_except_the_framing() {
    let request = Request::patch("/v2/a/blobs/uploads/x?_state=a%2Bb")
        .header("x-first", "1")
        .header("content-length", "99")
        .header("transfer-encoding", "gzip")
        .header("connection", "upgrade")
        .header("host", "Reg.Example:8443")
        .header("accept", "a")
        .header("accept", "b")
        .body(Body::full("abc"));
    let (parts, body) = request.unwrap().into_parts();
    let wire = Wire::new([RESPONSE], After::Silence);
    let written = Arc::clone(&wire.written);
    let connection = Connection::new(wire, READ_TIMEOUT, 1024);
    assert!(run(http1_exchange(connection, &parts, body, &wait())).is_ok());
    let expected = "PATCH /v2/a/blobs/uploads/x?_state=a%2Bb HTTP/1.1\r\nhost: Reg.Example:8443\r\n\
        x-first: 1\r\naccept: a\r\naccept: b\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(*written.lock().unwrap(), expected.as_bytes());
}

#[test]
fn the_head_and_all_ready_frames_are_one_write() {
    for (length, slices) in [(Some(6), 4), (None, 5)] {
        let wire = Wire::new([RESPONSE], After::Silence);
        let writes = Arc::clone(&wire.writes);
        let body = Frames::body(&[b"ab", b"cd", b"ef"], length);
        assert!(run(exchange(wire, Method::PATCH, body)).is_ok());
        // The head (with the chunk-size line), three frames, and the end of the chunk with the last chunk.
        assert_eq!(*writes.lock().unwrap(), [slices]);
    }
}

#[test]
fn a_body_of_another_length_than_declared_is_an_error() {
    for frames in [&[&b"ab"[..]][..], &[&b"ab"[..], &b"cdef"[..]][..]] {
        let (_, ended) = sent(Method::PUT, Frames::body(frames, Some(5)));
        assert!(matches!(ended, Err(Error::Malformed(_))), "{frames:?}");
    }
}

#[test]
fn a_broken_body_never_ends_cleanly() {
    let (written, ended) = sent(Method::PATCH, Frames::broken(None));
    assert!(matches!(
        ended,
        Err(Error::Body(body::Error::TooLarge { .. }))
    ));
    assert!(!written.contains("\r\n0\r\n\r\n"), "{written}");
    let (written, ended) = sent(Method::PATCH, Frames::broken(Some(9)));
    assert!(matches!(ended, Err(Error::Body(_))));
    assert!(!written.ends_with("abcdefghi"));
}

#[test]
fn a_second_request_reuses_the_connection_and_its_buffer() {
    run(async {
        let wire = Wire::new([RESPONSE, RESPONSE], After::Silence);
        let written = Arc::clone(&wire.written);
        let (_, mut reader) = exchange(wire, Method::POST, Body::full("one"))
            .await
            .ok()
            .unwrap();
        let connection = reader.take_connection().unwrap();
        assert!(connection.head_buffer().capacity() > 0 && connection.head_buffer().is_empty());
        let (parts, ()) = Request::put("/two").body(()).unwrap().into_parts();
        let body = Frames::body(&[b"2"], None);
        assert!(
            http1_exchange(connection, &parts, body, &wait())
                .await
                .is_ok()
        );
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(written.contains("\r\n\r\nonePUT /two HTTP/1.1\r\n"));
        assert!(written.ends_with("\r\n\r\n1\r\n2\r\n0\r\n\r\n"));
    });
}

#[test]
fn an_upstream_that_does_not_read_is_silent() {
    let (near, _far) = tokio::io::duplex(1000);
    let error = run(async {
        let request = Request::put("/").body(Body::full(vec![b'a'; 2000]));
        let (parts, body) = request.unwrap().into_parts();
        let connection = Connection::new(near, READ_TIMEOUT, 1024);
        http1_exchange(connection, &parts, body, &wait())
            .await
            .err()
            .unwrap()
            .error
    });
    assert!(matches!(error, Error::Silent(after) if after == READ_TIMEOUT));
}

/// A body that is pending until the timer fires, and then ends.
struct Slow(Pin<Box<tokio::time::Sleep>>);

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        self.0.as_mut().poll(cx).map(|()| None)
    }
}

#[test]
fn a_slow_client_does_not_make_the_upstream_silent() {
    run(async {
        let (near, mut far) = tokio::io::duplex(4096);
        let body = Body::stream(Slow(Box::pin(tokio::time::sleep(5 * READ_TIMEOUT))));
        let (parts, body) = Request::put("/").body(body).unwrap().into_parts();
        let connection = Connection::new(near, READ_TIMEOUT, 1024);
        let start = tokio::time::Instant::now();
        let error = http1_exchange(connection, &parts, body, &wait())
            .await
            .err()
            .unwrap()
            .error;
        // The read timeout begins when the request is sent.
        assert!(matches!(error, Error::Silent(_)));
        assert!(start.elapsed() >= 6 * READ_TIMEOUT);
        let mut written = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut far, &mut written)
            .await
            .unwrap();
        assert!(written.ends_with("\r\n\r\n0\r\n\r\n"));
    });
}
