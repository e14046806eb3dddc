//! Well-formed responses, and responses that are cut at every byte.

use http::{Version, header};

use super::*;

const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello world";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;n=v\r\nhello \r\n5\r\nworld\r\n0\r\nX-T: 1\r\n\r\n";
const CLOSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello world";

fn cut_off(response: &str, at: usize) -> &str {
    response.split_at(at).0
}

#[test]
fn a_body_with_a_length_is_complete_and_its_connection_reusable() {
    let received = get([LENGTH], After::Silence).unwrap();
    assert_eq!(
        (received.body.as_slice(), received.is_pooled),
        (&b"hello world"[..], true)
    );
    assert_eq!(received.parts.headers[header::CONTENT_LENGTH], "11");
    let repeated: Vec<_> = received.parts.headers.get_all("x-a").iter().collect();
    assert_eq!(repeated, ["1", "2"]);
}

#[test]
fn a_chunked_body_is_decoded_and_its_connection_reusable() {
    let received = get([CHUNKED], After::Silence).unwrap();
    assert_eq!(
        (received.body.as_slice(), received.is_pooled),
        (&b"hello world"[..], true)
    );
    assert!(
        !received
            .parts
            .headers
            .contains_key(header::TRANSFER_ENCODING)
    );
}

#[test]
fn white_space_before_a_chunk_extension_is_skipped() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = "5 ;a\r\nhello\r\n6\t \t; b = \"c\" ;d\r\n world\r\n0 ;e\r\n\r\n";
    for parts in [
        vec![format!("{head}{chunks}")],
        vec![head.to_owned(), chunks.to_owned()],
    ] {
        let received = get(parts, After::Silence).unwrap();
        assert_eq!(
            (received.body.as_slice(), received.is_pooled),
            (&b"hello world"[..], true)
        );
    }
}

#[test]
fn the_end_of_the_stream_ends_a_body_without_framing() {
    let received = get([CLOSE], After::End).unwrap();
    assert_eq!(received.body, b"hello world");
    assert!(received.error.is_none() && !received.is_pooled);
    let old = get(
        ["HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhi"],
        After::End,
    )
    .unwrap();
    assert_eq!(
        (old.parts.version, old.body.as_slice()),
        (Version::HTTP_10, &b"hi"[..])
    );
}

#[test]
fn every_cut_is_detected() {
    for response in [LENGTH, CHUNKED] {
        for (cut, after) in
            (0..response.len()).flat_map(|it| [(it, After::End), (it, After::Reset)])
        {
            match get([cut_off(response, cut)], after) {
                Err(error) => assert!(matches!(error, Error::Closed(_)), "{cut}: {error:?}"),
                Ok(received) => {
                    assert!(
                        matches!(received.error, Some(Error::Closed(_))),
                        "cut at {cut}"
                    );
                    assert!(b"hello world".starts_with(&received.body) && !received.is_pooled);
                }
            }
        }
    }
}

#[test]
fn a_cut_of_an_unframed_body_is_detected_only_with_a_reset() {
    let head = CLOSE.find("hello").unwrap();
    for cut in 0..CLOSE.len() {
        match get([cut_off(CLOSE, cut)], After::End) {
            Err(error) => assert!(cut < head && matches!(error, Error::Closed(_))),
            Ok(received) => assert_eq!(received.body, cut_off(CLOSE, cut).as_bytes()[head..]),
        }
        let reset = get([cut_off(CLOSE, cut)], After::Reset);
        assert!(
            reset.map_or(true, |received| received.error.is_some()),
            "{cut}"
        );
    }
}

#[test]
fn a_response_in_two_reads_is_the_same() {
    for response in [LENGTH, CHUNKED, CLOSE] {
        for cut in 1..response.len() {
            let received = get(<[_; 2]>::from(response.split_at(cut)), After::End).unwrap();
            assert_eq!(received.body, b"hello world", "split at {cut}");
            assert!(received.error.is_none());
        }
    }
}

#[test]
fn bytes_before_a_cut_are_returned() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let received = get([head, "first", "second"], After::End).unwrap();
    assert_eq!(received.body, b"firstsecond");
    assert!(matches!(received.error, Some(Error::Closed(_))));
}

#[test]
fn silence_is_an_error_in_the_head_and_in_the_body() {
    let before = get(["HTTP/1.1 200 OK\r\nContent-"], After::Silence);
    assert!(matches!(before.err(), Some(Error::Silent(after)) if after == READ_TIMEOUT));
    let within = get([cut_off(LENGTH, LENGTH.len() - 1)], After::Silence).unwrap();
    assert_eq!(within.body, b"hello worl");
    assert!(matches!(within.error, Some(Error::Silent(_))));
}

#[test]
fn a_bounded_number_of_interim_responses_is_skipped() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let some = format!(
        "HTTP/1.1 100 Continue\r\n\r\n{}{LENGTH}",
        interim.repeat(15)
    );
    let received = get([&some], After::Silence).unwrap();
    assert_eq!(
        (received.body.as_slice(), received.is_pooled),
        (&b"hello world"[..], true)
    );
    assert!(!received.parts.headers.contains_key(header::LINK));
    let pieces = some.as_bytes().chunks(1);
    assert_eq!(get(pieces, After::Silence).unwrap().body, b"hello world");
    let many = get([format!("{}{LENGTH}", interim.repeat(17))], After::Silence);
    assert!(matches!(many.err(), Some(Error::Malformed(_))));
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let cases = [
        (Method::HEAD, "200 OK", Some("5")),
        (Method::GET, "304 Not Modified", Some("5")),
        (Method::GET, "204 No Content", None),
    ];
    for (method, status, length) in cases {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
        let received = response_to(method.clone(), Wire::new([&head], After::Silence)).unwrap();
        assert!(received.body.is_empty() && received.is_pooled, "{status}");
        let declared = received.parts.headers.get(header::CONTENT_LENGTH);
        assert_eq!(declared.map(|it| it.to_str().unwrap()), length, "{status}");
        // Bytes after such a head would be taken for the response to the next request.
        let more = Wire::new([format!("{head}hello")], After::Silence);
        let received = response_to(method, more).unwrap();
        assert!(received.body.is_empty() && !received.is_pooled, "{status}");
    }
}

#[test]
fn bytes_after_a_response_are_dropped_with_the_connection() {
    for response in [LENGTH, CHUNKED] {
        let extra = format!("{response}HTTP/1.1 200 OK\r\n\r\n");
        let (head, rest) = extra.split_at(response.find("\r\n\r\n").unwrap() + 4);
        for pieces in [vec![extra.as_str()], vec![head, rest]] {
            let received = get(pieces, After::Silence).unwrap();
            assert_eq!(received.body, b"hello world");
            assert!(received.error.is_none() && !received.is_pooled);
        }
    }
}

#[test]
fn a_connection_is_reusable_only_if_the_upstream_keeps_it_open() {
    let kept = |version: &str, connection: &str| {
        let response = format!(
            "HTTP/{version} 200 OK\r\nContent-Length: 0\r\nConnection: {connection}\r\n\r\n"
        );
        get([response], After::Silence).unwrap().is_pooled
    };
    assert!(kept("1.1", "keep-alive"));
    assert!(!kept("1.1", "close"));
    assert!(!kept("1.1", "x\r\nconnection: keep-alive , CLOSE"));
    assert!(!kept("1.0", "keep-alive"));
}

#[test]
fn size_hints_are_exact_where_the_size_is_known() {
    run(async {
        let hint_of = async |pieces: &[&str]| {
            let wire = Wire::new(pieces, After::Silence);
            let exchanged = exchange(wire, Method::GET, Body::empty()).await;
            exchanged.ok().unwrap().1.size_hint()
        };
        let (head, _) = LENGTH.split_at(LENGTH.len() - 11);
        assert_eq!(hint_of(&[head]).await.exact(), Some(11));
        assert_eq!(hint_of(&[LENGTH]).await.exact(), Some(11));
        assert_eq!(hint_of(&[CHUNKED]).await.exact(), Some(11));
        let open = hint_of(&[cut_off(CHUNKED, 60)]).await;
        assert_eq!((open.exact(), open.upper()), (None, None));
        assert_eq!(hint_of(&[CLOSE]).await.lower(), 11);
    });
}

/// Over HTTP/2, a client that does not read has many responses that wait for it, and none of them holds a permit of the upstream.
#[test]
fn a_small_response_keeps_no_buffer_while_it_waits_for_its_client() {
    let kept = || crate::buffer_pool::kept().0;
    for (size, used) in [(11, 0), (20_000, 1)] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        run(async {
            let wire = Wire::new(
                [[head.into_bytes(), vec![b'a'; size]].concat()],
                After::Silence,
            );
            let exchanged = exchange(wire, Method::GET, Body::empty()).await;
            let response = exchanged.ok().unwrap();
            assert!(response.1.is_received());
            let while_held = kept();
            drop(response);
            assert_eq!(kept() - while_held, used, "{size}");
        });
    }
}

#[test]
fn a_large_frame_keeps_its_buffer_and_a_small_one_is_copied() {
    let kept = || crate::buffer_pool::kept().1;
    for (size, used) in [(1000, 0), (70_000, 1)] {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n".to_vec();
        run(async {
            let wire = Wire::new([head, vec![b'a'; size]], After::Silence);
            let exchanged = exchange(wire, Method::GET, Body::empty()).await;
            let mut reader = exchanged.ok().unwrap().1;
            let data = std::future::poll_fn(|cx| reader.poll_data(cx)).await;
            let data = data.unwrap().unwrap();
            assert_eq!(data.len(), size);
            let while_held = kept();
            drop(data);
            assert_eq!(kept() - while_held, used, "{size}");
        });
    }
}

#[test]
fn the_fields_of_a_response_do_not_keep_the_buffer_of_its_head() {
    let kept = || crate::buffer_pool::kept().0;
    for response in [LENGTH, "HTTP/1.1 204 No Content\r\nETag: \"a\"\r\n\r\n"] {
        let before = kept();
        let received = get([response], After::Silence).ok().unwrap();
        assert!(!received.parts.headers.is_empty());
        assert_eq!(kept(), before.max(1), "the buffer is back in the pool");
    }
}
